"""WooCommerce's twin: signed webhooks, REST pages, refunds, notes, meta data, stock in batches.

Account: ``base_url`` ``{sandbox}/woocommerce/{shop}``; secrets ``consumer_key``, ``consumer_secret``,
``webhook_secret``.
"""

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hmac import compare_digest
from itertools import count
from math import ceil
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Delivery, Sale, Shipped, Shop, Shops

SECRETS: tuple[str, ...] = ("consumer_key", "consumer_secret", "webhook_secret")
PATH = "/{shop}"
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {}

router = APIRouter()
_LARGEST_PAGE = 100
_PARCEL = "_hengdan_parcel_"
_numbers = count(1)
_notes: dict[str, list[dict[str, Any]]] = {}
_meta: dict[str, dict[str, Any]] = {}
"""Notes and meta data of orders, by ``{shop}/{order}``."""


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"code": code, "message": message, "data": {"status": status}}, status)


def _status(sale: Sale) -> str:
    if sale.cancelled:
        return "cancelled"
    if sale.status:
        return sale.status
    if _refunded(sale) >= sale.total > 0:
        return "refunded"
    return "processing" if sale.paid or sale.cash_on_delivery else "pending"


def _refunded(sale: Sale) -> Decimal:
    return sum((each.amount for each in sale.refunds.values() if each.state == "granted"), Decimal(0))


def _line_id(sale: Sale, at: int) -> int:
    return int(sale.order_no) * 100 + at


def order(shop: Shop, sale: Sale) -> dict[str, Any]:
    """Return a sale as WooCommerce does: money as text, a line's price as a number, times without a zone."""
    number = int(sale.order_no)
    person = sale.recipient
    address = {
        "first_name": person.get("name", ""),
        "last_name": "",
        "company": "",
        "address_1": person.get("street", ""),
        "address_2": person.get("district", ""),
        "city": person.get("city", ""),
        "state": person.get("province", ""),
        "postcode": person.get("postcode", ""),
        "country": person.get("country", "CN"),
        "phone": person.get("phone", ""),
    }
    lines = [
        {
            "id": _line_id(sale, at),
            "name": line.title or line.sku,
            "product_id": 9000 + at,
            "variation_id": 0,
            "quantity": line.quantity,
            "subtotal": f"{line.price * line.quantity:.2f}",
            "total": f"{line.price * line.quantity - line.discount:.2f}",
            "total_tax": "0.00",
            "sku": line.sku,
            "price": float(line.price),
            "meta_data": [],
        }
        for at, line in enumerate(sale.lines)
    ]
    granted = [each for each in sale.refunds.values() if each.state == "granted"]
    meta = _meta.get(f"{shop.name}/{sale.order_no}", {})
    return {
        "id": number,
        "number": sale.order_no,
        "status": _status(sale),
        "created_via": "checkout",
        "currency": "CNY",
        "date_created": _time(sale.created),
        "date_created_gmt": _time(sale.created),
        "date_modified_gmt": _time(sale.modified),
        "date_paid_gmt": _time(sale.paid_at) if sale.paid_at else None,
        "date_completed_gmt": _time(sale.modified) if sale.status == "completed" else None,
        "discount_total": f"{sum(line.discount for line in sale.lines):.2f}",
        "shipping_total": f"{sale.freight:.2f}",
        "total": f"{sale.total:.2f}",
        "total_tax": "0.00",
        "prices_include_tax": False,
        "customer_id": 0,
        "customer_note": sale.buyer_message,
        "billing": {**address, "email": "buyer@example.com"},
        "shipping": address,
        "payment_method": "cod" if sale.cash_on_delivery else "bacs",
        "line_items": lines,
        "shipping_lines": [{"id": number * 100 + 99, "method_title": "Flat Rate", "method_id": "flat_rate"}],
        "fee_lines": [],
        "coupon_lines": [],
        "refunds": [
            {"id": _refund_id(sale, at), "reason": each.reason, "total": f"-{each.amount:.2f}"}
            for at, each in enumerate(granted)
        ],
        "meta_data": [{"id": at, "key": key, "value": value} for at, (key, value) in enumerate(meta.items(), 1)],
        **sale.custom,
    }


