"""Workflows on the time-skipping server, with a real database and external systems simulated over HTTP."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from sys import executable

import pytest
from httpx import AsyncClient
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.kit import http
from activities.kit.database import transaction
from activities.stock import operations
from models.intake import AccountRow, IntegrationType, Secrets
from models.search_attributes import SEARCH_ATTRIBUTES
from models.vault import seal_row
from starter.sandbox import merchant, warehouse
from starter.sandbox.app import create_app
from starter.sandbox.carriers import sf, yto
from tests.serving import served
from tests.workflow.harness import Harness
from workers.client import data_converter
from workers.embedded import Temporal
from workers.main import worker


@pytest.fixture(scope="session")
def sandbox() -> Iterator[str]:
    """Serve the sandbox of external systems; return its base URL."""
    with served(create_app()) as url:
        yield url


@pytest.fixture(scope="session")
async def time_skipping() -> AsyncIterator[WorkflowEnvironment]:
    server = Path(executable).with_name("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=str(server)) as environment:
        types = {
            name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{re.sub('(?<=[a-z])(?=[A-Z])', '_', kind).upper()}")
            for name, kind in SEARCH_ATTRIBUTES.items()
        }
        request = AddSearchAttributesRequest(namespace="default", search_attributes=types)
        await environment.client.operator_service.add_search_attributes(request)
        yield environment


@pytest.fixture
async def stocked(database: str, sandbox: str) -> AsyncIterator[str]:
    """Create a catalogue, accounts and ten units of each SKU at each warehouse; return the sandbox's base URL."""
    async with transaction() as connection:
        await merchant.seed(connection)
        await _open_accounts(connection, sandbox)
        for warehouse in ("SH", "GZ"):
            for sku in ("A001", "A002", "A003"):
                await operations.receive(connection, warehouse, sku, 10, f"{warehouse}{sku}", "test")
    async with AsyncClient(base_url=sandbox) as world:
        config = {"api_url": "http://127.0.0.1:9", "api_key": "", "auto": False}
        (await world.post("/warehouse/_control/config", json=config)).raise_for_status()
        await world.delete("/_faults")
    yield sandbox
    await http.close()


@pytest.fixture
async def harness(stocked: str, time_skipping: WorkflowEnvironment) -> AsyncIterator[Harness]:
    """Run orders on a worker that sandboxes workflows."""
    client = Client(**{**time_skipping.client.config(), "data_converter": data_converter()})
    restrictions = SandboxRestrictions.default.with_passthrough_modules(
        "models", "activities", "sqlmodel", "sqlalchemy", "pydantic", "babel"
    )
    async with worker(client, runner=SandboxedWorkflowRunner(restrictions=restrictions)):
        harness = Harness(client, time_skipping, stocked)
        yield harness
    await harness.terminate()


@pytest.fixture
async def manual_harness(stocked: str, temporal_server: Temporal) -> Harness:
    """Run orders on the real server. The test starts and stops workers itself."""
    client = await Client.connect(temporal_server.address, data_converter=data_converter())
    return Harness(client, WorkflowEnvironment.from_client(client), stocked)


async def _open_accounts(connection: AsyncConnection, sandbox: str) -> None:
    rows = [
        (IntegrationType.CHANNEL, "own", "web", f"{sandbox}/own/web", {"secret": "whisper"}),
        (IntegrationType.CARRIER, "sf", "default", f"{sandbox}/sf", {**sf.SECRETS, "push_secret": "p"}),
        (IntegrationType.CARRIER, "yto", "default", f"{sandbox}/yto/open", {**yto.SECRETS, "push_secret": "p"}),
    ]
    for each in merchant.WAREHOUSES:
        rows.append(
            (
                IntegrationType.WAREHOUSE,
                "wms",
                each.code,
                f"{sandbox}/warehouse/{each.code}",
                {"secret": warehouse.SECRET},
            )
        )
    for integration, source, account, base_url, secrets in rows:
        await connection.execute(
            insert(AccountRow).values(
                seal_row(
                    AccountRow,
                    dict(
                        integration=integration,
                        source=source,
                        account=account,
                        base_url=base_url,
                        secrets=Secrets(values=secrets),
                        settings={},
                    ),
                )
            )
        )
