"""Messages from the outside world, from acknowledgement to effect."""
