"""Warehouse systems: one file a system, each the whole adapter."""
