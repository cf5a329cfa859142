"""Review as data: a merchant's rules that approve, hold, reject or change orders, and the blacklist."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator
from sqlalchemy import Column, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Moment, Value
from models.hold import Stage
from models.i18n import InvalidValue

Tag = Annotated[str, Field(pattern=r"^[\w.\- ]{1,32}$")]
ShortText = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,200}$")]
Code = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,64}$")]


class ApproveOrder(Value):
    """Let neither later rules nor the shop's own limits hold, reject or delay the order."""

    do: Literal["approve"] = "approve"


class HoldOrder(Value):
    """Hold for the approval of this stage. Holds of two stages need both approvals."""

    do: Literal["hold"] = "hold"
    stage: Stage = "service"
    reason: ShortText


class RejectOrder(Value):
    """End the order; later rules are skipped."""

    do: Literal["reject"] = "reject"
    reason: ShortText


class AddTags(Value):
    do: Literal["tag"] = "tag"
    tags: Annotated[tuple[Tag, ...], Field(min_length=1, max_length=10)]


class SetPriority(Value):
    do: Literal["priority"] = "priority"
    priority: Annotated[int, Field(ge=1, le=5)]


class ChooseWarehouses(Value):
    """Prefer these warehouses, or with ``only`` allow no others."""

    do: Literal["warehouse"] = "warehouse"
    locations: Annotated[tuple[Code, ...], Field(min_length=1, max_length=20)]
    only: bool = False


class ChooseCarrier(Value):
    """Set the carrier, unless buyer or channel require one."""

    do: Literal["carrier"] = "carrier"
    carrier: Code


class AddGift(Value):
    """Add a line free of charge; the channel does not know it."""

    do: Literal["gift"] = "gift"
    sku: Code
    quantity: Annotated[int, Field(ge=1, le=100)] = 1


class DelayOrder(Value):
    """Extend the grace period; afterwards the order proceeds by itself."""

    do: Literal["delay"] = "delay"
    minutes: Annotated[int, Field(ge=1, le=30 * 24 * 60)]


Decision = Annotated[
    ApproveOrder
    | HoldOrder
    | RejectOrder
    | AddTags
    | SetPriority
    | ChooseWarehouses
    | ChooseCarrier
    | AddGift
    | DelayOrder,
    Field(discriminator="do"),
]

MAX_EXPRESSION_LENGTH = 1000
"""Characters."""


class ReviewRule(Value):
    """A merchant's review rule. Rules apply in the order of their numbers."""

    number: Annotated[int, Field(ge=0, le=1_000_000)]
    name: ShortText
    shops: tuple[Code, ...] = ()
    """``channel:shop``; empty: all."""
    active: bool = True
    condition: Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION_LENGTH, examples=["order.total > 5000"])]
    """An expression in CEL over the facts of docs/review.md: true where the rule applies."""
    decisions: Annotated[tuple[Decision, ...], Field(min_length=1, max_length=9)]

    @field_validator("decisions")
    @classmethod
    def _each_at_most_once(cls, decisions: tuple[Decision, ...]) -> tuple[Decision, ...]:
        kinds = [(each.do, each.stage if isinstance(each, HoldOrder) else "") for each in decisions]
        if len(set(kinds)) < len(kinds):
            raise InvalidValue("invalid.decisions.duplicate_hold")
        return decisions

    def applies_to(self, shop: str) -> bool:
        return self.active and (not self.shops or shop in self.shops)


BlacklistKind = Literal["phone", "buyer", "address"]


class BlacklistEntry(Value):
    """A phone, buyer account or address that rules may match; never stored in clear text."""

    kind: BlacklistKind
    id: str
    """The blind index."""
    hint: str
    """A masked form for staff to recognise."""
    reason: str = ""
    until: Moment | None = None
    """When the entry expires; ``None``: never."""
    added_by: str = ""
    added_at: Moment


class ReviewRuleRow(SQLModel, table=True):
    """A ``ReviewRule``."""

    __tablename__ = "review_rules"

    number: int = Col(primary_key=True)
    name: str
    shops: list[str] = Col(sa_column=Column(JSONB, nullable=False))
    active: bool = True
    condition: str
    decisions: list[Any] = Col(sa_column=Column(JSONB, nullable=False))


class BlacklistRow(SQLModel, table=True):
    """A ``BlacklistEntry``."""

    __tablename__ = "blacklist"

    kind: str = Col(primary_key=True)
    id: str = Col(primary_key=True)
    hint: str
    reason: str = ""
    until: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    added_by: str = ""
    added_at: datetime = Col(sa_type=DateTime(timezone=True))


Values = dict[str, JsonValue]
"""The values of the facts that an expression names, by path."""
