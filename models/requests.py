"""Requests to an order and facts about it: the payloads of its signals and updates, and the answer.

Every request has an id. Repeating an id changes nothing.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue, computed_field, model_validator

from models.address import RecipientChange
from models.base import Moment, Value
from models.fulfillment import Shortfall, TrackingStatus
from models.hold import Hold, HoldKind, Stage
from models.i18n import LANGUAGES, InvalidValue, t
from models.money import Amount, Currency
from models.order import ChannelOrder, OrderLine, Refund

Weight = Annotated[Decimal, Field(gt=0, max_digits=10, decimal_places=3)]
RequestId = Annotated[str, Field(min_length=1, max_length=200)]


UNSEALED = "unsealed:"
"""Precedes the claimed actor of a request that came in clear."""


class Request(Value):
    request_id: RequestId
    actor: str = "unknown"

    def from_unsealed(self) -> "Request":
        """Return the request marked as one that came in clear: sent straight to Temporal, past the API and its keys."""
        return self.model_copy(update={"actor": f"{UNSEALED}{self.actor}"})

    @property
    def unsealed(self) -> bool:
        return self.actor.startswith(UNSEALED)

    @property
    def from_channel(self) -> bool:
        return self.actor.startswith("channel:")


class NotUnderstood(Value):
    """Stands for the argument of a signal or update sent by hand that is not what its handler takes."""

    why: str
    """What is wrong with it, as a message."""


class Cancel(Request):
    reason: str = ""


class QuantityChange(Value):
    """A line's new quantity; 0 drops the line."""

    line_no: str
    quantity: Annotated[int, Field(ge=0, le=100_000)]


class Terms(Value):
    """What the channel now says of what is sold and for how much. Amounts in ``currency``."""

    cash_on_delivery: bool
    currency: Currency
    total: Amount
    freight: Amount
    discount: Amount
    tax: Amount
    carrier: str | None = None
    pay_before: Moment | None = None
    promised_by: Moment | None = None
    lines: tuple[OrderLine, ...] = ()
    """Lines that are new or changed, as the channel sends them."""
    dropped: tuple[str, ...] = ()
    """The numbers of lines that the channel no longer lists."""

    def applied_to(self, order: ChannelOrder) -> ChannelOrder:
        """Return the order on these terms; a line of the same item keeps the SKU that it was mapped to.

        Raise ``InvalidValue`` if nothing sold would remain.
        """
        lines = {line.line_no: line for line in order.lines if line.gift or line.line_no not in self.dropped}
        for line in self.lines:
            known = lines.get(line.line_no)
            if known is not None and known.items == line.items:
                update = line.model_dump(include={"quantity", "unit_price", "discount", "title"})
                line = known.model_copy(update=update)
            lines[line.line_no] = line
        if all(line.gift for line in lines.values()):
            raise InvalidValue("invalid.lines.none_left")
        terms = {name: getattr(self, name) for name in ORDER_TERMS}
        return order.model_copy(update=terms | {"lines": tuple(lines.values())})


ORDER_TERMS = tuple(name for name in Terms.model_fields if name not in {"lines", "dropped"})
"""The terms of the order as a whole, named as its fields."""


class Modify(Request):
    """Change parts of the recipient, quantities, or, for a channel, the terms of the sale."""

    recipient: RecipientChange | None = None
    lines: tuple[QuantityChange, ...] = ()
    terms: Terms | None = None
    reason: str = ""

    @model_validator(mode="after")
    def _changes_something(self) -> "Modify":
        if self.recipient is None and not self.lines and self.terms is None:
            raise InvalidValue("invalid.change.nothing")
        return self

    def applied_to(self, order: ChannelOrder) -> ChannelOrder:
        """Return the changed order. Raise ``InvalidValue`` if its lines cannot change so."""
        if self.lines:
            order = order.with_quantities({line.line_no: line.quantity for line in self.lines})
        if self.terms is not None:
            order = self.terms.applied_to(order)
        if self.recipient is not None:
            order = order.model_copy(update={"recipient": self.recipient.applied_to(order.recipient)})
        return order

    def added_lines(self, order: ChannelOrder) -> list[str]:
        """Return the numbers of the lines that the order does not have."""
        known = {line.line_no for line in order.lines}
        return [line.line_no for line in (self.terms.lines if self.terms else ()) if line.line_no not in known]

    def differences(self, order: ChannelOrder) -> str:
        """Name what the request changes of the order, without personal data: ``total 100.00 → 80.00``."""
        named = ["recipient"] if self.recipient is not None else []
        named += [f"{each.line_no} × {each.quantity}" for each in self.lines]
        if (terms := self.terms) is not None:
            for name in ORDER_TERMS:
                if getattr(order, name) != getattr(terms, name):
                    named.append(f"{name} {getattr(order, name)} → {getattr(terms, name)}")
            known = {line.line_no: line for line in order.lines}
            for line in terms.lines:
                if line.line_no not in known:
                    named.append(f"+ {line.line_no} {line.sku} × {line.quantity}")
                else:
                    was = known[line.line_no]
                    named.append(f"{line.line_no} {was.sku} × {was.quantity} → {line.sku} × {line.quantity}")
            named += [f"- {line_no}" for line_no in terms.dropped]
        return "; ".join(named)


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


class PaymentReversed(Request):
    """The channel no longer counts the order as paid."""


class Reopened(Request):
    """The channel took back its cancellation."""


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
    holds: tuple[Hold, ...] = ()
    """What still holds the order that the request was for."""
    overruled: tuple[Hold, ...] = ()
    """Holds that were lifted although their cause stands."""
    order_id: str = ""
    """The order; given where ``holds`` are."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def text(self) -> str:
        """The answer in every language, for those who read it in the Temporal UI or CLI."""
        return " / ".join(self.render(lang) for lang in LANGUAGES)

    def render(self, lang: str) -> str:
        """Return the answer as text: the reason, then every hold that remains and what to do about it."""
        texts = [t(self.reason or ("answer.done" if self.accepted else "answer.refused"), lang, **self.params)]
        for hold in self.overruled:
            texts.append(t("answer.overruled", lang, kind=hold.kind_text(lang), reason=hold.reason_text(lang)))
        for hold in self.holds:
            held = {"kind": hold.kind_text(lang), "reason": hold.reason_text(lang)}
            texts.append(t("answer.held", lang, **held, remedy=hold.remedy(self.order_id, lang)))
        return " ".join(texts)


YES = Answer(accepted=True)


def no(reason: str, **params: JsonValue) -> Answer:
    return Answer(accepted=False, reason=reason, params=params)
