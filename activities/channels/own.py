"""The merchant's own site, in a format of our own: ``OwnOrder``, whose JSON Schema is its documentation.

There is no standard for this, so the format is Hengdan's own order, and the signature (``signing``) the one that Stripe
and Standard Webhooks made familiar: three lines in any language.

In: ``POST`` of an ``OwnOrder`` whenever something changes, complete each time. Out: ``POST {base_url}/shipments`` of an
``OwnShipment``, signed likewise; any 2xx confirms it, anything else is retried with the same ``event_id``. Where the
shop has a stock rule, also ``POST {base_url}/stock`` of an ``OwnStock``, signed likewise.

Account: secrets ``secret``, and ``secret_old`` during rotation.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from activities.channels import PulledOrder, StockOffer, StockRefusal
from activities.kit import http, signing
from activities.kit.errors import Unintelligible, unavailable
from activities.kit.lenient import Odd, decode_order, standard_order
from activities.kit.payloads import Price, Quantity, decode, within_calendar
from models.accounts import AccountFields, secret, setting
from models.address import Addressee, Recipient
from models.base import Moment, Value
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.money import Currency
from models.order import NORMAL, URGENT, ChannelOrder, OrderLine, Refund, RefundState
from models.origins import ChannelKind, IntakePath, Origin

ACCOUNT = AccountFields(
    console="own",
    fields=(
        secret("secret", about="own_secret"),
        secret("secret_old", required=False, about="old"),
        setting("notify", bool),
    ),
    base_url="https://{your site}",
    base_url_required=False,
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
Remark = Annotated[str, StringConstraints(max_length=20_000)]
Time = Annotated[Moment, AfterValidator(within_calendar)]


class _Strict(BaseModel):
    """An unknown field holds the order; ``custom`` takes additional ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OwnLine(_Strict):
    sku: Name
    quantity: Annotated[Quantity, Field(description="Lines of 0 are dropped.")]
    unit_price: Price
    line_no: Annotated[Name | None, Field(description="Your own; by default 1, 2, 3 and so on.")] = None
    title: Remark = ""
    discount: Annotated[Price, Field(description="On the whole line.")] = Decimal(0)


class OwnRefund(_Strict):
    """A refund that the buyer requests or received; the same ``refund_no`` again updates its state."""

    refund_no: Name
    state: RefundState
    amount: Price = Decimal(0)
    line_no: Annotated[Name | None, Field(description="Absent: for the whole order.")] = None
    quantity: Annotated[int, Field(ge=0, le=10_000_000, description="Pieces returned; 0: money only.")] = 0
    reason: Remark = ""


class Sold(_Strict):
    """The content of a sale. Times are ISO 8601 with a time zone, amounts decimal strings in units of the currency."""

    placed_at: Time
    paid_at: Annotated[Time | None, Field(description="Absent: not paid yet.")] = None
    pay_before: Annotated[Time | None, Field(description="Cancelled if not paid by then.")] = None
    cash_on_delivery: bool = False
    cancelled_at: Annotated[Time | None, Field(description="When the buyer cancelled.")] = None
    cancel_reason: Remark = ""
    currency: Currency = "CNY"
    lines: tuple[OwnLine, ...]
    freight: Price = Decimal(0)
    discount: Annotated[Price, Field(description="On the whole order, beside the lines' discounts.")] = Decimal(0)
    tax: Annotated[Price, Field(description="Added to the prices; leave out tax that the prices include.")] = Decimal(0)
    total: Annotated[Price, Field(description="What the buyer pays.")]
    recipient: Addressee
    buyer: Remark = ""
    buyer_message: Remark = ""
    seller_memo: Remark = ""
    refunds: Annotated[
        tuple[OwnRefund, ...],
        Field(max_length=200, description="Take pieces refunded before shipping off the lines as well."),
    ] = ()
    carrier: Annotated[Name | None, Field(description="The carrier the buyer chose, such as `sf`.")] = None
    promised_by: Time | None = None
    urgent: Annotated[bool, Field(description="Processed before all orders that are not urgent.")] = False
    campaign: Remark = ""
    custom: Annotated[
        dict[str, JsonValue],
        Field(description="Kept with the order and shown to staff. No personal data: it is not encrypted."),
    ] = {}


class OwnOrder(Sold):
    """An order of the site in its current state."""

    event_id: Annotated[
        str,
        StringConstraints(min_length=1, max_length=200),
        Field(description="Your own, unique for each change: repeating one has no effect."),
    ]
    order_no: Annotated[str, Field(pattern=r"^[^\s:/]{1,64}$")]
    updated_at: Annotated[
        Time, Field(description="When it last changed: the newest version wins, in whatever order they arrive.")
    ]


