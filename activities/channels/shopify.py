"""Shopify: webhooks signed over their raw bytes, REST pages for what they missed, GraphQL to confirm shipments and to
tell of stock.

Sources: shopify.dev (webhooks, Order, FulfillmentOrder, fulfillmentCreate, inventorySetQuantities, API limits), shapes
as in the fixtures of Shopify's own clients.

Of a refund the order says which lines, and which were restocked; its webhook names the order only. ``total`` is what is
left to pay for after edits and refunds. Access that runs out is renewed by its refresh token, as for expiring offline
tokens.

Account: ``base_url`` ``https://{shop}.myshopify.com``; secrets ``client_secret``, ``client_secret_old`` while it is
rotated, ``access_token``, and ``client_id`` and ``refresh_token`` where it runs out; settings ``api_version`` (2026-04
or later), ``carrier_codes`` where the tracking company is not our carrier's name in capitals. Listings:
``inventory_item_id`` and ``location_id``, as gid or number alone.
"""

import base64
import hmac
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, JsonValue, model_validator
from temporalio.exceptions import ApplicationError

from activities.channels import Hint, PulledOrder, StockOffer, StockRefusal, oauth_secrets
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, expired, refused, unavailable
from activities.kit.payloads import (
    Code,
    Fee,
    Identifier,
    Part,
    Price,
    Quantity,
    Text,
    decode,
    validating_order,
    with_total_mismatch,
    within_calendar,
)
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import CENT, NORMAL, URGENT, ChannelOrder, OrderLine, Refund, RefundState
from models.origins import ChannelKind, IntakePath, Origin

POLLED = "orders.json"
"""The topic of an order that was pulled."""
_TOPICS = {"orders/create", "orders/paid", "orders/updated", "orders/cancelled", POLLED}
_NAMING = {"refunds/create", "order_transactions/create"}
"""Topics that tell of an order by its number."""
_SHIPPED = {"fulfilled", "restocked"}
_PAID = {"paid", "partially_refunded"}
_VOID = {"refunded", "voided"}
_READ = """query Shipping($id: ID!) { order(id: $id) {
  fulfillments(first: 250) { status trackingInfo(first: 10) { number }
    fulfillmentLineItems(first: 250) { nodes { quantity lineItem { id } } } }
  fulfillmentOrders(first: 50) { nodes { id status assignedLocation { location { id } }
    lineItems(first: 250) { nodes { id remainingQuantity lineItem { id } } } } } } }"""
_CREATE = """mutation Ship($fulfillment: FulfillmentInput!) { fulfillmentCreate(fulfillment: $fulfillment) {
  fulfillment { id status } userErrors { field message } } }"""
_SHIPPABLE = {"OPEN", "IN_PROGRESS"}
_SET = """mutation Stock($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) { userErrors { code field message } } }"""
"""As of version 2026-04: the key is demanded, and ``changeFromQuantity`` null says not to compare."""
_LARGEST_BATCH = 250

Time = Annotated[AwareDatetime, AfterValidator(within_calendar)]
MaybeTime = Annotated[Time | None, BeforeValidator(lambda value: value or None)]
Amounts = Annotated[list["_Amount"], BeforeValidator(lambda value: value or [])]


class _Amount(BaseModel):
    amount: Fee = Decimal(0)


class _Line(BaseModel):
    id: Identifier
    variant_id: Text = ""
    sku: Text = ""
    title: Text = ""
    variant_title: Text = ""
    quantity: Quantity
    current_quantity: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """What is left of ``quantity`` after edits and refunds."""
    price: Price
    total_discount: Fee = Decimal(0)
    discount_allocations: Amounts = []
    requires_shipping: bool | None = True

    @property
    def left(self) -> int:
        return self.quantity if self.current_quantity is None else self.current_quantity

    @property
    def discount(self) -> Decimal:
        """Of the whole quantity, the order's discounts as allotted to it included."""
        return sum((each.amount for each in self.discount_allocations), Decimal(0)) or self.total_discount

    def line(self, quantity: int) -> OrderLine:
        return OrderLine(
            line_no=str(self.id),
            sku=(self.sku or self.variant_id or str(self.id))[:64],
            listing={"variant_id": self.variant_id} if self.variant_id else {},
            title=f"{self.title} {self.variant_title}".strip(),
            quantity=quantity,
            unit_price=self.price,
            discount=(self.discount * quantity / self.quantity).quantize(CENT, ROUND_HALF_EVEN),
        )


