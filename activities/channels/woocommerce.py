"""WooCommerce: signed webhooks, and its REST API for orders they missed, refunds, shipments and stock.

Sources: woocommerce-rest-api-docs (v3: orders, refunds, notes, products and variations in batches, webhooks, errors);
``_refunded_item_id``, the batches' errors and the list of Chinese states as in WooCommerce's own source. Not in those
documents, but handled as in many public integrations: the unsigned ping sent when a webhook is saved, and
``_wc_shipment_tracking_items``.

Kept raw: ``coupon_lines`` (their discount is in the lines), ``tax_lines``, ``billing`` where there is a shipping
address, ``company``, ``email``, ``transaction_id``, ``meta_data`` of plugins but the campaign and our parcels. Without
meaning here: ``version``, ``cart_hash``, ``parent_id``, ``customer_ip_address``, ``customer_user_agent``, ``_links``.

Account: ``base_url`` of the site, over HTTPS because keys are sent by HTTP Basic (OAuth 1.0a, which plain HTTP needs,
is not built); secrets ``consumer_key``, ``consumer_secret``, ``webhook_secret``, ``webhook_secret_old`` while it is
rotated; settings ``statuses`` from a plugin's order status to one of WooCommerce's own, ``carrier_codes`` where the
buyer should read another name, ``lang`` of the notes that buyers read. Listings: ``product_id``, and ``variation_id``
where the product has variations.

``total`` is what the buyer pays, taxes included; all discounts are the merchant's. Lines come rounded to the cent, the
total does not: their difference counts as tax. Refunds appear only once granted. A
webhook names a refund without its lines, so such an order is read. WooCommerce has no parcels: each is kept in the
order's meta data, a note informs the buyer, and the order is completed when everything shipped. Only a webhook reports
an order moved to the trash: lists leave it out. After five failed deliveries WooCommerce disables a webhook: pull
orders too.
"""

import asyncio
import base64
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from html import unescape
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue, field_validator
from temporalio.exceptions import ApplicationError

from activities.channels import (
    CARRIER_NAMES,
    Hint,
    PulledOrder,
    StockOffer,
    StockRefusal,
    carrier_code,
    order_fact_key,
    pulled_order,
    refusal_code,
)
from activities.kit import http
from activities.kit.errors import refused, unavailable
from activities.kit.lenient import Odd, decode_order, standard_order
from activities.kit.paging import last_page_first
from activities.kit.payloads import (
    Fee,
    Identifier,
    Integer,
    Part,
    Price,
    Quantity,
    Text,
    decode,
    drop_empty,
    person_name,
    price_per_unit,
    within_calendar,
)
from activities.kit.signing import verify_body
from models.accounts import CODES_OF_CARRIERS, AccountFields, secret, setting
from models.address import Recipient
from models.base import Neutral, bounded_key
from models.fulfillment import Shipment
from models.i18n import message, t
from models.intake import Account, Receipt
from models.money import Currency
from models.order import CENT, ChannelOrder, OrderLine, RefundState
from models.order import Refund as Refunded
from models.origins import ChannelKind, IntakePath, Origin

ACCOUNT = AccountFields(
    console="woocommerce",
    fields=(
        secret("consumer_key"),
        secret("consumer_secret"),
        secret("webhook_secret", required=False),
        secret("webhook_secret_old", required=False, about="old"),
        setting("statuses", dict[str, str]),
        setting("lang", about="site_lang"),
        CODES_OF_CARRIERS,
    ),
    base_url="https://{your site}",
)

READ = "orders"
"""The topic of an order that was pulled or read: ``{"order", "refunds"}``."""
_PING = "ping"
_DELETED = "order.deleted"
_TOPICS = {"order.created", "order.updated", "order.restored"}

