"""Reissues and settlements after a delivery failed."""
