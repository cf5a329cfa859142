"""What follows when an order goes wrong or comes back."""
