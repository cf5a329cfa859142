"""Amazon by the Selling Partner API.

Sources: amzn/selling-partner-api-models (ordersV0, tokens 2021-03-01, listings items 2021-08-01, notifications:
ORDER_CHANGE), Login with Amazon. Orders are read by v0, whose successor (orders 2026-01-01) renames every field; the
recipient needs a restricted data token, which is fetched for each pull. ORDER_CHANGE goes to SQS; an EventBridge pipe
and an API destination take it from there to our door, with the header ``x-api-key``; reading SQS, which needs AWS
signatures, is not built. Refunds are told by the Finances API, which is not read: an item cancelled before it left is
told by its quantity, a buyer's wish to cancel by ``BuyerRequestedCancel``. China's carriers have no codes: they are
told as ``Other``, by name.

Only orders that the merchant fulfils (MFN) are ours. ``total`` is with tax and shipping. Order items are read at half
a call a second beyond the first thirty (``pace_seconds``).

Account: ``base_url`` of the region (``https://sellingpartnerapi-eu.amazon.com``); secrets ``client_id``,
``client_secret``, ``refresh_token``, ``access_token``, ``notification_key``; settings ``marketplace_id``,
``seller_id``, ``lwa_url`` (``https://api.amazon.com``), ``carrier_codes``. Listings: the merchant's SKU.
"""

import asyncio
import hmac
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities import http
from activities.channels import Hint, Offered, Pulled, Refused
from activities.errors import Unauthentic, Unintelligible, expired, unavailable
from activities.payloads import Code, Fee, Part, Text, balanced, decode, reasonable, standardising
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState
from models.origin import ChannelKind, IntakePath, Origin

READ = "orders/v0"
"""The topic of an order that was read."""
_UNPAID, _CLOSED = {"Pending", "PendingAvailability"}, {"Canceled"}
_OVER, _TO_SEND = {"Shipped", "InvoiceUnconfirmed"}, {"Unshipped", "PartiallyShipped"}
_PAGE = "100"
_BURST = 30
_PACE_SECONDS = 2.0
_UNIT = Decimal("0.0001")

Time = Annotated[AwareDatetime, AfterValidator(reasonable)]
MaybeTime = Annotated[Time | None, BeforeValidator(lambda value: value or None)]


class _Money(BaseModel):
    CurrencyCode: Text = ""
    Amount: Fee = Decimal(0)


NO_MONEY = _Money()
MaybeMoney = Annotated[_Money, BeforeValidator(lambda value: value or NO_MONEY)]


class _Address(BaseModel):
    Name: Part = ""
    AddressLine1: Part = ""
    AddressLine2: Part = ""
    AddressLine3: Part = ""
    City: Part = ""
    District: Part = ""
    StateOrRegion: Part = ""
    PostalCode: Part = ""
    CountryCode: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""
    Phone: Part = ""


class _Cancel(BaseModel):
    IsBuyerRequestedCancel: Text = ""
    BuyerCancelReason: Text = ""


class _Item(BaseModel):
    OrderItemId: Code
    SellerSKU: Text = ""
    ASIN: Text = ""
    Title: Text = ""
    QuantityOrdered: Annotated[int, Field(ge=0, le=100_000)]
    ItemPrice: MaybeMoney = NO_MONEY
    ItemTax: MaybeMoney = NO_MONEY
    ShippingPrice: MaybeMoney = NO_MONEY
    ShippingTax: MaybeMoney = NO_MONEY
    ShippingDiscount: MaybeMoney = NO_MONEY
    PromotionDiscount: MaybeMoney = NO_MONEY
    BuyerRequestedCancel: Annotated[_Cancel, BeforeValidator(lambda value: value or _Cancel())] = _Cancel()

    @property
    def cancelling(self) -> bool:
        return str(self.BuyerRequestedCancel.IsBuyerRequestedCancel).lower() == "true"

    @property
    def line(self) -> OrderLine:
        """The price is told for all pieces: what rounding it up adds is part of the discount."""
        pieces = max(self.QuantityOrdered, 1)
        unit = (max(self.ItemPrice.Amount, Decimal(0)) / pieces).quantize(_UNIT, ROUND_CEILING)
        added = unit * pieces - self.ItemPrice.Amount
        return OrderLine(
            line_no=self.OrderItemId,
            sku=(self.SellerSKU or self.ASIN or self.OrderItemId)[:64],
            listing={"asin": self.ASIN} if self.ASIN else {},
            title=self.Title,
            quantity=pieces,
            unit_price=unit,
            discount=max(added + self.PromotionDiscount.Amount, Decimal(0)),
        )

    @property
    def refund(self) -> Refund | None:
        if self.QuantityOrdered and not self.cancelling:
            return None
        state = RefundState.ASKED if self.QuantityOrdered else RefundState.GRANTED
        reason = self.BuyerRequestedCancel.BuyerCancelReason
        return Refund(refund_no=self.OrderItemId, state=state, line_no=self.OrderItemId, reason=reason)


