"""What several systems of one vendor share."""
