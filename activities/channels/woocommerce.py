"""WooCommerce: webhooks signed over their raw bytes, REST v3 for the rest.

Sources: the REST API documentation (woocommerce/woocommerce-rest-api-docs: orders, notes, refunds, products/batch,
webhooks), states of China as in WooCommerce's own list. A refund's line names what it refunds by the meta
``_refunded_item_id``; a webhook tells of refunds without their lines, so such an order is read. Core knows no tracking
numbers: each parcel is kept in the order's meta as ``_hengdan_parcel_{waybill}`` and told to the buyer by a note; when
all has left, the order is completed. Not sourced: the first ``webhook_id=NN``, sent unsigned as a webhook is activated.

``total`` is after coupons, with tax. Account: ``base_url`` of the site; secrets ``consumer_key``, ``consumer_secret``,
``webhook_secret``. Listings: ``product_id``, and ``variation_id`` where the product has variations.
"""

import base64
import hmac
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from hashlib import sha256
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities import http
from activities.channels import Hint, Offered, Pulled, Refused
from activities.errors import Unauthentic, Unintelligible, unavailable
from activities.payloads import (
    Code,
    Fee,
    Identifier,
    Part,
    Price,
    Quantity,
    Text,
    balanced,
    decode,
    reasonable,
    standardising,
)
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState
from models.origin import ChannelKind, IntakePath, Origin

READ = "orders"
"""The topic of an order that was read, its refunds whole."""
_TOPICS = {"order.created", "order.updated", "order.restored", READ}
_UNPAID = {"pending", "on-hold", "failed"}
_PAID = {"processing", "completed"}
_CLOSED = {"cancelled", "refunded", "trash"}
_DRAFTS = {"checkout-draft", "auto-draft"}
_PAGE = 100
_STATES = (
    "云南", "北京", "天津", "河北", "山西", "内蒙古", "辽宁", "吉林", "黑龙江", "上海", "江苏",
    "浙江", "安徽", "福建", "江西", "山东", "河南", "湖北", "湖南", "广东", "广西", "海南",
    "重庆", "四川", "贵州", "陕西", "甘肃", "青海", "宁夏", "澳门", "西藏", "新疆",
)  # fmt: skip
"""WooCommerce's CN1 to CN32."""
_PARCEL = "_hengdan_parcel_"
_UNIT = Decimal("0.0001")


