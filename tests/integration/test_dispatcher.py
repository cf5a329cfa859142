"""The dispatcher: order of messages, signals for later changes, and recovery from crashes."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select, update
from temporalio.client import Client
from temporalio.service import RPCError

from activities.aftersales.reissue import reissue
from activities.fulfillment.tracking import PULLED, SCANS
from activities.intake import inbox
from activities.kit.database import transaction
from models.exceptions import ExceptionRow
from models.fulfillment import FulfillmentRow, Scan, ScanRow
from models.i18n import message
from models.intake import InboxRow, InboxState, IntegrationType, Raw, Receipt
from models.order import NORMAL, URGENT, OrderRow
from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import settings
from models.vault import seal_row
from starter import dispatcher
from starter.dispatcher import EngineDown, take
from tests.api import PHONE, SECRET, open_account, rows, runs, sale, until
from tests.unit.orders import RECIPIENT
from workers.client import FAIL_FAST, connect, data_converter
from workers.embedded import Postgres, start_temporal

pytestmark = pytest.mark.usefixtures("temporal")

PENDING, STARTED, DONE, FAILED = InboxState.PENDING, InboxState.STARTED, InboxState.DONE, InboxState.FAILED


@pytest.fixture(autouse=True)
async def shop(temporal: Client) -> None:
    await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)


def window(orders: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HENGDAN_INTAKE_WINDOW", str(orders))
    settings.cache_clear()


async def store(payload: dict[str, Any], shop: str = "web", priority: int = NORMAL) -> str:
    """Store a message as the webhook does; return the order's id."""
    receipt = Receipt(fact_key=payload["event_id"], topic="order", priority=priority)
    raw = Raw.model_construct(body=json.dumps(payload).encode(), headers={})
    async with transaction() as connection:
        await inbox.accept(connection, IntegrationType.CHANNEL, "own", shop, receipt, raw)
    return f"order:own:{shop}:{payload['order_no']}"


async def store_other(
    integration: IntegrationType, source: str, account: str, body: bytes, order_id: str | None = None
) -> None:
    raw = Raw.model_construct(body=body, headers={})
    async with transaction() as connection:
        await inbox.accept(connection, integration, source, account, Receipt(fact_key=str(hash(body))), raw)
        await connection.execute(update(InboxRow).where(InboxRow.integration == integration).values(order_id=order_id))  # type: ignore[arg-type]


async def started(orders: int = 0) -> Counter[str]:
    """Return the number of started orders by shop; expect ``orders`` in total."""
    found = [row.account for row in await rows() if row.started_at is not None]
    assert len(found) == orders
    return Counter(found)


async def settle(shop: str) -> None:
    """Settle one started order of the shop."""
    entering = await rows(state=STARTED, account=shop)
    async with transaction() as connection:
        await connection.execute(inbox.SETTLE, {"settled": [entering[0].order_id]})


async def signals(client: Client, order_id: str) -> list[tuple[str, Any]]:
    """Return the signals that an order received, in order."""
    received = []
    async for event in client.get_workflow_handle(order_id).fetch_history_events():
        if event.HasField("workflow_execution_signaled_event_attributes"):
            signal = event.workflow_execution_signaled_event_attributes
            (request,) = await client.data_converter.decode(list(signal.input.payloads))
            received.append((signal.signal_name, request))
    return received


async def workflow_exists(client: Client, order_id: str) -> bool:
    try:
        await client.get_workflow_handle(order_id).describe()
    except RPCError:
        return False
    return True


async def exception_kinds() -> list[str]:
    async with transaction() as connection:
        return list(await connection.scalars(select(ExceptionRow.kind)))


async def test_started_order_has_search_attributes_and_priority(temporal: Client) -> None:
    order_id = await store(sale(urgent=True), priority=URGENT)
    await take(temporal)
    described = await temporal.get_workflow_handle(order_id).describe()
    attributes = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    promised = datetime(2026, 11, 23, 10, tzinfo=UTC)
    expected = {"Channel": "own", "Shop": "web", "OrderStatus": "received", "OrderPriority": 1, "PromisedBy": promised}
    assert attributes == expected
    assert set(attributes) <= set(SEARCH_ATTRIBUTES)
    priority = described.raw_description.workflow_execution_info.priority
    assert (priority.priority_key, priority.fairness_key) == (URGENT, "own:web")
    summary = await described.static_summary() or ""
    assert "168.60" in summary
    assert PHONE not in summary
    assert "李雷" not in summary


