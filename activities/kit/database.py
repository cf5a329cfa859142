"""The connections to PostgreSQL: one transaction a step."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from models.settings import settings

_engines: dict[str, AsyncEngine] = {}
"""One pool for transactions, one whose connections commit each statement: switching a connection over costs more."""


def sqlalchemy_url(url: str) -> str:
    """Any ``postgresql://`` URL, spoken through psycopg 3."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in {"postgresql", "postgres"}:
        raise ValueError("HENGDAN_DATABASE_URL: expected postgresql://user:password@host:port/name")
    return f"postgresql+psycopg://{rest}"


def engine(isolation: Literal["READ COMMITTED", "AUTOCOMMIT"] = "READ COMMITTED") -> AsyncEngine:
    """This process's pool of such connections. Raises ``ValueError`` where no database is set."""
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
    """A connection whose work commits together, or not at all."""
    async with engine().begin() as connection:
        yield connection


@asynccontextmanager
async def at_once() -> AsyncIterator[AsyncConnection]:
    """A connection whose every statement commits by itself: for one statement, two journeys fewer."""
    async with engine("AUTOCOMMIT").connect() as connection:
        yield connection


async def dispose() -> None:
    """Closes the pools; the next use opens new ones."""
    while _engines:
        await _engines.popitem()[1].dispose()
