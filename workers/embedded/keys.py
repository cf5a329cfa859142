"""The keys of the embedded default, made on first start."""

import base64
import secrets
from pathlib import Path
from typing import NamedTuple

from workers.embedded.process import kept, private_folder


class Keys(NamedTuple):
    """``HENGDAN_KEYS`` and ``HENGDAN_INDEX_KEY``."""

    keys: str
    index_key: str


def load_keys(state_dir: Path) -> Keys:
    """The key ring and the index key of a state directory. Without them the sealed data cannot be read again."""
    folder = private_folder(state_dir)
    return Keys(kept(folder / "keys", f"k1:{_random_key()}"), kept(folder / "index-key", _random_key()))


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()
