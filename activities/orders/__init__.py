"""The steps of an order on our own database."""
