"""The orders that a warehouse has yet to ship, for mass re-planning."""

from sqlalchemy import Table, func, select
from temporalio import activity

from activities.kit.database import transaction
from models.fulfillment import FulfillmentRow, FulfillmentStatus

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_TO_LEAVE = (FulfillmentStatus.SCHEDULED, FulfillmentStatus.OPEN, FulfillmentStatus.IN_PROGRESS)


@activity.defn(name="allocation.orders_to_leave")
async def orders_to_leave(warehouse: str, after: str, limit: int) -> list[str]:
    """Return the next orders, by id, that the warehouse has yet to ship."""
    query = (
        select(_fulfillments.c.order_id)
        .where(_fulfillments.c.warehouse == warehouse, _fulfillments.c.status.in_(_TO_LEAVE))
        .where(_fulfillments.c.order_id > after)
        .group_by(_fulfillments.c.order_id)
        .order_by(_fulfillments.c.order_id)
        .limit(limit)
    )
    async with transaction() as connection:
        return list(await connection.scalars(query))


async def count_orders_to_leave(warehouse: str) -> int:
    """Count the orders that the warehouse has yet to ship."""
    query = select(func.count(func.distinct(_fulfillments.c.order_id))).where(
        _fulfillments.c.warehouse == warehouse, _fulfillments.c.status.in_(_TO_LEAVE)
    )
    async with transaction() as connection:
        return int((await connection.execute(query)).scalar_one())