def _utc(moment: datetime) -> datetime:
    return reasonable(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


GmtTime = Annotated[datetime, AfterValidator(_utc)]
MaybeTime = Annotated[GmtTime | None, BeforeValidator(lambda value: value or None)]
Negative = Annotated[Fee, AfterValidator(abs)]


class _Meta(BaseModel):
    key: Text = ""
    value: JsonValue = None


class _Line(BaseModel):
    id: Identifier
    name: Text = ""
    product_id: int = 0
    variation_id: int = 0
    quantity: Quantity
    subtotal: Price
    total: Price
    sku: Text = ""

    @property
    def listing(self) -> dict[str, str]:
        ids = {"product_id": self.product_id, "variation_id": self.variation_id}
        return {name: str(number) for name, number in ids.items() if number}

    def line(self, quantity: int) -> OrderLine:
        """Unit price before coupons; what they take off, and what rounding adds, is the discount."""
        unit = (max(self.subtotal, self.total) / self.quantity).quantize(_UNIT, ROUND_CEILING)
        due = (self.total * quantity / self.quantity).quantize(_UNIT, ROUND_CEILING)
        return OrderLine(
            line_no=str(self.id),
            sku=self.sku or ":".join(self.listing.values()) or str(self.id),
            listing=self.listing,
            title=self.name,
            quantity=quantity,
            unit_price=unit,
            discount=unit * quantity - due,
        )


class _RefundedLine(BaseModel):
    quantity: Annotated[int, AfterValidator(abs)] = 0
    total: Negative = Decimal(0)
    meta_data: list[_Meta] = []

    @property
    def of(self) -> str | None:
        return next((str(each.value) for each in self.meta_data if each.key == "_refunded_item_id"), None)


class _Refund(BaseModel):
    id: Identifier
    reason: Text = ""
    total: Negative = Decimal(0)
    amount: Negative = Decimal(0)
    line_items: list[_RefundedLine] | None = None

    @property
    def facts(self) -> list[Refund]:
        """One for each line it names; else one of money alone."""
        told = {"state": RefundState.GRANTED, "reason": self.reason}
        lines = [each for each in self.line_items or [] if each.of]
        if not lines:
            return [Refund(refund_no=str(self.id), amount=self.amount or self.total, **told)]
        return [
            Refund(refund_no=f"{self.id}:{each.of}", line_no=each.of, quantity=each.quantity, amount=each.total, **told)
            for each in lines
        ]


class _Freight(BaseModel):
    total: Fee = Decimal(0)


class _Address(BaseModel):
    first_name: Part = ""
    last_name: Part = ""
    company: Part = ""
    address_1: Part = ""
    address_2: Part = ""
    city: Part = ""
    state: Part = ""
    postcode: Part = ""
    country: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""
    phone: Part = ""


class _Order(BaseModel):
    id: Identifier
    number: Text = ""
    status: Code
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    date_created_gmt: GmtTime
    date_modified_gmt: GmtTime
    date_paid_gmt: MaybeTime = None
    shipping_total: Fee = Decimal(0)
    total: Price
    total_tax: Fee = Decimal(0)
    customer_id: Text = ""
    customer_note: Text = ""
    payment_method: Text = ""
    billing: _Address = _Address()
    shipping: _Address = _Address()
    line_items: Annotated[list[_Line], Field(min_length=1, max_length=200)]
    fee_lines: list[_Freight] = []
    refunds: list[_Refund] = []
    meta_data: list[_Meta] = []

    @property
    def recipient(self) -> Recipient:
        """Where it is shipped; where nothing is said of that, where it is billed."""
        to = self.shipping if self.shipping.address_1 or self.shipping.city else self.billing
        chinese = to.country in ("", "CN")
        code = re.fullmatch(r"CN([1-9]|[12][0-9]|3[0-2])", to.state) if chinese else None
        name = f"{to.last_name}{to.first_name}" if chinese else f"{to.first_name} {to.last_name}".strip()
        return Recipient(
            name=(name or to.company)[:200],
            phone=to.phone or self.billing.phone,
            country=to.country or "CN",
            province=_STATES[int(code[1]) - 1] if code else to.state,
            city=to.city,
            street=f"{to.address_1} {to.address_2}".strip()[:200],
            postcode=to.postcode,
        )

    def meta(self, key: str) -> str:
        return next((str(each.value) for each in self.meta_data if each.key == key and each.value), "")


class _Glance(BaseModel):
    id: Identifier


def sign(secret: str, body: bytes) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()


def _receipt(topic: str, body: bytes) -> Receipt:
    """A fact is a topic and what was signed: no header is."""
    return Receipt(fact_key=f"{topic}:{sha256(body).hexdigest()}", topic=topic)


class WooCommerce:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._api = f"{account.base_url.rstrip('/')}/wp-json/wc/v3"

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        if re.fullmatch(rb"webhook_id=\d{1,20}", body):
            return Receipt(fact_key=body.decode(), topic="ping")
        secret, given = self._account.secrets.get("webhook_secret", ""), headers.get("x-wc-webhook-signature", "")
        if not (secret and body and hmac.compare_digest(sign(secret, body).encode(), given.encode())):
            raise Unauthentic("x-wc-webhook-signature: does not match")
        return _receipt(headers.get("x-wc-webhook-topic", ""), body)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        if topic == "order.deleted":
            return Hint(order_nos=(str(decode(_Glance, body).id),))
        if topic not in _TOPICS:
            return None
        told = decode(_Order, body)
        if told.status in _DRAFTS:
            return None
        if told.status not in _UNPAID | _PAID | _CLOSED:
            raise Unintelligible("status", "not an order status we know")
        if any(each.line_items is None for each in told.refunds):
            return Hint(order_nos=(str(told.id),))
        refunds = [fact for each in told.refunds for fact in each.facts]
        shipped = told.status == "completed"
        left = self._left(told, refunds) if not shipped else {line.id: line.quantity for line in told.line_items}
        closed = told.status in _CLOSED or not any(left.values())
        kept = [line for line in told.line_items if closed or left[line.id]]
        cash_on_delivery = told.payment_method == "cod"
        paid = told.status in _PAID and not (cash_on_delivery and told.date_paid_gmt is None)
        fees = sum((fee.total for fee in told.fee_lines), Decimal(0))
        granted = Decimal(0) if shipped or closed else sum((each.amount for each in refunds), Decimal(0))
        custom: dict[str, JsonValue] = {
            "order_number": told.number if told.number != str(told.id) else "",
            "cancel_reason": told.status if closed else "",
        }
        with standardising():
            order = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=str(told.id),
                placed_at=told.date_created_gmt,
                modified_at=told.date_modified_gmt,
                paid_at=(told.date_paid_gmt or told.date_modified_gmt) if paid else None,
                cancelled_at=told.date_modified_gmt if closed else None,
                shipped=shipped,
                cash_on_delivery=cash_on_delivery,
                currency=told.currency,
                lines=tuple(line.line(line.quantity if closed else left[line.id]) for line in kept),
                refunds=tuple(refunds),
                freight=max(told.shipping_total + max(fees, Decimal(0)), Decimal(0)),
                discount=max(-fees, Decimal(0)),
                total=max(told.total - granted, Decimal(0)),
                recipient=told.recipient,
                buyer=told.customer_id.strip("0"),
                buyer_message=told.customer_note,
                origin=self._origin(told, topic),
                custom={key: value for key, value in custom.items() if value},
            )
        return balanced(order, told.total_tax)

    @staticmethod
    def _left(told: _Order, refunds: Sequence[Refund]) -> dict[int, int]:
        """What is still wanted of each line."""
        back: dict[str | None, int] = defaultdict(int)
        for each in refunds:
            back[each.line_no] += each.quantity
        return {line.id: max(line.quantity - back[str(line.id)], 0) for line in told.line_items}

    def _origin(self, told: _Order, topic: str) -> Origin:
        return Origin(
            kind=ChannelKind.OWN_SITE,
            platform="woocommerce",
            shop=self._account.account,
            region=told.recipient.region,
            campaign=told.meta("_wc_order_attribution_utm_campaign"),
            intake=IntakePath.POLL if topic == READ else IntakePath.WEBHOOK,
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[Pulled]:
        """Pages from the last to the first: what changes meanwhile leaves the window, and the rest moves forward."""
        window = {"modified_after": _gmt(since), "modified_before": _gmt(until), "dates_are_gmt": "true"}
        async for order in self._pages("orders", status="any", orderby="id", order="asc", **window):
            yield await self._whole(order)

    async def read(self, order_no: str) -> Pulled | None:
        if not re.fullmatch(r"\d{1,19}", order_no):
            return None
        try:
            response = await self._call("GET", f"orders/{order_no}")
        except ApplicationError as error:
            if _absent(error):
                return None
            raise
        return await self._whole(_json(response))

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        window = {"after": _gmt(since), "before": _gmt(until), "dates_are_gmt": "true"}
        async for order in self._pages("orders", status="any", orderby="id", order="asc", _fields="id", **window):
            yield str(order["id"])

    async def _whole(self, order: Any) -> Pulled:
        """An order with its refunds as their own resource tells of them."""
        if order.get("refunds"):
            refunds = await self._call("GET", f"orders/{order['id']}/refunds", params={"per_page": str(_PAGE)})
            order = {**order, "refunds": _json(refunds)}
        body = json.dumps(order, ensure_ascii=False, separators=(",", ":")).encode()
        return Pulled(receipt=_receipt(READ, body), body=body)

    async def _pages(self, path: str, **params: str) -> AsyncIterator[Any]:
        params["per_page"] = str(_PAGE)
        first = await self._call("GET", path, params=params)
        last = int(first.headers.get("x-wp-totalpages") or 1)
        for number in range(last, 0, -1):
            page = first if last == 1 else await self._call("GET", path, params={**params, "page": str(number)})
            for order in _json(page):
                yield order

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Keeps the parcel in the order's meta, tells the buyer by a note, and completes what has left whole."""
        path = f"orders/{shipment.channel_order_no}"
        quantities: dict[str, int] = defaultdict(int)
        for line in shipment.lines:
            quantities[line.line_no] += line.quantity
        parcel = {"carrier": shipment.carrier, "lines": quantities}
        meta = [{"key": f"{_PARCEL}{shipment.waybill_no}", "value": json.dumps(parcel, sort_keys=True)}]
        notes = _json(await self._call("GET", f"{path}/notes"))
        if not any(shipment.waybill_no in str(note.get("note")) for note in notes):
            said = {"note": f"{shipment.carrier.upper()} {shipment.waybill_no}", "customer_note": True}
            await self._call("POST", f"{path}/notes", said)
        order = _json(await self._call("PUT", path, {"meta_data": meta}))
        if order.get("status") == "processing" and await self._all_left(order):
            await self._call("PUT", path, {"status": "completed"})

    async def _all_left(self, order: Mapping[str, Any]) -> bool:
        """The parcels in its meta carry all that is still wanted."""
        sent: dict[str, int] = defaultdict(int)
        for each in order.get("meta_data", []):
            if str(each.get("key")).startswith(_PARCEL):
                for line_no, quantity in json.loads(each["value"])["lines"].items():
                    sent[line_no] += quantity
        wanted = self.parse((await self._whole(order)).body, READ)
        return isinstance(wanted, ChannelOrder) and all(sent[line.line_no] >= line.quantity for line in wanted.lines)

    async def push_stock(self, offered: Sequence[Offered]) -> list[Refused]:
        """By ``products/batch`` and ``products/{id}/variations/batch``, up to 100 a call."""
        refusals: list[Refused] = []
        batches: dict[str, dict[int, Offered]] = defaultdict(dict)
        for each in offered:
            product, variation = each.listing.get("product_id", ""), each.listing.get("variation_id", "")
            if not re.fullmatch(r"\d{1,18}", product) or not re.fullmatch(r"\d{0,18}", variation):
                refusals.append(Refused(sku=each.sku, reason="product_id and variation_id must be numbers"))
            elif variation:
                batches[f"products/{product}/variations/batch"][int(variation)] = each
            else:
                batches["products/batch"][int(product)] = each
        for path, batch in batches.items():
            items = list(batch.items())
            for at in range(0, len(items), _PAGE):
                refusals += await self._set_stock(path, dict(items[at : at + _PAGE]))
        return refusals

    async def _set_stock(self, path: str, batch: Mapping[int, Offered]) -> list[Refused]:
        wanted = [{"id": key, "manage_stock": True, "stock_quantity": each.quantity} for key, each in batch.items()]
        try:
            told = _json(await self._call("POST", path, {"update": wanted}))["update"]
        except ApplicationError as error:
            if not _absent(error):
                raise
            return [Refused(sku=each.sku, reason="no such product") for each in batch.values()]
        except (KeyError, TypeError):
            raise unavailable("woocommerce: the answer is not in the format") from None
        return [
            Refused(sku=batch[item["id"]].sku, reason=str(item["error"].get("code")))
            for item in told
            if item.get("error") and item.get("id") in batch
        ]

    async def _call(
        self, method: str, path: str, body: Any = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        key, secret = (self._account.secrets[name] for name in ("consumer_key", "consumer_secret"))
        headers = {"Authorization": f"Basic {base64.b64encode(f'{key}:{secret}'.encode()).decode()}"}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        return await http.send(method, f"{self._api}/{path}", content=content, headers=headers, params=params)


def _gmt(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise unavailable("woocommerce: answered with what is no JSON") from None


def _absent(error: ApplicationError) -> bool:
    return error.details[:1] == ("404",)


def adapter(account: Account) -> WooCommerce:
    return WooCommerce(account)
