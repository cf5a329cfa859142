"""Stock on a real database: movements enter once, waiting orders are notified in turn, discrepancies are found."""

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest
from temporalio.exceptions import ApplicationError

from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.orders import steps
from activities.stock import operations
from activities.stock.ledger import Discrepancy
from models.fulfillment import FulfillmentStatus
from models.policy import Policy
from models.state import OrderState
from models.stock import Shortage
from starter.sandbox.merchant import seed
from tests.integration.books import (
    adjust,
    admitted,
    allocated,
    cancelled,
    drifts,
    level,
    notified_orders,
    now,
    parcels,
    receive,
    returned,
    shipped,
    sql,
)
from tests.unit.orders import an_order, line

PARTS = Policy(ship_in_part=True)


@pytest.fixture(autouse=True)
async def catalogue(database: str) -> None:
    async with transaction() as connection:
        await seed(connection)


# Operations


async def test_repeated_receipt_is_entered_once() -> None:
    first = await receive("SH", "A001", 5, "delivery 7")
    again = await receive("SH", "A001", 5, "delivery 7")
    assert first == again
    assert await level("SH", "A001") == (5, 0, 5)
    assert await drifts() == []


async def test_adjustment_below_allocated_is_refused() -> None:
    await receive("SH", "A001", 5)
    await admitted("1", line(1, "A001", 3))
    assert (await adjust("SH", "A001", -2)).available == 0
    with pytest.raises(InvalidInput) as refusal:
        await adjust("SH", "A001", -1, "another count")
    assert refusal.value.field == "quantity"
    assert await level("SH", "A001") == (3, 3, 0)
    assert await drifts() == []


async def test_safety_stock_is_not_available_to_orders() -> None:
    await receive("SH", "A001", 5)
    async with transaction() as connection:
        await operations.set_safety_stock(connection, "SH", "A001", 4)
    short = await admitted("1", line(1, "A001", 2))
    assert short.shortages == [Shortage(sku="A001", quantity=1)]
    async with transaction() as connection:
        await operations.set_safety_stock(connection, "SH", "A001", 3)
    assert await notified_orders() == ["1"]
    async with transaction() as connection:
        with pytest.raises(InvalidInput, match="quantity"):
            await operations.set_safety_stock(connection, "SH", "A001", 6)


