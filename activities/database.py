"""The connection to PostgreSQL: one pool a process, one transaction a step."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from models.settings import settings

_engine: AsyncEngine | None = None


def sqlalchemy_url(url: str) -> str:
    """Any ``postgresql://`` URL, spoken through psycopg 3."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in {"postgresql", "postgres"}:
        raise ValueError("HENGDAN_DATABASE_URL: expected postgresql://user:password@host:port/name")
    return f"postgresql+psycopg://{rest}"


def engine() -> AsyncEngine:
    """This process's pool. Raises ``ValueError`` where no database is set."""
    global _engine
    if _engine is None:
        url = settings().database_url
        if url is None:
            raise ValueError("HENGDAN_DATABASE_URL must be set (`hengdan up` serves an embedded PostgreSQL)")
        _engine = create_async_engine(
            sqlalchemy_url(url.get_secret_value()),
            pool_size=20,
            max_overflow=0,
            pool_pre_ping=False,
            pool_recycle=1800,
            hide_parameters=True,
        )
    return _engine


@asynccontextmanager
async def transaction() -> AsyncIterator[AsyncConnection]:
    """A connection whose work commits together, or not at all."""
    async with engine().begin() as connection:
        yield connection


@asynccontextmanager
async def at_once() -> AsyncIterator[AsyncConnection]:
    """A connection whose every statement commits by itself: for one statement, two journeys fewer."""
    async with engine().connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


async def dispose() -> None:
    """Closes the pool; the next use opens a new one."""
    global _engine
    if _engine is not None:
        await _engine.dispose()
        _engine = None
