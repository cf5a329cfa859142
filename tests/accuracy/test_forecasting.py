"""Forecasts of histories with known demand."""

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


def sporadic(chance: float, sizes: list[int], days: int = YEAR, seed: int = 1) -> list[int]:
    random = Random(seed)
    return [random.choice(sizes) if random.random() < chance else 0 for _ in range(days)]


def test_demand_is_classified_by_interval_and_variation() -> None:
    assert classify([0] * 60) is Demand.NONE
    assert classify([5] * 27) is Demand.SHORT
    assert classify([0] * 56 + [1] * 4) is Demand.SHORT
    assert classify([5] * 28) is Demand.SMOOTH
    assert classify([1, 1, 1, 20] * 14) is Demand.ERRATIC
    assert classify([0, 0, 0, 2] * 14) is Demand.INTERMITTENT
    assert classify([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 20] * 5) is Demand.LUMPY
    three_in_four = [1, 1, 1, 0] * 14
    assert classify(three_in_four) is Demand.INTERMITTENT, "ADI 1.33 is just above 1.32"


def test_no_sales_forecast_no_demand() -> None:
    assert (found := forecast([0] * 100, 14)).per_day == found.spread == 0
    assert forecast([], 14).per_day == 0


def test_short_history_is_forecast_by_its_mean() -> None:
    found = forecast([2, 4, 6], 14)
    assert (found.demand, found.model, found.per_day, found.spread) == (Demand.SHORT, "mean", 4, 2)


def test_steady_demand_continues() -> None:
    found = forecast(poisson_like(20), 14)
    assert found.demand is Demand.SMOOTH
    assert found.per_day == pytest.approx(20, abs=2)
    assert found.spread == pytest.approx(20**0.5, rel=0.15)


def test_trend_is_continued() -> None:
    random = Random(2)
    rising = [round(10 + day / 10 + random.gauss(0, 1)) for day in range(200)]
    found = forecast(rising, 14)
    assert found.per_day == pytest.approx(10 + 207 / 10, abs=2)
    assert found.per_day > sum(rising[-14:]) / 14 - 1


def test_weekly_pattern_is_not_counted_as_spread() -> None:
    random = Random(3)
    weekly = [round(30 + 12 * sin(tau * day / 7) + random.gauss(0, 2)) for day in range(YEAR)]
    found = forecast(weekly, 14)
    assert found.per_day == pytest.approx(30, abs=1.5)
    assert found.spread < 3, "the plain deviation of such days is above 8"


def test_forecast_covers_only_the_given_days() -> None:
    weekend = [100 if day % 7 in (5, 6) else 10 for day in range(140)]
    assert forecast(weekend, 5).per_day == pytest.approx(10, abs=2)
    assert forecast(weekend, 7).per_day == pytest.approx(250 / 7, abs=2)


def test_rare_demand_is_forecast_by_its_average() -> None:
    rare = sporadic(0.15, [1, 2, 3])
    found = forecast([*rare, 3], 28)
    assert (found.demand, found.model) == (Demand.INTERMITTENT, "CrostonSBA")
    assert found.per_day == pytest.approx(sum(rare) / len(rare), rel=0.35)


def test_lumpy_demand_is_forecast_by_its_average() -> None:
    lumpy = sporadic(0.3, [1, 1, 1, 2, 30], seed=4)
    found = forecast(lumpy, 28)
    assert (found.demand, found.model) == (Demand.LUMPY, "ADIDA")
    assert found.per_day == pytest.approx(sum(lumpy) / len(lumpy), rel=0.5)


def test_demand_that_stopped_fades_out() -> None:
    selling = sporadic(0.2, [1, 2, 3], 200)
    found = forecast(selling + [0] * 120, 28)
    assert found.model == "TSB"
    assert found.per_day < forecast(selling, 28).per_day / 10


def test_masked_promotion_does_not_change_the_forecast() -> None:
    usual = poisson_like(20)
    sale = {300 + day for day in range(5)}
    promoted = [200 if day in sale else sold for day, sold in enumerate(usual)]
    assert forecast(promoted, 14, sale).per_day == pytest.approx(forecast(usual, 14).per_day, abs=1)
    assert forecast(promoted, 14, sale).spread < forecast(promoted, 14).spread / 2


def test_masked_day_takes_the_mean_of_nearby_weekdays() -> None:
    history = [1, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 3]
    assert unmasked(history, {7})[7] == 2
    assert unmasked(history, {7, 14})[7] == unmasked(history, {7, 14})[14] == 1
    assert unmasked([9, 2, 4], {0}) == [3, 2, 4]
    assert unmasked([9], {0}) == [0]


def test_promotion_dates_become_positions_in_the_history() -> None:
    spans = [(date(2026, 6, 17), date(2026, 6, 18)), (date(2025, 1, 1), date(2026, 6, 15))]
    assert positions(date(2026, 6, 15), 4, spans) == {0, 2, 3}


def test_missing_library_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name.startswith("statsforecast"):
            raise ImportError(name)
        return real(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert forecast([1, 2, 3], 7).per_day == 2
    with pytest.raises(ApplicationError, match=r"error.extra"):
        forecast([5] * 60, 7)
