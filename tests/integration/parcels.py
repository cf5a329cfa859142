"""Fulfillment orders saved directly in the database."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert

from activities.kit.database import transaction
from models.fulfillment import FulfillmentRow
from models.order import OrderRow
from models.vault import seal_row
from starter.sandbox import merchant
from tests.unit.orders import an_order

NOW = datetime.now(UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


async def a_parcel(number: str = "1", **facts: Any) -> str:
    """Save an order with one fulfillment order at warehouse SH; return the id of the fulfillment order."""
    sold = an_order(number)
    order = {
        "id": sold.order_id,
        "channel": "own",
        "shop": "web",
        "channel_order_no": number,
        "status": "shipped",
        "lines": [each.model_dump(mode="json") for each in sold.lines],
        "origin": sold.origin.model_dump(mode="json"),
        "custom": {},
        "recipient": sold.recipient,
        "paid_at": NOW,
        "currency": "CNY",
        "total": sold.total,
        "placed_at": NOW,
        "updated_at": NOW,
        "region": "浙江省 杭州市",
        "holds": facts.pop("holds", []),
        "promised_by": facts.pop("promised_by", None),
    }
    parcel = {
        "id": f"{sold.order_id}:F1",
        "order_id": sold.order_id,
        "warehouse": "SH",
        "status": "shipped",
        "request_status": "accepted",
        "lines": [{"line_no": each.line_no, "sku": each.sku, "quantity": each.quantity} for each in sold.lines],
        "carrier": "sf",
        "waybill_no": f"SF{number}",
        "opened_at": NOW - 10 * DAY,
        "shipped_at": NOW - HOUR,
        "updated_at": NOW,
    }
    async with transaction() as connection:
        await merchant.seed(connection)
        await connection.execute(insert(OrderRow).values(seal_row(OrderRow, order)))
        await connection.execute(insert(FulfillmentRow).values(parcel | facts))
    return str(parcel["id"])