async def test_urgent_orders_start_first_then_shops_take_turns(
    temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    window(5, monkeypatch)
    await open_account(IntegrationType.CHANNEL, "own", "small", secret=SECRET)
    for _ in range(6):
        await store(sale())
    for _ in range(3):
        await store(sale(), "small")
    urgent = await store(sale(), priority=URGENT)
    await take(temporal)
    assert await started(5) == {"web": 3, "small": 2}
    assert [row.order_id for row in await rows(state=STARTED, priority=URGENT)] == [urgent]


async def test_backlog_of_one_shop_does_not_block_another(temporal: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    window(4, monkeypatch)
    await open_account(IntegrationType.CHANNEL, "own", "small", secret=SECRET)
    for _ in range(12):
        await store(sale())
    await take(temporal)
    assert await started(4) == {"web": 4}
    for _ in range(3):
        await store(sale(), "small")
    for small in (1, 2):
        await settle("web")
        await take(temporal)
        assert await started(4 + small) == {"web": 4, "small": small}
    await settle("web")
    await take(temporal)
    assert await started(7) == {"web": 5, "small": 2}


async def test_intake_window_limits_started_orders(temporal: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    window(3, monkeypatch)
    for _ in range(5):
        await store(sale())
    await take(temporal)
    await take(temporal)
    await started(3)
    async with transaction() as connection:  # stuck for a minute: no longer a matter of pace
        stuck = datetime.now(UTC) - timedelta(minutes=1)
        await connection.execute(update(InboxRow).where(InboxRow.state == STARTED).values(started_at=stuck))  # type: ignore[arg-type]
    await take(temporal)
    await started(5)


LATER: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, dict[str, Any]]]]] = {
    "paid": (
        {"paid_at": None},
        {"paid_at": "2026-11-20T13:00:00Z"},
        [("payment", {"paid_at": "2026-11-20T13:00:00Z"})],
    ),
    "moved": (
        {},
        {"recipient": {"name": "李雷", "phone": PHONE, "province": "广东省", "city": "深圳市", "street": "新路2号"}},
        [("modify", {"lines": []})],
    ),
    "fewer": (
        {},
        {"lines": [{"line_no": "a", "sku": "A001", "quantity": 1, "unit_price": "59.00"}], "total": "62.00"},
        [("modify", {"recipient": None})],
    ),
    "cancelled": (
        {},
        {"cancelled_at": "2026-11-20T13:00:00Z", "cancel_reason": "changed my mind"},
        [("cancel", {"reason": "changed my mind"})],
    ),
    "nothing": ({}, {}, []),
}


@pytest.mark.parametrize("change", LATER)
async def test_later_change_is_signalled_once(temporal: Client, change: str) -> None:
    first, later, expected = LATER[change]
    order_id = await store(created := sale(**first))
    await take(temporal)
    fact = sale(**{**created, **later, "event_id": f"later-{change}"} | {"updated_at": sale()["updated_at"]})
    await store(fact)
    await store({**fact, "event_id": "the same again"})
    await take(temporal)
    received = await signals(temporal, order_id)
    assert [name for name, _ in received] == [name for name, _ in expected]
    for (_, request), (_, fields) in zip(received, expected, strict=True):
        assert request.items() >= fields.items()
        assert f"later-{change}" in request["request_id"]
        assert request["actor"] == "channel:own"
    assert [row.state for row in await rows()] == [STARTED, DONE, DONE]


async def test_older_version_changes_nothing(temporal: Client) -> None:
    older = sale(paid_at=None)
    newer = {**sale(older["order_no"]), "urgent": False}
    order_id = await store(newer)
    await take(temporal)
    await store({**older, "recipient": {**older["recipient"], "street": "旧路9号"}})
    await take(temporal)
    await store({**newer, "event_id": "again", "updated_at": sale()["updated_at"]})
    await take(temporal)
    assert await signals(temporal, order_id) == []
    assert [row.state for row in await rows()] == [STARTED, DONE, DONE]


