"""The HTTP API in the event loop of the test, and signed messages of a shop."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, TypeVar

import httpx
import uvicorn
from sqlalchemy import insert, select
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from activities.accounts.api_keys import create_key
from activities.kit import signing
from activities.kit.database import transaction
from models.api_keys import Scope
from models.intake import AccountRow, InboxRow, IntegrationType, Secrets
from models.vault import seal_row
from starter.api import create_app
from tests.unit.payloads import own_order

SECRET = "whisper"
PHONE = "13800138000"
"""The recipient's, in ``sale``."""

Found = TypeVar("Found")
_numbers = count(1)
_changes = count(1)


@asynccontextmanager
async def open_door() -> AsyncIterator[httpx.AsyncClient]:
    """Serve the API with its dispatcher; yield a client."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        config = uvicorn.Config(create_app(), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20
            ) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


async def bearer(*scopes: Scope, name: str = "") -> dict[str, str]:
    """Create a key with these scopes; return its header."""
    name = name or "-".join(scopes) or "nobody"
    return {"Authorization": f"Bearer {await create_key(name, scopes)}"}


async def open_account(
    integration: IntegrationType,
    source: str,
    account: str,
    /,
    *,
    base_url: str = "",
    settings: Any = None,
    **secrets: str,
) -> None:
    async with transaction() as connection:
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
                        settings=settings or {},
                    ),
                )
            )
        )


def _total(order: dict[str, Any]) -> Decimal:
    """Return the sum of an order's parts: one that does not add up is held."""
    amounts = (
        Decimal(str(line["unit_price"])) * line["quantity"] - Decimal(str(line.get("discount", 0)))
        for line in order["lines"]
    )
    return max(sum(amounts, Decimal(order["freight"])) - Decimal(order["discount"]), Decimal(0))


def sale(number: str = "", **changes: Any) -> dict[str, Any]:
    """Return a paid order of the own site, new unless ``number`` is given; each call is a later change."""
    change = next(_changes)
    order = own_order() | {
        "event_id": f"evt_{change}",
        "order_no": number or f"T{datetime.now(UTC):%H%M%S%f}{next(_numbers)}",
        "updated_at": (datetime.now(UTC) + timedelta(milliseconds=change)).isoformat(),
        "urgent": False,
    }
    order |= changes
    if "total" not in changes:
        with suppress(KeyError, TypeError, ArithmeticError):
            order["total"] = str(_total(order))
    return order


async def tell(
    door: httpx.AsyncClient, order: dict[str, Any] | bytes, shop: str = "web", **headers: str
) -> httpx.Response:
    """Sign and send an order of the own site."""
    body = order if isinstance(order, bytes) else json.dumps(order, ensure_ascii=False).encode()
    return await door.post(
        f"/channels/own/{shop}/webhook", content=body, headers={**signing.signed_headers(SECRET, body), **headers}
    )


async def rows(**columns: Any) -> list[Any]:
    """Return messages of the inbox with these values, oldest first."""
    query = select(InboxRow).order_by(InboxRow.id).filter_by(**columns)  # type: ignore[arg-type]
    async with transaction() as connection:
        return list((await connection.execute(query)).all())


async def until(look: Callable[[], Awaitable[Found]], seconds: float = 60) -> Found:
    """Wait until ``look`` returns something true, and return it."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


async def runs(client: Client, order_id: str) -> str:
    """Return the status of a workflow once it has started: its message is marked just before."""

    async def described() -> WorkflowExecutionStatus | None:
        with suppress(RPCError):
            return (await client.get_workflow_handle(order_id).describe()).status
        return None

    return (await until(described)).name
