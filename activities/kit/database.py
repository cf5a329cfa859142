"""Connections to PostgreSQL: one transaction for each step."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from sqlalchemy import Row, func, select
from sqlalchemy.exc import DataError as InvalidData
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import SQLAlchemyError as DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from models.settings import settings

__all__ = [
    "Connection",
    "DatabaseError",
    "DatabaseUnavailable",
    "InvalidData",
    "Row",
    "advisory_lock",
    "at_once",
    "dispose",
    "engine",
    "ping",
    "sqlalchemy_url",
    "transaction",
]

Connection = AsyncConnection
DatabaseUnavailable = (OperationalError, PoolTimeout)
"""PostgreSQL is unreachable or has no free connection: try again later."""

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
            hide_parameters=True,
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


async def ping() -> None:
    """Run an empty statement. Raise ``DatabaseError`` or ``OSError`` if the database is unavailable."""
    async with transaction() as connection:
        await connection.execute(select(1))


@asynccontextmanager
async def advisory_lock(key: int) -> AsyncIterator[None]:
    """Hold an advisory lock, trying once a second while another process holds it."""
    async with engine().connect() as connection:
        try:
            while not (await connection.execute(select(func.pg_try_advisory_lock(key)))).scalar_one():
                await connection.rollback()
                await asyncio.sleep(1)
            await connection.commit()
            yield
        finally:
            await connection.invalidate()  # in the pool the connection would keep the lock


async def dispose() -> None:
    """Close the pools; the next use opens new ones."""
    while _engines:
        await _engines.popitem()[1].dispose()
