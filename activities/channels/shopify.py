"""Shopify: webhooks signed over their raw bytes, REST pages for orders they missed, GraphQL for shipments and stock.

Sources: shopify.dev (webhooks, Order, FulfillmentOrder, fulfillmentCreate, inventorySetQuantities, API limits), shapes
as in the fixtures of Shopify's own clients.

The order lists the lines of a refund, and which were restocked; the webhook of a refund names the order only. ``total``
is what remains to be paid after edits and refunds. Expiring offline tokens are renewed by their refresh token.

``freight`` holds what is owed beside the goods: shipping lines that were not removed, less refunded freight; tips; and
what no parcel holds, such as gift cards. An order to be picked up in a store is held. Kept raw: ``note_attributes``,
``properties`` of lines, ``billing_address``, ``discount_codes``, ``tax_lines``, ``duties``, ``client_details``,
``email``. Without meaning here: ``token``, ``checkout_id``, ``order_status_url``, ``processed_at``, ``closed_at``,
``grams``, ``vendor``, ``fulfillments``, amounts in the buyer's own currency (``presentment_money``).

Account: ``base_url`` ``https://{shop}.myshopify.com``; secrets ``client_secret``, ``client_secret_old`` while it is
rotated, ``access_token``, and ``client_id`` and ``refresh_token`` where it expires; settings ``api_version`` (2026-04
or later), ``carrier_codes`` where the tracking company is not our carrier's name in capitals. Listings:
``inventory_item_id`` and ``location_id``, as gid or number alone.
"""

import json
import re
from collections import Counter, defaultdict
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

from activities.channels import Hint, PulledOrder, StockOffer, StockRefusal, carrier_code, oauth_secrets
from activities.kit import http
from activities.kit.errors import Unintelligible, expired, refused, unavailable
from activities.kit.lenient import decode_order, standard_order
from activities.kit.payloads import (
    Fee,
    Identifier,
    Listed,
    Part,
    Price,
    Quantity,
    Text,
    decode,
    drop_empty,
    person_name,
    within_calendar,
)
from activities.kit.signing import verify_body
from models.accounts import CODES_OF_CARRIERS, RENEWED, AccountFields, secret, setting
from models.address import Country, Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.money import Currency
from models.order import CENT, NORMAL, URGENT, ChannelOrder, OrderLine, Refund, RefundState
from models.origins import ChannelKind, IntakePath, Origin

ACCOUNT = AccountFields(
    console="shopify",
    fields=(
        secret("client_secret", about="shopify_client_secret"),
        secret("client_secret_old", required=False, about="old"),
        secret("access_token", about="shopify_access_token"),
        secret("client_id", required=False),
        *RENEWED,
        setting("api_version"),
        CODES_OF_CARRIERS,
    ),
    base_url="https://{shop}.myshopify.com",
)

POLLED = "orders.json"
"""The topic of an order that was pulled."""
_TOPICS = {"orders/create", "orders/paid", "orders/updated", "orders/cancelled", POLLED}
_HINT_TOPICS = {"refunds/create", "order_transactions/create"}
"""Topics whose body names an order without its content."""
_SHIPPED = {"fulfilled", "restocked"}
_PAID = {"paid", "partially_refunded"}
_CANCELLING = {"refunded", "voided"}
"""Financial statuses that cancel an unshipped order."""
_FINANCIAL = _PAID | _CANCELLING | {"pending", "authorized", "partially_paid", "expired"}
_PAYOUT_OPEN, _PAYOUT_FAILED = {"pending", "awaiting_response", "unknown"}, {"failure", "error"}
"""Statuses of the transactions that return money."""
_SHIPPING_QUERY = """query Shipping($id: ID!) { order(id: $id) {
  fulfillments(first: 250) { status trackingInfo(first: 10) { number }
    fulfillmentLineItems(first: 250) { nodes { quantity lineItem { id } } } }
  fulfillmentOrders(first: 50) { nodes { id status assignedLocation { location { id } }
    lineItems(first: 250) { nodes { id remainingQuantity lineItem { id } } } } } } }"""
_FULFILLMENT_CREATE = """mutation Ship($fulfillment: FulfillmentInput!) { fulfillmentCreate(fulfillment: $fulfillment) {
  fulfillment { id status } userErrors { field message } } }"""
