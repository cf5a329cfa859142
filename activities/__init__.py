"""Every effect on the database and the outside world, one room per capability."""
