"""Amazon by its Selling Partner API: orders that the seller sends (MFN); what Amazon sends (AFN) is not ours.

Sources: amzn/selling-partner-api-models (ordersV0, tokens_2021-03-01, listingsItems_2021-08-01, financesV0,
orders_2026-01-01 for packages, schemas/notifications/OrderChangeNotification) and developer-docs.amazon.com (usage
plans, Merge a listing, Connecting to the Selling Partner API). Amazon removes v0's reading operations on 2027-03-27 in
favour of 2026-01-01, which needs no restricted token; ``confirmShipment`` stays.

Account: one seller in one marketplace. ``base_url`` ``https://sellingpartnerapi-{na|eu|fe}.amazon.com``; secrets
``client_id``, ``client_secret``, ``refresh_token`` (Login with Amazon; ``access_token`` and ``expires_at`` come of
them) and ``notification_key``; settings ``marketplace_id``, ``seller_id``, ``token_url`` where it is not Amazon's own,
``carrier_codes`` where ours are not known below, ``rate_factor`` (1) where Amazon grants more than its default rates,
``behind_seconds`` (120). Listings: ``seller_sku`` where it is not the merchant's SKU, and
``product_type`` where ``PRODUCT`` will not do; ``asin`` is told with an order. The application needs the roles Direct
to Consumer Shipping (recipients), Product Listing (stock), and Finance and Accounting for refunds: without the last,
``custom.refunds_untold`` says so of an order.

Notifications: Amazon delivers ORDER_CHANGE to an SQS queue alone, and not to EventBridge. Its messages reach us by an
EventBridge pipe from the queue, in batches of one, to an API destination, with the input template ``<$.body>`` and an
API key connection that sends ``notification_key`` as ``x-api-key``. Reading the queue ourselves needs AWS's own
signatures and is not built. A notification names an order, which is then read; one lost is made up for by the next
pull, but for a buyer's wish to cancel, which may change no date that pulls go by.

Before payment is authorised (Pending) Amazon tells neither prices nor address and keeps its own count of the stock:
such an order is none yet. ``total`` is what the buyer pays, taxes included; promotions are the seller's and taken off.
A buyer who asks for cancellation asks for a refund of that line. What was refunded after shipping shows in the finances
within 48 hours, so each pull reads the window of two days before. Not built: Easy Ship pick-ups, Transparency codes,
and how cash was collected in Japan. Amazon's list of carrier codes was found at second hand only.
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
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, JsonValue, model_validator
from temporalio.exceptions import ApplicationError

from activities.channels import Hint, PulledOrder, StockOffer, StockRefusal, oauth_secrets, order_fact_key
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, expired, refused, unavailable
from activities.kit.payloads import (
    Code,
    Fee,
    Integer,
    Part,
    Text,
    decode,
    price_per_unit,
    validating_order,
    with_total_mismatch,
    within_calendar,
)
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import NORMAL, URGENT, ChannelOrder, OrderLine, RefundState
from models.order import Refund as Refunded
from models.origins import ChannelKind, IntakePath, Origin

READ = "orders/v0"
"""The topic of an order that was pulled or read: ``{"order", "items", "refunds"}``, as three operations answer."""
CHANGED = "ORDER_CHANGE"

_TOKEN_URL = "https://api.amazon.com/auth/o2/token"  # noqa: S105
_BEHIND = 120
"""Seconds: Amazon lists nothing younger."""
_POSTED = timedelta(hours=48)
"""Amazon's finances may lack anything younger."""
_UNTOLD = {"Pending", "PendingAvailability"}
_LEFT = {"Shipped", "InvoiceUnconfirmed"}
_KNOWN = {"Unshipped", "PartiallyShipped", "Unfulfillable", "Canceled"} | _LEFT
_HURRIED = {"SameDay", "NextDay"}
_CARRIERS = {"sf": "SF Express"}
"""As Amazon's lists of carrier codes name them; the others have no code there and go as ``Other`` by their names."""
_NAMES = {"yto": "YTO Express", "sto": "STO Express", "zto": "ZTO Express", "yunda": "Yunda", "jd": "JD Logistics"}
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
"""By marketplace, for an order cancelled before it had a price; the euro everywhere else."""

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
    def asked(self) -> bool:
        return str(self.IsBuyerRequestedCancel).lower() == "true"