_SHIPPABLE = {"OPEN", "IN_PROGRESS"}
_INVENTORY_SET = """mutation Stock($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) { userErrors { code field message } } }"""
"""Since version 2026-04 the key is required, and ``changeFromQuantity`` null skips the comparison."""
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
    """``quantity`` after edits and refunds."""
    price: Price
    total_discount: Fee = Decimal(0)
    discount_allocations: Amounts = []
    requires_shipping: bool | None = True
    """``False``: a gift card, a tip or another thing that no parcel holds."""

    @property
    def remaining(self) -> int:
        return self.quantity if self.current_quantity is None else self.current_quantity

    @property
    def net(self) -> Decimal:
        """The value of what remains of it."""
        line = self.line(self.remaining)
        return line.net

    @property
    def discount(self) -> Decimal:
        """The discount of the whole quantity, including its share of the order's discounts."""
        return sum((each.amount for each in self.discount_allocations), Decimal(0)) or self.total_discount

    def line(self, quantity: int) -> OrderLine:
        return OrderLine.model_construct(
            line_no=str(self.id),
            sku=self.sku or self.variant_id or str(self.id),
            listing={"variant_id": self.variant_id} if self.variant_id else {},
            title=f"{self.title} {self.variant_title}".strip(),
            quantity=quantity,
            unit_price=self.price,
            discount=(self.discount * quantity / max(self.quantity, 1)).quantize(CENT, ROUND_HALF_EVEN),
        )


class _RefundedLine(BaseModel):
    line_item_id: Identifier
    quantity: Annotated[int, Field(ge=0)] = 0
    subtotal: Fee = Decimal(0)


class _Transaction(BaseModel):
    amount: Fee = Decimal(0)
    kind: Text = ""
    status: Annotated[Text, Listed("unknown", _PAYOUT_OPEN | _PAYOUT_FAILED | {"success"})] = "success"


class _RefundAdjustment(BaseModel):
    """Money of a refund that belongs to no line: shipping, or goodwill. Negative."""

    amount: Fee = Decimal(0)
    tax_amount: Fee = Decimal(0)
    kind: Text = ""


