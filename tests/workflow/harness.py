"""Drives orders in tests: starts them, sends what warehouses and carriers report, and waits for results."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Any

import httpx
from sqlalchemy import select
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from activities.kit.database import transaction
from activities.stock import ledger, operations
from models import search_attributes
from models.exceptions import ExceptionRow
from models.fulfillment import Fulfillment, FulfillmentRow, TrackingStatus
from models.intake import InboxRow, IntegrationType
from models.order import ChannelOrder, OrderRow, OrderStatus, TimelineRow
from models.policy import Policy
from models.requests import Answer, Request, Tracking, WarehouseEvent, WarehouseEventKind
from models.settings import settings
from models.state import OrderInput, OrderState
from models.stock import Level
from workers.client import execute_request

_numbers = count(1)


def request_id() -> str:
    return f"r{next(_numbers)}"


class OrderRun:
    """One order under test."""

    def __init__(self, harness: "Harness", order: ChannelOrder, handle: WorkflowHandle[Any, OrderStatus]) -> None:
        self._harness = harness
        self.order = order
        self.handle = handle

    async def state(self) -> OrderState:
        return await self.handle.query("state", result_type=OrderState)

    async def until(self, *statuses: OrderStatus, next_step: str = "") -> OrderState:
        """Wait, without skipping time, until the order is in one of the statuses."""
        for _ in range(6000):
            state = await self.state()
            if state.status in statuses and next_step in state.next_step:
                return state
            await asyncio.sleep(0.02)
        raise AssertionError(
            f"{state.status} ({state.next_step}), not {[str(each) for each in statuses]}: {state.holds}"
        )

    async def next_dispatched(self, before: Sequence[Fulfillment]) -> Fulfillment:
        """Wait until another fulfillment order was released to its warehouse."""
        known = {each.id for each in before}
        for _ in range(6000):
            for each in (await self.state()).active:
                if each.id not in known and each.request_status == "submitted":
                    return each
            await asyncio.sleep(0.02)
        raise AssertionError("no other fulfillment order was released")

    async def dispatched(self) -> list[Fulfillment]:
        """Wait until every fulfillment order was released to its warehouse."""
        state = await self.until(OrderStatus.ALLOCATED, OrderStatus.PARTIALLY_SHIPPED, next_step="ship")
        while not all(each.request_status == "submitted" for each in state.active):
            await asyncio.sleep(0.02)
            state = await self.state()
        return state.active

    async def fulfillment(self, **expected: object) -> Fulfillment:
        """Wait until the order's one fulfillment order is as expected in the database; the workflow is not queried."""
        query = select(FulfillmentRow).where(FulfillmentRow.order_id == self.order.order_id)
        for _ in range(6000):
            async with transaction() as connection:
                row = (await connection.execute(query)).one_or_none()
            if row is not None and all(row._mapping[name] == value for name, value in expected.items()):
                return Fulfillment.model_validate(row._mapping)
            await asyncio.sleep(0.02)
        raise AssertionError(f"no fulfillment order with {expected}")

    async def ask(self, verb: str, request: Request) -> Answer:
        """Send a request as an update, and return the answer, refusals included."""
        try:
            return await execute_request(self.handle, verb, request)
        except WorkflowUpdateFailedError as error:
            if not isinstance(error.cause, ApplicationError):
                raise
            return Answer.model_validate(error.cause.details[0])

    async def event(self, fulfillment: Fulfillment, kind: WarehouseEventKind, **more: Any) -> None:
        at = await self._harness.now()
        event = WarehouseEvent(request_id=request_id(), fulfillment_id=fulfillment.id, kind=kind, at=at, **more)
        await self.handle.signal("warehouse_event", event)

    async def ship(self, *fulfillments: Fulfillment) -> None:
        for each in fulfillments:
            await self.event(each, WarehouseEventKind.SHIPPED, weight_kg="1.2")

    async def track(self, fulfillment: Fulfillment, status: TrackingStatus = TrackingStatus.DELIVERED) -> None:
        assert fulfillment.waybill_no
        at = await self._harness.now()
        seen = Tracking(request_id=request_id(), waybill_no=fulfillment.waybill_no, status=status, at=at)
        await self.handle.signal("tracking", seen)

    async def deliver(self) -> OrderStatus:
        """Ship and deliver everything; return the final status."""
        fulfillments = await self.dispatched()
        await self.ship(*fulfillments)
        for each in fulfillments:
            await self.track(each)
        return await self.end()

    async def end(self) -> OrderStatus:
        """Wait, without skipping time, until the workflow has ended; return the order's final status.

        Waiting for a result would let the test server skip time. It strands a workflow whose task cancels a timer that
        fires meanwhile (temporalio/sdk-java#3088), which the real server does not.
        """
        with self._harness.environment.auto_time_skipping_disabled():
            return OrderStatus(await asyncio.wait_for(self.handle.result(), 120))

    async def row(self) -> Any:
        async with transaction() as connection:
            return (await connection.execute(select(OrderRow).where(OrderRow.id == self.order.order_id))).one()

    async def timeline(self) -> list[str]:
        query = select(TimelineRow.what).where(TimelineRow.order_id == self.order.order_id).order_by(TimelineRow.number)
        async with transaction() as connection:
            return [what.removeprefix("timeline.") for what in await connection.scalars(query)]

    async def exceptions(self) -> list[str]:
        query = select(ExceptionRow.kind).where(ExceptionRow.order_id == self.order.order_id)
        async with transaction() as connection:
            return list(await connection.scalars(query))


