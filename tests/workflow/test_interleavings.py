"""Awkward timing: whatever order cancel, modify, payment, warehouse and workers come in, it ends in balance."""

import asyncio

import httpx
import pytest

from models.fulfillment import TrackingStatus
from models.order import ChannelOrder, OrderStatus, Policy
from models.requests import Cancel, HoldRequest, Modify, Note, Payment, QuantityChange, Release
from tests.unit.orders import an_order, line
from tests.workflow.life import Life, Lives, request_id


@pytest.fixture
async def outside(sandbox: str) -> "Outside":
    return Outside(sandbox)


class Outside:
    """Misbehaviour of the carrier, and what it has booked."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fault(self, order: ChannelOrder, fault: str, **more: float) -> None:
        told = {"system": "sf", "operation": "EXP_RECE_CREATE_ORDER", "match": f"{order.channel_order_no}-F"}
        await self._call("POST", "/_faults", told | {"fault": fault} | more)

    async def booked(self, life: Life) -> list[str]:
        """The waybills of the order that the carrier still counts on."""
        rows = await self._call("GET", "/sf/_control/bookings", None)
        mine = [row for row in rows if row["reference"].startswith(f"{life.order.channel_order_no}-F")]
        return [row["waybill_no"] for row in mine if not row["cancelled"]]

    async def _call(self, method: str, path: str, body: object) -> list[dict[str, str]]:
        async with httpx.AsyncClient() as client:
            answer = await client.request(method, f"{self._url}{path}", json=body)
            answer.raise_for_status()
            found: list[dict[str, str]] = answer.json() if method == "GET" else []
            return found


async def cancel(life: Life) -> None:
    assert (await life.ask("cancel", Cancel(request_id=request_id(), actor="li"))).accepted
    assert await life.end() is OrderStatus.CANCELLED


@pytest.mark.parametrize("fault", ["500", "delay", "timeout_after"])
async def test_cancelled_while_the_carrier_is_being_asked(lives: Lives, outside: Outside, fault: str) -> None:
    order = an_order(f"6{fault.replace('_', '')}")
    await outside.fault(order, fault, seconds=1, times=3)
    life = await lives.start(order)
    await life.until(OrderStatus.ALLOCATED, next_step="book")
    await asyncio.sleep(0.3)
    await cancel(life)
    assert await outside.booked(life) == []
    await lives.balanced()


async def test_cancelled_at_its_very_start(lives: Lives, outside: Outside) -> None:
    life = await lives.start(an_order("602"))
    await life.handle.signal("cancel", Cancel(request_id="c1"))
    assert await life.end() is OrderStatus.CANCELLED
    assert await outside.booked(life) == []
    await lives.balanced()


async def test_cancelled_while_it_waits_for_stock_it_waits_no_more(lives: Lives) -> None:
    life = await lives.start(an_order("603", line(1, "A001", 25)))
    await life.until(OrderStatus.AWAITING_STOCK)
    await cancel(life)
    assert await lives.receive("SH", "A001", 20) == []
    await lives.balanced()


async def test_modify_and_cancel_sent_at_once_end_cancelled(lives: Lives, outside: Outside) -> None:
    life = await lives.start(an_order("604", line(1, "A001", 3)))
    await life.dispatched()
    change = Modify(request_id="m1", lines=(QuantityChange(line_no="1", quantity=1),))
    await asyncio.gather(
        life.handle.signal("modify", change), life.handle.signal("cancel", Cancel(request_id="c1", actor="li"))
    )
    assert await life.end() is OrderStatus.CANCELLED
    assert await outside.booked(life) == []
    await lives.balanced()


async def test_a_payment_while_it_is_modified_is_not_lost(lives: Lives) -> None:
    order = an_order("605", paid_at=None)
    life = await lives.start(order)
    await life.until(OrderStatus.AWAITING_PAYMENT)
    change = Modify(request_id="m1", lines=(QuantityChange(line_no="1", quantity=2),))
    paid = Payment(request_id="p1", paid_at=order.placed_at)
    await asyncio.gather(life.handle.signal("modify", change), life.handle.signal("payment", paid))
    assert await life.deliver() is OrderStatus.COMPLETED
    assert (await life.row()).paid_at == order.placed_at
    await lives.balanced()


async def test_payment_and_expiry_at_the_same_moment_agree_on_one_end(lives: Lives) -> None:
    order = an_order("606", paid_at=None)
    life = await lives.start(order, Policy(payment=60))
    await life.until(OrderStatus.AWAITING_PAYMENT)
    await asyncio.gather(
        lives.skip(seconds=60), life.handle.signal("payment", Payment(request_id="p1", paid_at=order.placed_at))
    )
    status = (await life.state()).status
    if status is not OrderStatus.CANCELLED:
        assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_warehouse_that_ships_while_it_is_recalled_has_shipped(lives: Lives, outside: Outside) -> None:
    life = await lives.start(an_order("607"))
    parcels = await life.dispatched()
    asked = asyncio.create_task(life.ask("cancel", Cancel(request_id="c1")))
    await life.ship(*parcels)
    answer = await asked
    if answer.accepted:
        assert await life.end() is OrderStatus.CANCELLED
    else:
        await life.track(parcels[0])
        assert await life.end() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_one_of_two_parcels_shipped_the_order_cannot_be_cancelled(lives: Lives) -> None:
    life = await lives.start(an_order("608", line(1, "A001", 15)))
    parcels = await life.dispatched()
    await life.ship(parcels[0])
    await life.until(OrderStatus.PARTIALLY_SHIPPED)
    answer = await life.ask("cancel", Cancel(request_id="c1"))
    assert (answer.accepted, answer.reason) == (False, "refused.cancel")
    await life.ship(parcels[1])
    for each in parcels:
        await life.track(each)
    assert await life.end() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_parcel_seen_delivered_before_its_warehouse_spoke_is_delivered(lives: Lives) -> None:
    life = await lives.start(an_order("609"))
    parcels = await life.dispatched()
    for _ in range(3):
        await life.track(parcels[0])
    assert await life.end() is OrderStatus.COMPLETED
    assert (await lives.level("SH", "A001")).on_hand == 9
    await lives.balanced()


@pytest.mark.parametrize("stage", ["grace", "payment", "stock", "released"])
async def test_cancelling_the_workflow_itself_gives_everything_back(lives: Lives, outside: Outside, stage: str) -> None:
    quantity = 25 if stage == "stock" else 1
    paid = {"paid_at": None} if stage == "payment" else {}
    order = an_order(f"61{stage}", line(1, "A001", quantity), **paid)
    life = await lives.start(order, Policy(grace=600) if stage == "grace" else None)
    if stage == "released":
        await life.dispatched()
    else:
        await life.until(OrderStatus.APPROVED, OrderStatus.AWAITING_PAYMENT, OrderStatus.AWAITING_STOCK)
    await life.handle.cancel()
    assert await life.end() is OrderStatus.CANCELLED
    assert await outside.booked(life) == []
    await lives.balanced()


async def test_cancelling_the_workflow_after_shipping_changes_nothing(lives: Lives) -> None:
    life = await lives.start(an_order("611"))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    await life.until(OrderStatus.SHIPPED)
    await life.handle.cancel()
    await asyncio.sleep(0.2)
    await life.track(parcels[0])
    assert await life.end() is OrderStatus.COMPLETED
    assert "refused.cancel" in await life.timeline()


async def test_a_long_history_goes_on_in_a_new_one_with_everything_it_knew(lives: Lives) -> None:
    life = await lives.start(an_order("613"))
    parcels = await life.dispatched()
    first = (await life.handle.describe()).run_id
    for number in range(26):
        notes = (Note(request_id=f"n{number}-{each}", text="called") for each in range(20))
        await asyncio.gather(*(life.handle.signal("note", note) for note in notes))
        await asyncio.sleep(0.05)
        if (await life.handle.describe()).run_id != first:
            break
    state = await life.state()
    assert state.fulfillments[0].waybill_no == parcels[0].waybill_no
    await life.ship(*parcels)
    await life.track(parcels[0], TrackingStatus.DELIVERED)
    assert await life.end() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_holds_come_and_go_and_the_order_goes_on(lives: Lives) -> None:
    life = await lives.start(an_order("614"), Policy(grace=3600))
    await life.until(OrderStatus.APPROVED)
    for number in range(8):
        await life.ask("hold", HoldRequest(request_id=f"h{number}", reason=str(number)))
        await life.ask("release", Release(request_id=f"r{number}"))
    await lives.skip(hours=2)
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()
