"""Fulfillment orders, waybills and carrier scans."""

import re
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, DateTime, ForeignKey, Index, Numeric, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.address import Recipient
from models.base import Key, Moment, Record, Value
from models.exceptions import ExceptionKind
from models.i18n import named
from models.money import Money


class FulfillmentStatus(StrEnum):
    SCHEDULED = "scheduled"
    OPEN = "open"
    IN_PROGRESS = "in_progress"
    ON_HOLD = "on_hold"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    INCOMPLETE = "incomplete"
    CLOSED = "closed"
    CANCELLED = "cancelled"

    _missing_ = named("fulfillment")


class RequestStatus(StrEnum):
    """The last request to the warehouse, and its answer."""

    UNSUBMITTED = "unsubmitted"
    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CANCELLATION_REQUESTED = "cancellation_requested"
    CANCELLATION_ACCEPTED = "cancellation_accepted"
    CANCELLATION_REJECTED = "cancellation_rejected"


class TrackingStatus(StrEnum):
    LABEL_CREATED = "label_created"
    PICKED_UP = "picked_up"
    IN_TRANSIT = "in_transit"
    AT_DESTINATION = "at_destination"
    OUT_FOR_DELIVERY = "out_for_delivery"
    READY_FOR_PICKUP = "ready_for_pickup"
    DELIVERED = "delivered"
    DELIVERY_FAILED = "delivery_failed"
    REFUSED = "refused"
    RETURNING = "returning"
    RETURNED = "returned"
    LOST = "lost"
    DAMAGED = "damaged"
    HELD_IN_CUSTOMS = "held_in_customs"


MILESTONES = frozenset(
    {
        TrackingStatus.DELIVERED,
        TrackingStatus.DELIVERY_FAILED,
        TrackingStatus.REFUSED,
        TrackingStatus.RETURNED,
        TrackingStatus.LOST,
        TrackingStatus.DAMAGED,
    }
)
"""Sent to the order's workflow at once; all other scans stay in the database."""

PROBLEM_STATUSES = MILESTONES - {TrackingStatus.DELIVERED, TrackingStatus.RETURNED}
"""Milestones that a person must handle."""

TERMINAL_STATUSES = frozenset({TrackingStatus.DELIVERED, TrackingStatus.RETURNED, TrackingStatus.LOST})
"""Tracking ends with one of these: later scans change nothing."""


class FulfillmentLine(Value):
    """A quantity of one stocked SKU for one order line; a bundle yields one line per component."""

    line_no: str
    sku: str
    quantity: Annotated[int, Field(ge=1)]
    stock: str | None = None
    """The virtual warehouse that the stock is taken from; ``None`` for the stock of the shipping warehouse."""
    instead_of: str | None = None
    """The sold SKU that this one replaces."""

    @property
    def sold_sku(self) -> str:
        """The SKU that was sold, before substitution."""
        return self.instead_of or self.sku


class ShortfallKind(StrEnum):
    """Why a warehouse cannot ship a SKU that it has on record."""

    NOT_FOUND = "not_found"
    MISMATCH = "mismatch"
    DAMAGED = "damaged"


class Shortfall(Value):
    """A shortage or damage that a warehouse found while picking."""

    sku: str
    kind: ShortfallKind
    quantity: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """For a mismatch, the pieces found of those requested; for damage, the pieces damaged."""


