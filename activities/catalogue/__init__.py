"""Locations, SKUs and SKU mappings."""
