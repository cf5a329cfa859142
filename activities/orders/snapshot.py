"""Write an order's snapshot: its row, fulfillment orders and timeline in one statement, then its exceptions.

Round trips dominate the cost of an order, so the same statement also settles the order's inbox messages.
"""

from typing import Any

from sqlalchemy import Select, all_, and_, case, func, literal_column, not_, or_, select, tuple_
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

_ORDER_COLUMNS = (
    "id",
    "status",
    "priority",
    "paid_at",
    "holds",
    "next_step",
    "deadline",
    "updated_at",
    "revision",
    "seen",
    "run_id",
)
_order_changes = json_rows("order_changes", *(_orders.c[name] for name in _ORDER_COLUMNS))
_same_run = _orders.c.run_id == _order_changes.c.run_id
_new_run = and_(not_(_same_run), _order_changes.c.run_id != all_(_orders.c.past_runs))
_with_last_run = func.array_append(_orders.c.past_runs, _orders.c.run_id)
_in_turn = tuple_(_orders.c.seen, _orders.c.revision) <= tuple_(_order_changes.c.seen, _order_changes.c.revision)
_newer = (
    update_from(_orders, _order_changes)
    .where(or_(_new_run, and_(_same_run, _in_turn)))
    .values(
        past_runs=case((_new_run, func.array_append(_orders.c.past_runs, _orders.c.run_id)), else_=_orders.c.past_runs)
    )
    .returning(_orders.c.id)
    .cte("newer")
)
_FULFILLMENT_COLUMNS = ("id", "status", "tracking", "shipped_at", "weight_kg", "updated_at")
_fulfillment_changes = json_rows("fulfillments", *(_fulfillments.c[name] for name in _FULFILLMENT_COLUMNS))
_updated_fulfillments = update_from(_fulfillments, _fulfillment_changes).where(
    _fulfillments.c.order_id.in_(select(_newer.c.id))
)
_WRITE: Select[Any] = select(literal_column("1")).add_cte(
    _newer, _updated_fulfillments.cte("moved"), INSERT_ENTRIES.cte("entered"), SETTLE.cte("settled")
)


async def write_snapshots(connection: AsyncConnection, *snapshots: Snapshot) -> None:
    """Write snapshots of different orders; skip one where a later one of its order is already written.

    Later is a run of the workflow that has not written before; of one run, what knows more history events, then the
    higher revision: of a workflow task that was lost and done over, the repetition wins, whatever the lost one wrote.
    An entry written again under its key takes the last content.
    """
    orders, fulfillments, entries = [], [], []
    for each in snapshots:
        at = each.at.isoformat()
        values = each.model_dump(mode="json", exclude={"fulfillments", "entries", "exceptions"})
        orders.append(values | {"id": each.order_id, "updated_at": at})
        fulfillments += [row.model_dump(mode="json") | {"updated_at": at} for row in each.fulfillments]
        entries += entry_rows(each.order_id, each.entries)
    settled = [each.order_id for each in snapshots if each.status not in BUSY_STATUSES]
    await connection.execute(
        _WRITE, {"order_changes": orders, "fulfillments": fulfillments, "entries": entries, "settled": settled}
    )
    await exceptions.open_all(connection, [exception for each in snapshots for exception in each.exceptions])
    if ended := [each.order_id for each in snapshots if each.status.final]:
        await exceptions.close_for_orders(connection, ended)
