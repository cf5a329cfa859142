"""Requests to an order and facts about it: the payloads of its signals and updates, and the answer.

Every request has an id. Repeating an id changes nothing.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from models.address import RecipientChange
from models.base import Moment, Value
from models.fulfillment import Shortfall, TrackingStatus
from models.hold import HoldKind, Stage
from models.i18n import InvalidValue
from models.order import Refund

Weight = Annotated[Decimal, Field(gt=0, max_digits=10, decimal_places=3)]
RequestId = Annotated[str, Field(min_length=1, max_length=200)]


class Request(Value):
    request_id: RequestId
    actor: str = "unknown"


class Cancel(Request):
    reason: str = ""


class QuantityChange(Value):
    """A line's new quantity; 0 drops the line."""

    line_no: str
    quantity: Annotated[int, Field(ge=0, le=100_000)]


class Modify(Request):
    """Change parts of the recipient, quantities, or both."""

    recipient: RecipientChange | None = None
    lines: tuple[QuantityChange, ...] = ()
    reason: str = ""

    @model_validator(mode="after")
    def _changes_something(self) -> "Modify":
        if self.recipient is None and not self.lines:
            raise InvalidValue("invalid.change.nothing")
        return self


class HoldRequest(Request):
    kind: HoldKind = HoldKind.STAFF
    reason: str = ""


class Release(Request):
    """Lift the holds of one kind, or all holds."""

    kind: HoldKind | None = None


class Approve(Request):
    """Lift the review holds of one stage, or all of them."""

    stage: Stage | None = None


class Reject(Request):
    reason: str = ""


class Expedite(Request):
    pass


class Replan(Request):
    """Plan unshipped fulfillment orders again at other warehouses: one of them, those of one warehouse, or all."""

    fulfillment_id: str | None = None
    warehouse: str | None = None
    reason: str = ""


class Note(Request):
    text: Annotated[str, Field(min_length=1, max_length=2000)]


class Payment(Request):
    paid_at: Moment


class Remark(Request):
    """The present remarks of buyer and seller, and the priority that follows from them."""

    buyer_message: str = ""
    seller_memo: str = ""
    priority: Annotated[int, Field(ge=1, le=5)]


class Refunding(Request):
    """A refund that the buyer requested or the channel decided on."""

    refund: Refund


class StockArrived(Request):
    pass


class WarehouseEventKind(StrEnum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    PICKED = "picked"
    SHIPPED = "shipped"


class WarehouseEvent(Request):
    """A warehouse's report on a fulfillment order."""

    fulfillment_id: str
    kind: WarehouseEventKind
    at: Moment
    weight_kg: Weight | None = None
    reason: str = ""
    shortfalls: Annotated[tuple[Shortfall, ...], Field(max_length=200)] = ()
    """The reasons of a rejection, if stock differs from the ledger."""


class Tracking(Request):
    """A tracking milestone of a parcel."""

    waybill_no: str
    status: TrackingStatus
    at: Moment
    place: str = ""


class Answer(Value):
    """Yes or no. ``reason`` is a message key of the catalogue with its ``params``."""

    accepted: bool
    reason: str = ""
    params: dict[str, JsonValue] = {}


YES = Answer(accepted=True)


def no(reason: str, **params: JsonValue) -> Answer:
    return Answer(accepted=False, reason=reason, params=params)
