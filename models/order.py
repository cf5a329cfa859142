"""The order: what the channel sold, its refunds and timeline, and the tables they are stored in."""

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Annotated, Any

from babel.numbers import get_currency_precision
from pydantic import Field, JsonValue, model_validator
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Numeric, String, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.address import ContactChange, Recipient
from models.base import Moment, Neutral, Value
from models.i18n import InvalidValue, named
from models.listings import join_ids
from models.money import Amount, Currency, Exact
from models.origins import Origin
from models.stock import Buyer
from models.vault import Sealed


class OrderStatus(StrEnum):
    RECEIVED = "received"
    AWAITING_PAYMENT = "awaiting_payment"
    IN_REVIEW = "in_review"
    ON_HOLD = "on_hold"
    APPROVED = "approved"
    AWAITING_STOCK = "awaiting_stock"
    ALLOCATED = "allocated"
    PARTIALLY_SHIPPED = "partially_shipped"
    SHIPPED = "shipped"
    PARTIALLY_DELIVERED = "partially_delivered"
    DELIVERED = "delivered"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    _missing_ = named("status")

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELLED, OrderStatus.REJECTED})


CENT = Decimal("0.01")

MAX_LINES = 3000
"""The most lines and refunds of an order."""
LineNo = Annotated[str, Field(min_length=1, max_length=200)]

URGENT, NORMAL = 1, 3
"""Priorities, as Temporal's priority keys: 1 goes before everything, 5 after everything."""


class OrderLine(Value):
    """One line as sold. ``line_no`` is the channel's; ``sku`` is the merchant's, or the channel's until mapped."""

    line_no: LineNo
    sku: Annotated[str, Field(min_length=1, max_length=200)]
    listing: dict[str, str] = {}
    """The channel's ids of the item, named as in its listings."""
    told: str = ""
    """The channel's code of the item, if it differs from ``sku``."""
    title: str = ""
    quantity: Annotated[int, Field(ge=1, le=10_000_000), Neutral(1)]
    unit_price: Annotated[Exact, Field(ge=0)]
    discount: Annotated[Exact, Field(ge=0)] = Decimal(0)
    gift: bool = False
    """Added by a review rule; the channel does not know the line."""

    @property
    def net(self) -> Decimal:
        return self.unit_price * self.quantity - self.discount

    @property
    def items(self) -> tuple[str, ...]:
        """The keys of its SKU mapping: the code that the channel sent, and the channel's ids if it sent any."""
        code, ids = self.told or self.sku, join_ids(self.listing)
        return (code, ids) if ids else (code,)


class Sites(Value):
    """Warehouses that review prefers for an order, or, with ``only``, requires."""

    locations: tuple[str, ...]
    only: bool = False


class RefundState(StrEnum):
    ASKED = "asked"
    """Undecided: nothing that it covers may ship."""
    GRANTED = "granted"
    CLOSED = "closed"
    """Withdrawn by the buyer or refused."""


class Refund(Value):
    """A refund that a buyer requested or received, before or after shipping."""

    refund_no: LineNo
    """The channel's number; a refund of several lines is one for each line: ``{refund}:{line}``."""
    state: RefundState
    amount: Annotated[Exact, Field(ge=0)] = Decimal(0)
    line_no: str | None = None
    """``None``: the whole order."""
    quantity: Annotated[int, Field(ge=0)] = 0
    """Units that are returned or need not ship; 0 if only money is refunded, or if the channel gives no quantity."""
    reason: str = ""

    def outlasts(self, other: "Refund") -> bool:
        """Whether ``other`` is a stale report: a refund that was granted is never asked for again."""
        return self.state is RefundState.GRANTED and other.state is RefundState.ASKED


def reissue_no(order_no: str, parcel: str) -> str:
    """Return the number of the order that sends the goods of a parcel again; ``parcel`` is its short id."""
    return f"{order_no}-{parcel}R"[-64:]