@pytest.mark.parametrize(
    ("warehouse", "sku", "quantity", "field"),
    [
        ("XX", "A001", 1, "warehouse"),
        ("SH", "no such", 1, "sku"),
        ("SH", "K001", 1, "sku"),
        ("SH", "A001", 0, "quantity"),
        ("SH", "A001", -3, "quantity"),
        ("SH", "A001", 10**12, "quantity"),
    ],
)
async def test_invalid_input_names_its_field(warehouse: str, sku: str, quantity: int, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await receive(warehouse, sku, quantity)
    assert refusal.value.field == field
    assert await sql("SELECT 1 FROM stock_levels") == []


async def test_adjustment_requires_a_reason() -> None:
    with pytest.raises(InvalidInput) as refusal:
        await adjust("SH", "A001", 1, reason=" ")
    assert refusal.value.field == "reason"


# Orders


async def test_each_step_from_allocation_to_return_is_idempotent() -> None:
    await receive("SH", "A001", 10)
    state = await admitted("1", line(1, "A001", 2), line(2, "A001", 1))
    assert parcels(state.fulfillments) == {"F1 SH": {"A001": 3}}
    assert await level("SH", "A001") == (10, 3, 7)
    again = await steps.allocate(state.model_copy(deep=True), now())
    assert [each.id for each in again.fulfillments] == [each.id for each in state.fulfillments]
    assert await level("SH", "A001") == (10, 3, 7)
    parcel = state.fulfillments[0]
    for _ in range(2):
        await shipped(state, parcel)
        assert await level("SH", "A001") == (7, 0, 7)
    for _ in range(2):
        await returned(state, parcel)
        assert await level("SH", "A001") == (10, 0, 10)
    assert await drifts() == []
    kinds = await sql("SELECT kind FROM movements WHERE order_id = :id ORDER BY id", id=state.order.order_id)
    assert [row.kind for row in kinds] == ["allocated", "shipped", "returned"]


async def test_cancelled_order_returns_its_stock_once_and_its_number_is_not_reused() -> None:
    await receive("SH", "A001", 3)
    state = await admitted("1", line(1, "A001", 3))
    for _ in range(2):
        await cancelled(state, end=None)
        assert await level("SH", "A001") == (3, 0, 3)
    await allocated(state)
    assert [each.short_id for each in state.active] == ["F2"]
    assert await level("SH", "A001") == (3, 3, 0)
    await cancelled(state)
    assert await level("SH", "A001") == (3, 0, 3)
    assert await drifts() == []


async def test_allocation_is_either_shipped_or_given_back() -> None:
    await receive("SH", "A001", 9)
    gone, back, other = [await admitted(str(number), line(1, "A001", 3)) for number in (1, 2, 3)]
    await shipped(gone, gone.fulfillments[0])
    gone.fulfillments[0].status = FulfillmentStatus.CANCELLED
    await cancelled(gone)
    assert await level("SH", "A001") == (6, 6, 0)
    await cancelled(back)
    await shipped(back, back.fulfillments[0])
    assert await level("SH", "A001") == (6, 3, 3), "the allocation of the third order stands"
    assert other.fulfillments[0].status is FulfillmentStatus.OPEN
    assert await drifts() == []


async def test_allocation_unknown_to_the_workflow_is_released() -> None:
    await receive("SH", "A001", 3)
    state = OrderState(order=an_order("1", line(1, "A001", 3)), policy=Policy(), revision=1)
    await steps.admit(state.model_copy(deep=True), now())
    await cancelled(state)
    assert await level("SH", "A001") == (3, 0, 3)
    assert [row.status for row in await sql("SELECT status FROM fulfillments")] == ["cancelled"]


async def test_bundle_allocates_all_components_or_none() -> None:
    await receive("SH", "B001", 4)
    await receive("SH", "B002", 1)
    short = await admitted("1", line(1, "K001", 2))
    assert short.shortages == [Shortage(sku="B002", quantity=1)]
    assert await level("SH", "B001") == (4, 0, 4)
    whole = await admitted("2", line(1, "K001", 1))
    assert parcels(whole.fulfillments) == {"F1 SH": {"B001": 2, "B002": 1}}
    assert {each.line_no for each in whole.fulfillments[0].lines} == {"1"}


async def test_split_over_two_warehouses_saves_the_plan() -> None:
    await receive("SH", "A001", 5)
    await receive("GZ", "B001", 5)
    state = await admitted("1", line(1, "A001", 1), line(2, "B001", 1))
    assert parcels(state.fulfillments) == {"F1 SH": {"A001": 1}, "F2 GZ": {"B001": 1}}
    ((kept,),) = await sql("SELECT plan FROM orders")
    assert {each["warehouse"]: each["reason"] for each in kept["candidates"]} == {
        "SH": "plan.nearest",
        "GZ": "plan.chosen",
        "BJ": "plan.lacks",
        "CD": "plan.lacks",
        "FAC": "plan.lacks",
    }


async def test_only_oversell_skus_go_below_zero() -> None:
    await receive("SH", "P001", 1)
    await receive("SH", "A001", 1)
    presale = await admitted("1", line(1, "P001", 5))
    assert not presale.shortages
    assert await level("SH", "P001") == (1, 5, -4)
    short = await admitted("2", line(1, "A001", 5))
    assert short.shortages == [Shortage(sku="A001", quantity=4)]
    assert await level("SH", "A001") == (1, 0, 1)
    assert await drifts() == []


async def test_partial_shipping_allocates_available_stock_then_the_rest() -> None:
    await receive("SH", "A001", 2)
    state = await admitted("1", line(1, "A001", 5), line(2, "A002", 1), policy=PARTS)
    assert parcels(state.fulfillments) == {"F1 SH": {"A001": 2}}
    assert {each.sku: each.quantity for each in state.shortages} == {"A001": 3, "A002": 1}
    await receive("GZ", "A001", 3)
    assert await notified_orders() == []
    await receive("GZ", "A002", 1)
    assert await notified_orders() == ["1"]
    await allocated(state)
    assert parcels(state.active) == {"F1 SH": {"A001": 2}, "F2 GZ": {"A001": 3, "A002": 1}}
    assert not state.shortages
    assert await sql("SELECT 1 FROM stock_waits") == []


# Waiting orders


async def test_arriving_stock_notifies_orders_it_can_fill_by_priority_then_age() -> None:
    for number, quantity, priority in (("1", 4, 3), ("2", 9, 3), ("3", 3, 3), ("4", 2, 1), ("5", 1, 3)):
        await admitted(number, line(1, "A001", quantity), priority=priority)
    await admitted("6", line(1, "A002", 1))
    assert await notified_orders() == []
    await receive("GZ", "A001", 9, "delivery")
    assert await notified_orders() == ["4", "1", "3"]
    await receive("GZ", "A001", 9, "delivery")
    assert await notified_orders() == ["4", "1", "3"]
    rows = await sql("SELECT priority FROM inbox ORDER BY id")
    assert [row.priority for row in rows] == [1, 3, 3]


async def test_order_is_notified_only_when_everything_it_waits_for_is_available() -> None:
    await receive("SH", "A001", 2)
    state = await admitted("1", line(1, "A001", 2), line(2, "A002", 1))
    await admitted("2", line(1, "A001", 2))
    await receive("GZ", "A002", 1)
    assert await notified_orders() == []
    await receive("BJ", "A001", 1)
    assert await notified_orders() == []
    await receive("BJ", "A001", 1)
    assert await notified_orders() == ["1"]
    assert not (await allocated(state)).shortages


async def test_returned_stock_notifies_and_stock_at_a_closed_warehouse_does_not() -> None:
    await receive("SH", "A001", 2)
    first = await admitted("1", line(1, "A001", 2))
    await admitted("2", line(1, "A001", 2))
    await sql("UPDATE warehouses SET closed = true WHERE code = 'GZ'")
    await receive("GZ", "A001", 5)
    assert await notified_orders() == []
    await cancelled(first)
    assert await notified_orders() == ["2"]


async def test_ended_order_is_not_notified() -> None:
    state = await admitted("1", line(1, "A001", 2))
    await cancelled(state)
    await receive("SH", "A001", 2)
    assert await notified_orders() == []


async def test_concurrent_arrivals_notify_the_order_that_needs_both() -> None:
    for number in range(8):
        sku = f"A{number + 1:03}"
        await receive("SH", sku, 1)
        await receive("GZ", sku, 1)
        await admitted(str(number), line(1, sku, 10))
        await asyncio.gather(receive("SH", sku, 4), receive("GZ", sku, 4))
    assert set(await notified_orders()) == {str(number) for number in range(8)}


async def test_first_receipt_at_a_warehouse_is_seen_by_a_concurrent_allocation() -> None:
    async def order(number: int, sku: str) -> OrderState:
        while True:
            with suppress(ApplicationError):
                return await admitted(str(number), line(1, sku, 1))

    for number in range(24):
        sku = f"{'ABCD'[number // 12]}{number % 12 + 1:03}"
        state, _ = await asyncio.gather(order(number, sku), receive("SH", sku, 1))
        assert not state.shortages or str(number) in await notified_orders()


# Concurrency


async def test_concurrent_orders_for_the_same_skus_do_not_deadlock() -> None:
    skus = ["A001", "A002", "A003", "A004"]
    for warehouse in ("SH", "GZ", "BJ", "CD"):
        for sku in skus:
            await receive(warehouse, sku, 30)

    async def run_order(number: int) -> OrderState:
        turn = skus if number % 2 else skus[::-1]
        state = await admitted(str(number), *(line(place, sku, 1) for place, sku in enumerate(turn, 1)))
        await (cancelled(state) if number % 3 else shipped(state, state.fulfillments[0]))
        return state

    states = await asyncio.gather(*(run_order(number) for number in range(90)))
    assert all(len(state.fulfillments) == 1 for state in states)
    left = await sql("SELECT sku, sum(on_hand) AS on_hand, sum(allocated) AS allocated FROM stock_levels GROUP BY sku")
    assert {(row.on_hand, row.allocated) for row in left} == {(4 * 30 - 30, 0)}
    assert await drifts() == []


async def test_concurrent_orders_do_not_oversell() -> None:
    await receive("SH", "A001", 20)
    await receive("GZ", "A001", 5)
    states = await asyncio.gather(*(admitted(str(number), line(1, "A001", 1)) for number in range(60)))
    assert sum(len(state.fulfillments) for state in states) == 25
    assert await level("SH", "A001") == (20, 20, 0)
    assert await level("GZ", "A001") == (5, 5, 0)
    assert await drifts() == []


async def test_order_admitted_twice_concurrently_is_allocated_once() -> None:
    await receive("SH", "A001", 20)
    both = await asyncio.gather(*(admitted("1", line(1, "A001", 2)) for _ in range(2)))
    assert [[each.id for each in state.fulfillments] for state in both] == [["order:own:web:1:F1"]] * 2
    assert await level("SH", "A001") == (20, 2, 18)


# Verification


async def test_verify_reports_discrepancies_and_stock_of_ended_orders() -> None:
    await receive("SH", "A001", 5)
    await receive("GZ", "A002", 5)
    await admitted("1", line(1, "A002", 2))
    assert await drifts() == []
    await sql("UPDATE stock_levels SET on_hand = on_hand + 1 WHERE sku = 'A001'")
    await sql("UPDATE orders SET status = 'completed'")
    assert await drifts() == [
        Discrepancy(warehouse="SH", sku="A001", field="on_hand", level=6, expected=5),
        Discrepancy(warehouse="GZ", sku="A002", field="ended_orders", level=2, expected=0),
    ]


@pytest.mark.parametrize(("b001", "b002", "sets"), [(4, 1, 1), (1, 5, 0), (6, 3, 3), (5, 5, 2), (3, 2, 1)])
async def test_bundle_shipped_in_part_leaves_in_whole_sets(b001: int, b002: int, sets: int) -> None:
    await receive("SH", "B001", b001)
    await receive("SH", "B002", b002)
    state = await admitted("1", line(1, "K001", 3), line(2, "A001", 1), policy=Policy(ship_in_part=True))
    packed = Counter[str]()
    for each in state.fulfillments:
        for part in each.lines:
            packed[part.sku] += part.quantity
    assert packed == Counter({"B001": 2 * sets, "B002": sets})
    short = {each.sku: each.quantity for each in state.shortages}
    expected = {"B001": 2 * (3 - sets), "B002": 3 - sets, "A001": 1}
    assert short == {sku: quantity for sku, quantity in expected.items() if quantity}
    assert await drifts() == []


async def test_later_small_orders_do_not_starve_an_earlier_large_one() -> None:
    large = await admitted("0", line(1, "A001", 10))
    filled = []
    for number in range(1, 12):
        await admitted(str(number), line(1, "A001", 3))
        await receive("SH", "A001", 3)
        filled = await notified_orders()
        if "0" in filled:
            break
        for name in filled:
            state = OrderState(order=an_order(name, line(1, "A001", 3)), policy=Policy(), revision=1)
            await allocated(state)
    assert filled == ["1", "0"], "passed over once, then every arrival is its own"
    assert not (await allocated(large)).shortages
    assert await drifts() == []


async def test_claim_lets_urgent_orders_pass_and_ends_with_its_order() -> None:
    large = await admitted("1", line(1, "A001", 10), priority=3)
    await receive("SH", "A001", 2)
    held = await admitted("2", line(1, "A001", 2), priority=3)
    assert held.shortages, "the arrival is claimed"
    urgent = await admitted("3", line(1, "A001", 1), priority=1)
    assert not urgent.shortages
    await receive("SH", "A001", 1)
    assert await notified_orders() == []
    await cancelled(large)
    assert await notified_orders() == ["2"]
    assert not (await allocated(held)).shortages


async def test_no_waiting_order_is_passed_over_twice_by_a_later_one() -> None:
    draw = random.Random(5)
    for world in range(6):
        sku = f"A{world + 1:03}"
        waiting: dict[str, tuple[int, OrderState]] = {}
        passed: Counter[str] = Counter()
        for step in range(14):
            number = f"{world}-{step}"
            if draw.random() < 0.6:
                quantity = draw.choice([1, 2, 3, 8])
                state = await admitted(number, line(1, sku, quantity))
                if state.shortages:
                    waiting[number] = (quantity, state)
                else:
                    passed.update(waiting)
            before = set(await notified_orders())
            await receive("SH", sku, draw.randint(1, 4))
            for name in [each for each in await notified_orders() if each not in before and each in waiting]:
                state = waiting.pop(name)[1]
                assert not (await allocated(state)).shortages, "what it claimed is there"
                passed.update(each for each in waiting if int(each.partition("-")[2]) < int(name.partition("-")[2]))
        assert all(times <= 2 for times in passed.values()), passed
    assert await drifts() == []
