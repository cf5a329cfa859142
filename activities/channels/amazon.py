"""Amazon by its Selling Partner API: orders that the seller ships (MFN); orders that Amazon ships (AFN) are left out.

Sources: amzn/selling-partner-api-models (ordersV0, tokens_2021-03-01, listingsItems_2021-08-01, financesV0,
orders_2026-01-01 for packages, schemas/notifications/OrderChangeNotification) and developer-docs.amazon.com (usage
plans, Merge a listing, Connecting to the Selling Partner API). Amazon removes v0's reading operations on 2027-03-27 in
favour of 2026-01-01, which needs no restricted token; ``confirmShipment`` stays.

Account: one seller in one marketplace. ``base_url`` ``https://sellingpartnerapi-{na|eu|fe}.amazon.com``; secrets
``client_id``, ``client_secret``, ``refresh_token`` (Login with Amazon; ``access_token`` and ``expires_at`` are obtained
with them) and ``notification_key``; settings ``marketplace_id``, ``seller_id``, ``token_url`` where it is not Amazon's
own, ``carrier_codes`` for carriers that are not below, ``rate_factor`` (1) where Amazon grants more than its default
rates, ``behind_seconds`` (120). Listings: ``seller_sku`` where it is not the merchant's SKU, and ``product_type`` where
it is not ``PRODUCT``; an order brings its ``asin``. The application needs the roles Direct to Consumer Shipping
(recipients), Product Listing (stock), and Finance and Accounting for refunds: without the last,
``custom.refunds_unknown`` marks the orders.

Notifications: Amazon delivers ORDER_CHANGE to an SQS queue alone, and not to EventBridge. Its messages reach us by an
EventBridge pipe from the queue, in batches of one, to an API destination, with the input template ``<$.body>`` and an
API key connection that sends ``notification_key`` as ``x-api-key``. Reading the queue ourselves needs AWS's own
signatures and is not built. A notification names an order, which is then read. The next pull makes up for a lost one,
except for a buyer's request to cancel, which may not change the date that pulls filter by.

Before payment is authorised (Pending) Amazon shows neither prices nor address and reserves the stock itself: such an
order is skipped. ``total`` is what the buyer pays, taxes included; promotions are the seller's and taken off. A buyer's
request to cancel becomes a refund request for that line. A refund after shipping appears in the finances within 48
hours, so each pull also reads the window of two days before. Not built: Easy Ship pick-ups, Transparency codes, and
cash collected in Japan. Amazon's list of carrier codes was found only at second hand.

Kept raw, of an order: ``OrderType`` (whether it is a preorder), ``EarliestShipDate``,
``EarliestDeliveryDate``, ``PaymentExecutionDetail``, ``PaymentMethodDetails``, ``FulfillmentInstruction``,
``DefaultShipFromLocationAddress``, ``IsPremiumOrder``, ``IsReplacementOrder``, ``IsGlobalExpressEnabled``,
``IsSoldByAB``, ``IsIBA``, ``IsAccessPointOrder``, ``BuyerInvoicePreference``, ``BuyerTaxInformation``,
``MarketplaceTaxInfo``, ``ElectronicInvoiceStatus``, ``PromiseResponseDueDate``, ``CbaDisplayableShippingLabel``,
``BuyerName`` and ``BuyerCounty``. Of an item: ``BuyerCustomizedInfo`` (read the raw order before packing), ``IsGift``,
``ConditionId``, ``ConditionNote``, ``ScheduledDelivery…Date``, ``TaxCollection``, ``IossNumber``,
``DeemedResellerCategory``, ``SerialNumberRequired``, ``IsTransparency``, ``StoreChainStoreId``, ``PointsGranted``,
``PromotionDiscountTax``, ``PromotionIds``, ``ItemApprovalContext``, ``Measurement``, ``ShippingConstraints``,
``AssociatedItems``, ``SubstitutionPreferences``. Without meaning here: ``SellerOrderId``, ``OrderChannel``,
``NumberOfItems…``, ``IsEstimatedShipDateSet``, ``SellerDisplayName``, ``ProductInfo``, ``PriceDesignation``,
``SerialNumbers``, ``AmazonPrograms``.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
)
from temporalio.exceptions import ApplicationError

from activities.channels import (
    CARRIER_NAMES,
    Hint,
    PulledOrder,
    StockOffer,
    StockRefusal,
    carrier_code,
    marketplace_origin,
    oauth_secrets,
    order_fact_key,
    pulled_order,
    refused_one_by_one,
)
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, expired, refused, unavailable
from activities.kit.lenient import Odd, decode_order, standard_order
from activities.kit.payloads import (
    Code,
    Fee,
    Integer,
    Listed,
    Part,
    Quantity,
    Text,
    decode,
    drop_empty,
    price_per_unit,
    within_calendar,
)
from models.accounts import CODES_OF_CARRIERS, AccountFields, secret, setting
from models.address import Country, Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import NORMAL, URGENT, ChannelOrder, OrderLine, RefundState
from models.order import Refund as Refunded
from models.origins import Origin

ACCOUNT = AccountFields(
    console="amazon",
    fields=(
        secret("client_id"),
        secret("client_secret"),
        secret("refresh_token", about="amazon_refresh_token"),
        secret("access_token", required=False, about="obtained"),
        secret("expires_at", required=False),
        secret("notification_key", required=False),
        setting("marketplace_id", required=True),
        setting("seller_id", required=True),
        setting("token_url"),
        setting("rate_factor", PositiveFloat),
        setting("behind_seconds", NonNegativeFloat),
        CODES_OF_CARRIERS,
    ),
    base_url="https://sellingpartnerapi-{na|eu|fe}.amazon.com",
)

READ = "orders/v0"
"""The topic of an order that was pulled or read: ``{"order", "items", "refunds"}`` of three operations."""
CHANGED = "ORDER_CHANGE"

_TOKEN_URL = "https://api.amazon.com/auth/o2/token"  # noqa: S105
_BEHIND_SECONDS = 120
"""Amazon lists no newer orders."""
_POSTING_DELAY = timedelta(hours=48)
"""Refunds may reach Amazon's finances this late."""
_PENDING = {"Pending", "PendingAvailability"}
_SHIPPED = {"Shipped", "InvoiceUnconfirmed"}
_STATUSES = {"Unshipped", "PartiallyShipped", "Unfulfillable", "Canceled"} | _SHIPPED
_EXPRESS_SERVICES = {"SameDay", "NextDay"}
CARRIER_CODES = {"sf": "SF Express"}
"""The codes in Amazon's lists; other carriers are sent as ``Other`` with their names."""
_CURRENCIES = {
    "ATVPDKIKX0DER": "USD",
    "A2EUQ1WTGCTBG2": "CAD",
    "A1AM78C64UM0Y8": "MXN",
    "A2Q3Y263D00KWC": "BRL",
    "A1F83G8C2ARO7P": "GBP",
    "A2NODRKZP88ZB9": "SEK",
    "A1C3SOZRARQ6R3": "PLN",
    "A33AVAJ2PDY3EV": "TRY",
    "AE08WJ6YKNBMC": "ZAR",
    "ARBP9OOSHTCHU": "EGP",
    "A17E79C6D8DWNP": "SAR",
    "A2VIGQ35RCS4UG": "AED",
    "A21TJRUUN4KGV": "INR",
    "A19VAU5U5O7RUS": "SGD",
    "A39IBJ37TRP1C6": "AUD",
    "A1VC38T7YXB528": "JPY",
}
"""By marketplace, for an order cancelled before it had a price; elsewhere the euro."""

