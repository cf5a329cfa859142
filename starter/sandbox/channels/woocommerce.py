"""WooCommerce's twin: REST v3 with Basic authentication, and webhooks signed as WooCommerce signs.

Account: ``base_url`` ``{sandbox}/woocommerce/{shop}``; secrets ``consumer_key``, ``consumer_secret``,
``webhook_secret``.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Delivery, Sale, Shipped, Shop, Shops

SECRETS: tuple[str, ...] = ("consumer_key", "consumer_secret", "webhook_secret")
PATH = "/{shop}"
"""Of the account's ``base_url``, below the twin."""
SETTINGS: dict[str, str] = {}

router = APIRouter()
_meta: dict[tuple[str, str], dict[str, str]] = {}
_notes: dict[tuple[str, str], list[dict[str, Any]]] = {}
_completed: set[tuple[str, str]] = set()


def _gmt(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _status(shop: Shop, sale: Sale) -> str:
    granted = [each for each in sale.refunds.values() if each.state == "granted"]
    if sale.status:
        return sale.status
    if sale.cancelled:
        return "cancelled"
    if any(not each.sku for each in granted):
        return "refunded"
    if (shop.name, sale.order_no) in _completed:
        return "completed"
    return "processing" if sale.paid or sale.cash_on_delivery else "pending"


def _refunds(sale: Sale) -> list[dict[str, Any]]:
    """Core knows only what was given back."""
    number = int(sale.order_no)
    found = []
    for at, each in enumerate(sale.refunds.values()):
        if each.state != "granted":
            continue
        lines = [
            {
                "quantity": -each.quantity,
                "total": f"-{each.amount:.2f}",
                "meta_data": [{"key": "_refunded_item_id", "value": str(number * 100 + line)}],
            }
            for line, sold in enumerate(sale.lines)
            if sold.sku == each.sku
        ]
        found.append({"id": number * 1000 + at, "reason": each.reason, "amount": str(each.amount), "line_items": lines})
    return found


def order(shop: Shop, sale: Sale) -> dict[str, Any]:
    number, person = int(sale.order_no), sale.recipient
    address = {
        "first_name": person.get("name", ""),
        "last_name": "",
        "address_1": person.get("district", ""),
        "address_2": person.get("street", ""),
        "city": person.get("city", ""),
        "state": person.get("province", ""),
        "postcode": person.get("postcode", ""),
        "country": person.get("country", "CN"),
        "phone": person.get("phone", ""),
    }
    lines = [
        {
            "id": number * 100 + at,
            "name": line.title or line.sku,
            "product_id": 9000 + at,
            "variation_id": 0,
            "quantity": line.quantity,
            "subtotal": f"{line.price * line.quantity:.2f}",
            "total": f"{line.price * line.quantity - line.discount:.2f}",
            "sku": line.sku,
        }
        for at, line in enumerate(sale.lines)
        if line.quantity
    ]
    meta = _meta.get((shop.name, sale.order_no), {})
    return {
        "id": number,
        "number": sale.order_no,
        "status": _status(shop, sale),
        "currency": "CNY",
        "date_created_gmt": _gmt(sale.created),
        "date_modified_gmt": _gmt(sale.modified),
        "date_paid_gmt": _gmt(sale.paid_at) if sale.paid_at else None,
        "shipping_total": f"{sale.freight:.2f}",
        "total": f"{sale.total:.2f}",
        "total_tax": "0.00",
        "customer_id": 0,
        "customer_note": sale.buyer_message,
        "payment_method": "cod" if sale.cash_on_delivery else "alipay",
        "billing": address,
        "shipping": address,
        "line_items": lines,
        "fee_lines": [],
        "refunds": [{"id": each["id"], "reason": "", "total": f"-{each['amount']}"} for each in _refunds(sale)],
        "meta_data": [{"id": at, "key": key, "value": value} for at, (key, value) in enumerate(meta.items())],
    }


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    told = order(shop, sale)
    if delivery.garbage:
        told["line_items"] = "?"
    body = json.dumps(told, ensure_ascii=False).encode()
    signature = hmac.digest(shop.secrets["webhook_secret"].encode(), body, "sha256")
    return {
        "Content-Type": "application/json",
        "X-WC-Webhook-Source": f"https://{shop.name}.example/",
        "X-WC-Webhook-Topic": delivery.topic or ("order.created" if sale.modified == sale.created else "order.updated"),
        "X-WC-Webhook-Resource": "order",
        "X-WC-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-WC-Webhook-Delivery-ID": str(uuid4()),
    }, body


shops = Shops(router, number=lambda sale, n: str(7000 + n), webhook=_webhook)
_API = "/{name}/wp-json/wc/v3"


def _refusal(code: str, status: int) -> JSONResponse:
    return JSONResponse({"code": f"woocommerce_rest_{code}", "message": code, "data": {"status": status}}, status)


def _shop(name: str, request: Request) -> Shop | None:
    shop = shops.shop(name)
    expected = f"{shop.secrets['consumer_key']}:{shop.secrets['consumer_secret']}"
    given = request.headers.get("authorization", "").removeprefix("Basic ")
    return shop if hmac.compare_digest(base64.b64encode(expected.encode()).decode(), given) else None


@router.get(_API + "/orders")
async def orders(name: str, request: Request) -> Response:
    shop = _shop(name, request)
    if shop is None:
        return _refusal("cannot_view", 401)
    query = request.query_params

    def within(sale: Sale) -> bool:
        changed, created = _gmt(sale.modified), _gmt(sale.created)
        return (
            query.get("modified_after", "") < changed < query.get("modified_before", "9")
            and query.get("after", "") < created < query.get("before", "9")
        )  # fmt: skip

    async def work() -> Response:
        found = sorted((sale for sale in shop.sales.values() if within(sale)), key=lambda sale: int(sale.order_no))
        size, page = int(query.get("per_page", "10")), int(query.get("page", "1"))
        headers = {"X-WP-Total": str(len(found)), "X-WP-TotalPages": str(ceil(len(found) / size))}
        shown = [order(shop, sale) for sale in found[(page - 1) * size : page * size]]
        return JSONResponse(shown, headers=headers)

    return await faults.play("woocommerce", "orders", name, work)


@router.get(_API + "/orders/{order_no}")
async def read(name: str, order_no: str, request: Request) -> Response:
    shop = _shop(name, request)
    if shop is None:
        return _refusal("cannot_view", 401)

    async def work() -> Response:
        sale = shop.sales.get(order_no)
        return JSONResponse(order(shop, sale)) if sale else _refusal("shop_order_invalid_id", 404)

    return await faults.play("woocommerce", "read", order_no, work)


@router.get(_API + "/orders/{order_no}/refunds")
async def refunds(name: str, order_no: str, request: Request) -> Response:
    shop = _shop(name, request)
    if shop is None or order_no not in shop.sales:
        return _refusal("shop_order_invalid_id", 404)
    return JSONResponse(_refunds(shop.sales[order_no]))


@router.get(_API + "/orders/{order_no}/notes")
async def notes(name: str, order_no: str, request: Request) -> Response:
    shop = _shop(name, request)
    if shop is None or order_no not in shop.sales:
        return _refusal("shop_order_invalid_id", 404)
    return JSONResponse(_notes.get((name, order_no), []))


@router.post(_API + "/orders/{order_no}/notes")
async def note(name: str, order_no: str, request: Request) -> Response:
    shop, told = _shop(name, request), await request.json()
    if shop is None or order_no not in shop.sales:
        return _refusal("shop_order_invalid_id", 404)
    kept = _notes.setdefault((name, order_no), [])
    kept.append({"id": len(kept) + 1, **told})
    return JSONResponse(kept[-1], 201)


@router.put(_API + "/orders/{order_no}")
async def change(name: str, order_no: str, request: Request) -> Response:
    """Takes what our adapter keeps in the order's meta, and the status."""
    shop, told = _shop(name, request), await request.json()
    if shop is None or order_no not in shop.sales:
        return _refusal("shop_order_invalid_id", 404)

    async def work() -> Response:
        sale = shop.sales[order_no]
        for each in told.get("meta_data", []):
            _meta.setdefault((name, order_no), {})[each["key"]] = each["value"]
            parcel, waybill_no = json.loads(each["value"]), each["key"].rpartition("_")[2]
            if all(known.waybill_no != waybill_no for known in shop.shipped(order_no)):
                shop.shipments.append(
                    Shipped(order_no=order_no, carrier=parcel["carrier"], waybill_no=waybill_no, lines=parcel["lines"])
                )
        if told.get("status") == "completed":
            _completed.add((name, order_no))
        sale.modified = datetime.now(UTC)
        return JSONResponse(order(shop, sale))

    return await faults.play("woocommerce", "change", order_no, work)


@router.post(_API + "/products/batch")
async def products(name: str, request: Request) -> Response:
    return await _stock(name, "", request)


@router.post(_API + "/products/{product}/variations/batch")
async def variations(name: str, product: str, request: Request) -> Response:
    return await _stock(name, f"{product}/", request)


async def _stock(name: str, product: str, request: Request) -> Response:
    """Takes quantities; a product from 900000 on does not exist."""
    shop, told = _shop(name, request), await request.json()
    if shop is None:
        return _refusal("cannot_edit", 401)

    async def work() -> Response:
        shop.pushes += 1
        answer: list[dict[str, Any]] = []
        for each in told["update"]:
            if each["id"] >= 900_000:
                fault = {
                    "code": "woocommerce_rest_product_invalid_id",
                    "message": "Invalid ID.",
                    "data": {"status": 400},
                }
                answer.append({"id": each["id"], "error": fault})
            else:
                shop.stock[f"{product}{each['id']}"] = each["stock_quantity"]
                answer.append(each)
        return JSONResponse({"update": answer})

    return await faults.play("woocommerce", "stock", f"{name} {told}", work)
