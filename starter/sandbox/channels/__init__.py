"""Twins of the channels, one module each."""
