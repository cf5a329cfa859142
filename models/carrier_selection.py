"""Carrier selection: terms, merchant rules, and the ranking of carriers for a shipping request."""

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
from models.review import MAX_EXPRESSION_LENGTH, Code, ShortText
from models.state import RuleResult

Codes = Annotated[tuple[Code, ...], Field(min_length=1, max_length=50)]


class CarrierTerms(Value):
    """What a carrier accepts, as set by staff. A carrier without terms accepts everything."""

    carrier: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    name: Annotated[str, Field(max_length=100)] = ""
    name_zh: Annotated[str, Field(max_length=100)] = ""
    active: bool = True
    areas: tuple[str, ...] = ()
    """Provinces that the carrier delivers to; empty: all."""
    abilities: frozenset[str] | None = None
    """Such as ``cold_chain`` and ``dangerous_goods``; ``None``: all."""
    max_kg: Kilograms | None = None
    max_cm3: Annotated[int, Field(ge=1)] | None = None
    cash_on_delivery: bool = True
    insured_up_to: Amount | None = None
    """The highest value of a parcel, in the home currency; ``None``: no limit."""
    capacity: Annotated[int, Field(ge=0)] | None = None
    """Parcels a day from one warehouse."""
    cutoff: time | None = None
    """Parcels booked after this time of day in China leave a day later."""
    quotes: bool = False
    """Ask the carrier for its price where its adapter can; otherwise, the rate table applies."""


class Weights(Value):
    """Penalties added to a carrier's price, in the currency of the rate tables; the lowest total is chosen."""

    late: Price = Decimal(30)
    """For missing the promised day."""
    day: Price = Decimal(0)
    """For each day in transit."""
    urgent_day: Price = Decimal(10)
    """For each day in transit of an urgent order, in place of ``day``."""
    unreliable: Price = Decimal(10)
    """Times the share of the carrier's parcels on the lane that were late."""
    lost: Price = Decimal(200)
    """Times the share of the carrier's parcels on the lane that were lost or damaged."""


class ExcludeCarriers(Value):
    do: Literal["exclude"] = "exclude"
    carriers: Codes


class RestrictToCarriers(Value):
    """Exclude all other carriers."""

    do: Literal["only"] = "only"
    carriers: Codes


class FavourCarriers(Value):
    """Rank these carriers as ``by`` cheaper, or dearer where negative."""

    do: Literal["favour"] = "favour"
    carriers: Codes
    by: Annotated[Decimal, Field(ge=-10_000, le=10_000, max_digits=12, decimal_places=4)]


class OverrideWeights(Value):
    """Use these weights in place of the shop's."""

    do: Literal["weigh"] = "weigh"
    weights: Weights


CarrierDecision = Annotated[
    ExcludeCarriers | RestrictToCarriers | FavourCarriers | OverrideWeights, Field(discriminator="do")
]


class CarrierRule(Value):
    """A merchant's rule for choosing carriers. Rules apply in the order of their numbers."""

    number: Annotated[int, Field(ge=0, le=1_000_000)]
    name: ShortText
    shops: tuple[Code, ...] = ()
    """``channel:shop``; empty: all."""
    active: bool = True
    condition: Annotated[
        str, Field(min_length=1, max_length=MAX_EXPRESSION_LENGTH, examples=["parcel.weight_kg > 20.0"])
    ]
    """An expression in CEL over the facts of docs/carriers.md: true where the rule applies."""
    decisions: Annotated[tuple[CarrierDecision, ...], Field(min_length=1, max_length=4)]

    @field_validator("decisions")
    @classmethod
    def _each_at_most_once(cls, decisions: tuple[CarrierDecision, ...]) -> tuple[CarrierDecision, ...]:
        if len({each.do for each in decisions}) < len(decisions):
            raise InvalidValue("invalid.decisions.duplicate")
        return decisions

    def applies_to(self, shop: str) -> bool:
        return self.active and (not self.shops or shop in self.shops)


