"""What people read: timelines, exceptions and queries."""
