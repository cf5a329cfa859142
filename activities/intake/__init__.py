"""Messages from channels, carriers and warehouses, from acknowledgement to effect."""
