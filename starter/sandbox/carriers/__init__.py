"""Twins of the carriers, one module each."""
