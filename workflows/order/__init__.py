"""The order workflow."""
