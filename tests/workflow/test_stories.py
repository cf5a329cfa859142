"""Stories of single orders. Each ends in the expected status with balanced stock."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowUpdateFailedError

from activities import cleansing
from activities.kit.database import transaction
from models.address import Recipient
from models.fulfillment import Shortfall, ShortfallKind, TrackingStatus
from models.hold import HoldKind
from models.order import OrderStatus
from models.policy import Policy
from models.requests import (
    Approve,
    Cancel,
    Expedite,
    HoldRequest,
    Modify,
    Note,
    Payment,
    QuantityChange,
    Reject,
    Release,
    Replan,
    StockArrived,
    WarehouseEventKind,
)
from models.stock import SkuRow
from tests.unit.orders import RECIPIENT, an_order, line
from tests.workflow.harness import Harness, OrderRun, request_id

BUDGET = 40


async def test_a_clean_order_completes_with_balanced_stock(harness: Harness) -> None:
    run = await _live(harness)
    row = await run.row()
    assert (row.status, row.recipient) == ("completed", cleansing.recipient(RECIPIENT))
    entries = await run.timeline()
    assert [each for each in entries if each != "received"] == [
        "allocated",
        "booked",
        "released",
        "shipped",
        "channel_notified",
        "tracking.delivered",
        "completed",
    ]
    await harness.balanced()
    assert (await harness.level("SH", "A001")).on_hand == 9


async def test_a_clean_order_stays_within_its_event_budget(harness: Harness) -> None:
    """The budget holds for the shortest of three histories: a slow machine adds tasks, and never saves one."""
    histories = [await (await _live(harness)).handle.fetch_history() for _ in range(3)]
    shortest = min(histories, key=lambda each: len(each.events)).events
    events = [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in shortest]
    assert len(events) <= BUDGET, "\n".join(events)


async def _live(harness: Harness) -> OrderRun:
    """Carry a clean order to its end."""
    run = await harness.start(an_order())
    fulfillment = await run.fulfillment(request_status="submitted")
    await run.ship(fulfillment)
    await run.track(await run.fulfillment(channel_notified=True))
    assert await run.end() is OrderStatus.COMPLETED
    return run


async def test_an_order_that_no_warehouse_can_fill_alone_is_split(harness: Harness) -> None:
    run = await harness.start(an_order("2", line(1, "A001", 15)))
    fulfillments = await run.dispatched()
    assert sorted(each.warehouse for each in fulfillments) == ["GZ", "SH"]
    await run.ship(fulfillments[0])
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    await run.track(fulfillments[0])
    await run.until(OrderStatus.PARTIALLY_DELIVERED)
    await run.ship(fulfillments[1])
    await run.track(fulfillments[1])
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_payment_advances_an_unpaid_order(harness: Harness) -> None:
    order = an_order("3", paid_at=None)
    run = await harness.start(order)
    await run.until(OrderStatus.AWAITING_PAYMENT)
    await run.handle.signal("payment", Payment(request_id="p1", paid_at=order.placed_at))
    assert await run.deliver() is OrderStatus.COMPLETED
    assert (await run.row()).paid_at == order.placed_at


async def test_an_unpaid_order_expires(harness: Harness) -> None:
    run = await harness.start(an_order("4", paid_at=None), Policy(payment=3600))
    await run.until(OrderStatus.AWAITING_PAYMENT)
    await harness.skip(seconds=3601)
    assert await run.end() is OrderStatus.CANCELLED
    assert "payment_expired" in await run.timeline()
    await harness.balanced()


async def test_an_expensive_order_is_held_until_it_is_approved(harness: Harness) -> None:
    run = await harness.start(an_order("5", line(1, "A001", 1, "9000")))
    state = await run.until(OrderStatus.IN_REVIEW)
    assert state.holds[0].reason == "hold.review.amount"
    assert (await run.ask("approve", Approve(request_id=request_id(), actor="li"))).accepted
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_a_rejection_in_review_ends_the_order(harness: Harness) -> None:
    run = await harness.start(an_order("6", buyer_message="先别发货"))
    await run.until(OrderStatus.IN_REVIEW)
    assert (await run.ask("reject", Reject(request_id=request_id(), reason="fraud"))).accepted
    assert await run.end() is OrderStatus.REJECTED
    await harness.balanced()


async def test_an_overdue_review_raises_one_alert(harness: Harness) -> None:
    run = await harness.start(an_order("7", buyer_message="先别发货"), Policy(review=3600))
    await run.until(OrderStatus.IN_REVIEW)
    await harness.skip(hours=9)
    assert await run.exceptions() == ["overdue.in_review"]
    await run.ask("reject", Reject(request_id=request_id()))
    await run.end()


async def test_an_address_modified_in_the_grace_period_changes_the_warehouse(harness: Harness) -> None:
    run = await harness.start(an_order("8"), Policy(grace=600))
    await run.until(OrderStatus.APPROVED)
    moved = RECIPIENT.model_copy(
        update={"province": "广东省", "city": "广州市", "district": "天河区", "street": "天河路1号"}
    )
    assert (await run.ask("modify", Modify(request_id=request_id(), recipient=moved))).accepted
    await harness.skip(seconds=601)
    fulfillments = await run.dispatched()
    assert [each.warehouse for each in fulfillments] == ["GZ"]
    assert (await run.row()).recipient.city == "广州市"
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_modified_quantities_recall_and_replan_a_released_order(harness: Harness) -> None:
    run = await harness.start(an_order("9", line(1, "A001", 4)))
    first = await run.dispatched()
    change = Modify(request_id=request_id(), lines=(QuantityChange(line_no="1", quantity=2),))
    assert (await run.ask("modify", change)).accepted
    await run.until(OrderStatus.ALLOCATED)
    fulfillments = await run.dispatched()
    assert fulfillments[0].id != first[0].id
    assert fulfillments[0].lines[0].quantity == 2
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()
    assert (await harness.level("SH", "A001")).on_hand == 8


async def test_modifying_an_unknown_line_is_refused(harness: Harness) -> None:
    run = await harness.start(an_order("10"), Policy(grace=60))
    await run.until(OrderStatus.APPROVED)
    change = Modify(request_id=request_id(), lines=(QuantityChange(line_no="9", quantity=2),))
    answer = await run.ask("modify", change)
    assert (answer.accepted, answer.reason) == (False, "refused.lines")
    await run.ask("cancel", Cancel(request_id=request_id()))
    await run.end()


async def test_an_order_is_cancelled_before_release(harness: Harness) -> None:
    run = await harness.start(an_order("11"), Policy(grace=60))
    await run.until(OrderStatus.APPROVED)
    assert (await run.ask("cancel", Cancel(request_id="c1", actor="li", reason="changed mind"))).accepted
    assert await run.end() is OrderStatus.CANCELLED
    assert "cancel" in await run.timeline()
    await harness.balanced()


async def test_a_released_order_is_cancelled_if_the_warehouse_accepts_the_recall(harness: Harness) -> None:
    run = await harness.start(an_order("12"))
    await run.dispatched()
    assert (await run.ask("cancel", Cancel(request_id="c1"))).accepted
    assert await run.end() is OrderStatus.CANCELLED
    assert "recalled" in await run.timeline()
    await harness.balanced()
    assert (await harness.level("SH", "A001")).available == 10


async def test_a_cancellation_after_shipping_is_refused_with_a_reason(harness: Harness) -> None:
    run = await harness.start(an_order("13"))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.until(OrderStatus.SHIPPED)
    answer = await run.ask("cancel", Cancel(request_id=request_id()))
    assert (answer.accepted, answer.reason, answer.params) == (False, "refused.cancel", {"status": "shipped"})
    await run.handle.signal("cancel", Cancel(request_id="by-signal", actor="li"))
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED
    assert "refused.cancel" in await run.timeline()


async def test_an_order_waits_for_stock_and_continues_when_stock_arrives(harness: Harness) -> None:
    run = await harness.start(an_order("14", line(1, "A001", 25)), Policy(stock=3600))
    state = await run.until(OrderStatus.AWAITING_STOCK)
    assert [(each.sku, each.quantity) for each in state.shortages] == [("A001", 5)]
    await harness.skip(hours=2)
    assert await run.exceptions() == ["overdue.awaiting_stock"]
    notified = await harness.receive("SH", "A001", 5)
    assert notified == [run.order.order_id]
    await run.handle.signal("stock_arrived", StockArrived(request_id="s1"))
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_available_stock_ships_first_if_policy_allows_partial_shipment(harness: Harness) -> None:
    run = await harness.start(an_order("15", line(1, "A001", 25)), Policy(ship_in_part=True))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    for each in fulfillments:
        await run.track(each)
    await run.until(OrderStatus.PARTIALLY_DELIVERED)
    await harness.receive("SH", "A001", 5)
    await run.handle.signal("stock_arrived", StockArrived(request_id="s1"))
    rest = await run.next_dispatched(fulfillments)
    assert rest.lines[0].quantity == 5
    await run.ship(rest)
    await run.track(rest)
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_parcel_without_movement_opens_one_exception(harness: Harness) -> None:
    run = await harness.start(an_order("16"), Policy(movement=3600, delivery=86400))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.until(OrderStatus.SHIPPED)
    await harness.skip(hours=30)
    assert await run.exceptions() == ["no_movement"]
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED


async def test_late_shipping_opens_an_exception(harness: Harness) -> None:
    run = await harness.start(an_order("17"), Policy(ship=3600))
    fulfillments = await run.dispatched()
    await harness.skip(hours=2)
    assert await run.exceptions() == ["ship_overdue"]
    await run.ship(*fulfillments)
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED


async def test_a_refused_parcel_signed_for_later_is_restocked(harness: Harness) -> None:
    run = await harness.start(an_order("18"))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.track(fulfillments[0], TrackingStatus.REFUSED)
    await run.track(fulfillments[0], TrackingStatus.DELIVERED)
    assert await run.end() is OrderStatus.COMPLETED
    assert await run.exceptions() == ["refused"]
    assert (await harness.level("SH", "A001")).available == 10
    await harness.balanced()


async def test_a_rejected_order_is_replanned_and_held_after_the_second_rejection(harness: Harness) -> None:
    run = await harness.start(an_order("19"))
    (first,) = await run.dispatched()
    await run.event(first, WarehouseEventKind.REJECTED, reason="flooded")
    second = await run.next_dispatched([first])
    assert (first.warehouse, second.warehouse) == ("SH", "GZ")
    await run.event(second, WarehouseEventKind.REJECTED, reason="flooded too")
    state = await run.until(OrderStatus.ON_HOLD)
    assert [each.kind for each in state.holds] == [HoldKind.WAREHOUSE]
    assert (await run.ask("release", Release(request_id=request_id()))).accepted
    assert (await run.next_dispatched([first, second])).warehouse == "SH"
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


@pytest.mark.parametrize(
    ("shortfall", "left"),
    [
        (Shortfall(sku="A001", kind=ShortfallKind.NOT_FOUND), (0, 0, 0)),
        (Shortfall(sku="A001", kind=ShortfallKind.MISMATCH, quantity=1), (7, 0, 7)),
        (Shortfall(sku="A001", kind=ShortfallKind.DAMAGED, quantity=4), (10, 4, 6)),
    ],
    ids=lambda given: str(given.kind) if isinstance(given, Shortfall) else "",
)
async def test_a_shortfall_corrects_the_stock_and_replans_the_order(
    harness: Harness, shortfall: Shortfall, left: tuple[int, int, int]
) -> None:
    run = await harness.start(an_order("44", line(1, "A001", 4)))
    (fulfillment,) = await run.dispatched()
    await run.event(fulfillment, WarehouseEventKind.REJECTED, shortfalls=(shortfall,))
    again = await run.next_dispatched([fulfillment])
    level = await harness.level("SH", "A001")
    held = level.allocated
    assert (level.on_hand, level.unavailable, level.available + held) == left
    assert again.warehouse == ("SH" if left[2] >= 4 else "GZ")
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_an_overdue_fulfillment_order_is_replanned_if_policy_says_so(
    harness: Harness,
) -> None:
    run = await harness.start(an_order("47"), Policy(ship=3600, replan_when_late=True))
    (slow,) = await run.dispatched()
    await harness.skip(seconds=3601)
    other = await run.next_dispatched([slow])
    assert (slow.warehouse, other.warehouse) == ("SH", "GZ")
    assert await run.deliver() is OrderStatus.COMPLETED
    assert await run.exceptions() == ["ship_overdue"]
    await harness.balanced()


async def test_a_warehouse_that_rejects_twice_for_shortfalls_is_excluded(harness: Harness) -> None:
    run = await harness.start(an_order("48"))
    (first,) = await run.dispatched()
    shortfalls = (Shortfall(sku="A001", kind=ShortfallKind.DAMAGED, quantity=1),)
    await run.event(first, WarehouseEventKind.REJECTED, shortfalls=shortfalls)
    second = await run.next_dispatched([first])
    await run.event(second, WarehouseEventKind.REJECTED, shortfalls=shortfalls)
    third = await run.next_dispatched([first, second])
    assert [each.warehouse for each in (first, second, third)] == ["SH", "SH", "GZ"]
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_replanning_leaves_shipped_fulfillment_orders_alone(harness: Harness) -> None:
    await harness.receive("BJ", "A001", 10)
    run = await harness.start(an_order("45", line(1, "A001", 15)))
    fulfillments = {each.warehouse: each for each in await run.dispatched()}
    await run.ship(fulfillments["SH"])
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    request = Replan(request_id="r", warehouse="GZ", reason="closed")
    assert (await run.ask("replan", request)).accepted
    moved = await run.next_dispatched(list(fulfillments.values()))
    assert (moved.warehouse, sum(each.quantity for each in moved.lines)) == ("BJ", 5)
    assert (await run.ask("replan", Replan(request_id="r2", warehouse="SH"))).reason == "refused.replan.nothing"
    await run.ship(moved)
    for each in (fulfillments["SH"], moved):
        await run.track(each)
    assert await run.end() is OrderStatus.COMPLETED
    assert (await harness.level("GZ", "A001")).available == 10
    await harness.balanced()


async def test_an_order_without_a_street_is_held_until_the_street_is_supplied(harness: Harness) -> None:
    person = Recipient(**RECIPIENT.model_dump() | {"street": ""})
    run = await harness.start(an_order("20", recipient=person))
    state = await run.until(OrderStatus.ON_HOLD)
    assert state.holds[0].reason == "hold.address.street"
    assert (await run.ask("modify", Modify(request_id=request_id(), recipient=RECIPIENT))).accepted
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_a_repeated_request_changes_nothing(harness: Harness) -> None:
    run = await harness.start(an_order("21"), Policy(grace=600))
    await run.until(OrderStatus.APPROVED)
    hold = HoldRequest(request_id="h1", actor="li", reason="check")
    for _ in range(3):
        assert (await run.ask("hold", hold)).accepted
        await run.handle.signal("hold", hold)
    state = await run.until(OrderStatus.ON_HOLD)
    assert len(state.holds) == 1
    assert (await run.timeline()).count("hold") == 1
    await run.ask("note", Note(request_id="n1", text="called the buyer"))
    await run.ask("cancel", Cancel(request_id="c1"))
    assert await run.end() is OrderStatus.CANCELLED


async def test_current_details_show_status_and_next_step(harness: Harness) -> None:
    run = await harness.start(an_order("22", buyer_message="先别发货"))
    await run.until(OrderStatus.IN_REVIEW)
    shown = str(await run.handle.query("__temporal_workflow_metadata"))
    for words in ("In review", "Waiting for a person", "A remark asks to hold the order", "Deadline"):
        assert words in shown
    await run.ask("reject", Reject(request_id=request_id()))
    await run.end()


async def test_presale_goods_shipped_before_receipt_keep_the_ledger_balanced(harness: Harness) -> None:
    await harness.receive("SH", "P001", 1)
    run = await harness.start(an_order("23", line(1, "P001", 3)))
    assert await run.deliver() is OrderStatus.COMPLETED
    level = await harness.level("SH", "P001")
    assert (level.on_hand, level.allocated) == (0, 0)
    await harness.balanced()


async def test_a_reservation_expires_and_the_order_may_still_be_paid(harness: Harness) -> None:
    policy = Policy(reserve="placed", reservation=1800, payment=24 * 3600)
    run = await harness.start(an_order("40", line(1, "A001", 4), paid_at=None), policy)
    assert (await run.until(OrderStatus.AWAITING_PAYMENT)).reserved_until is not None
    assert (await harness.level("SH", "A001")).reserved == 4
    await harness.skip(minutes=25)
    assert (await run.ask("note", Note(request_id="n", text="is it still there?"))).accepted
    await harness.skip(minutes=25)
    assert (await harness.level("SH", "A001")).reserved == 4
    await harness.skip(minutes=10)
    state = await run.until(OrderStatus.AWAITING_PAYMENT)
    assert state.reserved_until is None
    assert (await harness.level("SH", "A001")).reserved == 0
    await run.handle.signal("payment", Payment(request_id="p", paid_at=run.order.placed_at))
    assert await run.deliver() is OrderStatus.COMPLETED
    entries = await run.timeline()
    assert [each for each in entries if "reserved" in each] == ["reserved", "unreserved"]
    await harness.balanced()


async def test_a_payment_in_time_allocates_the_reserved_stock(harness: Harness) -> None:
    policy = Policy(reserve="placed")
    run = await harness.start(an_order("41", line(1, "A001", 10), paid_at=None), policy)
    await run.until(OrderStatus.AWAITING_PAYMENT)
    await run.handle.signal("payment", Payment(request_id="p", paid_at=run.order.placed_at))
    (fulfillment,) = await run.dispatched()
    assert fulfillment.warehouse == "SH"
    assert (await harness.level("SH", "A001")).reserved == 0
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_presale_order_waits_for_its_ship_date_unless_expedited_or_cancelled(harness: Harness) -> None:
    """The orders run one after another: waiting for a result skips time for all."""

    async def sold(number: str) -> OrderRun:
        day = (await harness.now() + timedelta(days=20)).date()
        async with transaction() as connection:
            presale = update(SkuRow).where(SkuRow.sku == "A002").values(presale_on=day)  # type: ignore[arg-type]
            await connection.execute(presale)
        run = await harness.start(an_order(number, line(1, "A002")))
        await run.until(OrderStatus.ALLOCATED, next_step="wait")
        return run

    early = await sold("42")
    assert (await early.ask("expedite", Expedite(request_id="e"))).accepted
    assert await early.deliver() is OrderStatus.COMPLETED
    dropped = await sold("43")
    assert (await dropped.ask("cancel", Cancel(request_id="c"))).accepted
    assert await dropped.end() is OrderStatus.CANCELLED
    kept = await sold("46")
    await harness.skip(days=21)
    assert await kept.deliver() is OrderStatus.COMPLETED
    assert "opened" in await kept.timeline()
    await harness.balanced()


async def test_an_order_completes_after_repeated_holds_and_releases(harness: Harness) -> None:
    run = await harness.start(an_order("614"), Policy(grace=3600))
    await run.until(OrderStatus.APPROVED)
    for number in range(8):
        await run.ask("hold", HoldRequest(request_id=f"h{number}", reason=str(number)))
        await run.ask("release", Release(request_id=f"r{number}"))
    await harness.skip(hours=2)
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_malformed_messages_are_dropped(harness: Harness) -> None:
    run = await harness.start(an_order("634"), Policy(grace=600))
    await run.until(OrderStatus.APPROVED)
    for verb in ("cancel", "modify", "hold", "payment", "tracking", "warehouse_event", "stock_arrived"):
        for nonsense in ({}, "nonsense", 7, None, {"request_id": "x" * 300}):
            await run.handle.signal(verb, nonsense)
        await run.handle.signal(verb)
        await run.handle.signal(verb, args=[{"request_id": "a"}, {"request_id": "b"}])
    with pytest.raises(WorkflowUpdateFailedError):
        await run.handle.execute_update("modify", {"request_id": "m1"})
    assert (await run.state()).status is OrderStatus.APPROVED
    await harness.skip(seconds=601)
    assert await run.deliver() is OrderStatus.COMPLETED
