"""API keys: authentication and scopes."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Table, select, update
from sqlalchemy.dialects.postgresql import insert

from activities.kit.database import transaction
from activities.kit.ttl_cache import TtlCache
from models.api_keys import ApiKeyRow, Scope
from models.base import Value

_PREFIX = "hd_"
_keys: Table = ApiKeyRow.__table__  # type: ignore[attr-defined]


class Principal(Value):
    """The holder of a key; the name is recorded as the actor."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope; ``staff`` includes ``read``."""
        return scope in self.scopes or (scope is Scope.READ and Scope.STAFF in self.scopes)


_cache: TtlCache[str, Principal | None] = TtlCache(5)


async def create_key(name: str, scopes: Collection[Scope]) -> str:
    """Create a key and return it; only its hash is stored. A key with the same name is replaced."""
    key = _PREFIX + secrets.token_urlsafe(32)
    statement = insert(ApiKeyRow).values(
        hash=_hash(key), name=name, scopes=sorted(scopes), created_at=datetime.now(UTC), revoked_at=None
    )
    values = {field: getattr(statement.excluded, field) for field in ("hash", "scopes", "created_at", "revoked_at")}
    async with transaction() as connection:
        await connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))
    _cache.clear()
    return key


async def find_principal(key: str) -> Principal | None:
    """Return the holder of a key, cached for five seconds."""
    return await _cache.get(_hash(key), lambda: _read(key))


async def _read(key: str) -> Principal | None:
    query = select(ApiKeyRow).where(ApiKeyRow.hash == _hash(key), ApiKeyRow.revoked_at.is_(None))  # type: ignore[arg-type, union-attr]
    async with transaction() as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else Principal(name=row.name, scopes=frozenset(Scope(scope) for scope in row.scopes))


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def list_keys() -> Sequence[Row[Any, Any, Any, Any]]:
    """Return name, scopes and times of every key, the revoked ones too."""
    query = select(_keys.c.name, _keys.c.scopes, _keys.c.created_at, _keys.c.revoked_at).order_by(_keys.c.name)
    async with transaction() as connection:
        return (await connection.execute(query)).all()


async def revoke_key(name: str) -> bool:
    """Revoke a key, which counts within five seconds; return whether there was one in force."""
    statement = update(_keys).where(_keys.c.name == name, _keys.c.revoked_at.is_(None))
    async with transaction() as connection:
        found = await connection.execute(statement.values(revoked_at=datetime.now(UTC)))
    _cache.clear()
    return bool(found.rowcount)
