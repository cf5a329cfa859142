"""The snapshot of an order: its row, fulfillment orders, timeline and exceptions, written in one statement.

Every round trip to the database costs every order, so one statement writes them all and marks the order's messages as
settled.
"""

from typing import Any

from sqlalchemy import Select, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.intake.inbox import SETTLE
from activities.kit.sql import json_rows, update_from
from activities.records import exceptions
from activities.records.timeline import INSERT_ENTRIES, entry_rows
from models.fulfillment import FulfillmentRow
from models.order import OrderRow, OrderStatus
from models.state import Snapshot

_orders = OrderRow.__table__  # type: ignore[attr-defined]
_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]

BUSY_STATUSES = frozenset({OrderStatus.RECEIVED, OrderStatus.ALLOCATED})
"""An order in one of these still has work in the engine; in every other status it waits."""

_SHOWN = ("id", "status", "priority", "paid_at", "holds", "next_step", "deadline", "updated_at", "revision")
_shown = json_rows("shown", *(_orders.c[name] for name in _SHOWN))
_newer = update_from(_orders, _shown).where(_orders.c.revision < _shown.c.revision).returning(_orders.c.id).cte("newer")
_FULFILLMENT = ("id", "status", "tracking", "shipped_at", "weight_kg", "updated_at")
_given_fulfillments = json_rows("fulfillments", *(_fulfillments.c[name] for name in _FULFILLMENT))
_moved = update_from(_fulfillments, _given_fulfillments).where(_fulfillments.c.order_id.in_(select(_newer.c.id)))
_WRITE: Select[Any] = select(literal_column("1")).add_cte(
    _newer, _moved.cte("moved"), INSERT_ENTRIES.cte("entered"), SETTLE.cte("settled")
)


async def write_snapshots(connection: AsyncConnection, *snapshots: Snapshot) -> None:
    """Writes snapshots of different orders, each unless a later one of its order was written before it."""
    shown, fulfillments, entries = [], [], []
    for each in snapshots:
        at = each.at.isoformat()
        values = each.model_dump(mode="json", exclude={"fulfillments", "entries", "exceptions"})
        shown.append(values | {"id": each.order_id, "updated_at": at})
        fulfillments += [row.model_dump(mode="json") | {"updated_at": at} for row in each.fulfillments]
        entries += entry_rows(each.order_id, each.entries)
    settled = [each.order_id for each in snapshots if each.status not in BUSY_STATUSES]
    await connection.execute(
        _WRITE, {"shown": shown, "fulfillments": fulfillments, "entries": entries, "settled": settled}
    )
    await exceptions.open_all(connection, [exception for each in snapshots for exception in each.exceptions])
    if ended := [each.order_id for each in snapshots if each.status.final]:
        await exceptions.close_for_orders(connection, ended)