async def test_pending_messages_of_one_order_are_delivered_in_order(temporal: Client) -> None:
    created = sale(paid_at=None)
    paid = sale(created["order_no"])
    cancelled = sale(created["order_no"], cancelled_at="2026-11-20T13:00:00Z")
    for payload in (cancelled, paid, created):
        order_id = await store(payload)
    await take(temporal)
    assert [name for name, _ in await signals(temporal, order_id)] == ["payment", "cancel"]
    assert Counter(row.state for row in await rows()) == {STARTED: 1, DONE: 2}


async def test_each_added_line_is_signalled_and_opens_an_exception_once_the_order_has_ended(temporal: Client) -> None:
    created = sale()
    order_id = await store(created)
    await take(temporal)
    lines = created["lines"]
    for number, sku in enumerate(("C001", "D001", "E001")):
        lines = [*lines, {"line_no": sku, "sku": sku, "quantity": 1, "unit_price": "0"}]
        if number == 1:
            await temporal.get_workflow_handle(order_id).terminate()
            await admitted(order_id)
        await store({**sale(created["order_no"]), "lines": lines})
        await take(temporal)
    assert [name for name, _ in await signals(temporal, order_id)] == ["modify"]
    assert sorted(await exception_kinds()) == ["channel_modify"] * 2 + ["lines_added"] * 2


async def test_order_cancelled_before_receipt_is_not_started(temporal: Client) -> None:
    created = sale()
    order_id = await store(sale(created["order_no"], cancelled_at="2026-11-20T13:00:00Z"))
    await take(temporal)
    await store(created)
    await take(temporal)
    assert not await workflow_exists(temporal, order_id)
    assert {(row.state, row.reason) for row in await rows()} == {(DONE, "inbox.closed_before")}


async def test_message_for_an_ended_order_is_recorded(temporal: Client) -> None:
    created = sale(paid_at=None)
    order_id = await store(created)
    await take(temporal)
    await temporal.get_workflow_handle(order_id).terminate()
    await admitted(order_id)
    await store(sale(created["order_no"]))
    await take(temporal)
    row = (await rows())[-1]
    assert (row.state, row.reason) == (DONE, message("inbox.order_ended", signal="payment"))
    assert await exception_kinds() == ["paid_after_end"]


async def test_crash_after_the_start_does_not_start_twice(temporal: Client) -> None:
    order_id = await store(sale())
    await take(temporal)
    async with transaction() as connection:
        await connection.execute(update(InboxRow).values(state=PENDING, started_at=None))
    await take(temporal)
    assert await signals(temporal, order_id) == []
    assert [row.state for row in await rows()] == [DONE]


async def test_crash_before_the_start_loses_nothing(temporal: Client) -> None:
    nowhere = await connect_nowhere()
    order_id = await store(sale())
    with pytest.raises(EngineDown):
        await take(nowhere)
    async with transaction() as connection:
        long_ago = datetime.now(UTC) - timedelta(minutes=1)
        lost = {"state": STARTED, "started_at": long_ago, "order_id": order_id}
        await connection.execute(update(InboxRow).values(lost))
    assert not await workflow_exists(temporal, order_id)
    dispatching = asyncio.create_task(dispatcher.run(temporal))
    try:
        await until(lambda: workflow_exists(temporal, order_id))
    finally:
        await stop(dispatching)


async def connect_nowhere() -> Client:
    """Return a client of an engine that is down."""
    return await Client.connect("127.0.0.1:1", lazy=True, retry_config=FAIL_FAST, data_converter=data_converter())


async def stop(*dispatching: "asyncio.Task[None]") -> None:
    for each in dispatching:
        each.cancel()
        with suppress(asyncio.CancelledError):
            await each


async def test_failing_adapter_or_shop_does_not_stop_others(temporal: Client) -> None:
    await open_account(IntegrationType.CHANNEL, "nosuch", "x")
    await open_account(IntegrationType.CHANNEL, "own", "wrong", secret=SECRET, settings={"policy": {"grace": "soon"}})
    async with transaction() as connection:
        raw = Raw.model_construct(body=b"{}", headers={})
        await inbox.accept(connection, IntegrationType.CHANNEL, "nosuch", "x", Receipt(fact_key="1"), raw)
        await inbox.accept(connection, IntegrationType.CHANNEL, "own", "gone", Receipt(fact_key="1"), raw)
    await store(sale(), "wrong")
    good = await store(sale())
    await take(temporal)
    assert await runs(temporal, good) == "RUNNING"
    states = {row.account: (row.state, row.field) for row in await rows()}
    assert states == {"x": (FAILED, ""), "gone": (FAILED, ""), "wrong": (FAILED, "grace"), "web": (STARTED, "")}
    assert all(row.reason for row in await rows(state=FAILED))


