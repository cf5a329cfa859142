"""What goes wrong with parcels: how bad it is, whose it is, by when, and what can be done."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, field_validator
from sqlalchemy import Column, DateTime, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Value
from models.i18n import InvalidValue


class ExceptionKind(StrEnum):
    """What goes wrong with a fulfillment order on its way to the customer."""

    NOT_ACCEPTED = "not_accepted"
    """Its warehouse said nothing of it in time."""
    BOOKING_FAILED = "booking_failed"
    """No carrier takes it."""
    NOT_PICKED_UP = "not_picked_up"
    NO_MOVEMENT = "no_movement"
    """Its carrier says nothing of it, since it took it."""
    STUCK = "stuck"
    """It lies at one place."""
    LATE = "late"
    """Its promise is broken, or will be."""
    DELIVERY_FAILED = "delivery_failed"
    REFUSED = "refused"
    RETURNED = "returned"
    LOST = "lost"
    DAMAGED = "damaged"
    WRONG_ADDRESS = "wrong_address"


class Severity(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class Remedy(StrEnum):
    """What may be done about an exception."""

    REBOOK = "rebook"
    """Taken back from its warehouse and planned afresh, elsewhere."""
    INTERCEPT = "intercept"
    """Stopped on its way, and sent back."""
    TELL_BUYER = "tell_buyer"
    CLAIM = "claim"
    """The carrier is to pay for it."""
    REISSUE = "reissue"
    """What was in it is sent once more."""
    REFUND = "refund"
    """The buyer is to have his money back."""
    CALL_CARRIER = "call_carrier"
    CALL_WAREHOUSE = "call_warehouse"
    CORRECT_ADDRESS = "correct_address"


AUTOMATIC = frozenset({Remedy.REBOOK, Remedy.INTERCEPT, Remedy.TELL_BUYER, Remedy.CLAIM, Remedy.REISSUE, Remedy.REFUND})
"""What Hengdan can do by itself."""
HOUR = 3600
DAY = 24 * HOUR


class ExceptionPolicy(Value):
    """What is to be done about one kind; times in seconds."""

    kind: ExceptionKind
    severity: Severity = Severity.NORMAL
    after: Annotated[int, Field(ge=0, le=90 * DAY)] = 0
    """How long it must last before it is an exception."""
    due: Annotated[int, Field(ge=60, le=90 * DAY)] = DAY
    """How long its owner has; then it escalates."""
    owner: Annotated[str, Field(min_length=1, max_length=64)] = "logistics"
    escalates_to: Annotated[str, Field(min_length=1, max_length=64)] = "management"
    suggested: tuple[Remedy, ...] = ()
    automatic: Remedy | None = None

    @field_validator("automatic")
    @classmethod
    def _can_be_done(cls, remedy: Remedy | None) -> Remedy | None:
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
    )
}
"""What holds of each kind, unless staff set it otherwise."""


class ExceptionRow(SQLModel, table=True):
    """One kind of exception of one fulfillment order; opened again where it comes back."""

    __tablename__ = "exceptions"
    __table_args__ = (Index("exceptions_open", "kind", "due_at", postgresql_where="closed_at IS NULL"),)

    fulfillment_id: str = Col(primary_key=True)
    kind: str = Col(primary_key=True)
    order_id: str
    shop: str
    """``channel:shop``."""
    warehouse: str
    carrier: str | None = None
    waybill_no: str | None = None
    severity: str
    owner: str
    cause_at: datetime = Col(sa_type=DateTime(timezone=True))
    """Since when it has been so."""
    opened_at: datetime = Col(sa_type=DateTime(timezone=True))
    due_at: datetime = Col(sa_type=DateTime(timezone=True))
    escalated_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    remedy: str | None = None
    """What was done about it."""
    remedied_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    closed_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    closed_by: str | None = None
    note: str = ""


class ExceptionPolicyRow(SQLModel, table=True):
    """An ``ExceptionPolicy`` that staff set."""

    __tablename__ = "exception_policies"

    kind: str = Col(primary_key=True)
    policy: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
