"""Amazon's twin: the Selling Partner API's orders, listings and restricted tokens, Login with Amazon, and ORDER_CHANGE.

Account: ``base_url`` ``{sandbox}/amazon/{shop}``, the same as setting ``lwa_url``; secrets ``client_id``,
``client_secret``, ``refresh_token``, ``access_token``, ``notification_key``; settings ``marketplace_id``,
``seller_id``.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Delivery, Sale, Shipped, Shop, Shops

SECRETS: tuple[str, ...] = ("client_id", "client_secret", "refresh_token", "access_token", "notification_key")
PATH = "/{shop}"
"""Of the account's ``base_url``, below the twin."""
SETTINGS: dict[str, str] = {
    "lwa_url": "{url}",
    "marketplace_id": "AAHKV2X7AFYLW",
    "seller_id": "A1",
    "pace_seconds": "0",
}

router = APIRouter()
_expired: set[str] = set()
_restricted: dict[str, str] = {}
"""Paths by restricted data token."""


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    """As an EventBridge API destination posts it."""
    changed = {
        "NotificationLevel": "OrderLevel",
        "SellerId": "A1",
        "AmazonOrderId": sale.order_no,
        "OrderChangeType": "OrderStatusChange",
        "OrderChangeTrigger": {"TimeOfOrderChange": _iso(sale.modified), "ChangeReason": ""},
    }
    told = {
        "NotificationVersion": "1.0",
        "NotificationType": "ORDER_CHANGE",
        "PayloadVersion": "1.0",
        "EventTime": _iso(sale.modified),
        "Payload": "?" if delivery.garbage else {"OrderChangeNotification": changed},
        "NotificationMetadata": {"NotificationId": str(uuid4()), "PublishTime": _iso(datetime.now(UTC))},
    }
    event = {"version": "0", "id": str(uuid4()), "detail-type": "ORDER_CHANGE", "detail": told}
    return {
        "Content-Type": "application/json",
        "x-api-key": shop.secrets["notification_key"],
    }, json.dumps(event).encode()


shops = Shops(router, number=lambda sale, n: f"902-{n:07}-{n:07}", webhook=_webhook)


@router.post("/_control/shops/{name}/expire", status_code=204)
async def expire(name: str) -> None:
    """The shop's access token runs out."""
    _expired.add(shops.shop(name).secrets["access_token"])


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _money(amount: Any) -> dict[str, str]:
    return {"CurrencyCode": "CNY", "Amount": f"{amount:.2f}"}


def _item_id(sale: Sale, at: int) -> str:
    return f"{sale.order_no[4:11]}{at:03}"


def _cancelled(sale: Sale, sku: str) -> bool:
    return any(each.state == "granted" and each.sku in ("", sku) for each in sale.refunds.values())


def _status(shop: Shop, sale: Sale) -> str:
    if sale.status:
        return sale.status
    sent: dict[str, int] = {}
    for each in shop.shipped(sale.order_no):
        for item, quantity in each.lines.items():
            sent[item] = sent.get(item, 0) + quantity
    wanted = {_item_id(sale, at): line.quantity for at, line in enumerate(sale.lines) if not _cancelled(sale, line.sku)}
    if sale.cancelled or (not wanted and not sent):
        return "Canceled"
    if not (sale.paid or sale.cash_on_delivery):
        return "Pending"
    if not sent:
        return "Unshipped"
    return "Shipped" if all(sent.get(item, 0) >= quantity for item, quantity in wanted.items()) else "PartiallyShipped"


def _order(shop: Shop, sale: Sale, restricted: bool) -> dict[str, Any]:
    person = sale.recipient
    gone = sum((line.price * line.quantity for line in sale.lines if _cancelled(sale, line.sku)), sale.total * 0)
    told = {
        "AmazonOrderId": sale.order_no,
        "PurchaseDate": _iso(sale.created),
        "LastUpdateDate": _iso(sale.modified),
        "OrderStatus": _status(shop, sale),
        "FulfillmentChannel": "MFN",
        "SalesChannel": "Amazon.cn",
        "OrderTotal": _money(sale.total - gone),
        "PaymentMethod": "COD" if sale.cash_on_delivery else "Other",
        "MarketplaceId": "AAHKV2X7AFYLW",
        "IsISPU": False,
    }
    if restricted:
        told["ShippingAddress"] = {
            "Name": person.get("name"),
            "AddressLine1": person.get("street"),
            "City": person.get("city"),
            "District": person.get("district"),
            "StateOrRegion": person.get("province"),
            "PostalCode": person.get("postcode"),
            "CountryCode": person.get("country", "CN"),
            "Phone": person.get("phone"),
        }
    return told


def _items(sale: Sale) -> list[dict[str, Any]]:
    asked = {each.sku for each in sale.refunds.values() if each.state == "asked"}
    return [
        {
            "OrderItemId": _item_id(sale, at),
            "SellerSKU": line.sku,
            "ASIN": f"B0{at:08}",
            "Title": line.title or line.sku,
            "QuantityOrdered": 0 if _cancelled(sale, line.sku) else line.quantity,
            "QuantityShipped": 0,
            "ItemPrice": _money(line.price * line.quantity),
            "PromotionDiscount": _money(line.discount),
            "ShippingPrice": _money(sale.freight) if at == 0 else None,
            "BuyerRequestedCancel": {
                "IsBuyerRequestedCancel": "true" if asked & {"", line.sku} else "false",
                "BuyerCancelReason": "",
            },
        }
        for at, line in enumerate(sale.lines)
        if line.quantity or _cancelled(sale, line.sku)
    ]


