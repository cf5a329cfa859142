"""Fulfillment orders, parcels and what carriers say of them."""

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
from models.base import Moment, Record, Value
from models.exceptions import ExceptionKind
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


class RequestStatus(StrEnum):
    """What was asked of the warehouse, and what it said."""

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
"""What a workflow must know at once; every other scan stays in the database."""

PROBLEM_STATUSES = MILESTONES - {TrackingStatus.DELIVERED, TrackingStatus.RETURNED}
"""Milestones that need a person."""

TERMINAL_STATUSES = frozenset({TrackingStatus.DELIVERED, TrackingStatus.RETURNED, TrackingStatus.LOST})
"""After one of these a parcel's tracking is over: whatever scan comes later changes nothing."""


class FulfillmentLine(Value):
    """So many of one stocked SKU for one order line; a bundle's line yields one per component."""

    line_no: str
    sku: str
    quantity: Annotated[int, Field(ge=1)]
    stock: str | None = None
    """The virtual warehouse whose share it comes from; ``None``: the stock of the warehouse that sends it."""
    instead_of: str | None = None
    """The SKU that it replaces."""

    @property
    def sold_sku(self) -> str:
        """The SKU as it was sold."""
        return self.instead_of or self.sku


class ShortfallKind(StrEnum):
    """Why a warehouse cannot send a SKU that the books say it has."""

    NOT_FOUND = "not_found"
    MISMATCH = "mismatch"
    DAMAGED = "damaged"


class Shortfall(Value):
    """What a warehouse found amiss as it went to pick."""

    sku: str
    kind: ShortfallKind
    quantity: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Of a mismatch: how many of those asked for are there. Damaged: how many are."""


class Fulfillment(Record):
    """A fulfillment order: lines that leave one warehouse together. Part of the workflow's state."""

    id: str
    """``{order id}:F{n}``; the reference that carrier and warehouse know."""
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
    """Its goods were taken off the stock."""
    ship_from: Moment | None = None
    """Scheduled: it is booked and handed over no earlier than this."""
    queue: str | None = None
    """The line of work that it joins at its warehouse."""
    opened_at: Moment | None = None
    moved_at: Moment | None = None
    """The newest sign of life known to the workflow: shipping, then scans."""
    overdue: bool = False
    """The present delay has opened an exception."""
    shortfalls: tuple[Shortfall, ...] = ()
    """Why its warehouse rejected it, where the stock is why."""

    @property
    def short_id(self) -> str:
        """Its part of the id within the order, such as ``F1``."""
        return self.id.rpartition(":")[2]

    @property
    def has_shipped(self) -> bool:
        """It is out of the warehouse: nothing can be taken back."""
        return self.status in {FulfillmentStatus.SHIPPED, FulfillmentStatus.DELIVERED, FulfillmentStatus.CLOSED}

    @property
    def is_closed(self) -> bool:
        return self.status in {FulfillmentStatus.DELIVERED, FulfillmentStatus.CLOSED}

    def carries(self, *line_nos: str | None) -> bool:
        """Something of one of these lines is in it; ``None`` stands for any line."""
        return None in line_nos or any(line.line_no in line_nos for line in self.lines)

    def open(self, at: datetime) -> None:
        """Its day has come."""
        self.status = FulfillmentStatus.OPEN
        self.opened_at = at

    def leave(self, at: datetime) -> None:
        """It is out of the warehouse."""
        self.status = FulfillmentStatus.SHIPPED
        self.shipped_at = self.moved_at = at
        self.overdue = False

    def track(self, tracking: TrackingStatus, at: datetime) -> None:
        """A milestone: what a carrier has seen has left the warehouse; what is signed for after a refusal came back."""
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
    """The reference carriers know a fulfillment order by: legible, distinct, 7 to 64 of ``[A-Za-z0-9-]``."""
    order_no, _, short_id = fulfillment_id.rpartition(":")
    legible = re.sub(r"[^A-Za-z0-9]+", "-", order_no.rpartition(":")[2])[:40].strip("-")
    return f"{legible}-{short_id}-{sha256(fulfillment_id.encode()).hexdigest()[:10]}".lstrip("-")


class Label(Value):
    """What a carrier wants on the label beside the addresses; what it did not tell is empty."""

    route: str = ""
    """The large code of the way, such as a Chinese label's three parts (三段码, 大头笔)."""
    hub: str = ""
    """The bag or hub it is gathered into (集包地)."""
    origin: str = ""
    destination: str = ""
    product: str = ""
    qr: str = ""
    """The content of the carrier's own two-dimensional code."""
    url: str = ""
    """The finished label, where the carrier draws it."""
    courier: str = ""
    """Who carries it, where that is another than who booked it; named as carriers are here."""


class Waybill(Value):
    """A carrier's number for a parcel, as booked under our reference."""

    carrier: str
    waybill_no: str
    reference: str
    label: Label = Label()


class Booking(Value):
    """What a carrier needs to take a parcel. ``reference`` is the idempotency key."""

    reference: str
    sender: Recipient
    recipient: Recipient
    goods: tuple[FulfillmentLine, ...]
    weight_kg: Decimal
    cash_on_delivery: Decimal | None = None


class Offer(Value):
    """What a carrier itself asks for a parcel."""

    product: str
    """The carrier's own name of the service."""
    price: Money
    days: Annotated[int, Field(ge=0)] | None = None
    """From pick-up to delivery, where it says so."""


class Recall(Value):
    """Whether a warehouse gives a fulfillment order back, and if not, why."""

    accepted: bool
    reason: str = ""


class Scan(Value):
    """One tracking event. ``scan_id`` is the carrier's own, or derived from its content: it is seen once."""

    waybill_no: str
    scan_id: str
    status: TrackingStatus | None
    """``None``: the code is not known; kept, and shown raw."""
    code: str
    at: Moment
    place: str = ""
    text: str = ""
    exception: ExceptionKind | None = None
    """What went wrong, where its status does not say so by itself."""


class ShipmentLine(Value):
    line_no: str
    sku: str
    quantity: int


class Shipment(Value):
    """What is told to the channel: these lines left with this waybill."""

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
    """Which carrier was chosen, and why."""
    scanned_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When its carrier last saw it."""
    scan_status: str | None = None
    """What its carrier then made of it."""
    scan_exception: str | None = None
    scan_place: str | None = None
    scan_place_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """Since when it has been seen there."""
    asked_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When its carrier was last asked after it."""
    followed_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When an aggregator was last asked to follow it."""
    eta: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When it should be there, by how its carrier did on the lane."""
    ship_from: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    queue: str | None = None
    opened_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    shipped_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))


class ScanRow(SQLModel, table=True):
    """Every scan a carrier sent, once each, in whatever order it came."""

    __tablename__ = "scans"

    waybill_no: str = Col(primary_key=True)
    scan_id: str = Col(primary_key=True)
    status: str | None = None
    code: str
    at: datetime = Col(sa_type=DateTime(timezone=True))
    place: str = ""
    text: str = ""
    exception: str | None = None