def _refund_id(sale: Sale, at: int) -> int:
    return int(sale.order_no) * 1000 + at


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    if delivery.topic == "ping":
        return {"Content-Type": "application/x-www-form-urlencoded"}, b"webhook_id=42"
    topic = delivery.topic or ("order.created" if sale.modified == sale.created else "order.updated")
    content: dict[str, Any] = {"id": int(sale.order_no)} if topic == "order.deleted" else order(shop, sale)
    if delivery.garbage:
        content["line_items"] = "?"
    body = json.dumps(content).encode()
    signature = base64.b64encode(hmac.digest(shop.secrets["webhook_secret"].encode(), body, "sha256")).decode()
    resource, _, event = topic.partition(".")
    return {
        "Content-Type": "application/json",
        "X-WC-Webhook-Source": "https://shop.example.com/",
        "X-WC-Webhook-Topic": topic,
        "X-WC-Webhook-Resource": resource,
        "X-WC-Webhook-Event": event,
        "X-WC-Webhook-Signature": signature,
        "X-WC-Webhook-ID": "42",
        "X-WC-Webhook-Delivery-ID": str(next(_numbers)),
    }, body


shops = Shops(router, number=lambda sale, n: str(700 + n), webhook=_webhook)


async def _play(name: str, request: Request, operation: str, text: str, work: Callable[[Shop], Response]) -> Response:
    body = await request.body()

    async def answer() -> Response:
        try:
            return work(_authenticated(name, request))
        except Refusal as refusal:
            return refusal.answer

    return await faults.play("woocommerce", operation, f"{name} {text} {body.decode()}", answer)


def _authenticated(name: str, request: Request) -> Shop:
    shop = shops.shop(name)
    keys = f"{shop.secrets['consumer_key']}:{shop.secrets['consumer_secret']}"
    expected = f"Basic {base64.b64encode(keys.encode()).decode()}"
    if not compare_digest(expected, request.headers.get("authorization", "")):
        raise Refusal(401, "woocommerce_rest_cannot_view", "Sorry, you cannot list resources.")
    return shop


def _sale(shop: Shop, order_no: str) -> Sale:
    if order_no not in shop.sales:
        raise Refusal(404, "woocommerce_rest_shop_order_invalid_id", "Invalid ID.")
    return shop.sales[order_no]


@router.get("/{name}/wp-json/wc/v3/orders")
async def orders(name: str, request: Request) -> Response:
    query = dict(request.query_params)

    def work(shop: Shop) -> Response:
        field = "modified" if "modified_after" in query else "created"
        prefix = "modified_" if field == "modified" else ""
        found = [
            sale
            for sale in shop.sales.values()
            if query[f"{prefix}after"] < _time(getattr(sale, field)) < query[f"{prefix}before"]
            and _status(sale) != "trash"
        ]
        found.sort(key=lambda sale: int(sale.order_no))
        size, number = int(query.get("per_page", 10)), int(query.get("page", 1))
        if not 1 <= size <= 100:
            raise Refusal(400, "rest_invalid_param", "Invalid parameter(s): per_page")
        size = min(size, _LARGEST_PAGE)
        headers = {"X-WP-Total": str(len(found)), "X-WP-TotalPages": str(ceil(len(found) / size))}
        page = [order(shop, sale) for sale in found[(number - 1) * size : number * size]]
        if fields := query.get("_fields"):
            page = [{key: each[key] for key in fields.split(",")} for each in page]
        return JSONResponse(page, headers=headers)

    return await _play(name, request, "orders", "", work)


@router.get("/{name}/wp-json/wc/v3/orders/{order_no}")
async def get_order(name: str, order_no: str, request: Request) -> Response:
    return await _play(name, request, "order", order_no, lambda shop: JSONResponse(order(shop, _sale(shop, order_no))))


