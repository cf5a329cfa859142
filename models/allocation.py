"""Allocation: sites, rates and rules that a plan depends on, and the plan with its reasons."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, time
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator
from sqlalchemy import Column, Numeric
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import CHINA, Moment, Value
from models.fulfillment import Fulfillment, FulfillmentLine
from models.i18n import InvalidValue
from models.order import NORMAL, Sites
from models.origins import Code, code
from models.policy import OBJECTIVE, Criterion
from models.stock import Shortage

Kilograms = Annotated[Decimal, Field(ge=0, max_digits=10, decimal_places=3)]
Price = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=4)]
"""Tariffs may be finer than a cent."""


class Site(Value):
    """A location that may ship, as the planner sees it."""

    code: str
    kind: Literal["warehouse", "store", "supplier"] = "warehouse"
    province: str
    rank: int = 100
    closed: bool = False
    lead_days: Annotated[int, Field(ge=0)] = 0
    """Days before goods leave, such as a supplier's."""
    capacity: int | None = None
    """Fulfillment orders it can still take today."""
    cutoff: time | None = None
    """Orders after this time of day in China leave a day later."""
    areas: tuple[str, ...] = ()
    """Provinces it delivers to; empty for all."""
    abilities: frozenset[str] = frozenset()
    """Such as ``cold_chain`` and ``dangerous_goods``."""
    max_kg: Kilograms | None = None
    """The heaviest single piece it can send."""
    handling: Price = Decimal(0)
    """Cost of one parcel."""

    def delivers_to(self, province: str) -> bool:
        return not self.areas or any(province[:2] == each[:2] for each in self.areas)

    def leaves_in(self, now: datetime) -> int:
        """Days until goods ordered now leave."""
        late = self.cutoff is not None and now.astimezone(CHINA).time() > self.cutoff
        return self.lead_days + late


class Item(Value):
    """What one piece of a SKU requires of the site that ships it."""

    weight_kg: Kilograms = Decimal(0)
    volume_cm3: Annotated[int, Field(ge=0)] = 0
    needs: tuple[str, ...] = ()
    """Abilities, such as ``cold_chain``."""

    @property
    def grams(self) -> int:
        return int(self.weight_kg * 1000)


class Rate(Value):
    """A row of a carrier's tariff: the first kilograms, then each further one begun."""

    carrier: str
    origin: str = ""
    """Province; empty for any."""
    destination: str = ""
    """Province; empty for any."""
    first_kg: Kilograms = Decimal(1)
    first_price: Price
    further_kg: Annotated[Kilograms, Field(gt=0)] = Decimal(1)
    further_price: Price = Decimal(0)
    volume_divisor: Annotated[int, Field(ge=0)] = 0
    """Cubic centimetres charged as one kilogram; 0 if volume is not charged."""
    days: Annotated[int, Field(ge=0)] = 0
    surcharge: Price = Decimal(0)

    def serves(self, origin: str, destination: str) -> bool:
        return self.origin[:2] in ("", origin[:2]) and self.destination[:2] in ("", destination[:2])

    @property
    def specificity(self) -> tuple[int, bool]:
        """Sort key: more provinces named is more specific, the destination more than the origin."""
        return bool(self.origin) + bool(self.destination), bool(self.destination)

    def steps(self, weight_kg: Decimal, volume_cm3: int = 0) -> int:
        """Return the number of further kilograms begun, by the greater of weight and volumetric weight."""
        charged = max(weight_kg, Decimal(volume_cm3) / self.volume_divisor) if self.volume_divisor else weight_kg
        whole, rest = divmod(max(charged - self.first_kg, Decimal(0)), self.further_kg)
        return int(whole) + bool(rest)

    def price(self, weight_kg: Decimal, volume_cm3: int = 0) -> Decimal:
        return self.first_price + self.steps(weight_kg, volume_cm3) * self.further_price + self.surcharge


