"""The API for tests, with a real database, a real engine and an own-site shop."""

from collections.abc import AsyncIterator

import httpx
import pytest
from temporalio.client import Client

from models.intake import IntegrationType
from models.settings import settings
from tests.api import SECRET, open_account, open_door
from tests.integration.shelves import shelves, twins_of_merchant  # noqa: F401
from workers.client import connect
from workers.embedded import Temporal


@pytest.fixture
async def temporal(
    database: str, temporal_server: Temporal, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Client:
    """Connect to the engine, with a task queue of the test's own."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("HENGDAN_TASK_QUEUE", request.node.name)
    settings.cache_clear()
    return await connect()


@pytest.fixture
async def api(temporal: Client) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the API with its dispatcher and the own-site shop ``web``."""
    await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
    async with open_door() as client:
        yield client
