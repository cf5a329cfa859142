"""Stored histories, replayed on the present workflows: a change that breaks running orders fails here."""

from models.vault import Keyring

RING = Keyring({"test": bytes(32)}, bytes(32))
"""What the histories are sealed with: no secret, they tell of invented people."""
KEYS, INDEX_KEY = "test:" + "A" * 43 + "=", "A" * 43 + "="
