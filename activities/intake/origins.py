"""Order origins: the messages and corrections of one order, and orders counted by origin."""

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
"""What orders are grouped by."""


class Share(Value):
    """The orders of one origin. ``amounts``: by currency, without cancelled and rejected orders."""

    origin: str
    orders: int
    dropped: int
    """Those cancelled or rejected."""
    amounts: dict[str, Decimal]


async def list_messages(connection: AsyncConnection, order_id: str) -> Sequence[Row[Any]]:
    """Return all messages about an order, in the order of receipt."""
    query = select(_inbox).where(_inbox.c.order_id == order_id).order_by(_inbox.c.id)
    return (await connection.execute(query)).all()


async def list_corrections(connection: AsyncConnection, order_id: str) -> Sequence[Row[Any]]:
    """Return the corrections of an order's origin, oldest first."""
    query = select(_corrections).where(_corrections.c.order_id == order_id).order_by(_corrections.c.id)
    return (await connection.execute(query)).all()


async def correct(
    connection: AsyncConnection, order_id: str, fields: Mapping[str, str], request_id: str, actor: str, reason: str
) -> bool:
    """Replace fields of an order's origin and record the previous ones. Earlier decisions of the order stay.

    A repeated request counts once. Return ``False`` where there is no such order.
    """
    query = select(_orders.c.origin).where(_orders.c.id == order_id).with_for_update()
    origin = (await connection.execute(query)).scalar_one_or_none()
    if origin is None:
        return False
    after = {name: text for name, text in fields.items() if origin.get(name, "") != text}
    before = {name: origin.get(name, "") for name in after}
    request = {"order_id": order_id, "request_id": request_id, "actor": actor, "reason": reason}
    values = {**request, "at": datetime.now(UTC), "before": before, "after": after}
    entered = insert(_corrections).values(values).on_conflict_do_nothing().returning(_corrections.c.at)
    at = (await connection.execute(entered)).scalar_one_or_none()
    if at is not None:
        written = update(_orders).where(_orders.c.id == order_id).values(origin={**origin, **after})
        await connection.execute(written)
        entry = Entry(
            key=f"origin:{request_id}", at=at, what="timeline.origin", actor=actor, detail={"reason": reason, **after}
        )
        await timeline.add_entries(connection, order_id, [entry])
    return True


async def count_by(
    connection: AsyncConnection, by: Dimension, placed_from: datetime | None, placed_to: datetime | None
) -> list[Share]:
    """Count orders by origin, the most frequent first."""
    name = _dimension(by).label("name")
    dropped = _orders.c.status.in_([OrderStatus.CANCELLED, OrderStatus.REJECTED])
    count, ended = func.count().label("orders"), func.count().filter(dropped).label("dropped")
    amount = func.coalesce(func.sum(_orders.c.total).filter(~dropped), 0).label("amount")
    query = select(name, _orders.c.currency, count, ended, amount).group_by(name, _orders.c.currency)
    if placed_from is not None:
        query = query.where(_orders.c.placed_at >= placed_from)
    if placed_to is not None:
        query = query.where(_orders.c.placed_at < placed_to)
    shares: dict[str, Share] = {}
    for row in await connection.execute(query.order_by(name, _orders.c.currency)):
        so_far = shares.get(row.name) or Share(origin=row.name, orders=0, dropped=0, amounts={})
        shares[row.name] = Share(
            origin=row.name,
            orders=so_far.orders + row.orders,
            dropped=so_far.dropped + row.dropped,
            amounts=so_far.amounts | {row.currency: row.amount},
        )
    return sorted(shares.values(), key=lambda share: (-share.orders, share.origin))


def _dimension(by: Dimension) -> ColumnElement[str]:
    match by:
        case "shop":
            return _orders.c.channel + ":" + _orders.c.shop
        case "province":
            return func.replace(func.split_part(_orders.c.origin["region"].astext, " ", 2), "\N{NO-BREAK SPACE}", " ")
        case "path":
            return func.coalesce(_orders.c.origin["intake"].astext, "")
    return func.coalesce(_orders.c.origin[by].astext, "")
