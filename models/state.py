"""An order in progress: its state, the status derived from it, and the one table of what is allowed when."""

from enum import StrEnum

from pydantic import Field

from models.base import Moment, Record, Value
from models.fulfillment import Fulfillment, FulfillmentStatus
from models.order import Alert, ChannelOrder, Entry, Hold, HoldKind, OrderStatus, Policy
from models.requests import YES, Answer, no
from models.stock import Shortage


class Action(StrEnum):
    CANCEL = "cancel"
    MODIFY = "modify"
    HOLD = "hold"
    RELEASE = "release"
    APPROVE = "approve"
    REJECT = "reject"
    EXPEDITE = "expedite"
    NOTE = "note"


_OPEN = frozenset({Action.CANCEL, Action.MODIFY, Action.HOLD, Action.EXPEDITE, Action.NOTE})

SUPPORTED: dict[OrderStatus, frozenset[Action]] = {
    OrderStatus.RECEIVED: _OPEN,
    OrderStatus.AWAITING_PAYMENT: _OPEN,
    OrderStatus.IN_REVIEW: _OPEN | {Action.APPROVE, Action.REJECT, Action.RELEASE},
    OrderStatus.ON_HOLD: _OPEN | {Action.RELEASE, Action.REJECT},
    OrderStatus.APPROVED: _OPEN,
    OrderStatus.AWAITING_STOCK: _OPEN,
    OrderStatus.ALLOCATED: frozenset({Action.CANCEL, Action.EXPEDITE, Action.NOTE}),
    OrderStatus.PARTIALLY_SHIPPED: frozenset({Action.NOTE}),
    OrderStatus.SHIPPED: frozenset({Action.NOTE}),
    OrderStatus.PARTIALLY_DELIVERED: frozenset({Action.NOTE}),
    OrderStatus.DELIVERED: frozenset({Action.NOTE}),
    OrderStatus.COMPLETED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
    OrderStatus.REJECTED: frozenset(),
}
"""What a person may do to an order in each status. Cancelling an allocated order asks its warehouses first."""


class End(StrEnum):
    """How an order's life was ended before its time."""

    CANCELLED = "cancelled"
    REJECTED = "rejected"


_LEFT = frozenset({FulfillmentStatus.SHIPPED, FulfillmentStatus.DELIVERED, FulfillmentStatus.CLOSED})
_OVER = frozenset({FulfillmentStatus.DELIVERED, FulfillmentStatus.CLOSED})


class OrderState(Record):
    """Everything the workflow knows; carried whole when a history is continued as new."""

    order: ChannelOrder
    policy: Policy
    admitted: bool = False
    graced: bool = False
    holds: list[Hold] = Field(default_factory=list)
    shortages: list[Shortage] = Field(default_factory=list)
    fulfillments: list[Fulfillment] = Field(default_factory=list)
    end: End | None = None
    end_reason: str = ""
    completed: bool = False
    seen: list[str] = Field(default_factory=list)
    """Ids of requests already answered; the newest thousand."""
    next_step: str = "next.admit"
    deadline: Moment | None = None

    @property
    def active(self) -> list[Fulfillment]:
        return [each for each in self.fulfillments if each.status is not FulfillmentStatus.CANCELLED]

    @property
    def status(self) -> OrderStatus:
        """Derived, never stored: the first of these that holds."""
        if self.end is not None:
            return OrderStatus(self.end.value)
        if self.completed:
            return OrderStatus.COMPLETED
        active = self.active
        if active and not self.shortages and all(each.status in _OVER for each in active):
            return OrderStatus.DELIVERED
        if any(each.status in _OVER for each in active):
            return OrderStatus.PARTIALLY_DELIVERED
        if active and not self.shortages and all(each.status in _LEFT for each in active):
            return OrderStatus.SHIPPED
        if any(each.status in _LEFT for each in active):
            return OrderStatus.PARTIALLY_SHIPPED
        if not self.admitted:
            return OrderStatus.RECEIVED
        if any(hold.kind is HoldKind.REVIEW for hold in self.holds):
            return OrderStatus.IN_REVIEW
        if self.holds:
            return OrderStatus.ON_HOLD
        if not self.order.payable:
            return OrderStatus.AWAITING_PAYMENT
        if active:
            return OrderStatus.ALLOCATED
        return OrderStatus.AWAITING_STOCK if self.shortages else OrderStatus.APPROVED

    def allows(self, action: Action) -> Answer:
        """Yes, or no with the reason a person is told."""
        status = self.status
        if action in SUPPORTED[status]:
            return YES
        return no(f"refused.{action}", status=status.value)

    def fulfillment(self, fulfillment_id: str) -> Fulfillment | None:
        return next((each for each in self.fulfillments if each.id == fulfillment_id), None)

    def parcel(self, waybill_no: str) -> Fulfillment | None:
        return next((each for each in self.fulfillments if each.waybill_no == waybill_no), None)


class OrderInput(Value):
    """The argument of the order workflow. ``state`` is set where an earlier history was continued as new."""

    order: ChannelOrder
    policy: Policy = Policy()
    state: OrderState | None = None


class Snapshot(Value):
    """What one step writes to the order's row, timeline and alerts, in one transaction with its effect."""

    order_id: str
    status: OrderStatus
    priority: int
    holds: tuple[Hold, ...]
    fulfillments: tuple[Fulfillment, ...]
    shortages: tuple[Shortage, ...] = ()
    next_step: str
    deadline: Moment | None
    at: Moment
    entries: tuple[Entry, ...] = ()
    alerts: tuple[Alert, ...] = ()
    order: ChannelOrder | None = None
    """Set where what was sold or who receives it has changed."""