class _RefundedLine(BaseModel):
    line_item_id: Identifier
    quantity: Annotated[int, Field(ge=0)] = 0
    subtotal: Fee = Decimal(0)


class _Transaction(BaseModel):
    amount: Fee = Decimal(0)
    kind: Text = ""


class _Refund(BaseModel):
    id: Identifier
    note: Text = ""
    refund_line_items: Annotated[list[_RefundedLine], BeforeValidator(lambda value: value or [])] = []
    transactions: Annotated[list[_Transaction], BeforeValidator(lambda value: value or [])] = []

    @property
    def facts(self) -> list[Refund]:
        """One for each line; of money alone, one."""
        granted = {"state": RefundState.GRANTED, "reason": self.note}
        if not self.refund_line_items:
            money = sum((each.amount for each in self.transactions if each.kind == "refund"), Decimal(0))
            return [Refund(refund_no=str(self.id), amount=max(money, Decimal(0)), **granted)]
        return [
            Refund(
                refund_no=f"{self.id}:{each.line_item_id}",
                line_no=str(each.line_item_id),
                quantity=each.quantity,
                amount=max(each.subtotal, Decimal(0)),
                **granted,
            )
            for each in self.refund_line_items
        ]


class _Freight(BaseModel):
    price: Fee = Decimal(0)
    discount_allocations: Amounts = []

    @property
    def discount(self) -> Decimal:
        return sum((each.amount for each in self.discount_allocations), Decimal(0))


class _Address(BaseModel):
    name: Part = ""
    first_name: Part = ""
    last_name: Part = ""
    phone: Part = ""
    country_code: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
    province: Part = ""
    city: Part = ""
    address1: Part = ""
    address2: Part = ""
    zip: Part = ""

    @property
    def street(self) -> str:
        return f"{self.address1} {self.address2}".strip()

    @model_validator(mode="after")
    def _fits(self) -> "_Address":
        if len(self.street) > 200:
            raise ValueError("address1 and address2 together exceed 200 characters")
        return self


class _Customer(BaseModel):
    id: Text = ""
    phone: Text = ""


class _Order(BaseModel):
    id: Identifier
    name: Text = ""
    test: bool | None = False
    tags: Text = ""
    note: Text = ""
    created_at: Time
    updated_at: Time
    cancelled_at: MaybeTime = None
    cancel_reason: Text = ""
    financial_status: Code
    fulfillment_status: Text = ""
    source_name: Text = ""
    landing_site: Text = ""
    payment_gateway_names: Annotated[list[Text], BeforeValidator(lambda value: value or [])] = []
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    total_price: Price
    current_total_price: Price | None = None
    total_discounts: Fee = Decimal(0)
    total_tax: Fee = Decimal(0)
    current_total_tax: Fee | None = None
    taxes_included: bool | None = False
    phone: Text = ""
    customer: _Customer | None = None
    shipping_address: _Address | None = None
    shipping_lines: Annotated[list[_Freight], BeforeValidator(lambda value: value or [])] = []
    line_items: Annotated[list[_Line], Field(max_length=200)]
    refunds: Annotated[list[_Refund], BeforeValidator(lambda value: value or [])] = []

    @property
    def recipient(self) -> Recipient:
        """Nobody where nothing was to be sent anywhere: an address that review will ask for."""
        address = self.shipping_address
        if address is None:
            return Recipient()
        customer = self.customer or _Customer()
        return Recipient(
            name=address.name or f"{address.first_name} {address.last_name}".strip()[:200],
            phone=(address.phone or self.phone or customer.phone)[:200],
            country=address.country_code,
            province=address.province,
            city=address.city,
            street=address.street,
            postcode=address.zip,
        )

    @property
    def hold(self) -> str:
        if self.test:
            return "test"
        return self.fulfillment_status if self.fulfillment_status == "partial" else ""


class _Glance(BaseModel):
    tags: Text = ""


class _Naming(BaseModel):
    order_id: Identifier


def _priority(tags: str) -> int:
    return URGENT if {"urgent", "加急"} & {tag.strip().lower() for tag in tags.split(",")} else NORMAL


def _receipt(topic: str, body: bytes) -> Receipt:
    """A fact is a topic and what was signed: Shopify repeats a delivery byte for byte, and signs no header."""
    try:
        priority = _priority(decode(_Glance, body).tags)
    except Unintelligible:
        priority = NORMAL
    return Receipt(fact_key=f"{topic}:{sha256(body).hexdigest()}", topic=topic, priority=priority)


