"""Amazon's twin: the Selling Partner API's tokens, orders, finances, listings, and ORDER_CHANGE as a pipe delivers it.

Account: ``base_url`` ``{sandbox}/amazon``; secrets and settings as below. Unlike Amazon it lists orders at once,
not after two minutes. Expired access is answered with 403, as by Amazon.
"""

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Delivery, Refund, Sale, SaleLine, Shipped, Shop, Shops

SECRETS: tuple[str, ...] = ("client_id", "client_secret", "refresh_token", "access_token", "notification_key")
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {
    "marketplace_id": "ATVPDKIKX0DER",
    "seller_id": "SELLER-{shop}",
    "token_url": "{url}/auth/o2/token",
    "behind_seconds": "0",
    "rate_factor": "1000",
}

router = APIRouter()
_LARGEST_PAGE = 100
_restricted: dict[str, str] = {}
"""Shops by their restricted tokens."""
_issued = count(1)


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.answer = JSONResponse({"errors": [{"code": code, "message": message, "details": details}]}, status)


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    """Render ORDER_CHANGE as an EventBridge pipe delivers it."""
    summary = {
        "MarketplaceId": sale.custom.get("MarketplaceId", "ATVPDKIKX0DER"),
        "OrderStatus": _status(shop, sale),
        "PurchaseDate": _time(sale.created),
        "FulfillmentType": sale.custom.get("FulfillmentChannel", "MFN"),
        "OrderItems": [
            {"OrderItemId": _item_id(sale, at), "SellerSKU": line.sku, "Quantity": line.quantity}
            for at, line in enumerate(sale.lines)
        ],
    }
    change = {
        "NotificationLevel": "OrderLevel",
        "SellerId": f"SELLER-{shop.name}",
        "AmazonOrderId": sale.order_no,
        "OrderChangeType": "OrderStatusChange",
        "OrderChangeTrigger": {"TimeOfOrderChange": _time(sale.modified), "ChangeReason": "Order status changed"},
        "Summary": summary,
    }
    notification = {
        "NotificationVersion": "1.0",
        "NotificationType": delivery.topic or "ORDER_CHANGE",
        "PayloadVersion": "1.0",
        "EventTime": _time(sale.modified),
        "Payload": {} if delivery.garbage else {"OrderChangeNotification": change},
        "NotificationMetadata": {"ApplicationId": "sandbox", "NotificationId": str(uuid4())},
    }
    headers = {"Content-Type": "application/json", "x-api-key": shop.secrets["notification_key"]}
    return headers, json.dumps(notification).encode()


shops = Shops(
    router,
    number=lambda sale, n: f"902-{n // 10_000_000:07}-{n % 10_000_000:07}",
    webhook=_webhook,
    expiring="access_token",
)


@router.post("/auth/o2/token")
async def token(request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode()))

    async def work() -> Response:
        shop = shops.find(client_id=form.get("client_id"))
        if shop is None or shop.secrets["client_secret"] != form.get("client_secret"):
            description = "Client authentication failed"
            return JSONResponse({"error": "invalid_client", "error_description": description}, 401)
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != shop.secrets["refresh_token"]:
            description = "The request has an invalid grant parameter : refresh_token"
            return JSONResponse({"error": "invalid_grant", "error_description": description}, 400)
        shop.secrets["access_token"] = f"Atza|sandbox-{shop.name}-{next(_issued)}"
        answer = {"access_token": shop.secrets["access_token"], "refresh_token": shop.secrets["refresh_token"]}
        return JSONResponse({**answer, "token_type": "bearer", "expires_in": 3600})

    return await faults.play("amazon", "token", form.get("client_id", ""), work)


async def _play(request: Request, operation: str, text: str, work: Callable[[Shop], Any]) -> Response:
    """Respond with the result of ``work`` for the authenticated shop; ``None`` becomes 204."""
    body = await request.body()

    async def answer() -> Response:
        try:
            content = work(_authenticated(request))
        except Refusal as refusal:
            return refusal.answer
        return Response(status_code=204) if content is None else JSONResponse(content)

    played: Awaitable[Response] = faults.play("amazon", operation, f"{text} {body.decode()}", answer, _limited)
    return await played