class _ItemBuyer(BaseModel):
    GiftWrapPrice: _Money | None = None
    GiftWrapTax: _Money | None = None
    GiftMessageText: Text = ""


class _Item(BaseModel):
    OrderItemId: Code
    ASIN: Text = ""
    SellerSKU: Text = ""
    Title: Text = ""
    QuantityOrdered: Annotated[int, Field(ge=0, le=100_000)]
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
        return OrderLine(
            line_no=self.OrderItemId,
            sku=(self.SellerSKU or self.ASIN or self.OrderItemId)[:64],
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
        return self.BuyerInfo.GiftMessageText if self.BuyerInfo else ""

    @property
    def tax(self) -> Decimal:
        wrap = _amount(self.BuyerInfo.GiftWrapTax) if self.BuyerInfo else Decimal(0)
        return _amount(self.ItemTax) + _amount(self.ShippingTax) + wrap

    def refund(self, cancelled: bool) -> Refunded | None:
        """The buyer's wish to have this cancelled, and what came of it; Amazon numbers it not."""
        asked = self.BuyerRequestedCancel is not None and self.BuyerRequestedCancel.asked
        if not (asked or self.QuantityOrdered == 0):
            return None
        left = max(self.QuantityOrdered - self.QuantityShipped, 0)
        granted = cancelled or self.QuantityOrdered == 0
        state = RefundState.GRANTED if granted else RefundState.ASKED if left else RefundState.CLOSED
        share = max(_amount(self.ItemPrice), Decimal(0)) * left / max(self.QuantityOrdered, 1)
        return Refunded(
            refund_no=f"cancel:{self.OrderItemId}"[:64],
            state=state,
            amount=share.quantize(Decimal("0.01")),
            line_no=self.OrderItemId,
            quantity=left,
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
    CountryCode: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
    Phone: Part = ""

    @property
    def street(self) -> str:
        return " ".join(part for part in (self.AddressLine1, self.AddressLine2, self.AddressLine3) if part)

    @model_validator(mode="after")
    def _fits(self) -> "_Address":
        if len(self.street) > 200:
            raise ValueError("the address lines together exceed 200 characters")
        return self

    @property
    def recipient(self) -> Recipient:
        return Recipient(
            name=self.Name,
            phone=self.Phone,
            country=self.CountryCode,
            province=self.StateOrRegion,
            city=self.City or self.Municipality,
            district=self.District or self.County,
            street=self.street,
            postcode=self.PostalCode,
        )


class _Buyer(BaseModel):
    BuyerEmail: Text = ""
    """Amazon's alias: the same for all of a buyer's orders with one seller."""
    PurchaseOrderNumber: Text = ""


class _Shipping(BaseModel):
    AutomatedCarrier: Text = ""


class _Head(BaseModel):
    AmazonOrderId: Code
    OrderStatus: Code
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
        """Why it is not to be shipped as it is; empty where it is."""
        if self.OrderStatus in {"PartiallyShipped", "Unfulfillable"}:
            return self.OrderStatus
        return "IsISPU" if self.IsISPU else "HasRegulatedItems" if self.HasRegulatedItems else ""


class _Currency(BaseModel):
    CurrencyAmount: Fee = Decimal(0)


class _Charge(BaseModel):
    ChargeAmount: _Currency | None = None
    PromotionAmount: _Currency | None = None

    @property
    def amount(self) -> Decimal:
        told = self.ChargeAmount or self.PromotionAmount
        return told.CurrencyAmount if told else Decimal(0)


Charges = Annotated[list[_Charge], BeforeValidator(lambda value: value or [])]


class _Adjustment(BaseModel):
    OrderAdjustmentItemId: Code
    SellerSKU: Text = ""
    QuantityShipped: Integer = 0
    ItemChargeAdjustmentList: Charges = []
    PromotionAdjustmentList: Charges = []

    @property
    def amount(self) -> Decimal:
        """Charges given back are negative; promotions taken back with them are positive."""
        parts = (*self.ItemChargeAdjustmentList, *self.PromotionAdjustmentList)
        return max(-sum((part.amount for part in parts), Decimal(0)), Decimal(0))


class _RefundEvent(BaseModel):
    ShipmentItemAdjustmentList: Annotated[list[_Adjustment], BeforeValidator(lambda value: value or [])] = []


class _Read(BaseModel):
    order: _Head
    items: Annotated[list[_Item], Field(min_length=1, max_length=200)]
    refunds: list[_RefundEvent] | None = []
    """``None``: we may not see the finances."""


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


class _Glance(BaseModel):
    NotificationType: Text = ""
    NotificationMetadata: _Metadata = _Metadata()


class _Pace:
    """A token bucket as in Amazon's usage plans: calls wait here rather than be refused there."""

    def __init__(self, rate: float, burst: int) -> None:
        self.interval = 1 / rate
        self._ahead = self.interval * burst
        self._next = 0.0

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + self.interval
        if (wait := self._next - now - self._ahead) > 0:
            await asyncio.sleep(wait)


class Amazon:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._api = account.base_url.rstrip("/")
        self._marketplace = str(account.settings.get("marketplace_id", ""))
        self._seller = str(account.settings.get("seller_id", ""))
        self._behind = timedelta(seconds=float(account.settings.get("behind_seconds", _BEHIND)))
        granted = float(account.settings.get("rate_factor", 1))
        self._listing, self._reading = _Pace(0.0167 * granted, 20), _Pace(0.5 * granted, 30)
        self._money, self._stocking = _Pace(0.5 * granted, 30), _Pace(5 * granted, 5)

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        """A notification as an API destination sends it. Amazon repeats one under the same id."""
        key = self._account.secrets.get("notification_key", "")
        if not key or not hmac.compare_digest(headers.get("x-api-key", "").encode(), key.encode()):
            raise Unauthentic("x-api-key: is not ours")
        try:
            told = decode(_Glance, body)
        except Unintelligible:
            told = _Glance()
        number = told.NotificationMetadata.NotificationId or sha256(body).hexdigest()
        return Receipt(fact_key=f"notification:{number}", topic=told.NotificationType or CHANGED)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        if topic == READ:
            return self._order(decode(_Read, body))
        told = decode(_Notification, body)
        if told.NotificationType != CHANGED:
            return None
        if (change := told.Payload.OrderChangeNotification) is None:
            raise Unintelligible("Payload.OrderChangeNotification", "Field required")
        if change.Summary.FulfillmentType == "AFN" or (self._seller and change.SellerId not in ("", self._seller)):
            return None
        return Hint(order_nos=(change.AmazonOrderId,))

    def _order(self, told: _Read) -> ChannelOrder | None:
        head = told.order
        if head.FulfillmentChannel == "AFN" or head.OrderStatus in _UNTOLD:
            return None
        if head.OrderStatus not in _KNOWN:
            raise Unintelligible("order.OrderStatus", "not an order status we know")
        wanted = [item for item in told.items if item.QuantityOrdered]
        cancelled = head.OrderStatus == "Canceled" or not wanted
        wanted = wanted or told.items
        cash = head.PaymentMethod == "COD"
        freight = sum((item.freight for item in wanted), Decimal(0))
        with validating_order():
            lines = tuple(item.line for item in wanted)
            parts = sum((line.net for line in lines), Decimal(0)) + freight
            order = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=head.AmazonOrderId,
                placed_at=head.PurchaseDate,
                modified_at=head.LastUpdateDate,
                paid_at=None if cash or cancelled else head.PurchaseDate,
                cancelled_at=head.LastUpdateDate if cancelled else None,
                shipped=head.OrderStatus in _LEFT,
                cash_on_delivery=cash,
                currency=self._currency(told),
                lines=lines,
                refunds=(*self._wishes(told, cancelled), *self._granted(told)),
                freight=max(freight, Decimal(0)),
                total=head.OrderTotal.Amount if head.OrderTotal else max(parts, Decimal(0)),
                recipient=head.ShippingAddress.recipient if head.ShippingAddress else Recipient(),
                buyer=head.BuyerInfo.BuyerEmail if head.BuyerInfo else "",
                buyer_message=" ".join(item.gift_message for item in wanted).strip(),
                promised_by=head.LatestDeliveryDate or head.LatestShipDate,
                priority=_priority(head.ShipmentServiceLevelCategory),
                origin=self._origin(head),
                custom=_custom(told, cancelled),
            )
        tax = max(sum((item.tax for item in wanted), Decimal(0)), Decimal(0))
        added = order.model_copy(update={"tax": tax})
        return with_total_mismatch(order if added.mismatch else added)

    def _currency(self, told: _Read) -> str:
        named = [told.order.OrderTotal, *(item.ItemPrice for item in told.items)]
        marketplace = told.order.MarketplaceId or self._marketplace
        known = next((money.CurrencyCode for money in named if money and money.CurrencyCode), "")
        return known or _CURRENCIES.get(marketplace, "EUR")

    def _wishes(self, told: _Read, cancelled: bool) -> Iterable[Refunded]:
        return [wish for item in told.items if (wish := item.refund(cancelled)) is not None]

    def _granted(self, told: _Read) -> Iterable[Refunded]:
        """Refunds name a SKU: of several lines that hold it, the first."""
        lines = {item.SellerSKU: item.OrderItemId for item in reversed(told.items)}
        return [
            Refunded(
                refund_no=each.OrderAdjustmentItemId,
                state=RefundState.GRANTED,
                amount=each.amount,
                line_no=lines.get(each.SellerSKU),
                quantity=each.QuantityShipped,
            )
            for event in told.refunds or []
            for each in event.ShipmentItemAdjustmentList
        ]

    def _origin(self, head: _Head) -> Origin:
        address = head.ShippingAddress
        return Origin(
            kind=ChannelKind.MARKETPLACE,
            platform="amazon",
            shop=self._account.account,
            region=f"{address.CountryCode} {address.StateOrRegion} {address.City}".strip() if address else "",
            intake=IntakePath.POLL,
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """By ``getOrders``, then what was refunded two days before. Read one by one, for Amazon grants 0.5 a second."""
        token = await self._restricted()
        async for head in self._orders("LastUpdated", since, until, token):
            if head.get("OrderStatus") not in _UNTOLD:
                yield await self._whole(head, token)
        async for number in self._refunded(since - _POSTED, until - _POSTED):
            if (pulled := await self._read(number, token)) is not None:
                yield pulled

    async def read(self, order_no: str) -> PulledOrder | None:
        return await self._read(order_no, await self._restricted())

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for head in self._orders("Created", since, until, self._access):
            if head.get("OrderStatus") not in _UNTOLD:
                yield str(head["AmazonOrderId"])

    async def _orders(self, by: str, since: datetime, until: datetime, token: str) -> AsyncIterator[dict[str, Any]]:
        """Orders ``by`` when they were ``Created`` or ``LastUpdated``; Amazon keeps the place by a token."""
        if since >= (until := min(until, datetime.now(UTC) - self._behind)):
            return
        window = {f"{by}After": _time(since), f"{by}Before": _time(until)}
        mine = {"MarketplaceIds": self._marketplace, "FulfillmentChannels": "MFN", "MaxResultsPerPage": "100"}
        async for page in self._pages("/orders/v0/orders", mine | window, token, self._listing):
            for head in page.get("Orders") or []:
                yield head

    async def _read(self, order_no: str, token: str) -> PulledOrder | None:
        """The order; ``None`` where there is none, and where Amazon sends it or does not tell of it yet."""
        await self._reading.turn()
        try:
            answer = await self._call("GET", f"/orders/v0/orders/{quote(order_no, safe='')}", token=token)
        except ApplicationError as error:
            if error.details[:1] == ("404",):
                return None
            raise
        return await self._whole(_payload(answer), token)

    async def _whole(self, head: dict[str, Any], token: str) -> PulledOrder:
        number = quote(str(head["AmazonOrderId"]), safe="")
        items: list[Any] = []
        async for page in self._pages(f"/orders/v0/orders/{number}/orderItems", {}, token, self._reading):
            items += page.get("OrderItems") or []
        refunds: list[Any] | None = []
        if head.get("OrderStatus") in _LEFT | {"PartiallyShipped"}:
            refunds = await self._refunds(f"/finances/v0/orders/{number}/financialEvents", {})
        receipt = Receipt(
            fact_key=order_fact_key(head["AmazonOrderId"], head.get("LastUpdateDate"), [head, items, refunds]),
            topic=READ,
            priority=_priority(str(head.get("ShipmentServiceLevelCategory"))),
        )
        body = {"order": head, "items": items, "refunds": refunds}
        return PulledOrder(receipt=receipt, body=json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())

    async def _refunded(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        """The numbers of orders with a refund posted in the window, each once."""
        until = min(until, datetime.now(UTC) - self._behind)
        window = {"PostedAfter": _time(since), "PostedBefore": _time(until), "MaxResultsPerPage": "100"}
        events = await self._refunds("/finances/v0/financialEvents", window) or []
        for number in sorted({str(event["AmazonOrderId"]) for event in events if event.get("AmazonOrderId")}):
            yield number

    async def _refunds(self, path: str, params: dict[str, str]) -> list[dict[str, Any]] | None:
        """Refunds as the finances hold them; ``None`` where the application may not see those."""
        found: list[dict[str, Any]] = []
        try:
            async for page in self._pages(path, params, self._access, self._money):
                found += (page.get("FinancialEvents") or {}).get("RefundEventList") or []
        except ApplicationError as error:
            if error.details[:1] == ("403",):
                return None
            raise
        return found

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """``confirmShipment``: the same package number again edits the package. Refused, it is fine where the order
        shows a package with this waybill."""
        codes = _CARRIERS | dict(self._account.settings.get("carrier_codes", {}))
        code = str(codes.get(shipment.carrier, "Other"))
        name = {} if code != "Other" else {"carrierName": _NAMES.get(shipment.carrier, shipment.carrier.upper())}
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
        told = {"marketplaceId": self._marketplace, "packageDetail": package}
        try:
            await self._call("POST", path, token=self._access, told=told)
        except ApplicationError as error:
            if not (error.non_retryable and error.details[:1] != ("403",) and await self._shows(shipment)):
                raise

    async def _shows(self, shipment: Shipment) -> bool:
        """The order holds a package with this waybill, by version 2026-01-01: v0 does not tell of packages."""
        path = f"/orders/2026-01-01/orders/{quote(shipment.channel_order_no, safe='')}"
        answer = await self._call("GET", path, token=self._access, params={"includedData": "PACKAGES"})
        packages = (answer.get("order") or {}).get("packages") or []
        return any(package.get("trackingNumber") == shipment.waybill_no for package in packages)

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """By ``patchListingsItem``, a call for each SKU, five a second; the merge leaves all else as it is."""
        refusals: list[StockRefusal] = []
        for each in offered:
            await self._stocking.turn()
            if reason := await self._set_stock(each):
                refusals.append(StockRefusal(sku=each.sku, reason=reason))
        return refusals

    async def _set_stock(self, offered: StockOffer) -> str:
        """Why Amazon will not take it; empty where it did."""
        sku = quote(offered.listing.get("seller_sku") or offered.sku, safe="")
        level = {"fulfillment_channel_code": "DEFAULT", "quantity": offered.quantity}
        patch = {"op": "merge", "path": "/attributes/fulfillment_availability", "value": [level]}
        told = {"productType": offered.listing.get("product_type") or "PRODUCT", "patches": [patch]}
        try:
            answer = await self._call(
                "PATCH",
                f"/listings/2021-08-01/items/{quote(self._seller, safe='')}/{sku}",
                token=self._access,
                params={"marketplaceIds": self._marketplace},
                told=told,
            )
        except ApplicationError as error:
            if error.details[:1] in (("400",), ("404",)):
                return error.message.removeprefix("amazon: ")
            raise
        if answer.get("status") == "ACCEPTED":
            return ""
        issues = [str(issue.get("code")) for issue in answer.get("issues") or [] if issue.get("severity") == "ERROR"]
        return ", ".join(issues) or str(answer.get("status"))

    async def renew(self) -> Mapping[str, str]:
        """By Login with Amazon; access lasts an hour."""
        secrets = self._account.secrets
        told = {
            "grant_type": "refresh_token",
            "refresh_token": secrets.get("refresh_token", ""),
            "client_id": secrets.get("client_id", ""),
            "client_secret": secrets.get("client_secret", ""),
        }
        url = str(self._account.settings.get("token_url", _TOKEN_URL))
        response = await http.send("POST", url, data=told, telling={400, 401})
        answer = http.document(response)
        if response.status_code >= 400:
            raise refused(f"amazon: {answer.get('error')}", str(answer.get("error")))
        return oauth_secrets(answer)

    @property
    def _access(self) -> str:
        if not (token := self._account.secrets.get("access_token", "")):
            raise expired("amazon: no access token yet")
        return token

    async def _restricted(self) -> str:
        """A token for what is personal, good for an hour and any order."""
        mine = ["buyerInfo", "shippingAddress"]
        resources = [
            {"method": "GET", "path": "/orders/v0/orders", "dataElements": mine},
            {"method": "GET", "path": "/orders/v0/orders/{orderId}", "dataElements": mine},
            {"method": "GET", "path": "/orders/v0/orders/{orderId}/orderItems", "dataElements": ["buyerInfo"]},
        ]
        told = {"restrictedResources": resources}
        answer = await self._call("POST", "/tokens/2021-03-01/restrictedDataToken", token=self._access, told=told)
        return str(answer.get("restrictedDataToken"))

    async def _pages(self, path: str, params: dict[str, str], token: str, pace: _Pace) -> AsyncIterator[dict[str, Any]]:
        """The ``payload`` of each page; the next is asked for with all parameters and the token of the last."""
        following: dict[str, str] = {}
        while True:
            await pace.turn()
            page = _payload(await self._call("GET", path, token=token, params=params | following))
            yield page
            if not (following := {"NextToken": str(page["NextToken"])} if page.get("NextToken") else {}):
                return

    async def _call(
        self,
        method: str,
        path: str,
        *,
        token: str,
        params: dict[str, str] | None = None,
        told: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The answer's document, empty where there is none.

        Raises ``refused`` with the status as its detail, ``expired``, and ``unavailable``: throttled,
        for as long as the operation's rate says.
        """
        response = await http.send(
            method,
            f"{self._api}{path}",
            params=params,
            content=None if told is None else json.dumps(told).encode(),
            headers={"x-amz-access-token": token, "Content-Type": "application/json"},
            telling={400, 401, 403, 404, 413, 415, 429},
        )
        if response.status_code == 429:
            raise unavailable("amazon: QuotaExceeded", _wait(response))
        if response.status_code == 204:
            return {}
        answer = http.document(response)
        if response.status_code < 400:
            return answer
        errors = answer.get("errors") or [{}]
        if "has expired" in f"{errors[0].get('message')} {errors[0].get('details')}":
            raise expired("amazon: the access token has expired")
        code = str(errors[0].get("code") or response.status_code)
        raise refused(f"amazon: {code}", str(response.status_code))


def _priority(service: str) -> int:
    return URGENT if service in _HURRIED else NORMAL


def _custom(told: _Read, cancelled: bool) -> dict[str, JsonValue]:
    head = told.order
    settings = head.AutomatedShippingSettings
    custom: dict[str, JsonValue] = {
        "channel_hold": "" if cancelled else head.hold,
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
        "refunds_untold": told.refunds is None,
    }
    return {key: value for key, value in custom.items() if value}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _wait(response: httpx.Response) -> float | None:
    """Seconds until the operation grants another call: its rate is told in calls a second."""
    try:
        rate = float(response.headers.get("x-amzn-ratelimit-limit", ""))
    except ValueError:
        return None
    return min(round(1 / rate, 3), 3600) if rate > 0 else None


def _payload(answer: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(payload := answer.get("payload"), dict):
        raise unavailable("amazon: answered without a payload")
    return payload


def adapter(account: Account) -> Amazon:
    return Amazon(account)