Time = Annotated[AwareDatetime, AfterValidator(within_calendar)]
MaybeTime = Annotated[Time | None, BeforeValidator(lambda value: value or None)]


class _Money(BaseModel):
    CurrencyCode: Text = ""
    Amount: Fee = Decimal(0)


def _amount(money: _Money | None) -> Decimal:
    return money.Amount if money else Decimal(0)


class _Cancel(BaseModel):
    IsBuyerRequestedCancel: Text | bool = ""
    BuyerCancelReason: Text = ""

    @property
    def requested(self) -> bool:
        return str(self.IsBuyerRequestedCancel).lower() == "true"


class _ItemBuyer(BaseModel):
    GiftWrapLevel: Text = ""
    GiftWrapPrice: _Money | None = None
    GiftWrapTax: _Money | None = None
    GiftMessageText: Text = ""


class _Item(BaseModel):
    OrderItemId: Code
    ASIN: Text = ""
    SellerSKU: Text = ""
    Title: Text = ""
    QuantityOrdered: Quantity
    QuantityShipped: Integer = 0
    ItemPrice: _Money | None = None
    """Of the whole quantity."""
    ItemTax: _Money | None = None
    PromotionDiscount: _Money | None = None
    ShippingPrice: _Money | None = None
    ShippingTax: _Money | None = None
    ShippingDiscount: _Money | None = None
    CODFee: _Money | None = None
    CODFeeDiscount: _Money | None = None
    BuyerInfo: _ItemBuyer | None = None
    BuyerRequestedCancel: _Cancel | None = None

    @property
    def line(self) -> OrderLine:
        quantity, price = max(self.QuantityOrdered, 1), max(_amount(self.ItemPrice), Decimal(0))
        unit = price_per_unit(price, quantity)
        return OrderLine.model_construct(
            line_no=self.OrderItemId,
            sku=self.SellerSKU or self.ASIN or self.OrderItemId,
            listing={"seller_sku": self.SellerSKU, "asin": self.ASIN},
            title=self.Title,
            quantity=quantity,
            unit_price=unit,
            discount=max(unit * quantity - price + _amount(self.PromotionDiscount), Decimal(0)),
        )

    @property
    def freight(self) -> Decimal:
        wrap = _amount(self.BuyerInfo.GiftWrapPrice) if self.BuyerInfo else Decimal(0)
        cash = _amount(self.CODFee) - _amount(self.CODFeeDiscount)
        return _amount(self.ShippingPrice) - _amount(self.ShippingDiscount) + wrap + cash

    @property
    def gift_message(self) -> str:
        """The gift wrap that the buyer paid for, and the text for the card."""
        if self.BuyerInfo is None:
            return ""
        wrap = f"[Gift wrap: {self.BuyerInfo.GiftWrapLevel}]" if self.BuyerInfo.GiftWrapLevel else ""
        return f"{wrap} {self.BuyerInfo.GiftMessageText}".strip()

    @property
    def tax(self) -> Decimal:
        wrap = _amount(self.BuyerInfo.GiftWrapTax) if self.BuyerInfo else Decimal(0)
        return _amount(self.ItemTax) + _amount(self.ShippingTax) + wrap

    def refund(self, cancelled: bool) -> Refunded | None:
        """Return the buyer's request to cancel the line, and its outcome; Amazon gives it no number."""
        requested = self.BuyerRequestedCancel is not None and self.BuyerRequestedCancel.requested
        if not (requested or self.QuantityOrdered == 0):
            return None
        unshipped = max(self.QuantityOrdered - self.QuantityShipped, 0)
        granted = cancelled or self.QuantityOrdered == 0
        state = RefundState.GRANTED if granted else RefundState.ASKED if unshipped else RefundState.CLOSED
        share = max(_amount(self.ItemPrice), Decimal(0)) * unshipped / max(self.QuantityOrdered, 1)
        return Refunded.model_construct(
            refund_no=f"cancel:{self.OrderItemId}",
            state=state,
            amount=share.quantize(Decimal("0.01")),
            line_no=self.OrderItemId,
            quantity=unshipped,
            reason=self.BuyerRequestedCancel.BuyerCancelReason if self.BuyerRequestedCancel else "",
        )


