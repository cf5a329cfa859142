"""Where orders came from: of one of them every message and every correction, of all of them how many and how much."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Table, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.records import timeline
from models.base import Value
from models.intake import InboxRow
from models.order import Entry, OrderRow, OrderStatus, OriginCorrectionRow

_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_corrections: Table = OriginCorrectionRow.__table__  # type: ignore[attr-defined]

Dimension = Literal["platform", "shop", "campaign", "source", "medium", "province", "store", "path"]
"""What orders are counted by."""


class Share(Value):
    """The orders of one origin. ``amounts`` by currency, without those that were cancelled or rejected."""

    origin: str
    orders: int
    dropped: int
    """Of them, cancelled or rejected."""
    amounts: dict[str, Decimal]


async def list_messages(connection: AsyncConnection, order_id: str) -> Sequence[Row[Any]]:
    """Every message about an order, as they came."""
    query = select(_inbox).where(_inbox.c.order_id == order_id).order_by(_inbox.c.id)
    return (await connection.execute(query)).all()


async def list_corrections(connection: AsyncConnection, order_id: str) -> Sequence[Row[Any]]:
    """What people said of an order's origin, oldest first."""
    query = select(_corrections).where(_corrections.c.order_id == order_id).order_by(_corrections.c.id)
    return (await connection.execute(query)).all()


async def correct(
    connection: AsyncConnection, order_id: str, now: Mapping[str, str], request_id: str, actor: str, reason: str
) -> bool:
    """Writes parts of an origin anew, what they were kept beside; what was decided by them stays decided.

    The same request counts once. ``False`` where there is no such order.
    """
    query = select(_orders.c.origin).where(_orders.c.id == order_id).with_for_update()
    origin = (await connection.execute(query)).scalar_one_or_none()
    if origin is None:
        return False
    after = {name: text for name, text in now.items() if origin.get(name, "") != text}
    before = {name: origin.get(name, "") for name in after}
    told = {"order_id": order_id, "request_id": request_id, "actor": actor, "reason": reason}
    values = {**told, "at": datetime.now(UTC), "before": before, "after": after}
    entered = insert(_corrections).values(values).on_conflict_do_nothing().returning(_corrections.c.at)
    at = (await connection.execute(entered)).scalar_one_or_none()
    if at is not None:
        written = update(_orders).where(_orders.c.id == order_id).values(origin={**origin, **after})
        await connection.execute(written)
        entry = Entry(
            key=f"origin:{request_id}", at=at, what="timeline.origin", actor=actor, detail={"reason": reason, **after}
        )
        await connection.execute(timeline.INSERT_ENTRIES, {"entries": timeline.entry_rows(order_id, [entry])})
    return True


async def count_by(
    connection: AsyncConnection, by: Dimension, placed_from: datetime | None, placed_to: datetime | None
) -> list[Share]:
    """How many orders came from where, the most first."""
    named = _named(by).label("named")
    dropped = _orders.c.status.in_([OrderStatus.CANCELLED, OrderStatus.REJECTED])
    count, ended = func.count().label("orders"), func.count().filter(dropped).label("dropped")
    amount = func.coalesce(func.sum(_orders.c.total).filter(~dropped), 0).label("amount")
    query = select(named, _orders.c.currency, count, ended, amount).group_by(named, _orders.c.currency)
    if placed_from is not None:
        query = query.where(_orders.c.placed_at >= placed_from)
    if placed_to is not None:
        query = query.where(_orders.c.placed_at < placed_to)
    found: dict[str, Share] = {}
    for row in await connection.execute(query.order_by(named, _orders.c.currency)):
        so_far = found.get(row.named) or Share(origin=row.named, orders=0, dropped=0, amounts={})
        found[row.named] = Share(
            origin=row.named,
            orders=so_far.orders + row.orders,
            dropped=so_far.dropped + row.dropped,
            amounts=so_far.amounts | {row.currency: row.amount},
        )
    return sorted(found.values(), key=lambda share: (-share.orders, share.origin))


def _named(by: Dimension) -> ColumnElement[str]:
    match by:
        case "shop":
            return _orders.c.channel + ":" + _orders.c.shop
        case "province":
            return func.split_part(_orders.c.origin["region"].astext, " ", 2)
        case "path":
            return func.coalesce(_orders.c.origin["intake"].astext, "")
    return func.coalesce(_orders.c.origin[by].astext, "")
