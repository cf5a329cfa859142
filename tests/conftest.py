"""What every test may lean on: the real servers, one of each a test process, and for each test its own database."""

import os
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from time import sleep

import psycopg
import pytest
import structlog
from psycopg.sql import SQL, Identifier

from activities.accounts import accounts
from activities.kit.database import dispose
from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import settings
from models.vault import keyring
from workers.embedded import Postgres, Temporal, load_keys, start_postgres, start_temporal
from workers.schema import migrate

os.environ["HENGDAN_PRIVATE_HOSTS"] = '["127.0.0.1", "localhost"]'
"""The sandbox and other servers of the tests are on this machine."""

_numbers = count(1)


@pytest.fixture(autouse=True)
def _fresh_logging() -> Iterator[None]:
    """Undo what the command line configured: its log goes to a stream that ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The embedded PostgreSQL, not durable."""
    options = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    with start_postgres(tmp_path_factory.mktemp("postgres"), options=options) as server:
        yield server


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Temporal]:
    """The embedded Temporal with our search attributes, on free ports and without its UI."""
    folder = tmp_path_factory.mktemp("temporal")
    with start_temporal(folder, search_attributes=SEARCH_ATTRIBUTES, ui=False, port=0) as server:
        yield server


def new_database(server: Postgres, name: str, template: str = "template1") -> str:
    """Makes a database on the server; its URL."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
    return f"{server.url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def migrated(postgres_server: Postgres) -> str:
    """The name of an empty database with the newest schema, to be copied."""
    migrate(new_database(postgres_server, "migrated"))
    return "migrated"


@pytest.fixture
async def database(
    postgres_server: Postgres, migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """A fresh database with keys of its own, the one all our code sees during the test; its URL."""
    name = f"test_{next(_numbers)}"
    url = new_database(postgres_server, name, migrated)
    keys, index_key = load_keys(tmp_path / "keys")
    monkeypatch.setenv("HENGDAN_DATABASE_URL", url)
    monkeypatch.setenv("HENGDAN_KEYS", keys)
    monkeypatch.setenv("HENGDAN_INDEX_KEY", index_key)
    await _forget()
    yield url
    await _forget()
    _drop(postgres_server, name)


def _drop(server: Postgres, name: str) -> None:
    """Drops a database, or leaves it to the server's end: while autovacuum is in it, only the superuser may."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        for _ in range(10):
            try:
                connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))
            except psycopg.errors.InsufficientPrivilege:
                sleep(0.1)
            else:
                return


async def _forget() -> None:
    """What the process remembers of its surroundings."""
    settings.cache_clear()
    keyring.cache_clear()
    accounts.clear_cache()
    await dispose()