class RuleOutcome(Value):
    """The combined outcome of a merchant's rules for one shipping request."""

    weights: Weights = Weights()
    excluded: dict[str, str] = {}
    """Carrier → the rule that excludes it."""
    bonuses: dict[str, Decimal] = {}
    """Carrier → the amount by which it is ranked cheaper."""
    results: tuple[RuleResult, ...] = ()
    """The rules that applied, or failed."""


class LanePerformance(Value):
    """A carrier's performance on a lane, from our own tracking."""

    parcels: int = 0
    late: int = 0
    lost: int = 0
    """Or damaged."""
    days: Decimal | None = None
    """Transit days, 90th percentile."""

    def share(self, count: int) -> Decimal:
        """Return ``count`` as a share of all parcels, smoothed by ten more that went well."""
        return Decimal(count) / (self.parcels + 10)


class ShippingRequest(Value):
    """A parcel that needs a carrier, with everything that the choice depends on."""

    channel: str = ""
    shop: str = ""
    warehouse: str = ""
    origin: str
    """Province."""
    destination: str
    required_carrier: str | None = None
    """The only carrier that buyer or channel accept."""
    default_carrier: str = ""
    """The carrier that picks up at the warehouse."""
    city: str = ""
    skus: tuple[str, ...] = ()
    quantity: int = 0
    tags: tuple[str, ...] = ()
    weight_kg: Decimal = Decimal(0)
    volume_cm3: int = 0
    needs: frozenset[str] = frozenset()
    value: Decimal = Decimal(0)
    """In the home currency."""
    no_rate: str = ""
    """The currency of the order, where the value is not known for want of its exchange rate."""
    cash_on_delivery: bool = False
    urgent: bool = False
    promised_by: Moment | None = None


class Candidate(Value):
    """A carrier that we have an account with."""

    terms: CarrierTerms
    rate: Rate | None = None
    """The best row of the carrier's rate table for the lane."""
    price: Decimal | None = None
    """Quoted by the carrier."""
    performance: LanePerformance = LanePerformance()
    booked: int = 0
    """Parcels booked today from this warehouse."""


class CarrierOption(Value):
    """A carrier's score, or the reason it was ruled out."""

    carrier: str
    price: Decimal | None = None
    days: int | None = None
    score: Decimal | None = None
    reason: str
    """A message key."""
    params: dict[str, JsonValue] = {}
    open: bool = True
    """Whether the carrier may be booked."""


class Choice(Value):
    """All candidates, the best first; saved with the fulfillment order and shown to staff."""

    options: tuple[CarrierOption, ...]
    at: Moment
    ruled: tuple[RuleResult, ...] = ()
    """The merchant's rules that applied, or failed."""

    @property
    def carrier(self) -> str | None:
        """The best carrier that is still open."""
        return next((each.carrier for each in self.options if each.open), None)

    def without(self, carrier: str, code: str) -> "Choice":
        """Return the choice after this carrier has refused for good."""
        refusal = {"open": False, "reason": "choice.refused", "params": {"code": code}}
        options = (each.model_copy(update=refusal) if each.carrier == carrier else each for each in self.options)
        return self.model_copy(update={"options": tuple(options)})


def rank_carriers(request: ShippingRequest, candidates: list[Candidate], outcome: RuleOutcome, now: datetime) -> Choice:
    """Rank carriers by price plus penalties; those ruled out come last, with the reason.

    A carrier without a price ranks behind all that have one. Among equals, the default carrier comes first.
    """
    options = [_option(request, each, outcome, now) for each in candidates]

    def rank(option: CarrierOption) -> tuple[object, ...]:
        unpriced = option.score is None
        return (
            not option.open,
            unpriced,
            option.score or Decimal(0),
            option.carrier != request.default_carrier,
            option.carrier,
        )

    return Choice(options=tuple(sorted(options, key=rank)), at=now, ruled=outcome.results)