class _Order(BaseModel):
    AmazonOrderId: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    PurchaseDate: Time
    LastUpdateDate: Time
    OrderStatus: Code
    FulfillmentChannel: Text = ""
    SalesChannel: Text = ""
    OrderTotal: MaybeMoney = NO_MONEY
    PaymentMethod: Text = ""
    LatestShipDate: MaybeTime = None
    LatestDeliveryDate: MaybeTime = None
    ShippingAddress: Annotated[_Address, BeforeValidator(lambda value: value or _Address())] = _Address()
    IsISPU: bool | None = False

    @property
    def recipient(self) -> Recipient:
        to = self.ShippingAddress
        return Recipient(
            name=to.Name,
            phone=to.Phone,
            country=to.CountryCode or "US",
            province=to.StateOrRegion,
            city=to.City,
            district=to.District,
            street=" ".join(part for part in (to.AddressLine1, to.AddressLine2, to.AddressLine3) if part)[:200],
            postcode=to.PostalCode,
        )


class _Detail(BaseModel):
    order: _Order
    items: Annotated[list[_Item], Field(min_length=1, max_length=200)]


class _Changed(BaseModel):
    AmazonOrderId: Code


class _Payload(BaseModel):
    OrderChangeNotification: _Changed


class _Metadata(BaseModel):
    NotificationId: Text = ""


class _Notification(BaseModel):
    NotificationType: Text = ""
    Payload: JsonValue = None
    NotificationMetadata: _Metadata = _Metadata()


class _Event(BaseModel):
    """As EventBridge wraps it."""

    detail: _Notification | None = None


