"""The merchant's own site, in a format of our own: ``OwnOrder``, whose JSON Schema is its documentation.

There is no standard for this, so the format is the order as Hengdan knows it, and the signature (``signing``) the one
that Stripe and Standard Webhooks made familiar: any language has the three lines that make it.

In: ``POST`` of an ``OwnOrder`` whenever something changes, whole each time. Out: ``POST {base_url}/shipments`` of an
``OwnShipment``, signed likewise; any 2xx is taken, anything else is sent again, with the same ``event_id``. And, where
the shop has a stock rule, ``POST {base_url}/stock`` of an ``OwnStock``, signed likewise.

Account: secrets ``secret``, and ``secret_old`` while it is rotated.
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
from activities.kit.payloads import decode, validating_order, with_total_mismatch, within_calendar
from models.address import Addressee, Recipient
from models.base import Moment, Value
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.money import Amount, Currency
from models.order import NORMAL, URGENT, ChannelOrder, OrderLine, Refund, RefundState
from models.origins import ChannelKind, IntakePath, Origin

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True)]
Remark = Annotated[str, StringConstraints(max_length=2000)]
Time = Annotated[Moment, AfterValidator(within_calendar)]
Price = Annotated[Amount, Field(ge=0)]


class _Strict(BaseModel):
    """In a format of our own a field we do not know is a mistake; ``custom`` is the place for more."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OwnLine(_Strict):
    sku: Name
    quantity: Annotated[int, Field(ge=1, le=100_000)]
    unit_price: Price
    line_no: Annotated[Name | None, Field(description="Yours; by default 1, 2, 3 and so on.")] = None
    title: Remark = ""
    discount: Annotated[Price, Field(description="Of the whole line.")] = Decimal(0)


class OwnRefund(_Strict):
    """Money the buyer wants back, or was given back; the same ``refund_no`` again says how it now stands."""

    refund_no: Name
    state: RefundState
    amount: Price = Decimal(0)
    line_no: Annotated[Name | None, Field(description="Absent: the whole order.")] = None
    quantity: Annotated[int, Field(ge=0, le=100_000, description="Pieces that come back; 0: money alone.")] = 0
    reason: Remark = ""


class Sold(_Strict):
    """What was sold. Times are ISO 8601 with a zone, amounts decimal strings in units of the currency."""

    placed_at: Time
    paid_at: Annotated[Time | None, Field(description="Absent: not paid yet.")] = None
    pay_before: Annotated[Time | None, Field(description="Not paid by then, it is cancelled.")] = None
    cash_on_delivery: bool = False
    cancelled_at: Annotated[Time | None, Field(description="Set: the buyer cancelled.")] = None
    cancel_reason: Remark = ""
    currency: Currency = "CNY"
    lines: Annotated[tuple[OwnLine, ...], Field(min_length=1, max_length=200)]
    freight: Price = Decimal(0)
    discount: Annotated[Price, Field(description="Of the whole order, beside the lines' own.")] = Decimal(0)
    tax: Annotated[Price, Field(description="On top of the prices; leave out what prices contain.")] = Decimal(0)
    total: Annotated[Price, Field(description="What the buyer pays.")]
    recipient: Addressee
    buyer: Remark = ""
    buyer_message: Remark = ""
    seller_memo: Remark = ""
    refunds: Annotated[
        tuple[OwnRefund, ...],
        Field(max_length=200, description="Of what had not left, the pieces are off the lines as well."),
    ] = ()
    carrier: Annotated[Name | None, Field(description="Demanded by the buyer, such as `sf`.")] = None
    promised_by: Time | None = None
    urgent: Annotated[bool, Field(description="Overtakes every order that is not.")] = False
    campaign: Remark = ""
    custom: Annotated[
        dict[str, JsonValue],
        Field(description="Kept with the order and shown to staff. Nothing personal: it is not sealed."),
    ] = {}


