"""Transfers on the time-skipping server with a real database."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer

from activities.catalogue import locations
from activities.catalogue.locations import Location
from activities.kit.database import transaction
from activities.stock import ledger, transfers
from models.base import CHINA
from models.exceptions import ExceptionRow
from models.order import OrderStatus
from models.requests import YES, Answer, Approve, Cancel, Request, no
from models.settings import settings
from models.stock import IncomingRow, LocationKind, MovementRow
from models.transfers import CancelTransfer, Receive, Ship, Transfer, TransferLine, TransferStatus, Unreceived
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness, request_id
from workers.client import execute_request
from workers.main import worker
from workflows.transfers import TransferWorkflow

_numbers = count(1)


class TransferRun:
    """One transfer under test, SH → GZ."""

    def __init__(self, harness: Harness, handle: WorkflowHandle[Any, TransferStatus]) -> None:
        self.harness = harness
        self.handle = handle

    async def ask(self, verb: str, request: Request) -> Answer:
        try:
            return await execute_request(self.handle, verb, request)
        except WorkflowUpdateFailedError as error:
            if not isinstance(error.cause, ApplicationError):
                raise
            return Answer.model_validate(error.cause.details[0])

    async def approve(self) -> Answer:
        return await self.ask("approve", Approve(request_id=request_id(), actor="boss"))

    async def ship(self, **goods: int) -> Answer:
        return await self.ask("ship", Ship(request_id=request_id(), goods=goods))

    async def receive(self, **goods: int) -> Answer:
        return await self.ask("receive", Receive(request_id=request_id(), goods=goods))

    async def cancel(self, how: Unreceived | None = None, reason: str = "") -> Answer:
        return await self.ask("cancel", CancelTransfer(request_id=request_id(), how=how, reason=reason))

    async def row(self) -> Any:
        async with transaction() as connection:
            return await transfers.get(connection, self.handle.id)

    async def stock(self, warehouse: str, sku: str = "A001") -> tuple[int, int, int]:
        """Return the quantities on hand, reserved and incoming; assert that the ledger agrees."""
        query = select(IncomingRow.quantity).where(IncomingRow.warehouse == warehouse, IncomingRow.sku == sku)  # type: ignore[arg-type]
        async with transaction() as connection:
            assert await ledger.verify(connection) == []
            incoming = sum(await connection.scalars(query))
        level = await self.harness.level(warehouse, sku)
        return level.on_hand, level.reserved, incoming

    async def movements(self) -> list[tuple[str, str, int]]:
        query = (
            select(MovementRow.kind, MovementRow.warehouse, MovementRow.quantity)  # type: ignore[call-overload]
            .where(MovementRow.key.startswith(self.handle.id))  # type: ignore[attr-defined]
            .order_by(MovementRow.id)
        )
        async with transaction() as connection:
            return [tuple(row) for row in await connection.execute(query)]

    async def exceptions(self) -> list[tuple[str, bool]]:
        query = select(ExceptionRow.kind, ExceptionRow.closed_at).where(ExceptionRow.order_id == self.handle.id)  # type: ignore[call-overload]
        async with transaction() as connection:
            return [(row.kind, row.closed_at is None) for row in await connection.execute(query)]


async def begin(harness: Harness, days: int = 3, **goods: int) -> TransferRun:
    now = await harness.now()
    transfer = Transfer(
        id=f"transfer:{next(_numbers)}-{now:%H%M%S%f}",
        origin="SH",
        destination="GZ",
        lines=[TransferLine(sku=sku, quantity=quantity) for sku, quantity in (goods or {"A001": 6}).items()],
        due=now.astimezone(CHINA).date() + timedelta(days=days),
        proposed_by="planner",
        proposed_at=now,
    )
    handle: Any = await harness.client.start_workflow(
        TransferWorkflow.run, transfer, id=transfer.id, task_queue=settings().task_queue
    )
    moved = TransferRun(harness, handle)
    while await moved.row() is None:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return moved


async def test_goods_move_from_origin_to_destination(harness: Harness) -> None:
    moved = await begin(harness)
    assert (await moved.row()).status == "draft"
    assert (await moved.handle.query("state", result_type=Transfer)).status is TransferStatus.DRAFT
    assert await moved.approve() == YES
    assert await moved.stock("SH") == (10, 6, 0)
    assert (await harness.level("SH", "A001")).available == 4
    assert (await moved.row()).status == "ready"
    assert await moved.ship() == YES
    assert (await moved.stock("SH"), await moved.stock("GZ")) == ((4, 0, 0), (10, 0, 6))
    assert await moved.receive(A001=2) == YES
    assert (await moved.row()).status == "partially_received"
    assert await moved.stock("GZ") == (12, 0, 4)
    assert await moved.receive() == YES
    assert await moved.handle.result() == TransferStatus.RECEIVED
    assert (await moved.stock("SH"), await moved.stock("GZ")) == ((4, 0, 0), (16, 0, 0))
    assert await moved.movements() == [
        ("reserved", "SH", 6),
        ("released", "SH", 6),
        ("transfer_out", "SH", 6),
        ("transfer_in", "GZ", 2),
        ("transfer_in", "GZ", 4),
    ]
    row = await moved.row()
    assert (row.status, row.approved_by, row.proposed_by) == ("received", "boss", "planner")
    assert row.lines[0] == {"sku": "A001", "quantity": 6, "shipped": 6, "received": 6, "returned": 0, "lost": 0}
    replayer = Replayer(workflows=[TransferWorkflow], data_converter=harness.client.data_converter)
    await replayer.replay_workflow(await moved.handle.fetch_history())


async def test_a_long_history_continues_in_a_new_one(manual_harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.transfers.HISTORY_LIMIT", 20)
    async with worker(manual_harness.client):
        moved = await begin(manual_harness)
        first = (await moved.handle.describe()).run_id
        for verb, request in (("approve", Approve(request_id="one")), ("ship", Ship(request_id="two"))):
            assert await moved.ask(verb, request) == YES
        for number in range(5):
            request = Receive(request_id=f"part {number}", goods={"A001": 1})
            assert [await moved.ask("receive", request) for _ in range(2)] == [YES, YES]
        assert (await moved.handle.describe()).run_id != first
        assert await moved.ask("ship", Ship(request_id="two")) == YES
        assert await moved.stock("GZ") == (15, 0, 1)
        assert await moved.receive() == YES
        assert await moved.handle.result() == TransferStatus.RECEIVED


async def test_a_repeated_request_changes_nothing(harness: Harness) -> None:
    moved = await begin(harness)
    wishes: list[tuple[str, Request]] = [
        ("approve", Approve(request_id="one")),
        ("ship", Ship(request_id="two")),
        ("receive", Receive(request_id="three", goods={"A001": 1})),
    ]
    for verb, request in wishes:
        assert await moved.ask(verb, request) == YES
        await moved.handle.signal(verb, request)
        assert await moved.ask(verb, request) == YES
    assert (await moved.stock("SH"), await moved.stock("GZ")) == ((4, 0, 0), (11, 0, 5))
    assert await moved.receive() == YES
    assert await moved.handle.result() == TransferStatus.RECEIVED
    assert (await moved.stock("GZ"))[0] == 16


async def test_approval_is_refused_without_stock(harness: Harness) -> None:
    moved = await begin(harness, A001=11, A002=3)
    refused = await moved.approve()
    assert (refused.reason, refused.params) == ("refused.transfer.stock", {"location": "SH", "why": "A001: 10 / 11"})
    assert (await moved.row()).status == "draft"
    assert await moved.stock("SH", "A002") == (10, 0, 0)
    await harness.receive("SH", "A001", 1)
    assert await moved.approve() == YES
    assert await moved.stock("SH") == (11, 11, 0)
    assert await moved.cancel() == YES
    assert await moved.handle.result() == TransferStatus.CANCELLED


async def test_each_status_refuses_what_it_does_not_allow(harness: Harness) -> None:
    moved = await begin(harness)
    assert (await moved.ship()) == no("refused.transfer.ship", transfer="draft")
    assert (await moved.receive()) == no("refused.transfer.receive", transfer="draft")
    await moved.approve()
    assert (await moved.approve()) == no("refused.transfer.approve", transfer="ready")
    assert (await moved.ship(A001=7)) == no("refused.transfer.goods", sku="A001", most=6)
    assert (await moved.ship(A001=0)) == no("refused.transfer.nothing")
    await moved.ship()
    assert (await moved.receive(A001=7)) == no("refused.transfer.goods", sku="A001", most=6)
    assert (await moved.receive(A002=1)) == no("refused.transfer.goods", sku="A002", most=0)
    assert (await moved.cancel()) == no("refused.transfer.how")
    assert (await moved.cancel(Unreceived.WRITE_OFF)) == no("refused.transfer.reason")
    assert await moved.receive() == YES
    assert await moved.handle.result() == TransferStatus.RECEIVED


async def test_units_that_were_not_shipped_are_released(harness: Harness) -> None:
    moved = await begin(harness, A001=6, A002=2)
    await moved.approve()
    assert await moved.ship(A001=4) == YES
    assert (await moved.stock("SH"), await moved.stock("SH", "A002")) == ((6, 0, 0), (10, 0, 0))
    assert (await moved.stock("GZ"), await moved.stock("GZ", "A002")) == ((10, 0, 4), (10, 0, 0))
    assert await moved.receive() == YES
    assert await moved.handle.result() == TransferStatus.RECEIVED


async def test_cancelling_a_draft_does_not_touch_the_stock(harness: Harness) -> None:
    moved = await begin(harness)
    assert await moved.cancel() == YES
    assert await moved.handle.result() == TransferStatus.CANCELLED
    assert await moved.movements() == []


async def test_cancelling_before_shipping_releases_the_reservation(harness: Harness) -> None:
    moved = await begin(harness)
    await moved.approve()
    assert await moved.cancel(reason="not needed") == YES
    assert await moved.handle.result() == TransferStatus.CANCELLED
    assert (await moved.stock("SH"), await moved.stock("GZ")) == ((10, 0, 0), (10, 0, 0))


async def test_cancelling_in_transit_returns_the_goods(harness: Harness) -> None:
    moved = await begin(harness)
    await moved.approve()
    await moved.ship()
    assert await moved.cancel(Unreceived.RETURN, "wrong truck") == YES
    assert (await moved.stock("SH"), await moved.stock("GZ")) == ((4, 0, 6), (10, 0, 0))
    assert await moved.cancel(Unreceived.RETURN) == no("refused.transfer.returning")
    assert await moved.receive(A001=5) == YES
    assert await moved.cancel(Unreceived.WRITE_OFF, "one is broken") == YES
    assert await moved.handle.result() == TransferStatus.CANCELLED
    assert (await moved.stock("SH"), await moved.stock("GZ")) == ((9, 0, 0), (10, 0, 0))
    assert (await moved.row()).lines[0] | {"returned": 5, "lost": 1} == (await moved.row()).lines[0]


async def test_units_lost_in_transit_are_written_off(harness: Harness) -> None:
    moved = await begin(harness)
    await moved.approve()
    await moved.ship()
    await moved.receive(A001=4)
    assert await moved.cancel(Unreceived.WRITE_OFF, "fell off") == YES
    assert await moved.handle.result() == TransferStatus.RECEIVED
    assert (await moved.stock("SH"), await moved.stock("GZ")) == ((4, 0, 0), (14, 0, 0))
    assert (await moved.row()).lines[0]["lost"] == 2
    wholly = await begin(harness, A002=1)
    await wholly.approve()
    await wholly.ship()
    assert await wholly.cancel(Unreceived.WRITE_OFF, "stolen") == YES
    assert await wholly.handle.result() == TransferStatus.CANCELLED
    assert await wholly.stock("GZ", "A002") == (10, 0, 0)


async def test_an_overdue_transfer_raises_one_alert(harness: Harness) -> None:
    moved = await begin(harness, days=1)
    await moved.approve()
    await moved.ship()
    assert await moved.exceptions() == []
    await harness.skip(days=3)
    assert await moved.exceptions() == [("overdue_transfer", True)]
    await moved.receive(A001=1)
    await harness.skip(days=30)
    assert await moved.exceptions() == [("overdue_transfer", True)]
    await moved.receive()
    assert await moved.handle.result() == TransferStatus.RECEIVED
    assert await moved.exceptions() == [("overdue_transfer", False)]


async def test_received_goods_notify_waiting_orders(harness: Harness) -> None:
    moved = await begin(harness, A001=10)
    await moved.approve()
    buyer = await harness.start(an_order("waits", line(1, "A001", 15)))
    await buyer.until(OrderStatus.AWAITING_STOCK)
    await moved.ship()
    await moved.receive(A001=4)
    assert await harness.notified_orders() == []
    await moved.receive()
    assert await harness.notified_orders() == [buyer.order.order_id]
    await buyer.ask("cancel", Cancel(request_id=request_id()))
    assert await buyer.end() is OrderStatus.CANCELLED


async def test_cancelling_the_workflow_is_a_cancel_request(harness: Harness) -> None:
    moved = await begin(harness)
    await moved.approve()
    await moved.handle.cancel()
    assert await moved.handle.result() == TransferStatus.CANCELLED
    assert await moved.stock("SH") == (10, 0, 0)
    gone = await begin(harness)
    await gone.approve()
    await gone.ship()
    await gone.handle.cancel()
    assert await gone.receive() == YES
    assert await gone.handle.result() == TransferStatus.RECEIVED


async def test_received_goods_are_shared_with_virtual_warehouses(harness: Harness) -> None:
    async with transaction() as connection:
        fence = Location(code="GZ@vip", kind=LocationKind.VIRTUAL, parent="GZ", name="VIP", share=Decimal("0.5"))
        await locations.save(connection, fence)
    moved = await begin(harness)
    await moved.approve()
    await moved.ship()
    await moved.receive()
    assert (await moved.stock("GZ"))[0] == 13
    assert (await moved.stock("GZ@vip"))[0] == 3
