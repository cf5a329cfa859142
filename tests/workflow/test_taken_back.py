"""What a channel takes back or adds counts at every stage: payments, prices, amounts to collect and lines."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from activities.intake.changes import changes
from activities.kit.database import transaction
from models.exceptions import ExceptionRow
from models.hold import HoldKind
from models.order import OrderStatus
from models.policy import Policy
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness, OrderRun
from tests.workflow.test_facts import appears, recalled


async def now_says(run: OrderRun, **fields: Any) -> None:
    """Send what a newer version of the order amounts to, as the dispatcher does."""
    later = {"modified_at": run.order.modified_at + timedelta(minutes=1)}
    newer = run.order.model_copy(update=later | fields)
    for name, request in changes(run.order, newer, newer.modified_at.isoformat()):
        await run.handle.signal(name, request)
    run.order = newer


async def exceptions_of(run: OrderRun, kind: str) -> list[dict[str, Any]]:
    query = select(ExceptionRow.detail).where(ExceptionRow.order_id == run.order.order_id, ExceptionRow.kind == kind)
    async with transaction() as connection:
        return list(await connection.scalars(query))


async def opened(run: OrderRun, kind: str, count: int) -> None:
    """Wait until so many exceptions of a kind were opened."""
    for _ in range(3000):
        if len(await exceptions_of(run, kind)) == count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{await exceptions_of(run, kind)}, not {count} of {kind}")


async def modified(run: OrderRun, times: int) -> None:
    """Wait until the order was modified so often."""
    for _ in range(3000):
        if (await run.timeline()).count("modify") == times:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await run.timeline())


async def collects(sandbox: str, run: OrderRun) -> list[str]:
    """Return the amounts that the carrier collects for the order, cancelled waybills left out."""
    async with httpx.AsyncClient() as world:
        bookings = (await world.get(f"{sandbox}/sf/_control/bookings")).json()
    ours = [each for each in bookings if each["reference"].startswith(f"{run.order.channel_order_no}-F")]
    return sorted(each["cash"] for each in ours if not each["cancelled"])


async def eventually_collects(sandbox: str, run: OrderRun, *amounts: str) -> None:
    for _ in range(3000):
        if await collects(sandbox, run) == sorted(amounts):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{await collects(sandbox, run)}, not {sorted(amounts)}")


async def test_a_payment_reversed_at_the_warehouse_recalls_and_holds_the_order(harness: Harness) -> None:
    run = await harness.start(an_order("80"))
    paid_at = run.order.paid_at
    await run.dispatched()
    await now_says(run, paid_at=None)
    state = await recalled(run)
    assert [(each.kind, each.reason) for each in state.holds] == [(HoldKind.CHANNEL, "hold.channel.unpaid")]
    assert (await harness.level("SH", "A001")).available == 10
    await now_says(run, paid_at=paid_at)
    assert await run.deliver() is OrderStatus.COMPLETED
    entries = [each for each in await run.timeline() if each.startswith(("paid", "payment"))]
    assert entries == ["payment_reversed", "paid"]
    await harness.balanced()


async def test_a_payment_reversed_before_the_release_stops_the_order(harness: Harness) -> None:
    run = await harness.start(an_order("81"), Policy(grace=3600))
    await run.until(OrderStatus.APPROVED)
    await now_says(run, paid_at=None)
    await run.until(OrderStatus.ON_HOLD)
    await now_says(run, cancelled_at=run.order.modified_at)
    assert await run.end() is OrderStatus.CANCELLED
    await harness.balanced()


async def test_a_payment_reversed_after_shipping_opens_an_exception_each_time(harness: Harness) -> None:
    """A part that has not shipped is recalled and held; the rest goes on."""
    await harness.receive("SH", "A001", 20)
    run = await harness.start(an_order("82", line(1), line(2, "B001", 3)), Policy(ship_in_part=True))
    paid_at = run.order.paid_at
    first = await run.next_dispatched([])
    await run.ship(first)
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    await now_says(run, paid_at=None)
    await opened(run, "payment_reversed", 1)
    await now_says(run, paid_at=paid_at)
    await appears("paid", run.timeline)
    await now_says(run, paid_at=None)
    await opened(run, "payment_reversed", 2)
    state = await run.state()
    assert [each.reason for each in state.holds] == ["hold.channel.unpaid"]
    assert [each.id for each in state.active] == [first.id]
    await now_says(run, paid_at=paid_at, lines=run.order.lines[:1], total=Decimal(50))
    await run.track(first)
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


@pytest.mark.parametrize(
    ("stage", "edited", "amount"),
    [
        ("before booking", {"lines": (line(1, price="80"),), "total": Decimal(80)}, "80.00"),
        ("before booking", {"cash_on_delivery": False, "paid_at": "now"}, ""),
        ("at the warehouse", {"discount": Decimal(30), "total": Decimal(20)}, "20.00"),
        ("at the warehouse", {"freight": Decimal(12), "total": Decimal(62)}, "62.00"),
    ],
    ids=["dearer", "paid instead", "discount", "freight"],
)
async def test_the_carrier_collects_what_the_newest_version_says(
    harness: Harness, stocked: str, stage: str, edited: dict[str, Any], amount: str
) -> None:
    sold = an_order("83", paid_at=None, cash_on_delivery=True)
    early = stage == "before booking"
    run = await harness.start(sold, Policy(grace=3600 if early else 0))
    if early:
        await run.until(OrderStatus.APPROVED)
    else:
        await run.dispatched()
        assert await collects(stocked, run) == ["50.00"]
    if "paid_at" in edited:
        edited = edited | {"paid_at": run.order.placed_at}
    await now_says(run, **edited)
    if early:
        await appears("modify", run.timeline)
        await harness.skip(seconds=3601)
    await eventually_collects(stocked, run, amount)
    assert (await run.state()).order.owed == Decimal(amount or 0)
    assert await run.deliver() is OrderStatus.COMPLETED
    assert await collects(stocked, run) == [amount]
    await harness.balanced()


async def test_an_amount_edited_after_shipping_opens_an_exception_that_names_it(harness: Harness, stocked: str) -> None:
    run = await harness.start(an_order("84", paid_at=None, cash_on_delivery=True))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.until(OrderStatus.SHIPPED)
    await now_says(run, total=Decimal(40), discount=Decimal(10))
    await appears("channel_modify", run.exceptions)
    ((detail),) = await exceptions_of(run, "channel_modify")
    assert "total 50 → 40" in detail["changes"].replace(".00", "")
    assert await collects(stocked, run) == ["50.00"]
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED


@pytest.mark.parametrize("stage", ["before booking", "at the warehouse"])
async def test_lines_added_twice_are_taken_in_twice(harness: Harness, stage: str) -> None:
    early = stage == "before booking"
    run = await harness.start(an_order("85"), Policy(grace=3600 if early else 0))
    await (run.until(OrderStatus.APPROVED) if early else run.dispatched())
    for number, sku in ((2, "A002"), (3, "A003")):
        lines = (*run.order.lines, line(number, sku))
        await now_says(run, lines=lines, total=Decimal(50 * number))
        await modified(run, times=number - 1)
        if not early:
            await run.dispatched()
    if early:
        await harness.skip(seconds=3601)
    fulfillments = await run.dispatched()
    assert sorted(each.sku for fulfillment in fulfillments for each in fulfillment.lines) == ["A001", "A002", "A003"]
    assert await run.deliver() is OrderStatus.COMPLETED
    assert await harness.shipped_lines(run.order) == {"1": 1, "2": 1, "3": 1}
    await harness.balanced()


async def test_lines_added_after_shipping_open_an_exception_each_time(harness: Harness) -> None:
    run = await harness.start(an_order("86"))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.until(OrderStatus.SHIPPED)
    for number, sku in ((2, "A002"), (3, "A003")):
        await now_says(run, lines=(*run.order.lines, line(number, sku)), total=Decimal(50 * number))
        await opened(run, "lines_added", number - 1)
    assert [each["count"] for each in await exceptions_of(run, "lines_added")] == ["1", "1"]
    assert len(await exceptions_of(run, "channel_modify")) == 2
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED


async def test_lines_added_while_a_part_has_shipped_are_taken_in(harness: Harness) -> None:
    await harness.receive("SH", "A001", 20)
    run = await harness.start(an_order("87", line(1), line(2, "B001", 3)), Policy(ship_in_part=True))
    first = await run.next_dispatched([])
    await run.ship(first)
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    await now_says(run, lines=(*run.order.lines, line(3, "A003")), total=Decimal(250))
    second = await run.next_dispatched([first])
    assert [each.sku for each in second.lines] == ["A003"]
    await now_says(run, lines=(run.order.lines[0], run.order.lines[2]), total=Decimal(100))
    await run.ship(second)
    for each in (first, second):
        await run.track(each)
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()