class _Address(BaseModel):
    Name: Part = ""
    AddressLine1: Part = ""
    AddressLine2: Part = ""
    AddressLine3: Part = ""
    City: Part = ""
    County: Part = ""
    District: Part = ""
    Municipality: Part = ""
    StateOrRegion: Part = ""
    PostalCode: Part = ""
    CountryCode: Country
    Phone: Part = ""

    @property
    def street(self) -> str:
        return " ".join(part for part in (self.AddressLine1, self.AddressLine2, self.AddressLine3) if part)

    @property
    def recipient(self) -> Recipient:
        return Recipient.model_construct(
            name=self.Name,
            phone=self.Phone,
            country=self.CountryCode,
            province=self.StateOrRegion,
            city=self.City or self.Municipality,
            district=self.District or self.County,
            street=self.street,
            postcode=self.PostalCode,
            hidden=False,
        )


class _Buyer(BaseModel):
    BuyerEmail: Text = ""
    """Amazon's alias of the buyer, one for each seller."""
    PurchaseOrderNumber: Text = ""


class _Shipping(BaseModel):
    AutomatedCarrier: Text = ""


class _Head(BaseModel):
    AmazonOrderId: Code
    OrderStatus: Annotated[Text, Listed("?", _STATUSES | _PENDING, required=True)]
    FulfillmentChannel: Text = ""
    PurchaseDate: Time
    LastUpdateDate: Time
    LatestShipDate: MaybeTime = None
    LatestDeliveryDate: MaybeTime = None
    OrderTotal: _Money | None = None
    MarketplaceId: Text = ""
    SalesChannel: Text = ""
    PaymentMethod: Text = ""
    ShipServiceLevel: Text = ""
    ShipmentServiceLevelCategory: Text = ""
    EasyShipShipmentStatus: Text = ""
    ReplacedOrderId: Text = ""
    IsPrime: bool | None = False
    IsBusinessOrder: bool | None = False
    IsISPU: bool | None = False
    HasRegulatedItems: bool | None = False
    ShippingAddress: _Address | None = None
    BuyerInfo: _Buyer | None = None
    AutomatedShippingSettings: _Shipping | None = None

    @property
    def hold(self) -> str:
        """Why it must not be shipped as it is; empty where it may be."""
        if self.OrderStatus == "Unfulfillable":
            return self.OrderStatus
        return "IsISPU" if self.IsISPU else "HasRegulatedItems" if self.HasRegulatedItems else ""


