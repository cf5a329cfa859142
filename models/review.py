"""Review in data: a merchant's rules of which orders go on, which wait for a person and which end; the blacklist."""

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

Word = Annotated[str, Field(pattern=r"^[\w.\- ]{1,32}$")]
Words = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,200}$")]
Code = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,64}$")]


class Approves(Value):
    """Nothing after it holds or rejects: no later rule, nor the shop's own limits."""

    do: Literal["approve"] = "approve"


class Holds(Value):
    """A person of this stage decides. Holds of two stages need both."""

    do: Literal["hold"] = "hold"
    stage: Stage = "service"
    reason: Words


class Rejects(Value):
    """The order ends; no later rule is asked."""

    do: Literal["reject"] = "reject"
    reason: Words


class Tags(Value):
    do: Literal["tag"] = "tag"
    tags: Annotated[tuple[Word, ...], Field(min_length=1, max_length=10)]


class Prioritises(Value):
    do: Literal["priority"] = "priority"
    priority: Annotated[int, Field(ge=1, le=5)]


class Places(Value):
    """Warehouses from which as few parcels as can be do not come, or from which alone it may come."""

    do: Literal["warehouse"] = "warehouse"
    locations: Annotated[tuple[Code, ...], Field(min_length=1, max_length=20)]
    only: bool = False


class Carries(Value):
    """Where buyer and channel demand no carrier."""

    do: Literal["carrier"] = "carrier"
    carrier: Code


class Gives(Value):
    """A line more, free of charge; the channel is not told of it."""

    do: Literal["gift"] = "gift"
    sku: Code
    quantity: Annotated[int, Field(ge=1, le=100)] = 1


class Delays(Value):
    """It goes on by itself afterwards, unless it was held or cancelled meanwhile."""

    do: Literal["delay"] = "delay"
    minutes: Annotated[int, Field(ge=1, le=30 * 24 * 60)]


Decision = Annotated[
    Approves | Holds | Rejects | Tags | Prioritises | Places | Carries | Gives | Delays, Field(discriminator="do")
]

LONGEST = 1000
"""Characters of an expression."""


class ReviewRule(Value):
    """Rules apply in the order of their numbers."""

    number: Annotated[int, Field(ge=0, le=1_000_000)]
    name: Words
    shops: tuple[Code, ...] = ()
    """``channel:shop``; none named, all."""
    active: bool = True
    condition: Annotated[str, Field(min_length=1, max_length=LONGEST, examples=["order.total > 5000"])]
    """An expression in CEL over the facts of docs/review.md: true where the rule applies."""
    decisions: Annotated[tuple[Decision, ...], Field(min_length=1, max_length=9)]

    @field_validator("decisions")
    @classmethod
    def _each_at_most_once(cls, decisions: tuple[Decision, ...]) -> tuple[Decision, ...]:
        kinds = [(each.do, each.stage if isinstance(each, Holds) else "") for each in decisions]
        if len(set(kinds)) < len(kinds):
            raise InvalidValue("invalid.decisions.duplicate_hold")
        return decisions

    def concerns(self, shop: str) -> bool:
        return self.active and (not self.shops or shop in self.shops)


BlacklistKind = Literal["phone", "buyer", "address"]


class BlacklistEntry(Value):
    """Somebody whose orders rules may look at; never in the clear."""

    kind: BlacklistKind
    id: str
    """The blind index."""
    hint: str
    """Enough to recognise it, not to know it."""
    reason: str = ""
    until: Moment | None = None
    """Afterwards it counts no more; ``None``: for ever."""
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
"""The facts that an expression names, as they were, by their paths."""
