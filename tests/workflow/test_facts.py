"""What a channel says later, before and after the goods have left."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from activities.catalogue import sku_mapping
from activities.kit.database import transaction
from activities.orders import steps
from models.address import RecipientChange
from models.fulfillment import RequestStatus
from models.hold import HoldKind
from models.listings import Mapping
from models.order import OrderStatus, Refund, RefundState
from models.policy import Policy
from models.requests import (
    Approve,
    Cancel,
    Expedite,
    Modify,
    QuantityChange,
    Refunding,
    Release,
    Remark,
    StockArrived,
    WarehouseEventKind,
)
from models.state import OrderState
from tests.unit.orders import RECIPIENT, an_order, line
from tests.workflow.life import Life, Lives, request_id
from tests.workflow.test_review import rule

CHANNEL = "channel:own"


async def refund(life: Life, state: RefundState, line_no: str | None = None, **more: Any) -> None:
    told = Refund(refund_no="R1", state=state, line_no=line_no, amount=Decimal(50), **more)
    await life.handle.signal("refund", Refunding(request_id=request_id(), actor=CHANNEL, refund=told))


async def taken_back(life: Life) -> OrderState:
    """Waits until nothing of it is with a warehouse."""
    state = await life.state()
    while state.active:
        await asyncio.sleep(0.02)
        state = await life.state()
    return state


async def heard(what: str, told: Callable[[], Awaitable[list[str]]]) -> None:
    for _ in range(6000):
        if what in await told():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{what} was not told")


async def test_a_refund_asked_for_keeps_the_goods_until_it_is_withdrawn(lives: Lives) -> None:
    life = await lives.start(an_order("60"))
    await life.dispatched()
    await refund(life, RefundState.ASKED)
    assert [each.kind for each in (await taken_back(life)).holds] == [HoldKind.REFUND]
    await refund(life, RefundState.CLOSED)
    assert await life.deliver() is OrderStatus.COMPLETED
    told = await life.timeline()
    assert [each for each in told if each.startswith("refund")] == ["refund.asked", "refund.closed"]
    await lives.balanced()


async def test_an_order_that_comes_with_a_refund_asked_for_does_not_leave(lives: Lives) -> None:
    asked = Refund(refund_no="R1", state=RefundState.ASKED)
    life = await lives.start(an_order("61", refunds=(asked,)))
    assert [each.kind for each in (await life.until(OrderStatus.ON_HOLD)).holds] == [HoldKind.REFUND]
    await life.handle.signal("cancel", Cancel(request_id="gone", actor=CHANNEL))
    assert await life.end() is OrderStatus.CANCELLED


async def test_a_refund_after_shipping_calls_for_a_person_and_the_parcel_goes_on(lives: Lives) -> None:
    life = await lives.start(an_order("62"))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    await life.until(OrderStatus.SHIPPED)
    await refund(life, RefundState.ASKED)
    await refund(life, RefundState.GRANTED)
    await life.track(parcels[0])
    assert await life.end() is OrderStatus.COMPLETED
    told = [each for each in await life.timeline() if each.startswith(("refund", "tracking", "completed"))]
    assert told == ["refund.asked", "refund.granted", "tracking.delivered", "completed"]


async def test_what_is_refunded_of_an_order_half_sent_stays_here_and_the_rest_is_delivered(lives: Lives) -> None:
    await lives.receive("SH", "A001", 20)
    life = await lives.start(an_order("63", line(1), line(2, "B001", 3)), Policy(ship_in_part=True))
    first = await life.next_dispatched([])
    await life.ship(first)
    await life.until(OrderStatus.PARTIALLY_SHIPPED)
    await refund(life, RefundState.ASKED, "2")
    dropped = Modify(request_id=request_id(), actor=CHANNEL, lines=(QuantityChange(line_no="2", quantity=0),))
    assert (await life.ask("modify", dropped)).accepted
    await refund(life, RefundState.GRANTED, "2")
    await life.track(first)
    assert await life.end() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_what_has_left_is_not_modified_and_a_person_hears_of_it(lives: Lives) -> None:
    await lives.receive("SH", "A001", 20)
    life = await lives.start(an_order("64", line(1), line(2, "B001", 3)), Policy(ship_in_part=True))
    first = await life.next_dispatched([])
    await life.ship(first)
    await life.until(OrderStatus.PARTIALLY_SHIPPED)
    moved = Modify(request_id=request_id(), actor=CHANNEL, recipient=RECIPIENT.model_copy(update={"street": "新路2号"}))
    assert (await life.ask("modify", moved)).reason == "refused.modify.left"
    assert "channel_modify" in await life.exceptions()
    await life.handle.signal("cancel", Cancel(request_id="gone", actor=CHANNEL))
    await heard("channel_cancel", life.exceptions)
    assert [each.kind for each in (await life.state()).holds] == [HoldKind.CHANNEL]
    await life.ask("modify", Modify(request_id="staff", lines=(QuantityChange(line_no="2", quantity=0),)))
    assert (await life.ask("release", Release(request_id="staff too"))).accepted
    await life.track(first)
    assert await life.end() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_remark_that_asks_to_wait_is_heeded_until_somebody_approves(lives: Lives) -> None:
    life = await lives.start(an_order("65"))
    await life.dispatched()
    wait = Remark(request_id=request_id(), actor=CHANNEL, seller_memo="客户要求先别发", priority=3)
    await life.handle.signal("remark", wait)
    assert (await taken_back(life)).status is OrderStatus.IN_REVIEW
    assert (await life.ask("release", Release(request_id="go"))).accepted
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_remark_without_consequence_is_written_down_and_nothing_else(lives: Lives) -> None:
    life = await lives.start(an_order("66"))
    parcels = await life.dispatched()
    await life.handle.signal("remark", Remark(request_id="m", actor=CHANNEL, buyer_message="谢谢", priority=1))
    await heard("remarked", life.timeline)
    state = await life.state()
    assert [each.id for each in state.active] == [each.id for each in parcels]
    assert (state.order.buyer_message, state.order.priority) == ("谢谢", 1)
    assert state.active[0].request_status is RequestStatus.SUBMITTED
    await life.event(parcels[0], WarehouseEventKind.SHIPPED, weight_kg="1.2")
    await life.track(parcels[0])
    assert await life.end() is OrderStatus.COMPLETED


async def test_an_order_held_for_an_item_goes_on_once_somebody_says_what_it_is(lives: Lives) -> None:
    life = await lives.start(an_order("67", line(1, "T-SHIRT")))
    assert [each.kind for each in (await life.until(OrderStatus.ON_HOLD)).holds] == [HoldKind.UNKNOWN_SKU]
    async with transaction() as connection:
        await sku_mapping.save(connection, [Mapping(channel="own", shop="web", item="T-SHIRT", sku="A001")], "li")
    assert await lives.woken() == [life.order.order_id]
    await life.handle.signal("mapped", StockArrived(request_id="m1"))
    (parcel,) = await life.dispatched()
    assert [each.sku for each in parcel.lines] == ["A001"]
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def say(item: str, sku: str) -> None:
    async with transaction() as connection:
        await sku_mapping.save(connection, [Mapping(channel="own", item=item, sku=sku)], "li")


async def test_an_item_that_is_a_bundle_leaves_in_its_parts(lives: Lives) -> None:
    for part in ("B001", "B002"):
        await lives.receive("SH", part, 10)
    life = await lives.start(an_order("70", line(1, "TEA-FOR-2", 2)))
    await life.until(OrderStatus.ON_HOLD)
    await say("TEA-FOR-2", "K001")
    await life.handle.signal("mapped", StockArrived(request_id="m1"))
    (parcel,) = await life.dispatched()
    assert sorted((each.sku, each.quantity) for each in parcel.lines) == [("B001", 4), ("B002", 2)]
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_each_item_nobody_knows_is_a_hold_of_its_own(lives: Lives) -> None:
    life = await lives.start(an_order("71", line(1, "WHITE"), line(2, "BLACK")))
    held = (await life.until(OrderStatus.ON_HOLD)).holds
    assert [each.params["item"] for each in held] == ["WHITE", "BLACK"]
    await life.handle.signal("mapped", StockArrived(request_id="m0"))
    await lives.skip(minutes=1)
    assert (await life.state()).holds == held
    await say("WHITE", "A001")
    await life.handle.signal("mapped", StockArrived(request_id="m1"))
    await heard("mapped", life.timeline)
    assert (await life.state()).holds == held[1:]
    await say("BLACK", "A002")
    await life.handle.signal("mapped", StockArrived(request_id="m2"))
    assert await life.deliver() is OrderStatus.COMPLETED
    assert (await life.timeline()).count("held") == 2


async def test_what_was_approved_stays_so_and_what_is_known_now_is_reviewed(lives: Lives) -> None:
    await rule(1, "order.total > 10", {"do": "hold", "stage": "service", "reason": "call the buyer"})
    await rule(2, "lines.exists(each, each.sku == 'A001')", {"do": "gift", "sku": "A003", "quantity": 1})
    life = await lives.start(an_order("72", line(1, "T-SHIRT")))
    await life.until(OrderStatus.IN_REVIEW)
    assert (await life.ask("approve", Approve(request_id="ok"))).accepted
    await life.until(OrderStatus.ON_HOLD)
    await say("T-SHIRT", "A001")
    await life.handle.signal("mapped", StockArrived(request_id="m1"))
    (parcel,) = await life.dispatched()
    assert sorted(each.sku for each in parcel.lines) == ["A001", "A003"]
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_a_mapping_put_right_counts_from_the_next_change_on(lives: Lives) -> None:
    await say("T-SHIRT", "A001")
    life = await lives.start(an_order("73", line(1, "T-SHIRT", 3)))
    await life.dispatched()
    await say("T-SHIRT", "A002")
    change = Modify(request_id="less", actor=CHANNEL, lines=(QuantityChange(line_no="1", quantity=2),))
    assert (await life.ask("modify", change)).accepted
    (parcel,) = await life.dispatched()
    assert [(each.sku, each.quantity) for each in parcel.lines] == [("A002", 2)]
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_what_has_left_stays_what_it_is_whatever_it_is_called_now(lives: Lives) -> None:
    await say("T-SHIRT", "A001")
    life = await lives.start(an_order("74", line(1, "T-SHIRT"), line(2, "A002", 12)))
    parcels = await life.dispatched()
    first = next(each for each in parcels if each.carries("1"))
    await life.ship(first)
    await life.until(OrderStatus.PARTIALLY_SHIPPED)
    await say("T-SHIRT", "A003")
    state = await life.state()
    revised = await steps.review_modified_order(state, await lives.now())
    assert [each.sku for each in revised.order.lines] == ["A001", "A002"]
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_of_two_that_wait_the_one_made_urgent_is_served_first(lives: Lives) -> None:
    calm = await lives.start(an_order("75", line(1, "A004")))
    await calm.until(OrderStatus.AWAITING_STOCK)
    urgent = await lives.start(an_order("76", line(1, "A004")))
    await urgent.until(OrderStatus.AWAITING_STOCK)
    assert (await urgent.ask("expedite", Expedite(request_id="now"))).accepted
    assert await lives.receive("SH", "A004", 1) == [urgent.order.order_id]
    for life in (calm, urgent):
        assert (await life.ask("cancel", Cancel(request_id="gone"))).accepted
        await life.end()


async def test_a_masked_recipient_is_waited_for_only_once_it_is_paid(lives: Lives) -> None:
    masked = RECIPIENT.masked()
    paid = await lives.start(an_order("68", recipient=masked))
    assert [each.reason for each in (await paid.until(OrderStatus.ON_HOLD)).holds] == ["hold.address.masked"]
    told = Modify(request_id=request_id(), actor=CHANNEL, recipient=RecipientChange.model_validate(RECIPIENT))
    assert (await paid.ask("modify", told)).accepted
    assert await paid.deliver() is OrderStatus.COMPLETED
    unpaid = await lives.start(an_order("69", recipient=masked, paid_at=None))
    assert (await unpaid.until(OrderStatus.AWAITING_PAYMENT)).holds == []
    await unpaid.handle.signal("cancel", Cancel(request_id="gone", actor=CHANNEL))
    assert await unpaid.end() is OrderStatus.CANCELLED
