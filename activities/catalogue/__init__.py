"""Locations, SKUs and their mappings."""
