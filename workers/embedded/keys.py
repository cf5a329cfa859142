"""The keys of the embedded default, made on first start."""

import base64
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from workers.embedded.process import private_folder


class Keys(NamedTuple):
    """``HENGDAN_KEYS`` and ``HENGDAN_INDEX_KEY``."""

    keys: str
    index_key: str


def load_keys(state_dir: Path) -> Keys:
    """The key ring and the index key of a state directory. Without them the sealed data cannot be read again."""
    folder = private_folder(state_dir)
    return Keys(_kept(folder / "keys", f"k1:{_random_key()}"), _kept(folder / "index-key", _random_key()))


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _kept(path: Path, fresh: str) -> str:
    """The text of the file, at first ``fresh``: whole and on disk before anyone can read it, one for all who race."""
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:
            draft.write(fresh)
            draft.flush()
            os.fsync(draft.fileno())
            with suppress(FileExistsError):
                os.link(draft.name, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path.read_text().strip()
