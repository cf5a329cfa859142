"""The doctor: either store is restored to an older state, and every order goes on to its end, each thing done once."""

import json
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import func, select, update
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.fulfillment import tracking
from activities.intake import inbox
from activities.kit.database import dispose, transaction
from activities.orders import rebuilding
from activities.orders.doctor import Difference, Examination
from activities.stock import ledger
from models.exceptions import ExceptionRow
from models.fulfillment import FulfillmentRow, Scan, TrackingStatus
from models.intake import ChannelOrderRow, InboxRow, InboxState, IntegrationType, Raw, Receipt
from models.order import ChannelOrder, OrderRow, OrderStatus
from models.requests import Cancel, Note, Payment, WarehouseEvent, WarehouseEventKind
from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import settings
from models.stock import Level
from models.vault import seal_row
from starter.dispatcher import EngineDown, take
from tests.api import sale
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness, OrderRun, request_id
from workers.client import FAIL_FAST, data_converter
from workers.embedded import Postgres, Temporal, start_temporal
from workers.main import worker
from workflows.doctor import DoctorWorkflow

EXCLUDED = ("RESET_REAPPLY_EXCLUDE_TYPE_UPDATE", "RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL")
"""A reset repeats neither."""


@pytest.fixture
async def harness(
    stocked: str, temporal_server: Temporal, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Harness:
    """Run orders on the real server, on a task queue of the test's own. The test starts and stops workers itself."""
    monkeypatch.setenv("HENGDAN_TASK_QUEUE", f"doctor-{uuid4()}")
    settings.cache_clear()
    return await connect(temporal_server, stocked)


async def connect(server: Temporal, sandbox: str) -> Harness:
    client = await Client.connect(server.address, data_converter=data_converter())
    return Harness(client, WorkflowEnvironment.from_client(client), sandbox)


async def connect_nowhere() -> Client:
    """Return a client of an engine that is down."""
    return await Client.connect("127.0.0.1:1", lazy=True, retry_config=FAIL_FAST, data_converter=data_converter())


async def place(harness: Harness, order: ChannelOrder) -> OrderRun:
    """Start an order as the dispatcher does, with the channel's document saved."""
    run = await harness.start(order)
    async with transaction() as connection:
        await inbox.save_documents(connection, [run.order])
    return run


async def doctor(harness: Harness, **options: Any) -> dict[str, Difference]:
    """Examine all orders; mend unless the options say otherwise."""
    given = Examination(**{"mend": True, "settle_seconds": 0.5, **options})
    report = await harness.client.execute_workflow(
        DoctorWorkflow.run, given, id=f"doctor-{uuid4()}", task_queue=settings().task_queue
    )
    assert sum(report.counts.values()) == len(report.differences)
    return {each.order_id: each for each in report.differences}


def kinds(found: dict[str, Difference], *runs: OrderRun) -> list[tuple[str, bool]]:
    return [(found[each.order.order_id].kind.value, found[each.order.order_id].mended) for each in runs]


async def pay(run: OrderRun) -> None:
    await run.handle.signal("payment", Payment(request_id=request_id(), actor="test", paid_at=run.order.placed_at))


async def consistent(run: OrderRun) -> None:
    """Assert that row, fulfillment orders and workflow agree."""
    state, row = await run.state(), await run.row()
    assert (row.status, row.revision) == (state.status, state.revision)
    query = select(FulfillmentRow.id, FulfillmentRow.waybill_no).where(FulfillmentRow.order_id == row.id)  # type: ignore[call-overload]
    async with transaction() as connection:
        rows = {tuple(each) for each in await connection.execute(query)}
    assert rows == {(each.id, each.waybill_no) for each in state.fulfillments}


async def bookings(sandbox: str, *runs: OrderRun) -> Counter[str]:
    """Return how many bookings that were not cancelled the carriers hold, by order number."""
    found: Counter[str] = Counter()
    numbers = {run.order.channel_order_no for run in runs}
    async with httpx.AsyncClient(base_url=sandbox) as world:
        for carrier in ("sf", "yto"):
            for each in (await world.get(f"/{carrier}/_control/bookings")).json():
                found.update(
                    number
                    for number in numbers
                    if each["reference"].startswith(f"{number}-F") and not each["cancelled"]
                )
    return found


async def copy_database(server: Postgres, source: str, target: str) -> None:
    """Replace a database by a copy of another one."""
    await dispose()
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(target)))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = current_user",
            [source],
        )
        admin.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(target), Identifier(source)))