@router.put("/{name}/wp-json/wc/v3/orders/{order_no}")
async def update_order(name: str, order_no: str, request: Request) -> Response:
    """Update an order; meta data with the same key are replaced."""
    content = json.loads(await request.body())

    def work(shop: Shop) -> Response:
        sale = _sale(shop, order_no)
        saved = _meta.setdefault(f"{shop.name}/{order_no}", {})
        parcels = {meta["key"]: meta["value"] for meta in content.get("meta_data", []) if _PARCEL in meta["key"]}
        saved |= {meta["key"]: meta["value"] for meta in content.get("meta_data", [])}
        for key, lines in parcels.items():
            waybill_no = key.removeprefix(_PARCEL)
            tracked = saved["_wc_shipment_tracking_items"]
            carrier = next(each for each in tracked if each["tracking_number"] == waybill_no)
            shop.shipments.append(
                Shipped(
                    order_no=order_no, carrier=carrier["custom_tracking_provider"], waybill_no=waybill_no, lines=lines
                )
            )
        sale.status = content.get("status", sale.status)
        sale.modified = datetime.now(UTC)
        return JSONResponse(order(shop, sale))

    return await _play(name, request, "update", order_no, work)


@router.get("/{name}/wp-json/wc/v3/orders/{order_no}/refunds")
async def refunds(name: str, order_no: str, request: Request) -> Response:
    def work(shop: Shop) -> Response:
        sale = _sale(shop, order_no)
        granted = [each for each in sale.refunds.values() if each.state == "granted"]
        documents = []
        for number, refund in enumerate(granted):
            lines = [
                {
                    "id": _refund_id(sale, number) * 100 + at,
                    "name": line.sku,
                    "quantity": -refund.quantity,
                    "total": f"-{refund.amount:.2f}",
                    "total_tax": "0.00",
                    "meta_data": [{"id": 1, "key": "_refunded_item_id", "value": str(_line_id(sale, at))}],
                }
                for at, line in enumerate(sale.lines)
                if line.sku == refund.sku
            ]
            documents.append(
                {
                    "id": _refund_id(sale, number),
                    "date_created_gmt": _time(sale.modified),
                    "amount": f"{refund.amount:.2f}",
                    "reason": refund.reason,
                    "refunded_payment": False,
                    "line_items": lines,
                }
            )
        return JSONResponse(documents)

    return await _play(name, request, "refunds", order_no, work)


@router.get("/{name}/wp-json/wc/v3/orders/{order_no}/notes")
async def notes(name: str, order_no: str, request: Request) -> Response:
    def work(shop: Shop) -> Response:
        _sale(shop, order_no)
        return JSONResponse(_notes.get(f"{name}/{order_no}", []))

    return await _play(name, request, "notes", order_no, work)


@router.post("/{name}/wp-json/wc/v3/orders/{order_no}/notes")
async def create_note(name: str, order_no: str, request: Request) -> Response:
    content = json.loads(await request.body())

    def work(shop: Shop) -> Response:
        _sale(shop, order_no)
        note = {"id": next(_numbers), "author": "system", **content}
        _notes.setdefault(f"{name}/{order_no}", []).append(note)
        return JSONResponse(note, 201)

    return await _play(name, request, "note", order_no, work)


@router.post("/{name}/wp-json/wc/v3/products/batch")
async def products(name: str, request: Request) -> Response:
    return await _stock(name, request, "woocommerce_rest_product_invalid_id")


@router.post("/{name}/wp-json/wc/v3/products/{product}/variations/batch")
async def variations(name: str, product: str, request: Request) -> Response:
    return await _stock(name, request, "woocommerce_rest_product_variation_invalid_id", product)


async def _stock(name: str, request: Request, code: str, product: str = "") -> Response:
    """Set each quantity on its own. Products and variations whose number begins with 404 are unknown."""
    content = json.loads(await request.body())

    def work(shop: Shop) -> Response:
        shop.pushes += 1
        if len(content["update"]) > _LARGEST_PAGE:
            message = "Unable to accept more than 100 items for this request."
            raise Refusal(413, "woocommerce_rest_request_entity_too_large", message)
        answers: list[dict[str, Any]] = []
        for each in content["update"]:
            if str(each["id"]).startswith("404") or product.startswith("404"):
                error = {"code": code, "message": "Invalid ID.", "data": {"status": 400}}
                answers.append({"id": each["id"], "error": error})
            else:
                shop.stock[str(each["id"])] = each["stock_quantity"] if each.get("manage_stock") else 0
                answers.append({"id": each["id"], "stock_quantity": shop.stock[str(each["id"])]})
        return JSONResponse({"update": answers})

    return await _play(name, request, "stock", "", work)