def _limited(seconds: int) -> Response:
    errors = [
        {"code": "QuotaExceeded", "message": "You exceeded your quota for the requested resource.", "details": ""}
    ]
    return JSONResponse({"errors": errors}, 429, {"x-amzn-RateLimit-Limit": str(1 / seconds)})


def _authenticated(request: Request) -> Shop:
    denied = "Access to requested resource is denied."
    if not (token := request.headers.get("x-amz-access-token", "")):
        raise Refusal(403, "Unauthorized", denied, "Access token is missing in the request header.")
    if token in shops.expired:
        raise Refusal(403, "Unauthorized", denied, "The access token you provided has expired.")
    if token in _restricted:
        return shops.all[_restricted[token]]
    if (shop := shops.find(access_token=token)) is None:
        raise Refusal(403, "Unauthorized", denied, "The access token you provided is revoked, malformed or invalid.")
    return shop


def _personal(request: Request) -> bool:
    return request.headers.get("x-amz-access-token", "") in _restricted


@router.post("/tokens/2021-03-01/restrictedDataToken")
async def restricted_data_token(request: Request) -> Response:
    content = json.loads(await request.body())

    def work(shop: Shop) -> dict[str, Any]:
        resources = content.get("restrictedResources") or []
        if not 1 <= len(resources) <= 50 or not all({"method", "path"} <= set(each) for each in resources):
            raise Refusal(400, "InvalidRequest", "Request is missing or has invalid parameters")
        issued = f"Atz.sprdt|{shop.name}-{next(_issued)}"
        _restricted[issued] = shop.name
        return {"restrictedDataToken": issued, "expiresIn": 3600}

    return await _play(request, "restrictedDataToken", "", work)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _item_id(sale: Sale, at: int) -> str:
    return f"{int(sale.order_no.replace('-', '')) % 10**12:012}{at:02}"


def _refunds(sale: Sale, line: SaleLine, state: str) -> list[Refund]:
    return [each for each in sale.refunds.values() if each.state == state and each.sku in ("", line.sku)]


def _sent(shop: Shop, sale: Sale, at: int) -> int:
    return sum(each.lines.get(_item_id(sale, at), 0) for each in shop.shipped(sale.order_no))


def _ordered(shop: Shop, sale: Sale, at: int) -> int:
    """Return the quantity of a line that was not cancelled before it shipped."""
    line = sale.lines[at]
    if sale.cancelled:
        return 0
    if _sent(shop, sale, at):
        return line.quantity
    return max(line.quantity - sum(each.quantity or line.quantity for each in _refunds(sale, line, "granted")), 0)


def _status(shop: Shop, sale: Sale) -> str:
    if sale.status:
        return sale.status
    if sale.cancelled:
        return "Canceled"
    if not (sale.paid or sale.cash_on_delivery):
        return "Pending"
    sent = sum(_sent(shop, sale, at) for at in range(len(sale.lines)))
    ordered = sum(_ordered(shop, sale, at) for at in range(len(sale.lines)))
    return "Unshipped" if not sent else "Shipped" if sent >= ordered else "PartiallyShipped"


def _money(amount: Decimal) -> dict[str, str]:
    return {"CurrencyCode": "USD", "Amount": f"{amount:.2f}"}


