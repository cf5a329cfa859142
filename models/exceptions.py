"""Exceptions: what needs a person, how severe it is, who owns it, by when, and what can be done."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, JsonValue, field_validator
from sqlalchemy import Column, DateTime, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Moment, Value
from models.i18n import InvalidValue, named


class ExceptionKind(StrEnum):
    """What needs a person; the text of each kind is ``exception.{kind}``."""

    # A fulfillment order between booking and delivery
    NOT_ACCEPTED = "not_accepted"
    """The warehouse has not answered in time."""
    BOOKING_FAILED = "booking_failed"
    """No carrier accepts the parcel."""
    SHIP_OVERDUE = "ship_overdue"
    NOT_PICKED_UP = "not_picked_up"
    NO_MOVEMENT = "no_movement"
    """The carrier has reported nothing for too long."""
    STUCK = "stuck"
    """Scans keep naming the same place."""
    LATE = "late"
    """The promised or usual delivery time has passed, or will not be met."""
    DELIVERY_FAILED = "delivery_failed"
    REFUSED = "refused"
    RETURNED = "returned"
    LOST = "lost"
    DAMAGED = "damaged"
    WRONG_ADDRESS = "wrong_address"
    CHANNEL_REFUSED = "channel_refused"
    """The channel rejected the shipping confirmation, or cannot be reached to give it."""
    WAYBILL_NOT_CANCELLED = "waybill_not_cancelled"
    HELD_TOO_LATE = "held_too_late"
    """The warehouse did not return a fulfillment order that was put on hold."""
    SHIPPED_AFTER_RECALL = "shipped_after_recall"
    SHIPPED_UNASKED = "shipped_unasked"
    """The warehouse reported as shipped what was never handed over to it."""
    WAREHOUSE_UNREACHABLE = "warehouse_unreachable"
    """The warehouse's system does not answer: the fulfillment order waits to be handed over."""
    FOREIGN_SCAN = "foreign_scan"
    """A scan with the parcel's number came from another carrier, or is older than the booking."""

    # An order
    CHANNEL_CANCEL = "channel_cancel"
    """The channel cancelled an order that had shipped."""
    CHANNEL_MODIFY = "channel_modify"
    """The channel changed an order that had shipped."""
    LINES_ADDED = "lines_added"
    """The channel added lines too late to take them in."""
    CHANNEL_REOPENED = "channel_reopened"
    """The channel took back a cancellation."""
    PAYMENT_REVERSED = "payment_reversed"
    """The channel took back the payment of goods that have left."""
    OUT_OF_REACH = "out_of_reach"
    """Stock exists only at locations that the rules exclude."""
    REVIEW_OVERDUE = "overdue.in_review"
    HOLD_OVERDUE = "overdue.on_hold"
    STOCK_OVERDUE = "overdue.awaiting_stock"
    REFUND_AFTER_SHIPPING = "refund_after_shipping"
    REFUND_AFTER_END = "refund_after_end"
    PAID_AFTER_END = "paid_after_end"
    STORES_DIFFER = "stores_differ"
    """The database and the engine disagree on the order, and neither can be mended from the other."""

    # Stock
    LOW_STOCK = "low_stock"
    OVERDUE_TRANSFER = "overdue_transfer"

    # A carrier's connection
    UNKNOWN_CODE = "unknown_code"
    """Scans with a code that is in no table here."""

    # A shop's connection
    AUTHORISE = "authorise"
    """The channel's authorisation has expired and cannot be renewed."""
    CALL_FAILING = "call_failing"
    """An activity, of a fulfillment order, a shop or the system, keeps failing."""
    INTAKE_FAILED = "intake_failed"
    INTAKE_STALLED = "intake_stalled"
    """Messages wait, and none is settled."""
    RECONCILIATION = "reconciliation"
    """Orders of the channel were missing here."""
    RECONCILIATION_STOPPED = "reconciliation_stopped"

    _missing_ = named("exception_kind")


