"""Planning: which site ships how many of what, and why.

Hard limits exclude sites. Among the others, the criteria of the objective choose the best plan, each deciding only
between plans equal by those before it; the sites' rank and code decide last. ``plan`` is pure: the same problem yields
the same plan.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from math import inf

from pydantic import JsonValue

from activities.allocation.rules import RuleResult, evaluate
from activities.allocation.scoring import Due, Sender, Shares, Tariff
from activities.allocation.search import Search
from models.address import remoteness
from models.allocation import (
    Candidate,
    Facts,
    Item,
    Load,
    Measure,
    Objective,
    Offer,
    Plan,
    Rate,
    Rule,
    Site,
    offers,
)
from models.base import CHINA
from models.fulfillment import FulfillmentLine
from models.stock import Shortage

Stock = Mapping[str, Mapping[str, int]]
"""Promisable quantities: warehouse → SKU → quantity."""

NODES = 10_000
"""Search steps for one plan."""
_WIDTH = 64
"""Bits of one criterion in a score."""
_STOCK = 1_000_000
"""Value of a site's whole stock of a SKU in the balance criterion."""
_TARIFF = 10_000
"""Units of price in one unit of currency."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything that a plan depends on."""

    order: Facts
    lines: Sequence[FulfillmentLine]
    stock: Stock
    sites: Sequence[Site]
    now: datetime
    items: Mapping[str, Item] = field(default_factory=dict)
    """A SKU that is not listed weighs nothing and needs nothing."""
    rates: Sequence[Rate] = ()
    """Without rates, or without rates of the carrier demanded, freight is free to anywhere."""
    rules: Sequence[Rule] = ()
    objective: Objective = field(default_factory=Objective)
    allow_partial: bool = False
    """Available goods may leave without the rest."""


def plan(problem: Problem) -> Plan:
    """Plan the lines: all of them or none, unless partial plans are allowed."""
    return _Planning(problem).plan()


def _total(lines: Sequence[FulfillmentLine]) -> Counter[str]:
    total: Counter[str] = Counter()
    for line in lines:
        total[line.sku] += line.quantity
    return total


@dataclass(frozen=True)
class _Refusal:
    """Why a site is excluded: a message key with its params."""

    reason: str
    params: Mapping[str, str]


