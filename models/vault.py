"""Keys, sealing and blind indexes: authenticated encryption (AES-256-GCM) with key rotation.

A sealed value is ``len(key id) ‖ key id ‖ 12-byte nonce ‖ ciphertext and tag``. Its context is authenticated with it:
the column, such as ``orders.recipient``, and the key of the row, so that a value moved to another column or row does
not open. ``seal_row`` binds values to their row on writing; every ``SELECT`` and ``RETURNING`` of a sealed column reads
the row's key with it.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel
from sqlalchemy import ColumnElement, Dialect, LargeBinary, Table, Text, cast, func, inspect, type_coerce
from sqlalchemy.types import TypeDecorator

from models.settings import settings

log = logging.getLogger(__name__)

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

    def holds(self, key_id: str) -> bool:
        """Return whether the ring can open what this key sealed."""
        return key_id in self._ciphers

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


Opened = TypeVar("Opened")


@lru_cache(maxsize=1)
def keyring() -> Keyring:
    """Return the ring of this process. Raise ``ValueError`` if no keys are set."""
    keys, index_key = settings().keys, settings().index_key
    if keys is None or index_key is None:
        raise ValueError("HENGDAN_KEYS and HENGDAN_INDEX_KEY must be set (`hengdan up` creates them on first start)")
    return Keyring.parse(keys.get_secret_value(), index_key.get_secret_value())


class BrokenSeal:
    """Stands for a value of a row that does not open: whoever uses it gets ``SealBroken``, other rows are unharmed."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise SealBroken(self._reason)


def readable(value: Opened) -> Opened | None:
    """Return a value of a row that is read among others; ``None`` if its seal is broken, which harms only its row."""
    return None if isinstance(value, BrokenSeal) else value


class Sealed(TypeDecorator[BaseModel]):
    """A column that stores a Pydantic value sealed, used for everything personal or secret.

    ``column`` is ``table.column``. ``key`` names the columns of the table that identify the row for good and are known
    when it is written. The column takes what ``seal_row`` returns, and gives the value, or a ``BrokenSeal``.
    """

    impl = LargeBinary
    cache_ok = True

    def __init__(self, model: type[BaseModel], column: str, key: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.column = column
        self.key = key

    def context(self, key: Sequence[str | int]) -> str:
        """Return the context of the value in the row with this key."""
        return json.dumps([self.column, *key])

    def seal(self, value: BaseModel, row: Mapping[str, Any]) -> bytes:
        """Seal a value for its row. Raise ``KeyError`` where a column of the key is missing."""
        context = self.context([row[name] for name in self.key])
        return keyring().seal(value.model_dump_json().encode(), context)

    def process_bind_param(self, value: BaseModel | bytes | None, dialect: Dialect) -> bytes | None:
        if not isinstance(value, bytes | None):
            raise TypeError(f"{self.column}: bind the value to its row by seal_row")
        return value

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read the row's key, as JSON and NUL, before the sealed value."""
        columns = column.table.c
        key = func.convert_to(cast(func.json_build_array(*(columns[name] for name in self.key)), Text), "UTF8")
        return func.byteacat(func.byteacat(key, type_coerce(b"\0", LargeBinary)), column, type_=self)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        key, _, sealed = bytes(value).partition(b"\0")
        try:
            return self.model.model_validate_json(keyring().open(sealed, self.context(json.loads(key))))
        except SealBroken as error:
            log.error("%s", error)
            return BrokenSeal(str(error))


def seal_row(table: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row with those of sealed columns bound to it. ``table`` is a table or its model.

    ``row`` names the row's key, also where only other columns change. Raise ``KeyError`` where it does not.
    """
    columns = (table if isinstance(table, Table) else inspect(table).local_table).c
    return {
        name: kind.seal(value, row) if isinstance(kind := columns[name].type, Sealed) and value is not None else value
        for name, value in row.items()
    }
