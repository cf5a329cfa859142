"""Planning: which site sends how many of what, and why.

Hard limits rule sites out. Of what is left, the best plan by the criteria of the objective, each deciding between
equals of those before it; last of all the sites' rank and code. ``plan`` is pure: the same problem, the same plan.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from math import inf

from pydantic import JsonValue

from activities.allocation.rules import Ruling, evaluate
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
"""What each warehouse can promise: warehouse → SKU → quantity."""

NODES = 10_000
"""Steps of search for one plan."""
_WIDTH = 64
"""Bits of one criterion in a score."""
_STOCK = 1_000_000
"""The whole of a site's stock of a SKU, in the criterion of balance."""
_TARIFF = 10_000
"""As fine as a price can be."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """All that a plan depends on."""

    order: Facts
    wanted: Sequence[FulfillmentLine]
    stock: Stock
    sites: Sequence[Site]
    now: datetime
    items: Mapping[str, Item] = field(default_factory=dict)
    """What is not known of a SKU weighs nothing and needs nothing."""
    rates: Sequence[Rate] = ()
    """Where there are none, or none of the carrier demanded, freight is free to anywhere."""
    rules: Sequence[Rule] = ()
    objective: Objective = field(default_factory=Objective)
    in_part: bool = False
    """What is there may leave without the rest."""


def plan(problem: Problem) -> Plan:
    """The plan for what is wanted; all of it or none unless in part."""
    return _Planning(problem).plan()


def _total(wanted: Sequence[FulfillmentLine]) -> Counter[str]:
    total: Counter[str] = Counter()
    for line in wanted:
        total[line.sku] += line.quantity
    return total


@dataclass(frozen=True)
class _Refusal:
    """Why a site is ruled out."""

    reason: str
    params: Mapping[str, str]


class _Planning:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.province = problem.order.province
        self.total = _total(problem.wanted)
        self.items = {sku: problem.items.get(sku) or Item() for sku in self.total}
        self.sizes = {sku: (item.grams, item.volume_cm3) for sku, item in self.items.items()}
        self.size = self._size(self.total)
        self.ruling: Ruling = evaluate(problem.rules, problem.order, problem.wanted, problem.items)
        self.digits = ("preferred", *problem.objective.criteria, "rank")
        """What a score is made of, the first weighing most."""
        self.places = {digit: _WIDTH * place for place, digit in enumerate(reversed(self.digits))}
        self.sites = sorted(problem.sites, key=lambda site: (site.rank, site.code))
        self.days_left = _days_left(problem)
        self.rates = {site.code: self._rates(site) for site in self.sites}
        self.stock = {site.code: self._sendable(site) for site in self.sites}
        self.refused = {site.code: found for site in self.sites if (found := self._refusal(site))}
        self.senders = {
            site.code: self._sender(site, position)
            for position, site in enumerate(self.sites, 1)
            if site.code not in self.refused and self.stock[site.code]
        }

    def plan(self) -> Plan:
        stocks = [sender.stock for sender in self.senders.values()]
        missing = self._lacks({sku: sum([held.get(sku, 0) for held in stocks]) for sku in self.total})
        in_part = self.problem.in_part if self.ruling.split is None else self.ruling.split == "in_part"
        search = self._search({} if missing and not in_part else self.total - Counter(missing))
        shares = search.run()
        blocked = "plan.blocked.limits" if any(map(self._is_kept_back, missing)) else None
        if not missing and not shares:
            missing, blocked = self._missing_for_one(), "plan.blocked.split"
        return Plan(
            loads=self._loads(shares),
            shortages=tuple([Shortage(sku=sku, quantity=quantity) for sku, quantity in missing.items()]),
            candidates=tuple([self._candidate(site, shares, search.score or 0) for site in self.problem.sites]),
            measures=self._measures(search.score or 0),
            rules=self.ruling.applied,
            queue=self.ruling.queue,
            ask=self.ruling.ask,
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
            most=1 if self.ruling.split == "never" else None,
            fewest={"lowest_cost", "balance"}.isdisjoint(leading),
            nodes=NODES,
        )

    def _lacks(self, stock: Mapping[str, int]) -> dict[str, int]:
        return {sku: lack for sku, quantity in self.total.items() if (lack := quantity - stock.get(sku, 0)) > 0}

    def _missing_for_one(self) -> dict[str, int]:
        """What the site that has most of it lacks to send it all at once."""
        lacks = [self._lacks(sender.stock) for sender in self.senders.values()]
        return min(lacks, key=lambda each: sum(each.values()), default={})

    def _is_kept_back(self, sku: str) -> bool:
        """Whether there is enough of it, though not where it may be sent from."""
        return sum(self._held(site, sku) for site in self.sites) >= self.total[sku]

    # Hard limits

    def _refusal(self, site: Site) -> _Refusal | None:
        if site.closed:
            return _Refusal("plan.closed", {})
        if rule := self.ruling.excluded.get(site.code):
            return _Refusal("plan.excluded", {"rule": rule})
        wish = self.problem.order.sites
        if wish is not None and wish.only and site.code not in wish.locations:
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

    def _sendable(self, site: Site) -> dict[str, int]:
        """What the site has of what is wanted and is able to send."""
        return {
            sku: held
            for sku, item in self.items.items()
            if (held := self._held(site, sku))
            and site.abilities.issuperset(item.needs)
            and (site.max_kg is None or item.weight_kg <= site.max_kg)
        }

    def _rates(self, site: Site) -> list[Rate]:
        """Of each carrier that may be taken; free where freight is not known."""
        demanded = self.problem.order.carrier
        rates = [each for each in self.problem.rates if demanded in (None, each.carrier)]
        return offers(rates, site.province, self.province) if rates else [_free(demanded or "")]

    # Scores

    def _digit(self, criterion: str, value: int) -> int:
        """A value of a criterion in a score; nothing where the criterion does not count."""
        return value << self.places[criterion] if criterion in self.places else 0

    def _value(self, score: int, criterion: str) -> int:
        return score >> self.places[criterion] & (1 << _WIDTH) - 1

    def _sender(self, site: Site, position: int) -> Sender:
        stock = self.stock[site.code]
        fixed = (
            self._digit("preferred", bool(self.ruling.preferred) and site.code not in self.ruling.preferred)
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

    # What is told

    def _measures(self, score: int) -> tuple[Measure, ...]:
        values = [(each, self._value(score, each)) for each in self.problem.objective.criteria]
        return tuple(
            [
                Measure(criterion=each, value=Decimal(value) / (_TARIFF if each == "lowest_cost" else 1))
                for each, value in values
            ]
        )

    def _loads(self, shares: Shares) -> tuple[Load, ...]:
        """Each line from one site where its share allows, the nearest site first."""
        codes = [
            site.code
            for site in sorted(
                [site for site in self.sites if site.code in shares],
                key=lambda site: remoteness(site.province, self.province),
            )
        ]
        if len(codes) == 1 and shares[codes[0]] == self.total:
            return (Load(warehouse=codes[0], lines=tuple(self.problem.wanted)),)
        left = {code: dict(shares[code]) for code in codes}
        given: dict[str, list[FulfillmentLine]] = defaultdict(list)
        for line in self.problem.wanted:
            quantity = line.quantity
            whole = [code for code in codes if left[code].get(line.sku, 0) >= quantity]
            whole.sort(key=lambda code: left[code][line.sku] != quantity)
            for code in whole[:1] or codes:
                if part := min(quantity, left[code].get(line.sku, 0)):
                    left[code][line.sku] -= part
                    given[code].append(line.model_copy(update={"quantity": part}))
                    quantity -= part
        return tuple(Load(warehouse=code, lines=tuple(given[code])) for code in codes)

    def _candidate(self, site: Site, shares: Shares, score: int) -> Candidate:
        if refusal := self.refused.get(site.code):
            return Candidate(warehouse=site.code, chosen=False, reason=refusal.reason, params=dict(refusal.params))
        sent = shares.get(site.code)
        could = sent or self.total & Counter(self.stock[site.code])
        reason, params = self._verdict(site, bool(sent), score)
        offer = self._offer(site, could) if could else None
        return Candidate(warehouse=site.code, chosen=bool(sent), reason=reason, params=params, offer=offer)

    def _verdict(self, site: Site, chosen: bool, score: int) -> tuple[str, dict[str, JsonValue]]:
        if chosen:
            near = remoteness(site.province, self.province) == 0
            return "plan.nearest" if near else "plan.chosen", {}
        if missing := self._lacks(self.stock[site.code]):
            return "plan.lacks", {"skus": ", ".join(missing)}
        alone = self.senders[site.code].alone(self.total, *self.size)
        by = next((each for each in self.digits if self._value(alone, each) > self._value(score, each)), "rank")
        return "plan.behind", {"by": f"plan.by.{by}"}

    def _offer(self, site: Site, quantities: Mapping[str, int]) -> Offer:
        """What its parcel would take by the best of the carriers."""
        grams, cm3 = self._size(quantities)
        tariffs = zip(self.senders[site.code].tariffs, self.rates[site.code], strict=True)
        found = [(tariff.quote(grams, cm3).score, rate.days, rate.carrier, rate) for tariff, rate in tariffs]
        rate = min(found, key=lambda each: each[:3])[3]
        days = site.leaves_in(self.problem.now) + rate.days
        return Offer(
            carrier=rate.carrier,
            freight=rate.price(Decimal(grams) / 1000, cm3),
            handling=site.handling,
            days=days,
            late=days > self.days_left,
        )

    def _size(self, quantities: Mapping[str, int]) -> tuple[int, int]:
        """Grams and cubic centimetres."""
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
    """Days until the promised day."""
    promised = problem.order.promised_by
    if promised is None:
        return inf
    return (promised.astimezone(CHINA).date() - problem.now.astimezone(CHINA).date()).days