class _Planning:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.province = problem.order.province
        self.total = _total(problem.lines)
        self.items = {sku: problem.items.get(sku) or Item() for sku in self.total}
        self.sizes = {sku: (item.grams, item.volume_cm3) for sku, item in self.items.items()}
        self.size = self._size(self.total)
        self.rules: RuleResult = evaluate(problem.rules, problem.order, problem.lines, problem.items)
        self.digits = ("preferred", *problem.objective.criteria, "rank")
        """The parts of a score, the first weighing most."""
        self.places = {digit: _WIDTH * place for place, digit in enumerate(reversed(self.digits))}
        self.sites = sorted(problem.sites, key=lambda site: (site.rank, site.code))
        self.days_left = _days_left(problem)
        self.rates = {site.code: self._rates(site) for site in self.sites}
        self.stock = {site.code: self._shippable(site) for site in self.sites}
        self.refused = {site.code: refusal for site in self.sites if (refusal := self._refusal(site))}
        self.senders = {
            site.code: self._sender(site, position)
            for position, site in enumerate(self.sites, 1)
            if site.code not in self.refused and self.stock[site.code]
        }

    def plan(self) -> Plan:
        stocks = [sender.stock for sender in self.senders.values()]
        missing = self._missing({sku: sum([held.get(sku, 0) for held in stocks]) for sku in self.total})
        in_part = self.problem.allow_partial if self.rules.split is None else self.rules.split == "in_part"
        search = self._search({} if missing and not in_part else self.total - Counter(missing))
        shares = search.run()
        blocked = "plan.blocked.limits" if any(map(self._is_out_of_reach, missing)) else None
        if not missing and not shares:
            missing, blocked = self._missing_for_one(), "plan.blocked.split"
        return Plan(
            loads=self._loads(shares),
            shortages=tuple([Shortage(sku=sku, quantity=quantity) for sku, quantity in missing.items()]),
            candidates=tuple([self._candidate(site, shares, search.score or 0) for site in self.problem.sites]),
            measures=self._measures(search.score or 0),
            rules=self.rules.applied,
            queue=self.rules.queue,
            ask=self.rules.ask,
            in_part=in_part,
            blocked=blocked,
            exact=search.exact,
        )

    def _search(self, quantities: Mapping[str, int]) -> Search:
        criteria = self.problem.objective.criteria
        leading = criteria[: criteria.index("fewest_parcels")] if "fewest_parcels" in criteria else criteria
        return Search(
            {sku: Due(quantity, *self.sizes[sku]) for sku, quantity in quantities.items()},
            list(self.senders.values()),
            most=1 if self.rules.split == "never" else None,
            fewest={"lowest_cost", "balance"}.isdisjoint(leading),
            nodes=NODES,
        )

    def _missing(self, stock: Mapping[str, int]) -> dict[str, int]:
        return {sku: short for sku, quantity in self.total.items() if (short := quantity - stock.get(sku, 0)) > 0}

    def _missing_for_one(self) -> dict[str, int]:
        """Return what is missing at the site that comes closest to shipping everything alone."""
        missing = [self._missing(sender.stock) for sender in self.senders.values()]
        return min(missing, key=lambda each: sum(each.values()), default={})

    def _is_out_of_reach(self, sku: str) -> bool:
        """Whether there is enough stock of the SKU, although not at sites that may ship it."""
        return sum(self._held(site, sku) for site in self.sites) >= self.total[sku]

    # Hard limits

    def _refusal(self, site: Site) -> _Refusal | None:
        if site.closed:
            return _Refusal("plan.closed", {})
        if rule := self.rules.excluded.get(site.code):
            return _Refusal("plan.excluded", {"rule": rule})
        sites = self.problem.order.sites
        if sites is not None and sites.only and site.code not in sites.locations:
            return _Refusal("plan.limited", {})
        if not site.delivers_to(self.province):
            return _Refusal("plan.area", {"province": self.province})
        if site.capacity is not None and site.capacity <= 0:
            return _Refusal("plan.full", {})
        if not self.rates[site.code]:
            return _Refusal("plan.no_carrier", {"province": self.province})
        if not self.stock[site.code] and (held := [sku for sku in self.total if self._held(site, sku)]):
            unable = {need for sku in held for need in self.items[sku].needs} - site.abilities
            return (
                _Refusal("plan.unable", {"needs": ", ".join(sorted(unable))})
                if unable
                else _Refusal("plan.heavy", {"skus": ", ".join(held)})
            )
        return None

    def _held(self, site: Site, sku: str) -> int:
        return max(self.problem.stock.get(site.code, {}).get(sku, 0), 0)

    def _shippable(self, site: Site) -> dict[str, int]:
        """Return the stock that the site has and is able to ship."""
        return {
            sku: held
            for sku, item in self.items.items()
            if (held := self._held(site, sku))
            and site.abilities.issuperset(item.needs)
            and (site.max_kg is None or item.weight_kg <= site.max_kg)
        }

    def _rates(self, site: Site) -> list[Rate]:
        """Return the rates of each carrier that may be used; freight is free if there are none."""
        demanded = self.problem.order.carrier
        rates = [each for each in self.problem.rates if demanded in (None, each.carrier)]
        return offers(rates, site.province, self.province) if rates else [_free(demanded or "")]

    # Scores

    def _digit(self, criterion: str, value: int) -> int:
        """Shift a value of a criterion to its place in a score; 0 if the criterion does not count."""
        return value << self.places[criterion] if criterion in self.places else 0

    def _value(self, score: int, criterion: str) -> int:
        return score >> self.places[criterion] & (1 << _WIDTH) - 1

    def _sender(self, site: Site, position: int) -> Sender:
        stock = self.stock[site.code]
        fixed = (
            self._digit("preferred", bool(self.rules.preferred) and site.code not in self.rules.preferred)
            + self._digit("fewest_parcels", 1)
            + self._digit("nearest", remoteness(site.province, self.province))
            + self._digit("rank", position)
        )
        leaves_in = site.leaves_in(self.problem.now)
        tariffs = [self._tariff(site, rate, fixed, leaves_in) for rate in self.rates[site.code]]
        above = self.places["fewest_parcels"] + _WIDTH if "fewest_parcels" in self.places else None
        return Sender(
            code=site.code,
            stock=stock,
            tariffs=tariffs,
            piece={sku: self._digit("balance", round(_STOCK / held)) for sku, held in stock.items()},
            tier=0 if above is None else min([each.score for each in tariffs]) >> above,
        )

    def _tariff(self, site: Site, rate: Rate, fixed: int, leaves_in: int) -> Tariff:
        price = int((rate.first_price + rate.surcharge + site.handling) * _TARIFF)
        return Tariff(
            score=fixed
            + self._digit("on_time", leaves_in + rate.days > self.days_left)
            + self._digit("lowest_cost", price),
            first=int(rate.first_kg * 1000),
            further=int(rate.further_kg * 1000),
            step=self._digit("lowest_cost", int(rate.further_price * _TARIFF)),
            divisor=rate.volume_divisor,
        )

    # Results

    def _measures(self, score: int) -> tuple[Measure, ...]:
        values = [(each, self._value(score, each)) for each in self.problem.objective.criteria]
        return tuple(
            [
                Measure(criterion=each, value=Decimal(value) / (_TARIFF if each == "lowest_cost" else 1))
                for each, value in values
            ]
        )

    def _loads(self, shares: Shares) -> tuple[Load, ...]:
        """Ship each line from one site if its share allows, the nearest site first."""
        codes = [
            site.code
            for site in sorted(
                [site for site in self.sites if site.code in shares],
                key=lambda site: remoteness(site.province, self.province),
            )
        ]
        if len(codes) == 1 and shares[codes[0]] == self.total:
            return (Load(warehouse=codes[0], lines=tuple(self.problem.lines)),)
        left = {code: dict(shares[code]) for code in codes}
        loads: dict[str, list[FulfillmentLine]] = defaultdict(list)
        for line in self.problem.lines:
            quantity = line.quantity
            whole = [code for code in codes if left[code].get(line.sku, 0) >= quantity]
            whole.sort(key=lambda code: left[code][line.sku] != quantity)
            for code in whole[:1] or codes:
                if part := min(quantity, left[code].get(line.sku, 0)):
                    left[code][line.sku] -= part
                    loads[code].append(line.model_copy(update={"quantity": part}))
                    quantity -= part
        return tuple(Load(warehouse=code, lines=tuple(loads[code])) for code in codes)

    def _candidate(self, site: Site, shares: Shares, score: int) -> Candidate:
        if refusal := self.refused.get(site.code):
            return Candidate(warehouse=site.code, chosen=False, reason=refusal.reason, params=dict(refusal.params))
        share = shares.get(site.code)
        possible = share or self.total & Counter(self.stock[site.code])
        reason, params = self._verdict(site, bool(share), score)
        offer = self._offer(site, possible) if possible else None
        return Candidate(warehouse=site.code, chosen=bool(share), reason=reason, params=params, offer=offer)

    def _verdict(self, site: Site, chosen: bool, score: int) -> tuple[str, dict[str, JsonValue]]:
        if chosen:
            near = remoteness(site.province, self.province) == 0
            return "plan.nearest" if near else "plan.chosen", {}
        if missing := self._missing(self.stock[site.code]):
            return "plan.lacks", {"skus": ", ".join(missing)}
        alone = self.senders[site.code].alone(self.total, *self.size)
        criterion = next((each for each in self.digits if self._value(alone, each) > self._value(score, each)), "rank")
        return "plan.behind", {"by": f"plan.by.{criterion}"}

    def _offer(self, site: Site, quantities: Mapping[str, int]) -> Offer:
        """Return the best carrier's offer for the site's parcel."""
        grams, cm3 = self._size(quantities)
        tariffs = zip(self.senders[site.code].tariffs, self.rates[site.code], strict=True)
        offers = [(tariff.quote(grams, cm3).score, rate.days, rate.carrier, rate) for tariff, rate in tariffs]
        rate = min(offers, key=lambda each: each[:3])[3]
        days = site.leaves_in(self.problem.now) + rate.days
        return Offer(
            carrier=rate.carrier,
            freight=rate.price(Decimal(grams) / 1000, cm3),
            handling=site.handling,
            days=days,
            late=days > self.days_left,
        )

    def _size(self, quantities: Mapping[str, int]) -> tuple[int, int]:
        """Return grams and cubic centimetres."""
        grams = cm3 = 0
        for sku, quantity in quantities.items():
            each_grams, each_cm3 = self.sizes[sku]
            grams += quantity * each_grams
            cm3 += quantity * each_cm3
        return grams, cm3


@cache
def _free(carrier: str) -> Rate:
    return Rate(carrier=carrier, first_price=Decimal(0))


def _days_left(problem: Problem) -> float:
    """Return the days until the promised day; infinity if none is promised."""
    promised = problem.order.promised_by
    if promised is None:
        return inf
    return (promised.astimezone(CHINA).date() - problem.now.astimezone(CHINA).date()).days