def head(shop: Shop, sale: Sale, personal: bool) -> dict[str, Any]:
    """Return a sale as ``getOrder`` does; name, street and buyer only for a restricted token."""
    status = _status(shop, sale)
    sent = sum(_sent(shop, sale, at) for at in range(len(sale.lines)))
    person = sale.recipient
    order: dict[str, Any] = {
        "AmazonOrderId": sale.order_no,
        "PurchaseDate": _time(sale.created),
        "LastUpdateDate": _time(sale.modified),
        "OrderStatus": status,
        "FulfillmentChannel": "MFN",
        "SalesChannel": "Amazon.com",
        "ShipServiceLevel": "Std US D2D Dom",
        "ShipmentServiceLevelCategory": "NextDay" if sale.urgent else "Standard",
        "NumberOfItemsShipped": sent,
        "PaymentMethod": "COD" if sale.cash_on_delivery else "Other",
        "MarketplaceId": "ATVPDKIKX0DER",
        "OrderType": "StandardOrder",
        "LatestShipDate": _time(sale.created + timedelta(days=2)),
        "IsPrime": False,
        "IsBusinessOrder": False,
        "IsISPU": False,
        **sale.custom,
    }
    if status not in ("Pending", "PendingAvailability", "Canceled"):
        goods = sum(_share(shop, sale, at) for at in range(len(sale.lines)))
        order["OrderTotal"] = _money(goods + sale.freight)
        order["ShippingAddress"] = {
            "City": person.get("city"),
            "StateOrRegion": person.get("province"),
            "PostalCode": person.get("postcode"),
            "CountryCode": person.get("country", "CN"),
        }
        if personal:
            order["ShippingAddress"] |= {
                "Name": person.get("name"),
                "AddressLine1": person.get("street"),
                "District": person.get("district"),
                "Phone": person.get("phone"),
            }
            order["BuyerInfo"] = {"BuyerEmail": f"{sale.order_no}@marketplace.amazon.com"}
    return order


def _share(shop: Shop, sale: Sale, at: int) -> Decimal:
    """Return what is paid for the remaining quantity of a line."""
    line = sale.lines[at]
    return (line.price * line.quantity - line.discount) * _ordered(shop, sale, at) / line.quantity


def _items(shop: Shop, sale: Sale, personal: bool) -> list[dict[str, Any]]:
    items = []
    for at, line in enumerate(sale.lines):
        ordered, sent = _ordered(shop, sale, at), _sent(shop, sale, at)
        item: dict[str, Any] = {
            "ASIN": f"B0{at:08}",
            "OrderItemId": _item_id(sale, at),
            "SellerSKU": line.sku,
            "Title": line.title or line.sku,
            "QuantityOrdered": ordered,
            "QuantityShipped": sent,
            "IsGift": "false",
        }
        if ordered and _status(shop, sale) != "Pending":
            item |= {
                "ItemPrice": _money(line.price * ordered),
                "PromotionDiscount": _money(line.discount * ordered / line.quantity),
            }
            if at == 0:
                item["ShippingPrice"] = _money(sale.freight)
            if personal and sale.buyer_message and at == 0:
                item["BuyerInfo"] = {"GiftMessageText": sale.buyer_message}
        if requests := _refunds(sale, line, "asked"):
            cancel = {"IsBuyerRequestedCancel": "true", "BuyerCancelReason": requests[-1].reason}
            item["BuyerRequestedCancel"] = cancel
        items.append(item)
    return items


@router.get("/orders/v0/orders")
async def orders(request: Request) -> Response:
    query = dict(request.query_params)

    def work(shop: Shop) -> dict[str, Any]:
        name = "LastUpdated" if "LastUpdatedAfter" in query else "Created"
        try:
            low, high = (datetime.fromisoformat(query[f"{name}{end}"]) for end in ("After", "Before"))
        except (KeyError, ValueError):
            raise Refusal(400, "InvalidInput", "CreatedAfter or LastUpdatedAfter must be specified") from None
        if not query.get("MarketplaceIds"):
            raise Refusal(400, "InvalidInput", "MarketplaceIds must be specified")
        at = json.loads(base64.b64decode(query["NextToken"])) if "NextToken" in query else 0
        limit = min(int(query.get("MaxResultsPerPage", 100)), _LARGEST_PAGE)
        field = "modified" if name == "LastUpdated" else "created"
        channels = query.get("FulfillmentChannels", "MFN,AFN").split(",")
        found = [sale for sale in shop.sales.values() if low <= getattr(sale, field) <= high]
        heads = [head(shop, sale, _personal(request)) for sale in sorted(found, key=attrgetter(field))]
        heads = [each for each in heads if each["FulfillmentChannel"] in channels]
        payload: dict[str, Any] = {"Orders": heads[at : at + limit], f"{name}Before": query[f"{name}Before"]}
        if at + limit < len(heads):
            payload["NextToken"] = base64.b64encode(json.dumps(at + limit).encode()).decode()
        return {"payload": payload}

    return await _play(request, "orders", request.headers.get("x-amz-access-token", ""), work)