def offers(rates: Iterable[Rate], origin: str, destination: str) -> list[Rate]:
    """Return the most specific rates of each carrier that serves the route."""
    by_carrier: dict[str, list[Rate]] = defaultdict(list)
    for rate in rates:
        if rate.serves(origin, destination):
            by_carrier[rate.carrier].append(rate)
    best: list[Rate] = []
    for rows in by_carrier.values():
        if len(rows) > 1:
            most = max(row.specificity for row in rows)
            rows = [row for row in rows if row.specificity == most]
        best += rows
    return best


def freight(
    rates: Iterable[Rate], origin: str, destination: str, weight_kg: Decimal, volume_cm3: int = 0
) -> tuple[str, Decimal, int] | None:
    """Return the cheapest carrier for a parcel, its price and its days; ``None`` if none serves the route."""
    prices = (
        (rate.carrier, rate.price(weight_kg, volume_cm3), rate.days) for rate in offers(rates, origin, destination)
    )
    return min(prices, key=lambda each: (each[1], each[2], each[0]), default=None)


class Objective(Value):
    """What makes one plan better than another. Each criterion decides only between plans equal by those before it.

    on_time: parcels that miss the promised day; lowest_cost: freight and handling; nearest: the sum of the senders'
    remoteness; balance: the shares taken of the senders' stock, in millionths.
    """

    criteria: tuple[Criterion, ...] = OBJECTIVE

    @model_validator(mode="after")
    def _criteria_are_distinct(self) -> "Objective":
        if len(set(self.criteria)) != len(self.criteria):
            raise InvalidValue("invalid.criteria.duplicate")
        return self


class Facts(Value):
    """What planning and its rules need to know of an order."""

    province: str = ""
    city: str = ""
    channel: str = ""
    shop: str = ""
    campaign: str = ""
    carrier: str | None = None
    """The only carrier that the buyer or the channel accepts."""
    total: Decimal | None = Decimal(0)
    """In the home currency; ``None`` where no exchange rate is known."""
    ask_total: str | None = None
    """What to ask a person, once, where a rule needs the total and it is not known."""
    priority: int = NORMAL
    placed_at: Moment | None = None
    promised_by: Moment | None = None
    sites: Sites | None = None
    """The locations that review prefers or requires."""


Scalar = str | int | Decimal
Scalars = Scalar | tuple[Scalar, ...]
Fact = Literal[
    "channel", "shop", "province", "city", "campaign", "total", "priority", "placed_hour",
    "lines", "quantity", "weight_kg", "sku", "any_sku",
]  # fmt: skip


NUMBERS = frozenset({"total", "priority", "placed_hour", "lines", "quantity", "weight_kg"})
"""The facts that are numbers; all others are texts."""


class Condition(Value):
    """One comparison of a rule. ``sku`` must hold for every SKU ordered, ``any_sku`` for at least one."""

    field: Fact
    op: Literal["eq", "ne", "in", "not_in", "gte", "lte"]
    value: Scalars

    @field_validator("value")
    @classmethod
    def _of_the_fields_kind(cls, value: Scalars, info: ValidationInfo) -> Scalars:
        field = info.data.get("field")

        def read(each: Scalar) -> Scalar:
            return Decimal(each) if field in NUMBERS else code(str(each)) if field == "campaign" else str(each)

        try:
            return tuple(map(read, value)) if isinstance(value, tuple) else read(value)
        except InvalidOperation:
            raise InvalidValue("invalid.number") from None

    @model_validator(mode="after")
    def _op_fits(self) -> "Condition":
        if isinstance(self.value, tuple) != (self.op in ("in", "not_in")):
            takes_list = self.op in ("in", "not_in")
            raise InvalidValue(f"invalid.condition.{'list' if takes_list else 'single'}", op=self.op)
        if self.op in ("gte", "lte") and self.field not in NUMBERS:
            raise InvalidValue("invalid.condition.not_number", fact=self.field)
        return self


class Prefer(Value):
    """Minimise parcels from other locations, before any other criterion."""

    do: Literal["prefer"] = "prefer"
    locations: tuple[str, ...]


class Exclude(Value):
    do: Literal["exclude"] = "exclude"
    locations: tuple[str, ...]


class Split(Value):
    """``never``: one parcel or none. ``allow``: several, together complete. ``in_part``: also an incomplete plan."""

    do: Literal["split"] = "split"
    split: Literal["never", "allow", "in_part"]