class OwnOrder(Sold):
    """An order of the site as it now stands."""

    event_id: Annotated[
        str,
        StringConstraints(min_length=1, max_length=200),
        Field(description="Yours, unique for each change: the same one again changes nothing."),
    ]
    order_no: Annotated[str, Field(pattern=r"^[^\s:/]{1,64}$")]
    updated_at: Annotated[Time, Field(description="When it last changed: the newest wins, however late it comes.")]


class OwnShipment(Value):
    """What we tell the site: these lines left. ``event_id`` is the same whenever it is told again."""

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
    """We tell the site how many of these it may sell now: the quantities are set, not added.

    The site answers 2xx, with ``{"refused": [{"sku": "", "reason": ""}]}`` where it does not know some of them.
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


class _Glance(BaseModel):
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
            glance = decode(_Glance, body)
        except Unintelligible:
            return Receipt(fact_key=sha256(body).hexdigest(), topic="order")
        return Receipt(fact_key=glance.event_id, topic="order", priority=URGENT if glance.urgent else NORMAL)

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        told = decode(OwnOrder, body)
        origin = Origin(
            kind=self.kind,
            platform=self._account.source,
            shop=self._account.account,
            region=told.recipient.region,
            campaign=told.campaign,
            intake=IntakePath.WEBHOOK,
        )
        return standard(told, self._account, origin, told.order_no, told.updated_at, told.paid_at)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Nothing: the site tells us."""
        return
        yield

    async def confirm_shipment(self, shipment: Shipment) -> None:
        told = OwnShipment(
            event_id=shipment.reference,
            order_no=shipment.channel_order_no,
            carrier=shipment.carrier,
            waybill_no=shipment.waybill_no,
            shipped_at=shipment.shipped_at,
            whole_order=shipment.whole_order,
            lines=tuple(OwnShippedLine(**line.model_dump()) for line in shipment.lines),
        )
        body = told.model_dump_json().encode()
        headers = signing.signed_headers(self._account.secrets["secret"], body)
        await http.send("POST", f"{self._account.base_url.rstrip('/')}/shipments", content=body, headers=headers)

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        stock = tuple(OwnStocked(sku=each.sku, quantity=each.quantity) for each in offered)
        body = OwnStock(event_id=str(uuid4()), stock=stock).model_dump_json().encode()
        headers = signing.signed_headers(self._account.secrets["secret"], body)
        answer = await http.send("POST", f"{self._account.base_url.rstrip('/')}/stock", content=body, headers=headers)
        try:
            told = _StockAnswer.model_validate_json(answer.content or b"{}")
        except ValidationError:
            raise unavailable("own: the answer is not in the format") from None
        return [StockRefusal(sku=each.sku, reason=each.reason) for each in told.refused]


def standard(
    sold: Sold,
    account: Account,
    origin: Origin,
    order_no: str,
    modified_at: datetime,
    paid_at: datetime | None,
    **custom: JsonValue,
) -> ChannelOrder:
    """What was sold, in standard form. Raises ``Unintelligible``."""
    if sold.cancel_reason:
        custom["cancel_reason"] = sold.cancel_reason
    with validating_order():
        order = ChannelOrder(
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
                OrderLine(line_no=line.line_no or str(number), **line.model_dump(exclude={"line_no"}))
                for number, line in enumerate(sold.lines, 1)
            ),
            freight=sold.freight,
            discount=sold.discount,
            tax=sold.tax,
            total=sold.total,
            recipient=Recipient(**dict(sold.recipient)),
            buyer=sold.buyer,
            buyer_message=sold.buyer_message,
            seller_memo=sold.seller_memo,
            refunds=tuple(Refund(**each.model_dump()) for each in sold.refunds),
            carrier=sold.carrier,
            promised_by=sold.promised_by,
            priority=URGENT if sold.urgent else NORMAL,
            origin=origin,
            custom={**sold.custom, **custom},
        )
    return with_total_mismatch(order)


def adapter(account: Account) -> Own:
    return Own(account)
