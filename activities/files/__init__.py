"""Import and export of sheets."""