def _error(code: str, status: int) -> JSONResponse:
    return JSONResponse({"errors": [{"code": code, "message": code, "details": ""}]}, status)


def _denied(shop: Shop, request: Request, path: str) -> JSONResponse | bool:
    """Why not; or whether what is personal may be told."""
    token = request.headers.get("x-amz-access-token", "")
    if _restricted.get(token) == path:
        return True
    if token in _expired or token != shop.secrets["access_token"]:
        return _error("Unauthorized", 403)
    return False


@router.post("/{name}/auth/o2/token")
async def token(name: str, request: Request) -> Response:
    asked, shop = dict(parse_qsl((await request.body()).decode())), shops.shop(name)
    known = ("client_id", "client_secret", "refresh_token")
    if any(asked.get(each) != shop.secrets[each] for each in known):
        return JSONResponse({"error": "invalid_grant"}, 400)
    shop.secrets = {**shop.secrets, "access_token": f"Atza|{token_hex(12)}"}
    return JSONResponse({"access_token": shop.secrets["access_token"], "token_type": "bearer", "expires_in": 3600})


@router.post("/{name}/tokens/2021-03-01/restrictedDataToken")
async def restricted(name: str, request: Request) -> Response:
    shop = shops.shop(name)
    if isinstance(denied := _denied(shop, request, ""), JSONResponse):
        return denied
    (resource,) = (await request.json())["restrictedResources"]
    fresh = f"Atz.sprdt|{token_hex(12)}"
    _restricted[fresh] = resource["path"]
    return JSONResponse({"restrictedDataToken": fresh, "expiresIn": 3600})


@router.get("/{name}/orders/v0/orders")
async def orders(name: str, request: Request) -> Response:
    """``NextToken`` names the window and how much of it was told."""
    shop, query = shops.shop(name), request.query_params
    allowed = _denied(shop, request, "/orders/v0/orders")
    if isinstance(allowed, JSONResponse):
        return allowed
    window: dict[str, Any] = json.loads(query["NextToken"]) if "NextToken" in query else {**query, "at": 0}

    async def work() -> Response:
        by, moment = ("LastUpdated", "modified") if "LastUpdatedAfter" in window else ("Created", "created")
        first, last = window[f"{by}After"], window[f"{by}Before"]
        found = [sale for sale in shop.sales.values() if first <= _iso(getattr(sale, moment)) < last]
        size, at = int(window.get("MaxResultsPerPage", 100)), int(window["at"])
        payload: dict[str, Any] = {"Orders": [_order(shop, sale, allowed) for sale in found[at : at + size]]}
        if at + size < len(found):
            payload["NextToken"] = json.dumps({**window, "at": at + size})
        return JSONResponse({"payload": payload})

    return await faults.play("amazon", "orders", name, work, lambda seconds: _error("QuotaExceeded", 429))


@router.get("/{name}/orders/v0/orders/{order_no}")
async def order(name: str, order_no: str, request: Request) -> Response:
    shop = shops.shop(name)
    allowed = _denied(shop, request, f"/orders/v0/orders/{order_no}")
    if isinstance(allowed, JSONResponse):
        return allowed
    if order_no not in shop.sales:
        return _error("NotFound", 404)
    return JSONResponse({"payload": _order(shop, shop.sales[order_no], allowed)})


@router.get("/{name}/orders/v0/orders/{order_no}/orderItems")
async def items(name: str, order_no: str, request: Request) -> Response:
    shop = shops.shop(name)
    if isinstance(denied := _denied(shop, request, ""), JSONResponse):
        return denied
    if order_no not in shop.sales:
        return _error("NotFound", 404)
    return JSONResponse({"payload": {"AmazonOrderId": order_no, "OrderItems": _items(shop.sales[order_no])}})


@router.post("/{name}/orders/v0/orders/{order_no}/shipmentConfirmation")
async def confirm(name: str, order_no: str, request: Request) -> Response:
    """A package of a reference that is known replaces it."""
    shop, told = shops.shop(name), (await request.json())["packageDetail"]
    if isinstance(denied := _denied(shop, request, ""), JSONResponse):
        return denied
    if order_no not in shop.sales:
        return _error("InvalidInput", 400)

    async def work() -> Response:
        lines = {each["orderItemId"]: each["quantity"] for each in told["orderItems"]}
        shop.shipments = [
            each for each in shop.shipments if (each.order_no, each.waybill_no) != (order_no, told["trackingNumber"])
        ]
        carrier = told.get("carrierName", told["carrierCode"])
        shop.shipments.append(
            Shipped(order_no=order_no, carrier=carrier, waybill_no=told["trackingNumber"], lines=lines)
        )
        return Response(status_code=204)

    return await faults.play("amazon", "confirm", order_no, work)


@router.patch("/{name}/listings/2021-08-01/items/{seller}/{sku}")
async def listing(name: str, seller: str, sku: str, request: Request) -> Response:
    """Takes a quantity; what begins with ``?`` is not listed."""
    shop = shops.shop(name)
    if isinstance(denied := _denied(shop, request, ""), JSONResponse):
        return denied
    (patch,) = (await request.json())["patches"]

    async def work() -> Response:
        shop.pushes += 1
        if sku.startswith("?"):
            return _error("NOT_FOUND", 404)
        shop.stock[sku] = patch["value"][0]["quantity"]
        return JSONResponse({"sku": sku, "status": "ACCEPTED", "submissionId": token_hex(8), "issues": []})

    return await faults.play("amazon", "listing", sku, work, lambda seconds: _error("QuotaExceeded", 429))
