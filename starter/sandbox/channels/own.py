"""The own site's twin, and the app's: sends orders in our own format and receives shipments and stock, all signed.

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
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {}


def sold(sale: Sale) -> dict[str, Any]:
    """Return the part of a message that counter sales share. Refunded pieces are off the lines."""
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
    message = {
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
    return {key: value for key, value in message.items() if value not in (None, "", {}, [])}


def _signature(secret: str, timestamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, "sha256").hexdigest()


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    event_id = f"evt_{sale.order_no}_{sale.modified.timestamp():.6f}"
    order = {"event_id": event_id, "order_no": sale.order_no, "updated_at": sale.modified.isoformat(), **sold(sale)}
    if delivery.garbage:
        order["lines"] = "?"
    if delivery.poison:
        order |= {"order_no": "\0", "\0": "\ud800"}
    body = json.dumps(order, ensure_ascii=delivery.poison).encode()
    timestamp = str(int(time()))
    return {
        "Content-Type": "application/json",
        "Hengdan-Timestamp": timestamp,
        "Hengdan-Signature": f"v1={_signature(shop.secrets['secret'], timestamp, body)}",
    }, body


def site(system: str, letter: str) -> tuple[APIRouter, Shops]:
    """Return shops that use our own format; ``letter`` begins their order numbers."""
    router = APIRouter()
    shops = Shops(router, number=lambda sale, n: f"{letter}{n:08}", webhook=_webhook)

    @router.post("/{name}/shipments")
    async def shipments(name: str, request: Request) -> Response:
        """Record a shipment once, however often it is reported."""
        shop = shops.shop(name)
        message = await _authentic(shop, request)

        async def work() -> Response:
            if message["order_no"] not in shop.sales:
                return JSONResponse({"error": "order_no"}, 404)
            lines: dict[str, int] = {}
            for line in message["lines"]:
                lines[line["line_no"]] = line["quantity"]
            shipped = Shipped(
                order_no=message["order_no"], carrier=message["carrier"], waybill_no=message["waybill_no"], lines=lines
            )
            if all(each.waybill_no != shipped.waybill_no for each in shop.shipped(shipped.order_no)):
                shop.shipments.append(shipped)
            return JSONResponse({"received": True})

        return await faults.play(system, "shipments", message["order_no"], work)

    @router.post("/{name}/stock")
    async def stock(name: str, request: Request) -> Response:
        """Set the quantities; SKUs that begin with ``?`` are unknown."""
        shop = shops.shop(name)
        message = await _authentic(shop, request)

        async def work() -> Response:
            shop.pushes += 1
            known = {each["sku"]: each["quantity"] for each in message["stock"] if not each["sku"].startswith("?")}
            shop.stock |= known
            refused = [each["sku"] for each in message["stock"] if each["sku"] not in known]
            return JSONResponse({"refused": [{"sku": sku, "reason": "not sold here"} for sku in refused]})

        return await faults.play(system, "stock", f"{name} {message['stock']}", work)

    return router, shops


async def _authentic(shop: Shop, request: Request) -> Any:
    """Return the body. Raises 401 where the signature does not match."""
    body = await request.body()
    timestamp = request.headers.get("hengdan-timestamp", "")
    signature = f"v1={_signature(shop.secrets['secret'], timestamp, body)}"
    if not hmac.compare_digest(signature, request.headers.get("hengdan-signature", "")):
        raise HTTPException(401, "signature")
    return json.loads(body)


router, shops = site("own", "W")
