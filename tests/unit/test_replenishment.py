"""Replenishment arithmetic compared with examples calculated by hand."""

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.replenishment import Demand, Forecast, Need, StockPosition, Terms, in_packs, need, safety_stock, stock_out

TODAY = date(2026, 3, 2)


def terms(**changes: Any) -> Terms:
    return Terms(**{"sku": "A001", "supplier": "Acme", "lead_days": 9, "review_days": 7} | changes)


def expected(per_day: float = 10, spread: float = 4) -> Forecast:
    return Forecast(demand=Demand.SMOOTH, model="AutoTheta", per_day=per_day, spread=spread, days=364)


def day(number: int) -> date:
    return TODAY + timedelta(days=number)


def test_safety_stock_covers_demand_and_lead_time() -> None:
    """z(0.95) = 1.6449; √(9·4²) = 12; √(9·4² + 10²·2²) = √544 = 23.324; z(0.5) = 0."""
    assert safety_stock(terms(), expected()) == pytest.approx(1.6449 * 12, abs=0.01)
    assert safety_stock(terms(lead_spread_days=2), expected()) == pytest.approx(38.364, abs=0.01)
    assert safety_stock(terms(service_level=0.99), expected()) == pytest.approx(2.3263 * 12, abs=0.01)
    assert safety_stock(terms(service_level=0.5), expected()) == 0


def test_purchase_is_needed_at_the_reorder_point_and_not_above() -> None:
    """10·9 + 19.74 = 109.74; up to 10·(9 + 7) + 19.74 = 179.74; 110 last 11 days."""
    assert need(terms(), expected(), StockPosition(available=111), TODAY).quantity == 0
    assert need(terms(), expected(), StockPosition(available=110), TODAY) == Need(
        quantity=70, reorder_point=110, safety=20, target=180, order_by=day(2), stock_out_on=day(11)
    )


def test_incoming_and_waiting_quantities_count() -> None:
    coming = ((day(3), 60),)
    assert need(terms(), expected(), StockPosition(available=60, incoming=coming), TODAY).quantity == 0
    needed = need(terms(), expected(), StockPosition(available=60, incoming=coming, waiting=20), TODAY)
    assert needed.quantity == 180 - (60 + 60 - 20)


def test_quantity_is_whole_packs_of_at_least_the_minimum() -> None:
    assert in_packs(70, terms(pack_size=24)) == 72
    assert in_packs(72, terms(pack_size=24)) == 72
    assert in_packs(70, terms(pack_size=24, minimum_quantity=100)) == 120
    assert in_packs(70, terms(minimum_quantity=100)) == 100


def test_stock_out_is_when_mean_demand_exceeds_stock() -> None:
    assert stock_out(expected(), StockPosition(available=35), TODAY) == day(3)
    assert stock_out(expected(), StockPosition(available=9), TODAY) == TODAY
    late, soon = (
        StockPosition(available=35, incoming=((day(4), 50),)),
        StockPosition(available=35, incoming=((day(3), 50),)),
    )
    assert stock_out(expected(), late, TODAY) == day(3)
    assert stock_out(expected(), soon, TODAY) == day(8)
    overdue = StockPosition(available=35, incoming=((day(-9), 50),))
    assert stock_out(expected(), overdue, TODAY) == day(8)
    assert stock_out(expected(), StockPosition(available=5, waiting=6), TODAY) == TODAY
    assert stock_out(expected(per_day=0), StockPosition(), TODAY) is None
    assert stock_out(expected(per_day=0.001), StockPosition(available=5), TODAY) is None
    assert stock_out(expected(per_day=5e-324), StockPosition(available=5), TODAY) is None
    assert stock_out(expected(per_day=0.1), StockPosition(available=3, incoming=((day(30), 5),)), TODAY) == day(80)


def test_overdue_order_date_is_today() -> None:
    assert need(terms(), expected(), StockPosition(available=30), TODAY).order_by == TODAY


def test_sku_without_demand_is_bought_only_if_orders_wait() -> None:
    none = expected(0, 0)
    assert need(terms(), none, StockPosition(), TODAY).quantity == 0
    assert need(terms(pack_size=6), none, StockPosition(waiting=4), TODAY).quantity == 6


@given(
    available=st.integers(-50, 500),
    waiting=st.integers(0, 100),
    per_day=st.floats(0, 50),
    spread=st.floats(0, 50),
    pack=st.integers(1, 60),
    minimum=st.integers(0, 200),
)
def test_no_purchase_is_needed_after_a_purchase(
    available: int, waiting: int, per_day: float, spread: float, pack: int, minimum: int
) -> None:
    agreed = terms(pack_size=pack, minimum_quantity=minimum)
    demand = expected(per_day, spread)
    position = StockPosition(available=available, waiting=waiting)
    needed = need(agreed, demand, position, TODAY)
    assert needed.quantity % pack == 0
    assert needed.quantity == 0 or needed.quantity >= minimum
    if needed.quantity:
        bought = position.model_copy(update={"incoming": ((day(9), needed.quantity),)})
        assert bought.position >= needed.target
        assert need(agreed, demand, bought, TODAY).quantity == 0
