"""Random lives: all messages in any order, while workers come and go and their connections to the engine are cut.

A cut lasts longer than a workflow task may take, so that tasks are lost after their local activities ran, and done
over with a longer history. ``HENGDAN_LIVES=48`` runs more than the few orders of the normal run.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from random import Random

import pytest
from sqlalchemy import select
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError

from activities.kit.database import transaction
from models.address import RecipientChange
from models.fulfillment import Fulfillment, FulfillmentRow, FulfillmentStatus, Shortfall, ShortfallKind, TrackingStatus
from models.order import OrderStatus, Refund, RefundState
from models.policy import Policy
from models.requests import (
    Cancel,
    Expedite,
    HoldRequest,
    Modify,
    Note,
    Payment,
    PaymentReversed,
    QuantityChange,
    Refunding,
    Release,
    Remark,
    Replan,
    Request,
    StockArrived,
    WarehouseEventKind,
)
from tests.integration.books import sql
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness, OrderRun, request_id
from tests.workflow.test_interleavings import Outside
from workers.client import data_converter
from workers.main import worker

LIVES = int(os.environ.get("HENGDAN_LIVES", 3))
AT_ONCE = 24
TASK_SECONDS = 2
"""How long a workflow task may take in this test before the engine gives it to another worker."""


class Cable:
    """A connection to a server that can be cut: forwards bytes from a port of its own."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut = False

    @asynccontextmanager
    async def plugged(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self._close()

    async def cut(self, seconds: float) -> None:
        """Cut every connection in the middle of what it carries, and refuse new ones meanwhile."""
        self._cut = True
        self._close()
        await asyncio.sleep(seconds)
        self._cut = False

    def _close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        upstream, out = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, out}
        await asyncio.gather(self._forward(reader, out), self._forward(upstream, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Life:
    """What happens to one order."""

    def __init__(self, run: OrderRun, dice: Random) -> None:
        self.run = run
        self.dice = dice

    async def live(self) -> None:
        for _ in range(self.dice.randint(3, 14)):
            await asyncio.sleep(self.dice.random())
            with engine_may_refuse():
                await self.dice.choice([self._request, self._request, self._fact, self._ship, self._track])()

    async def end(self) -> OrderStatus:
        """Drive the order to its end: cancel it, or ship and deliver what has begun."""
        for _ in range(200):
            if (await self.run.handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
                break
            with engine_may_refuse():
                await self.run.handle.signal("release", Release(request_id=request_id()))
                await self.run.handle.signal("cancel", Cancel(request_id=request_id()))
                await asyncio.sleep(1)
                await self._ship(every=True)
                await self._track(every=True)
        return await self.run.end()

    async def _request(self) -> None:
        id, dice = request_id(), self.dice
        verb, request = dice.choice(
            [
                ("cancel", Cancel(request_id=id)),
                ("cancel", Cancel(request_id=id, actor="channel:own")),
                ("modify", Modify(request_id=id, lines=(QuantityChange(line_no="1", quantity=dice.randint(1, 16)),))),
                ("modify", Modify(request_id=id, recipient=RecipientChange(street=f"新街{dice.randint(1, 9)}号"))),
                ("hold", HoldRequest(request_id=id)),
                ("release", Release(request_id=id)),
                ("note", Note(request_id=id, text="called")),
                ("expedite", Expedite(request_id=id)),
                ("replan", Replan(request_id=id, warehouse=dice.choice(["SH", "GZ", None]))),
            ]
        )
        if dice.random() < 0.6:
            await self.run.handle.signal(verb, request)
        else:
            await asyncio.wait_for(self.run.ask(verb, request), 20)

    async def _fact(self) -> None:
        id, placed_at = request_id(), self.run.order.placed_at
        state = self.dice.choice(list(RefundState))
        refund = Refund(refund_no="R1", state=state, amount=Decimal("1.00"))
        facts: list[tuple[str, Request]] = [
            ("payment", Payment(request_id=id, paid_at=placed_at)),
            ("payment_reversed", PaymentReversed(request_id=id)),
            ("stock_arrived", StockArrived(request_id=id)),
            ("remark", Remark(request_id=id, buyer_message=self.dice.choice(["", "尽快"]), priority=3)),
            ("refund", Refunding(request_id=id, refund=refund)),
        ]
        await self.run.handle.signal(*self.dice.choice(facts))

    async def _ship(self, every: bool = False) -> None:
        for each in await self._some(every, lambda each: not each.has_shipped and each.waybill_no is not None):
            if not every and self.dice.random() < 0.3:
                shortfalls = (Shortfall(sku="A001", kind=ShortfallKind.NOT_FOUND, quantity=0),)
                await self.run.event(each, WarehouseEventKind.REJECTED, shortfalls=shortfalls)
            else:
                await self.run.ship(each)

    async def _track(self, every: bool = False) -> None:
        milestones = [TrackingStatus.IN_TRANSIT, TrackingStatus.OUT_FOR_DELIVERY, TrackingStatus.DELIVERED]
        for each in await self._some(every, lambda each: each.waybill_no is not None):
            await self.run.track(each, TrackingStatus.DELIVERED if every else self.dice.choice(milestones))

    async def _some(self, every: bool, fitting: Callable[[Fulfillment], bool]) -> list[Fulfillment]:
        query = select(FulfillmentRow).where(FulfillmentRow.order_id == self.run.order.order_id)
        async with transaction() as connection:
            rows = (await connection.execute(query)).all()
        parcels = [Fulfillment.model_validate(row._mapping) for row in rows]
        found = [each for each in parcels if each.status != "cancelled" and fitting(each)]
        return found if every else self.dice.sample(found, min(1, len(found)))


@contextmanager
def engine_may_refuse() -> Iterator[None]:
    """Go on where the workflow has ended, or no worker answers."""
    with suppress(RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError):
        yield


@asynccontextmanager
async def disturbed(engine: Client, dice: Random) -> AsyncIterator[None]:
    """Run a worker that is replaced again and again, and whose cable to the engine is cut."""
    cable = Cable(engine.service_client.config.target_host)

    async def disturb(client: Client) -> None:
        while True:
            async with worker(client, cached=dice.choice([0, 2000])):
                for _ in range(dice.randint(1, 3)):
                    await asyncio.sleep(dice.uniform(1, 4))
                    await cable.cut(dice.uniform(0.1, 1.5 * TASK_SECONDS))

    async with cable.plugged() as address:
        disturbing = asyncio.create_task(disturb(await Client.connect(address, data_converter=data_converter())))
        try:
            yield
        finally:
            disturbing.cancel()
            await asyncio.wait([disturbing])


@pytest.mark.timeout(600)
async def test_random_lives_end_in_order(manual_harness: Harness, sandbox: str) -> None:
    """DESIGN's invariants hold at the end of each life: stock, bookings, the channel and the row agree."""
    outside, dice = Outside(sandbox), Random(LIVES)
    for warehouse in ("SH", "GZ"):
        await manual_harness.receive(warehouse, "A001", 20 * LIVES)
    runs: list[OrderRun] = []
    async with disturbed(manual_harness.client, dice):
        for first in range(0, LIVES, AT_ONCE):
            lives = []
            for number in range(first, min(first + AT_ONCE, LIVES)):
                goods, unpaid = line(1, "A001", dice.choice([1, 15])), dice.choice([{}, {"paid_at": None}])
                run = await manual_harness.start(
                    an_order(f"7{number}", goods, **unpaid),
                    Policy(grace=dice.choice([0, 2])),
                    task_timeout=timedelta(seconds=TASK_SECONDS),
                )
                lives.append(Life(run, Random(number)))
            await asyncio.gather(*(each.live() for each in lives))
            await asyncio.gather(*(each.end() for each in lives))
            runs += [each.run for each in lives]
    shipped = Counter[str]()
    async with worker(manual_harness.client):
        for run in runs:
            await _consistent(run, outside, manual_harness, shipped)
    await manual_harness.balanced()
    left = sum([(await manual_harness.level(each, "A001")).on_hand for each in ("SH", "GZ")])
    (ledger,) = await sql("SELECT coalesce(sum(quantity), 0) AS lost FROM movements WHERE kind = 'adjusted'")
    assert left == 2 * (20 * LIVES + 10) + ledger.lost - sum(shipped.values())


async def _consistent(run: OrderRun, outside: Outside, harness: Harness, shipped: Counter[str]) -> None:
    state, row = await run.state(), await run.row()
    assert row.status == state.status == await run.end(), run.order.order_id
    assert row.revision == state.revision
    sent = [each for each in state.active if each.has_shipped]
    assert (state.status is OrderStatus.COMPLETED) is bool(sent), (run.order.order_id, state.status)
    waybills = {each.waybill_no for each in sent}
    late = {each.waybill_no for each in state.fulfillments if each.waybill_no} - waybills
    assert set(await outside.booked(run)) == waybills, (run.order.order_id, late)
    rows = await sql(f"SELECT id, status FROM fulfillments WHERE order_id = '{run.order.order_id}'")
    kept = {each.id: str(each.status) for each in state.fulfillments if each.status is not FulfillmentStatus.CANCELLED}
    assert {
        each.id: each.status for each in rows if each.status != "cancelled"
    } == kept  # a lost task's plan is cancelled
    told = await harness.shipped_lines(run.order)
    quantities = Counter({each.line_no: 0 for each in state.order.lines})
    for parcel in sent:
        for each in parcel.lines:
            quantities[each.line_no] += each.quantity
            shipped[each.sku] += each.quantity
    assert bool(told) is bool(sent), (run.order.order_id, told)