_DRAFTS = {"checkout-draft", "auto-draft", "draft"}
_UNPAID = {"pending", "failed"}
"""A failed payment may be retried."""
_CANCELLED = {"cancelled", "trash"}
_STATUSES = _UNPAID | _CANCELLED | {"on-hold", "processing", "completed", "refunded"}
_CLOSED = _CANCELLED | {"refunded"}
_NO_ORDER = "woocommerce_rest_shop_order_invalid_id"
_PAGE = 100
_CONCURRENT_READS = 4
_PARCEL_KEY = "_hengdan_parcel_"
"""Prefix of the key of a parcel's quantities by line; the waybill number follows."""
_TRACKING_KEY = "_wc_shipment_tracking_items"
"""The key that plugins which show waybills read."""
_STATES = (
    "云南 北京 天津 河北 山西 内蒙古 辽宁 吉林 黑龙江 上海 江苏 浙江 安徽 福建 江西 山东 "
    "河南 湖北 湖南 广东 广西 海南 重庆 四川 贵州 陕西 甘肃 青海 宁夏 澳门 西藏 新疆"
)
_PROVINCES = dict(enumerate(_STATES.split(), 1))
"""Chinese provinces by the number of their codes ``CN1``, ``CN2``, ..."""

Gmt = Annotated[
    datetime,
    AfterValidator(lambda moment: within_calendar(moment if moment.tzinfo else moment.replace(tzinfo=UTC))),
]
"""A time without a zone: GMT."""
MaybeGmt = Annotated[Gmt | None, BeforeValidator(lambda value: value or None)]


class _Meta(BaseModel):
    key: Text = ""
    value: Any = None


Metas = Annotated[list[_Meta], BeforeValidator(lambda value: value if isinstance(value, list) else [])]


class _Line(BaseModel):
    id: Identifier
    name: Text = ""
    product_id: Integer = 0
    variation_id: Integer = 0
    sku: Text = ""
    quantity: Quantity
    subtotal: Price
    """The price of the whole quantity, before discounts and without tax."""
    total: Price

    @property
    def listing(self) -> dict[str, str]:
        ids = {"product_id": self.product_id, "variation_id": self.variation_id}
        return {name: str(number) for name, number in ids.items() if number}

    def line(self, quantity: int, net: Decimal) -> OrderLine:
        """Return the line for what remains of it and its net amount. The unit price exceeds the original one where the
        other units were refunded below their price."""
        unit = max(price_per_unit(self.subtotal, self.quantity), price_per_unit(net, quantity))
        return OrderLine.model_construct(
            line_no=str(self.id),
            sku=self.sku or f"{self.product_id}:{self.variation_id}",
            listing=self.listing,
            title=unescape(self.name),
            quantity=quantity,
            unit_price=unit,
            discount=unit * quantity - net,
        )


class _Freight(BaseModel):
    method_id: Text = ""
    method_title: Text = ""


class _Charge(BaseModel):
    total: Fee = Decimal(0)


class _Address(BaseModel):
    first_name: Part = ""
    last_name: Part = ""
    address_1: Part = ""
    address_2: Part = ""
    city: Part = ""
    state: Part = ""
    postcode: Part = ""
    country: Annotated[Text, Field(pattern=r"^([A-Z]{2})?$"), Neutral("ZZ")] = ""
    phone: Part = ""

    @property
    def street(self) -> str:
        return f"{self.address_1} {self.address_2}".strip()

    @property
    def name(self) -> str:
        return person_name(self.first_name, self.last_name)

    @property
    def province(self) -> str:
        match = re.fullmatch(r"CN(\d{1,2})", self.state)
        return _PROVINCES.get(int(match[1]), self.state) if match else self.state


class _RefundReference(BaseModel):
    """A refund as its order lists it, without lines."""

    id: Identifier