class ChannelOrder(Value):
    """An order as the channel sold it, in standard form. Only the channel and modifications change it."""

    channel: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    shop: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]+$")]
    channel_order_no: Annotated[str, Field(pattern=r"^[^\s:/]{1,64}$")]
    placed_at: Moment
    modified_at: Moment
    """The channel's time of the last change: the newest version wins."""
    paid_at: Moment | None = None
    pay_before: Moment | None = None
    cancelled_at: Moment | None = None
    shipped: bool = False
    """The channel reports everything as shipped. Such an order, if unknown here, was never ours to ship."""
    cash_on_delivery: bool = False
    currency: Currency = "CNY"
    lines: Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=MAX_LINES)]
    """The lines still to be delivered, without what was refunded before it shipped."""
    refunds: Annotated[tuple[Refund, ...], Field(max_length=MAX_LINES)] = ()
    freight: Annotated[Exact, Field(ge=0)] = Decimal(0)
    discount: Annotated[Exact, Field(ge=0)] = Decimal(0)
    tax: Annotated[Exact, Field(ge=0)] = Decimal(0)
    """Tax added to the prices; tax included in prices is not shown separately."""
    total: Annotated[Amount, Field(ge=0)]
    """The amount that the buyer pays: lines less their discounts, plus freight and tax, less the order's discount."""
    recipient: Recipient
    buyer: str = ""
    """The channel's id of the buyer's account."""
    buyer_message: str = ""
    seller_memo: str = ""
    carrier: str | None = None
    """The carrier that the buyer or the channel requires."""
    promised_by: Moment | None = None
    priority: Annotated[int, Field(ge=1, le=5)] = NORMAL
    origin: Origin
    custom: dict[str, JsonValue] = {}
    odd: dict[str, str] = {}
    """What is wrong with what the channel sent, as messages by the path of the field: such an order is held."""
    tags: tuple[str, ...] = ()
    """Tags that review rules added."""
    sites: Sites | None = None

    @model_validator(mode="after")
    def _lines_are_distinct(self) -> "ChannelOrder":
        if len({line.line_no for line in self.lines}) != len(self.lines):
            raise InvalidValue("invalid.lines.duplicate")
        return self

    @property
    def order_id(self) -> str:
        """The id of the order and of its workflow."""
        return f"order:{self.channel}:{self.shop}:{self.channel_order_no}"

    def with_quantities(self, quantities: Mapping[str, int]) -> "ChannelOrder":
        """Return the order with new quantities by line number; 0 drops the line.

        Line discounts change in proportion to the quantity, and the tax in proportion to the value of all lines.
        Raise ``InvalidValue`` for a line that does not exist, or if no line would remain.
        """
        lines: list[OrderLine] = []
        total = self.total
        for line in self.lines:
            quantity = quantities.get(line.line_no, line.quantity)
            discount = (line.discount * quantity / line.quantity).quantize(CENT, ROUND_HALF_EVEN)
            total += line.unit_price * (quantity - line.quantity) - (discount - line.discount)
            if quantity:
                lines.append(line.model_copy(update={"quantity": quantity, "discount": discount}))
        if unknown := set(quantities) - {line.line_no for line in self.lines}:
            raise InvalidValue("invalid.lines.unknown", line=min(unknown))
        if not lines:
            raise InvalidValue("invalid.lines.none_left")
        before, after = self.goods, sum((line.net for line in lines), Decimal(0))
        tax = (self.tax * after / before).quantize(CENT, ROUND_HALF_EVEN) if before else self.tax
        total += tax - self.tax
        return self.model_copy(update={"lines": tuple(lines), "tax": tax, "total": max(total, Decimal(0))})

    @property
    def goods(self) -> Decimal:
        """The value of all lines."""
        return sum((line.net for line in self.lines), Decimal(0))

    @property
    def mismatch(self) -> Decimal:
        """The amount by which the sum of its parts, rounded to the currency's smallest unit, exceeds its total."""
        unit = Decimal(1).scaleb(-get_currency_precision(self.currency))
        parts = self.goods + self.freight + self.tax - self.discount
        return Decimal(0) if abs(parts - self.total) <= unit / 2 else parts - self.total

    @property
    def as_buyer(self) -> Buyer:
        campaign = self.origin.campaign or None
        return Buyer(channel=self.channel, shop=self.shop, campaign=campaign, priority=self.priority)

    @property
    def owed(self) -> Decimal:
        """The amount that the carrier collects on delivery."""
        return self.total if self.cash_on_delivery and self.paid_at is None else Decimal(0)

    @property
    def payable(self) -> bool:
        """Whether the order need not wait for payment: it is paid, free, or paid on delivery."""
        return self.paid_at is not None or self.cash_on_delivery or self.total == 0