AFTERMATH = frozenset(
    {
        ExceptionKind.REFUSED,
        ExceptionKind.RETURNED,
        ExceptionKind.LOST,
        ExceptionKind.DAMAGED,
        ExceptionKind.WAYBILL_NOT_CANCELLED,
        ExceptionKind.SHIPPED_AFTER_RECALL,
        ExceptionKind.SHIPPED_UNASKED,
        ExceptionKind.CHANNEL_REFUSED,
        ExceptionKind.CHANNEL_REOPENED,
        ExceptionKind.LINES_ADDED,
        ExceptionKind.PAYMENT_REVERSED,
        ExceptionKind.PAID_AFTER_END,
        ExceptionKind.REFUND_AFTER_END,
    }
)
"""Kinds that the end of the order does not settle: a person still has to claim, refund, reissue, void or report."""


class Severity(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"

    _missing_ = named("severity")


class Remedy(StrEnum):
    """An action against an exception."""

    REBOOK = "rebook"
    """Recall from the warehouse and plan elsewhere."""
    INTERCEPT = "intercept"
    """Have the carrier stop the parcel and return it."""
    TELL_BUYER = "tell_buyer"
    CLAIM = "claim"
    """Claim compensation from the carrier."""
    REISSUE = "reissue"
    """Ship the same goods again, free of charge."""
    REFUND = "refund"
    CALL_CARRIER = "call_carrier"
    CALL_WAREHOUSE = "call_warehouse"
    CALL_CHANNEL = "call_channel"
    NOTIFY_CHANNEL = "notify_channel"
    """Send the shipping confirmation again."""
    CORRECT_ADDRESS = "correct_address"
    REVIEW = "review"
    """Approve, reject, release or change the order."""
    REPLENISH = "replenish"
    TRANSFER = "transfer"
    AUTHORISE = "authorise"
    """Authorise the shop again."""
    CORRECT_MESSAGES = "correct_messages"
    """Correct, retry or discard failed messages."""
    RECONCILE = "reconcile"

    _missing_ = named("remedy")


AUTOMATIC = frozenset({Remedy.REBOOK, Remedy.INTERCEPT, Remedy.TELL_BUYER, Remedy.CLAIM, Remedy.REISSUE, Remedy.REFUND})
"""Remedies that Hengdan can apply to a fulfillment order; a person applies every other one."""
HOUR = 3600
DAY = 24 * HOUR


class ExceptionPolicy(Value):
    """How exceptions of one kind are handled; times in seconds."""

    kind: ExceptionKind
    severity: Severity = Severity.NORMAL
    after: Annotated[int, Field(ge=0, le=90 * DAY)] = 0
    """How long a detected cause must last before the exception opens."""
    due: Annotated[int, Field(ge=60, le=90 * DAY)] = DAY
    """How long the owner has before the exception escalates."""
    owner: Annotated[str, Field(min_length=1, max_length=64)] = "logistics"
    escalates_to: Annotated[str, Field(min_length=1, max_length=64)] = "management"
    suggested: tuple[Remedy, ...] = ()
    automatic: Remedy | None = None

    @field_validator("automatic")
    @classmethod
    def _is_automatic(cls, remedy: Remedy | None) -> Remedy | None:
        if remedy is not None and remedy not in AUTOMATIC:
            raise InvalidValue("invalid.remedy", choices=", ".join(sorted(AUTOMATIC)))
        return remedy


def _policy(kind: ExceptionKind, severity: Severity, *suggested: Remedy, **more: Any) -> ExceptionPolicy:
    return ExceptionPolicy(kind=kind, severity=severity, suggested=suggested, **more)


_K, _S, _R = ExceptionKind, Severity, Remedy
POLICIES: dict[ExceptionKind, ExceptionPolicy] = {
    each.kind: each
    for each in (
        _policy(_K.NOT_ACCEPTED, _S.NORMAL, _R.CALL_WAREHOUSE, _R.REBOOK, after=2 * HOUR, owner="warehouse"),
        _policy(_K.BOOKING_FAILED, _S.HIGH, _R.CORRECT_ADDRESS, _R.REBOOK, due=4 * HOUR),
        _policy(_K.SHIP_OVERDUE, _S.HIGH, _R.CALL_WAREHOUSE, _R.REBOOK, _R.TELL_BUYER, owner="warehouse"),
        _policy(_K.NOT_PICKED_UP, _S.NORMAL, _R.CALL_CARRIER, _R.CALL_WAREHOUSE, after=DAY),
        _policy(_K.NO_MOVEMENT, _S.HIGH, _R.CALL_CARRIER, _R.TELL_BUYER, after=2 * DAY),
        _policy(_K.STUCK, _S.NORMAL, _R.CALL_CARRIER, after=36 * HOUR),
        _policy(_K.LATE, _S.NORMAL, _R.TELL_BUYER, _R.CALL_CARRIER, owner="service"),
        _policy(_K.DELIVERY_FAILED, _S.HIGH, _R.TELL_BUYER, _R.CORRECT_ADDRESS, _R.CALL_CARRIER, owner="service"),
        _policy(_K.REFUSED, _S.HIGH, _R.TELL_BUYER, _R.REFUND, owner="service"),
        _policy(_K.RETURNED, _S.NORMAL, _R.REFUND, _R.REISSUE, owner="service", due=3 * DAY),
        _policy(_K.LOST, _S.CRITICAL, _R.CLAIM, _R.REISSUE, _R.REFUND, _R.TELL_BUYER, automatic=_R.CLAIM),
        _policy(_K.DAMAGED, _S.CRITICAL, _R.CLAIM, _R.REISSUE, _R.REFUND, _R.TELL_BUYER, automatic=_R.CLAIM),
        _policy(_K.WRONG_ADDRESS, _S.HIGH, _R.CORRECT_ADDRESS, _R.TELL_BUYER, _R.INTERCEPT, owner="service"),
        _policy(_K.CHANNEL_REFUSED, _S.HIGH, _R.NOTIFY_CHANNEL, _R.CALL_CHANNEL, owner="operations", due=4 * HOUR),
        _policy(_K.WAYBILL_NOT_CANCELLED, _S.NORMAL, _R.CALL_CARRIER),
        _policy(_K.HELD_TOO_LATE, _S.HIGH, _R.CALL_WAREHOUSE, _R.INTERCEPT, owner="service", due=2 * HOUR),
        _policy(_K.SHIPPED_AFTER_RECALL, _S.HIGH, _R.INTERCEPT, _R.CALL_WAREHOUSE, owner="warehouse", due=4 * HOUR),
        _policy(_K.SHIPPED_UNASKED, _S.HIGH, _R.CALL_WAREHOUSE, _R.REVIEW, owner="warehouse", due=4 * HOUR),
        _policy(_K.WAREHOUSE_UNREACHABLE, _S.HIGH, _R.CALL_WAREHOUSE, _R.REBOOK, owner="operations", due=2 * HOUR),
        _policy(_K.FOREIGN_SCAN, _S.NORMAL, _R.CALL_CARRIER),
        _policy(_K.CHANNEL_CANCEL, _S.HIGH, _R.CALL_CARRIER, _R.CALL_WAREHOUSE, owner="service", due=4 * HOUR),
        _policy(_K.CHANNEL_MODIFY, _S.HIGH, _R.CALL_CARRIER, _R.CALL_WAREHOUSE, owner="service", due=4 * HOUR),
        _policy(_K.LINES_ADDED, _S.HIGH, _R.CALL_CHANNEL, _R.REVIEW, owner="service"),
        _policy(_K.CHANNEL_REOPENED, _S.HIGH, _R.CALL_CHANNEL, _R.REVIEW, owner="service", due=4 * HOUR),
        _policy(
            _K.PAYMENT_REVERSED,
            _S.CRITICAL,
            _R.INTERCEPT,
            _R.CALL_CHANNEL,
            _R.TELL_BUYER,
            owner="service",
            due=2 * HOUR,
        ),
        _policy(_K.OUT_OF_REACH, _S.NORMAL, _R.TRANSFER, _R.REVIEW, owner="service"),
        _policy(_K.REVIEW_OVERDUE, _S.NORMAL, _R.REVIEW, owner="service", due=4 * HOUR),
        _policy(_K.HOLD_OVERDUE, _S.NORMAL, _R.REVIEW, owner="service", due=4 * HOUR),
        _policy(_K.STOCK_OVERDUE, _S.NORMAL, _R.REPLENISH, _R.TRANSFER, _R.TELL_BUYER, owner="purchasing"),
        _policy(_K.REFUND_AFTER_SHIPPING, _S.HIGH, _R.CALL_CARRIER, _R.TELL_BUYER, owner="service"),
        _policy(_K.REFUND_AFTER_END, _S.NORMAL, _R.REFUND, _R.TELL_BUYER, owner="service"),
        _policy(_K.PAID_AFTER_END, _S.HIGH, _R.REFUND, _R.TELL_BUYER, owner="service"),
        _policy(_K.STORES_DIFFER, _S.HIGH, _R.REVIEW, _R.CALL_WAREHOUSE, owner="operations", due=4 * HOUR),
        _policy(_K.LOW_STOCK, _S.NORMAL, _R.REPLENISH, _R.TRANSFER, owner="purchasing"),
        _policy(_K.OVERDUE_TRANSFER, _S.NORMAL, _R.CALL_WAREHOUSE, owner="warehouse"),
        _policy(_K.UNKNOWN_CODE, _S.LOW, _R.CALL_CARRIER, due=7 * DAY),
        _policy(_K.AUTHORISE, _S.CRITICAL, _R.AUTHORISE, owner="operations", due=2 * HOUR),
        _policy(
            _K.CALL_FAILING,
            _S.HIGH,
            _R.CALL_CHANNEL,
            _R.CALL_CARRIER,
            _R.CALL_WAREHOUSE,
            owner="operations",
            due=4 * HOUR,
        ),
        _policy(_K.INTAKE_FAILED, _S.HIGH, _R.CORRECT_MESSAGES, owner="operations", due=4 * HOUR),
        _policy(_K.INTAKE_STALLED, _S.CRITICAL, owner="operations", due=HOUR // 2),
        _policy(_K.RECONCILIATION, _S.NORMAL, _R.RECONCILE, _R.CALL_CHANNEL, owner="operations"),
        _policy(_K.RECONCILIATION_STOPPED, _S.NORMAL, _R.RECONCILE, owner="operations"),
    )
}
"""The policy of each kind, unless staff set another."""


class NewException(Value):
    """An exception to open. ``key`` says what it is about: at most one exception exists for each."""

    key: str
    kind: ExceptionKind
    order_id: str = ""
    """An order, or a transfer."""
    fulfillment_id: str = ""
    shop: str = ""
    """``channel:shop``."""
    warehouse: str = ""
    carrier: str | None = None
    waybill_no: str | None = None
    detail: dict[str, JsonValue] = {}
    """Further params of the text ``exception.{kind}``."""
    cause_at: Moment | None = None
    """When the cause began; ``None``: now."""


class ExceptionRow(SQLModel, table=True):
    """The one record of something that needs a person; opens again when its cause returns."""

    __tablename__ = "exceptions"
    __table_args__ = (
        Index("exceptions_open", "kind", "due_at", postgresql_where="closed_at IS NULL"),
        Index("exceptions_by_order", "order_id"),
    )

    key: str = Col(primary_key=True)
    kind: str
    order_id: str = ""
    fulfillment_id: str = ""
    shop: str = ""
    warehouse: str = ""
    carrier: str | None = None
    waybill_no: str | None = None
    detail: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    severity: str
    owner: str
    detected: bool
    """Opened because the scanner found its cause in the database, not because a workflow reported it."""
    cause_at: datetime = Col(sa_type=DateTime(timezone=True))
    opened_at: datetime = Col(sa_type=DateTime(timezone=True))
    due_at: datetime = Col(sa_type=DateTime(timezone=True))
    escalated_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    remedy: str | None = None
    """The last remedy applied."""
    remedied_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    closed_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    closed_by: str | None = None
    note: str = ""


class ExceptionPolicyRow(SQLModel, table=True):
    """An ``ExceptionPolicy`` that staff set."""

    __tablename__ = "exception_policies"

    kind: str = Col(primary_key=True)
    policy: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