class _Order(BaseModel):
    id: Identifier
    number: Text = ""
    status: Text
    created_via: Text = ""
    currency: Currency
    date_created_gmt: Gmt
    date_modified_gmt: Gmt
    date_paid_gmt: MaybeGmt = None
    date_completed_gmt: MaybeGmt = None
    total: Price
    total_tax: Fee = Decimal(0)
    shipping_total: Fee = Decimal(0)
    customer_id: Integer = 0
    customer_note: Text = ""
    payment_method: Text = ""
    billing: _Address = _Address()
    shipping: _Address = _Address()
    line_items: list[_Line]
    fee_lines: list[_Charge] = []
    shipping_lines: list[_Freight] = []
    refunds: list[_RefundReference] = []
    meta_data: Metas = []

    @field_validator("billing", "shipping", mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return value or {}

    @field_validator("fee_lines", "shipping_lines", "refunds", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return value or []

    @property
    def recipient(self) -> Recipient:
        """The shipping address, or else the billing address; empty where there is neither."""
        address = self.shipping if self.shipping.street else self.billing
        if not (address.country or address.street):
            return Recipient()
        return Recipient.model_construct(
            name=address.name,
            phone=address.phone or self.billing.phone,
            country=address.country or "ZZ",
            province=address.province,
            city=address.city,
            street=address.street,
            postcode=address.postcode,
            hidden=False,
        )

    @property
    def pickup(self) -> bool:
        return any(line.method_id in {"local_pickup", "pickup_location"} for line in self.shipping_lines)

    def meta(self, key: str) -> str:
        return next((meta.value for meta in self.meta_data if meta.key == key and isinstance(meta.value, str)), "")


class _RefundedLine(BaseModel):
    """A line of a refund: quantity and amounts are negative."""

    id: Identifier
    quantity: Annotated[int, Field(ge=-10_000_000, le=0)] = 0
    total: Fee = Decimal(0)
    total_tax: Fee = Decimal(0)
    meta_data: Metas = []

    @property
    def line_no(self) -> str:
        return next((str(meta.value) for meta in self.meta_data if meta.key == "_refunded_item_id"), "")

    @property
    def amount(self) -> Decimal:
        return max(-(self.total + self.total_tax), Decimal(0))


class _Refund(BaseModel):
    id: Identifier
    amount: Price
    reason: Text = ""
    line_items: Annotated[list[_RefundedLine], BeforeValidator(lambda value: value or [])] = []

    @property
    def rest(self) -> Decimal:
        """The part that belongs to no line: shipping, fees, goodwill."""
        return max(self.amount - sum((line.amount for line in self.line_items), Decimal(0)), Decimal(0))

    @property
    def facts(self) -> list[Refunded]:
        granted = RefundState.GRANTED
        facts = [
            Refunded.model_construct(
                refund_no=f"{self.id}:{line.line_no}",
                state=granted,
                amount=line.amount,
                line_no=line.line_no or None,
                quantity=-line.quantity,
                reason=self.reason,
            )
            for line in self.line_items
        ]
        if self.rest or not facts:
            facts.append(
                Refunded.model_construct(refund_no=str(self.id), state=granted, amount=self.rest, reason=self.reason)
            )
        return facts


class _Read(BaseModel):
    order: _Order
    refunds: list[_Refund] = []


class _Deleted(BaseModel):
    id: Identifier


def _receipt(topic: str, body: bytes) -> Receipt:
    """Return a receipt whose fact is the topic and the signed body: WooCommerce signs no header."""
    return Receipt(fact_key=f"{topic}:{sha256(body).hexdigest()}", topic=topic)


class WooCommerce:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._api = f"{account.base_url.rstrip('/')}/wp-json/wc/v3"

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        signature = headers.get("x-wc-webhook-signature", "")
        if not signature and re.fullmatch(rb"webhook_id=[0-9]+", body.strip()):
            return Receipt(fact_key=_PING, topic=_PING)
        secrets = [self._account.secrets.get(name) for name in ("webhook_secret", "webhook_secret_old")]
        verify_body(secrets, "x-wc-webhook-signature", signature, body)
        return _receipt(headers.get("x-wc-webhook-topic", ""), body)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        if topic == READ:
            read, odd = decode_order(_Read, body, "order.id")
            return self._order(odd, read.order, read.refunds, IntakePath.POLL)
        if topic == _DELETED:
            return Hint(order_nos=(str(decode(_Deleted, body).id),))
        if topic not in _TOPICS:
            return None
        order, odd = decode_order(_Order, body, "id")
        if order.refunds:
            return Hint(order_nos=(str(order.id),))
        return self._order(odd, order, [], IntakePath.WEBHOOK)

    def _order(self, odd: Odd, source: _Order, refunds: Sequence[_Refund], intake: IntakePath) -> ChannelOrder | None:
        status = str(self._account.settings.get("statuses", {}).get(source.status, source.status))
        if status in _DRAFTS or not (source.line_items or odd):
            return None
        if status not in _STATUSES:
            odd["status"] = message("invalid.order_status.mappable", value=bounded_key(status))
        shipped = status == "completed" or (status == "refunded" and source.date_completed_gmt is not None)
        deducted = () if shipped else refunds
        remaining, net, tax = _remaining(source, deducted)
        cancelled = status in _CANCELLED or (not shipped and (status == "refunded" or not any(remaining.values())))
        if cancelled:
            remaining, net, tax = _remaining(source, ())
            deducted = ()
        fees = [fee.total for fee in source.fee_lines]
        cash_on_delivery = source.payment_method == "cod"
        paid_at = source.date_paid_gmt
        if status in {"processing", "completed", "refunded"} and not cash_on_delivery:
            paid_at = paid_at or source.date_modified_gmt
        lines = tuple(
            line.line(remaining[str(line.id)], net[str(line.id)])
            for line in source.line_items
            if remaining[str(line.id)]
        )
        freight = max(source.shipping_total, Decimal(0)) + sum((fee for fee in fees if fee > 0), Decimal(0))
        discount = sum((refund.rest for refund in deducted), Decimal(0)) - sum(fee for fee in fees if fee < 0)
        total = max(source.total - sum((refund.amount for refund in deducted), Decimal(0)), Decimal(0))
        tax = max(tax, Decimal(0))
        rounding = total - (sum((line.net for line in lines), freight) + tax - discount)
        if tax and abs(rounding) <= len(source.line_items) * CENT / 2:
            tax += rounding
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=str(source.id),
            placed_at=source.date_created_gmt,
            modified_at=source.date_modified_gmt,
            paid_at=None if status in _UNPAID else paid_at,
            cancelled_at=source.date_modified_gmt if cancelled else None,
            shipped=shipped,
            cash_on_delivery=cash_on_delivery,
            currency=source.currency,
            lines=lines,
            refunds=tuple(fact for refund in refunds for fact in refund.facts),
            freight=freight,
            discount=discount,
            tax=tax,
            total=total,
            recipient=source.recipient,
            buyer=str(source.customer_id) if source.customer_id else "",
            buyer_message=source.customer_note,
            origin=self._origin(source, intake),
            custom=_custom(source, status, cancelled),
        )

    def _origin(self, source: _Order, intake: IntakePath) -> Origin:
        recipient = source.recipient
        return Origin(
            kind=ChannelKind.STORE if "pos" in source.created_via else ChannelKind.OWN_SITE,
            platform="woocommerce",
            shop=self._account.account,
            region=f"{recipient.country} {recipient.province} {recipient.city}".strip() if recipient.street else "",
            campaign=source.meta("_wc_order_attribution_utm_campaign"),
            intake=intake,
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield changed orders with their refunds."""
        gate = asyncio.Semaphore(_CONCURRENT_READS)
        window = {"modified_after": _gmt(since), "modified_before": _gmt(until), "dates_are_gmt": "true"}
        async for page in self._pages(window):
            for pulled in await asyncio.gather(*(self._with_refunds(order, gate) for order in page)):
                yield pulled

    async def read(self, order_no: str) -> PulledOrder | None:
        if not re.fullmatch(r"[0-9]+", order_no) or (order := await self._get(order_no)) is None:
            return None
        return await self._with_refunds(order, asyncio.Semaphore(1))

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        window = {"after": _gmt(since), "before": _gmt(until), "dates_are_gmt": "true", "_fields": "id,status"}
        async for page in self._pages(window):
            for order in page:
                if order.get("status") not in _DRAFTS:
                    yield str(order["id"])

    def _pages(self, window: dict[str, str]) -> AsyncIterator[Sequence[dict[str, Any]]]:
        params = {**window, "per_page": str(_PAGE), "orderby": "id", "order": "asc"}

        async def page(number: int) -> tuple[list[dict[str, Any]], int]:
            response = await self._send("GET", "/orders", params={**params, "page": str(number)})
            return _list(response), max(_count(response.headers.get("x-wp-totalpages", "")), 1)

        return last_page_first(page)

    async def _get(self, order_no: str) -> dict[str, Any] | None:
        try:
            return _object(await self._send("GET", f"/orders/{order_no}"))
        except ApplicationError as error:
            if refusal_code(error) == _NO_ORDER:
                return None
            raise

    async def _with_refunds(self, order: dict[str, Any], gate: asyncio.Semaphore) -> PulledOrder:
        """Return the order with its refunds: the order itself lists them without lines."""
        refunds: list[dict[str, Any]] = []
        if order.get("refunds"):
            async with gate:
                refunds = _list(await self._send("GET", f"/orders/{order['id']}/refunds", params={"per_page": "100"}))
        fact_key = order_fact_key(order.get("id"), order.get("date_modified_gmt"), [order, refunds])
        return pulled_order(READ, fact_key, {"order": order, "refunds": refunds})

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Save the parcel in the order's meta data and add a note to the buyer, each once; complete the order when
        everything shipped."""
        path = f"/orders/{shipment.channel_order_no}"
        if (order := await self._get(shipment.channel_order_no)) is None:
            raise refused("error.channel.order_unknown", "not_found", vendor="woocommerce")
        if order.get("status") in _CLOSED:
            raise refused(
                "error.channel.order_status", str(order["status"]), vendor="woocommerce", state=order["status"]
            )
        carrier = carrier_code(self._account, CARRIER_NAMES, shipment.carrier, shipment.carrier.upper())
        if f"{_PARCEL_KEY}{shipment.waybill_no}" not in _parcels(order):
            meta_data = _parcel_meta(order, shipment, carrier)
            order = _object(await self._send("PUT", path, content={"meta_data": meta_data}))
        if order.get("status") != "completed" and await self._everything_shipped(order):
            await self._send("PUT", path, content={"status": "completed"})
        notes = _list(await self._send("GET", f"{path}/notes", params={"type": "customer"}))
        if not any(shipment.waybill_no in str(note.get("note")) for note in notes):
            lang = str(self._account.settings.get("lang", "")) or None
            note = t("note.shipped", lang, carrier=carrier, waybill=shipment.waybill_no)
            await self._send("POST", f"{path}/notes", content={"note": note, "customer_note": True})

    async def _everything_shipped(self, order: dict[str, Any]) -> bool:
        """Whether the parcels hold everything that was not refunded."""
        body = (await self._with_refunds(order, asyncio.Semaphore(1))).body
        read = decode(_Read, body)
        unshipped, _, _ = _remaining(read.order, read.refunds)
        for lines in _parcels(order).values():
            for line_no, quantity in lines.items():
                unshipped[line_no] = unshipped.get(line_no, 0) - quantity
        return not any(quantity > 0 for quantity in unshipped.values())

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Update up to 100 products, or variations of one product, in a call; it also turns stock management on."""
        refusals: list[StockRefusal] = []
        batches: dict[str, list[tuple[StockOffer, str]]] = defaultdict(list)
        for each in offered:
            product, variation = each.listing.get("product_id", ""), each.listing.get("variation_id")
            if all(re.fullmatch(r"[0-9]+", part) for part in (product, variation or "0")):
                path = f"/products/{product}/variations/batch" if variation else "/products/batch"
                batches[path].append((each, variation or product))
            else:
                refusals.append(StockRefusal(sku=each.sku, reason="product_id and variation_id must be numbers"))
        for path, batch in batches.items():
            for start in range(0, len(batch), _PAGE):
                refusals += await self._set_stock(path, batch[start : start + _PAGE])
        return refusals

    async def _set_stock(self, path: str, batch: Sequence[tuple[StockOffer, str]]) -> list[StockRefusal]:
        levels = [{"id": int(number), "manage_stock": True, "stock_quantity": each.quantity} for each, number in batch]
        answer = _object(await self._send("POST", path, content={"update": levels}))
        wrong = {str(each.get("id")): each["error"] for each in answer.get("update") or [] if each.get("error")}
        if any(_status(error) >= 500 for error in wrong.values()):
            raise unavailable("error.quantities", vendor="woocommerce")
        return [
            StockRefusal(sku=each.sku, reason=str(wrong[number].get("code")))
            for each, number in batch
            if number in wrong
        ]

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        content: dict[str, Any] | None = None,
    ) -> httpx.Response:
        """Make a call. Raises ``refused`` with WooCommerce's own code."""
        keys = f"{self._account.secrets['consumer_key']}:{self._account.secrets['consumer_secret']}"
        response = await http.send(
            method,
            f"{self._api}{path}",
            params=params,
            content=None if content is None else json.dumps(content).encode(),
            headers={
                "Authorization": f"Basic {base64.b64encode(keys.encode()).decode()}",
                "Content-Type": "application/json",
            },
            allowed_statuses={400, 401, 403, 404},
        )
        if response.status_code >= 400:
            code = str(_object(response).get("code"))
            raise refused("error.refused", code, vendor="woocommerce", code=f"{response.status_code} {code}")
        return response


def _remaining(source: _Order, refunds: Sequence[_Refund]) -> tuple[dict[str, int], dict[str, Decimal], Decimal]:
    """Return the quantity of each line after the refunds, its net amount, and the tax on all lines."""
    remaining = {str(line.id): line.quantity for line in source.line_items}
    net = {str(line.id): line.total for line in source.line_items}
    tax = source.total_tax
    for line in (line for refund in refunds for line in refund.line_items if line.line_no in remaining):
        remaining[line.line_no] = max(remaining[line.line_no] + line.quantity, 0)
        net[line.line_no] = max(net[line.line_no] + line.total, Decimal(0))
        tax += line.total_tax
    return remaining, net, tax


def _custom(source: _Order, status: str, cancelled: bool) -> dict[str, JsonValue]:
    hold = "on-hold" if status == "on-hold" else "local_pickup" if source.pickup else ""
    custom: dict[str, JsonValue] = {
        "channel_hold": "" if cancelled else hold,
        "cancel_reason": status if cancelled else "",
        "order_number": source.number if source.number != str(source.id) else "",
        "status": source.status if source.status != status else "",
        "shipping_method": " ".join(line.method_title for line in source.shipping_lines),
        "created_via": source.created_via,
    }
    return drop_empty(custom)


def _parcels(order: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the parcels that we saved in the meta data: quantities by line, by the key of the parcel."""
    return {
        str(meta["key"]): meta["value"]
        for meta in order.get("meta_data") or []
        if str(meta.get("key")).startswith(_PARCEL_KEY) and isinstance(meta.get("value"), dict)
    }


def _parcel_meta(order: Mapping[str, Any], shipment: Shipment, carrier: str) -> list[dict[str, Any]]:
    """Return the meta data that hold a parcel: our own, and those that plugins show."""
    quantities: dict[str, int] = {}
    for line in shipment.lines:
        quantities[line.line_no] = max(quantities.get(line.line_no, 0), line.quantity)
    tracked = [meta["value"] for meta in order.get("meta_data") or [] if meta.get("key") == _TRACKING_KEY]
    item = {
        "tracking_provider": "",
        "custom_tracking_provider": carrier,
        "custom_tracking_link": "",
        "tracking_number": shipment.waybill_no,
        "date_shipped": str(int(shipment.shipped_at.timestamp())),
        "tracking_id": sha256(shipment.reference.encode()).hexdigest()[:32],
    }
    items = [*(tracked[0] if tracked and isinstance(tracked[0], list) else []), item]
    return [{"key": f"{_PARCEL_KEY}{shipment.waybill_no}", "value": quantities}, {"key": _TRACKING_KEY, "value": items}]


def _gmt(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _count(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else 0


def _status(error: Mapping[str, Any]) -> int:
    data = error.get("data")
    return int(data.get("status") or 0) if isinstance(data, dict) else 0


def _object(response: httpx.Response) -> dict[str, Any]:
    if not isinstance(answer := _json(response), dict):
        raise unavailable("error.malformed", vendor="woocommerce")
    return answer


def _list(response: httpx.Response) -> list[dict[str, Any]]:
    if not isinstance(answer := _json(response), list):
        raise unavailable("error.malformed", vendor="woocommerce")
    return answer


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def adapter(account: Account) -> WooCommerce:
    return WooCommerce(account)
