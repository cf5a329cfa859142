"""Facts that a channel reports later, before and after shipping."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.catalogue import sku_mapping
from activities.kit.database import transaction
from activities.orders import steps
from activities.records import queries
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
    Note,
    QuantityChange,
    Refunding,
    Release,
    Remark,
    StockArrived,
    WarehouseEventKind,
)
from models.state import OrderState
from starter.api.orders import entry_text
from tests.unit.orders import RECIPIENT, an_order, line
from tests.workflow.harness import Harness, OrderRun, request_id
from tests.workflow.test_review import rule

CHANNEL = "channel:own"


async def refund(run: OrderRun, state: RefundState, line_no: str | None = None, **more: Any) -> None:
    fact = Refund(refund_no="R1", state=state, line_no=line_no, amount=Decimal(50), **more)
    await run.handle.signal("refund", Refunding(request_id=request_id(), actor=CHANNEL, refund=fact))


async def recalled(run: OrderRun) -> OrderState:
    """Wait until every fulfillment order was recalled."""
    state = await run.state()
    while state.active:
        await asyncio.sleep(0.02)
        state = await run.state()
    return state


async def appears(entry: str, read: Callable[[], Awaitable[list[str]]]) -> None:
    """Wait until a timeline entry or an alert appears."""
    for _ in range(6000):
        if entry in await read():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{entry} did not appear")


async def test_an_open_refund_holds_the_order_until_it_is_withdrawn(harness: Harness) -> None:
    run = await harness.start(an_order("60"))
    await run.dispatched()
    await refund(run, RefundState.ASKED)
    assert [each.kind for each in (await recalled(run)).holds] == [HoldKind.REFUND]
    await refund(run, RefundState.CLOSED)
    assert await run.deliver() is OrderStatus.COMPLETED
    entries = await run.timeline()
    assert [each for each in entries if each.startswith("refund")] == ["refund.asked", "refund.closed"]
    await harness.balanced()


async def test_an_order_received_with_an_open_refund_is_held(harness: Harness) -> None:
    asked = Refund(refund_no="R1", state=RefundState.ASKED)
    run = await harness.start(an_order("61", refunds=(asked,)))
    assert [each.kind for each in (await run.until(OrderStatus.ON_HOLD)).holds] == [HoldKind.REFUND]
    await run.handle.signal("cancel", Cancel(request_id="gone", actor=CHANNEL))
    assert await run.end() is OrderStatus.CANCELLED


async def test_a_refund_after_shipping_does_not_stop_the_order(harness: Harness) -> None:
    run = await harness.start(an_order("62"))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.until(OrderStatus.SHIPPED)
    await refund(run, RefundState.ASKED)
    await refund(run, RefundState.GRANTED)
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED
    entries = [each for each in await run.timeline() if each.startswith(("refund", "tracking", "completed"))]
    assert entries == ["refund.asked", "refund.granted", "tracking.delivered", "completed"]


async def test_a_refunded_line_of_a_partially_shipped_order_does_not_ship(harness: Harness) -> None:
    await harness.receive("SH", "A001", 20)
    run = await harness.start(an_order("63", line(1), line(2, "B001", 3)), Policy(ship_in_part=True))
    first = await run.next_dispatched([])
    await run.ship(first)
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    await refund(run, RefundState.ASKED, "2")
    dropped = Modify(request_id=request_id(), actor=CHANNEL, lines=(QuantityChange(line_no="2", quantity=0),))
    assert (await run.ask("modify", dropped)).accepted
    await refund(run, RefundState.GRANTED, "2")
    await run.track(first)
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_channel_change_after_shipping_is_refused_with_an_alert(harness: Harness) -> None:
    await harness.receive("SH", "A001", 20)
    run = await harness.start(an_order("64", line(1), line(2, "B001", 3)), Policy(ship_in_part=True))
    first = await run.next_dispatched([])
    await run.ship(first)
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    moved = Modify(request_id=request_id(), actor=CHANNEL, recipient=RECIPIENT.model_copy(update={"street": "新路2号"}))
    assert (await run.ask("modify", moved)).reason == "refused.modify.left"
    assert "channel_modify" in await run.exceptions()
    await run.handle.signal("cancel", Cancel(request_id="gone", actor=CHANNEL))
    await appears("channel_cancel", run.exceptions)
    assert [each.kind for each in (await run.state()).holds] == [HoldKind.CHANNEL]
    await run.ask("modify", Modify(request_id="staff", lines=(QuantityChange(line_no="2", quantity=0),)))
    assert (await run.ask("release", Release(request_id="staff too"))).accepted
    await run.track(first)
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_remark_that_asks_to_wait_recalls_and_holds_the_order(harness: Harness) -> None:
    run = await harness.start(an_order("65"))
    await run.dispatched()
    wait = Remark(request_id=request_id(), actor=CHANNEL, seller_memo="客户要求先别发", priority=3)
    await run.handle.signal("remark", wait)
    assert (await recalled(run)).status is OrderStatus.IN_REVIEW
    assert (await run.ask("release", Release(request_id="go"))).accepted
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_harmless_remark_is_only_recorded(harness: Harness) -> None:
    run = await harness.start(an_order("66"))
    fulfillments = await run.dispatched()
    await run.handle.signal("remark", Remark(request_id="m", actor=CHANNEL, buyer_message="谢谢", priority=1))
    await appears("remarked", run.timeline)
    state = await run.state()
    assert [each.id for each in state.active] == [each.id for each in fulfillments]
    assert (state.order.buyer_message, state.order.priority) == ("谢谢", 1)
    assert state.active[0].request_status is RequestStatus.SUBMITTED
    await run.event(fulfillments[0], WarehouseEventKind.SHIPPED, weight_kg="1.2")
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED


async def test_an_order_held_for_an_unknown_item_continues_once_it_is_mapped(harness: Harness) -> None:
    run = await harness.start(an_order("67", line(1, "T-SHIRT")))
    assert [each.kind for each in (await run.until(OrderStatus.ON_HOLD)).holds] == [HoldKind.UNKNOWN_SKU]
    async with transaction() as connection:
        await sku_mapping.save(connection, [Mapping(channel="own", shop="web", item="T-SHIRT", sku="A001")], "li")
    assert await harness.notified_orders() == [run.order.order_id]
    await run.handle.signal("mapped", StockArrived(request_id="m1"))
    (fulfillment,) = await run.dispatched()
    assert [each.sku for each in fulfillment.lines] == ["A001"]
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def map_item(item: str, sku: str) -> None:
    async with transaction() as connection:
        await sku_mapping.save(connection, [Mapping(channel="own", item=item, sku=sku)], "li")


async def test_a_mapped_bundle_ships_as_its_components(harness: Harness) -> None:
    for part in ("B001", "B002"):
        await harness.receive("SH", part, 10)
    run = await harness.start(an_order("70", line(1, "TEA-FOR-2", 2)))
    await run.until(OrderStatus.ON_HOLD)
    await map_item("TEA-FOR-2", "K001")
    await run.handle.signal("mapped", StockArrived(request_id="m1"))
    (fulfillment,) = await run.dispatched()
    assert sorted((each.sku, each.quantity) for each in fulfillment.lines) == [("B001", 4), ("B002", 2)]
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_each_unknown_item_is_held_separately(harness: Harness) -> None:
    run = await harness.start(an_order("71", line(1, "WHITE"), line(2, "BLACK")))
    held = (await run.until(OrderStatus.ON_HOLD)).holds
    assert [each.params["item"] for each in held] == ["WHITE", "BLACK"]
    await run.handle.signal("mapped", StockArrived(request_id="m0"))
    await harness.skip(minutes=1)
    assert (await run.state()).holds == held
    await map_item("WHITE", "A001")
    await run.handle.signal("mapped", StockArrived(request_id="m1"))
    await appears("mapped", run.timeline)
    assert (await run.state()).holds == held[1:]
    await map_item("BLACK", "A002")
    await run.handle.signal("mapped", StockArrived(request_id="m2"))
    assert await run.deliver() is OrderStatus.COMPLETED
    assert (await run.timeline()).count("held") == 2


async def test_mapping_an_item_keeps_approvals_and_reviews_the_new_sku(harness: Harness) -> None:
    await rule(1, "order.total > 10", {"do": "hold", "stage": "service", "reason": "call the buyer"})
    await rule(2, "lines.exists(each, each.sku == 'A001')", {"do": "gift", "sku": "A003", "quantity": 1})
    run = await harness.start(an_order("72", line(1, "T-SHIRT")))
    await run.until(OrderStatus.IN_REVIEW)
    assert (await run.ask("approve", Approve(request_id="ok"))).accepted
    await run.until(OrderStatus.ON_HOLD)
    await map_item("T-SHIRT", "A001")
    await run.handle.signal("mapped", StockArrived(request_id="m1"))
    (fulfillment,) = await run.dispatched()
    assert sorted(each.sku for each in fulfillment.lines) == ["A001", "A003"]
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_a_corrected_mapping_applies_from_the_next_modification(harness: Harness) -> None:
    await map_item("T-SHIRT", "A001")
    run = await harness.start(an_order("73", line(1, "T-SHIRT", 3)))
    await run.dispatched()
    await map_item("T-SHIRT", "A002")
    change = Modify(request_id="less", actor=CHANNEL, lines=(QuantityChange(line_no="1", quantity=2),))
    assert (await run.ask("modify", change)).accepted
    (fulfillment,) = await run.dispatched()
    assert [(each.sku, each.quantity) for each in fulfillment.lines] == [("A002", 2)]
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_corrected_mapping_does_not_change_shipped_lines(harness: Harness) -> None:
    await map_item("T-SHIRT", "A001")
    run = await harness.start(an_order("74", line(1, "T-SHIRT"), line(2, "A002", 12)))
    fulfillments = await run.dispatched()
    first = next(each for each in fulfillments if each.carries("1"))
    await run.ship(first)
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    await map_item("T-SHIRT", "A003")
    state = await run.state()
    revised = await steps.review_modified_order(state, await harness.now())
    assert [each.sku for each in revised.order.lines] == ["A001", "A002"]
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_arriving_stock_goes_to_the_expedited_order_first(harness: Harness) -> None:
    calm = await harness.start(an_order("75", line(1, "A004")))
    await calm.until(OrderStatus.AWAITING_STOCK)
    urgent = await harness.start(an_order("76", line(1, "A004")))
    await urgent.until(OrderStatus.AWAITING_STOCK)
    assert (await urgent.ask("expedite", Expedite(request_id="now"))).accepted
    assert await harness.receive("SH", "A004", 1) == [urgent.order.order_id]
    for run in (calm, urgent):
        assert (await run.ask("cancel", Cancel(request_id="gone"))).accepted
        await run.end()


async def test_a_masked_recipient_holds_only_a_paid_order(harness: Harness) -> None:
    masked = RECIPIENT.masked()
    paid = await harness.start(an_order("68", recipient=masked))
    assert [each.reason for each in (await paid.until(OrderStatus.ON_HOLD)).holds] == ["hold.address.masked"]
    unmasked = Modify(request_id=request_id(), actor=CHANNEL, recipient=RecipientChange.model_validate(RECIPIENT))
    assert (await paid.ask("modify", unmasked)).accepted
    assert await paid.deliver() is OrderStatus.COMPLETED
    unpaid = await harness.start(an_order("69", recipient=masked, paid_at=None))
    assert (await unpaid.until(OrderStatus.AWAITING_PAYMENT)).holds == []
    await unpaid.handle.signal("cancel", Cancel(request_id="gone", actor=CHANNEL))
    assert await unpaid.end() is OrderStatus.CANCELLED


async def test_a_signal_in_clear_is_marked_on_the_timeline(harness: Harness) -> None:
    """Sent by Temporal's UI or command line, in plain JSON, whoever it claims to be from."""
    run = await harness.start(an_order("99"))
    (fulfillment,) = await run.dispatched()
    clear = Client(**{**harness.client.config(), "data_converter": pydantic_data_converter})
    by_hand = clear.get_workflow_handle(run.handle.id)
    await by_hand.signal("note", {"request_id": "by-hand", "actor": CHANNEL, "text": "hello"})
    shipped = {"request_id": "left", "actor": "SH", "fulfillment_id": fulfillment.id, "kind": "shipped"}
    await by_hand.signal("warehouse_event", {**shipped, "at": (await harness.now()).isoformat()})
    await run.handle.signal("note", Note(request_id="sealed", actor=CHANNEL, text="hello"))
    await appears("warehouse_shipped", run.timeline)
    await run.track(fulfillment)
    assert await run.end() is OrderStatus.COMPLETED
    async with transaction() as connection:
        entries = {each.key: each for each in await queries.timeline(connection, run.order.order_id)}
    assert {key: entries[key].actor for key in ("by-hand", "left", "sealed")} == {
        "by-hand": "unsealed:channel:own",
        "left": "unsealed:SH",
        "sealed": "channel:own",
    }
    assert "unsealed" in entry_text(entries["by-hand"], "en")
    assert "未加密" in entry_text(entries["left"], "zh-CN")
    assert "unsealed" not in entry_text(entries["sealed"], "en")