class Amazon:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = account.secrets
        self._marketplace = str(account.settings.get("marketplace_id", ""))

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        """The key of the API destination proves who sends; Amazon signs nothing."""
        expected = self._secrets.get("notification_key", "")
        if not (expected and hmac.compare_digest(expected.encode(), headers.get("x-api-key", "").encode())):
            raise Unauthentic("x-api-key: does not match")
        try:
            name = _notification(body).NotificationMetadata.NotificationId
        except Unintelligible:
            name = ""
        return Receipt(fact_key=name[:200] or sha256(body).hexdigest(), topic="ORDER_CHANGE")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        if topic != READ:
            told = _notification(body)
            if told.NotificationType != "ORDER_CHANGE":
                return None
            payload = decode(_Payload, json.dumps(told.Payload).encode())
            return Hint(order_nos=(payload.OrderChangeNotification.AmazonOrderId,))
        detail = decode(_Detail, body)
        order = detail.order
        if order.FulfillmentChannel == "AFN" or order.OrderStatus == "Unfulfillable" or order.IsISPU:
            return None
        if order.OrderStatus not in _UNPAID | _CLOSED | _OVER | _TO_SEND:
            raise Unintelligible("order.OrderStatus", "not an order status we know")
        items = [item for item in detail.items if item.QuantityOrdered]
        closed = order.OrderStatus in _CLOSED or not items
        cash_on_delivery = order.PaymentMethod in {"COD", "CVS"}
        paid = order.OrderStatus not in _UNPAID | _CLOSED and not cash_on_delivery
        freight = sum((item.ShippingPrice.Amount - item.ShippingDiscount.Amount for item in items), Decimal(0))
        tax = sum((item.ItemTax.Amount + item.ShippingTax.Amount for item in items), Decimal(0))
        currencies = [order.OrderTotal.CurrencyCode, *(item.ItemPrice.CurrencyCode for item in items)]
        with standardising():
            standard = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=order.AmazonOrderId,
                placed_at=order.PurchaseDate,
                modified_at=order.LastUpdateDate,
                paid_at=order.PurchaseDate if paid else None,
                cancelled_at=order.LastUpdateDate if closed else None,
                shipped=order.OrderStatus in _OVER,
                cash_on_delivery=cash_on_delivery,
                currency=next((each for each in currencies if each), "USD"),
                lines=tuple(item.line for item in items or detail.items),
                refunds=tuple(each for item in detail.items if (each := item.refund) is not None),
                freight=max(freight, Decimal(0)),
                total=max(order.OrderTotal.Amount, Decimal(0)),
                recipient=order.recipient,
                promised_by=order.LatestDeliveryDate or order.LatestShipDate,
                origin=Origin(
                    kind=ChannelKind.MARKETPLACE,
                    platform=order.SalesChannel.lower() or "amazon",
                    shop=self._account.account,
                    region=order.recipient.region,
                    intake=IntakePath.POLL,
                ),
            )
        return standard if closed else balanced(standard, tax)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[Pulled]:
        """By ``NextToken``, whose pages do not move."""
        token = await self._restricted("/orders/v0/orders")
        seen = 0
        window = {"LastUpdatedAfter": _iso(since), "LastUpdatedBefore": _iso(until)}
        async for order in self._orders(window, token):
            seen += 1
            if seen > _BURST:
                await asyncio.sleep(float(self._account.settings.get("pace_seconds", _PACE_SECONDS)))
            yield await self._whole(order)

    async def read(self, order_no: str) -> Pulled | None:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", order_no):
            return None
        path = f"/orders/v0/orders/{order_no}"
        try:
            order = await self._call("GET", path, token=await self._restricted(path))
        except ApplicationError as error:
            if error.details[:1] == ("404",):
                return None
            raise
        return await self._whole(order["payload"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        window = {"CreatedAfter": _iso(since), "CreatedBefore": _iso(until)}
        async for order in self._orders(window, None):
            yield str(order["AmazonOrderId"])

    async def _orders(self, window: Mapping[str, str], token: str | None) -> AsyncIterator[dict[str, Any]]:
        asked = {
            "MarketplaceIds": self._marketplace,
            "FulfillmentChannels": "MFN",
            "MaxResultsPerPage": _PAGE,
            **window,
        }
        while True:
            page = (await self._call("GET", "/orders/v0/orders", params=asked, token=token))["payload"]
            for order in page.get("Orders") or []:
                yield order
            if not page.get("NextToken"):
                return
            asked = {"MarketplaceIds": self._marketplace, "NextToken": page["NextToken"]}

    async def _whole(self, order: dict[str, Any]) -> Pulled:
        """An order with its items."""
        items: list[Any] = []
        asked: dict[str, str] = {}
        while True:
            page = await self._call("GET", f"/orders/v0/orders/{order['AmazonOrderId']}/orderItems", params=asked)
            items += page["payload"].get("OrderItems") or []
            if not page["payload"].get("NextToken"):
                break
            asked = {"NextToken": page["payload"]["NextToken"]}
        body = json.dumps({"order": order, "items": items}, ensure_ascii=False, separators=(",", ":")).encode()
        fact = ":".join(str(order.get(name)) for name in ("AmazonOrderId", "LastUpdateDate", "OrderStatus"))
        return Pulled(receipt=Receipt(fact_key=fact[:200], topic=READ), body=body)

    async def _restricted(self, path: str) -> str:
        """A token for what is personal: recipients."""
        resource = {"method": "GET", "path": path, "dataElements": ["shippingAddress"]}
        answer = await self._call("POST", "/tokens/2021-03-01/restrictedDataToken", {"restrictedResources": [resource]})
        return str(answer["restrictedDataToken"])

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """``shipmentConfirmation``: a package of the same reference again replaces the first."""
        quantities: dict[str, int] = defaultdict(int)
        for line in shipment.lines:
            quantities[line.line_no] += line.quantity
        codes = self._account.settings.get("carrier_codes", {})
        carrier = {"carrierCode": str(codes.get(shipment.carrier, "Other"))}
        if carrier["carrierCode"] == "Other":
            carrier["carrierName"] = shipment.carrier.upper()
        package = {
            "packageReferenceId": str(int(sha256(shipment.reference.encode()).hexdigest()[:7], 16) + 1),
            **carrier,
            "trackingNumber": shipment.waybill_no,
            "shipDate": _iso(shipment.shipped_at),
            "orderItems": [{"orderItemId": line_no, "quantity": quantity} for line_no, quantity in quantities.items()],
        }
        body = {"marketplaceId": self._marketplace, "packageDetail": package}
        await self._call("POST", f"/orders/v0/orders/{shipment.channel_order_no}/shipmentConfirmation", body)

    async def push_stock(self, offered: Sequence[Offered]) -> list[Refused]:
        """``patchListingsItem`` of ``fulfillment_availability``, one SKU a call."""
        seller = quote(str(self._account.settings.get("seller_id", "")), safe="")
        refusals: list[Refused] = []
        for each in offered:
            value = [{"fulfillment_channel_code": "DEFAULT", "quantity": each.quantity}]
            patch = {"op": "replace", "path": "/attributes/fulfillment_availability", "value": value}
            path = f"/listings/2021-08-01/items/{seller}/{quote(each.sku, safe='')}"
            asked = {"productType": "PRODUCT", "patches": [patch]}
            try:
                told = await self._call("PATCH", path, asked, params={"marketplaceIds": self._marketplace})
            except ApplicationError as error:
                if error.details[:1] not in (("400",), ("404",)):
                    raise
                refusals.append(Refused(sku=each.sku, reason=f"HTTP {error.details[0]}"))
                continue
            if told.get("status") == "INVALID":
                issues = [str(issue.get("code")) for issue in told.get("issues") or []]
                refusals.append(Refused(sku=each.sku, reason=", ".join(issues) or "INVALID"))
        return refusals

    async def renew(self) -> Mapping[str, str]:
        url = str(self._account.settings.get("lwa_url", "https://api.amazon.com")).rstrip("/")
        asked = {"grant_type": "refresh_token"}
        asked |= {name: self._secrets.get(name, "") for name in ("refresh_token", "client_id", "client_secret")}
        told = _json(await http.send("POST", f"{url}/auth/o2/token", data=asked))
        try:
            ends = datetime.now(UTC) + timedelta(seconds=int(told["expires_in"]))
            return {"access_token": str(told["access_token"]), "expires_at": ends.isoformat()}
        except (KeyError, TypeError, ValueError):
            raise unavailable("amazon: answered with what is no token") from None

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: dict[str, str] | None = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        headers = {"x-amz-access-token": token or self._secrets["access_token"]}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        url = f"{self._account.base_url.rstrip('/')}{path}"
        try:
            response = await http.send(method, url, content=content, params=params, headers=headers)
        except ApplicationError as error:
            if error.details[:1] in (("401",), ("403",)):
                raise expired(f"amazon: HTTP {error.details[0]}") from None
            raise
        told: Any = {} if response.status_code == 204 else _json(response)
        if not isinstance(told, dict):
            raise unavailable("amazon: the answer is not in the format")
        return told


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise unavailable("amazon: answered with what is no JSON") from None


def _notification(body: bytes) -> _Notification:
    return decode(_Event, body).detail or decode(_Notification, body)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def adapter(account: Account) -> Amazon:
    return Amazon(account)
