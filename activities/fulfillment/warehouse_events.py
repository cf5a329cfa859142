"""What a warehouse reports of its fulfillment orders, before or instead of their workflow."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.fulfillment.fulfillment_orders import exception_of
from activities.records import exceptions
from models.base import Value
from models.exceptions import ExceptionKind
from models.fulfillment import FulfillmentRow, FulfillmentStatus, RequestStatus
from models.requests import WarehouseEvent, WarehouseEventKind

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]

RECORDED_ONLY = frozenset({WarehouseEventKind.ACCEPTED, WarehouseEventKind.PICKED})
"""Events that change the row of the fulfillment order; its workflow needs only the others."""


_HANDING_OVER = timedelta(seconds=60)
"""How long after its booking the answer to a submission may still be on its way."""


class Recorded(Value):
    """A warehouse's event: the order it is about, and whether the order's workflow needs it."""

    order_id: str
    for_workflow: bool
    reason: str = ""
    """Why the workflow does not need it, as a message key."""


async def record_warehouse_event(connection: AsyncConnection, warehouse: str, event: WarehouseEvent) -> Recorded | None:
    """Record acceptance or picking; return ``None`` where the warehouse has no such fulfillment order.

    A fulfillment order that has left the warehouse, or is cancelled, stays as it is. One that is reported as shipped
    and was never handed over opens an exception; without a waybill, its workflow could not follow the goods.
    """
    same = (_fulfillments.c.id == event.fulfillment_id) & (_fulfillments.c.warehouse == warehouse)
    row = (await connection.execute(select(_fulfillments).where(same))).one_or_none()
    if row is None:
        return None
    recorded = Recorded(order_id=row.order_id, for_workflow=event.kind not in RECORDED_ONLY)
    in_warehouse = _fulfillments.c.status.in_([FulfillmentStatus.OPEN, FulfillmentStatus.IN_PROGRESS])
    if event.kind in RECORDED_ONLY:
        values: dict[str, str] = {"request_status": RequestStatus.ACCEPTED}
        if event.kind is WarehouseEventKind.PICKED:
            values["status"] = FulfillmentStatus.IN_PROGRESS
        await connection.execute(update(_fulfillments).where(same, in_warehouse).values(values))
    elif event.kind is WarehouseEventKind.SHIPPED and row.request_status == RequestStatus.UNSUBMITTED:
        if row.booked_at is None or row.booked_at < datetime.now(UTC) - _HANDING_OVER:
            await exceptions.open_all(connection, [exception_of(row, ExceptionKind.SHIPPED_UNASKED)])
        if row.waybill_no is None:
            return recorded.model_copy(update={"for_workflow": False, "reason": "inbox.never_handed_over"})
        # goods that have left are not handed over again
        accepted = {"request_status": RequestStatus.ACCEPTED}
        await connection.execute(update(_fulfillments).where(same, in_warehouse).values(accepted))
    return recorded


async def shipped_parts(connection: AsyncConnection, order_id: str) -> list[bool]:
    """Return for each fulfillment order that is not cancelled whether it has shipped."""
    query = select(_fulfillments.c.shipped_at.is_not(None)).where(
        _fulfillments.c.order_id == order_id, _fulfillments.c.status != FulfillmentStatus.CANCELLED
    )
    return list(await connection.scalars(query))