UNMAPPED = text("""holds @> '[{"kind": "unknown_sku"}]'::jsonb""")
"""The condition for orders held because of items that the catalogue does not know."""


class OrderRow(SQLModel, table=True):
    """The order for lists and look-ups, written only by the workflow's activities."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("orders_by_status", "status", "placed_at"),
        Index("orders_by_shop", "channel", "shop", "placed_at"),
        Index("orders_by_phone", "phone_index", "placed_at"),
        Index("orders_by_buyer", "buyer_index", "placed_at", postgresql_where="buyer_index <> ''"),
        Index("orders_by_place", "place_index", "placed_at", postgresql_where="place_index <> ''"),
        Index("orders_by_number", "channel_order_no"),
        Index("orders_by_time", "placed_at", "id"),
        Index("orders_by_sku", "skus", postgresql_using="gin"),
        Index("orders_by_tag", "tags", postgresql_using="gin", postgresql_where="tags <> '[]'"),
        Index("orders_unmapped", "channel", "shop", postgresql_where=UNMAPPED),
    )

    id: str = Col(primary_key=True)
    channel: str
    shop: str
    channel_order_no: str
    status: str
    revision: int = 0
    """The number of the workflow's last write, within what the workflow had seen."""
    seen: int = Col(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """The history events that the last writer knew. A workflow task done over knows more than the lost one: it wins."""
    run_id: str = Col(default="", sa_column_kwargs={"server_default": ""})
    """The workflow's run that wrote last; empty if unknown."""
    past_runs: list[str] = Col(
        default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}")
    )
    """The runs that wrote before it. Their late writes are refused; a run that is not known yet always wins, even if it
    has seen less, as after an operator's reset."""
    priority: int = NORMAL
    holds: list[Any] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False))
    lines: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    skus: list[str] = Col(default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}"))
    origin: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    plan: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    custom: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    currency: str
    total: Decimal = Col(sa_column=Column(Numeric(18, 4), nullable=False))
    recipient: Recipient | None = Col(default=None, sa_column=Column(Sealed(Recipient, "orders.recipient", ("id",))))
    carrier: str | None = None
    """Required by the buyer or the channel."""
    phone_index: str = ""
    buyer_index: str = Col(default="", sa_column_kwargs={"server_default": ""})
    """The blind index of the buyer's account; empty if the channel does not give one."""
    place_index: str = Col(default="", sa_column_kwargs={"server_default": ""})
    tags: list[str] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False, server_default="[]"))
    sites: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    region: str = ""
    next_step: str = ""
    """What the order waits for, as a message key of the catalogue."""
    deadline: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    placed_at: datetime = Col(sa_type=DateTime(timezone=True))
    paid_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    promised_by: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))


class OriginCorrectionRow(SQLModel, table=True):
    """A correction that a person made to an order's origin."""

    __tablename__ = "origin_corrections"
    __table_args__ = (Index("origin_corrections_by_request", "order_id", "request_id", unique=True),)

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    order_id: str
    request_id: str
    actor: str
    at: datetime = Col(sa_type=DateTime(timezone=True))
    reason: str = ""
    before: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    after: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))


class Entry(Value):
    """One entry of an order's timeline. ``detail`` holds nothing personal."""

    key: str
    """Unique within the order, so that a repeated write changes nothing."""
    at: Moment
    what: str
    """A message key of the catalogue, ``timeline.*``."""
    actor: str = "hengdan"
    detail: dict[str, JsonValue] = {}
    contact: ContactChange | None = None
    """What a modification changed of the recipient; stored sealed, and shown only on a logged request."""


class TimelineRow(SQLModel, table=True):
    """A timeline entry of an order: what happened, when, and who did it."""

    __tablename__ = "timeline"
    __table_args__ = (Index("timeline_by_number", "number"),)

    order_id: str = Col(primary_key=True)
    key: str = Col(primary_key=True)
    number: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), nullable=False))
    """Orders the entries of the same moment."""
    at: datetime = Col(sa_type=DateTime(timezone=True))
    what: str
    actor: str
    detail: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    contact: ContactChange | None = Col(
        default=None, sa_column=Column(Sealed(ContactChange, "timeline.contact", ("order_id", "key")))
    )
