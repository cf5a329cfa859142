"""The order: what the channel sold, and where our handling of it stands."""

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Numeric, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.address import Recipient
from models.base import Moment, Value
from models.i18n import InvalidValue
from models.listings import join_ids
from models.money import Amount, Currency
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

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELLED, OrderStatus.REJECTED})


CENT = Decimal("0.01")

URGENT, NORMAL = 1, 3
"""How urgent: 1 overtakes everything, 5 waits for all others (Temporal's priority keys)."""


class OrderLine(Value):
    """One line as sold. ``line_no`` is the channel's own; ``sku`` is the merchant's, or what the channel calls it."""

    line_no: Annotated[str, Field(min_length=1, max_length=64)]
    sku: Annotated[str, Field(min_length=1, max_length=64)]
    listing: dict[str, str] = {}
    """The channel's own ids of what it sold, named as in its listings."""
    told: str = ""
    """What the channel calls it, where the merchant calls it otherwise."""
    title: str = ""
    quantity: Annotated[int, Field(ge=1, le=100_000)]
    unit_price: Annotated[Amount, Field(ge=0)]
    discount: Annotated[Amount, Field(ge=0)] = Decimal(0)
    gift: bool = False
    """Given by a rule of review: the channel knows nothing of it."""

    @property
    def net(self) -> Decimal:
        return self.unit_price * self.quantity - self.discount

    @property
    def items(self) -> tuple[str, ...]:
        """What a mapping may know it by: the seller's code as told, and the channel's own ids where it told them."""
        code, ids = self.told or self.sku, join_ids(self.listing)
        return (code, ids) if ids else (code,)


class Sites(Value):
    """Where review wants an order to come from: there alone, or rather from there."""

    locations: tuple[str, ...]
    only: bool = False


class RefundState(StrEnum):
    ASKED = "asked"
    """Nothing of it is to leave until this is settled."""
    GRANTED = "granted"
    CLOSED = "closed"
    """Withdrawn by the buyer, or turned down."""


class Refund(Value):
    """Money that a buyer wants back, or was given back, before or after shipping."""

    refund_no: Annotated[str, Field(min_length=1, max_length=64)]
    """The channel's own; of a refund of several lines, one for each: ``{refund}:{line}``."""
    state: RefundState
    amount: Annotated[Amount, Field(ge=0)] = Decimal(0)
    line_no: str | None = None
    """``None``: the whole order."""
    quantity: Annotated[int, Field(ge=0)] = 0
    """Pieces that come back or need not leave; 0: money alone, or not told."""
    reason: str = ""


class ChannelOrder(Value):
    """What the channel sold, in standard form; immutable but for the channel's own later facts."""

    channel: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    shop: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]+$")]
    channel_order_no: Annotated[str, Field(pattern=r"^[^\s:/]{1,64}$")]
    placed_at: Moment
    modified_at: Moment
    """The channel's own time of the last change: newest wins."""
    paid_at: Moment | None = None
    pay_before: Moment | None = None
    cancelled_at: Moment | None = None
    shipped: bool = False
    """All of it has left, by the channel's own word: where we do not know it, it was never ours to send."""
    cash_on_delivery: bool = False
    currency: Currency = "CNY"
    lines: Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=200)]
    """What is still wanted: less what was refunded before it left."""
    refunds: Annotated[tuple[Refund, ...], Field(max_length=200)] = ()
    freight: Annotated[Amount, Field(ge=0)] = Decimal(0)
    discount: Annotated[Amount, Field(ge=0)] = Decimal(0)
    tax: Annotated[Amount, Field(ge=0)] = Decimal(0)
    """Charged on top of the prices; tax that prices contain is not told apart."""
    total: Annotated[Amount, Field(ge=0)]
    """What the buyer pays: lines less their discounts, plus freight and tax, less the order's discount."""
    recipient: Recipient
    buyer: str = ""
    """The channel's id of the buyer's account."""
    buyer_message: str = ""
    seller_memo: str = ""
    carrier: str | None = None
    """The carrier that buyer or channel demands."""
    promised_by: Moment | None = None
    priority: Annotated[int, Field(ge=1, le=5)] = NORMAL
    origin: Origin
    custom: dict[str, JsonValue] = {}
    tags: tuple[str, ...] = ()
    """What review calls it."""
    sites: Sites | None = None

    @model_validator(mode="after")
    def _lines_are_distinct(self) -> "ChannelOrder":
        if len({line.line_no for line in self.lines}) != len(self.lines):
            raise InvalidValue("invalid.lines.duplicate")
        return self

    @property
    def order_id(self) -> str:
        """The order's id, and its workflow's."""
        return f"order:{self.channel}:{self.shop}:{self.channel_order_no}"

    def with_quantities(self, quantities: Mapping[str, int]) -> "ChannelOrder":
        """The order with new quantities by line number, 0 dropping the line; line discounts shrink in proportion, and
        so does the tax, with what the lines come to.

        Raises ``InvalidValue`` naming a line that is not there, or where nothing would be left.
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
        was, left = self.goods, sum((line.net for line in lines), Decimal(0))
        tax = (self.tax * left / was).quantize(CENT, ROUND_HALF_EVEN) if was else self.tax
        total += tax - self.tax
        return self.model_copy(update={"lines": tuple(lines), "tax": tax, "total": max(total, Decimal(0))})

    @property
    def goods(self) -> Decimal:
        """What its lines come to."""
        return sum((line.net for line in self.lines), Decimal(0))

    @property
    def mismatch(self) -> Decimal:
        """By how much more its parts add up to than its total."""
        return self.goods + self.freight + self.tax - self.discount - self.total

    @property
    def as_buyer(self) -> Buyer:
        campaign = self.origin.campaign or None
        return Buyer(channel=self.channel, shop=self.shop, campaign=campaign, priority=self.priority)

    @property
    def payable(self) -> bool:
        """Nothing stands between this order and the buyer's money."""
        return self.paid_at is not None or self.cash_on_delivery


