"""Awkward timing: whatever order cancel, modify, payment, warehouse and workers come in, it ends in balance."""

import asyncio
from random import Random

import httpx
import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from activities.kit.database import transaction
from activities.stock import ledger
from models.address import RecipientChange
from models.fulfillment import Fulfillment, Shortfall, ShortfallKind, TrackingStatus
from models.order import ChannelOrder, OrderStatus
from models.policy import Policy
from models.requests import (
    Cancel,
    Expedite,
    HoldRequest,
    Modify,
    Note,
    Payment,
    QuantityChange,
    Release,
    Replan,
    StockArrived,
    WarehouseEvent,
    WarehouseEventKind,
)
from tests.unit.orders import an_order, line
from tests.workflow.life import Life, Lives, request_id
from workers.main import worker


@pytest.fixture
async def outside(sandbox: str) -> "Outside":
    return Outside(sandbox)


class Outside:
    """Misbehaviour of the carrier, and what it has booked."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fault(self, order: ChannelOrder, fault: str, **more: str | float) -> None:
        """At booking, unless told otherwise."""
        told = {"system": "sf", "operation": "EXP_RECE_CREATE_ORDER", "match": order.channel_order_no}
        await self._call("POST", "/_faults", told | {"fault": fault} | more)

    async def ship(self, parcel: Fulfillment) -> None:
        """Its warehouse has shipped it, and has not said so yet."""
        await self._call("POST", "/warehouse/_control/ship", {"fulfillment_id": parcel.id})

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


@pytest.mark.parametrize("verb", ["cancel", "modify"])
async def test_asked_while_its_stock_is_being_allocated(lives: Lives, outside: Outside, verb: str) -> None:
    async with transaction() as connection:
        await ledger.levels(connection, ["A001"], lock=True)
        life = await lives.start(an_order("603"))
        await asyncio.sleep(0.5)
        if verb == "cancel":
            await life.handle.signal("cancel", Cancel(request_id="c1"))
        else:
            lines = (QuantityChange(line_no="1", quantity=3),)
            await life.handle.signal("modify", Modify(request_id="m1", lines=lines))
        await asyncio.sleep(0.2)
    if verb == "modify":
        parcels = await life.dispatched()
        assert [line.quantity for each in parcels for line in each.lines] == [3]
        await cancel(life)
    assert await life.end() is OrderStatus.CANCELLED
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


@pytest.mark.parametrize("remembered", [2000, 0])
async def test_a_worker_that_stops_leaves_its_orders_to_the_next(
    restless: Lives, outside: Outside, remembered: int
) -> None:
    order = an_order(f"615-{remembered}")
    await outside.fault(order, "delay", seconds=1)
    async with worker(restless.client, cached=remembered):
        life = await restless.start(order)
        await life.until(OrderStatus.ALLOCATED, next_step="book")
    async with worker(restless.client, cached=remembered):
        parcels = await life.dispatched()
        await life.ship(*parcels)
    async with worker(restless.client, cached=remembered):
        await life.track(parcels[0])
        assert await life.end() is OrderStatus.COMPLETED
    assert len(await outside.booked(life)) == 1
    await restless.balanced()


@pytest.mark.parametrize("fault", ["500", "delay", "timeout_after"])
async def test_cancelled_while_it_is_handed_to_its_warehouse(restless: Lives, outside: Outside, fault: str) -> None:
    """On the real server: the test server never ends an activity that fails after its cancellation was asked for."""
    order = an_order(f"62{fault.replace('_', '')}")
    await outside.fault(order, fault, system="warehouse", operation="submit", seconds=1, times=2)
    async with worker(restless.client):
        life = await restless.start(order)
        await life.parcel(carrier="sf")
        await cancel(life)
    assert await outside.booked(life) == []
    await restless.balanced()


async def test_cancelled_while_on_hold(lives: Lives) -> None:
    life = await lives.start(an_order("630", buyer_message="先别发货"))
    await life.until(OrderStatus.IN_REVIEW)
    await life.ask("hold", HoldRequest(request_id="h1"))
    await cancel(life)
    await lives.balanced()


async def test_what_a_warehouse_has_shipped_it_does_not_give_back(lives: Lives, outside: Outside) -> None:
    life = await lives.start(an_order("631"))
    parcels = await life.dispatched()
    await outside.ship(parcels[0])
    answer = await life.ask("cancel", Cancel(request_id="c1"))
    assert (answer.accepted, answer.reason) == (False, "refused.warehouse")
    assert await outside.booked(life) == [parcels[0].waybill_no]
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_rejection_that_overtakes_the_hand_overs_answer_is_not_lost(lives: Lives, outside: Outside) -> None:
    order = an_order("635")
    await outside.fault(order, "delay", system="warehouse", operation="submit", seconds=1)
    life = await lives.start(order)
    parcel = await life.parcel(status="open")
    await asyncio.sleep(0.5)
    await life.event(parcel, WarehouseEventKind.REJECTED)
    assert (await life.next_dispatched([parcel])).warehouse == "GZ"
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_of_two_parcels_one_given_back_and_one_not_the_first_is_sent_afresh(
    lives: Lives, outside: Outside
) -> None:
    life = await lives.start(an_order("632", line(1, "A001", 15)))
    parcels = await life.dispatched()
    await outside.ship(parcels[0])
    assert not (await life.ask("cancel", Cancel(request_id="c1"))).accepted
    await life.next_dispatched(parcels)
    assert await life.deliver() is OrderStatus.COMPLETED
    await lives.balanced()


async def test_a_lost_parcel_ends_the_order_and_calls_for_a_person(lives: Lives) -> None:
    life = await lives.start(an_order("633"))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    await life.track(parcels[0], TrackingStatus.LOST)
    await life.track(parcels[0], TrackingStatus.DELIVERED)
    assert await life.end() is OrderStatus.COMPLETED
    assert await life.exceptions() == ["lost"]
    await lives.balanced()


async def test_what_cannot_be_read_is_ignored_and_the_order_goes_on(lives: Lives) -> None:
    life = await lives.start(an_order("634"), Policy(grace=600))
    await life.until(OrderStatus.APPROVED)
    for verb in ("cancel", "modify", "hold", "payment", "tracking", "warehouse_event", "stock_arrived"):
        for nonsense in ({}, "nonsense", 7, None, {"request_id": "x" * 300}):
            await life.handle.signal(verb, nonsense)
        await life.handle.signal(verb)
        await life.handle.signal(verb, args=[{"request_id": "a"}, {"request_id": "b"}])
    with pytest.raises(WorkflowUpdateFailedError):
        await life.handle.execute_update("modify", {"request_id": "m1"})
    assert (await life.state()).status is OrderStatus.APPROVED
    await lives.skip(seconds=601)
    assert await life.deliver() is OrderStatus.COMPLETED


@pytest.mark.parametrize("seed", range(12))
async def test_at_random(restless: Lives, outside: Outside, seed: int) -> None:
    """On the real server: the test server loses an activity whose cancellation meets its start."""
    chance = Random(seed)
    order = an_order(f"64{seed}", line(1, "A001", chance.choice([1, 15])), **chance.choice([{}, {"paid_at": None}]))

    def rejection(id: str) -> WarehouseEvent:
        kind = chance.choice(list(ShortfallKind))
        amiss = chance.choice([(), (Shortfall(sku="A001", kind=kind, quantity=chance.randint(0, 3)),)])
        number, at = chance.randint(1, 3), order.placed_at
        parcel = f"{life.order.order_id}:F{number}"
        return WarehouseEvent(
            request_id=id, fulfillment_id=parcel, kind=WarehouseEventKind.REJECTED, at=at, shortfalls=amiss
        )

    async def send() -> None:
        await asyncio.sleep(chance.random())
        id = request_id()
        verb, request = chance.choice(
            [
                ("cancel", Cancel(request_id=id)),
                ("modify", Modify(request_id=id, lines=(QuantityChange(line_no="1", quantity=chance.randint(1, 16)),))),
                ("modify", Modify(request_id=id, recipient=RecipientChange(street=f"新街{chance.randint(1, 9)}号"))),
                ("hold", HoldRequest(request_id=id)),
                ("release", Release(request_id=id)),
                ("note", Note(request_id=id, text="called")),
                ("expedite", Expedite(request_id=id)),
                ("replan", Replan(request_id=id, warehouse=chance.choice(["SH", "GZ", None]))),
                ("warehouse_event", rejection(id)),
                ("payment", Payment(request_id=id, paid_at=order.placed_at)),
                ("stock_arrived", StockArrived(request_id=id)),
            ]
        )
        try:
            if chance.random() < 0.5 or verb in ("payment", "stock_arrived", "warehouse_event"):
                await life.handle.signal(verb, request)
            else:
                await life.ask(verb, request)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async with worker(restless.client):
        life = await restless.start(order, Policy(grace=chance.choice([0, 60])))
        await asyncio.gather(*(send() for _ in range(12)))
        if not (await life.state()).status.final:
            await life.ask("cancel", Cancel(request_id="last"))
        assert await life.end() is OrderStatus.CANCELLED
    assert await outside.booked(life) == []
    await restless.balanced()