async def test_messages_wait_while_the_engine_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_temporal(tmp_path, search_attributes=SEARCH_ATTRIBUTES, ui=False, port=0) as engine:
        monkeypatch.setenv("TEMPORAL_ADDRESS", engine.address)
        client = await connect(lazy=True, retry=FAIL_FAST)
        before = await store(created := sale(paid_at=None))
        dispatching = asyncio.create_task(dispatcher.run(client))
        await until(lambda: rows(state=STARTED))
        engine.stop()
        later = [await store(sale()) for _ in range(3)]
        await store(sale(created["order_no"]))
        dispatcher.wake()
        await asyncio.sleep(1)
        assert len(await rows(state=PENDING)) + len(await rows(state=STARTED)) == 5
    with start_temporal(tmp_path, search_attributes=SEARCH_ATTRIBUTES, ui=False, port=0) as engine:
        monkeypatch.setenv("TEMPORAL_ADDRESS", engine.address)

        async def drained() -> bool:
            return not await rows(state=PENDING)

        try:
            await until(drained)
            again = await connect()
            assert [name for name, _ in await signals(again, before)] == ["payment"]
            assert [await runs(again, each) for each in later] == ["RUNNING"] * 3
        finally:
            await stop(dispatching)


async def test_one_process_dispatches_and_another_takes_over(
    temporal: Client, database: str, postgres_server: Postgres
) -> None:
    name = database.rpartition("/")[2]
    query = (
        "SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database "
        "WHERE locktype = 'advisory' AND granted AND datname = %s"
    )
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:

        async def holders() -> Sequence[int]:
            return [pid for (pid,) in admin.execute(query, [name])]

        one, other = (asyncio.create_task(dispatcher.run(temporal)) for _ in range(2))
        try:
            await until(holders)
            await asyncio.sleep(0.2)
            assert len(await holders()) == 1
            await stop(one)
            (holder,) = await until(holders)
            await store(sale())
            await until(lambda: rows(state=STARTED))
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            await store_with_retries()
            await until(all_dispatched)
            assert holder not in await holders()
        finally:
            await stop(one, other)

        async def nobody() -> bool:
            return not await holders()

        assert await until(nobody)


async def all_dispatched() -> bool:
    """Whether both messages were dispatched: one whose outcome the cut lost is done when it is read again."""
    return len(await rows()) >= 2 and not await rows(state=PENDING)


async def store_with_retries() -> None:
    """Store a sale; the pool may still hold dead connections."""
    for _ in range(20):
        with suppress(Exception):
            await store(sale())
            return
    raise AssertionError("no database")


async def admitted(order_id: str) -> None:
    """Insert the order's row, as its workflow does first."""
    now = datetime.now(UTC)
    _, channel, shop, number = order_id.split(":")
    async with transaction() as connection:
        await connection.execute(
            insert(OrderRow).values(
                id=order_id,
                channel=channel,
                shop=shop,
                channel_order_no=number,
                status="allocated",
                holds=[],
                lines=[],
                origin={},
                custom={},
                currency="CNY",
                total=1,
                placed_at=now,
                updated_at=now,
            )
        )


async def add_fulfillment(order_id: str, waybill_no: str = "SF1") -> None:
    """Add a fulfillment order at warehouse SH."""
    await admitted(order_id)
    now = datetime.now(UTC)
    async with transaction() as connection:
        await connection.execute(
            insert(FulfillmentRow).values(
                id=f"{order_id}:1",
                order_id=order_id,
                warehouse="SH",
                lines=[],
                status="open",
                request_status="submitted",
                carrier="sf",
                waybill_no=waybill_no,
                updated_at=now,
            )
        )


