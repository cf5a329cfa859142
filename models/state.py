"""An order in progress: its state, the status derived from it, and the one table of what is allowed when."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field, JsonValue

from models.base import Moment, Record, Value, bounded_key
from models.exceptions import ExceptionKind, NewException
from models.fulfillment import Fulfillment, FulfillmentStatus, RequestStatus, TrackingStatus
from models.hold import Hold, HoldKind, Stage
from models.order import ChannelOrder, Entry, OrderStatus, RefundState
from models.policy import Policy
from models.requests import YES, Answer, Modify, Payment, PaymentReversed, Refunding, Reopened, Request, no
from models.stock import Shortage

ANSWERS_KEPT = 200


class Action(StrEnum):
    CANCEL = "cancel"
    MODIFY = "modify"
    HOLD = "hold"
    RELEASE = "release"
    APPROVE = "approve"
    REJECT = "reject"
    EXPEDITE = "expedite"
    NOTE = "note"
    REPLAN = "replan"


_OPEN = frozenset({Action.CANCEL, Action.MODIFY, Action.HOLD, Action.EXPEDITE, Action.NOTE})

SUPPORTED: dict[OrderStatus, frozenset[Action]] = {
    OrderStatus.RECEIVED: _OPEN,
    OrderStatus.AWAITING_PAYMENT: _OPEN,
    OrderStatus.IN_REVIEW: _OPEN | {Action.APPROVE, Action.REJECT, Action.RELEASE},
    OrderStatus.ON_HOLD: _OPEN | {Action.RELEASE, Action.REJECT},
    OrderStatus.APPROVED: _OPEN,
    OrderStatus.AWAITING_STOCK: _OPEN,
    OrderStatus.ALLOCATED: _OPEN - {Action.HOLD} | {Action.REPLAN},
    OrderStatus.PARTIALLY_SHIPPED: frozenset({Action.MODIFY, Action.NOTE, Action.REPLAN, Action.RELEASE}),
    OrderStatus.SHIPPED: frozenset({Action.NOTE}),
    OrderStatus.PARTIALLY_DELIVERED: frozenset({Action.MODIFY, Action.NOTE, Action.REPLAN, Action.RELEASE}),
    OrderStatus.DELIVERED: frozenset({Action.NOTE}),
    OrderStatus.COMPLETED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
    OrderStatus.REJECTED: frozenset(),
}
"""The actions that each status allows. An allocated order is cancelled or modified only if its warehouses accept
the recall; of a partially shipped order, only what has not shipped can be modified."""


class End(StrEnum):
    """How an order ended without being fulfilled."""

    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Allocated(Value):
    """The result of an allocation: every fulfillment order now open, and the shortages."""

    at: Moment
    fulfillments: tuple[Fulfillment, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    reserved: bool = False
    """Stock was reserved for an order that is not paid yet."""
    out_of_reach: bool = False
    """The missing stock exists, but no warehouse that has it may ship it under the constraints of the order."""
    ask: str | None = None
    """The question that a planning rule asks a person; nothing was planned."""


class RuleResult(Value):
    """A review rule that applied, as it was at the time, or whose condition could not be evaluated."""

    number: int
    name: str
    decisions: tuple[str, ...] = ()
    values: dict[str, JsonValue] = {}
    """The facts that its condition used."""
    failure: str = ""


class Admitted(Value):
    """The result of admission: the cleansed order and its holds; its allocation or reservation if nothing holds it."""

    at: Moment
    order: ChannelOrder
    holds: tuple[Hold, ...] = ()
    grace_until: Moment | None = None
    allocated: Allocated | None = None
    ruled: tuple[RuleResult, ...] = ()
    rejected: bool = False
    """A rule rejected the order."""


class OrderState(Record):
    """The whole state of the order workflow, passed on when its history is continued as new."""

    order: ChannelOrder
    policy: Policy
    revision: int = 0
    seen: int = 0
    """The events of the order's histories when it was last written."""
    run_id: str = ""
    """The workflow's run that wrote it last."""
    admitted: bool = False
    to_plan: bool = True
    """The fulfillment orders do not, or no longer, cover all lines."""
    grace_until: Moment | None = None
    holds: list[Hold] = Field(default_factory=list)
    shortages: list[Shortage] = Field(default_factory=list)
    short_since: Moment | None = None
    reserved_until: Moment | None = None
    """When the stock reserved for the order is released; a paid order keeps its stock until it is allocated."""
    fulfillments: list[Fulfillment] = Field(default_factory=list)
    excluded_warehouses: list[str] = Field(default_factory=list)
    """Warehouses that rejected the order, or from which it was replanned."""
    approvals_requested: list[str] = Field(default_factory=list)
    """Questions of planning rules that were put to a person, each once."""
    end: End | None = None
    completed: bool = False
    overdue: list[OrderStatus] = Field(default_factory=list)
    """Statuses whose delay has opened an exception."""
    answers: dict[str, Answer] = Field(default_factory=dict)
    """The answers to the newest requests, by request id."""
    entries: list[Entry] = Field(default_factory=list)
    """Timeline entries since the last snapshot."""
    exceptions: list[NewException] = Field(default_factory=list)
    """Exceptions to open with the next snapshot."""

    @property
    def active(self) -> list[Fulfillment]:
        return [each for each in self.fulfillments if each.status is not FulfillmentStatus.CANCELLED]

    @property
    def undelivered(self) -> list[Fulfillment]:
        """The parcels that never reached the buyer: lost or returned."""
        return [each for each in self.active if each.tracking in {TrackingStatus.LOST, TrackingStatus.RETURNED}]

    @property
    def fulfilled(self) -> bool:
        """Whether everything sold was delivered, returned or lost."""
        active = self.active
        return bool(active) and not self.shortages and not self.to_plan and all(each.is_closed for each in active)

    @property
    def blocked(self) -> bool:
        """Whether the order must not be planned, booked or released."""
        return bool(self.holds) or not self.order.payable or self.grace_until is not None

    @property
    def status(self) -> OrderStatus:
        """The first status whose condition holds: derived, never stored."""
        if self.end is not None:
            return OrderStatus(self.end.value)
        if self.completed:
            return OrderStatus.COMPLETED
        if not self.admitted:
            return OrderStatus.RECEIVED
        active = self.active
        whole = not self.shortages and not self.to_plan
        if active and whole and all(each.is_closed for each in active):
            return OrderStatus.DELIVERED
        if any(each.is_closed for each in active):
            return OrderStatus.PARTIALLY_DELIVERED
        if active and whole and all(each.has_shipped for each in active):
            return OrderStatus.SHIPPED
        if any(each.has_shipped for each in active):
            return OrderStatus.PARTIALLY_SHIPPED
        if any(hold.kind is HoldKind.REVIEW for hold in self.holds):
            return OrderStatus.IN_REVIEW
        if self.holds:
            return OrderStatus.ON_HOLD
        if not self.order.payable:
            return OrderStatus.AWAITING_PAYMENT
        if active:
            return OrderStatus.ALLOCATED
        return OrderStatus.AWAITING_STOCK if self.shortages else OrderStatus.APPROVED

    @property
    def deadline(self) -> datetime | None:
        """When the present wait is overdue; ``None`` if nothing is due, or if its exception was opened already."""
        status = self.status
        if status.final or status in self.overdue:
            return None
        policy = self.policy
        match status:
            case OrderStatus.AWAITING_PAYMENT:
                return min(self.pay_before, self.reserved_until or self.pay_before)
            case OrderStatus.IN_REVIEW | OrderStatus.ON_HOLD:
                return self.held_until
            case OrderStatus.APPROVED:
                return self.grace_until
            case OrderStatus.AWAITING_STOCK if self.short_since is not None:
                return self.short_since + timedelta(seconds=policy.stock)
        dues = [due for each in self.active if (due := self.due(each)) is not None]
        if self.remainder_held:
            dues.append(self.held_until)
        return min(dues, default=None)

    @property
    def held_until(self) -> datetime:
        """When the oldest hold is overdue."""
        return min(hold.since for hold in self.holds) + timedelta(seconds=self.policy.review)

    @property
    def remainder_held(self) -> bool:
        """Whether a part is allocated or shipped, the rest is held, and no exception was opened for that yet."""
        return bool(self.holds) and self.to_plan and bool(self.active) and OrderStatus.ON_HOLD not in self.overdue

    @property
    def reservable(self) -> bool:
        """Whether stock is reserved before payment: the shop's policy says so, and no hold applies."""
        return self.policy.reserve == "placed" and not self.order.payable and not self.holds

    @property
    def pay_before(self) -> datetime:
        """When an unpaid order expires."""
        return self.order.pay_before or self.order.placed_at + timedelta(seconds=self.policy.payment)

    def extend_reservation(self, at: datetime) -> None:
        """Extend the reservation after an activity of the buyer."""
        if self.reserved_until is not None:
            self.reserved_until = at + timedelta(seconds=self.policy.reservation)

    def due(self, fulfillment: Fulfillment) -> datetime | None:
        """Return when the next progress of a fulfillment order is overdue; ``None`` if none is awaited."""
        if fulfillment.is_closed or fulfillment.overdue:
            return None
        if fulfillment.status is FulfillmentStatus.SCHEDULED:
            return fulfillment.ship_from
        if fulfillment.shipped_at is None:
            return fulfillment.opened_at and fulfillment.opened_at + timedelta(seconds=self.policy.ship)
        moved = fulfillment.moved_at or fulfillment.shipped_at
        return min(
            moved + timedelta(seconds=self.policy.movement),
            fulfillment.shipped_at + timedelta(seconds=self.policy.delivery),
        )

    def overdue_kind(self, fulfillment: Fulfillment, at: datetime) -> ExceptionKind:
        """Return which deadline of a fulfillment order has passed."""
        if fulfillment.shipped_at is None:
            return ExceptionKind.SHIP_OVERDUE
        moved = fulfillment.moved_at or fulfillment.shipped_at
        silent = moved + timedelta(seconds=self.policy.movement) <= at
        return ExceptionKind.NO_MOVEMENT if silent else ExceptionKind.LATE

    @property
    def next_step(self) -> str:
        """What the order waits for, as a message key."""
        status = self.status
        if status is OrderStatus.COMPLETED and self.undelivered:
            return "next.completed.undelivered"
        if status is not OrderStatus.ALLOCATED:
            return f"next.{status}"
        if all(each.status is FulfillmentStatus.SCHEDULED for each in self.active):
            return "next.allocated.wait"
        if all(each.request_status is RequestStatus.UNSUBMITTED for each in self.active):
            return "next.allocated.book"
        return "next.allocated.ship"

    def allows(self, action: Action) -> Answer:
        """Return yes, or no with a reason for people."""
        status = self.status
        if action in SUPPORTED[status]:
            return YES
        return no(f"refused.{action}", status=status.value)

    def explain(self, action: Action, answer: Answer) -> Answer:
        """Return an answer with the holds that remain, unless they are beside the point of the action."""
        if self.end is not None or not self.holds or action in {Action.NOTE, Action.HOLD, Action.CANCEL, Action.REJECT}:
            return answer
        return answer.model_copy(update={"holds": tuple(self.holds), "order_id": self.order.order_id})

    def still_causes(self, hold: Hold) -> bool:
        """Whether what caused a hold stands: the address as it is, an undecided refund, what the channel still says."""
        match hold.kind:
            case HoldKind.ADDRESS:
                return True
            case HoldKind.REFUND:
                return any(each.state is RefundState.ASKED for each in self.order.refunds)
            case HoldKind.CHANNEL:
                return hold.reason in {"hold.channel.told", "hold.channel.unpaid", "hold.channel.cancelled"}
        return False

    def draft(self) -> "OrderState":
        """Return a copy for trying a decision. Its lists are copies; their elements are shared."""
        return self.model_copy(update={name: list(value) for name, value in self if isinstance(value, list)})

    def add_timeline_entry(
        self, key: str, at: datetime, what: str, actor: str = "hengdan", **detail: JsonValue
    ) -> None:
        """Add an entry to the timeline."""
        self.entries.append(Entry(key=key, at=at, what=f"timeline.{what}", actor=actor, detail=detail))

    def open_exception(
        self,
        kind: ExceptionKind,
        at: datetime,
        fulfillment: Fulfillment | None = None,
        about: str = "",
        **detail: JsonValue,
    ) -> None:
        """Open an exception of the order, or of one fulfillment order, with the next snapshot."""
        subject = self.order.order_id if fulfillment is None else fulfillment.id
        exception = NewException(
            key=":".join(part for part in (subject, kind, about) if part),
            kind=kind,
            order_id=self.order.order_id,
            shop=f"{self.order.channel}:{self.order.shop}",
            detail=detail,
            cause_at=at,
        )
        if fulfillment is not None:
            where = {name: getattr(fulfillment, name) for name in ("warehouse", "carrier", "waybill_no")}
            exception = exception.model_copy(update={"fulfillment_id": fulfillment.id, **where})
        self.exceptions.append(exception)

    def open_fulfillment(self, fulfillment: Fulfillment, at: datetime) -> None:
        """Open a scheduled fulfillment order, which may now be booked and released."""
        fulfillment.open(at)
        where = {"fulfillment": fulfillment.short_id, "warehouse": fulfillment.warehouse}
        self.add_timeline_entry(f"opened:{fulfillment.id}", at, "opened", **where, waybill_no=fulfillment.waybill_no)

    def exclude_warehouse(self, warehouse: str) -> None:
        """Exclude a warehouse from planning until the warehouse hold is released."""
        if warehouse not in self.excluded_warehouses:
            self.excluded_warehouses.append(warehouse)

    def remember(self, request_id: str, answer: Answer) -> None:
        self.answers[request_id] = answer
        while len(self.answers) > ANSWERS_KEPT:
            del self.answers[next(iter(self.answers))]

    def hold(self, hold: Hold) -> None:
        """Place a hold, replacing an earlier one that states the same."""
        self.holds = [each for each in self.holds if not each.same(hold)] + [hold]
        by_rule = f":{hold.rule}:{hold.stage}" if hold.rule is not None else ""
        about = "".join(f":{value}" for value in hold.params.values())
        key = bounded_key(f"held:{hold.kind}:{hold.since.isoformat()}:{hold.reason}{by_rule}{about}")
        detail = {**hold.params, "kind": hold.kind, "reason": hold.reason}
        self.add_timeline_entry(key, hold.since, "held", hold.by, **detail)

    def merge_holds(self, found: Iterable[Hold], replaces: Callable[[Hold], bool]) -> None:
        """Replace the holds for which ``replaces`` is true by those found. A hold found again keeps its time."""
        found = list(found)
        confirmed = [each for each in self.holds if any(each.same(hold) for hold in found)]
        self.holds = [each for each in self.holds if each in confirmed or not replaces(each)]
        for hold in found:
            if not any(each.same(hold) for each in confirmed):
                self.hold(hold)

    def approve(self, stage: Stage | None) -> Answer:
        """Lift the review holds of one stage, or all of them; answer no if there are none."""
        approved = [each for each in self.holds if each.kind is HoldKind.REVIEW and stage in (None, each.stage)]
        if not approved:
            return no("refused.stage", stage=stage)
        self.holds = [each for each in self.holds if each not in approved]
        return YES

    def admit(self, admitted: Admitted) -> None:
        """Apply the result of admission."""
        self.admitted = True
        self.order = admitted.order
        self.grace_until = admitted.grace_until
        self.add_timeline_entry("received", admitted.at, "received", path=self.order.origin.intake)
        self.rule(admitted.ruled, admitted.at)
        for hold in admitted.holds:
            self.hold(hold)
        if admitted.rejected:
            self.end = End.REJECTED
        if admitted.allocated is not None:
            self.to_plan = not self.order.payable
            self.plan(admitted.allocated)

    def rule(self, ruled: Iterable[RuleResult], at: datetime) -> None:
        """Record in the timeline which review rules applied, and on what facts."""
        for each in ruled:
            key = f"review:{each.number}:{at.isoformat()}"
            detail = each.model_dump(mode="json", exclude_defaults=True)
            if each.failure:
                self.add_timeline_entry(key, at, "review.failed", **detail)
            else:
                self.add_timeline_entry(key, at, "review.applied", **detail)

    def plan(self, allocated: Allocated) -> None:
        """Apply an allocation: new fulfillment orders, the reservation, a question to a person, and shortages."""
        for each in allocated.fulfillments:
            if self.fulfillment(each.id) is None:
                each.opened_at = allocated.at
                self.fulfillments.append(each)
                where = {"fulfillment": each.short_id, "warehouse": each.warehouse}
                self.add_timeline_entry(f"allocated:{each.id}", allocated.at, "allocated", **where)
        self.reserve(allocated)
        if allocated.ask is not None:
            self.to_plan = True
            self.approvals_requested.append(allocated.ask)
            self.hold(Hold(kind=HoldKind.REVIEW, reason=allocated.ask, since=allocated.at))
            return
        if not self.order.payable:
            return
        self.shortages = list(allocated.shortages)
        self.short_since = (self.short_since or allocated.at) if self.shortages else None
        if self.shortages:
            skus = ", ".join(f"{each.sku} × {each.quantity}" for each in self.shortages)
            self.add_timeline_entry(f"short:{allocated.at.isoformat()}", allocated.at, "short", skus=skus)
            if allocated.out_of_reach:
                self.open_exception(ExceptionKind.OUT_OF_REACH, allocated.at, skus=skus)

    def reserve(self, allocated: Allocated) -> None:
        """Apply the reservation that an allocation made, if any."""
        self.reserved_until = allocated.at if allocated.reserved else None
        self.extend_reservation(allocated.at)
        if allocated.reserved:
            self.add_timeline_entry(f"reserved:{allocated.at.isoformat()}", allocated.at, "reserved")

    def fulfillment(self, fulfillment_id: str) -> Fulfillment | None:
        return next((each for each in self.fulfillments if each.id == fulfillment_id), None)

    def fulfillment_of(self, waybill_no: str) -> Fulfillment | None:
        return next((each for each in self.fulfillments if each.waybill_no == waybill_no), None)

    def snapshot(self, at: datetime) -> "Snapshot":
        """Return the snapshot to be written."""
        return Snapshot(
            order_id=self.order.order_id,
            revision=self.revision,
            seen=self.seen,
            run_id=self.run_id,
            status=self.status,
            priority=self.order.priority,
            paid_at=self.order.paid_at,
            holds=tuple(self.holds),
            fulfillments=tuple(each.model_copy() for each in self.fulfillments),
            reserved=self.reserved_until is not None and self.end is None,
            next_step=self.next_step,
            deadline=self.deadline,
            at=at,
            entries=tuple(self.entries),
            exceptions=tuple(self.exceptions),
        )


