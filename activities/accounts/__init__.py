"""Accounts with channels, carriers and warehouse systems; API keys."""