async def test_scans_are_saved_and_milestones_signalled(temporal: Client) -> None:
    await open_account(IntegrationType.CARRIER, "sf", "default", push_secret="s3cret")
    order_id = await store(sale())
    await take(temporal)
    await add_fulfillment(order_id)
    routes = [
        {
            "mailno": "SF1",
            "acceptTime": f"2026-11-20 1{hour}:00:00",
            "opCode": code,
            "id": str(hour),
            "acceptAddress": "上海",
        }
        for hour, code in enumerate(("50", "30", "31", "44", "80"))
    ]
    for body in (routes[3:], routes[:4], [{**routes[0], "mailno": "SF9"}]):
        await store_other(
            IntegrationType.CARRIER, "sf", "default", json.dumps({"Body": {"WaybillRoute": body}}).encode()
        )
    await take(temporal)
    async with transaction() as connection:
        kept = Counter(await connection.scalars(select(ScanRow.waybill_no)))
    assert kept == {"SF1": 5, "SF9": 1}
    received = await signals(temporal, order_id)
    assert {(name, request["status"]) for name, request in received} == {("tracking", "delivered")}
    assert {row.reason for row in await rows(integration=IntegrationType.CARRIER, state=DONE)} == {
        "",
        "inbox.no_waybill",
    }


async def test_scan_with_an_unstorable_character_is_stored_without_it(temporal: Client) -> None:
    for number in ("SF1", "SF\0", "SF2"):
        scan = Scan(waybill_no=number, scan_id="1", status=None, code="30", at=datetime.now(UTC))
        raw = Raw.model_construct(body=SCANS.dump_json([scan]))
        async with transaction() as connection:
            receipt = Receipt(fact_key=number.strip("\0"), topic=PULLED)
            await inbox.accept(connection, IntegrationType.CARRIER, "sf", "default", receipt, raw)
    await take(temporal)
    async with transaction() as connection:
        assert sorted(await connection.scalars(select(ScanRow.waybill_no))) == ["SF1", "SF2", "SF\ufffd"]


async def test_reissue_starts_once_as_its_own_order(temporal: Client) -> None:
    order_id = await store(sale())
    await take(temporal)
    await add_fulfillment(order_id)
    goods = [{"line_no": "1", "sku": "A001", "quantity": 2}]
    origin = {"kind": "own_site", "platform": "own", "shop": "web", "intake": "webhook"}
    async with transaction() as connection:
        await connection.execute(update(FulfillmentRow).values(lines=goods))
        values = seal_row(OrderRow, {"id": order_id, "recipient": RECIPIENT, "origin": origin})
        await connection.execute(update(OrderRow).values(values))
        again = {await reissue(connection, f"{order_id}:1", "mei") for _ in range(2)}
    await take(temporal)
    assert again == {f"{order_id}-1R"}
    assert await workflow_exists(temporal, f"{order_id}-1R")


async def test_warehouse_signals_only_shipping_and_rejection(temporal: Client) -> None:
    order_id = await store(sale())
    await take(temporal)
    await add_fulfillment(order_id)
    event = {"request_id": "1", "actor": "sh", "fulfillment_id": f"{order_id}:1", "at": "2026-11-20T10:00:00Z"}

    async def report(kind: str, warehouse: str = "SH") -> Any:
        body = json.dumps({**event, "kind": kind, "request_id": f"{kind}{warehouse}"}).encode()
        await store_other(IntegrationType.WAREHOUSE, "wms", warehouse, body)
        await take(temporal)
        async with transaction() as connection:
            return (await connection.execute(select(FulfillmentRow.request_status, FulfillmentRow.status))).one()  # type: ignore[call-overload]

    assert await report("accepted") == ("accepted", "open")
    assert await report("picked") == ("accepted", "in_progress")
    assert await signals(temporal, order_id) == []
    await report("shipped", "GZ")
    assert await signals(temporal, order_id) == []
    assert [row.field for row in await rows(state=FAILED)] == ["fulfillment_id"]
    await report("shipped")
    ((name, request),) = await signals(temporal, order_id)
    assert (name, request["kind"]) == ("warehouse_event", "shipped")


async def test_arrived_stock_is_signalled_to_the_waiting_order(temporal: Client) -> None:
    order_id = await store(sale())
    await take(temporal)
    await store_other(IntegrationType.INTERNAL, "stock", "", b"{}", order_id)
    await take(temporal)
    assert [name for name, _ in await signals(temporal, order_id)] == ["stock_arrived"]