class OrderInput(Value):
    """The argument of the order workflow. ``state`` is set if an earlier history, or a lost one, is continued."""

    order: ChannelOrder
    """As the channel had it when the first history began."""
    policy: Policy = Policy()
    state: OrderState | None = None


class Snapshot(Value):
    """What a step writes to the order's row, timeline and exceptions, in one transaction with the step's effect."""

    order_id: str
    revision: int
    seen: int = 0
    """The events known to the workflow task that writes: a task done over knows more than the lost one."""
    run_id: str = ""
    status: OrderStatus
    priority: int
    paid_at: Moment | None
    holds: tuple[Hold, ...]
    fulfillments: tuple[Fulfillment, ...]
    reserved: bool = False
    """Stock is reserved for the order."""
    next_step: str
    deadline: Moment | None
    at: Moment
    entries: tuple[Entry, ...] = ()
    exceptions: tuple[NewException, ...] = ()


def after_end(request: Request, known: ChannelOrder | None) -> list[tuple[ExceptionKind, str, dict[str, str]]]:
    """Return the exceptions for what a channel still changes of an order that has ended: kind, about, detail.

    ``known`` is the order as the channel had it before; ``None`` if that is unknown.
    """
    match request:
        case Payment():
            return [(ExceptionKind.PAID_AFTER_END, "", {})]
        case PaymentReversed():
            return [(ExceptionKind.PAYMENT_REVERSED, "", {})]
        case Reopened():
            return [(ExceptionKind.CHANNEL_REOPENED, "", {})]
        case Refunding() if request.refund.state is RefundState.ASKED:
            return [(ExceptionKind.REFUND_AFTER_END, "", {"refund_no": request.refund.refund_no})]
        case Modify() if known is not None:
            about, added = request.request_id, request.added_lines(known)
            changed = {"changes": request.differences(known)}
            lines = [(ExceptionKind.LINES_ADDED, about, {"count": str(len(added))})] if added else []
            return [(ExceptionKind.CHANNEL_MODIFY, about, changed), *lines]
    return []