class Fulfillment(Record):
    """A fulfillment order: lines that one warehouse ships together. Part of the workflow's state."""

    id: str
    """``{order id}:F{n}``; the reference of the warehouse, and the base of the carrier's reference."""
    warehouse: str
    lines: tuple[FulfillmentLine, ...]
    status: FulfillmentStatus = FulfillmentStatus.OPEN
    request_status: RequestStatus = RequestStatus.UNSUBMITTED
    carrier: str | None = None
    waybill_no: str | None = None
    tracking: TrackingStatus | None = None
    shipped_at: Moment | None = None
    weight_kg: Decimal | None = None
    channel_notified: bool = False
    deducted: bool = False
    """Whether the goods were deducted from stock."""
    ship_from: Moment | None = None
    """The earliest time to book the carrier and submit to the warehouse, if scheduled."""
    queue: str | None = None
    """The work queue at the warehouse."""
    opened_at: Moment | None = None
    moved_at: Moment | None = None
    """The newest event known to the workflow: shipping, then scans."""
    overdue: bool = False
    """Whether the current delay has opened an exception."""
    shortfalls: tuple[Shortfall, ...] = ()
    """The shortfalls for which the warehouse rejected the fulfillment order, if any."""

    @property
    def short_id(self) -> str:
        """The last part of the id, such as ``F1``, unique within the order."""
        return self.id.rpartition(":")[2]

    @property
    def has_shipped(self) -> bool:
        """Whether the goods have left the warehouse, so that a recall is impossible."""
        return self.status in {FulfillmentStatus.SHIPPED, FulfillmentStatus.DELIVERED, FulfillmentStatus.CLOSED}

    @property
    def is_closed(self) -> bool:
        return self.status in {FulfillmentStatus.DELIVERED, FulfillmentStatus.CLOSED}

    def carries(self, *line_nos: str | None) -> bool:
        """Whether any of these order lines is included; ``None`` matches every line."""
        return None in line_nos or any(line.line_no in line_nos for line in self.lines)

    def open(self, at: datetime) -> None:
        """Open a scheduled fulfillment order."""
        self.status = FulfillmentStatus.OPEN
        self.opened_at = at

    def leave(self, at: datetime) -> None:
        """Mark the fulfillment order as shipped."""
        self.status = FulfillmentStatus.SHIPPED
        self.shipped_at = self.moved_at = at
        self.overdue = False

    def track(self, tracking: TrackingStatus, at: datetime) -> None:
        """Apply a milestone. Any scan implies that the goods were shipped; a delivery after a refusal is a return."""
        if not self.has_shipped:
            self.leave(at)
        if tracking is TrackingStatus.DELIVERED and self.tracking in {TrackingStatus.REFUSED, TrackingStatus.RETURNING}:
            tracking = TrackingStatus.RETURNED
        self.tracking = tracking
        self.moved_at = max(at, self.moved_at or at)
        if tracking is TrackingStatus.DELIVERED:
            self.status = FulfillmentStatus.DELIVERED
        elif tracking in TERMINAL_STATUSES:
            self.status = FulfillmentStatus.CLOSED


def carrier_reference(fulfillment_id: str) -> str:
    """Return the reference for carriers: readable, unique, 7 to 64 characters of ``[A-Za-z0-9-]``."""
    order_no, _, short_id = fulfillment_id.rpartition(":")
    legible = re.sub(r"[^A-Za-z0-9]+", "-", order_no.rpartition(":")[2])[:40].strip("-")
    return f"{legible}-{short_id}-{sha256(fulfillment_id.encode()).hexdigest()[:10]}".lstrip("-")


class Label(Value):
    """What a carrier requires on the label beside the addresses; fields that it did not provide are empty."""

    route: str = ""
    """The large routing code, such as the three-part code of Chinese labels (三段码, 大头笔)."""
    hub: str = ""
    """The consolidation hub or bag (集包地)."""
    origin: str = ""
    destination: str = ""
    product: str = ""
    qr: str = ""
    """The content of the carrier's own QR code."""
    url: str = ""
    """Where to download the finished label, if the carrier draws it."""
    courier: str = ""
    """The carrier that transports the parcel, by its Hengdan code, if another one booked it."""


class Waybill(Value):
    """A carrier's number for a parcel booked under our reference."""

    carrier: str
    waybill_no: str
    reference: str
    label: Label = Label()


class Booking(Value):
    """A request to book a parcel with a carrier. ``reference`` is the idempotency key."""

    reference: str
    sender: Recipient
    recipient: Recipient
    goods: tuple[FulfillmentLine, ...]
    weight_kg: Decimal
    cash_on_delivery: Decimal | None = None


