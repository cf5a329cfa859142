"""The life: durable, deterministic processes, one module each."""
