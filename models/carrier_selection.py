"""Which carrier takes a parcel, and why."""

from datetime import datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator
from sqlalchemy import Column, DateTime, Numeric, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.allocation import Kilograms, Price, Rate
from models.base import CHINA, Moment, Value
from models.i18n import InvalidValue
from models.money import Amount
from models.order import CENT
from models.review import LONGEST, Code, Words
from models.state import RuleResult

Codes = Annotated[tuple[Code, ...], Field(min_length=1, max_length=50)]


class CarrierTerms(Value):
    """What a carrier takes, as staff set it up. One without terms takes everything."""

    carrier: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    name: Annotated[str, Field(max_length=100)] = ""
    name_zh: Annotated[str, Field(max_length=100)] = ""
    active: bool = True
    areas: tuple[str, ...] = ()
    """Provinces it delivers to; none named, all."""
    abilities: frozenset[str] | None = None
    """Such as ``cold_chain`` and ``dangerous_goods``; nothing said, all."""
    max_kg: Kilograms | None = None
    max_cm3: Annotated[int, Field(ge=1)] | None = None
    cash_on_delivery: bool = True
    insured_up_to: Amount | None = None
    """What a parcel may be worth; nothing named, anything."""
    capacity: Annotated[int, Field(ge=0)] | None = None
    """Parcels that it takes of one warehouse a day."""
    cutoff: time | None = None
    """What is booked after this time of day in China leaves a day later."""
    quotes: bool = False
    """It is asked for its price where it makes offers; the rate table stands in for it."""


class Weights(Value):
    """What a carrier's faults count, in the currency of the rate tables: the cheapest sum of all is chosen."""

    late: Price = Decimal(30)
    """Missing the promised day."""
    day: Price = Decimal(0)
    """Each day on the way."""
    urgent_day: Price = Decimal(10)
    """Each day on the way of an urgent order, in place of ``day``."""
    unreliable: Price = Decimal(10)
    """All parcels late on that lane; a share of them counts a share of this."""
    lost: Price = Decimal(200)
    """All parcels lost or damaged, likewise."""


class Excludes(Value):
    """These carriers do not take it."""

    do: Literal["exclude"] = "exclude"
    carriers: Codes


class Restricts(Value):
    """No others take it."""

    do: Literal["only"] = "only"
    carriers: Codes


class Favours(Value):
    """These are weighed as so much cheaper, or, below nothing, dearer."""

    do: Literal["favour"] = "favour"
    carriers: Codes
    by: Annotated[Decimal, Field(ge=-10_000, le=10_000, max_digits=12, decimal_places=4)]


class Weighs(Value):
    """Faults count so, in place of what the shop says."""

    do: Literal["weigh"] = "weigh"
    weights: Weights


CarrierDecision = Annotated[Excludes | Restricts | Favours | Weighs, Field(discriminator="do")]


class CarrierRule(Value):
    """A merchant's say in who carries a parcel. Rules apply in the order of their numbers."""

    number: Annotated[int, Field(ge=0, le=1_000_000)]
    name: Words
    shops: tuple[Code, ...] = ()
    """``channel:shop``; none named, all."""
    active: bool = True
    condition: Annotated[str, Field(min_length=1, max_length=LONGEST, examples=["parcel.weight_kg > 20.0"])]
    """An expression in CEL over the facts of docs/carriers.md: true where the rule applies."""
    decisions: Annotated[tuple[CarrierDecision, ...], Field(min_length=1, max_length=4)]

    @field_validator("decisions")
    @classmethod
    def _each_at_most_once(cls, decisions: tuple[CarrierDecision, ...]) -> tuple[CarrierDecision, ...]:
        if len({each.do for each in decisions}) < len(decisions):
            raise InvalidValue("invalid.decisions.duplicate")
        return decisions

    def concerns(self, shop: str) -> bool:
        return self.active and (not self.shops or shop in self.shops)