class Harness:
    def __init__(self, client: Client, environment: WorkflowEnvironment, sandbox: str) -> None:
        self.client = client
        self.environment = environment
        self._shops = f"{sandbox}/own/_control/shops"
        self._handles: list[WorkflowHandle[Any, OrderStatus]] = []

    async def now(self) -> Any:
        return await self.environment.get_current_time()

    async def skip(self, **time: float) -> None:
        await self.environment.sleep(timedelta(**time))

    async def start(
        self, order: ChannelOrder, policy: Policy | None = None, task_timeout: timedelta | None = None
    ) -> OrderRun:
        """Create the order in the sandbox shop, under a number of its own, and start its workflow."""
        now = await self.now()
        number = f"L{next(_numbers)}-{order.channel_order_no}"
        order = order.model_copy(update={"channel_order_no": number, "placed_at": now})
        sale = {
            "order_no": order.channel_order_no,
            "lines": [{"sku": line.sku, "quantity": line.quantity} for line in order.lines],
            "recipient": {},
        }
        async with httpx.AsyncClient() as shop:
            await shop.post(self._shops, json={"shop": order.shop, "secrets": {"secret": "whisper"}})
            (await shop.post(f"{self._shops}/{order.shop}/orders", json=sale)).raise_for_status()
        handle = await self.client.start_workflow(
            "OrderWorkflow",
            OrderInput(order=order, policy=policy or Policy()),
            id=order.order_id,
            task_queue=settings().task_queue,
            task_timeout=task_timeout,
            search_attributes=TypedSearchAttributes([SearchAttributePair(search_attributes.STATUS, "received")]),
            result_type=OrderStatus,
        )
        self._handles.append(handle)
        return OrderRun(self, order, handle)

    async def terminate(self) -> None:
        """Terminate the orders that a test left open: the next test's worker cannot read what they retry."""
        for each in self._handles:
            with suppress(RPCError):
                await each.terminate()

    async def shipped_lines(self, order: ChannelOrder) -> dict[str, int]:
        """Return the shipped quantities that the shop has received, by line number."""
        async with httpx.AsyncClient() as shop:
            shipments = (await shop.get(f"{self._shops}/{order.shop}/shipments")).json()
        ours = [each["lines"] for each in shipments if each["order_no"] == order.channel_order_no]
        return {line_no: quantity for lines in ours for line_no, quantity in lines.items()}

    async def balanced(self) -> None:
        """Assert that every level equals its ledger, and that no stock is still allocated."""
        async with transaction() as connection:
            assert await ledger.verify(connection) == []
            held = {level.sku: level.allocated for level in await ledger.levels(connection, ["A001", "A002", "A003"])}
        assert not any(held.values()), held

    async def level(self, warehouse: str, sku: str) -> Level:
        async with transaction() as connection:
            return next(each for each in await ledger.levels(connection, [sku]) if each.warehouse == warehouse)

    async def receive(self, warehouse: str, sku: str, quantity: int) -> list[str]:
        """Receive stock; return the ids of the orders notified."""
        async with transaction() as connection:
            await operations.receive(connection, warehouse, sku, quantity, request_id(), "test")
        return await self.notified_orders()

    async def notified_orders(self) -> list[str]:
        """Return the ids of the orders that were notified of stock."""
        async with transaction() as connection:
            return list(
                await connection.scalars(
                    select(InboxRow.order_id).where(InboxRow.integration == IntegrationType.INTERNAL)
                )
            )  # type: ignore[arg-type]
