"""What people see of an order: its row, its fulfillment orders, its timeline and its alerts."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
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


async def write(connection: AsyncConnection, snapshot: Snapshot) -> None:
    """Writes a snapshot, unless a later one of the same order was written before it."""
    changes = {
        "status": snapshot.status,
        "priority": snapshot.priority,
        "paid_at": snapshot.paid_at,
        "holds": [hold.model_dump(mode="json") for hold in snapshot.holds],
        "next_step": snapshot.next_step,
        "deadline": snapshot.deadline,
        "updated_at": snapshot.at,
        "revision": snapshot.revision,
    }
    written = await connection.execute(
        update(_orders).where(_orders.c.id == snapshot.order_id, _orders.c.revision < snapshot.revision).values(changes)
    )
    if written.rowcount:
        for each in snapshot.fulfillments:
            await connection.execute(
                update(_fulfillments)
                .where(_fulfillments.c.id == each.id)
                .values(
                    status=each.status,
                    tracking=each.tracking,
                    shipped_at=each.shipped_at,
                    weight_kg=each.weight_kg,
                    updated_at=snapshot.at,
                )
            )
    await add_entries(connection, snapshot.order_id, snapshot.entries)
    await raise_alerts(connection, snapshot.alerts)
    if snapshot.status not in _BUSY:
        await at_rest(connection, snapshot.order_id)
    if snapshot.status.final:
        await close_alerts(connection, snapshot.order_id)


async def add_entries(connection: AsyncConnection, order_id: str, entries: Sequence[Entry]) -> None:
    """Appends to the timeline; an entry already there stays as it is."""
    if entries:
        rows = [{"order_id": order_id, **entry.model_dump()} for entry in entries]
        await connection.execute(insert(_timeline).on_conflict_do_nothing(), rows)


async def raise_alerts(connection: AsyncConnection, alerts: Sequence[Alert]) -> None:
    if alerts:
        rows = [{**alert.model_dump(), "raised_at": datetime.now(UTC)} for alert in alerts]
        await connection.execute(insert(_alerts).on_conflict_do_nothing(), rows)


async def close_alerts(connection: AsyncConnection, order_id: str) -> None:
    """An order that is over needs nobody any more."""
    await connection.execute(
        update(_alerts)
        .where(_alerts.c.order_id == order_id, _alerts.c.closed_at.is_(None))
        .values(closed_at=datetime.now(UTC))
    )


async def at_rest(connection: AsyncConnection, order_id: str) -> None:
    """The order waits for the world: the dispatcher may let another one in."""
    await connection.execute(
        update(_inbox)
        .where(_inbox.c.order_id == order_id, _inbox.c.state == InboxState.STARTED)
        .values(state=InboxState.DONE)
    )
