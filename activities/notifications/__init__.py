"""Messages to buyers, staff and subscribers."""