class Queue(Value):
    do: Literal["queue"] = "queue"
    name: str


class Ask(Value):
    """Ask a person to decide."""

    do: Literal["ask"] = "ask"
    reason: str


Action = Annotated[Prefer | Exclude | Split | Queue | Ask, Field(discriminator="do")]


class Rule(Value):
    """A merchant's routing rule. Rules apply in the order of their numbers; later ones override earlier ones."""

    number: int
    name: str
    shops: tuple[str, ...] = ()
    """``channel:shop``; empty for all."""
    campaigns: tuple[Code, ...] = ()
    """Empty for all orders, with or without a campaign."""
    active: bool = True
    condition: tuple[Condition, ...] = ()
    """All must hold."""
    action: Action

    @property
    def approval_reason(self) -> str | None:
        """Why the rule asks a person to decide, if it does."""
        return self.action.reason if isinstance(self.action, Ask) else None


class Offer(Value):
    """The cost of a parcel from one site, and its delivery time."""

    carrier: str = ""
    freight: Decimal = Decimal(0)
    handling: Decimal = Decimal(0)
    days: int = 0
    late: bool = False
    """Whether it would miss the promised day."""


class Candidate(Value):
    """The reason for or against one site, a message key with its params, and its offer."""

    warehouse: str
    chosen: bool
    reason: str
    params: dict[str, JsonValue] = {}
    offer: Offer | None = None
    """For its parcel in the plan or, if not chosen, for everything it could ship. ``None`` if it has nothing."""


class Load(Value):
    """The lines that one warehouse is to ship."""

    warehouse: str
    lines: tuple[FulfillmentLine, ...]


class Measure(Value):
    """A plan's value by one criterion."""

    criterion: Criterion
    value: Decimal


class Applied(Value):
    """A rule that applied, as it was at that time."""

    number: int
    name: str
    action: Action


class Plan(Value):
    """Which warehouse ships what, what is missing, and why; stored with the order and shown to staff."""

    loads: tuple[Load, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    measures: tuple[Measure, ...] = ()
    """In the order of the objective."""
    rules: tuple[Applied, ...] = ()
    queue: str | None = None
    ask: str | None = None
    """Why a rule asks a person to decide."""
    in_part: bool = False
    """Available goods leave without the rest."""
    blocked: str | None = None
    """Why goods are missing although they are in stock, as a message key: the plan needs another rule or site, not more
    stock."""
    exact: bool = True
    """Whether the plan is proven to be the best; otherwise it is the best found within the search limit."""


class Allocation(Value):
    """An order's active fulfillment orders and shortages, or whether stock was reserved for an unpaid order."""

    fulfillments: tuple[Fulfillment, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    reserved: bool = False
    out_of_reach: bool = False
    """The missing goods are in stock, but no location that has them may ship them: more stock does not help."""
    ask: str | None = None
    """Nothing was allocated: a rule asks a person to decide, for this reason."""


class RuleRow(SQLModel, table=True):
    """A ``Rule``."""

    __tablename__ = "routing_rules"

    number: int = Col(primary_key=True)
    name: str
    shops: list[str] = Col(sa_column=Column(JSONB, nullable=False))
    campaigns: list[str] = Col(sa_column=Column(JSONB, nullable=False))
    active: bool = True
    condition: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    action: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))


class RateRow(SQLModel, table=True):
    """A ``Rate``."""

    __tablename__ = "rates"

    carrier: str = Col(primary_key=True)
    origin: str = Col(primary_key=True)
    destination: str = Col(primary_key=True)
    first_kg: Decimal = Col(sa_column=Column(Numeric(10, 3), nullable=False))
    first_price: Decimal = Col(sa_column=Column(Numeric(12, 4), nullable=False))
    further_kg: Decimal = Col(sa_column=Column(Numeric(10, 3), nullable=False))
    further_price: Decimal = Col(sa_column=Column(Numeric(12, 4), nullable=False))
    volume_divisor: int = 0
    days: int = 0
    surcharge: Decimal = Col(sa_column=Column(Numeric(12, 4), nullable=False))