def sign(secret: str, body: bytes) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()


class Shopify:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        version = account.settings.get("api_version", "2026-10")
        self._api = f"{account.base_url.rstrip('/')}/admin/api/{version}"

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        given = headers.get("x-shopify-hmac-sha256") or headers.get("shopify-hmac-sha256") or ""
        secrets = [self._account.secrets.get(name) for name in ("client_secret", "client_secret_old")]
        authentic = [hmac.compare_digest(sign(secret, body).encode(), given.encode()) for secret in secrets if secret]
        if not (body and any(authentic)):
            raise Unauthentic("x-shopify-hmac-sha256: does not match")
        return _receipt(headers.get("x-shopify-topic") or headers.get("shopify-topic") or "", body)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        """An order, or the one to read; ``None`` where the topic is another, or nothing of it is to be shipped."""
        if topic in _NAMING:
            return Hint(order_nos=(str(decode(_Naming, body).order_id),))
        if topic not in _TOPICS:
            return None
        told = decode(_Order, body)
        lines = [item for item in told.line_items if item.requires_shipping is not False]
        if not lines:
            return None
        shipped = told.fulfillment_status in _SHIPPED
        void = told.financial_status in _VOID and not shipped
        cancelled_at = told.cancelled_at or (told.updated_at if void else None)
        left = [(item, item.left) for item in lines if item.left]
        if not (left or shipped):
            cancelled_at = cancelled_at or told.updated_at
        if cancelled_at or shipped:
            left = [(item, item.quantity) for item in lines]
        paid = told.financial_status in _PAID
        total, tax = told.total_price, told.total_tax
        if told.current_total_price is not None and not shipped:
            total, tax = told.current_total_price, tax if told.current_total_tax is None else told.current_total_tax
        freight = sum((line.price - line.discount for line in told.shipping_lines), Decimal(0))
        allotted = sum((item.discount for item in told.line_items), Decimal(0))
        allotted += sum((line.discount for line in told.shipping_lines), Decimal(0))
        custom: dict[str, JsonValue] = {
            "order_name": told.name,
            "tags": told.tags,
            "channel_hold": told.hold,
            "cancel_reason": told.cancel_reason or told.financial_status if cancelled_at else "",
        }
        with validating_order():
            order = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=str(told.id),
                placed_at=told.created_at,
                modified_at=told.updated_at,
                paid_at=told.updated_at if paid else None,
                cancelled_at=cancelled_at,
                cash_on_delivery=not paid and any(_collects(name) for name in told.payment_gateway_names),
                currency=told.currency,
                shipped=shipped,
                lines=tuple(item.line(quantity) for item, quantity in left),
                refunds=tuple(fact for refund in told.refunds for fact in refund.facts)[:200],
                freight=max(freight, Decimal(0)),
                discount=max(told.total_discounts - allotted, Decimal(0)),
                tax=Decimal(0) if told.taxes_included else max(tax, Decimal(0)),
                total=total,
                recipient=told.recipient,
                buyer=told.customer.id if told.customer else "",
                buyer_message=told.note,
                priority=_priority(told.tags),
                origin=self._origin(told, topic),
                custom={key: value for key, value in custom.items() if value},
            )
        return with_total_mismatch(order)

    def _origin(self, told: _Order, topic: str) -> Origin:
        address = told.shipping_address
        return Origin(
            kind=ChannelKind.STORE if told.source_name == "pos" else ChannelKind.OWN_SITE,
            platform="shopify",
            shop=self._account.account,
            region=f"{address.country_code} {address.province} {address.city}".strip() if address else "",
            campaign=_campaign(told.landing_site),
            intake=IntakePath.POLL if topic == POLLED else IntakePath.WEBHOOK,
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        window = {
            "updated_at_min": since.astimezone(UTC).isoformat(),
            "updated_at_max": until.astimezone(UTC).isoformat(),
        }
        async for order in self._pages(window):
            yield _pulled(order)

    async def read(self, order_no: str) -> PulledOrder | None:
        if not re.fullmatch(r"\d{1,19}", order_no):
            return None
        try:
            response = await self._get(f"{self._api}/orders/{order_no}.json", None)
        except ApplicationError as error:
            if error.details[:1] == ("404",):
                return None
            raise
        return _pulled(http.document(response)["order"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        window = {
            "created_at_min": since.astimezone(UTC).isoformat(),
            "created_at_max": until.astimezone(UTC).isoformat(),
        }
        async for order in self._pages({**window, "fields": "id"}):
            yield str(order["id"])

    async def _pages(self, window: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        params: dict[str, str] | None = {"status": "any", "limit": "250", **window}
        url: str | None = f"{self._api}/orders.json"
        while url:
            response = await self._get(url, params)
            for order in http.document(response).get("orders", []):
                yield order
            url, params = response.links.get("next", {}).get("url"), None

    async def _get(self, url: str, params: dict[str, str] | None) -> httpx.Response:
        with self._renewable():
            return await http.send("GET", url, params=params, headers=self._token)

    @contextmanager
    def _renewable(self) -> Iterator[None]:
        """A token that is not known any more has run out, where it can be renewed."""
        try:
            yield
        except ApplicationError as error:
            if error.details[:1] == ("401",) and self._account.secrets.get("refresh_token"):
                raise expired("shopify: HTTP 401") from None
            raise

    async def renew(self) -> Mapping[str, str]:
        asked = {"grant_type": "refresh_token"}
        asked |= {name: self._account.secrets.get(name, "") for name in ("client_id", "client_secret", "refresh_token")}
        url = f"{self._account.base_url.rstrip('/')}/admin/oauth/access_token"
        return oauth_secrets(http.document(await http.send("POST", url, data=asked)))

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Fulfills what no fulfillment with this waybill covers yet, one for each location that holds some of it."""
        order_id = f"gid://shopify/Order/{shipment.channel_order_no}"
        order = (await self._graphql(_READ, {"id": order_id})).get("order")
        if order is None:
            raise refused("shopify: no such order", "not_found")
        told = _told(order, shipment.waybill_no)
        missing: dict[str, int] = {}
        for line in shipment.lines:
            missing[line.line_no] = max(missing.get(line.line_no, 0), line.quantity - told.get(line.line_no, 0))
        batches: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for held in order["fulfillmentOrders"]["nodes"]:
            items = []
            for item in held["lineItems"]["nodes"] if held["status"] in _SHIPPABLE else []:
                line_no = _number(item["lineItem"]["id"])
                quantity = min(missing.get(line_no, 0), item["remainingQuantity"])
                if quantity:
                    missing[line_no] -= quantity
                    items.append({"id": item["id"], "quantity": quantity})
            if items:
                location = str(((held.get("assignedLocation") or {}).get("location") or {}).get("id"))
                batches[location].append({"fulfillmentOrderId": held["id"], "fulfillmentOrderLineItems": items})
        if not (batches or told):
            raise refused("shopify: nothing of these lines is left to fulfill", "nothing_to_fulfill")
        for batch in batches.values():
            await self._fulfill(batch, shipment)

    async def _fulfill(self, batch: list[dict[str, Any]], shipment: Shipment) -> None:
        names = self._account.settings.get("carrier_codes", {})
        fulfillment = {
            "lineItemsByFulfillmentOrder": batch,
            "trackingInfo": {
                "company": str(names.get(shipment.carrier, shipment.carrier.upper())),
                "number": shipment.waybill_no,
            },
            "notifyCustomer": True,
        }
        answer = (await self._graphql(_CREATE, {"fulfillment": fulfillment})).get("fulfillmentCreate") or {}
        if errors := answer.get("userErrors"):
            fields = ".".join(str(part) for part in errors[0].get("field") or ["fulfillment"])
            raise refused(f"shopify: fulfillmentCreate refused {fields}", "userErrors")

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """By ``inventorySetQuantities``, up to 250 a call."""
        refusals: list[StockRefusal] = []
        known: list[tuple[str, dict[str, Any]]] = []
        for each in offered:
            item, location = (each.listing.get(name, "") for name in ("inventory_item_id", "location_id"))
            if _ITEM.fullmatch(item) and _LOCATION.fullmatch(location):
                level = {
                    "inventoryItemId": f"gid://shopify/InventoryItem/{_number(item)}",
                    "locationId": f"gid://shopify/Location/{_number(location)}",
                    "quantity": each.quantity,
                    "changeFromQuantity": None,
                }
                known.append((each.sku, level))
            else:
                refusals.append(
                    StockRefusal(sku=each.sku, reason="inventory_item_id and location_id must be Shopify's ids")
                )
        for at in range(0, len(known), _LARGEST_BATCH):
            refusals += await self._set_stock(known[at : at + _LARGEST_BATCH])
        return refusals

    async def _set_stock(self, batch: list[tuple[str, dict[str, Any]]]) -> list[StockRefusal]:
        """Shopify takes all or none: what it refuses is left out of the next try."""
        refusals: list[StockRefusal] = []
        while batch:
            key = str(uuid4())
            told = {
                "name": "available",
                "reason": "correction",
                "referenceDocumentUri": f"hengdan://stock/{key}",
                "quantities": [level for _, level in batch],
            }
            answer = (await self._graphql(_SET, {"input": told, "key": key})).get("inventorySetQuantities") or {}
            wrong = {_place(error): str(error.get("message")) for error in answer.get("userErrors") or []}
            if not wrong:
                break
            if not wrong.keys() <= set(range(len(batch))):
                raise refused("shopify: inventorySetQuantities refused the call", "userErrors")
            refusals += [StockRefusal(sku=sku, reason=wrong[at]) for at, (sku, _) in enumerate(batch) if at in wrong]
            batch = [each for at, each in enumerate(batch) if at not in wrong]
        return refusals

    @property
    def _token(self) -> dict[str, str]:
        return {"X-Shopify-Access-Token": self._account.secrets["access_token"]}

    async def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The ``data`` of an answer. Raises ``ApplicationError``: GraphQL reports faults with status 200."""
        with self._renewable():
            response = await http.send(
                "POST",
                f"{self._api}/graphql.json",
                content=json.dumps({"query": query, "variables": variables}).encode(),
                headers={**self._token, "Content-Type": "application/json"},
            )
        answer = http.document(response)
        if errors := answer.get("errors"):
            code = str((errors[0].get("extensions") or {}).get("code"))
            if code == "THROTTLED":
                raise unavailable("shopify: THROTTLED", _restored(answer))
            if code == "INTERNAL_SERVER_ERROR":
                raise unavailable("shopify: INTERNAL_SERVER_ERROR")
            raise refused(f"shopify: {code}", code)
        return dict(answer.get("data") or {})


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _pulled(order: dict[str, Any]) -> PulledOrder:
    body = json.dumps(order, ensure_ascii=False, separators=(",", ":")).encode()
    return PulledOrder(receipt=_receipt(POLLED, body), body=body)


def _told(order: dict[str, Any], waybill_no: str) -> dict[str, int]:
    """What of each line the channel knows to be in this parcel."""
    told: dict[str, int] = defaultdict(int)
    for fulfillment in order["fulfillments"]:
        numbers = {tracking["number"] for tracking in fulfillment["trackingInfo"]}
        if waybill_no in numbers and fulfillment["status"] not in {"CANCELLED", "ERROR", "FAILURE"}:
            for item in fulfillment["fulfillmentLineItems"]["nodes"]:
                told[_number(item["lineItem"]["id"])] += item["quantity"]
    return told


def _number(gid: str) -> str:
    """``gid://shopify/LineItem/123`` → ``123``."""
    return gid.rpartition("/")[2]


_ITEM = re.compile(r"(gid://shopify/InventoryItem/)?[0-9]+")
_LOCATION = re.compile(r"(gid://shopify/Location/)?[0-9]+")


def _place(error: Mapping[str, Any]) -> int:
    """Of the quantity that is refused, as in ``["input", "quantities", "1", "locationId"]``; -1 where it is none."""
    return next((int(part) for part in error.get("field") or () if str(part).isdecimal()), -1)


def _restored(answer: dict[str, Any]) -> float | None:
    """Seconds until the bucket holds what the query costs; ``None`` where it was not told."""
    cost = (answer.get("extensions") or {}).get("cost") or {}
    bucket = cost.get("throttleStatus") or {}
    if not (rate := bucket.get("restoreRate")):
        return None
    return max(float(cost.get("requestedQueryCost", 0) - bucket.get("currentlyAvailable", 0)) / float(rate), 1.0)


def _collects(gateway: str) -> bool:
    return "cash on delivery" in gateway.lower() or "货到付款" in gateway


def _campaign(landing_site: str) -> str:
    try:
        return parse_qs(urlsplit(landing_site).query).get("utm_campaign", [""])[0]
    except ValueError:
        return ""


def adapter(account: Account) -> Shopify:
    return Shopify(account)