class OwnShipment(Value):
    """A shipment that we report to the site. A retry has the same ``event_id``."""

    event_id: str
    order_no: str
    carrier: str
    waybill_no: str
    shipped_at: Moment
    whole_order: bool
    lines: tuple["OwnShippedLine", ...]


class OwnStocked(Value):
    sku: str
    quantity: int


class OwnStock(Value):
    """How many of each SKU the site may sell now: set these quantities, do not add them.

    The site answers 2xx, with ``{"refused": [{"sku": "", "reason": ""}]}`` for SKUs it does not know.
    """

    event_id: str
    stock: tuple[OwnStocked, ...]


class _RefusedStock(BaseModel):
    sku: str
    reason: str = ""


class _StockAnswer(BaseModel):
    refused: list[_RefusedStock] = []


class OwnShippedLine(Value):
    line_no: str
    sku: str
    quantity: int


class _Event(BaseModel):
    event_id: Annotated[str, Field(min_length=1, max_length=200)]
    urgent: bool = False


class Own:
    signed = True
    kind = ChannelKind.OWN_SITE

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = [account.secrets.get("secret", ""), account.secrets.get("secret_old", "")]

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        signing.verify(self._secrets, headers, body)
        try:
            event = decode(_Event, body)
        except Unintelligible:
            return Receipt(fact_key=sha256(body).hexdigest(), topic="order")
        return Receipt(fact_key=event.event_id, topic="order", priority=URGENT if event.urgent else NORMAL)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        order, odd = decode_order(OwnOrder, body, "order_no")
        origin = Origin(
            kind=self.kind,
            platform=self._account.source,
            shop=self._account.account,
            region=order.recipient.region,
            campaign=order.campaign,
            intake=IntakePath.WEBHOOK,
        )
        return sale_order(odd, order, self._account, origin, order.order_no, order.updated_at, order.paid_at)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield nothing: the site sends its orders."""
        return
        yield

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Do nothing where the site has no address, or its account says that it is not to be notified."""
        if not self._account.base_url or self._account.settings.get("notify") is False:
            return
        message = OwnShipment(
            event_id=shipment.reference,
            order_no=shipment.channel_order_no,
            carrier=shipment.carrier,
            waybill_no=shipment.waybill_no,
            shipped_at=shipment.shipped_at,
            whole_order=shipment.whole_order,
            lines=tuple(OwnShippedLine(**line.model_dump()) for line in shipment.lines),
        )
        body = message.model_dump_json().encode()
        headers = signing.signed_headers(self._account.secrets["secret"], body)
        await http.send("POST", f"{self._account.base_url.rstrip('/')}/shipments", content=body, headers=headers)

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        stock = tuple(OwnStocked(sku=each.sku, quantity=each.quantity) for each in offered)
        body = OwnStock(event_id=str(uuid4()), stock=stock).model_dump_json().encode()
        headers = signing.signed_headers(self._account.secrets["secret"], body)
        response = await http.send("POST", f"{self._account.base_url.rstrip('/')}/stock", content=body, headers=headers)
        try:
            answer = _StockAnswer.model_validate_json(response.content or b"{}")
        except ValidationError:
            raise unavailable("error.malformed", vendor="own") from None
        return [StockRefusal(sku=each.sku, reason=each.reason) for each in answer.refused]


def sale_order(
    odd: Odd,
    sold: Sold,
    account: Account,
    origin: Origin,
    order_no: str,
    modified_at: datetime,
    paid_at: datetime | None,
    **custom: JsonValue,
) -> ChannelOrder:
    """Return a sale as a standard order. Raises ``Unintelligible`` where its number cannot be one."""
    if sold.cancel_reason:
        custom["cancel_reason"] = sold.cancel_reason
    return standard_order(
        odd,
        channel=account.source,
        shop=account.account,
        channel_order_no=order_no,
        placed_at=sold.placed_at,
        modified_at=modified_at,
        paid_at=paid_at,
        pay_before=sold.pay_before,
        cancelled_at=sold.cancelled_at,
        cash_on_delivery=sold.cash_on_delivery,
        currency=sold.currency,
        lines=tuple(
            OrderLine.model_construct(line_no=line.line_no or str(number), **line.model_dump(exclude={"line_no"}))
            for number, line in enumerate(sold.lines, 1)
        ),
        freight=sold.freight,
        discount=sold.discount,
        tax=sold.tax,
        total=sold.total,
        recipient=Recipient.model_construct(**dict(sold.recipient), hidden=False),
        buyer=sold.buyer,
        buyer_message=sold.buyer_message,
        seller_memo=sold.seller_memo,
        refunds=tuple(Refund.model_construct(**each.model_dump()) for each in sold.refunds),
        carrier=sold.carrier,
        promised_by=sold.promised_by,
        priority=URGENT if sold.urgent else NORMAL,
        origin=origin,
        custom={**sold.custom, **custom},
    )


def adapter(account: Account) -> Own:
    return Own(account)