def _sale(shop: Shop, order_no: str) -> Sale:
    if order_no not in shop.sales:
        raise Refusal(404, "NotFound", "Order not found.")
    return shop.sales[order_no]


@router.get("/orders/v0/orders/{order_no}")
async def order(order_no: str, request: Request) -> Response:
    def work(shop: Shop) -> dict[str, Any]:
        return {"payload": head(shop, _sale(shop, order_no), _personal(request))}

    return await _play(request, "order", order_no, work)


@router.get("/orders/v0/orders/{order_no}/orderItems")
async def order_items(order_no: str, request: Request) -> Response:
    def work(shop: Shop) -> dict[str, Any]:
        items = _items(shop, _sale(shop, order_no), _personal(request))
        at, size = int(request.query_params.get("NextToken", 0)), _LARGEST_PAGE
        payload: dict[str, Any] = {"AmazonOrderId": order_no, "OrderItems": items[at : at + size]}
        if at + size < len(items):
            payload["NextToken"] = str(at + size)
        return {"payload": payload}

    return await _play(request, "orderItems", order_no, work)


@router.post("/orders/v0/orders/{order_no}/shipmentConfirmation")
async def confirm_shipment(order_no: str, request: Request) -> Response:
    """Record a package; a known package number edits it."""
    content = json.loads(await request.body())

    def work(shop: Shop) -> None:
        sale, package = _sale(shop, order_no), content.get("packageDetail") or {}
        names = ("packageReferenceId", "carrierCode", "trackingNumber", "shipDate", "orderItems")
        complete = content.get("marketplaceId") and all(package.get(name) for name in names)
        named = package.get("carrierCode") != "Other" or package.get("carrierName")
        if not (complete and named and str(package["packageReferenceId"]).isdecimal()):
            raise Refusal(400, "InvalidInput", "Invalid Input")
        try:
            datetime.fromisoformat(package["shipDate"])
        except ValueError:
            raise Refusal(400, "Invalid Input", "Invalid Input") from None
        lines = {each["orderItemId"]: each["quantity"] for each in package["orderItems"]}
        number = f"{order_no}#{package['packageReferenceId']}"
        others = [each for each in shop.shipped(order_no) if _packages.get(number) is not each]
        for at in range(len(sale.lines)):
            item = _item_id(sale, at)
            sent = sum(each.lines.get(item, 0) for each in others)
            if lines.get(item, 0) > _ordered(shop, sale, at) - sent:
                raise Refusal(400, "InvalidInput", "The quantity exceeds what is left to be shipped.")
        if set(lines) - {_item_id(sale, at) for at in range(len(sale.lines))} or _status(shop, sale) == "Pending":
            raise Refusal(400, "InvalidInput", "The order item cannot be shipped.")
        carrier = package.get("carrierName") or package["carrierCode"]
        shipped = Shipped(order_no=order_no, carrier=carrier, waybill_no=package["trackingNumber"], lines=lines)
        if number in _packages:
            shop.shipments.remove(_packages[number])
        _packages[number] = shipped
        shop.shipments.append(shipped)
        sale.modified = datetime.now(UTC)

    return await _play(request, "confirmShipment", order_no, work)


_packages: dict[str, Shipped] = {}


