"""What people see of an order: its row, its fulfillment orders, its timeline and its alerts."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy import (
    ARRAY,
    Column,
    Select,
    String,
    Table,
    TableValuedAlias,
    Update,
    bindparam,
    case,
    column,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.fulfillment import FulfillmentRow
from models.intake import InboxRow, InboxState
from models.order import Alert, AlertRow, Entry, OrderRow, OrderStatus, TimelineRow
from models.state import Snapshot

_orders = OrderRow.__table__  # type: ignore[attr-defined]
_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]
_timeline = TimelineRow.__table__  # type: ignore[attr-defined]
_alerts = AlertRow.__table__  # type: ignore[attr-defined]
_inbox = InboxRow.__table__  # type: ignore[attr-defined]

_BUSY = frozenset({OrderStatus.RECEIVED, OrderStatus.ALLOCATED})
"""In these an order still has work in the engine; in every other it rests."""

# One statement writes a whole snapshot: every journey to the database is felt in every order.


def rows(parameter: str, *columns: Column[Any]) -> TableValuedAlias:
    """A parameter, a list of JSON objects, as a table of such columns."""
    given = func.jsonb_to_recordset(bindparam(parameter, type_=JSONB))
    return given.table_valued(*(column(each.name, each.type) for each in columns)).render_derived(
        name=f"given_{parameter}", with_types=True
    )


def change(table: Table, given: TableValuedAlias) -> Update:
    """Has the rows of a table take over what is given for their ids."""
    return (
        update(table).where(table.c.id == given.c.id).values({each.name: each for each in given.c if each.name != "id"})
    )


_entries = rows("entries", *(_timeline.c[name] for name in ("order_id", *Entry.model_fields)))
ENTER = insert(_timeline).from_select([each.name for each in _entries.c], select(*_entries.c)).on_conflict_do_nothing()
"""Appends ``entries`` to the timeline; an entry already there stays as it is."""

REST = (
    update(_inbox)
    .where(_inbox.c.order_id == func.any(bindparam("resting", type_=ARRAY(String))))
    .where(_inbox.c.state == InboxState.STARTED)
    .values(state=InboxState.DONE)
)
"""The orders ``resting`` wait for the world: the dispatcher may let others in."""

_SHOWN = ("id", "status", "priority", "paid_at", "holds", "next_step", "deadline", "updated_at", "revision")
_shown = rows("shown", *(_orders.c[name] for name in _SHOWN))
_newer = change(_orders, _shown).where(_orders.c.revision < _shown.c.revision).returning(_orders.c.id).cte("newer")
_PARCEL = ("id", "status", "tracking", "shipped_at", "weight_kg", "updated_at")
_parcels = rows("parcels", *(_fulfillments.c[name] for name in _PARCEL))
_moved = change(_fulfillments, _parcels).where(_fulfillments.c.order_id.in_(select(_newer.c.id)))
_WRITE: Select[Any] = select(literal_column("1")).add_cte(
    _newer, _moved.cte("moved"), ENTER.cte("entered"), REST.cte("rested")
)


async def write(connection: AsyncConnection, *snapshots: Snapshot) -> None:
    """Writes snapshots of different orders, each unless a later one of its order was written before it."""
    shown, parcels, told = [], [], []
    for each in snapshots:
        at = each.at.isoformat()
        values = each.model_dump(mode="json", exclude={"fulfillments", "entries", "alerts"})
        shown.append(values | {"id": each.order_id, "updated_at": at})
        parcels += [parcel.model_dump(mode="json") | {"updated_at": at} for parcel in each.fulfillments]
        told += entries(each.order_id, each.entries)
    resting = [each.order_id for each in snapshots if each.status not in _BUSY]
    await connection.execute(_WRITE, {"shown": shown, "parcels": parcels, "entries": told, "resting": resting})
    await raise_alerts(connection, [alert for each in snapshots for alert in each.alerts])
    if ended := [each.order_id for each in snapshots if each.status.final]:
        await close_alerts(connection, ended)


def entries(order_id: str, told: Sequence[Entry]) -> list[dict[str, Any]]:
    """The ``entries`` of ``ENTER``."""
    return [{"order_id": order_id, **entry.model_dump(mode="json")} for entry in told]


async def raise_alerts(connection: AsyncConnection, alerts: Sequence[Alert]) -> None:
    if alerts:
        rows = [{**alert.model_dump(), "raised_at": datetime.now(UTC)} for alert in alerts]
        await connection.execute(insert(_alerts).on_conflict_do_nothing(), rows)


async def keep_alerts(
    connection: AsyncConnection, kind: str, wanted: Mapping[str, Mapping[str, JsonValue]], among: str = ""
) -> tuple[int, int]:
    """Alerts of a kind that stand for as long as their cause does: ``wanted`` by key, each with its detail; every
    other whose key begins with ``among`` is closed. Answers how many were raised, also anew, and how many closed."""
    now = datetime.now(UTC)
    other = _alerts.c.key.startswith(among, autoescape=True) & _alerts.c.key.not_in(wanted)
    closed = await connection.execute(
        update(_alerts).where(_alerts.c.kind == kind, _alerts.c.closed_at.is_(None), other).values(closed_at=now)
    )
    raised: list[datetime] = []
    if wanted:
        entered = insert(_alerts).values(
            [{"key": key, "kind": kind, "order_id": "", "detail": wanted[key], "raised_at": now} for key in wanted]
        )
        raised_at = case((_alerts.c.closed_at.is_(None), _alerts.c.raised_at), else_=now)
        again = {"detail": entered.excluded.detail, "raised_at": raised_at, "closed_at": None}
        renewed = entered.on_conflict_do_update(index_elements=["key"], set_=again)
        raised = list(await connection.scalars(renewed.returning(_alerts.c.raised_at)))
    return raised.count(now), closed.rowcount


async def close_alerts(connection: AsyncConnection, order_ids: Sequence[str]) -> None:
    """An order that is over needs nobody any more."""
    await connection.execute(
        update(_alerts)
        .where(_alerts.c.order_id.in_(order_ids), _alerts.c.closed_at.is_(None))
        .values(closed_at=datetime.now(UTC))
    )
