"""Pushes of carriers accepted per second, compared with a bare endpoint that commits one row; and scans processed per
second."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from sqlalchemy import func, insert, select

from activities.accounts import accounts
from activities.kit.database import transaction
from models.fulfillment import FulfillmentRow, FulfillmentStatus, RequestStatus
from models.intake import InboxRow, InboxState, IntegrationType
from models.order import OrderRow
from starter.sandbox.parcels import Route
from tests.bench.http_load import Message, load
from tests.unit.orders import an_order

CARRIERS = {"sf": "30", "yto": "DEPARTURE"}
"""Carriers with their code for a parcel in transit."""
ENDPOINTS = (*CARRIERS, "bare")
CONNECTIONS = (1, 8, 64)
PARCELS = 500
"""The parcels of each carrier; every push holds a scan of one of them."""


async def compare(api_url: str, bare_url: str, messages: int) -> dict[str, Any]:
    """Return rate and milliseconds by number of connections and endpoint, and the scans processed per second."""
    for carrier in CARRIERS:
        await _insert_parcels(carrier)
    urls = {}
    for carrier in CARRIERS:
        secret = (await accounts.get_account(IntegrationType.CARRIER, carrier, "default")).secrets["push_secret"]
        urls[carrier] = f"{api_url}/carriers/{carrier}/default/push/{secret}"
    rows: list[dict[str, Any]] = []
    sent = 0
    processing_seconds = 0.0
    for connections in CONNECTIONS:
        count = messages // 4 if connections == 1 else messages
        row: dict[str, Any] = {"connections": connections}
        for carrier, url in urls.items():
            ready = [_push(carrier, sent + number) for number in range(count)]
            sent += count
            started = time.perf_counter()
            row[carrier] = await load(url, count, ready.__getitem__, connections)
            await _until_processed()
            processing_seconds += time.perf_counter() - started
        row["bare"] = await load(f"{bare_url}/", count, lambda number: _push("sf", number), connections)
        rows.append(row)
    return {"endpoints": rows, "processed_per_second": round(sent / processing_seconds)}


def _waybill(carrier: str, number: int) -> str:
    return f"{carrier.upper()}{1_000_000_000 + number % PARCELS}"


def _push(carrier: str, number: int) -> Message:
    """Return a push of one distinct scan."""
    route = Route(
        waybill_no=_waybill(carrier, number),
        code=CARRIERS[carrier],
        text="快件在【杭州转运中心】完成分拣，准备发往下一站",
        place=f"杭州市{number}",
        at=datetime.now(UTC) - timedelta(seconds=number % 86_400),
    )
    headers, body = import_module(f"starter.sandbox.carriers.{carrier}").parcels.render([route])
    return body, headers


async def _until_processed() -> None:
    """Wait until every push is processed."""
    query = select(func.count()).where(
        InboxRow.integration == IntegrationType.CARRIER,  # type: ignore[arg-type]
        InboxRow.state == InboxState.PENDING,  # type: ignore[arg-type]
    )
    while True:
        async with transaction() as connection:
            if not await connection.scalar(query):
                return
        await asyncio.sleep(0.05)


async def _insert_parcels(carrier: str) -> None:
    """Insert shipped fulfillment orders."""
    now = datetime.now(UTC)
    orders, parcels = [], []
    for number in range(PARCELS):
        placed = an_order(f"{carrier}{number}", shop="pushes")
        orders.append(
            {
                "id": placed.order_id,
                "channel": placed.channel,
                "shop": placed.shop,
                "channel_order_no": placed.channel_order_no,
                "status": "shipped",
                "lines": [],
                "holds": [],
                "origin": {},
                "custom": {},
                "currency": placed.currency,
                "total": placed.total,
                "region": "浙江省 杭州市",
                "placed_at": now,
                "updated_at": now,
            }
        )
        parcels.append(
            {
                "id": f"{placed.order_id}:F1",
                "order_id": placed.order_id,
                "warehouse": "SH",
                "status": FulfillmentStatus.SHIPPED,
                "request_status": RequestStatus.ACCEPTED,
                "lines": [],
                "carrier": carrier,
                "waybill_no": _waybill(carrier, number),
                "opened_at": now,
                "shipped_at": now,
                "updated_at": now,
            }
        )
    async with transaction() as connection:
        await connection.execute(insert(OrderRow), orders)
        await connection.execute(insert(FulfillmentRow), parcels)
