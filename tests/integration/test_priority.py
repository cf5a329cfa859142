"""Priority of urgent orders, and fairness between shops."""

import asyncio
from itertools import count

from sqlalchemy import select
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner

from activities.kit.database import transaction
from activities.stock import operations
from models.intake import IntegrationType
from models.order import NORMAL, URGENT, OrderRow, TimelineRow
from models.requests import Approve, Expedite
from starter import dispatcher
from starter.sandbox import merchant
from tests.api import SECRET, open_account, until
from tests.unit.orders import an_order
from workers.main import worker

BACKLOG = 500
AT_ONCE = 32
_numbers = count(1)
"""Tests share the engine: each uses its own order numbers."""


async def start_orders(client: Client, *orders: tuple[str, int]) -> list[str]:
    """Start orders (by shop and priority) while no worker runs; return their ids."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def start(shop: str, priority: int) -> str:
        async with gate:
            order = an_order(f"P{next(_numbers)}", shop=shop, priority=priority)
            await dispatcher.start_order(client, order)
            return order.order_id

    return list(await asyncio.gather(*(start(*each) for each in orders)))


async def handled_orders(client: Client, count: int) -> list[str]:
    """Return the orders in the sequence in which they were admitted and allocated."""
    query = select(TimelineRow.order_id).where(TimelineRow.what == "timeline.received").order_by(TimelineRow.number)
    async with worker(client, runner=UnsandboxedWorkflowRunner(), max_concurrent_workflow_tasks=4):
        for _ in range(1200):
            async with transaction() as connection:
                found = list(await connection.scalars(query))
            if len(found) >= count:
                return found
            await asyncio.sleep(0.1)
    raise AssertionError(f"only {len(found)} of {count}")


async def prepare() -> None:
    async with transaction() as connection:
        await merchant.seed(connection)
        await operations.receive(connection, "SH", "A001", 10_000, "opening", "test")
    for shop in ("web", "small"):
        await open_account(IntegrationType.CHANNEL, "own", shop, secret=SECRET)


async def test_urgent_order_overtakes_a_backlog_of_500(temporal: Client) -> None:
    await prepare()
    await start_orders(temporal, *[("web", NORMAL)] * BACKLOG)
    (urgent,) = await start_orders(temporal, ("web", URGENT))
    turn = (await handled_orders(temporal, 100)).index(urgent)
    assert turn < 20, turn


async def test_backlog_of_one_shop_does_not_delay_another(temporal: Client) -> None:
    await prepare()
    await start_orders(temporal, *[("web", NORMAL)] * 300)
    small = await start_orders(temporal, *[("small", NORMAL)] * 20)
    found = await handled_orders(temporal, 200)
    turns = sorted(found.index(each) for each in small if each in found)
    assert len(turns) == len(small), f"{len(turns)} of {len(small)} among the first {len(found)}"
    assert turns[len(turns) // 2] < 100, turns


async def test_activities_have_the_current_priority_of_their_order(temporal: Client) -> None:
    """Activities inherit the fairness key of their workflow."""
    await prepare()
    order = an_order(f"P{next(_numbers)}", buyer_message="先别发货")
    async with worker(temporal):
        await dispatcher.start_order(temporal, order)
        handle = temporal.get_workflow_handle(order.order_id)

        async def held() -> bool:
            async with transaction() as connection:
                return bool(await connection.scalar(select(OrderRow.holds).where(OrderRow.id == order.order_id)))  # type: ignore[arg-type]

        async def queued() -> int | None:
            async for event in handle.fetch_history_events():
                if event.HasField("activity_task_scheduled_event_attributes"):
                    return event.activity_task_scheduled_event_attributes.priority.priority_key
            return None

        await until(held)
        await handle.execute_update("expedite", Expedite(request_id="now"))
        await handle.execute_update("approve", Approve(request_id="yes"))
        assert await until(queued) == URGENT
