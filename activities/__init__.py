"""The hands: every effect on the database and the outside world."""