@router.get("/orders/2026-01-01/orders/{order_no}")
async def order_2026(order_no: str, request: Request) -> Response:
    def work(shop: Shop) -> dict[str, Any]:
        sale = _sale(shop, order_no)
        packages = [
            {"packageReferenceId": str(at + 1), "carrier": each.carrier, "trackingNumber": each.waybill_no}
            for at, each in enumerate(shop.shipped(order_no))
        ]
        included = "PACKAGES" in request.query_params.get("includedData", "")
        return {"order": {"orderId": sale.order_no, **({"packages": packages} if included else {})}}

    return await _play(request, "packages", order_no, work)


def _events(shop: Shop, sale: Sale) -> list[dict[str, Any]]:
    """Return the refunds granted after shipping."""
    events = []
    for each in sale.refunds.values():
        for at, line in enumerate(sale.lines):
            if each.state == "granted" and each.sku in ("", line.sku) and _sent(shop, sale, at):
                amount = {"CurrencyCode": "USD", "CurrencyAmount": -float(each.amount)}
                adjustment = {
                    "SellerSKU": line.sku,
                    "OrderAdjustmentItemId": each.refund_no if each.sku else f"{each.refund_no}-{at}",
                    "QuantityShipped": each.quantity,
                    "ItemChargeAdjustmentList": [{"ChargeType": "Principal", "ChargeAmount": amount}],
                }
                event = {"AmazonOrderId": sale.order_no, "PostedDate": _time(sale.modified)}
                events.append({**event, "ShipmentItemAdjustmentList": [adjustment]})
    return events


@router.get("/finances/v0/orders/{order_no}/financialEvents")
async def order_events(order_no: str, request: Request) -> Response:
    def work(shop: Shop) -> dict[str, Any]:
        return {"payload": {"FinancialEvents": {"RefundEventList": _events(shop, _sale(shop, order_no))}}}

    return await _play(request, "finances", order_no, work)


@router.get("/finances/v0/financialEvents")
async def financial_events(request: Request) -> Response:
    query = request.query_params

    def work(shop: Shop) -> dict[str, Any]:
        low, high = (datetime.fromisoformat(query[name]) for name in ("PostedAfter", "PostedBefore"))
        events = [event for sale in shop.sales.values() for event in _events(shop, sale)]
        found = [event for event in events if low <= datetime.fromisoformat(event["PostedDate"]) < high]
        return {"payload": {"FinancialEvents": {"RefundEventList": found}}}

    return await _play(request, "finances", "", work)


@router.patch("/listings/2021-08-01/items/{seller}/{sku:path}")
async def patch_listing(seller: str, sku: str, request: Request) -> Response:
    """SKUs that begin with 404 are unknown; those that begin with ``bad`` have an invalid listing."""
    content = json.loads(await request.body())

    def work(shop: Shop) -> dict[str, Any]:
        shop.pushes += 1
        if sku.startswith("404"):
            raise Refusal(404, "NOT_FOUND", "The SKU was not found.")
        if (
            seller != f"SELLER-{shop.name}"
            or not request.query_params.get("marketplaceIds")
            or "productType" not in content
        ):
            raise Refusal(400, "BAD_REQUEST", "Invalid input")
        answer: dict[str, Any] = {"sku": sku, "submissionId": str(uuid4()), "status": "ACCEPTED", "issues": []}
        if sku.startswith("bad"):
            issue = {"code": "90220", "severity": "ERROR", "message": "'quantity' is required but missing."}
            return answer | {"status": "INVALID", "issues": [issue]}
        for patch in content["patches"]:
            if (patch["op"], patch["path"]) != ("merge", "/attributes/fulfillment_availability"):
                raise Refusal(400, "BAD_REQUEST", "Invalid input")
            for level in patch["value"]:
                if not level.get("fulfillment_channel_code"):
                    raise Refusal(400, "BAD_REQUEST", "Invalid input")
                shop.stock[sku] = level["quantity"]
        return answer

    return await _play(request, "stock", f"{seller} {sku}", work)
