"""An order's life, story by story; each ends in its status with the stock in balance."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from temporalio.api.enums.v1 import EventType

from activities.kit.database import transaction
from activities.orders import cleansing
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
from tests.workflow.life import Life, Lives, request_id

BUDGET = 40


async def test_a_clean_order_reaches_the_door_within_its_budget_of_events(lives: Lives) -> None:
    life = await lives.start(an_order())
    parcel = await life.parcel(request_status="submitted")
    await life.ship(parcel)
    await life.track(await life.parcel(channel_notified=True))
    assert await life.end() is OrderStatus.COMPLETED
    history = await life.handle.fetch_history()
    events = [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events]
    assert len(events) <= BUDGET, "\n".join(events)
    row = await life.row()
    assert (row.status, row.recipient) == ("completed", cleansing.recipient(RECIPIENT))
    told = await life.timeline()
    assert [each for each in told if each != "received"] == [
        "allocated",
        "booked",
        "released",
        "shipped",
        "channel_notified",
        "tracking.delivered",
        "completed",
    ]
    await lives.balanced()
    assert (await lives.level("SH", "A001")).on_hand == 9


async def test_an_order_no_warehouse_has_whole_leaves_in_two_parcels(lives: Lives) -> None:
    life = await lives.start(an_order("2", line(1, "A001", 15)))
    parcels = await life.dispatched()
    assert sorted(each.warehouse for each in parcels) == ["GZ", "SH"]
    await life.ship(parcels[0])
    await life.until(OrderStatus.PARTIALLY_SHIPPED)
    await life.track(parcels[0])
    await life.until(OrderStatus.PARTIALLY_DELIVERED)
    await life.ship(parcels[1])
    await life.track(parcels[1])
    assert await life.end() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_payment_moves_an_unpaid_order_on(lives: Lives) -> None:
    order = an_order("3", paid_at=None)
    life = await lives.start(order)
    await life.until(OrderStatus.AWAITING_PAYMENT)
    await life.handle.signal("payment", Payment(request_id="p1", paid_at=order.placed_at))
    assert await life.deliver() is OrderStatus.COMPLETED
    assert (await life.row()).paid_at == order.placed_at


async def test_an_unpaid_order_expires(lives: Lives) -> None:
    life = await lives.start(an_order("4", paid_at=None), Policy(payment=3600))
    await life.until(OrderStatus.AWAITING_PAYMENT)
    assert await life.end() is OrderStatus.CANCELLED
    assert "payment_expired" in await life.timeline()
    await lives.balanced()


async def test_review_holds_a_dear_order_until_a_person_approves(lives: Lives) -> None:
    life = await lives.start(an_order("5", line(1, "A001", 1, "9000")))
    state = await life.until(OrderStatus.IN_REVIEW)
    assert state.holds[0].reason == "hold.review.amount"
    assert (await life.ask("approve", Approve(request_id=request_id(), actor="li"))).accepted
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_review_that_rejects_ends_the_order(lives: Lives) -> None:
    life = await lives.start(an_order("6", buyer_message="先别发货"))
    await life.until(OrderStatus.IN_REVIEW)
    assert (await life.ask("reject", Reject(request_id=request_id(), reason="fraud"))).accepted
    assert await life.end() is OrderStatus.REJECTED
    await lives.balanced()


async def test_review_that_nobody_does_calls_for_a_person_once(lives: Lives) -> None:
    life = await lives.start(an_order("7", buyer_message="先别发货"), Policy(review=3600))
    await life.until(OrderStatus.IN_REVIEW)
    await lives.skip(hours=9)
    assert await life.exceptions() == ["overdue.in_review"]
    await life.ask("reject", Reject(request_id=request_id()))
    await life.end()


async def test_an_address_is_modified_in_the_grace_window_and_the_parcel_goes_there(lives: Lives) -> None:
    life = await lives.start(an_order("8"), Policy(grace=600))
    await life.until(OrderStatus.APPROVED)
    moved = RECIPIENT.model_copy(
        update={"province": "广东省", "city": "广州市", "district": "天河区", "street": "天河路1号"}
    )
    assert (await life.ask("modify", Modify(request_id=request_id(), recipient=moved))).accepted
    await lives.skip(seconds=601)
    parcels = await life.dispatched()
    assert [each.warehouse for each in parcels] == ["GZ"]
    assert (await life.row()).recipient.city == "广州市"
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_quantities_modified_after_release_are_taken_back_and_planned_afresh(lives: Lives) -> None:
    life = await lives.start(an_order("9", line(1, "A001", 4)))
    first = await life.dispatched()
    change = Modify(request_id=request_id(), lines=(QuantityChange(line_no="1", quantity=2),))
    assert (await life.ask("modify", change)).accepted
    await life.until(OrderStatus.ALLOCATED)
    parcels = await life.dispatched()
    assert parcels[0].id != first[0].id
    assert parcels[0].lines[0].quantity == 2
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()
    assert (await lives.level("SH", "A001")).on_hand == 8


async def test_a_line_that_is_not_there_cannot_be_modified(lives: Lives) -> None:
    life = await lives.start(an_order("10"), Policy(grace=60))
    await life.until(OrderStatus.APPROVED)
    change = Modify(request_id=request_id(), lines=(QuantityChange(line_no="9", quantity=2),))
    answer = await life.ask("modify", change)
    assert (answer.accepted, answer.reason) == (False, "refused.lines")
    await life.ask("cancel", Cancel(request_id=request_id()))
    await life.end()


async def test_an_order_is_cancelled_before_dispatch(lives: Lives) -> None:
    life = await lives.start(an_order("11"), Policy(grace=60))
    await life.until(OrderStatus.APPROVED)
    assert (await life.ask("cancel", Cancel(request_id="c1", actor="li", reason="changed mind"))).accepted
    assert await life.end() is OrderStatus.CANCELLED
    assert "cancel" in await life.timeline()
    await lives.balanced()


async def test_a_released_order_is_cancelled_where_its_warehouse_gives_it_back(lives: Lives) -> None:
    life = await lives.start(an_order("12"))
    await life.dispatched()
    assert (await life.ask("cancel", Cancel(request_id="c1"))).accepted
    assert await life.end() is OrderStatus.CANCELLED
    assert "recalled" in await life.timeline()
    await lives.balanced()
    assert (await lives.level("SH", "A001")).available == 10


async def test_after_shipping_a_cancellation_is_refused_with_the_reason(lives: Lives) -> None:
    life = await lives.start(an_order("13"))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    await life.until(OrderStatus.SHIPPED)
    answer = await life.ask("cancel", Cancel(request_id=request_id()))
    assert (answer.accepted, answer.reason, answer.params) == (False, "refused.cancel", {"status": "shipped"})
    await life.handle.signal("cancel", Cancel(request_id="by-signal", actor="li"))
    await life.track(parcels[0])
    assert await life.end() is OrderStatus.COMPLETED
    assert "refused.cancel" in await life.timeline()


async def test_an_order_waits_for_stock_and_goes_on_when_it_comes(lives: Lives) -> None:
    life = await lives.start(an_order("14", line(1, "A001", 25)), Policy(stock=3600))
    state = await life.until(OrderStatus.AWAITING_STOCK)
    assert [(each.sku, each.quantity) for each in state.shortages] == [("A001", 5)]
    await lives.skip(hours=2)
    assert await life.exceptions() == ["overdue.awaiting_stock"]
    woken = await lives.receive("SH", "A001", 5)
    assert woken == [life.order.order_id]
    await life.handle.signal("stock_arrived", StockArrived(request_id="s1"))
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_where_policy_says_so_what_is_there_leaves_first(lives: Lives) -> None:
    life = await lives.start(an_order("15", line(1, "A001", 25)), Policy(ship_in_part=True))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    for each in parcels:
        await life.track(each)
    await life.until(OrderStatus.PARTIALLY_DELIVERED)
    await lives.receive("SH", "A001", 5)
    await life.handle.signal("stock_arrived", StockArrived(request_id="s1"))
    rest = await life.next_dispatched(parcels)
    assert rest.lines[0].quantity == 5
    await life.ship(rest)
    await life.track(rest)
    assert await life.end() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_parcel_without_movement_opens_one_exception(lives: Lives) -> None:
    life = await lives.start(an_order("16"), Policy(movement=3600, delivery=86400))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    await life.until(OrderStatus.SHIPPED)
    await lives.skip(hours=30)
    assert await life.exceptions() == ["no_movement"]
    await life.track(parcels[0])
    assert await life.end() is OrderStatus.COMPLETED


async def test_late_shipping_opens_an_exception(lives: Lives) -> None:
    life = await lives.start(an_order("17"), Policy(ship=3600))
    parcels = await life.dispatched()
    await lives.skip(hours=2)
    assert await life.exceptions() == ["ship_overdue"]
    await life.ship(*parcels)
    await life.track(parcels[0])
    assert await life.end() is OrderStatus.COMPLETED


async def test_a_refused_parcel_signed_for_afterwards_came_back_to_the_stock(lives: Lives) -> None:
    life = await lives.start(an_order("18"))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    await life.track(parcels[0], TrackingStatus.REFUSED)
    await life.track(parcels[0], TrackingStatus.DELIVERED)
    assert await life.end() is OrderStatus.COMPLETED
    assert await life.exceptions() == ["refused"]
    assert (await lives.level("SH", "A001")).available == 10
    await lives.balanced()


async def test_a_warehouse_that_rejects_has_the_order_planned_elsewhere_and_then_by_a_person(lives: Lives) -> None:
    life = await lives.start(an_order("19"))
    (first,) = await life.dispatched()
    await life.event(first, WarehouseEventKind.REJECTED, reason="flooded")
    second = await life.next_dispatched([first])
    assert (first.warehouse, second.warehouse) == ("SH", "GZ")
    await life.event(second, WarehouseEventKind.REJECTED, reason="flooded too")
    state = await life.until(OrderStatus.ON_HOLD)
    assert [each.kind for each in state.holds] == [HoldKind.WAREHOUSE]
    assert (await life.ask("release", Release(request_id=request_id()))).accepted
    assert (await life.next_dispatched([first, second])).warehouse == "SH"
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


@pytest.mark.parametrize(
    ("shortfall", "left"),
    [
        (Shortfall(sku="A001", kind=ShortfallKind.NOT_FOUND), (0, 0, 0)),
        (Shortfall(sku="A001", kind=ShortfallKind.MISMATCH, quantity=1), (7, 0, 7)),
        (Shortfall(sku="A001", kind=ShortfallKind.DAMAGED, quantity=4), (10, 4, 6)),
    ],
    ids=lambda given: str(given.kind) if isinstance(given, Shortfall) else "",
)
async def test_what_a_warehouse_finds_amiss_is_put_right_and_the_order_planned_again(
    lives: Lives, shortfall: Shortfall, left: tuple[int, int, int]
) -> None:
    life = await lives.start(an_order("44", line(1, "A001", 4)))
    (parcel,) = await life.dispatched()
    await life.event(parcel, WarehouseEventKind.REJECTED, shortfalls=(shortfall,))
    again = await life.next_dispatched([parcel])
    level = await lives.level("SH", "A001")
    held = level.allocated
    assert (level.on_hand, level.unavailable, level.available + held) == left
    assert again.warehouse == ("SH" if left[2] >= 4 else "GZ")
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_what_a_warehouse_does_not_send_in_time_is_planned_elsewhere_where_the_shop_wants_it_so(
    lives: Lives,
) -> None:
    life = await lives.start(an_order("47"), Policy(ship=3600, replan_when_late=True))
    (slow,) = await life.dispatched()
    await lives.skip(seconds=3601)
    other = await life.next_dispatched([slow])
    assert (slow.warehouse, other.warehouse) == ("SH", "GZ")
    assert await life.deliver() is OrderStatus.COMPLETED
    assert await life.exceptions() == ["ship_overdue"]
    await lives.balanced()


async def test_a_warehouse_that_finds_something_amiss_twice_is_not_asked_a_third_time(lives: Lives) -> None:
    life = await lives.start(an_order("48"))
    (first,) = await life.dispatched()
    amiss = (Shortfall(sku="A001", kind=ShortfallKind.DAMAGED, quantity=1),)
    await life.event(first, WarehouseEventKind.REJECTED, shortfalls=amiss)
    second = await life.next_dispatched([first])
    await life.event(second, WarehouseEventKind.REJECTED, shortfalls=amiss)
    third = await life.next_dispatched([first, second])
    assert [each.warehouse for each in (first, second, third)] == ["SH", "SH", "GZ"]
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_what_has_left_goes_on_while_the_rest_is_planned_elsewhere(lives: Lives) -> None:
    await lives.receive("BJ", "A001", 10)
    life = await lives.start(an_order("45", line(1, "A001", 15)))
    parcels = {each.warehouse: each for each in await life.dispatched()}
    await life.ship(parcels["SH"])
    await life.until(OrderStatus.PARTIALLY_SHIPPED)
    wish = Replan(request_id="r", warehouse="GZ", reason="closed")
    assert (await life.ask("replan", wish)).accepted
    moved = await life.next_dispatched(list(parcels.values()))
    assert (moved.warehouse, sum(each.quantity for each in moved.lines)) == ("BJ", 5)
    assert (await life.ask("replan", Replan(request_id="r2", warehouse="SH"))).reason == "refused.replan.nothing"
    await life.ship(moved)
    for each in (parcels["SH"], moved):
        await life.track(each)
    assert await life.end() is OrderStatus.COMPLETED
    assert (await lives.level("GZ", "A001")).available == 10
    await lives.balanced()


async def test_a_missing_street_is_held_and_supplied(lives: Lives) -> None:
    person = Recipient(**RECIPIENT.model_dump() | {"street": ""})
    life = await lives.start(an_order("20", recipient=person))
    state = await life.until(OrderStatus.ON_HOLD)
    assert state.holds[0].reason == "hold.address.street"
    assert (await life.ask("modify", Modify(request_id=request_id(), recipient=RECIPIENT))).accepted
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_the_same_request_again_changes_nothing(lives: Lives) -> None:
    life = await lives.start(an_order("21"), Policy(grace=600))
    await life.until(OrderStatus.APPROVED)
    hold = HoldRequest(request_id="h1", actor="li", reason="check")
    for _ in range(3):
        assert (await life.ask("hold", hold)).accepted
        await life.handle.signal("hold", hold)
    state = await life.until(OrderStatus.ON_HOLD)
    assert len(state.holds) == 1
    assert (await life.timeline()).count("hold") == 1
    await life.ask("note", Note(request_id="n1", text="called the buyer"))
    await life.ask("cancel", Cancel(request_id="c1"))
    assert await life.end() is OrderStatus.CANCELLED


async def test_what_an_operator_reads_says_where_it_stands(lives: Lives) -> None:
    life = await lives.start(an_order("22", buyer_message="先别发货"))
    await life.until(OrderStatus.IN_REVIEW)
    shown = str(await life.handle.query("__temporal_workflow_metadata"))
    for words in ("In review", "Waiting for a person", "A remark asks us to wait", "Deadline"):
        assert words in shown
    await life.ask("reject", Reject(request_id=request_id()))
    await life.end()


async def test_presale_goods_shipped_before_they_were_received_leave_the_books_in_order(lives: Lives) -> None:
    await lives.receive("SH", "P001", 1)
    life = await lives.start(an_order("23", line(1, "P001", 3)))
    assert await life.deliver() is OrderStatus.COMPLETED
    level = await lives.level("SH", "P001")
    assert (level.on_hand, level.allocated) == (0, 0)
    await lives.balanced()


async def test_goods_set_aside_for_an_unpaid_order_go_back_in_time_and_it_may_still_be_paid(lives: Lives) -> None:
    policy = Policy(reserve="placed", reservation=1800, payment=24 * 3600)
    life = await lives.start(an_order("40", line(1, "A001", 4), paid_at=None), policy)
    assert (await life.until(OrderStatus.AWAITING_PAYMENT)).reserved_until is not None
    assert (await lives.level("SH", "A001")).reserved == 4
    await lives.skip(minutes=25)
    assert (await life.ask("note", Note(request_id="n", text="is it still there?"))).accepted
    await lives.skip(minutes=25)
    assert (await lives.level("SH", "A001")).reserved == 4
    await lives.skip(minutes=10)
    state = await life.until(OrderStatus.AWAITING_PAYMENT)
    assert state.reserved_until is None
    assert (await lives.level("SH", "A001")).reserved == 0
    await life.handle.signal("payment", Payment(request_id="p", paid_at=life.order.placed_at))
    assert await life.deliver() is OrderStatus.COMPLETED
    told = await life.timeline()
    assert [each for each in told if "reserved" in each] == ["reserved", "unreserved"]
    await lives.balanced()


async def test_a_payment_in_time_takes_what_was_set_aside(lives: Lives) -> None:
    policy = Policy(reserve="placed")
    life = await lives.start(an_order("41", line(1, "A001", 10), paid_at=None), policy)
    await life.until(OrderStatus.AWAITING_PAYMENT)
    await life.handle.signal("payment", Payment(request_id="p", paid_at=life.order.placed_at))
    (parcel,) = await life.dispatched()
    assert parcel.warehouse == "SH"
    assert (await lives.level("SH", "A001")).reserved == 0
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_what_is_sold_ahead_waits_for_its_day_and_can_be_cancelled_until_then(lives: Lives) -> None:
    """One after the other: waiting for an end skips time, and with it the days of all others."""

    async def sold(number: str) -> Life:
        day = (await lives.now() + timedelta(days=20)).date()
        async with transaction() as connection:
            presale = update(SkuRow).where(SkuRow.sku == "A002").values(presale_on=day)  # type: ignore[arg-type]
            await connection.execute(presale)
        life = await lives.start(an_order(number, line(1, "A002")))
        await life.until(OrderStatus.ALLOCATED, next_step="wait")
        return life

    early = await sold("42")
    assert (await early.ask("expedite", Expedite(request_id="e"))).accepted
    assert await early.deliver() is OrderStatus.COMPLETED
    dropped = await sold("43")
    assert (await dropped.ask("cancel", Cancel(request_id="c"))).accepted
    assert await dropped.end() is OrderStatus.CANCELLED
    kept = await sold("46")
    await lives.skip(days=21)
    assert await kept.deliver() is OrderStatus.COMPLETED
    assert "opened" in await kept.timeline()
    await lives.balanced()
