"""What every test may lean on: the real servers, one of each a test process."""

from collections.abc import Iterator

import pytest

from models.order import SEARCH_ATTRIBUTES
from workers.embedded import Postgres, Temporal, start_postgres, start_temporal


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
