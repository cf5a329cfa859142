"""Concurrent requests, facts, faults and worker restarts: every interleaving ends with balanced stock."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import httpx
import pytest
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
from tests.workflow.harness import Harness, OrderRun, request_id
from workers.main import worker


@pytest.fixture
async def harness(manual_harness: Harness) -> AsyncIterator[Harness]:
    """Run orders on the real server.

    The time-skipping one refuses a task that cancels a timer or an activity which ended meanwhile, and never repeats
    that task (temporalio/sdk-java#3088).
    """
    async with worker(manual_harness.client):
        yield manual_harness


@pytest.fixture
async def outside(sandbox: str) -> "Outside":
    return Outside(sandbox)


class Outside:
    """Faults of external systems, and what they have recorded."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fault(self, order: ChannelOrder, fault: str, **more: str | float) -> None:
        """Inject a fault, by default into the booking with the carrier."""
        default = {"system": "sf", "operation": "EXP_RECE_CREATE_ORDER", "match": order.channel_order_no}
        await self._call("POST", "/_faults", default | {"fault": fault} | more)

    async def ship(self, fulfillment: Fulfillment) -> None:
        """Ship at the warehouse, which does not report the shipment yet."""
        await self._call("POST", "/warehouse/_control/ship", {"fulfillment_id": fulfillment.id})

    async def booked(self, run: OrderRun) -> list[str]:
        """Return the order's waybills that the carrier has not cancelled."""
        rows = await self._call("GET", "/sf/_control/bookings", None)
        mine = [row for row in rows if row["reference"].startswith(f"{run.order.channel_order_no}-F")]
        return [row["waybill_no"] for row in mine if not row["cancelled"]]

    async def _call(self, method: str, path: str, body: object) -> list[dict[str, str]]:
        async with httpx.AsyncClient() as client:
            answer = await client.request(method, f"{self._url}{path}", json=body)
            answer.raise_for_status()
            rows: list[dict[str, str]] = answer.json() if method == "GET" else []
            return rows


async def cancel(run: OrderRun) -> None:
    assert (await run.ask("cancel", Cancel(request_id=request_id(), actor="li"))).accepted
    assert await run.end() is OrderStatus.CANCELLED


@pytest.mark.parametrize("fault", ["500", "delay", "timeout_after"])
async def test_cancelled_during_booking(harness: Harness, outside: Outside, fault: str) -> None:
    order = an_order(f"6{fault.replace('_', '')}")
    await outside.fault(order, fault, seconds=1, times=3)
    run = await harness.start(order)
    await run.until(OrderStatus.ALLOCATED, next_step="book")
    await asyncio.sleep(0.3)
    await cancel(run)
    assert await outside.booked(run) == []
    await harness.balanced()


@pytest.mark.parametrize("verb", ["cancel", "modify"])
async def test_request_during_allocation(harness: Harness, outside: Outside, verb: str) -> None:
    async with transaction() as connection:
        await ledger.levels(connection, ["A001"], lock=True)
        run = await harness.start(an_order("603"))
        await asyncio.sleep(0.5)
        if verb == "cancel":
            await run.handle.signal("cancel", Cancel(request_id="c1"))
        else:
            lines = (QuantityChange(line_no="1", quantity=3),)
            await run.handle.signal("modify", Modify(request_id="m1", lines=lines))
        await asyncio.sleep(0.2)
    if verb == "modify":
        fulfillments = await run.dispatched()
        assert [line.quantity for each in fulfillments for line in each.lines] == [3]
        await cancel(run)
    assert await run.end() is OrderStatus.CANCELLED
    assert await outside.booked(run) == []
    await harness.balanced()


async def test_cancelled_right_after_the_start(harness: Harness, outside: Outside) -> None:
    run = await harness.start(an_order("602"))
    await run.handle.signal("cancel", Cancel(request_id="c1"))
    assert await run.end() is OrderStatus.CANCELLED
    assert await outside.booked(run) == []
    await harness.balanced()


async def test_an_order_cancelled_while_waiting_for_stock_leaves_the_waitlist(harness: Harness) -> None:
    run = await harness.start(an_order("603", line(1, "A001", 25)))
    await run.until(OrderStatus.AWAITING_STOCK)
    await cancel(run)
    assert await harness.receive("SH", "A001", 20) == []
    await harness.balanced()


async def test_concurrent_modify_and_cancel_end_cancelled(harness: Harness, outside: Outside) -> None:
    run = await harness.start(an_order("604", line(1, "A001", 3)))
    await run.dispatched()
    change = Modify(request_id="m1", lines=(QuantityChange(line_no="1", quantity=1),))
    await asyncio.gather(
        run.handle.signal("modify", change), run.handle.signal("cancel", Cancel(request_id="c1", actor="li"))
    )
    assert await run.end() is OrderStatus.CANCELLED
    assert await outside.booked(run) == []
    await harness.balanced()


async def test_a_payment_during_a_modification_is_not_lost(harness: Harness) -> None:
    order = an_order("605", paid_at=None)
    run = await harness.start(order)
    await run.until(OrderStatus.AWAITING_PAYMENT)
    change = Modify(request_id="m1", lines=(QuantityChange(line_no="1", quantity=2),))
    paid = Payment(request_id="p1", paid_at=order.placed_at)
    await asyncio.gather(run.handle.signal("modify", change), run.handle.signal("payment", paid))
    assert await run.deliver() is OrderStatus.COMPLETED
    assert (await run.row()).paid_at == order.placed_at
    await harness.balanced()


@pytest.mark.parametrize("first", ["payment", "expiry"])
async def test_payment_and_expiry_in_one_task_lead_to_one_result(manual_harness: Harness, first: str) -> None:
    order = an_order("606", paid_at=None)
    async with worker(manual_harness.client):
        run = await manual_harness.start(order, Policy(payment=3))
        await run.until(OrderStatus.AWAITING_PAYMENT)
    if first == "expiry":
        await manual_harness.skip(seconds=4)
    await run.handle.signal("payment", Payment(request_id="p1", paid_at=order.placed_at))
    if first == "payment":
        await manual_harness.skip(seconds=4)
    async with worker(manual_harness.client):
        status = (await run.state()).status
        if status is not OrderStatus.CANCELLED:
            assert await run.deliver() is OrderStatus.COMPLETED
    await manual_harness.balanced()


async def test_a_shipment_during_a_recall_counts(harness: Harness, outside: Outside) -> None:
    run = await harness.start(an_order("607"))
    fulfillments = await run.dispatched()
    cancellation = asyncio.create_task(run.ask("cancel", Cancel(request_id="c1")))
    await run.ship(*fulfillments)
    answer = await cancellation
    if answer.accepted:
        assert await run.end() is OrderStatus.CANCELLED
    else:
        await run.track(fulfillments[0])
        assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_partially_shipped_order_cannot_be_cancelled(harness: Harness) -> None:
    run = await harness.start(an_order("608", line(1, "A001", 15)))
    fulfillments = await run.dispatched()
    await run.ship(fulfillments[0])
    await run.until(OrderStatus.PARTIALLY_SHIPPED)
    answer = await run.ask("cancel", Cancel(request_id="c1"))
    assert (answer.accepted, answer.reason) == (False, "refused.cancel")
    await run.ship(fulfillments[1])
    for each in fulfillments:
        await run.track(each)
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_delivery_reported_before_the_shipment_counts(harness: Harness) -> None:
    run = await harness.start(an_order("609"))
    fulfillments = await run.dispatched()
    for _ in range(3):
        await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED
    assert (await harness.level("SH", "A001")).on_hand == 9
    await harness.balanced()


@pytest.mark.parametrize("stage", ["grace", "payment", "stock", "released"])
async def test_cancelling_the_workflow_cancels_the_order(harness: Harness, outside: Outside, stage: str) -> None:
    quantity = 25 if stage == "stock" else 1
    paid = {"paid_at": None} if stage == "payment" else {}
    order = an_order(f"61{stage}", line(1, "A001", quantity), **paid)
    run = await harness.start(order, Policy(grace=600) if stage == "grace" else None)
    if stage == "released":
        await run.dispatched()
    else:
        await run.until(OrderStatus.APPROVED, OrderStatus.AWAITING_PAYMENT, OrderStatus.AWAITING_STOCK)
    await run.handle.cancel()
    assert await run.end() is OrderStatus.CANCELLED
    assert await outside.booked(run) == []
    await harness.balanced()


async def test_cancelling_the_workflow_after_shipping_is_refused(harness: Harness) -> None:
    run = await harness.start(an_order("611"))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.until(OrderStatus.SHIPPED)
    await run.handle.cancel()
    await asyncio.sleep(0.2)
    await run.track(fulfillments[0])
    assert await run.end() is OrderStatus.COMPLETED
    assert "refused.cancel" in await run.timeline()


async def test_a_long_history_continues_in_a_new_one_with_its_state(harness: Harness) -> None:
    run = await harness.start(an_order("613"))
    fulfillments = await run.dispatched()
    first = (await run.handle.describe()).run_id
    for number in range(26):
        notes = (Note(request_id=f"n{number}-{each}", text="called") for each in range(20))
        await asyncio.gather(*(run.handle.signal("note", note) for note in notes))
        await asyncio.sleep(0.05)
        if (await run.handle.describe()).run_id != first:
            break
    state = await run.state()
    assert state.fulfillments[0].waybill_no == fulfillments[0].waybill_no
    await run.ship(*fulfillments)
    await run.track(fulfillments[0], TrackingStatus.DELIVERED)
    assert await run.end() is OrderStatus.COMPLETED
    await harness.balanced()


@pytest.mark.parametrize("cached", [2000, 0])
async def test_another_worker_continues_the_orders_of_a_stopped_one(
    manual_harness: Harness, outside: Outside, cached: int
) -> None:
    order = an_order(f"615-{cached}")
    await outside.fault(order, "delay", seconds=1)
    async with worker(manual_harness.client, cached=cached):
        run = await manual_harness.start(order)
        await run.until(OrderStatus.ALLOCATED, next_step="book")
    async with worker(manual_harness.client, cached=cached):
        fulfillments = await run.dispatched()
        await run.ship(*fulfillments)
    async with worker(manual_harness.client, cached=cached):
        await run.track(fulfillments[0])
        assert await run.end() is OrderStatus.COMPLETED
    assert len(await outside.booked(run)) == 1
    await manual_harness.balanced()


@pytest.mark.parametrize("fault", ["500", "delay", "timeout_after"])
async def test_cancelled_during_release_to_the_warehouse(manual_harness: Harness, outside: Outside, fault: str) -> None:
    """Needs the real server: the test server never ends an activity that fails after its cancellation was requested."""
    order = an_order(f"62{fault.replace('_', '')}")
    await outside.fault(order, fault, system="warehouse", operation="submit", seconds=1, times=2)
    async with worker(manual_harness.client):
        run = await manual_harness.start(order)
        await run.fulfillment(carrier="sf")
        await cancel(run)
    assert await outside.booked(run) == []
    await manual_harness.balanced()


async def test_cancelled_while_on_hold(harness: Harness) -> None:
    run = await harness.start(an_order("630", buyer_message="先别发货"))
    await run.until(OrderStatus.IN_REVIEW)
    await run.ask("hold", HoldRequest(request_id="h1"))
    await cancel(run)
    await harness.balanced()


async def test_a_recall_after_shipment_is_refused(harness: Harness, outside: Outside) -> None:
    run = await harness.start(an_order("631"))
    fulfillments = await run.dispatched()
    await outside.ship(fulfillments[0])
    answer = await run.ask("cancel", Cancel(request_id="c1"))
    assert (answer.accepted, answer.reason) == (False, "refused.warehouse")
    assert await outside.booked(run) == [fulfillments[0].waybill_no]
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_rejection_before_the_release_response_is_not_lost(harness: Harness, outside: Outside) -> None:
    order = an_order("635")
    await outside.fault(order, "delay", system="warehouse", operation="submit", seconds=1)
    run = await harness.start(order)
    fulfillment = await run.fulfillment(status="open")
    await asyncio.sleep(0.5)
    await run.event(fulfillment, WarehouseEventKind.REJECTED)
    assert (await run.next_dispatched([fulfillment])).warehouse == "GZ"
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_partly_refused_recall_replans_what_was_recalled(harness: Harness, outside: Outside) -> None:
    run = await harness.start(an_order("632", line(1, "A001", 15)))
    fulfillments = await run.dispatched()
    await outside.ship(fulfillments[0])
    assert not (await run.ask("cancel", Cancel(request_id="c1"))).accepted
    await run.next_dispatched(fulfillments)
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()


async def test_a_lost_parcel_completes_the_order_with_an_alert(harness: Harness) -> None:
    run = await harness.start(an_order("633"))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.track(fulfillments[0], TrackingStatus.LOST)
    await run.track(fulfillments[0], TrackingStatus.DELIVERED)
    assert await run.end() is OrderStatus.COMPLETED
    assert await run.exceptions() == ["lost"]
    await harness.balanced()


@pytest.mark.parametrize("seed", range(12))
async def test_random_interleavings(manual_harness: Harness, outside: Outside, seed: int) -> None:
    chance = Random(seed)
    order = an_order(f"64{seed}", line(1, "A001", chance.choice([1, 15])), **chance.choice([{}, {"paid_at": None}]))

    def rejection(id: str) -> WarehouseEvent:
        kind = chance.choice(list(ShortfallKind))
        shortfalls = chance.choice([(), (Shortfall(sku="A001", kind=kind, quantity=chance.randint(0, 3)),)])
        number, at = chance.randint(1, 3), order.placed_at
        fulfillment = f"{run.order.order_id}:F{number}"
        return WarehouseEvent(
            request_id=id, fulfillment_id=fulfillment, kind=WarehouseEventKind.REJECTED, at=at, shortfalls=shortfalls
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
                await run.handle.signal(verb, request)
            else:
                await run.ask(verb, request)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async with worker(manual_harness.client):
        run = await manual_harness.start(order, Policy(grace=chance.choice([0, 60])))
        await asyncio.gather(*(send() for _ in range(12)))
        if not (await run.state()).status.final:
            await run.ask("cancel", Cancel(request_id="last"))
        assert await run.end() is OrderStatus.CANCELLED
    assert await outside.booked(run) == []
    await manual_harness.balanced()


async def test_a_carrier_that_is_down_does_not_delay_a_cancellation(manual_harness: Harness, outside: Outside) -> None:
    order = an_order("650")
    await outside.fault(order, "500", operation="EXP_RECE_UPDATE_ORDER", times=3)
    async with worker(manual_harness.client):
        run = await manual_harness.start(order)
        await run.dispatched()
        assert (await run.ask("cancel", Cancel(request_id="c1", actor="li"))).accepted
        await manual_harness.balanced()
        assert (await run.row()).status == "cancelled"
        assert await run.end() is OrderStatus.CANCELLED
    assert await outside.booked(run) == []


async def test_a_shipped_parcel_is_not_withdrawn(manual_harness: Harness) -> None:
    """Signals that wait for a worker arrive together."""
    async with worker(manual_harness.client):
        run = await manual_harness.start(an_order("651"))
        fulfillments = await run.dispatched()
    await run.handle.signal("cancel", Cancel(request_id="c1"))
    await run.ship(*fulfillments)
    await run.track(fulfillments[0])
    async with worker(manual_harness.client):
        assert await run.end() is OrderStatus.COMPLETED
    assert (await run.row()).status == "completed"
    assert await manual_harness.shipped_lines(run.order) == {"1": 1}
    await manual_harness.balanced()


async def test_a_payment_during_admission_counts(harness: Harness) -> None:
    async with transaction() as connection:
        await ledger.levels(connection, ["A001"], lock=True)
        run = await harness.start(order := an_order("652", paid_at=None), Policy(reserve="placed"))
        await asyncio.sleep(0.5)
        await run.handle.signal("payment", Payment(request_id="p1", paid_at=order.placed_at))
        await asyncio.sleep(0.2)
    assert await run.deliver() is OrderStatus.COMPLETED
    await harness.balanced()
