"""Keys, sealing and blind indexes: authenticated encryption (AES-256-GCM) with key rotation.

A sealed value is ``len(key id) ‖ key id ‖ 12-byte nonce ‖ ciphertext and tag``. Its context, such as
``orders.recipient``, is authenticated with it, so that a value moved to another column does not open.
"""

import base64
import hashlib
import hmac
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel
from sqlalchemy import Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator

from models.settings import settings

NONCE_BYTES = 12


class SealBroken(Exception):
    """The value was changed, moved, or sealed with a key that the ring does not hold."""


class Keyring:
    """Keys by id. The first seals, and each opens. ``index_key`` is used for blind indexes only."""

    def __init__(self, keys: dict[str, bytes], index_key: bytes) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.active = next(iter(keys))
        self._index_key = index_key

    @classmethod
    def parse(cls, keys: str, index_key: str) -> "Keyring":
        """Parse ``id:base64,id:base64`` and ``base64``. Raise ``ValueError`` on anything else."""
        ring: dict[str, bytes] = {}
        for entry in keys.split(","):
            key_id, colon, encoded = entry.strip().partition(":")
            key = base64.b64decode(encoded, validate=True) if colon else b""
            if not key_id or len(key) != 32:
                raise ValueError("HENGDAN_KEYS: expected id:base64 of 32 bytes, separated by commas")
            ring[key_id] = key
        index = base64.b64decode(index_key, validate=True)
        if len(index) != 32:
            raise ValueError("HENGDAN_INDEX_KEY: expected base64 of 32 bytes")
        return cls(ring, index)

    def seal(self, clear: bytes, context: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        key_id = self.active.encode()
        return (
            bytes([len(key_id)]) + key_id + nonce + self._ciphers[self.active].encrypt(nonce, clear, context.encode())
        )

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raise ``SealBroken`` if the value does not open."""
        head = 1 + sealed[0]
        cipher = self._ciphers.get(sealed[1:head].decode(errors="replace"))
        if cipher is None:
            raise SealBroken(f"no key {sealed[1:head]!r} in the ring")
        try:
            return cipher.decrypt(sealed[head : head + NONCE_BYTES], sealed[head + NONCE_BYTES :], context.encode())
        except InvalidTag:
            raise SealBroken(f"{context} does not open") from None

    def blind_index(self, text: str) -> str:
        """Return a keyed hash by which equal texts can be found, and from which no text can be recovered."""
        return hmac.new(self._index_key, text.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=1)
def keyring() -> Keyring:
    """Return the ring of this process. Raise ``ValueError`` if no keys are set."""
    keys, index_key = settings().keys, settings().index_key
    if keys is None or index_key is None:
        raise ValueError("HENGDAN_KEYS and HENGDAN_INDEX_KEY must be set (`hengdan up` creates them on first start)")
    return Keyring.parse(keys.get_secret_value(), index_key.get_secret_value())


class Sealed(TypeDecorator[BaseModel]):
    """A column that stores a Pydantic value sealed, used for everything personal or secret."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, model: type[BaseModel], context: str) -> None:
        super().__init__()
        self.model = model
        self.context = context

    def process_bind_param(self, value: BaseModel | None, dialect: Dialect) -> bytes | None:
        return None if value is None else keyring().seal(value.model_dump_json().encode(), self.context)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> BaseModel | None:
        return None if value is None else self.model.model_validate_json(keyring().open(bytes(value), self.context))