UNMAPPED = text("""holds @> '[{"kind": "unknown_sku"}]'::jsonb""")
"""Of orders held for items that the catalogue does not know."""


class OrderRow(SQLModel, table=True):
    """The order as lists and look-ups see it: written by the workflow's activities alone."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("orders_by_status", "status", "placed_at"),
        Index("orders_by_shop", "channel", "shop", "placed_at"),
        Index("orders_by_phone", "phone_index", "placed_at"),
        Index("orders_by_buyer", "buyer_index", "placed_at", postgresql_where="buyer_index <> ''"),
        Index("orders_by_place", "place_index", "placed_at", postgresql_where="place_index <> ''"),
        Index("orders_by_tag", "tags", postgresql_using="gin", postgresql_where="tags <> '[]'"),
        Index("orders_unmapped", "channel", "shop", postgresql_where=UNMAPPED),
    )

    id: str = Col(primary_key=True)
    channel: str
    shop: str
    channel_order_no: str
    status: str
    revision: int = 0
    """Counts the workflow's writes: an older one never overwrites a newer."""
    priority: int = NORMAL
    holds: list[Any] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False))
    lines: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    origin: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    plan: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    custom: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    currency: str
    total: Decimal = Col(sa_column=Column(Numeric(18, 4), nullable=False))
    recipient: Recipient | None = Col(default=None, sa_column=Column(Sealed(Recipient, "orders.recipient")))
    carrier: str | None = None
    """Demanded by buyer or channel."""
    phone_index: str = ""
    buyer_index: str = Col(default="", sa_column_kwargs={"server_default": ""})
    """Of the buyer's account; empty where the channel does not name it."""
    place_index: str = Col(default="", sa_column_kwargs={"server_default": ""})
    tags: list[str] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False, server_default="[]"))
    sites: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    region: str = ""
    next_step: str = ""
    """What the order waits for: a message key of the catalogue."""
    deadline: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    placed_at: datetime = Col(sa_type=DateTime(timezone=True))
    paid_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    promised_by: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))


class OriginCorrectionRow(SQLModel, table=True):
    """What a person said of an order's origin."""

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
    """One line of an order's timeline. ``detail`` carries nothing personal."""

    key: str
    """Unique within the order: a repeated write changes nothing."""
    at: Moment
    what: str
    """A message key of the catalogue, ``timeline.*``."""
    actor: str = "hengdan"
    detail: dict[str, JsonValue] = {}


class TimelineRow(SQLModel, table=True):
    """What happened to an order, by whom, when."""

    __tablename__ = "timeline"
    __table_args__ = (Index("timeline_by_number", "number"),)

    order_id: str = Col(primary_key=True)
    key: str = Col(primary_key=True)
    number: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), nullable=False))
    """The order of what happened at one moment."""
    at: datetime = Col(sa_type=DateTime(timezone=True))
    what: str
    actor: str
    detail: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))


class Alert(Value):
    """Something that needs a person. ``key`` is unique: raised once."""

    key: str
    kind: str
    """A message key of the catalogue, ``alert.*``."""
    order_id: str = ""
    detail: dict[str, JsonValue] = {}


class AlertRow(SQLModel, table=True):
    __tablename__ = "alerts"
    __table_args__ = (Index("alerts_by_order", "order_id"),)

    key: str = Col(primary_key=True)
    kind: str
    order_id: str = ""
    detail: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    raised_at: datetime = Col(sa_type=DateTime(timezone=True))
    closed_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
