"""What a warehouse reports of its fulfillment orders, before or instead of their workflow."""

from sqlalchemy import Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from models.fulfillment import FulfillmentRow, FulfillmentStatus, RequestStatus
from models.requests import WarehouseEvent, WarehouseEventKind

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]

RECORDED_ONLY = frozenset({WarehouseEventKind.ACCEPTED, WarehouseEventKind.PICKED})
"""Events that change the row of the fulfillment order; its workflow needs only the others."""


async def record_warehouse_event(connection: AsyncConnection, warehouse: str, event: WarehouseEvent) -> str | None:
    """Record acceptance or picking; return the order's id, ``None`` where the warehouse has no such fulfillment order.

    A fulfillment order that has left the warehouse, or is cancelled, stays as it is.
    """
    same = (_fulfillments.c.id == event.fulfillment_id) & (_fulfillments.c.warehouse == warehouse)
    order_id: str | None = (await connection.execute(select(_fulfillments.c.order_id).where(same))).scalar_one_or_none()
    if order_id is not None and event.kind in RECORDED_ONLY:
        values: dict[str, str] = {"request_status": RequestStatus.ACCEPTED}
        if event.kind is WarehouseEventKind.PICKED:
            values["status"] = FulfillmentStatus.IN_PROGRESS
        in_warehouse = _fulfillments.c.status.in_([FulfillmentStatus.OPEN, FulfillmentStatus.IN_PROGRESS])
        await connection.execute(update(_fulfillments).where(same, in_warehouse).values(values))
    return order_id


async def shipped_parts(connection: AsyncConnection, order_id: str) -> list[bool]:
    """Return for each fulfillment order that is not cancelled whether it has shipped."""
    query = select(_fulfillments.c.shipped_at.is_not(None)).where(
        _fulfillments.c.order_id == order_id, _fulfillments.c.status != FulfillmentStatus.CANCELLED
    )
    return list(await connection.scalars(query))
