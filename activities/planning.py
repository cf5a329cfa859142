"""Planning: which site sends how many of what, and why.

Hard limits rule sites out. Of what is left, the best plan by the criteria of the objective, each deciding between
equals of those before it; last of all the sites' rank and code. ``plan`` is pure: the same problem, the same plan.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property

from pydantic import JsonValue

from activities.parcels import Due, Sender, Shares, Tariff
from activities.rules import Ruling, judge
from activities.search import Search
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

NODES = 5_000
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
        self.total = _total(problem.wanted)
        self.items = {sku: problem.items.get(sku, Item()) for sku in self.total}
        self.ruling: Ruling = judge(problem.rules, problem.order, problem.wanted, problem.items)
        self.digits = ("preferred", *problem.objective.criteria, "rank")
        """What a score is made of, the first weighing most."""
        self.sites = sorted(problem.sites, key=lambda site: (site.rank, site.code))
        self.rates = {site.code: self._rates(site) for site in self.sites}
        self.refused = {site.code: found for site in self.sites if (found := self._refusal(site))}
        self.stock = {site.code: self._sendable(site) for site in self.sites if site.code not in self.refused}
        self.senders = {
            site.code: self._sender(site, position)
            for position, site in enumerate(self.sites, 1)
            if self.stock.get(site.code)
        }

    def plan(self) -> Plan:
        there = {sku: sum(held.get(sku, 0) for held in self.stock.values()) for sku in self.total}
        missing = {sku: quantity - there[sku] for sku, quantity in self.total.items() if there[sku] < quantity}
        in_part = self.problem.in_part if self.ruling.split is None else self.ruling.split == "in_part"
        search = self._search({} if missing and not in_part else self.total - Counter(missing))
        shares = search.run()
        if not missing and not shares:
            missing = self._missing_for_one()
        return Plan(
            loads=self._loads(shares),
            shortages=tuple(Shortage(sku=sku, quantity=quantity) for sku, quantity in missing.items()),
            candidates=tuple(self._candidate(site, shares, search.score) for site in self.problem.sites),
            measures=self._measures(search.score or 0),
            rules=self.ruling.applied,
            queue=self.ruling.queue,
            ask=self.ruling.ask,
            exact=search.exact,
        )

    def _search(self, quantities: Mapping[str, int]) -> Search:
        due = {
            sku: Due(quantity, self.items[sku].grams, self.items[sku].volume_cm3)
            for sku, quantity in quantities.items()
        }
        criteria = self.problem.objective.criteria
        leading = criteria[: criteria.index("fewest_parcels")] if "fewest_parcels" in criteria else criteria
        return Search(
            due,
            list(self.senders.values()),
            most=1 if self.ruling.split == "never" else None,
            fewest={"lowest_cost", "balance"}.isdisjoint(leading),
            nodes=NODES,
        )

    def _missing_for_one(self) -> dict[str, int]:
        """What the site that has most of it lacks to send it all at once."""
        lacks = [dict(self.total - Counter(sender.stock)) for sender in self.senders.values()]
        return min(lacks, key=lambda each: sum(each.values()), default={})

    # Hard limits

    def _refusal(self, site: Site) -> _Refusal | None:
        if site.closed:
            return _Refusal("plan.closed", {})
        if rule := self.ruling.excluded.get(site.code):
            return _Refusal("plan.excluded", {"rule": rule})
        if not site.delivers_to(self.problem.order.province):
            return _Refusal("plan.area", {"province": self.problem.order.province})
        if site.capacity is not None and site.capacity <= 0:
            return _Refusal("plan.full", {})
        if not self.rates[site.code]:
            return _Refusal("plan.no_carrier", {"province": self.problem.order.province})
        held = [sku for sku in self.total if self._held(site, sku)]
        if held and not self._sendable(site):
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
        demanded = self.problem.order.carrier
        rates = [each for each in self.problem.rates if demanded in (None, each.carrier)]
        if not rates:
            return [Rate(carrier=demanded or "", first_price=Decimal(0))]
        return offers(rates, site.province, self.problem.order.province)

    # Scores

    def _score(self, **values: int) -> int:
        """Values of criteria as one number; criteria that do not count are left out."""
        score = 0
        for digit in self.digits:
            score = (score << _WIDTH) + values.get(digit, 0)
        return score

    def _values(self, score: int) -> dict[str, int]:
        last = len(self.digits) - 1
        return {digit: score >> _WIDTH * (last - place) & (1 << _WIDTH) - 1 for place, digit in enumerate(self.digits)}

    def _sender(self, site: Site, position: int) -> Sender:
        fixed = self._score(
            preferred=bool(self.ruling.preferred) and site.code not in self.ruling.preferred,
            fewest_parcels=1,
            nearest=remoteness(site.province, self.problem.order.province),
            rank=position,
        )

        tariffs = [self._tariff(site, rate, fixed) for rate in self.rates[site.code]]
        least = min(each.score for each in tariffs)
        return Sender(
            code=site.code,
            stock=self.stock[site.code],
            tariffs=tariffs,
            piece={sku: self._score(balance=round(_STOCK / held)) for sku, held in self.stock[site.code].items()},
            tier=least >> _WIDTH * (len(self.digits) - self._weighs_less) if self._weighs_less else 0,
        )

    def _tariff(self, site: Site, rate: Rate, fixed: int) -> Tariff:
        price = int((rate.first_price + rate.surcharge + site.handling) * _TARIFF)
        late = self._late(site.leaves_in(self.problem.now) + rate.days)
        return Tariff(
            score=fixed + self._score(on_time=late, lowest_cost=price),
            first=int(rate.first_kg * 1000),
            further=int(rate.further_kg * 1000),
            step=self._score(lowest_cost=int(rate.further_price * _TARIFF)),
            divisor=rate.volume_divisor,
        )

    @cached_property
    def _weighs_less(self) -> int:
        """The place of the number of parcels among the digits; 0, it does not count."""
        return self.digits.index("fewest_parcels") if "fewest_parcels" in self.digits else 0

    def _worth(self, offer: Offer) -> int:
        return self._score(on_time=offer.late, lowest_cost=int((offer.freight + offer.handling) * _TARIFF))

    def _offers(self, site: Site, grams: int, cm3: int) -> list[Offer]:
        """What a parcel may take, the best first."""
        found = [self._offer(site, rate, grams, cm3) for rate in self.rates[site.code]]
        return sorted(found, key=lambda offer: (self._worth(offer), offer.days, offer.carrier))

    def _offer(self, site: Site, rate: Rate, grams: int, cm3: int) -> Offer:
        days = site.leaves_in(self.problem.now) + rate.days
        return Offer(
            carrier=rate.carrier,
            freight=rate.price(Decimal(grams) / 1000, cm3),
            handling=site.handling,
            days=days,
            late=self._late(days),
        )

    def _late(self, days: int) -> bool:
        promised = self.problem.order.promised_by
        arrival = self.problem.now.astimezone(CHINA) + timedelta(days=days)
        return promised is not None and arrival.date() > promised.astimezone(CHINA).date()

    # What is told

    def _measures(self, score: int) -> tuple[Measure, ...]:
        values = self._values(score)
        return tuple(
            Measure(criterion=each, value=Decimal(values[each]) / (_TARIFF if each == "lowest_cost" else 1))
            for each in self.problem.objective.criteria
        )

    def _loads(self, shares: Shares) -> tuple[Load, ...]:
        """Each line from one site where its share allows, the nearest site first."""
        province = self.problem.order.province
        codes = [
            site.code
            for site in sorted(self.sites, key=lambda site: remoteness(site.province, province))
            if site.code in shares
        ]
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

    def _candidate(self, site: Site, shares: Shares, score: int | None) -> Candidate:
        if refusal := self.refused.get(site.code):
            return Candidate(warehouse=site.code, chosen=False, reason=refusal.reason, params=dict(refusal.params))
        sent = shares.get(site.code)
        reason, params = self._verdict(site, bool(sent), score)
        offer = self._offers(site, *self._size(sent or self.total & Counter(self.stock[site.code])))[0]
        return Candidate(warehouse=site.code, chosen=bool(sent), reason=reason, params=params, offer=offer)

    def _verdict(self, site: Site, chosen: bool, score: int | None) -> tuple[str, dict[str, JsonValue]]:
        near = remoteness(site.province, self.problem.order.province) == 0
        if chosen:
            return "plan.nearest" if near else "plan.chosen", {}
        if missing := self.total - Counter(self.stock[site.code]):
            return "plan.lacks", {"skus": ", ".join(missing)}
        alone = self._values(self._alone(site))
        best = self._values(score or 0)
        by = next((each for each in self.digits if alone[each] > best[each]), "rank")
        return "plan.behind", {"by": f"plan.by.{by}"}

    def _alone(self, site: Site) -> int:
        """The score of a plan in which the site sends it all."""
        sender = self.senders[site.code]
        pieces = sum(quantity * sender.piece[sku] for sku, quantity in self.total.items())
        return sender.parcel(*self._size(self.total)) + pieces

    def _size(self, quantities: Mapping[str, int]) -> tuple[int, int]:
        """Grams and cubic centimetres."""
        each = [(quantity, self.items[sku]) for sku, quantity in quantities.items()]
        return sum(count * item.grams for count, item in each), sum(count * item.volume_cm3 for count, item in each)
