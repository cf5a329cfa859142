"""API keys: who may come in, and for what."""

import hashlib
import secrets
from collections.abc import Collection
from datetime import UTC, datetime
from time import monotonic

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from activities.database import transaction
from models.access import ApiKeyRow, Scope
from models.base import Value

_PREFIX = "hd_"
_CACHE_SECONDS = 5.0
_cache: dict[str, "tuple[float, Visitor]"] = {}


class Visitor(Value):
    """Who holds a key: its name is the actor of every act."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Staff may read whatever readers may."""
        return scope in self.scopes or (scope is Scope.READ and Scope.STAFF in self.scopes)


async def create_key(name: str, scopes: Collection[Scope]) -> str:
    """Makes a key and shows it this once: only its hash is kept. A name again gets a new key in place of the old."""
    key = _PREFIX + secrets.token_urlsafe(32)
    made = insert(ApiKeyRow).values(
        hash=_hash(key), name=name, scopes=sorted(scopes), created_at=datetime.now(UTC), revoked_at=None
    )
    renewed = {field: getattr(made.excluded, field) for field in ("hash", "scopes", "created_at", "revoked_at")}
    async with transaction() as connection:
        await connection.execute(made.on_conflict_do_update(index_elements=["name"], set_=renewed))
    return key


async def visitor(key: str) -> Visitor | None:
    """Who holds this key, as of five seconds ago at most."""
    hashed = _hash(key)
    cached = _cache.get(hashed)
    if cached is not None and monotonic() - cached[0] < _CACHE_SECONDS:
        return cached[1]
    query = select(ApiKeyRow).where(ApiKeyRow.hash == hashed, ApiKeyRow.revoked_at.is_(None))  # type: ignore[arg-type, union-attr]
    async with transaction() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    found = Visitor(name=row.name, scopes=frozenset(Scope(scope) for scope in row.scopes))
    _cache[hashed] = (monotonic(), found)
    return found


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