async def stock() -> list[Level]:
    """Return all levels, which must equal the ledger."""
    async with transaction() as connection:
        assert await ledger.verify(connection) == []
        return await ledger.levels(connection, ["A001", "A002", "A003"])


def drop_database(server: Postgres, name: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


async def test_older_database_is_mended_from_the_workflows(
    harness: Harness, stocked: str, database: str, postgres_server: Postgres
) -> None:
    name = database.rpartition("/")[2]
    async with worker(harness.client):
        unpaid = await place(harness, an_order("unpaid", paid_at=None))
        await unpaid.until(OrderStatus.AWAITING_PAYMENT)
        same = await place(harness, an_order("same", paid_at=None))
        await same.until(OrderStatus.AWAITING_PAYMENT)
    await copy_database(postgres_server, name, f"{name}_backup")
    async with worker(harness.client):
        await pay(unpaid)
        released = await place(harness, an_order("released"))
        shipped = await place(harness, an_order("shipped", line(1, "A002", 2)))
        done = await place(harness, an_order("done", line(1, "A003")))
        short = await place(harness, an_order("short", line(1, "A001", 500, "1")))
        cancelled = await place(harness, an_order("cancelled"))
        await cancelled.dispatched()
        assert (await cancelled.ask("cancel", Cancel(request_id="c", actor="test"))).accepted
        await cancelled.end()
        assert await done.deliver() is OrderStatus.COMPLETED
        await shipped.ship(*await shipped.dispatched())
        await shipped.fulfillment(channel_notified=True)
        await released.dispatched()
        await unpaid.dispatched()
        await short.until(OrderStatus.AWAITING_STOCK)
        before = await stock()
    await copy_database(postgres_server, f"{name}_backup", name)
    runs = (unpaid, released, shipped, done, short, cancelled)
    async with worker(harness.client):
        listed = await doctor(harness, mend=False)
        assert kinds(listed, *runs) == [("row_outdated", False)] + [("row_missing", False)] * 5
        found = await doctor(harness)
        assert kinds(found, shipped, done, short, cancelled) == [("row_missing", True)] * 4
        assert {found[each.order.order_id].reason for each in (unpaid, released)} == {"doctor.label"}
        assert same.order.order_id not in found
        assert await stock() == before
        for run in (unpaid, released, shipped, done, cancelled):
            await consistent(run)
        assert await doctor(harness) == {}
        assert await unpaid.deliver() is OrderStatus.COMPLETED
        assert await released.deliver() is OrderStatus.COMPLETED
        await shipped.track(await shipped.fulfillment())
        assert await shipped.end() is OrderStatus.COMPLETED
        assert (await harness.receive("SH", "A001", 600)) == [short.order.order_id]
        assert (await short.ask("cancel", Cancel(request_id="c", actor="test"))).accepted
        await short.end()
        await same.ask("cancel", Cancel(request_id="c", actor="test"))
        await same.end()
        await harness.balanced()
    booked = await bookings(stocked, *runs)
    assert booked == {run.order.channel_order_no: 1 for run in (unpaid, released, shipped, done)}
    drop_database(postgres_server, f"{name}_backup")


async def test_older_engine_is_mended_from_the_rows(
    stocked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HENGDAN_TASK_QUEUE", f"doctor-{uuid4()}")
    settings.cache_clear()
    state, backup = tmp_path / "engine", tmp_path / "backup"
    with start_temporal(state, search_attributes=SEARCH_ATTRIBUTES, ui=False, port=0) as engine:
        harness = await connect(engine, stocked)
        async with worker(harness.client):
            unpaid = await place(harness, an_order("unpaid", paid_at=None))
            withdrawn = await place(harness, an_order("withdrawn", paid_at=None))
            for each in (unpaid, withdrawn):
                await each.until(OrderStatus.AWAITING_PAYMENT)
    backup.mkdir()
    for file in state.glob("temporal.db*"):
        shutil.copy(file, backup)
    with start_temporal(state, search_attributes=SEARCH_ATTRIBUTES, ui=False, port=0) as engine:
        harness = await connect(engine, stocked)
        async with worker(harness.client):
            unpaid, withdrawn = (
                OrderRun(harness, each.order, harness.client.get_workflow_handle(each.order.order_id))
                for each in (unpaid, withdrawn)
            )
            await pay(unpaid)
            assert (await withdrawn.ask("cancel", Cancel(request_id="c", actor="test"))).accepted
            lost_payment = await place(harness, an_order("lost", paid_at=None))
            await lost_payment.until(OrderStatus.AWAITING_PAYMENT)
            released = await place(harness, an_order("released"))
            shipped = await place(harness, an_order("shipped", line(1, "A002", 2)))
            short = await place(harness, an_order("short", line(1, "A003", 500, "1")))
            done = await place(harness, an_order("done", line(1, "A003")))
            assert await done.deliver() is OrderStatus.COMPLETED
            await shipped.ship(*await shipped.dispatched())
            await shipped.fulfillment(channel_notified=True)
            await released.dispatched()
            await unpaid.dispatched()
            await short.until(OrderStatus.AWAITING_STOCK)
            for each in (unpaid, released):
                await each.fulfillment(request_status="submitted")
        async with transaction() as connection:  # the dispatcher saved a payment whose signal the engine then lost
            paid = lost_payment.order.model_copy(update={"paid_at": lost_payment.order.placed_at})
            await inbox.save_documents(connection, [paid])
    for file in state.glob("temporal.db*"):
        file.unlink()
    for file in backup.iterdir():
        shutil.copy(file, state)
    with start_temporal(state, search_attributes=SEARCH_ATTRIBUTES, ui=False, port=0) as engine:
        harness = await connect(engine, stocked)
        runs = [
            OrderRun(harness, each.order, harness.client.get_workflow_handle(each.order.order_id))
            for each in (unpaid, withdrawn, lost_payment, released, shipped, short)
        ]
        unpaid, withdrawn, lost_payment, released, shipped, short = runs
        async with worker(harness.client):
            found = await doctor(harness)
            assert kinds(found, unpaid, withdrawn) == [("workflow_outdated", False)] * 2
            assert kinds(found, lost_payment, released, shipped, short) == [("workflow_missing", True)] * 4
            assert done.order.order_id not in found
            for each in (unpaid, withdrawn):  # a person is asked; the workflow is left as it is
                assert await each.exceptions() == ["stores_differ"]
                assert (await each.state()).status is OrderStatus.AWAITING_PAYMENT
            found = await doctor(harness, replace=True, orders=(unpaid.order.order_id, withdrawn.order.order_id))
            assert kinds(found, unpaid, withdrawn) == [("workflow_outdated", True)] * 2
            for each in (unpaid, released, lost_payment):
                assert await each.deliver() is OrderStatus.COMPLETED
            await shipped.track(await shipped.fulfillment())
            assert await shipped.end() is OrderStatus.COMPLETED
            await short.until(OrderStatus.AWAITING_STOCK)
            await short.ask("cancel", Cancel(request_id="c", actor="test"))
            assert OrderStatus(await short.end()) is OrderStatus.CANCELLED
            assert await doctor(harness) == {}
            await harness.balanced()
            for each in (*runs, done):
                assert (await each.row()).status == ("cancelled" if each in (short, withdrawn) else "completed")
    booked = await bookings(stocked, *runs, done)
    assert booked == {run.order.channel_order_no: 1 for run in (unpaid, lost_payment, released, shipped, done)}


async def test_messages_after_a_restore_of_the_database_reach_their_workflows(
    harness: Harness, database: str, postgres_server: Postgres
) -> None:
    name = database.rpartition("/")[2]
    await copy_database(postgres_server, name, f"{name}_backup")
    async with worker(harness.client):
        unpaid = await place(harness, an_order("unpaid", paid_at=None))
        paid = await place(harness, an_order("paid"))
        await unpaid.until(OrderStatus.AWAITING_PAYMENT)
        await paid.dispatched()
    await copy_database(postgres_server, f"{name}_backup", name)
    await receive(unpaid)
    await receive(paid, cancelled_at=datetime.now(UTC).isoformat())
    with pytest.raises(EngineDown):  # the messages are read, but the engine starts later than the dispatcher
        await take(await connect_nowhere())
    await take(harness.client)  # no worker answers yet
    async with transaction() as connection:
        await connection.execute(update(InboxRow).values(started_at=datetime.now(UTC) - inbox.STALE))
        await inbox.reopen_lost(connection)
    async with worker(harness.client):
        await take(harness.client)
        assert await paid.end() is OrderStatus.CANCELLED
        await unpaid.dispatched()
        for each in (unpaid, paid):
            await consistent(each)
        assert await unpaid.deliver() is OrderStatus.COMPLETED
        assert await doctor(harness) == {}
        await harness.balanced()
    async with transaction() as connection:
        assert set(await connection.scalars(select(InboxRow.state))) == {"done"}
    drop_database(postgres_server, f"{name}_backup")


async def receive(run: OrderRun, **changes: Any) -> None:
    """Store a message of the order's shop: the order as it is, paid, and what changed."""
    order = run.order
    goods = [{"line_no": "1", "sku": "A001", "quantity": 1, "unit_price": "50"}]
    recipient = order.recipient.model_dump(
        mode="json", include={"name", "phone", "province", "city", "district", "street"}
    )
    body = sale(order.channel_order_no, lines=goods, freight="0", discount="0", recipient=recipient, **changes)
    raw = Raw.model_construct(body=json.dumps(body).encode(), headers={})
    receipt = Receipt(fact_key=body["event_id"], topic="order")
    async with transaction() as connection:
        await inbox.accept(connection, IntegrationType.CHANNEL, "own", order.shop, receipt, raw)


async def test_lost_messages_are_repeated(harness: Harness) -> None:
    async with worker(harness.client):
        paid = await place(harness, an_order("paid", paid_at=None))
        cancelled = await place(harness, an_order("cancelled", paid_at=None))
        delivered = await place(harness, an_order("delivered"))
        for each in (paid, cancelled):
            await each.until(OrderStatus.AWAITING_PAYMENT)
        (parcel,) = await delivered.dispatched()
        later = {"modified_at": paid.order.modified_at + timedelta(seconds=1)}
        at = await harness.now()
        shipped = WarehouseEvent(request_id="s", fulfillment_id=parcel.id, kind=WarehouseEventKind.SHIPPED, at=at)
        scan = Scan(waybill_no=parcel.waybill_no, scan_id="1", status=TrackingStatus.DELIVERED, code="", at=at)
        async with transaction() as connection:
            await inbox.save_documents(
                connection,
                [
                    paid.order.model_copy(update={**later, "paid_at": at}),
                    cancelled.order.model_copy(update={**later, "cancelled_at": at}),
                ],
            )
            raw = Raw.model_construct(body=shipped.model_dump_json().encode(), headers={})
            order = delivered.order.order_id
            await inbox.accept(
                connection, IntegrationType.WAREHOUSE, "sandbox", "SH", Receipt(fact_key="s"), raw, "", order
            )
            await connection.execute(update(InboxRow).values(state=InboxState.DONE))
            await tracking.save_scans(connection, {parcel.carrier: [scan]})
        runs = (paid, cancelled, delivered)
        assert kinds(await doctor(harness, mend=False), *runs) == [("message_lost", False)] * 3
        assert kinds(await doctor(harness), *runs) == [("message_lost", True)] * 3
        assert await delivered.end() is OrderStatus.COMPLETED
        assert await cancelled.end() is OrderStatus.CANCELLED
        assert await paid.deliver() is OrderStatus.COMPLETED
        assert await doctor(harness) == {}
        await harness.balanced()


async def test_what_cannot_be_mended_becomes_an_exception(harness: Harness) -> None:
    async with worker(harness.client):
        terminated = await place(harness, an_order("terminated", paid_at=None))
        recalled = await place(harness, an_order("recalled"))
        unknown = await place(harness, an_order("unknown", paid_at=None))
        unstocked = await place(harness, an_order("unstocked"))
        for run in (terminated, unknown):
            await run.until(OrderStatus.AWAITING_PAYMENT)
        for run in (recalled, unstocked):
            await run.dispatched()
        await terminated.handle.terminate()
        async with transaction() as connection:
            await connection.execute(
                update(FulfillmentRow)
                .where(FulfillmentRow.order_id == recalled.order.order_id)  # type: ignore[arg-type]
                .values(request_status="cancellation_accepted")
            )
            await connection.execute(
                update(OrderRow).where(OrderRow.id == recalled.order.order_id).values(revision=99)  # type: ignore[arg-type]
            )
            await connection.execute(
                ChannelOrderRow.__table__.delete().where(ChannelOrderRow.order_id == unknown.order.order_id)  # type: ignore[attr-defined]
            )
            await connection.execute(update(OrderRow).where(OrderRow.id == unknown.order.order_id).values(revision=99))  # type: ignore[arg-type]
        for _ in range(2):
            found = await doctor(harness)
            assert kinds(found, terminated, recalled, unknown) == [
                ("workflow_ended", False),
                ("workflow_outdated", False),
                ("workflow_outdated", False),
            ]
        async with transaction() as connection:
            query = select(ExceptionRow.order_id, func.count()).where(ExceptionRow.kind == "stores_differ")  # type: ignore[call-overload]
            opened = dict(map(tuple, await connection.execute(query.group_by(ExceptionRow.order_id))))
        assert opened == {run.order.order_id: 1 for run in (terminated, recalled, unknown)}


async def test_a_row_that_lost_a_change_of_terms_or_address_is_rebuilt(harness: Harness) -> None:
    async with worker(harness.client):
        runs = [await place(harness, an_order(f"terms{number}", paid_at=None)) for number in range(4)]
        for run in runs:
            await run.until(OrderStatus.AWAITING_PAYMENT)
        assert await doctor(harness) == {}
        elsewhere = runs[0].order.recipient.model_copy(update={"street": "别处1号"})
        goods = [{**runs[0].order.lines[0].model_dump(mode="json"), "quantity": 9}]
        for run, change in zip(
            runs, ({"total": 1}, {"lines": goods}, {"carrier": "yto"}, {"recipient": elsewhere}), strict=True
        ):
            values = seal_row(OrderRow, {"id": run.order.order_id, **change})
            async with transaction() as connection:
                await connection.execute(update(OrderRow).where(OrderRow.id == values.pop("id")).values(values))  # type: ignore[arg-type]
        assert kinds(await doctor(harness), *runs) == [("row_outdated", True)] * 4
        for run in runs:
            row = await run.row()
            assert (row.total, row.carrier, row.recipient.street) == (50, None, run.order.recipient.street)
            assert [each["quantity"] for each in row.lines] == [1]
        assert await doctor(harness) == {}


async def test_a_row_follows_the_workflow_that_an_operator_reset(harness: Harness) -> None:
    async with worker(harness.client):
        run = await place(harness, an_order("reset", paid_at=None))
        await run.until(OrderStatus.AWAITING_PAYMENT)
        for number in range(6):
            assert (await run.ask("note", Note(request_id=f"n{number}", actor="test", text="called"))).accepted
        before = await run.row()
        history = await run.handle.fetch_history()
        (first, *_) = [
            each.event_id for each in history.events if each.HasField("workflow_task_completed_event_attributes")
        ]
        await harness.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=harness.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=run.order.order_id, run_id=history.run_id),
                reason="test",
                request_id=str(uuid4()),
                workflow_task_finish_event_id=first,
                reset_reapply_exclude_types=[*map(ResetReapplyExcludeType.Value, EXCLUDED)],
            )
        )
        run = OrderRun(harness, run.order, harness.client.get_workflow_handle(run.order.order_id))
        state = await run.until(OrderStatus.AWAITING_PAYMENT)
        assert state.revision < before.revision
        await doctor(harness)
        await consistent(run)
        await pay(run)
        await run.dispatched()
        await consistent(run)
        assert await run.deliver() is OrderStatus.COMPLETED
        await consistent(run)
        assert await doctor(harness) == {}


async def test_an_order_that_the_engine_refuses_to_start_again_is_not_called_mended(harness: Harness) -> None:
    async with worker(harness.client):
        run = await place(harness, an_order("twice", paid_at=None))
        await run.until(OrderStatus.AWAITING_PAYMENT)
        assert await rebuilding.start_from_row(harness.client, run.order.order_id) == "doctor.already_started"


async def test_orders_at_work_are_not_differences(harness: Harness) -> None:
    async with worker(harness.client):
        runs = [await place(harness, an_order(f"{number}")) for number in range(12)]
        for _ in range(3):
            assert await doctor(harness) == {}
        for run in runs:
            assert await run.deliver() is OrderStatus.COMPLETED
        assert await doctor(harness, thorough=False) == {}
