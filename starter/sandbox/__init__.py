"""The outside world, played over HTTP: every channel, carrier and warehouse system, for demos and tests."""
