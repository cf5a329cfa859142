"""Reissue the contents of a parcel as a new order, free of charge and unknown to the channel."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.intake import inbox
from activities.kit.errors import refused
from models.fulfillment import FulfillmentLine, FulfillmentRow
from models.intake import IntegrationType, Raw, Receipt
from models.order import ChannelOrder, OrderLine, OrderRow, reissue_no
from models.origins import IntakePath, Origin

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

REISSUE = "reissue"
"""The inbox topic of a reissued order; the payload is a ``ChannelOrder``."""


async def reissue(connection: AsyncConnection, fulfillment_id: str, actor: str) -> str:
    """Create an order with the contents of this parcel, and return its id; a repeat creates no second order.

    Raises ``ApplicationError`` where the recipient is no longer known or the lines are too many.
    """
    query = select(_fulfillments.c.lines.label("packed"), _orders).join(
        _orders, _orders.c.id == _fulfillments.c.order_id
    )
    row = (await connection.execute(query.where(_fulfillments.c.id == fulfillment_id))).one_or_none()
    if row is None or row.recipient is None:
        raise refused("error.no_recipient", "no_address", fulfillment=fulfillment_id)
    try:
        order = _order(row, fulfillment_id)
    except ValueError:
        raise refused("error.lines_too_many", "too_many", fulfillment=fulfillment_id) from None
    key = f"{REISSUE}:{fulfillment_id}"
    raw = Raw.model_construct(body=order.model_dump_json().encode())
    receipt = Receipt(fact_key=key, topic=REISSUE)
    await inbox.accept(
        connection, IntegrationType.INTERNAL, "exceptions", row.channel, receipt, raw, actor, order.order_id
    )
    return order.order_id


def _order(row: Any, fulfillment_id: str) -> ChannelOrder:
    """Return the new order; its number is the original order number, the parcel's short id and ``R``."""
    now = datetime.now(UTC)
    goods: dict[tuple[str, str], int] = {}
    for each in map(FulfillmentLine.model_validate, row.packed):
        goods[each.line_no, each.sold_sku] = goods.get((each.line_no, each.sold_sku), 0) + each.quantity
    titles = {line["sku"]: line["title"] for line in row.lines}
    lines = tuple(
        OrderLine(
            line_no=f"{number}", sku=sku, title=titles.get(sku, ""), quantity=quantity, unit_price=Decimal(0), gift=True
        )
        for number, ((_, sku), quantity) in enumerate(goods.items(), 1)
    )
    return ChannelOrder(
        channel=row.channel,
        shop=row.shop,
        channel_order_no=reissue_no(row.channel_order_no, fulfillment_id.rpartition(":")[2]),
        placed_at=now,
        modified_at=now,
        paid_at=now,
        currency=row.currency,
        lines=lines,
        total=Decimal(0),
        recipient=row.recipient,
        priority=row.priority,
        origin=Origin.model_validate(row.origin).standard(IntakePath.REISSUE, now),
        custom={"reissue_of": row.id} | {name: row.custom[name] for name in ("email",) if name in row.custom},
        tags=("reissue",),
    )