class Say(Value):
    """What the merchant has to say about one parcel."""

    weights: Weights = Weights()
    excluded: dict[str, str] = {}
    """Carrier → the rule that excludes it."""
    favours: dict[str, Decimal] = {}
    """Carrier → by how much it is favoured."""
    ruled: tuple[RuleResult, ...] = ()
    """The rules that applied, or failed."""


class Service(Value):
    """How a carrier did on a lane, from our own tracking."""

    parcels: int = 0
    late: int = 0
    lost: int = 0
    """Or damaged."""
    days: Decimal | None = None
    """Nine of ten parcels took no longer, from leaving to the door."""

    def share(self, count: int) -> Decimal:
        """Of all parcels, with a doubt for few: as if ten more had gone well."""
        return Decimal(count) / (self.parcels + 10)


class ShippingRequest(Value):
    """What a choice looks at of a parcel."""

    channel: str = ""
    shop: str = ""
    warehouse: str = ""
    origin: str
    """Province."""
    destination: str
    demanded: str | None = None
    """The only carrier that buyer or channel accept."""
    usual: str = ""
    """The carrier that picks up at its warehouse."""
    city: str = ""
    skus: tuple[str, ...] = ()
    quantity: int = 0
    tags: tuple[str, ...] = ()
    weight_kg: Decimal = Decimal(0)
    volume_cm3: int = 0
    needs: frozenset[str] = frozenset()
    value: Decimal = Decimal(0)
    cash_on_delivery: bool = False
    urgent: bool = False
    promised_by: Moment | None = None


class Candidate(Value):
    """A carrier that we hold an account with."""

    terms: CarrierTerms
    rate: Rate | None = None
    """The best row of its table for the lane."""
    price: Decimal | None = None
    """Its own, where it told one."""
    service: Service = Service()
    booked: int = 0
    """Parcels that it has been given by this warehouse today."""


class Option(Value):
    """What was made of one carrier."""

    carrier: str
    price: Decimal | None = None
    days: int | None = None
    score: Decimal | None = None
    reason: str
    """A message key: why it was ruled out, or what it scores."""
    params: dict[str, JsonValue] = {}
    open: bool = True
    """It may be booked with."""


class Choice(Value):
    """Every carrier looked at, the best first; kept with the parcel and shown to staff."""

    options: tuple[Option, ...]
    at: Moment
    ruled: tuple[RuleResult, ...] = ()
    """The merchant's rules that applied, or failed."""

    @property
    def carrier(self) -> str | None:
        """The best that is still open."""
        return next((each.carrier for each in self.options if each.open), None)

    def without(self, carrier: str, code: str) -> "Choice":
        """After that carrier has refused for good."""
        said = {"open": False, "reason": "choice.refused", "params": {"code": code}}
        options = (each.model_copy(update=said) if each.carrier == carrier else each for each in self.options)
        return self.model_copy(update={"options": tuple(options)})


def choose(parcel: ShippingRequest, candidates: list[Candidate], say: Say, now: datetime) -> Choice:
    """Ranks carriers by what they cost with their faults; those that cannot take it come last, with the reason.

    One without a price is taken only where nobody has one; the usual carrier first among equals.
    """
    options = [_option(parcel, each, say, now) for each in candidates]

    def rank(option: Option) -> tuple[object, ...]:
        unpriced = option.score is None
        return (not option.open, unpriced, option.score or Decimal(0), option.carrier != parcel.usual, option.carrier)

    return Choice(options=tuple(sorted(options, key=rank)), at=now, ruled=say.ruled)


