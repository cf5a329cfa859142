"""Transfers of stock between our locations, and the table of actions allowed in each status."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, DateTime, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import CHINA, Moment, Record, Value
from models.exceptions import ExceptionKind, NewException
from models.i18n import named
from models.order import Entry
from models.requests import YES, Answer, Approve, Cancel, Request, no
from models.state import ANSWERS_KEPT
from models.stock import Move, MovementKind

Quantity = Annotated[int, Field(ge=0, le=10_000_000)]


class TransferStatus(StrEnum):
    DRAFT = "draft"
    READY = "ready"
    """Approved: its goods are reserved at the origin."""
    IN_TRANSIT = "in_transit"
    PARTIALLY_RECEIVED = "partially_received"
    RECEIVED = "received"
    CANCELLED = "cancelled"

    _missing_ = named("transfer")

    @property
    def final(self) -> bool:
        return self in {TransferStatus.RECEIVED, TransferStatus.CANCELLED}


class TransferAction(StrEnum):
    APPROVE = "approve"
    SHIP = "ship"
    RECEIVE = "receive"
    CANCEL = "cancel"


_ON_ITS_WAY = frozenset({TransferAction.RECEIVE, TransferAction.CANCEL})

SUPPORTED: dict[TransferStatus, frozenset[TransferAction]] = {
    TransferStatus.DRAFT: frozenset({TransferAction.APPROVE, TransferAction.CANCEL}),
    TransferStatus.READY: frozenset({TransferAction.SHIP, TransferAction.CANCEL}),
    TransferStatus.IN_TRANSIT: _ON_ITS_WAY,
    TransferStatus.PARTIALLY_RECEIVED: _ON_ITS_WAY,
    TransferStatus.RECEIVED: frozenset(),
    TransferStatus.CANCELLED: frozenset(),
}


class Ship(Request):
    """Ship quantities by SKU, and nothing of other SKUs; if none are given, everything planned."""

    goods: dict[str, Quantity] = {}


class Receive(Request):
    """Receive quantities by SKU; if none are given, everything still on its way."""

    goods: dict[str, Quantity] = {}


class Unreceived(StrEnum):
    """What to do with goods on their way when their transfer is cancelled."""

    RETURN = "return"
    """They return and are received at the origin."""
    WRITE_OFF = "write_off"


class CancelTransfer(Cancel):
    how: Unreceived | None = None
    """Required once the goods have left."""


class TransferLine(Record):
    sku: str
    quantity: int
    shipped: int = 0
    received: int = 0
    returned: int = 0
    lost: int = 0

    @property
    def outstanding(self) -> int:
        """The quantity on its way."""
        return self.shipped - self.received - self.returned - self.lost


class Transfer(Record):
    """The whole state of a transfer workflow, passed on by continue-as-new."""

    id: str
    origin: str
    destination: str
    lines: list[TransferLine]
    due: date
    """The day, in China, by whose end the goods should have arrived."""
    reason: str = ""
    proposed_by: str
    proposed_at: Moment
    approved_by: str | None = None
    shipped_at: Moment | None = None
    returning: bool = False
    withdrawn: bool = False
    """Cancelled before it left."""
    overdue: bool = False
    """The delay has opened an exception."""
    revision: int = 0
    answers: dict[str, Answer] = Field(default_factory=dict)
    """The answers to the newest requests, by request id."""

    @property
    def status(self) -> TransferStatus:
        """Derived from the other fields, never stored: the first condition that holds."""
        if self.withdrawn:
            return TransferStatus.CANCELLED
        if self.approved_by is None:
            return TransferStatus.DRAFT
        if self.shipped_at is None:
            return TransferStatus.READY
        received = any(line.received for line in self.lines)
        if self.outstanding:
            return TransferStatus.PARTIALLY_RECEIVED if received else TransferStatus.IN_TRANSIT
        return TransferStatus.RECEIVED if received else TransferStatus.CANCELLED

    @property
    def planned(self) -> dict[str, int]:
        return {line.sku: line.quantity for line in self.lines}

    @property
    def outstanding(self) -> dict[str, int]:
        """Goods on their way, SKU → quantity."""
        return {line.sku: line.outstanding for line in self.lines if line.outstanding}

    @property
    def heading(self) -> str:
        """Where the goods arrive next."""
        return self.origin if self.returning else self.destination

    @property
    def deadline(self) -> datetime | None:
        """When the transfer becomes overdue; ``None`` once the exception was opened."""
        return None if self.overdue else datetime.combine(self.due + timedelta(days=1), time.min, CHINA)

    def allows(self, action: TransferAction, request: Request) -> Answer:
        """Return yes, or no with the reason shown to staff."""
        if action not in SUPPORTED[self.status]:
            return no(f"refused.transfer.{action}", transfer=self.status.value)
        match request:
            case Ship():
                return _within(request.goods, self.planned)
            case Receive():
                return _within(request.goods, self.outstanding)
            case CancelTransfer() if self.shipped_at is not None:
                if request.how is None:
                    return no("refused.transfer.how")
                if request.how is Unreceived.RETURN and self.returning:
                    return no("refused.transfer.returning")
                if request.how is Unreceived.WRITE_OFF and not request.reason.strip():
                    return no("refused.transfer.reason")
        return YES

    def carry_out(self, request: Request, at: datetime) -> list[Move]:
        """Apply an allowed request and return its movements."""
        match request:
            case Approve():
                self.approved_by = request.actor
                return self._moves(MovementKind.RESERVED, "reserved", self.origin, self.planned, request.actor)
            case Ship():
                self.shipped_at = at
                goods = request.goods or self.planned
                for line in self.lines:
                    line.shipped = goods.get(line.sku, 0)
                return [
                    *self._moves(MovementKind.RELEASED, "released", self.origin, self.planned, request.actor),
                    *self._moves(MovementKind.TRANSFER_OUT, "out", self.origin, goods, request.actor),
                ]
            case Receive():
                goods = request.goods or self.outstanding
                for line in self.lines:
                    if self.returning:
                        line.returned += goods.get(line.sku, 0)
                    else:
                        line.received += goods.get(line.sku, 0)
                act = f"in:{request.request_id}"
                return self._moves(MovementKind.TRANSFER_IN, act, self.heading, goods, request.actor)
            case CancelTransfer() if self.shipped_at is None:
                self.withdrawn = True
                reserved = self.planned if self.approved_by is not None else {}
                return self._moves(MovementKind.RELEASED, "released", self.origin, reserved, request.actor)
            case CancelTransfer() if request.how is Unreceived.RETURN:
                self.returning = True
            case CancelTransfer():
                for line in self.lines:
                    line.lost += line.outstanding
        return []

    def timeline_entry(self, action: TransferAction, request: Request, at: datetime) -> Entry:
        """Return the timeline entry of an allowed request, made before it is applied."""
        what: str = action
        detail: dict[str, Any] = {}
        match request:
            case Ship():
                detail["goods"] = listed(request.goods or self.planned)
            case Receive():
                detail["goods"] = listed(request.goods or self.outstanding)
            case CancelTransfer():
                what = request.how or action if self.shipped_at is not None else action
                detail |= {"goods": listed(self.outstanding), "reason": request.reason}
        return Entry(
            key=request.request_id, at=at, what=f"timeline.transfer.{what}", actor=request.actor, detail=detail
        )

    def late(self, at: datetime) -> NewException:
        """Return the exception of a transfer that is past its due date."""
        detail = {"origin": self.origin, "destination": self.destination, "due": self.due.isoformat()}
        return NewException(
            key=f"{self.id}:overdue_transfer",
            kind=ExceptionKind.OVERDUE_TRANSFER,
            order_id=self.id,
            warehouse=self.destination,
            detail=detail,
            cause_at=at,
        )

    def remember(self, request_id: str, answer: Answer) -> None:
        self.answers[request_id] = answer
        while len(self.answers) > ANSWERS_KEPT:
            del self.answers[next(iter(self.answers))]

    def _moves(self, kind: MovementKind, act: str, place: str, goods: Mapping[str, int], actor: str) -> list[Move]:
        return [
            Move(key=f"{self.id}:{act}", kind=kind, warehouse=place, sku=sku, quantity=quantity, actor=actor)
            for sku, quantity in goods.items()
            if quantity
        ]


def _within(goods: Mapping[str, int], limits: Mapping[str, int]) -> Answer:
    for sku, quantity in goods.items():
        if quantity > (most := limits.get(sku, 0)):
            return no("refused.transfer.goods", sku=sku, most=most)
    return YES if not goods or any(goods.values()) else no("refused.transfer.nothing")


def listed(goods: Mapping[str, int]) -> str:
    return ", ".join(f"{sku} × {quantity}" for sku, quantity in goods.items() if quantity)


class TransferStep(Value):
    """What one step writes in one transaction: the new state, its movements, its timeline entry and exception."""

    transfer: Transfer
    moves: tuple[Move, ...] = ()
    entry: Entry | None = None
    exception: NewException | None = None
    at: Moment


class TransferRow(SQLModel, table=True):
    """A transfer as shown in lists."""

    __tablename__ = "transfers"
    __table_args__ = (Index("transfers_by_status", "status", "due"),)

    id: str = Col(primary_key=True)
    status: str
    origin: str
    destination: str
    lines: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    """``TransferLine``."""
    due: date
    reason: str
    proposed_by: str
    proposed_at: datetime = Col(sa_type=DateTime(timezone=True))
    approved_by: str | None = None
    shipped_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    returning: bool = False
    overdue: bool = False
    revision: int
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))
