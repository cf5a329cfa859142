"""Stored histories, replayed on the present workflows. A change that breaks running orders fails here."""

from models.vault import Keyring

RING = Keyring({"test": bytes(32)}, bytes(32))
"""The keys that seal the histories. They are not secret: the people in the histories are invented."""
KEYS, INDEX_KEY = "test:" + "A" * 43 + "=", "A" * 43 + "="