class _Currency(BaseModel):
    CurrencyAmount: Fee = Decimal(0)


class _Charge(BaseModel):
    ChargeAmount: _Currency | None = None
    PromotionAmount: _Currency | None = None

    @property
    def amount(self) -> Decimal:
        amount = self.ChargeAmount or self.PromotionAmount
        return amount.CurrencyAmount if amount else Decimal(0)


Charges = Annotated[list[_Charge], BeforeValidator(lambda value: value or [])]


class _Adjustment(BaseModel):
    OrderAdjustmentItemId: Code
    SellerSKU: Text = ""
    QuantityShipped: Integer = 0
    ItemChargeAdjustmentList: Charges = []
    PromotionAdjustmentList: Charges = []

    @property
    def amount(self) -> Decimal:
        """What the buyer gets back: refunded charges are negative, reversed promotions positive."""
        parts = (*self.ItemChargeAdjustmentList, *self.PromotionAdjustmentList)
        return max(-sum((part.amount for part in parts), Decimal(0)), Decimal(0))


class _RefundEvent(BaseModel):
    ShipmentItemAdjustmentList: Annotated[list[_Adjustment], BeforeValidator(lambda value: value or [])] = []


class _Read(BaseModel):
    order: _Head
    items: list[_Item]
    refunds: list[_RefundEvent] | None = []
    """``None``: we lack the permission to see the finances."""


class _Summary(BaseModel):
    FulfillmentType: Text = ""


class _Change(BaseModel):
    SellerId: Text = ""
    AmazonOrderId: Annotated[Code, Field(pattern=r"^[^\s:/]+$")]
    Summary: _Summary


class _Payload(BaseModel):
    OrderChangeNotification: _Change | None = None


class _Notification(BaseModel):
    NotificationType: Code
    Payload: _Payload


class _Metadata(BaseModel):
    NotificationId: Text = ""


class _NotificationHeader(BaseModel):
    NotificationType: Text = ""
    NotificationMetadata: _Metadata = _Metadata()


class _RateLimit:
    """A token bucket as in Amazon's usage plans: calls wait here instead of being refused there."""

    def __init__(self, rate: float, burst: int) -> None:
        self.interval = 1 / rate
        self._burst_seconds = self.interval * burst
        self._next = 0.0

    async def acquire(self) -> None:
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + self.interval
        if (wait := self._next - now - self._burst_seconds) > 0:
            await asyncio.sleep(wait)


