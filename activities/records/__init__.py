"""What people read about orders: timeline, exceptions and queries."""
