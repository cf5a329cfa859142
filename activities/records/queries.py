"""Lists for people: orders, their fulfillment orders and timelines, the ledger. Reads only; pages by the last row."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, Table, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from models.fulfillment import FulfillmentRow, FulfillmentStatus, ScanRow
from models.order import OrderRow, TimelineRow
from models.stock import LevelRow, MovementRow

_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_scans: Table = ScanRow.__table__  # type: ignore[attr-defined]
_timeline: Table = TimelineRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_movements: Table = MovementRow.__table__  # type: ignore[attr-defined]

Rows = Sequence[Row[Any]]


async def orders(
    connection: AsyncConnection,
    *,
    status: str | None = None,
    channel: str | None = None,
    shop: str | None = None,
    hold: str | None = None,
    phone_indexes: Collection[str] | None = None,
    buyer_indexes: Collection[str] | None = None,
    order_no: str | None = None,
    waybill: str | None = None,
    sku: str | None = None,
    warehouse: str | None = None,
    carrier: str | None = None,
    tag: str | None = None,
    placed_from: datetime | None = None,
    placed_to: datetime | None = None,
    after: tuple[datetime, str] | None = None,
    limit: int = 50,
) -> Rows:
    """Orders that match everything asked for, newest first, after the last one of an earlier page."""
    query = select(_orders).order_by(_orders.c.placed_at.desc(), _orders.c.id.desc()).limit(limit)
    equal = {
        "status": status,
        "channel": channel,
        "shop": shop,
        "channel_order_no": order_no,
    }
    for name, value in equal.items():
        if value is not None:
            query = query.where(_orders.c[name] == value)
    if phone_indexes is not None:
        query = query.where(_orders.c.phone_index.in_(phone_indexes))
    if buyer_indexes is not None:
        query = query.where(_orders.c.buyer_index.in_(buyer_indexes), _orders.c.buyer_index != "")
    if sku is not None:
        query = query.where(_orders.c.skus.contains([sku]))
    parcel = {"waybill_no": waybill, "warehouse": warehouse, "carrier": carrier}
    if wanted := {name: value for name, value in parcel.items() if value is not None}:
        active = _fulfillments.c.status != FulfillmentStatus.CANCELLED
        same = (_fulfillments.c[name] == value for name, value in wanted.items())
        query = query.where(_orders.c.id.in_(select(_fulfillments.c.order_id).where(active, *same)))
    if hold is not None:
        query = query.where(_orders.c.holds.contains([{"kind": hold}]))
    if tag is not None:
        query = query.where(_orders.c.tags.contains([tag]), _orders.c.tags != [])
    if placed_from is not None:
        query = query.where(_orders.c.placed_at >= placed_from)
    if placed_to is not None:
        query = query.where(_orders.c.placed_at < placed_to)
    if after is not None:
        query = query.where(tuple_(_orders.c.placed_at, _orders.c.id) < after)
    return await _all(connection, query)


async def order(connection: AsyncConnection, order_id: str) -> Row[Any] | None:
    return (await connection.execute(select(_orders).where(_orders.c.id == order_id))).one_or_none()


async def order_ids(connection: AsyncConnection, number: str, limit: int) -> list[str]:
    """The ids of the orders that have a channel's order number; if none has it, of those with such a waybill."""
    by_number = select(_orders.c.id).where(_orders.c.channel_order_no == number)
    by_waybill = select(_fulfillments.c.order_id).where(_fulfillments.c.waybill_no == number).distinct()
    for query in (by_number, by_waybill):
        if found := list(await connection.scalars(query.limit(limit))):
            return found
    return []


async def fulfillments(connection: AsyncConnection, order_id: str) -> Rows:
    query = select(_fulfillments).where(_fulfillments.c.order_id == order_id).order_by(_fulfillments.c.id)
    return await _all(connection, query)


async def scans(connection: AsyncConnection, fulfillment_ids: Sequence[str]) -> Rows:
    query = select(_scans).where(_scans.c.fulfillment_id.in_(fulfillment_ids)).order_by(_scans.c.at, _scans.c.scan_id)
    return await _all(connection, query)


async def timeline(connection: AsyncConnection, order_id: str) -> Rows:
    """The timeline, without the sealed contact data of its entries."""
    shown = (each for each in _timeline.c if each.name != "contact")
    query = select(*shown).where(_timeline.c.order_id == order_id).order_by(_timeline.c.at, _timeline.c.number)
    return await _all(connection, query)


async def contact_changes(connection: AsyncConnection, order_id: str) -> Rows:
    """The entries of a timeline that changed contact data, with it, oldest first."""
    query = select(_timeline).where(_timeline.c.order_id == order_id, _timeline.c.contact.is_not(None))
    return await _all(connection, query.order_by(_timeline.c.at, _timeline.c.number))


async def levels(connection: AsyncConnection, sku: str | None, warehouse: str | None) -> Rows:
    query = select(_levels).order_by(_levels.c.sku, _levels.c.warehouse)
    for name, value in (("sku", sku), ("warehouse", warehouse)):
        if value is not None:
            query = query.where(_levels.c[name] == value)
    return await _all(connection, query)


async def ledger(
    connection: AsyncConnection,
    *,
    sku: str | None = None,
    warehouse: str | None = None,
    order_id: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> Rows:
    """Movements, newest first, before the last one of an earlier page."""
    query = select(_movements).order_by(_movements.c.id.desc()).limit(limit)
    for name, value in (("sku", sku), ("warehouse", warehouse), ("order_id", order_id)):
        if value is not None:
            query = query.where(_movements.c[name] == value)
    if before is not None:
        query = query.where(_movements.c.id < before)
    return await _all(connection, query)


async def counts(connection: AsyncConnection) -> dict[str, int]:
    """How many orders are in each status."""
    rows = await connection.execute(select(_orders.c.status, func.count()).group_by(_orders.c.status))
    return {str(status): int(count) for status, count in rows}


async def _all(connection: AsyncConnection, query: Select[Any]) -> Rows:
    rows: Rows = (await connection.execute(query)).all()
    return rows
