"""Connections to PostgreSQL: one transaction for each step."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import psycopg
from psycopg.types.string import StrDumperUnknown
from pydantic import ValidationError
from sqlalchemy import Row, func, select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import SQLAlchemyError as DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from models.settings import settings
from models.vault import SealBroken

__all__ = [
    "Connection",
    "DataError",
    "DatabaseError",
    "DatabaseUnavailable",
    "IntegrityError",
    "LockLost",
    "ReadOnlyDatabase",
    "Row",
    "advisory_lock",
    "at_once",
    "check_writable",
    "dispose",
    "engine",
    "is_passing",
    "is_permanent",
    "lock_idle_seconds",
    "sqlalchemy_url",
    "transaction",
]

Connection = AsyncConnection
DatabaseUnavailable = (OperationalError, InternalError, InterfaceError, PoolTimeout)
"""PostgreSQL is unreachable, restarting, out of disk, read-only or out of connections: try again later."""

_PASSING = frozenset({"08", "25", "40", "53", "55", "57", "58", "XX"})
"""SQLSTATE classes of what passes by itself: connections, transactions, locks, resources, the server.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""
_RACES = frozenset({"23503", "23505"})
"""Constraints that a concurrent transaction may have violated; repeating sees its rows."""


def is_passing(error: BaseException) -> bool:
    """Whether the error says nothing of the content: the same statements may succeed later."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        if state is None:
            return isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError)
        return state[:2] in _PASSING
    return isinstance(error, PoolTimeout | OSError)


def is_permanent(error: BaseException) -> bool:
    """Whether repeating would raise the error again: PostgreSQL, Pydantic, an encoding or a seal refuses it."""
    if isinstance(error, DBAPIError):
        return not is_passing(error) and getattr(error.orig, "sqlstate", None) not in _RACES
    return isinstance(error, ValidationError | UnicodeError | SealBroken)


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:u0000|.)")


def _storable(text: str) -> str:
    """Return the text with U+FFFD for each character that PostgreSQL cannot store: NUL and lone surrogates."""
    return _UNSTORABLE.sub("\ufffd", text)


def _storable_json(value: Any) -> str:
    """Encode a value of a JSON column, without what PostgreSQL cannot store."""
    text = _UNSTORABLE.sub("\ufffd", json.dumps(value, ensure_ascii=False))
    if "u0000" in text:
        text = _ESCAPE.sub(lambda found: "\ufffd" if found[0] == "\\u0000" else found[0], text)
    return text


class _StorableText(StrDumperUnknown):
    """Binds every text as ``_storable``, so that no text from outside can fail a statement."""

    def dump(self, obj: str) -> Any:
        return super().dump(_storable(obj))


psycopg.adapters.register_dumper(str, _StorableText)

_engines: dict[str, AsyncEngine] = {}
"""One pool for transactions and one for autocommit, because switching a connection's mode costs round trips."""


def sqlalchemy_url(url: str) -> str:
    """Return a ``postgresql://`` URL for psycopg 3. Raise ``ValueError`` for any other URL."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in {"postgresql", "postgres"}:
        raise ValueError("HENGDAN_DATABASE_URL: expected postgresql://user:password@host:port/name")
    return f"postgresql+psycopg://{rest}"


def engine(isolation: Literal["READ COMMITTED", "AUTOCOMMIT"] = "READ COMMITTED") -> AsyncEngine:
    """Return this process's pool for an isolation level. Raise ``ValueError`` if no database is configured."""
    if isolation not in _engines:
        url = settings().database_url
        if url is None:
            raise ValueError("HENGDAN_DATABASE_URL must be set (`hengdan up` serves an embedded PostgreSQL)")
        _engines[isolation] = create_async_engine(
            sqlalchemy_url(url.get_secret_value()),
            isolation_level=isolation,
            pool_size=12,
            max_overflow=0,
            pool_recycle=1800,
            pool_pre_ping=True,  # after a restart of PostgreSQL the pool's connections are closed
            hide_parameters=True,
            json_serializer=_storable_json,
        )
    return _engines[isolation]


@asynccontextmanager
async def transaction() -> AsyncIterator[AsyncConnection]:
    """Open a connection whose statements commit together or not at all."""
    async with engine().begin() as connection:
        yield connection


@asynccontextmanager
async def at_once() -> AsyncIterator[AsyncConnection]:
    """Open a connection in autocommit mode, which saves two round trips for a single statement."""
    async with engine("AUTOCOMMIT").connect() as connection:
        yield connection


_SPILL = text(
    "SELECT count(DISTINCT md5(number::text)) FROM generate_series(1, 8000) AS number"  # 250 kB, four times work_mem
)
_WRITE = text("SELECT pg_logical_emit_message(true, 'hengdan', 'writable')")


class ReadOnlyDatabase(Exception):
    """The database accepts no writes: it is a standby, or was set to read-only."""


async def check_writable() -> None:
    """Write to the database, and leave nothing there.

    A sort that spills to a temporary file needs free disk, as a new row does whose table is full; a message in the
    write-ahead log is committed as a row is. Raise ``DatabaseError``, ``OSError`` or ``ReadOnlyDatabase`` if a row
    could not be written.
    """
    async with transaction() as connection:
        if (await connection.scalar(text("SELECT current_setting('transaction_read_only')"))) != "off":
            raise ReadOnlyDatabase
        await connection.execute(text("SET LOCAL work_mem = '64kB'"))
        await connection.execute(_SPILL)
        await connection.execute(_WRITE)


class LockLost(Exception):
    """The session that took an advisory lock no longer holds it."""


_HOLDER = text(
    "SELECT pid = pg_backend_pid() AS mine, extract(epoch FROM clock_timestamp() - state_change) AS idle"
    " FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND (classid, objid, objsubid) = (0, :key, 1)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class AdvisoryLock:
    """A lock that a session of PostgreSQL holds."""

    def __init__(self, connection: AsyncConnection, key: int) -> None:
        self._connection = connection
        self._key = key

    async def check(self) -> None:
        """Raise ``LockLost``, or ``DatabaseError`` if the connection is gone, unless the lock is still held."""
        holder = (await self._connection.execute(_HOLDER, {"key": self._key})).first()
        if holder is None or not holder.mine:
            raise LockLost


@asynccontextmanager
async def advisory_lock(key: int) -> AsyncIterator[AdvisoryLock]:
    """Hold an advisory lock, trying once a second while another process holds it.

    A lock ends with its connection: the holder calls ``check`` in each round of its work.
    """
    async with engine("AUTOCOMMIT").connect() as connection:
        try:
            while not (await connection.execute(select(func.pg_try_advisory_lock(key)))).scalar_one():  # noqa: ASYNC110
                await asyncio.sleep(1)
            yield AdvisoryLock(connection, key)
        finally:
            await connection.invalidate()  # in the pool the connection would keep the lock


async def lock_idle_seconds(key: int) -> float | None:
    """Return the seconds since the holder of an advisory lock last checked it; ``None`` if nobody holds it."""
    async with at_once() as connection:
        holder = (await connection.execute(_HOLDER, {"key": key})).first()
    return None if holder is None or holder.idle is None else float(holder.idle)


async def dispose() -> None:
    """Close the pools; the next use opens new ones."""
    while _engines:
        await _engines.popitem()[1].dispose()