class _Refund(BaseModel):
    id: Identifier
    order_adjustments: Annotated[list[_RefundAdjustment], BeforeValidator(lambda value: value or [])] = []
    note: Text = ""
    refund_line_items: Annotated[list[_RefundedLine], BeforeValidator(lambda value: value or [])] = []
    transactions: Annotated[list[_Transaction], BeforeValidator(lambda value: value or [])] = []

    @property
    def _payouts(self) -> list[_Transaction]:
        """The transactions that return money, without those that failed where others did not."""
        refunds = [each for each in self.transactions if each.kind == "refund"]
        return [each for each in refunds if each.status not in _PAYOUT_FAILED] or refunds

    @property
    def state(self) -> RefundState:
        """Granted once money was returned, or if none is to be returned; closed if returning it failed."""
        found = {each.status for each in self._payouts}
        if not found or "success" in found:
            return RefundState.GRANTED
        return RefundState.ASKED if found & _PAYOUT_OPEN else RefundState.CLOSED

    @property
    def facts(self) -> list[Refund]:
        """One refund for each line, or one for money alone."""
        granted: dict[str, Any] = {"state": self.state, "reason": self.note}
        if not self.refund_line_items:
            money = sum((each.amount for each in self._payouts), Decimal(0))
            return [Refund.model_construct(refund_no=str(self.id), amount=max(money, Decimal(0)), **granted)]
        return [
            Refund.model_construct(
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
    code: Text = ""
    delivery_category: Text = ""
    is_removed: bool | None = False
    discount_allocations: Amounts = []

    @property
    def discount(self) -> Decimal:
        return sum((each.amount for each in self.discount_allocations), Decimal(0))


class _Address(BaseModel):
    name: Part = ""
    first_name: Part = ""
    last_name: Part = ""
    phone: Part = ""
    country_code: Country
    province: Part = ""
    city: Part = ""
    address1: Part = ""
    address2: Part = ""
    zip: Part = ""

    @property
    def street(self) -> str:
        return f"{self.address1} {self.address2}".strip()


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
    financial_status: Annotated[Text, Listed("?", _FINANCIAL, required=True)]
    fulfillment_status: Annotated[Text, Listed("", _SHIPPED | {"partial"})] = ""
    source_name: Text = ""
    landing_site: Text = ""
    payment_gateway_names: Annotated[list[Text], BeforeValidator(lambda value: value or [])] = []
    currency: Currency
    total_price: Price
    current_total_price: Price | None = None
    total_discounts: Fee = Decimal(0)
    total_tip_received: Fee = Decimal(0)
    total_tax: Fee = Decimal(0)
    current_total_tax: Fee | None = None
    taxes_included: bool | None = False
    phone: Text = ""
    customer: _Customer | None = None
    shipping_address: _Address | None = None
    shipping_lines: Annotated[list[_Freight], BeforeValidator(lambda value: value or [])] = []
    line_items: list[_Line]
    refunds: Annotated[list[_Refund], BeforeValidator(lambda value: value or [])] = []

    @model_validator(mode="after")
    def _count_what_remains(self) -> "_Order":
        """Subtract what was refunded from lines whose present quantity Shopify does not give."""
        refunded = Counter[int]()
        for refund in self.refunds:
            for each in refund.refund_line_items:
                refunded[each.line_item_id] += each.quantity
        for item in self.line_items:
            if item.current_quantity is None:
                item.current_quantity = max(item.quantity - refunded[item.id], 0)
        return self

    @property
    def recipient(self) -> Recipient:
        """The recipient, empty where the order has no address: review will ask for one."""
        address = self.shipping_address
        if address is None:
            return Recipient()
        customer = self.customer or _Customer()
        return Recipient.model_construct(
            name=address.name or person_name(address.first_name, address.last_name),
            phone=address.phone or self.phone or customer.phone,
            country=address.country_code,
            province=address.province,
            city=address.city,
            street=address.street,
            postcode=address.zip,
            hidden=False,
        )

    @property
    def freight(self) -> Decimal:
        """The freight that is still owed, after shipping lines that were removed and freight that was refunded."""
        charged = sum((line.price - line.discount for line in self.shipping_lines if not line.is_removed), Decimal(0))
        return max(charged + self._adjusted("shipping_refund"), Decimal(0))

    @property
    def goodwill(self) -> Decimal:
        """Money refunded beside lines and freight."""
        return max(-self._adjusted("refund_discrepancy"), Decimal(0))

    def _adjusted(self, kind: str) -> Decimal:
        adjustments = (each for refund in self.refunds for each in refund.order_adjustments if each.kind == kind)
        return sum((each.amount for each in adjustments), Decimal(0))

    @property
    def beside_goods(self) -> Decimal:
        """Tips, and things that no parcel holds, such as gift cards."""
        unshipped = (item.net for item in self.line_items if item.requires_shipping is False)
        return max(self.total_tip_received, Decimal(0)) + sum(unshipped, Decimal(0))

    @property
    def picked_up(self) -> bool:
        kinds = (text.lower() for line in self.shipping_lines for text in (line.delivery_category, line.code))
        return any(re.search(r"pick[ _-]?up", kind) for kind in kinds)

    @property
    def hold(self) -> str:
        if self.test:
            return "test"
        return "pick_up" if self.picked_up else ""


class _Tags(BaseModel):
    tags: Text = ""


class _OrderId(BaseModel):
    order_id: Identifier


def _priority(tags: str) -> int:
    return URGENT if {"urgent", "加急"} & {tag.strip().lower() for tag in tags.split(",")} else NORMAL


def _receipt(topic: str, body: bytes) -> Receipt:
    """Return a receipt whose fact is the topic and the signed body: Shopify repeats a delivery byte for byte, and signs
    no header."""
    try:
        priority = _priority(decode(_Tags, body).tags)
    except Unintelligible:
        priority = NORMAL
    return Receipt(fact_key=f"{topic}:{sha256(body).hexdigest()}", topic=topic, priority=priority)


class Shopify:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        version = account.settings.get("api_version", "2026-10")
        self._api = f"{account.base_url.rstrip('/')}/admin/api/{version}"

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        signature = headers.get("x-shopify-hmac-sha256") or headers.get("shopify-hmac-sha256") or ""
        secrets = [self._account.secrets.get(name) for name in ("client_secret", "client_secret_old")]
        verify_body(secrets, "x-shopify-hmac-sha256", signature, body)
        return _receipt(headers.get("x-shopify-topic") or headers.get("shopify-topic") or "", body)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        """Return the order, or a hint to read it; ``None`` for other topics, or where no line needs shipping."""
        if topic in _HINT_TOPICS:
            return Hint(order_nos=(str(decode(_OrderId, body).order_id),))
        if topic not in _TOPICS:
            return None
        source, odd = decode_order(_Order, body, "id")
        lines = [item for item in source.line_items if item.requires_shipping is not False]
        if not (lines or odd):
            return None
        shipped = source.fulfillment_status in _SHIPPED
        money_returned = source.financial_status in _CANCELLING and not shipped
        cancelled_at = source.cancelled_at or (source.updated_at if money_returned else None)
        kept = [(item, item.remaining) for item in lines if item.remaining]
        if not (kept or shipped):
            cancelled_at = cancelled_at or source.updated_at
        if cancelled_at or shipped:
            kept = [(item, item.quantity) for item in lines]
        paid = source.financial_status in _PAID or (source.financial_status == "refunded" and shipped)
        total, tax = source.total_price, source.total_tax
        if source.current_total_price is not None and not shipped:
            total = source.current_total_price
            tax = tax if source.current_total_tax is None else source.current_total_tax
        line_discounts = sum((item.discount for item in source.line_items), Decimal(0))
        line_discounts += sum((line.discount for line in source.shipping_lines), Decimal(0))
        custom: dict[str, JsonValue] = {
            "order_name": source.name,
            "tags": source.tags,
            "channel_hold": source.hold,
            "partly_shipped": source.fulfillment_status == "partial",
            "cancel_reason": source.cancel_reason or source.financial_status if cancelled_at else "",
        }
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=str(source.id),
            placed_at=source.created_at,
            modified_at=source.updated_at,
            paid_at=source.updated_at if paid else None,
            cancelled_at=cancelled_at,
            cash_on_delivery=not paid and any(_is_cash_on_delivery(name) for name in source.payment_gateway_names),
            currency=source.currency,
            shipped=shipped,
            lines=tuple(item.line(quantity) for item, quantity in kept),
            refunds=tuple(fact for refund in source.refunds for fact in refund.facts),
            freight=source.freight + source.beside_goods,
            discount=max(source.total_discounts - line_discounts, Decimal(0)) + source.goodwill,
            tax=Decimal(0) if source.taxes_included else max(tax, Decimal(0)),
            total=total,
            recipient=source.recipient,
            buyer=source.customer.id if source.customer else "",
            buyer_message=source.note,
            priority=_priority(source.tags),
            origin=self._origin(source, topic),
            custom=drop_empty(custom),
        )

    def _origin(self, source: _Order, topic: str) -> Origin:
        address = source.shipping_address
        return Origin(
            kind=ChannelKind.STORE if source.source_name == "pos" else ChannelKind.OWN_SITE,
            platform="shopify",
            shop=self._account.account,
            region=f"{address.country_code} {address.province} {address.city}".strip() if address else "",
            campaign=_campaign(source.landing_site),
            intake=IntakePath.POLL if topic == POLLED else IntakePath.WEBHOOK,
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        window = {"updated_at_min": _utc(since), "updated_at_max": _utc(until)}
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
        return _pulled(http.json_object(response)["order"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        window = {"created_at_min": _utc(since), "created_at_max": _utc(until)}
        async for order in self._pages({**window, "fields": "id"}):
            yield str(order["id"])

    async def _pages(self, window: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        params: dict[str, str] | None = {"status": "any", "limit": "250", **window}
        url: str | None = f"{self._api}/orders.json"
        while url:
            response = await self._get(url, params)
            for order in http.json_object(response).get("orders", []):
                yield order
            url, params = response.links.get("next", {}).get("url"), None
            if url and http.origin(url) != http.origin(self._api):
                raise refused("error.other_host", "other_host", host=http.origin(self._api))

    async def _get(self, url: str, params: dict[str, str] | None) -> httpx.Response:
        with self._renewable():
            return await http.send("GET", url, params=params, headers=self._token)

    @contextmanager
    def _renewable(self) -> Iterator[None]:
        """Report a rejected token as expired where it can be renewed."""
        try:
            yield
        except ApplicationError as error:
            if error.details[:1] == ("401",) and self._account.secrets.get("refresh_token"):
                raise expired("shopify") from None
            raise

    async def renew(self) -> Mapping[str, str]:
        form = {"grant_type": "refresh_token"}
        form |= {name: self._account.secrets.get(name, "") for name in ("client_id", "client_secret", "refresh_token")}
        url = f"{self._account.base_url.rstrip('/')}/admin/oauth/access_token"
        return oauth_secrets(http.json_object(await http.send("POST", url, data=form)))

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Create fulfillments for the quantities that none with this waybill covers yet, one for each location."""
        order_id = f"gid://shopify/Order/{shipment.channel_order_no}"
        order = (await self._graphql(_SHIPPING_QUERY, {"id": order_id})).get("order")
        if order is None:
            raise refused("error.channel.order_unknown", "not_found", vendor="shopify")
        covered = _covered(order, shipment.waybill_no)
        missing: dict[str, int] = {}
        for line in shipment.lines:
            missing[line.line_no] = max(missing.get(line.line_no, 0), line.quantity - covered.get(line.line_no, 0))
        batches: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for fulfillment_order in order["fulfillmentOrders"]["nodes"]:
            items = []
            for item in fulfillment_order["lineItems"]["nodes"] if fulfillment_order["status"] in _SHIPPABLE else []:
                line_no = _number(item["lineItem"]["id"])
                quantity = min(missing.get(line_no, 0), item["remainingQuantity"])
                if quantity:
                    missing[line_no] -= quantity
                    items.append({"id": item["id"], "quantity": quantity})
            if items:
                location = str(((fulfillment_order.get("assignedLocation") or {}).get("location") or {}).get("id"))
                batches[location].append(
                    {"fulfillmentOrderId": fulfillment_order["id"], "fulfillmentOrderLineItems": items}
                )
        if not (batches or covered):
            raise refused("error.channel.lines_gone", "nothing_to_fulfill", vendor="shopify")
        for batch in batches.values():
            await self._fulfill(batch, shipment)

    async def _fulfill(self, batch: list[dict[str, Any]], shipment: Shipment) -> None:
        fulfillment = {
            "lineItemsByFulfillmentOrder": batch,
            "trackingInfo": {
                "company": carrier_code(self._account, {}, shipment.carrier, shipment.carrier.upper()),
                "number": shipment.waybill_no,
            },
            "notifyCustomer": True,
        }
        answer = (await self._graphql(_FULFILLMENT_CREATE, {"fulfillment": fulfillment})).get("fulfillmentCreate") or {}
        if errors := answer.get("userErrors"):
            fields = ".".join(str(part) for part in errors[0].get("field") or ["fulfillment"])
            raise refused("error.refused.field", "userErrors", vendor="shopify", name=fields)

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Call ``inventorySetQuantities`` for up to 250 quantities at a time."""
        refusals: list[StockRefusal] = []
        levels: list[tuple[str, dict[str, Any]]] = []
        for each in offered:
            item, location = (each.listing.get(name, "") for name in ("inventory_item_id", "location_id"))
            if _ITEM.fullmatch(item) and _LOCATION.fullmatch(location):
                level = {
                    "inventoryItemId": f"gid://shopify/InventoryItem/{_number(item)}",
                    "locationId": f"gid://shopify/Location/{_number(location)}",
                    "quantity": each.quantity,
                    "changeFromQuantity": None,
                }
                levels.append((each.sku, level))
            else:
                refusals.append(
                    StockRefusal(sku=each.sku, reason="inventory_item_id and location_id must be Shopify's ids")
                )
        for start in range(0, len(levels), _LARGEST_BATCH):
            refusals += await self._set_stock(levels[start : start + _LARGEST_BATCH])
        return refusals

    async def _set_stock(self, batch: list[tuple[str, dict[str, Any]]]) -> list[StockRefusal]:
        """Set the quantities. Shopify takes all or none: retry without those it refuses."""
        refusals: list[StockRefusal] = []
        while batch:
            key = str(uuid4())
            quantities = {
                "name": "available",
                "reason": "correction",
                "referenceDocumentUri": f"hengdan://stock/{key}",
                "quantities": [level for _, level in batch],
            }
            answer = (await self._graphql(_INVENTORY_SET, {"input": quantities, "key": key})).get(
                "inventorySetQuantities"
            ) or {}
            wrong = {_index(error): str(error.get("message")) for error in answer.get("userErrors") or []}
            if not wrong:
                break
            if not wrong.keys() <= set(range(len(batch))):
                raise refused("error.refused", "userErrors", vendor="shopify", code="inventorySetQuantities")
            refusals += [
                StockRefusal(sku=sku, reason=wrong[index]) for index, (sku, _) in enumerate(batch) if index in wrong
            ]
            batch = [each for index, each in enumerate(batch) if index not in wrong]
        return refusals

    @property
    def _token(self) -> dict[str, str]:
        return {"X-Shopify-Access-Token": self._account.secrets["access_token"]}

    async def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the ``data`` of the response. Raises ``ApplicationError``: GraphQL reports errors with status 200."""
        with self._renewable():
            response = await http.send(
                "POST",
                f"{self._api}/graphql.json",
                content=json.dumps({"query": query, "variables": variables}).encode(),
                headers={**self._token, "Content-Type": "application/json"},
            )
        answer = http.json_object(response)
        if errors := answer.get("errors"):
            code = str((errors[0].get("extensions") or {}).get("code"))
            if code == "THROTTLED":
                raise unavailable("error.unavailable", _restored(answer), vendor="shopify", code="THROTTLED")
            if code == "INTERNAL_SERVER_ERROR":
                raise unavailable("error.unavailable", vendor="shopify", code="INTERNAL_SERVER_ERROR")
            raise refused("error.refused", code, vendor="shopify", code=code)
        return dict(answer.get("data") or {})


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _pulled(order: dict[str, Any]) -> PulledOrder:
    body = json.dumps(order, ensure_ascii=False, separators=(",", ":")).encode()
    return PulledOrder(receipt=_receipt(POLLED, body), body=body)


def _covered(order: dict[str, Any], waybill_no: str) -> dict[str, int]:
    """Return the quantity of each line that fulfillments with this waybill cover."""
    covered: dict[str, int] = defaultdict(int)
    for fulfillment in order["fulfillments"]:
        numbers = {tracking["number"] for tracking in fulfillment["trackingInfo"]}
        if waybill_no in numbers and fulfillment["status"] not in {"CANCELLED", "ERROR", "FAILURE"}:
            for item in fulfillment["fulfillmentLineItems"]["nodes"]:
                covered[_number(item["lineItem"]["id"])] += item["quantity"]
    return covered


def _number(gid: str) -> str:
    """``gid://shopify/LineItem/123`` → ``123``."""
    return gid.rpartition("/")[2]


_ITEM = re.compile(r"(gid://shopify/InventoryItem/)?[0-9]+")
_LOCATION = re.compile(r"(gid://shopify/Location/)?[0-9]+")


def _index(error: Mapping[str, Any]) -> int:
    """Return which quantity is refused, from ``["input", "quantities", "1", "locationId"]``; -1 where it names none."""
    return next((int(part) for part in error.get("field") or () if str(part).isdecimal()), -1)


def _restored(answer: dict[str, Any]) -> float | None:
    """Return the seconds until the bucket holds what the query costs; ``None`` where the response does not say."""
    cost = (answer.get("extensions") or {}).get("cost") or {}
    bucket = cost.get("throttleStatus") or {}
    if not (rate := bucket.get("restoreRate")):
        return None
    return max(float(cost.get("requestedQueryCost", 0) - bucket.get("currentlyAvailable", 0)) / float(rate), 1.0)


def _is_cash_on_delivery(gateway: str) -> bool:
    return "cash on delivery" in gateway.lower() or "货到付款" in gateway


def _campaign(landing_site: str) -> str:
    try:
        return parse_qs(urlsplit(landing_site).query).get("utm_campaign", [""])[0]
    except ValueError:
        return ""


def adapter(account: Account) -> Shopify:
    return Shopify(account)
