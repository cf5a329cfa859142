"""Forecasts of daily demand: mean and spread, from the history of one SKU at one location.

The model follows the kind of demand (A. A. Syntetos, J. E. Boylan and J. D. Croston, "On the categorization of demand
patterns", *Journal of the Operational Research Society* 56, 2005); the models are statsforecast's.
"""

from collections.abc import Collection, Sequence
from datetime import date, timedelta
from itertools import pairwise
from statistics import fmean, pstdev, stdev
from typing import Any

from activities.kit.errors import refused
from models.replenishment import Demand, Forecast

ENOUGH_DAYS = 28
"""A history shorter than four weeks shows neither trend nor weekdays: its plain mean is used."""
ENOUGH_SALES = 5
"""Days with demand needed to classify a history."""
WEEK = 7
SPARSE, VARIED = 1.32, 0.49
"""The cut-offs of the average demand interval, and of the squared coefficient of variation of demand sizes."""
FADING = 4
"""A SKU without demand for this many of its usual intervals may be dying out, which Croston's models never notice."""


def forecast(history: Sequence[int], days: int, masked: Collection[int] = ()) -> Forecast:
    """Forecast the average day of the next ``days``.

    ``masked`` are the positions of days that do not count, such as those of a promotion. Raise ``ApplicationError`` if
    statsforecast is needed and not installed.
    """
    usual = unmasked(history, masked)
    demand = classify(usual)
    if demand in (Demand.NONE, Demand.SHORT):
        spread = stdev(usual) if len(usual) > 1 else 0.0
        return Forecast(demand=demand, model="mean", per_day=fmean(usual or [0]), spread=spread, days=len(usual))
    model = _model(demand, usual)
    import numpy

    fitted = model.forecast(y=numpy.array(usual, dtype=float), h=max(days, 1), fitted=True)
    errors = numpy.array(usual) - fitted["fitted"]
    return Forecast(
        demand=demand,
        model=type(model).__name__,
        per_day=max(0.0, float(fitted["mean"].mean())),
        spread=float(numpy.sqrt(numpy.nanmean(errors**2))),
        days=len(usual),
    )


def classify(history: Sequence[float]) -> Demand:
    """Classify by the average demand interval (ADI) and the variation of demand sizes (CV²)."""
    sizes = [each for each in history if each]
    if not sizes:
        return Demand.NONE
    if len(history) < ENOUGH_DAYS or len(sizes) < ENOUGH_SALES:
        return Demand.SHORT
    sparse = len(history) / len(sizes) >= SPARSE
    varied = (pstdev(sizes) / fmean(sizes)) ** 2 >= VARIED
    if sparse:
        return Demand.LUMPY if varied else Demand.INTERMITTENT
    return Demand.ERRATIC if varied else Demand.SMOOTH


def unmasked(history: Sequence[int], masked: Collection[int]) -> list[float]:
    """Return the history with each masked day replaced by the mean of the nearest unmasked same weekdays before and
    after it, or of all unmasked days if there are none."""
    counted = [each for day, each in enumerate(history) if day not in masked]
    usual: list[float] = []
    for day, sold in enumerate(history):
        if day in masked:
            before = next((each for each in range(day - WEEK, -1, -WEEK) if each not in masked), None)
            after = next((each for each in range(day + WEEK, len(history), WEEK) if each not in masked), None)
            near = [history[each] for each in (before, after) if each is not None]
            usual.append(fmean(near or counted or [0]))
        else:
            usual.append(sold)
    return usual


def positions(first: date, length: int, ranges: Collection[tuple[date, date]]) -> set[int]:
    """Return the positions, in a history that begins on ``first``, of the days in these inclusive ranges."""
    days = (first + timedelta(days=each) for each in range(length))
    return {at for at, day in enumerate(days) if any(since <= day <= until for since, until in ranges)}


def _model(demand: Demand, history: Sequence[float]) -> Any:
    try:
        from statsforecast import models
    except ImportError:
        raise refused("error.extra", "forecast") from None
    if demand in (Demand.SMOOTH, Demand.ERRATIC):
        return models.AutoTheta(season_length=WEEK)
    if _fading(history):
        return models.TSB(alpha_d=0.2, alpha_p=0.2)
    return models.CrostonSBA() if demand is Demand.INTERMITTENT else models.ADIDA()


def _fading(history: Sequence[float]) -> bool:
    """Whether demand has been absent for much longer than usual."""
    days = [day for day, sold in enumerate(history) if sold]
    interval = fmean(after - before for before, after in pairwise(days))
    return len(history) - 1 - days[-1] > FADING * interval
