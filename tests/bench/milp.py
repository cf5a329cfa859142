"""A planning problem as a mixed-integer program for HiGHS, solved criterion by criterion: the reference for plans."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal

import highspy
import numpy as np

from activities.allocation.planning import Problem
from models.address import remoteness
from models.allocation import Item, Rate, Site, offers
from models.base import CHINA

EXACT = {"on_time": 0.5, "fewest_parcels": 0.5, "lowest_cost": 0.004, "nearest": 0.5, "balance": 0.5}
"""Half a step of each criterion; generated prices have steps of a cent."""


def optimum(problem: Problem, seconds: float) -> list[Decimal] | None:
    """Return the minimum of each criterion in the order of the objective; ``None`` if HiGHS did not finish in time.

    Only for problems without rules, with sufficient stock and without closed sites.
    """
    solver = highspy.Highs()
    solver.silent()
    for name, value in (("mip_rel_gap", 0.0), ("mip_abs_gap", 1e-6), ("time_limit", seconds), ("threads", 1)):
        solver.setOptionValue(name, value)
    costs = _model(solver, problem)
    found: list[Decimal] = []
    for criterion in problem.objective.criteria:
        row = np.array(costs[criterion], dtype=np.float64)
        columns = np.arange(len(row), dtype=np.int32)
        solver.changeColsCost(len(row), columns, row)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        best = solver.getInfo().objective_function_value
        unit = Decimal("0.01") if criterion == "lowest_cost" else Decimal(1)
        found.append(Decimal(best).quantize(unit))
        used = np.nonzero(row)[0].astype(np.int32)
        if len(used):
            solver.addRow(-highspy.kHighsInf, float(found[-1]) + EXACT[criterion], len(used), used, row[used])
    return found


def _model(solver: highspy.Highs, problem: Problem) -> dict[str, list[float]]:
    """Add columns and rows. Return the cost of each column by criterion."""
    costs: dict[str, list[float]] = {name: [] for name in EXACT}
    total: Counter[str] = Counter()
    for line in problem.lines:
        total[line.sku] += line.quantity

    def column(upper: float, **cost: float) -> int:
        solver.addVar(0, upper)
        index = len(costs["on_time"])
        solver.changeColIntegrality(index, highspy.HighsVarType.kInteger)
        for name, values in costs.items():
            values.append(cost.get(name, 0))
        return index

    def row(lower: float, upper: float, terms: dict[int, float]) -> None:
        indices = np.array(list(terms), dtype=np.int32)
        solver.addRow(lower, upper, len(terms), indices, np.array(list(terms.values()), dtype=np.float64))

    infinity = highspy.kHighsInf
    senders: dict[str, list[int]] = {sku: [] for sku in total}
    for site in problem.sites:
        held = {sku: min(total[sku], problem.stock[site.code].get(sku, 0)) for sku in total}
        sent = {
            sku: column(held[sku], balance=round(1_000_000 / problem.stock[site.code][sku]))
            for sku in total
            if held[sku] > 0
        }
        for sku, index in sent.items():
            senders[sku].append(index)
        items = {sku: problem.items.get(sku, Item()) for sku in sent}
        rates = offers(problem.rates, site.province, problem.order.province) if problem.rates else [_FREE]
        chosen = []
        for rate in rates:
            choice = column(
                1,
                on_time=_late(problem, site, rate),
                fewest_parcels=1,
                lowest_cost=float(rate.first_price + rate.surcharge + site.handling),
                nearest=remoteness(site.province, problem.order.province),
            )
            chosen.append(choice)
            further = column(10_000, lowest_cost=float(rate.further_price))
            sizes = [{sku: float(item.weight_kg) for sku, item in items.items()}]
            if rate.volume_divisor:
                sizes.append({sku: item.volume_cm3 / rate.volume_divisor for sku, item in items.items()})
            for size in sizes:
                most = max(0.0, sum(size[sku] * held[sku] for sku in sent) - float(rate.first_kg))
                terms = {sent[sku]: -size[sku] for sku in sent} | {further: float(rate.further_kg), choice: -most}
                row(-float(rate.first_kg) - most, infinity, terms)
        row(0, 1, dict.fromkeys(chosen, 1.0))
        for sku, index in sent.items():
            row(0, infinity, dict.fromkeys(chosen, float(held[sku])) | {index: -1.0})
    for sku, quantity in total.items():
        row(quantity, quantity, dict.fromkeys(senders[sku], 1.0))
    return costs


_FREE = Rate(carrier="", first_price=Decimal(0))


def _late(problem: Problem, site: Site, rate: Rate) -> bool:
    promised, now = problem.order.promised_by, problem.now.astimezone(CHINA)
    after = site.cutoff is not None and now.time() > site.cutoff
    arrival = now + timedelta(days=site.lead_days + after + rate.days)
    return promised is not None and arrival.date() > promised.astimezone(CHINA).date()
