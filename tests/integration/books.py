"""Stock helpers for tests: admit, ship and cancel orders as their workflows would, without a workflow."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from activities.kit.database import transaction
from activities.orders import steps
from activities.stock import ledger, operations
from activities.stock.ledger import Discrepancy
from models.fulfillment import Fulfillment, FulfillmentStatus, TrackingStatus
from models.order import OrderLine
from models.policy import Policy
from models.state import End, OrderState
from models.stock import Level
from tests.unit.orders import an_order


def now() -> datetime:
    return datetime.now(UTC)


async def sql(statement: str, **params: Any) -> list[Any]:
    async with transaction() as connection:
        result = await connection.execute(text(statement), params)
        return list(result) if result.returns_rows else []


async def receive(warehouse: str, sku: str, quantity: int, request_id: str = "") -> Level:
    async with transaction() as connection:
        request_id = request_id or f"{warehouse}:{sku}:{now().isoformat()}"
        return await operations.receive(connection, warehouse, sku, quantity, request_id, "tester")


async def adjust(warehouse: str, sku: str, quantity: int, request_id: str = "count", reason: str = "counted") -> Level:
    async with transaction() as connection:
        return await operations.adjust(connection, warehouse, sku, quantity, reason, request_id, "tester")


async def level(warehouse: str, sku: str) -> tuple[int, int, int]:
    """(on_hand, allocated, available)"""
    async with transaction() as connection:
        for each in await ledger.levels(connection, [sku]):
            if each.warehouse == warehouse:
                return each.on_hand, each.allocated, each.available
    raise LookupError(f"{sku} at {warehouse}")


async def drifts() -> list[Discrepancy]:
    async with transaction() as connection:
        return await ledger.verify(connection)


async def admitted(number: str, *lines: OrderLine, policy: Policy = Policy(), **changes: Any) -> OrderState:
    """Admit a new order as its workflow would."""
    state = OrderState(order=an_order(number, *lines, **changes), policy=policy, revision=1)
    state.admit(await steps.admit(state.model_copy(deep=True), now()))
    return state


async def allocated(state: OrderState) -> OrderState:
    """Plan an order again."""
    state.revision += 1
    state.plan(await steps.allocate(state.model_copy(deep=True), now()))
    return state


async def cancelled(state: OrderState, end: End | None = End.CANCELLED) -> None:
    for each in state.active:
        if not each.has_shipped:
            each.status = FulfillmentStatus.CANCELLED
    state.end = end
    state.revision += 1
    await steps.settle(state.snapshot(now()))


async def shipped(state: OrderState, parcel: Fulfillment) -> None:
    parcel.leave(now())
    state.revision += 1
    await steps.ship(state.snapshot(now()), parcel)


async def returned(state: OrderState, parcel: Fulfillment) -> None:
    parcel.track(TrackingStatus.RETURNED, now())
    state.revision += 1
    await steps.restock(state.snapshot(now()), parcel)


async def notified_orders() -> list[str]:
    """Return the numbers of the orders notified so far, in order."""
    query = "SELECT order_id FROM inbox WHERE integration = 'internal' AND topic = 'stock_arrived' ORDER BY id"
    return [row.order_id.rpartition(":")[2] for row in await sql(query)]


def goods(parcel: Fulfillment) -> Counter[str]:
    total = Counter[str]()
    for each in parcel.lines:
        total[each.sku] += each.quantity
    return total


def parcels(fulfillments: Iterable[Fulfillment]) -> dict[str, dict[str, int]]:
    return {f"{each.short_id} {each.warehouse}": dict(goods(each)) for each in fulfillments}
