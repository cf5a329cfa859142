"""Shopify's twin: signed webhooks, REST pages with Link headers, GraphQL for fulfillments and stock.

Account: ``base_url`` ``{sandbox}/shopify``; secrets ``client_secret``, ``access_token``. Responses depend on the
operation that a GraphQL call names: there is no GraphQL engine.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Delivery, Refund, Sale, Shipped, Shop, Shops

SECRETS: tuple[str, ...] = ("client_id", "client_secret", "access_token", "refresh_token")
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {}

router = APIRouter()


@router.post("/admin/oauth/access_token")
async def refresh(request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode()))
    names = ("client_id", "client_secret", "refresh_token")
    shop = shops.find(**{name: form.get(name) for name in names})
    if shop is None:
        return JSONResponse({"error": "invalid_request"}, 400)
    tokens = shop.renew("access_token", "refresh_token")
    return JSONResponse({**tokens, "expires_in": 3600, "refresh_token_expires_in": 7_776_000})


def _granted(sale: Sale) -> list[Refund]:
    return [each for each in sale.refunds.values() if each.state == "granted"]


def order(sale: Sale, shop: Shop | None = None) -> dict[str, Any]:
    """Return a sale as Shopify does: money as text, ids as 64-bit numbers."""
    number = int(sale.order_no)
    refunded = {each.sku: each for each in _granted(sale)}
    refunded_amount = sum((each.amount for each in refunded.values()), sale.total * 0)
    sent = shop is not None and bool(shop.shipped(sale.order_no))
    whole = sent and not any(_unfulfilled(shop, sale).values()) if shop else False
    person = sale.recipient
    first, _, last = person.get("name", "").partition(" ")
    address = {
        "name": person.get("name"),
        "first_name": first,
        "last_name": last,
        "phone": person.get("phone"),
        "address1": person.get("street"),
        "address2": person.get("district"),
        "city": person.get("city"),
        "province": person.get("province"),
        "zip": person.get("postcode"),
        "country_code": person.get("country", "CN"),
        "company": None,
    }
    lines = [
        {
            "id": number + 1 + at,
            "variant_id": 39_000_000_000 + at,
            "sku": line.sku,
            "title": line.title or line.sku,
            "quantity": line.quantity,
            "current_quantity": line.quantity - (refunded[line.sku].quantity if line.sku in refunded else 0),
            "fulfillable_quantity": line.quantity,
            "price": f"{line.price:.2f}",
            "discount_allocations": [{"amount": f"{line.discount:.2f}"}] if line.discount else [],
            "requires_shipping": True,
            "fulfillment_status": None,
        }
        for at, line in enumerate(sale.lines)
    ]
    return {
        "id": number,
        "admin_graphql_api_id": f"gid://shopify/Order/{number}",
        "name": f"#{number // 1000 % 100_000}",
        "test": False,
        "created_at": _time(sale.created),
        "updated_at": _time(sale.modified),
        "cancelled_at": _time(sale.cancelled_at) if sale.cancelled_at else None,
        "cancel_reason": "customer" if sale.cancelled else None,
        "financial_status": sale.status
        or ("refunded" if "" in refunded else "partially_refunded" if refunded else "paid" if sale.paid else "pending"),
        "fulfillment_status": "fulfilled" if whole else "partial" if sent else None,
        "source_name": "web",
        "landing_site": "/?utm_campaign=autumn",
        "payment_gateway_names": ["Cash on Delivery (COD)"] if sale.cash_on_delivery else ["shopify_payments"],
        "currency": "CNY",
        "total_price": f"{sale.total:.2f}",
        "current_total_price": f"{sale.total - refunded_amount:.2f}",
        "subtotal_price": f"{sale.total - sale.freight:.2f}",
        "total_discounts": f"{sum(line.discount for line in sale.lines):.2f}",
        "total_tax": "0.00",
        "taxes_included": True,
        "tags": "urgent" if sale.urgent else "",
        "note": sale.buyer_message or None,
        "customer": {"id": 207_119_551, "phone": None},
        "shipping_address": address,
        "shipping_lines": [{"title": "Standard", "price": f"{sale.freight:.2f}", "discount_allocations": []}],
        "line_items": lines,
        "refunds": [
            {
                "id": int(each.refund_no),
                "note": each.reason,
                "refund_line_items": [
                    {"line_item_id": number + 1 + at, "quantity": each.quantity, "subtotal": f"{each.amount:.2f}"}
                    for at, line in enumerate(sale.lines)
                    if line.sku == each.sku
                ],
                "transactions": [{"kind": "refund", "amount": f"{each.amount:.2f}"}],
            }
            for each in refunded.values()
        ],
    }


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(timespec="seconds")


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    body = json.dumps(order(sale, shop)).replace("/", "\\/").encode()
    if delivery.garbage:
        body = json.dumps({**order(sale, shop), "line_items": "?"}).encode()
    secret = shop.secrets["client_secret"].encode()
    return {
        "Content-Type": "application/json",
        "X-Shopify-Topic": delivery.topic or _topic(sale),
        "X-Shopify-Hmac-Sha256": base64.b64encode(hmac.digest(secret, body, sha256)).decode(),
        "X-Shopify-Shop-Domain": f"{shop.name}.myshopify.com",
        "X-Shopify-Webhook-Id": str(uuid4()),
        "X-Shopify-API-Version": "2026-10",
    }, body


def _topic(sale: Sale) -> str:
    if sale.cancelled:
        return "orders/cancelled"
    return "orders/create" if sale.modified == sale.created else "orders/updated"


shops = Shops(
    router, number=lambda sale, n: str(820_982_911_946_000_000 + n * 1000), webhook=_webhook, expiring="access_token"
)


def _shop(request: Request) -> Shop | None:
    token = request.headers.get("x-shopify-access-token", "")
    return None if token in shops.expired else shops.find(access_token=token)


_UNAUTHORISED = "[API] Invalid API key or access token (unrecognized login or wrong password)"


@router.get("/admin/api/{version}/orders.json")
async def orders(version: str, request: Request) -> Response:
    """Return a page of ``limit`` orders; the Link header names the next by ``page_info``."""

    async def work() -> Response:
        if (shop := _shop(request)) is None:
            return JSONResponse({"errors": _UNAUTHORISED}, 401)
        query = dict(request.query_params)
        if "page_info" in query:
            query |= json.loads(base64.urlsafe_b64decode(query["page_info"]))
        by, moment = ("updated_at", "modified") if "updated_at_min" in query else ("created_at", "created")
        window = (f"{by}_min", f"{by}_max")
        low, high = (datetime.fromisoformat(query[key]) for key in window)
        changed = (sale for sale in shop.sales.values() if low <= getattr(sale, moment).replace(microsecond=0) <= high)
        found = sorted(changed, key=lambda sale: sale.order_no)
        at, limit = int(query.get("at", 0)), min(int(query.get("limit", 50)), _LARGEST_PAGE)
        headers = {}
        if at + limit < len(found):
            rest = {key: query[key] for key in window} | {"at": at + limit}
            info = base64.urlsafe_b64encode(json.dumps(rest).encode()).decode()
            url = request.url.replace(query=urlencode({"limit": limit, "page_info": info}))
            headers["Link"] = f'<{url}>; rel="next"'
        return JSONResponse({"orders": [order(sale, shop) for sale in found[at : at + limit]]}, headers=headers)

    return await faults.play("shopify", "orders.json", "", work, _limited)


@router.get("/admin/api/{version}/orders/{order_no}.json")
async def read(version: str, order_no: str, request: Request) -> Response:
    if (shop := _shop(request)) is None:
        return JSONResponse({"errors": _UNAUTHORISED}, 401)
    sale = shop.sales.get(order_no)
    return JSONResponse({"order": order(sale, shop)}) if sale else JSONResponse({"errors": "Not Found"}, 404)


def _limited(seconds: int) -> Response:
    return JSONResponse({"errors": "Exceeded 2 calls per second"}, 429, {"Retry-After": f"{seconds}.0"})


_LARGEST_PAGE = 250


@router.post("/admin/api/{version}/graphql.json")
async def graphql(version: str, request: Request) -> Response:
    call = await request.json()
    mutations = {"fulfillmentCreate": "fulfillmentCreate", "inventorySetQuantities": "stock"}
    operation = next((name for mutation, name in mutations.items() if mutation in call["query"]), "order")

    async def work() -> Response:
        if (shop := _shop(request)) is None:
            return JSONResponse({"errors": _UNAUTHORISED}, 401)
        if operation == "order":
            return JSONResponse({"data": {"order": _order(shop, call["variables"]["id"])}})
        if operation == "stock":
            return JSONResponse(_stock(shop, call))
        return JSONResponse({"data": {"fulfillmentCreate": _fulfill(shop, call["variables"]["fulfillment"])}})

    return await faults.play("shopify", operation, json.dumps(call["variables"]), work, _throttled)


def _throttled(seconds: int) -> Response:
    status = {"maximumAvailable": 2000.0, "currentlyAvailable": 0.0, "restoreRate": 100.0}
    cost = {"requestedQueryCost": seconds * 100, "actualQueryCost": None, "throttleStatus": status}
    errors = [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]
    return JSONResponse({"errors": errors, "extensions": {"cost": cost}})


def _unfulfilled(shop: Shop, sale: Sale) -> dict[int, int]:
    """Return the quantities not fulfilled yet, by the position of the line."""
    unfulfilled = {at: line.quantity for at, line in enumerate(sale.lines)}
    for shipped in shop.shipped(sale.order_no):
        for line, quantity in shipped.lines.items():
            unfulfilled[int(line) - int(sale.order_no) - 1] -= quantity
    return unfulfilled


def _order(shop: Shop, gid: str) -> dict[str, Any] | None:
    sale = shop.sales.get(gid.rpartition("/")[2])
    if sale is None:
        return None
    number = int(sale.order_no)
    unfulfilled = _unfulfilled(shop, sale)
    items = [
        {
            "id": f"gid://shopify/FulfillmentOrderLineItem/{number + 1 + at}",
            "remainingQuantity": quantity,
            "lineItem": {"id": f"gid://shopify/LineItem/{number + 1 + at}"},
        }
        for at, quantity in unfulfilled.items()
    ]
    fulfillments = [
        {
            "status": "SUCCESS",
            "trackingInfo": [{"number": shipped.waybill_no}],
            "fulfillmentLineItems": {
                "nodes": [
                    {"quantity": quantity, "lineItem": {"id": f"gid://shopify/LineItem/{line}"}}
                    for line, quantity in shipped.lines.items()
                ]
            },
        }
        for shipped in shop.shipped(sale.order_no)
    ]
    fulfillment_order = {
        "id": f"gid://shopify/FulfillmentOrder/{number}",
        "status": "OPEN" if any(unfulfilled.values()) else "CLOSED",
        "assignedLocation": {"location": {"id": "gid://shopify/Location/1"}},
        "lineItems": {"nodes": items},
    }
    return {"fulfillments": fulfillments, "fulfillmentOrders": {"nodes": [fulfillment_order]}}


def _fulfill(shop: Shop, fulfillment: dict[str, Any]) -> dict[str, Any]:
    def refused(field: str, message: str) -> dict[str, Any]:
        return {"fulfillment": None, "userErrors": [{"field": ["fulfillment", field], "message": message}]}

    tracking = fulfillment.get("trackingInfo") or {}
    for part in fulfillment["lineItemsByFulfillmentOrder"]:
        sale = shop.sales.get(part["fulfillmentOrderId"].rpartition("/")[2])
        if sale is None:
            return refused("fulfillmentOrderId", "Fulfillment order does not exist.")
        if sale.cancelled:
            return refused("fulfillmentOrderId", "Fulfillment order has been cancelled.")
        unfulfilled = _unfulfilled(shop, sale)
        base = int(sale.order_no) + 1
        items = part.get("fulfillmentOrderLineItems") or [
            {"id": str(base + at), "quantity": quantity} for at, quantity in unfulfilled.items() if quantity
        ]
        lines = {item["id"].rpartition("/")[2]: item["quantity"] for item in items}
        if not lines or any(quantity > unfulfilled.get(int(line) - base, 0) for line, quantity in lines.items()):
            return refused("fulfillmentOrderLineItems", "Invalid fulfillment order line item quantity requested.")
        shop.shipments.append(
            Shipped(
                order_no=sale.order_no,
                carrier=tracking.get("company", ""),
                waybill_no=tracking.get("number", ""),
                lines=lines,
            )
        )
    return {"fulfillment": {"id": "gid://shopify/Fulfillment/1", "status": "SUCCESS"}, "userErrors": []}


def _stock(shop: Shop, call: dict[str, Any]) -> dict[str, Any]:
    """Play ``inventorySetQuantities`` of version 2026-04: all or none. Items that begin with 404 are unknown."""

    def failed(code: str, message: str) -> dict[str, Any]:
        return {"errors": [{"message": message, "extensions": {"code": code}}]}

    shop.pushes += 1
    variables = call["variables"]
    quantities = variables["input"]["quantities"]
    if "@idempotent(key:" not in call["query"] or not variables.get("key"):
        return failed("BAD_REQUEST", "The @idempotent directive is required for this mutation but was not provided.")
    if len(quantities) > _LARGEST_PAGE:
        message = f"The input array size of {len(quantities)} is greater than the maximum allowed of {_LARGEST_PAGE}."
        return failed("MAX_INPUT_SIZE_EXCEEDED", message)
    if "ignoreCompareQuantity" in variables["input"] or any("changeFromQuantity" not in each for each in quantities):
        message = "InventoryQuantityInput must include the following argument: changeFromQuantity."
        return failed("INVALID_FIELD_ARGUMENTS", message)
    levels: dict[str, int] = {}
    errors: list[dict[str, Any]] = []
    for at, each in enumerate(quantities):
        number = each["inventoryItemId"].rpartition("/")[2]
        problem = None
        if number.startswith("404"):
            problem = ("INVALID_INVENTORY_ITEM", "inventoryItemId", "The specified inventory item could not be found.")
        elif not each["locationId"].startswith("gid://shopify/Location/"):
            problem = ("INVALID_LOCATION", "locationId", "The specified location could not be found.")
        elif each["quantity"] < 0:
            problem = ("INVALID_QUANTITY_NEGATIVE", "quantity", "The quantity can't be negative.")
        if problem:
            code, field, message = problem
            errors.append({"code": code, "field": ["input", "quantities", str(at), field], "message": message})
        levels[number] = each["quantity"]
    if not errors:
        shop.stock |= levels
    return {"data": {"inventorySetQuantities": {"userErrors": errors}}}