def _option(parcel: ShippingRequest, candidate: Candidate, say: Say, now: datetime) -> Option:
    terms, weights = candidate.terms, say.weights
    if refusal := _refusal(parcel, candidate, say):
        return Option(carrier=terms.carrier, reason=refusal[0], params=refusal[1], open=False)
    price = candidate.price
    if price is None and candidate.rate is not None:
        price = candidate.rate.price(parcel.weight_kg, parcel.volume_cm3)
    days = _days(candidate, now)
    if price is None:
        return Option(carrier=terms.carrier, days=days, reason="choice.unpriced")
    service, faults = candidate.service, Decimal(0)
    late = days is not None and parcel.promised_by is not None and days > days_left(parcel.promised_by, now)
    faults += weights.late if late else 0
    faults += (weights.urgent_day if parcel.urgent else weights.day) * (days or 0)
    faults += weights.unreliable * service.share(service.late) + weights.lost * service.share(service.lost)
    favour = say.favours.get(terms.carrier, Decimal(0))
    score = (price + faults - favour).quantize(CENT)
    params: dict[str, JsonValue] = {"price": str(price), "faults": str(faults.quantize(CENT))}
    reason = "choice.late" if late else "choice.scored"
    if favour:
        reason = "choice.favoured_late" if late else "choice.favoured"
        params["favour"] = str(favour)
    return Option(carrier=terms.carrier, price=price, days=days, score=score, reason=reason, params=params)


def _refusal(parcel: ShippingRequest, candidate: Candidate, say: Say) -> tuple[str, dict[str, JsonValue]] | None:
    terms = candidate.terms
    if parcel.demanded not in (None, terms.carrier):
        return "choice.not_demanded", {"carrier": parcel.demanded}
    if not terms.active:
        return "choice.closed", {}
    if rule := say.excluded.get(terms.carrier):
        return "choice.excluded", {"rule": rule}
    if terms.areas and not any(parcel.destination[:2] == each[:2] for each in terms.areas):
        return "choice.area", {"province": parcel.destination}
    if unable := parcel.needs - (parcel.needs if terms.abilities is None else terms.abilities):
        return "choice.unable", {"needs": ", ".join(sorted(unable))}
    if terms.max_kg is not None and parcel.weight_kg > terms.max_kg:
        return "choice.heavy", {"kg": str(terms.max_kg)}
    if terms.max_cm3 is not None and parcel.volume_cm3 > terms.max_cm3:
        return "choice.large", {"cm3": terms.max_cm3}
    if parcel.cash_on_delivery and not terms.cash_on_delivery:
        return "choice.cash", {}
    if terms.insured_up_to is not None and parcel.value > terms.insured_up_to:
        return "choice.value", {"amount": str(terms.insured_up_to)}
    if terms.capacity is not None and candidate.booked >= terms.capacity:
        return "choice.full", {"capacity": terms.capacity}
    return None


def _days(candidate: Candidate, now: datetime) -> int | None:
    """By its own record where that is long enough, else by its table; a day more after its cut-off."""
    service, rate = candidate.service, candidate.rate
    days = None if rate is None else rate.days
    if service.days is not None and service.parcels >= 20:
        days = int(service.days) + (service.days % 1 > 0)
    if days is None:
        return None
    cutoff = candidate.terms.cutoff
    return days + (cutoff is not None and now.astimezone(CHINA).time() > cutoff)


def days_left(promised: datetime, now: datetime) -> int:
    """Days from today to the promised day, in China."""
    return (promised.astimezone(CHINA).date() - now.astimezone(CHINA).date()).days


class CarrierRow(SQLModel, table=True):
    """``CarrierTerms``."""

    __tablename__ = "carriers"

    carrier: str = Col(primary_key=True)
    terms: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))


class LaneRow(SQLModel, table=True):
    """A ``Service`` from one province to another, measured over the last ninety days."""

    __tablename__ = "lanes"

    carrier: str = Col(primary_key=True)
    origin: str = Col(primary_key=True, sa_type=String)
    destination: str = Col(primary_key=True, sa_type=String)
    parcels: int
    late: int
    lost: int
    days: Decimal | None = Col(default=None, sa_column=Column(Numeric(6, 2)))
    measured_at: datetime = Col(sa_type=DateTime(timezone=True))


class WeightsRow(SQLModel, table=True):
    """``Weights`` of a shop; those of ``""`` hold of every shop without its own."""

    __tablename__ = "carrier_weights"

    shop: str = Col(primary_key=True)
    weights: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))


class CarrierRuleRow(SQLModel, table=True):
    """A ``CarriageRule``."""

    __tablename__ = "carrier_rules"

    number: int = Col(primary_key=True)
    rule: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