def _option(request: ShippingRequest, candidate: Candidate, outcome: RuleOutcome, now: datetime) -> CarrierOption:
    terms, weights = candidate.terms, outcome.weights
    if refusal := _refusal(request, candidate, outcome):
        return CarrierOption(carrier=terms.carrier, reason=refusal[0], params=refusal[1], open=False)
    price = candidate.price
    if price is None and candidate.rate is not None:
        price = candidate.rate.price(request.weight_kg, request.volume_cm3)
    days = _days(candidate, now)
    if price is None:
        return CarrierOption(carrier=terms.carrier, days=days, reason="choice.unpriced")
    performance, penalties = candidate.performance, Decimal(0)
    late = days is not None and request.promised_by is not None and days > days_left(request.promised_by, now)
    penalties += weights.late if late else 0
    penalties += (weights.urgent_day if request.urgent else weights.day) * (days or 0)
    penalties += weights.unreliable * performance.share(performance.late)
    penalties += weights.lost * performance.share(performance.lost)
    bonus = outcome.bonuses.get(terms.carrier, Decimal(0))
    score = (price + penalties - bonus).quantize(CENT)
    params: dict[str, JsonValue] = {"price": str(price), "faults": str(penalties.quantize(CENT))}
    reason = "choice.late" if late else "choice.scored"
    if bonus:
        reason = "choice.favoured_late" if late else "choice.favoured"
        params["favour"] = str(bonus)
    return CarrierOption(carrier=terms.carrier, price=price, days=days, score=score, reason=reason, params=params)


def _refusal(
    request: ShippingRequest, candidate: Candidate, outcome: RuleOutcome
) -> tuple[str, dict[str, JsonValue]] | None:
    terms = candidate.terms
    if request.required_carrier not in (None, terms.carrier):
        return "choice.not_demanded", {"carrier": request.required_carrier}
    if not terms.active:
        return "choice.closed", {}
    if rule := outcome.excluded.get(terms.carrier):
        return "choice.excluded", {"rule": rule}
    if terms.areas and not any(request.destination[:2] == each[:2] for each in terms.areas):
        return "choice.area", {"province": request.destination}
    if unable := request.needs - (request.needs if terms.abilities is None else terms.abilities):
        return "choice.unable", {"needs": ", ".join(sorted(unable))}
    if terms.max_kg is not None and request.weight_kg > terms.max_kg:
        return "choice.heavy", {"kg": str(terms.max_kg)}
    if terms.max_cm3 is not None and request.volume_cm3 > terms.max_cm3:
        return "choice.large", {"cm3": terms.max_cm3}
    if request.cash_on_delivery and not terms.cash_on_delivery:
        return "choice.cash", {}
    if terms.insured_up_to is not None and request.no_rate:
        return "choice.no_rate", {"currency": request.no_rate}
    if terms.insured_up_to is not None and request.value > terms.insured_up_to:
        return "choice.value", {"amount": str(terms.insured_up_to)}
    if terms.capacity is not None and candidate.booked >= terms.capacity:
        return "choice.full", {"capacity": terms.capacity}
    return None


def _days(candidate: Candidate, now: datetime) -> int | None:
    """Return the transit days, measured where 20 parcels were, else from the rate table; one more after the cut-off."""
    performance, rate = candidate.performance, candidate.rate
    days = None if rate is None else rate.days
    if performance.days is not None and performance.parcels >= 20:
        days = int(performance.days) + (performance.days % 1 > 0)
    if days is None:
        return None
    cutoff = candidate.terms.cutoff
    return days + (cutoff is not None and now.astimezone(CHINA).time() > cutoff)


def days_left(promised: datetime, now: datetime) -> int:
    """Return the days from today to the promised day, in China."""
    return (promised.astimezone(CHINA).date() - now.astimezone(CHINA).date()).days


class CarrierRow(SQLModel, table=True):
    """``CarrierTerms``."""

    __tablename__ = "carriers"

    carrier: str = Col(primary_key=True)
    terms: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))


class LaneRow(SQLModel, table=True):
    """A carrier's ``LanePerformance`` from one province to another over the last ninety days."""

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
    """``Weights`` of a shop; those of ``""`` apply to every shop without its own."""

    __tablename__ = "carrier_weights"

    shop: str = Col(primary_key=True)
    weights: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))


class CarrierRuleRow(SQLModel, table=True):
    """A ``CarrierRule``."""

    __tablename__ = "carrier_rules"

    number: int = Col(primary_key=True)
    rule: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