class Amazon:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._api = account.base_url.rstrip("/")
        self._marketplace = str(account.settings.get("marketplace_id", ""))
        self._seller = str(account.settings.get("seller_id", ""))
        self._behind = timedelta(seconds=float(account.settings.get("behind_seconds", _BEHIND_SECONDS)))
        factor = float(account.settings.get("rate_factor", 1))
        self._order_list, self._order_read = _RateLimit(0.0167 * factor, 20), _RateLimit(0.5 * factor, 30)
        self._finances, self._listings = _RateLimit(0.5 * factor, 30), _RateLimit(5 * factor, 5)

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Verify a notification that an API destination sends. Amazon repeats a notification under the same id."""
        key = self._account.secrets.get("notification_key", "")
        if not key or not hmac.compare_digest(headers.get("x-api-key", "").encode(), key.encode()):
            raise Unauthentic("x-api-key: does not match")
        try:
            header = decode(_NotificationHeader, body)
        except Unintelligible:
            header = _NotificationHeader()
        number = header.NotificationMetadata.NotificationId or sha256(body).hexdigest()
        return Receipt(fact_key=f"notification:{number}", topic=header.NotificationType or CHANGED)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        if topic == READ:
            return self._order(*decode_order(_Read, body, "order.AmazonOrderId"))
        notification = decode(_Notification, body)
        if notification.NotificationType != CHANGED:
            return None
        if (change := notification.Payload.OrderChangeNotification) is None:
            raise Unintelligible("Payload.OrderChangeNotification", "validation.missing")
        if change.Summary.FulfillmentType == "AFN" or (self._seller and change.SellerId not in ("", self._seller)):
            return None
        return Hint(order_nos=(change.AmazonOrderId,))

    def _order(self, read: _Read, odd: Odd) -> ChannelOrder | None:
        head = read.order
        if head.FulfillmentChannel == "AFN" or head.OrderStatus in _PENDING:
            return None
        items = [item for item in read.items if item.QuantityOrdered]
        cancelled = head.OrderStatus == "Canceled" or not items
        items = items or read.items
        cash = head.PaymentMethod == "COD"
        freight = sum((item.freight for item in items), Decimal(0))
        lines = tuple(item.line for item in items)
        parts = sum((line.net for line in lines), Decimal(0)) + freight
        total = head.OrderTotal.Amount if head.OrderTotal else max(parts, Decimal(0))
        tax = max(sum((item.tax for item in items), Decimal(0)), Decimal(0))
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=head.AmazonOrderId,
            placed_at=head.PurchaseDate,
            modified_at=head.LastUpdateDate,
            paid_at=head.PurchaseDate if head.OrderStatus in _STATUSES and not (cash or cancelled) else None,
            cancelled_at=head.LastUpdateDate if cancelled else None,
            shipped=head.OrderStatus in _SHIPPED,
            cash_on_delivery=cash,
            currency=self._currency(read),
            lines=lines,
            refunds=(*self._cancellation_requests(read, cancelled), *self._granted_refunds(read)),
            freight=max(freight, Decimal(0)),
            tax=tax if parts + tax == total else Decimal(0),
            total=total,
            recipient=head.ShippingAddress.recipient if head.ShippingAddress else Recipient(),
            buyer=head.BuyerInfo.BuyerEmail if head.BuyerInfo else "",
            buyer_message=" ".join(item.gift_message for item in items).strip(),
            promised_by=head.LatestDeliveryDate or head.LatestShipDate,
            priority=_priority(head.ShipmentServiceLevelCategory),
            origin=self._origin(head),
            custom=_custom(read, cancelled),
        )

    def _currency(self, read: _Read) -> str:
        amounts = [read.order.OrderTotal, *(item.ItemPrice for item in read.items)]
        marketplace = read.order.MarketplaceId or self._marketplace
        known = next((money.CurrencyCode for money in amounts if money and money.CurrencyCode), "")
        return known or _CURRENCIES.get(marketplace, "EUR")

    def _cancellation_requests(self, read: _Read, cancelled: bool) -> Iterable[Refunded]:
        return [refund for item in read.items if (refund := item.refund(cancelled)) is not None]

    def _granted_refunds(self, read: _Read) -> Iterable[Refunded]:
        """Return the refunds in the finances. They name a SKU: assign each to the first line that holds it."""
        lines = {item.SellerSKU: item.OrderItemId for item in reversed(read.items)}
        return [
            Refunded.model_construct(
                refund_no=each.OrderAdjustmentItemId,
                state=RefundState.GRANTED,
                amount=each.amount,
                line_no=lines.get(each.SellerSKU),
                quantity=each.QuantityShipped,
            )
            for event in read.refunds or []
            for each in event.ShipmentItemAdjustmentList
        ]

    def _origin(self, head: _Head) -> Origin:
        address = head.ShippingAddress
        region = f"{address.CountryCode} {address.StateOrRegion} {address.City}".strip() if address else ""
        return marketplace_origin(self._account, region)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield orders by ``getOrders``, then orders refunded two days before. Amazon allows 0.5 reads a second."""
        token = await self._restricted_token()
        async for head in self._orders("LastUpdated", since, until, token):
            if head.get("OrderStatus") not in _PENDING:
                yield await self._with_items(head, token)
        async for number in self._refunded_orders(since - _POSTING_DELAY, until - _POSTING_DELAY):
            if (pulled := await self._read(number, token)) is not None:
                yield pulled

    async def read(self, order_no: str) -> PulledOrder | None:
        return await self._read(order_no, await self._restricted_token())

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for head in self._orders("Created", since, until, self._access):
            if head.get("OrderStatus") not in _PENDING:
                yield str(head["AmazonOrderId"])

    async def _orders(self, by: str, since: datetime, until: datetime, token: str) -> AsyncIterator[dict[str, Any]]:
        """Yield orders ``by`` the time they were ``Created`` or ``LastUpdated``."""
        if since >= (until := min(until, datetime.now(UTC) - self._behind)):
            return
        window = {f"{by}After": _time(since), f"{by}Before": _time(until)}
        query = {"MarketplaceIds": self._marketplace, "FulfillmentChannels": "MFN", "MaxResultsPerPage": "100"}
        async for page in self._pages("/orders/v0/orders", query | window, token, self._order_list):
            for head in page.get("Orders") or []:
                yield head

    async def _read(self, order_no: str, token: str) -> PulledOrder | None:
        """Return the order; ``None`` where it does not exist."""
        await self._order_read.acquire()
        try:
            answer = await self._call("GET", f"/orders/v0/orders/{quote(order_no, safe='')}", token=token)
        except ApplicationError as error:
            if error.details[:1] == ("404",):
                return None
            raise
        return await self._with_items(_payload(answer), token)

    async def _with_items(self, head: dict[str, Any], token: str) -> PulledOrder:
        """Return the order with its items and refunds."""
        number = quote(str(head["AmazonOrderId"]), safe="")
        items: list[Any] = []
        async for page in self._pages(f"/orders/v0/orders/{number}/orderItems", {}, token, self._order_read):
            items += page.get("OrderItems") or []
        refunds: list[Any] | None = []
        if head.get("OrderStatus") in _SHIPPED | {"PartiallyShipped"}:
            refunds = await self._refunds(f"/finances/v0/orders/{number}/financialEvents", {})
        fact_key = order_fact_key(head["AmazonOrderId"], head.get("LastUpdateDate"), [head, items, refunds])
        priority = _priority(str(head.get("ShipmentServiceLevelCategory")))
        return pulled_order(READ, fact_key, {"order": head, "items": items, "refunds": refunds}, priority)

    async def _refunded_orders(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        """Yield the numbers of orders with a refund posted in the window, each once."""
        until = min(until, datetime.now(UTC) - self._behind)
        window = {"PostedAfter": _time(since), "PostedBefore": _time(until), "MaxResultsPerPage": "100"}
        events = await self._refunds("/finances/v0/financialEvents", window) or []
        for number in sorted({str(event["AmazonOrderId"]) for event in events if event.get("AmazonOrderId")}):
            yield number

    async def _refunds(self, path: str, params: dict[str, str]) -> list[dict[str, Any]] | None:
        """Return the refunds in the finances; ``None`` where the application may not see them."""
        refunds: list[dict[str, Any]] = []
        try:
            async for page in self._pages(path, params, self._access, self._finances):
                refunds += (page.get("FinancialEvents") or {}).get("RefundEventList") or []
        except ApplicationError as error:
            if error.details[:1] == ("403",):
                return None
            raise
        return refunds

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Call ``confirmShipment``, which edits a package that exists. A refusal is ignored where the order
        shows a package with this waybill."""
        code = carrier_code(self._account, CARRIER_CODES, shipment.carrier, "Other")
        name = {"carrierName": CARRIER_NAMES.get(shipment.carrier, shipment.carrier.upper())} if code == "Other" else {}
        quantities: dict[str, int] = {}
        for line in shipment.lines:
            quantities[line.line_no] = max(quantities.get(line.line_no, 0), line.quantity)
        package = {
            "packageReferenceId": str(int(sha256(shipment.reference.encode()).hexdigest(), 16) % 10**9 + 1),
            "carrierCode": code,
            **name,
            "trackingNumber": shipment.waybill_no,
            "shipDate": _time(shipment.shipped_at),
            "orderItems": [{"orderItemId": item, "quantity": count} for item, count in quantities.items()],
        }
        path = f"/orders/v0/orders/{quote(shipment.channel_order_no, safe='')}/shipmentConfirmation"
        confirmation = {"marketplaceId": self._marketplace, "packageDetail": package}
        try:
            await self._call("POST", path, token=self._access, content=confirmation)
        except ApplicationError as error:
            if not (error.non_retryable and error.details[:1] != ("403",) and await self._shows_waybill(shipment)):
                raise

    async def _shows_waybill(self, shipment: Shipment) -> bool:
        """Whether the order has a package with this waybill, by version 2026-01-01: v0 does not show packages."""
        path = f"/orders/2026-01-01/orders/{quote(shipment.channel_order_no, safe='')}"
        answer = await self._call("GET", path, token=self._access, params={"includedData": "PACKAGES"})
        packages = (answer.get("order") or {}).get("packages") or []
        return any(package.get("trackingNumber") == shipment.waybill_no for package in packages)

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Call ``patchListingsItem`` for one SKU at a time, five a second; the merge changes the quantity only."""
        return await refused_one_by_one(offered, self._set_stock)

    async def _set_stock(self, offered: StockOffer) -> str:
        """Set one quantity; return the reason where Amazon refuses it for good."""
        await self._listings.acquire()
        sku = quote(offered.listing.get("seller_sku") or offered.sku, safe="")
        level = {"fulfillment_channel_code": "DEFAULT", "quantity": offered.quantity}
        patch = {"op": "merge", "path": "/attributes/fulfillment_availability", "value": [level]}
        change = {"productType": offered.listing.get("product_type") or "PRODUCT", "patches": [patch]}
        try:
            answer = await self._call(
                "PATCH",
                f"/listings/2021-08-01/items/{quote(self._seller, safe='')}/{sku}",
                token=self._access,
                params={"marketplaceIds": self._marketplace},
                content=change,
            )
        except ApplicationError as error:
            if error.details[:1] in (("400",), ("404",)):
                return error.message
            raise
        if answer.get("status") == "ACCEPTED":
            return ""
        issues = [str(issue.get("code")) for issue in answer.get("issues") or [] if issue.get("severity") == "ERROR"]
        return ", ".join(issues) or str(answer.get("status"))

    async def renew(self) -> Mapping[str, str]:
        """Get an access token from Login with Amazon; it lasts an hour."""
        secrets = self._account.secrets
        form = {
            "grant_type": "refresh_token",
            "refresh_token": secrets.get("refresh_token", ""),
            "client_id": secrets.get("client_id", ""),
            "client_secret": secrets.get("client_secret", ""),
        }
        url = str(self._account.settings.get("token_url", _TOKEN_URL))
        response = await http.send("POST", url, data=form, allowed_statuses={400, 401})
        answer = http.json_object(response)
        if response.status_code >= 400:
            raise refused("error.authorisation", str(answer.get("error")), vendor="amazon", code=answer.get("error"))
        return oauth_secrets(answer)

    @property
    def _access(self) -> str:
        if not (token := self._account.secrets.get("access_token", "")):
            raise expired("amazon")
        return token

    async def _restricted_token(self) -> str:
        """Return a token for personal data, valid for an hour and any order."""
        elements = ["buyerInfo", "shippingAddress"]
        resources = [
            {"method": "GET", "path": "/orders/v0/orders", "dataElements": elements},
            {"method": "GET", "path": "/orders/v0/orders/{orderId}", "dataElements": elements},
            {"method": "GET", "path": "/orders/v0/orders/{orderId}/orderItems", "dataElements": ["buyerInfo"]},
        ]
        content = {"restrictedResources": resources}
        answer = await self._call("POST", "/tokens/2021-03-01/restrictedDataToken", token=self._access, content=content)
        return str(answer.get("restrictedDataToken"))

    async def _pages(
        self, path: str, params: dict[str, str], token: str, rate_limit: _RateLimit
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the ``payload`` of each page; the token of one page asks for the next."""
        next_page: dict[str, str] = {}
        while True:
            await rate_limit.acquire()
            page = _payload(await self._call("GET", path, token=token, params=params | next_page))
            yield page
            if not (next_page := {"NextToken": str(page["NextToken"])} if page.get("NextToken") else {}):
                return

    async def _call(
        self,
        method: str,
        path: str,
        *,
        token: str,
        params: dict[str, str] | None = None,
        content: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the response's document, empty where there is none.

        Raises ``refused`` with the status as its detail, ``expired``, and ``unavailable`` where throttled, for as long
        as the operation's rate demands.
        """
        response = await http.send(
            method,
            f"{self._api}{path}",
            params=params,
            content=None if content is None else json.dumps(content).encode(),
            headers={"x-amz-access-token": token, "Content-Type": "application/json"},
            allowed_statuses={400, 401, 403, 404, 413, 415, 429},
        )
        if response.status_code == 429:
            raise unavailable("error.unavailable", _wait(response), vendor="amazon", code="QuotaExceeded")
        if response.status_code == 204:
            return {}
        answer = http.json_object(response)
        if response.status_code < 400:
            return answer
        errors = answer.get("errors") or [{}]
        if "has expired" in f"{errors[0].get('message')} {errors[0].get('details')}":
            raise expired("amazon")
        code = str(errors[0].get("code") or response.status_code)
        raise refused("error.refused", str(response.status_code), vendor="amazon", code=code)


def _priority(service: str) -> int:
    return URGENT if service in _EXPRESS_SERVICES else NORMAL


def _custom(read: _Read, cancelled: bool) -> dict[str, JsonValue]:
    head = read.order
    settings = head.AutomatedShippingSettings
    custom: dict[str, JsonValue] = {
        "channel_hold": "" if cancelled else head.hold,
        "partly_shipped": head.OrderStatus == "PartiallyShipped",
        "cancel_reason": "Canceled" if cancelled else "",
        "sales_channel": head.SalesChannel,
        "ship_service": head.ShipServiceLevel,
        "ship_by": head.LatestShipDate.isoformat() if head.LatestShipDate else "",
        "easy_ship": head.EasyShipShipmentStatus,
        "replaced_order": head.ReplacedOrderId,
        "automated_carrier": settings.AutomatedCarrier if settings else "",
        "purchase_order": head.BuyerInfo.PurchaseOrderNumber if head.BuyerInfo else "",
        "prime": bool(head.IsPrime),
        "business": bool(head.IsBusinessOrder),
        "refunds_unknown": read.refunds is None,
    }
    return drop_empty(custom)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _wait(response: httpx.Response) -> float | None:
    """Return the seconds until the operation allows another call; the header holds its rate in calls a second."""
    try:
        rate = float(response.headers.get("x-amzn-ratelimit-limit", ""))
    except ValueError:
        return None
    return min(round(1 / rate, 3), 3600) if rate > 0 else None


def _payload(answer: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(payload := answer.get("payload"), dict):
        raise unavailable("error.empty", vendor="amazon", name="payload")
    return payload


def adapter(account: Account) -> Amazon:
    return Amazon(account)
