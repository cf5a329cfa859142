"""The own site's twin, and the app's: tells of its orders in our own format, and takes our shipments, both signed.

Account: ``base_url`` ``{sandbox}/own/{shop}``; secret ``secret``.
"""

import hmac
import json
from collections.abc import Mapping
from time import time
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Delivery, Sale, Shipped, Shop, Shops

SECRETS: tuple[str, ...] = ("secret",)
PATH = "/{shop}"
"""Of the account's ``base_url``, below the twin."""
SETTINGS: dict[str, str] = {}


def sold(sale: Sale) -> dict[str, Any]:
    """The part of a message that a counter's has too. What was refunded is off the lines."""
    granted = {each.sku: each for each in sale.refunds.values() if each.state == "granted"}
    cancelled_at = sale.cancelled_at or (sale.modified if "" in granted else None)
    lines = [
        {
            "line_no": str(number),
            "sku": line.sku,
            "title": line.title,
            "quantity": line.quantity - (granted[line.sku].quantity if line.sku in granted else 0),
            "unit_price": str(line.price),
            "discount": str(line.discount),
        }
        for number, line in enumerate(sale.lines, 1)
    ]
    numbers = {line.sku: str(number) for number, line in enumerate(sale.lines, 1)}
    told = {
        "placed_at": sale.created.isoformat(),
        "paid_at": sale.paid_at and sale.paid_at.isoformat(),
        "cash_on_delivery": sale.cash_on_delivery,
        "cancelled_at": cancelled_at and cancelled_at.isoformat(),
        "lines": [line for line in lines if line["quantity"]],
        "freight": str(sale.freight),
        "total": str(sale.total - sum((each.amount for each in granted.values() if each.sku), sale.total * 0)),
        "recipient": sale.recipient,
        "buyer_message": sale.buyer_message,
        "seller_memo": sale.seller_memo,
        "urgent": sale.urgent,
        "carrier": sale.custom.get("carrier"),
        "promised_by": sale.custom.get("promised_by"),
        "custom": sale.custom,
        "refunds": [
            {
                "refund_no": each.refund_no,
                "state": each.state,
                "amount": str(each.amount),
                "quantity": each.quantity,
                "reason": each.reason,
                **({"line_no": numbers[each.sku]} if each.sku else {}),
            }
            for each in sale.refunds.values()
        ],
    }
    return {key: value for key, value in told.items() if value not in (None, "", {}, [])}


def _signature(secret: str, timestamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, "sha256").hexdigest()


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    event_id = f"evt_{sale.order_no}_{sale.modified.timestamp():.6f}"
    order = {"event_id": event_id, "order_no": sale.order_no, "updated_at": sale.modified.isoformat(), **sold(sale)}
    if delivery.garbage:
        order["lines"] = "?"
    body = json.dumps(order, ensure_ascii=False).encode()
    timestamp = str(int(time()))
    return {
        "Content-Type": "application/json",
        "Hengdan-Timestamp": timestamp,
        "Hengdan-Signature": f"v1={_signature(shop.secrets['secret'], timestamp, body)}",
    }, body


def playing(system: str, letter: str) -> tuple[APIRouter, Shops]:
    """Shops that speak our own format, whose orders' numbers begin with a letter."""
    router = APIRouter()
    shops = Shops(router, number=lambda sale, n: f"{letter}{n:08}", webhook=_webhook)

    @router.post("/{name}/shipments")
    async def shipments(name: str, request: Request) -> Response:
        """Takes a shipment once, however often it is told."""
        shop = shops.shop(name)
        told = await _authentic(shop, request)

        async def work() -> Response:
            if told["order_no"] not in shop.sales:
                return JSONResponse({"error": "order_no"}, 404)
            lines: dict[str, int] = {}
            for line in told["lines"]:
                lines[line["line_no"]] = line["quantity"]
            shipped = Shipped(
                order_no=told["order_no"], carrier=told["carrier"], waybill_no=told["waybill_no"], lines=lines
            )
            if all(each.waybill_no != shipped.waybill_no for each in shop.shipped(shipped.order_no)):
                shop.shipments.append(shipped)
            return JSONResponse({"received": True})

        return await faults.play(system, "shipments", told["order_no"], work)

    @router.post("/{name}/stock")
    async def stock(name: str, request: Request) -> Response:
        """Takes what it may sell; what begins with ``?`` it does not know."""
        shop = shops.shop(name)
        told = await _authentic(shop, request)

        async def work() -> Response:
            shop.pushes += 1
            known = {each["sku"]: each["quantity"] for each in told["stock"] if not each["sku"].startswith("?")}
            shop.stock |= known
            refused = [each["sku"] for each in told["stock"] if each["sku"] not in known]
            return JSONResponse({"refused": [{"sku": sku, "reason": "not sold here"} for sku in refused]})

        return await faults.play(system, "stock", f"{name} {told['stock']}", work)

    return router, shops


async def _authentic(shop: Shop, request: Request) -> Any:
    """The body. Raises 401 where it was not signed by us."""
    body = await request.body()
    timestamp = request.headers.get("hengdan-timestamp", "")
    signature = f"v1={_signature(shop.secrets['secret'], timestamp, body)}"
    if not hmac.compare_digest(signature, request.headers.get("hengdan-signature", "")):
        raise HTTPException(401, "signature")
    return json.loads(body)


router, shops = playing("own", "W")
