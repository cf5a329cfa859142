"""Plans against the exact optimum of a mixed-integer program (HiGHS), over a thousand generated orders."""

from decimal import Decimal
from random import Random

import pytest

from models.policy import Criterion
from tests.bench import planning as bench

GAP = Decimal("0.05")
"""The largest excess over the optimum that a plan of many lines may have, as a share of the worse criterion."""
BY_PARCELS, BY_PARCELS_AND_NEARNESS, BY_COST, BY_COST_ALONE = bench.OBJECTIVES


@pytest.mark.parametrize(
    ("lines", "sites", "numbers"),
    [
        (5, 5, {BY_PARCELS: 200, BY_PARCELS_AND_NEARNESS: 150, BY_COST: 30, BY_COST_ALONE: 30}),
        (5, 10, {BY_PARCELS: 60, BY_PARCELS_AND_NEARNESS: 50, BY_COST: 5, BY_COST_ALONE: 5}),
        (5, 50, {BY_PARCELS: 10, BY_PARCELS_AND_NEARNESS: 10}),
        (10, 5, {BY_PARCELS: 8, BY_PARCELS_AND_NEARNESS: 8, BY_COST: 5, BY_COST_ALONE: 5}),
        (10, 10, {BY_PARCELS: 10, BY_PARCELS_AND_NEARNESS: 10}),
        (20, 5, {BY_PARCELS_AND_NEARNESS: 3}),
        (20, 10, {BY_PARCELS_AND_NEARNESS: 3}),
    ],
)
def test_plans_match_the_optimum(lines: int, sites: int, numbers: dict[tuple[Criterion, ...], int]) -> None:
    """Only plans of twenty lines may exceed the optimum a little."""
    for criteria, number in numbers.items():
        random = Random(f"{lines} {sites} {criteria}")
        cases = [bench.case(random, lines, sites, criteria, seconds=2) for _ in range(number)]
        assert [each for each in cases if each.exact and each.theirs not in (None, each.ours)] == []
        assert [each for each in cases if each.gap and (lines <= 10 or each.gap_share > GAP)] == []
        assert lines > 10 or any(each.theirs is not None for each in cases)
