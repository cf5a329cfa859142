"""Forecasts of histories whose answer is known."""

import builtins
from datetime import date
from math import sin, tau
from random import Random
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from activities.stock.forecasting import classify, forecast, positions, unmasked
from models.replenishment import Demand

YEAR = 364


def poisson_like(mean: float, days: int = YEAR, seed: int = 1) -> list[int]:
    random = Random(seed)
    return [max(0, round(random.gauss(mean, mean**0.5))) for _ in range(days)]


def now_and_then(chance: float, sizes: list[int], days: int = YEAR, seed: int = 1) -> list[int]:
    random = Random(seed)
    return [random.choice(sizes) if random.random() < chance else 0 for _ in range(days)]


def test_demand_is_told_by_how_far_apart_and_how_varied_it_is() -> None:
    assert classify([0] * 60) is Demand.NONE
    assert classify([5] * 27) is Demand.SHORT
    assert classify([0] * 56 + [1] * 4) is Demand.SHORT
    assert classify([5] * 28) is Demand.SMOOTH
    assert classify([1, 1, 1, 20] * 14) is Demand.ERRATIC
    assert classify([0, 0, 0, 2] * 14) is Demand.INTERMITTENT
    assert classify([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 20] * 5) is Demand.LUMPY
    three_in_four = [1, 1, 1, 0] * 14
    assert classify(three_in_four) is Demand.INTERMITTENT, "ADI 1.33 is just above 1.32"


def test_nothing_sold_is_nothing_expected() -> None:
    assert (found := forecast([0] * 100, 14)).per_day == found.spread == 0
    assert forecast([], 14).per_day == 0


def test_a_short_history_is_its_mean() -> None:
    found = forecast([2, 4, 6], 14)
    assert (found.demand, found.model, found.per_day, found.spread) == (Demand.SHORT, "mean", 4, 2)


def test_a_steady_demand_goes_on() -> None:
    found = forecast(poisson_like(20), 14)
    assert found.demand is Demand.SMOOTH
    assert found.per_day == pytest.approx(20, abs=2)
    assert found.spread == pytest.approx(20**0.5, rel=0.15)


def test_a_trend_is_seen() -> None:
    random = Random(2)
    rising = [round(10 + day / 10 + random.gauss(0, 1)) for day in range(200)]
    found = forecast(rising, 14)
    assert found.per_day == pytest.approx(10 + 207 / 10, abs=2)
    assert found.per_day > sum(rising[-14:]) / 14 - 1


def test_a_week_is_not_an_error() -> None:
    random = Random(3)
    weekly = [round(30 + 12 * sin(tau * day / 7) + random.gauss(0, 2)) for day in range(YEAR)]
    found = forecast(weekly, 14)
    assert found.per_day == pytest.approx(30, abs=1.5)
    assert found.spread < 3, "the plain deviation of such days is above 8"


def test_it_looks_only_as_far_as_it_is_asked() -> None:
    weekend = [100 if day % 7 in (5, 6) else 10 for day in range(140)]
    assert forecast(weekend, 5).per_day == pytest.approx(10, abs=2)
    assert forecast(weekend, 7).per_day == pytest.approx(250 / 7, abs=2)


def test_a_rare_demand_is_neither_forgotten_nor_its_last_one() -> None:
    rare = now_and_then(0.15, [1, 2, 3])
    found = forecast([*rare, 3], 28)
    assert (found.demand, found.model) == (Demand.INTERMITTENT, "CrostonSBA")
    assert found.per_day == pytest.approx(sum(rare) / len(rare), rel=0.35)


def test_a_lumpy_demand() -> None:
    lumpy = now_and_then(0.3, [1, 1, 1, 2, 30], seed=4)
    found = forecast(lumpy, 28)
    assert (found.demand, found.model) == (Demand.LUMPY, "ADIDA")
    assert found.per_day == pytest.approx(sum(lumpy) / len(lumpy), rel=0.5)


def test_what_nobody_buys_any_more_fades() -> None:
    alive = now_and_then(0.2, [1, 2, 3], 200)
    found = forecast(alive + [0] * 120, 28)
    assert found.model == "TSB"
    assert found.per_day < forecast(alive, 28).per_day / 10


def test_a_promotion_leaves_no_trace() -> None:
    usual = poisson_like(20)
    sale = {300 + day for day in range(5)}
    promoted = [200 if day in sale else sold for day, sold in enumerate(usual)]
    assert forecast(promoted, 14, sale).per_day == pytest.approx(forecast(usual, 14).per_day, abs=1)
    assert forecast(promoted, 14, sale).spread < forecast(promoted, 14).spread / 2


def test_a_masked_day_is_like_the_same_weekdays_around_it() -> None:
    history = [1, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 3]
    assert unmasked(history, {7})[7] == 2
    assert unmasked(history, {7, 14})[7] == unmasked(history, {7, 14})[14] == 1
    assert unmasked([9, 2, 4], {0}) == [3, 2, 4]
    assert unmasked([9], {0}) == [0]


def test_days_of_promotions_are_found_in_a_history() -> None:
    spans = [(date(2026, 6, 17), date(2026, 6, 18)), (date(2025, 1, 1), date(2026, 6, 15))]
    assert positions(date(2026, 6, 15), 4, spans) == {0, 2, 3}


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name.startswith("statsforecast"):
            raise ImportError(name)
        return real(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert forecast([1, 2, 3], 7).per_day == 2
    with pytest.raises(ApplicationError, match=r"hengdan\[forecast\]"):
        forecast([5] * 60, 7)