class Offer(Value):
    """A carrier's own quote for a parcel."""

    product: str
    """The carrier's own name for the service."""
    price: Money
    days: Annotated[int, Field(ge=0)] | None = None
    """Days from pick-up to delivery, if quoted."""


class Recall(Value):
    """A warehouse's answer to a recall: accepted, or the reason for refusal."""

    accepted: bool
    reason: str = ""


class Scan(Value):
    """One tracking event. ``scan_id`` is the carrier's own or derived from the content, and identifies duplicates."""

    waybill_no: Key
    scan_id: Key
    status: TrackingStatus | None
    """``None`` if the code is unknown; the scan is kept and shown as received."""
    code: str
    at: Moment
    place: str = ""
    text: str = ""
    exception: ExceptionKind | None = None
    """The problem reported, if the status alone does not express it."""
    carrier: str = ""
    """The carrier that the sender names for the parcel, by its Hengdan code; empty if the sender is the carrier."""
    unknown: bool = False
    """Whether the carrier's tables here lack the code."""


class ShipmentLine(Value):
    line_no: str
    sku: str
    quantity: int


class Shipment(Value):
    """A shipment notification to the channel: the lines shipped with a waybill."""

    channel_order_no: str
    reference: str
    carrier: str
    waybill_no: str
    lines: tuple[ShipmentLine, ...]
    whole_order: bool
    shipped_at: Moment


class FulfillmentRow(SQLModel, table=True):
    __tablename__ = "fulfillments"
    __table_args__ = (
        Index("fulfillments_by_order", "order_id"),
        Index("fulfillments_by_waybill", "waybill_no"),
        Index("fulfillments_by_warehouse", "warehouse", "opened_at"),
        Index("fulfillments_by_carrier", "carrier"),
        Index("fulfillments_under_way", "status", postgresql_where="status NOT IN ('delivered', 'cancelled')"),
    )

    id: str = Col(primary_key=True)
    order_id: str = Col(sa_column=Column(String, ForeignKey("orders.id"), nullable=False))
    warehouse: str
    status: str
    request_status: str
    lines: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    carrier: str | None = None
    waybill_no: str | None = None
    label: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    tracking: str | None = None
    weight_kg: Decimal | None = Col(default=None, sa_column=Column(Numeric(10, 3)))
    channel_notified: bool = False
    choice: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    """The carrier selection and its reasons."""
    scanned_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """Time of the newest scan."""
    scan_status: str | None = None
    """Status by the scans: the terminal one if there is one, else the newest."""
    scan_exception: str | None = None
    scan_place: str | None = None
    scan_place_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """Time of the first scan of the current stay at that place."""
    asked_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When tracking was last polled."""
    followed_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When an aggregator was last subscribed to for tracking."""
    booked_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When the waybill was booked: earlier scans of its number are of another parcel."""
    cash: Decimal | None = Col(default=None, sa_column=Column(Numeric(18, 4)))
    """What the carrier collects on delivery, once it was asked."""
    reported_units: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    """Complete bundles reported to the channel with this parcel, by line number."""
    eta: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """Expected delivery, from the carrier's past performance on the lane."""
    ship_from: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    queue: str | None = None
    opened_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    shipped_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))


class ScanRow(SQLModel, table=True):
    """The scans of all carriers, without duplicates, also those of parcels that are not ours."""

    __tablename__ = "scans"
    __table_args__ = (
        Index("scans_by_waybill", "waybill_no"),
        Index("scans_by_fulfillment", "fulfillment_id"),
        Index("scans_with_unknown_code", "source", "at", postgresql_where="unknown"),
    )

    source: str = Col(primary_key=True)
    """The carrier or aggregator that reported the scan."""
    waybill_no: str = Col(primary_key=True)
    scan_id: str = Col(primary_key=True)
    carrier: str = ""
    fulfillment_id: str | None = None
    """The fulfillment order whose parcel was scanned; ``None`` if the scan belongs to none of ours."""
    status: str | None = None
    code: str
    unknown: bool = False
    at: datetime = Col(sa_type=DateTime(timezone=True))
    place: str = ""
    text: str = ""
    exception: str | None = None
