"""The steps of an order that touch our database alone: short, grouped, run as local activities.

Each writes its effect and the order's new snapshot in one transaction, and each may be repeated. ``at`` is the
workflow's own time.
"""

from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities import allocation, cleansing, inventory, projection, review
from activities.database import transaction
from models.base import Moment, Value
from models.fulfillment import Fulfillment, ScanRow
from models.order import ChannelOrder, Hold, HoldKind, OrderRow
from models.state import Admitted, Allocated, OrderState, Snapshot
from models.vault import keyring

_orders = OrderRow.__table__  # type: ignore[attr-defined]
_scans = ScanRow.__table__  # type: ignore[attr-defined]


class Revised(Value):
    """A modified order as cleansed, with what now holds it."""

    order: ChannelOrder
    holds: tuple[Hold, ...] = ()


class Sighting(Value):
    """The newest scan of a parcel."""

    waybill_no: str
    at: Moment


@activity.defn
async def admit(state: OrderState, at: Moment) -> Admitted:
    """Cleanses, reviews and records a new order, and allocates it at once where nothing stands in its way."""
    order = state.order = cleansing.standardise(state.order)
    async with transaction() as connection:
        await connection.execute(insert(_orders).values(_row(order, at)).on_conflict_do_nothing())
        holds = [*await _doubts(connection, order, at), *review.decide(order, state.policy, at)]
        grace_until = at + timedelta(seconds=state.policy.grace) if state.policy.grace else None
        admitted = Admitted(at=at, order=order, holds=tuple(holds), grace_until=grace_until)
        state.admit(admitted)
        if state.end is None and not state.blocked:
            allocated = await _allocate(connection, state, at)
            admitted = admitted.model_copy(update={"allocated": allocated})
            state.plan(allocated)
        await projection.write(connection, state.snapshot(at))
    return admitted


@activity.defn
async def allocate(state: OrderState, at: Moment) -> Allocated:
    """Plans and allocates what the order still lacks, or leaves it waiting for stock."""
    async with transaction() as connection:
        allocated = await _allocate(connection, state, at)
        state.plan(allocated)
        await projection.write(connection, state.snapshot(at))
    return allocated


@activity.defn
async def record(snapshot: Snapshot) -> None:
    """Writes what people are to see."""
    async with transaction() as connection:
        await projection.write(connection, snapshot)


@activity.defn
async def revise(state: OrderState, at: Moment) -> Revised:
    """Cleanses a modified order, and finds what holds it now."""
    order = cleansing.standardise(state.order)
    async with transaction() as connection:
        holds = await _doubts(connection, order, at)
        changes = {key: value for key, value in _row(order, at).items() if key in _MODIFIABLE}
        await connection.execute(update(_orders).where(_orders.c.id == order.order_id).values(changes))
    return Revised(order=order, holds=tuple(holds))


@activity.defn
async def ship(snapshot: Snapshot, fulfillment: Fulfillment) -> None:
    """The goods have left: takes them off the stock, also where the books did not have them."""
    try:
        async with transaction() as connection:
            await inventory.ship(connection, snapshot.order_id, fulfillment)
            await projection.write(connection, snapshot)
    except inventory.NotAllowed:
        async with transaction() as connection:
            await inventory.find(connection, snapshot.order_id, fulfillment)
            await inventory.ship(connection, snapshot.order_id, fulfillment)
            await projection.write(connection, snapshot)


@activity.defn
async def restock(snapshot: Snapshot, fulfillment: Fulfillment) -> None:
    """A parcel came back: puts its goods on the stock again."""
    async with transaction() as connection:
        await inventory.restock(connection, snapshot.order_id, fulfillment)
        await projection.write(connection, snapshot)


@activity.defn
async def settle(snapshot: Snapshot) -> None:
    """Gives back whatever stock is still allocated to fulfillment orders that will not leave."""
    async with transaction() as connection:
        await projection.write(connection, snapshot)
        await inventory.settle(connection, snapshot)


@activity.defn
async def sightings(waybill_nos: list[str]) -> list[Sighting]:
    """When each parcel was last seen, of those seen at all."""
    query = (
        select(_scans.c.waybill_no, func.max(_scans.c.at).label("at"))
        .where(_scans.c.waybill_no.in_(waybill_nos))
        .group_by(_scans.c.waybill_no)
    )
    async with transaction() as connection:
        return [Sighting(waybill_no=row.waybill_no, at=row.at) for row in await connection.execute(query)]


_MODIFIABLE = frozenset({"lines", "total", "recipient", "phone_index", "region"})


def _row(order: ChannelOrder, at: datetime) -> dict[str, object]:
    return {
        "id": order.order_id,
        "channel": order.channel,
        "shop": order.shop,
        "channel_order_no": order.channel_order_no,
        "status": "received",
        "revision": 0,
        "priority": order.priority,
        "holds": [],
        "lines": [line.model_dump(mode="json") for line in order.lines],
        "origin": order.origin.model_dump(mode="json"),
        "custom": order.custom,
        "currency": order.currency,
        "total": order.total,
        "carrier": order.carrier,
        "recipient": order.recipient,
        "phone_index": keyring().blind_index(order.recipient.digits),
        "region": order.recipient.region,
        "next_step": "next.received",
        "placed_at": order.placed_at,
        "paid_at": order.paid_at,
        "promised_by": order.promised_by,
        "updated_at": at,
    }


async def _allocate(connection: AsyncConnection, state: OrderState, at: datetime) -> Allocated:
    given = await allocation.allocate_order(connection, state.order, state.policy, at)
    return Allocated(at=at, fulfillments=given.fulfillments, shortages=given.shortages)


async def _doubts(connection: AsyncConnection, order: ChannelOrder, at: datetime) -> list[Hold]:
    unknown = await inventory.unknown_skus(connection, [line.sku for line in order.lines])
    return cleansing.doubts(order, at) + [
        Hold(kind=HoldKind.UNKNOWN_SKU, reason=f"SKU {sku}", since=at) for sku in unknown
    ]
