"""Plans compared with a mixed-integer program on the same problems: duration and quality."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from random import Random
from statistics import median
from typing import Any

from activities.allocation.planning import Problem, plan
from models.allocation import Criterion, Facts, Item, Objective, Rate, Site
from models.fulfillment import FulfillmentLine
from tests.bench.milp import optimum

LINES = (5, 10, 20)
SITES = (5, 10, 20, 50)
SECONDS = 2
"""The time limit of HiGHS for one case of a report."""
NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)
PROVINCES = ("上海市", "广东省", "北京市", "四川省", "浙江省", "湖北省", "辽宁省", "陕西省", "江苏省", "福建省")
CARRIERS = ("sf", "yto", "zto")
OBJECTIVES: tuple[tuple[Criterion, ...], ...] = (
    ("on_time", "fewest_parcels", "lowest_cost", "nearest", "balance"),
    ("fewest_parcels", "nearest", "lowest_cost"),
    ("on_time", "lowest_cost", "fewest_parcels", "balance"),
    ("lowest_cost", "on_time"),
)


def problem(random: Random, lines: int, sites: int, criteria: tuple[Criterion, ...] = OBJECTIVES[0]) -> Problem:
    """Return a problem with sufficient stock, over sites that hold part of the SKUs each."""
    skus = [f"A{number:03}" for number in range(lines)]
    wanted = [
        FulfillmentLine(line_no=str(number), sku=sku, quantity=random.choice((1, 1, 1, 2, 2, 3, 6)))
        for number, sku in enumerate(skus)
    ]
    held = random.uniform(0.3, 0.9)
    places = [
        Site(
            code=f"S{number:02}",
            province=random.choice(PROVINCES),
            rank=random.randrange(5),
            lead_days=random.choice((0, 0, 0, 1, 3)),
            handling=Decimal(random.randrange(0, 300)) / 100,
        )
        for number in range(sites)
    ]
    stock = {site.code: {sku: random.randint(1, 12) for sku in skus if random.random() < held} for site in places}
    for line in wanted:
        lacking = line.quantity - sum(each.get(line.sku, 0) for each in stock.values())
        if lacking > 0:
            some = stock[random.choice(places).code]
            some[line.sku] = some.get(line.sku, 0) + lacking
    order = Facts(province=random.choice(PROVINCES), promised_by=NOW + timedelta(days=random.randint(1, 5)))
    return Problem(
        order=order,
        lines=wanted,
        stock=stock,
        sites=places,
        now=NOW,
        items={
            sku: Item(weight_kg=Decimal(random.randrange(5, 300)) / 100, volume_cm3=random.randrange(100, 12_000, 100))
            for sku in skus
        },
        rates=list(_tariff(random)),
        objective=Objective(criteria=criteria),
    )


def _tariff(random: Random) -> Iterator[Rate]:
    for carrier in CARRIERS:
        for origin in ("", *PROVINCES):
            if origin and random.random() < 0.3:
                continue
            yield Rate(
                carrier=carrier,
                origin=origin,
                first_kg=random.choice((Decimal(1), Decimal(3))),
                first_price=Decimal(random.randrange(500, 2300)) / 100,
                further_price=Decimal(random.randrange(100, 1300)) / 100,
                volume_divisor=random.choice((0, 6000, 12_000)),
                days=random.randint(1, 4),
            )


@dataclass(frozen=True)
class Case:
    lines: int
    sites: int
    criteria: tuple[Criterion, ...]
    exact: bool
    ours: tuple[Decimal, ...]
    theirs: tuple[Decimal, ...] | None
    """``None`` if HiGHS did not finish."""
    seconds: float
    milp_seconds: float

    @property
    def gap(self) -> tuple[str, Decimal] | None:
        """Return the first criterion in which the plan is worse, and by how much."""
        pairs = zip(self.criteria, self.ours, self.theirs or self.ours, strict=True)
        first = next(((name, mine - best) for name, mine, best in pairs if mine != best), None)
        return first if first and first[1] > 0 else None

    @property
    def gap_share(self) -> Decimal:
        """Return the gap as a share of the optimum."""
        if self.gap is None or self.theirs is None:
            return Decimal(0)
        name, more = self.gap
        return more / max(self.theirs[self.criteria.index(name)], Decimal(1))


def case(random: Random, lines: int, sites: int, criteria: tuple[Criterion, ...], seconds: float) -> Case:
    given = problem(random, lines, sites, criteria)
    started = time.perf_counter()
    made = plan(given)
    planned = time.perf_counter()
    best = optimum(given, seconds)
    solved = time.perf_counter()
    return Case(
        lines=lines,
        sites=sites,
        criteria=criteria,
        exact=made.exact,
        ours=tuple(each.value for each in made.measures),
        theirs=tuple(best) if best else None,
        seconds=planned - started,
        milp_seconds=solved - planned,
    )


def cases(number: int, seed: int = 1) -> Iterator[Case]:
    """Yield this many cases of each size and objective."""
    for lines, sites, criteria in product(LINES, SITES, OBJECTIVES):
        random = Random(f"{seed} {lines} {sites} {criteria}")
        for _ in range(number):
            yield case(random, lines, sites, criteria, SECONDS)


def report(number: int) -> list[dict[str, Any]]:
    """Return one row per number of lines, number of sites and objective."""
    rows = []
    found = list(cases(number))
    for lines, sites, criteria in product(LINES, SITES, OBJECTIVES):
        some = [each for each in found if (each.lines, each.sites, each.criteria) == (lines, sites, criteria)]
        compared = [each for each in some if each.theirs is not None]
        gaps = [each.gap for each in compared if each.gap]
        worst = [(name, max(gap for by, gap in gaps if by == name)) for name in criteria if name in dict(gaps)][:1]
        rows.append(
            {
                "objective": ", ".join(criteria),
                "lines": lines,
                "sites": sites,
                "cases": len(some),
                "claimed_exact": sum(each.exact for each in some),
                "compared": len(compared),
                "equal": sum(each.ours == each.theirs for each in compared),
                "worse": len(gaps),
                "biggest_gap": f"{worst[0][0]} {worst[0][1]}" if worst else "",
                "p50_ms": round(1000 * median(each.seconds for each in some), 1),
                "max_ms": round(1000 * max(each.seconds for each in some), 1),
                "milp_p50_ms": round(1000 * median(each.milp_seconds for each in some), 1),
            }
        )
    return rows
