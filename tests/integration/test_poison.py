"""Poison: a message that cannot be stored, in whatever way, fails alone and visibly, and delays no other."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import ARRAY, String, cast, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from temporalio.client import Client

from activities.fulfillment import tracking
from activities.intake import failed_messages, inbox
from activities.kit.database import is_passing, is_permanent, transaction
from models.exceptions import ExceptionRow
from models.fulfillment import Scan
from models.intake import InboxState, IntegrationType, Raw, Receipt
from models.order import NORMAL, OrderRow
from models.settings import settings
from starter import dispatcher
from starter.dispatcher import EngineDown, take
from tests.api import SECRET, open_account, rows, sale, until
from workers.main import worker

pytestmark = pytest.mark.usefixtures("temporal")

PENDING, STARTED, DONE, FAILED = InboxState.PENDING, InboxState.STARTED, InboxState.DONE, InboxState.FAILED
ODD = st.text(st.characters(codec=None, exclude_categories=()), max_size=40).map(lambda text: f"\0{text}\ud800")


@pytest.fixture(autouse=True)
async def shop(temporal: Client) -> None:
    await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)


async def store(body: bytes, key: str, integration: str = "channel", source: str = "own", account: str = "web") -> None:
    async with transaction() as connection:
        receipt = Receipt(fact_key=key, topic="order", priority=NORMAL)
        raw = Raw.model_construct(body=body, headers={})
        await inbox.accept(connection, IntegrationType(integration), source, account, receipt, raw)


async def store_order(payload: dict[str, Any]) -> str:
    await store(json.dumps(payload).encode(), payload["event_id"])
    return f"order:own:web:{payload['order_no']}"


async def open_kinds() -> set[str]:
    async with transaction() as connection:
        return set(await connection.scalars(select(ExceptionRow.kind).where(ExceptionRow.closed_at.is_(None))))  # type: ignore[union-attr]


@pytest.mark.parametrize("field", ["order_no", "unknown", "note"])
@pytest.mark.parametrize("odd", ["\\u00\\u000000", "\\\\u00\\u000000", "\\u0000", "\\ud800", "\\\\u0000"])
async def test_any_escape_in_an_order_leaves_other_orders_alone(temporal: Client, field: str, odd: str) -> None:
    payload = sale()
    marked = json.dumps({**payload, field: f"{payload['order_no']}-odd-"})
    await store(marked.replace("-odd-", f"-{odd}").encode(), "odd")
    other = await store_order(sale())
    await take(temporal)
    states = {row.fact_key: row.state for row in await rows()}
    assert states.pop("odd") in {STARTED, FAILED}
    assert set(states.values()) == {STARTED}
    assert (await temporal.get_workflow_handle(other).describe()).id == other


@examples(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=ODD, key=ODD)
async def test_any_text_is_stored(database: str, value: str, key: str) -> None:
    query = select(cast(value, String), cast({key: [value]}, JSONB), cast([value], ARRAY(String)))
    async with transaction() as connection:
        stored = (await connection.execute(query)).one()
    assert "\0" not in stored[0]
    assert stored[2] == [stored[0]] == next(iter(stored[1].values()))


async def test_message_that_fails_the_batch_fails_alone(temporal: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step of the round fails, in whichever way, and however many messages are poisoned."""
    save = inbox.save_documents

    async def refuse(connection: Any, orders: Any) -> None:
        if any("POISON" in order.channel_order_no for order in orders):
            await connection.execute(text("SELECT repeat('1', 400)::numeric(3)"))
        await save(connection, orders)

    monkeypatch.setattr(inbox, "save_documents", refuse)
    good = [await store_order(sale()) for _ in range(5)]
    for number in range(3):
        await store_order({**sale(), "order_no": f"POISON-{number}"})
    good += [await store_order(sale()) for _ in range(5)]
    await take(temporal)
    failed = await rows(state=FAILED)
    assert len(failed) == 3
    assert all(row.reason.startswith("error.not_storable") for row in failed)
    assert {row.order_id for row in await rows(state=STARTED)} == set(good)
    assert "intake_failed" in await open_kinds()


@pytest.mark.parametrize("step", ["database", "engine"])
async def test_message_that_keeps_failing_as_if_it_could_pass_waits_alone_and_fails_in_the_end(
    temporal: Client, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    save, start = inbox.save_documents, dispatcher.start_order

    async def refuse(connection: Any, orders: Any) -> None:
        if step == "database" and any("POISON" in order.channel_order_no for order in orders):
            await connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))
        await save(connection, orders)

    async def refuse_start(client: Client, order: Any) -> Any:
        if step == "engine" and "POISON" in order.channel_order_no:
            raise EngineDown("blob size exceeds limit")
        return await start(client, order)

    monkeypatch.setattr(inbox, "save_documents", refuse)
    monkeypatch.setattr(dispatcher, "start_order", refuse_start)
    poison = await store_order({**sale(), "order_no": "POISON"})
    for number in range(1, 4):
        good = await store_order(sale())
        await take(temporal)
        (waiting,) = await rows(state=PENDING)
        assert (waiting.tries, bool(waiting.reason)) == (number, True)
        assert good in {row.order_id for row in await rows(state=STARTED)}
    with pytest.raises(EngineDown):
        await take(temporal)
    async with transaction() as connection:
        await inbox.fail_stuck(connection, set(IntegrationType))
        await connection.execute(text("UPDATE inbox SET tries = 20 WHERE tries > 0"))
        await inbox.fail_stuck(connection, set(IntegrationType))
    assert len(await rows(state=PENDING)) == 1  # an hour has not passed
    async with transaction() as connection:
        await connection.execute(text("UPDATE inbox SET tried_since = now() - interval '2 hours' WHERE tries > 0"))
        await inbox.fail_stuck(connection, {IntegrationType.CARRIER})
    assert len(await rows(state=PENDING)) == 1  # no other message passes
    dispatching = asyncio.create_task(dispatcher.run(temporal))
    try:
        await until(lambda: rows(state=FAILED))
    finally:
        dispatching.cancel()
        await asyncio.gather(dispatching, return_exceptions=True)
    (failed,) = await rows(state=FAILED)
    assert failed.reason.startswith("inbox.tried?times=2")
    assert "intake_failed" in await open_kinds()
    async with transaction() as connection:
        assert await failed_messages.retry(connection, failed_messages.MessageFilter()) == 1
    (again,) = await rows(state=PENDING)
    assert (again.tries, again.tried_since) == (0, None)
    monkeypatch.undo()
    await take(temporal)
    assert (await temporal.get_workflow_handle(poison).describe()).id == poison


async def test_permanent_error_is_told_from_a_passing_one(database: str) -> None:
    permanent = ["SELECT 'x'::int", "SELECT 1/0", "SELECT 99999999999::int", "INSERT INTO inbox (source) VALUES (NULL)"]
    for statement in permanent:
        with pytest.raises(DBAPIError) as caught:
            async with transaction() as connection:
                await connection.execute(text(statement))
        assert is_permanent(caught.value)
        assert not is_passing(caught.value)
    with pytest.raises(DBAPIError) as caught:
        async with transaction() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert is_passing(caught.value)
    assert not is_permanent(caught.value)


async def test_order_that_cannot_be_admitted_waits_in_failed_intake(
    temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not retried without end, and a person's retry starts it again."""
    async with transaction() as connection:
        await connection.execute(text("ALTER TABLE orders ADD CONSTRAINT odd CHECK (channel_order_no <> 'REFUSED')"))
    payload = {**sale(), "order_no": "REFUSED"}
    order_id = await store_order(payload)
    async with worker(temporal):
        await take(temporal)

        async def failed() -> bool:
            return [row.state for row in await rows()] == [FAILED]

        await until(failed)
        assert "intake_failed" in await open_kinds()
        async with transaction() as connection:
            await connection.execute(text("ALTER TABLE orders DROP CONSTRAINT odd"))
            await inbox.requeue(connection, inbox._inbox.c.state == FAILED)
        await take(temporal)

        async def admitted() -> bool:
            async with transaction() as connection:
                return await connection.scalar(select(OrderRow.id).where(OrderRow.id == order_id)) is not None  # type: ignore[arg-type]

        await until(admitted)


async def test_stuck_orders_of_one_shop_leave_room_for_another(
    temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HENGDAN_INTAKE_WINDOW", "8")
    settings.cache_clear()
    await open_account(IntegrationType.CHANNEL, "own", "small", secret=SECRET)
    for _ in range(12):
        await store_order(sale())
    await take(temporal)
    await take(temporal)
    assert len(await rows(state=STARTED)) == 8
    payload = sale()
    await store(json.dumps(payload).encode(), payload["event_id"], account="small")
    await take(temporal)
    assert [row.state for row in await rows(account="small")] == [STARTED]


async def test_integration_that_stands_still_is_named(database: str) -> None:
    await store(b"{}", "any", integration="carrier", source="sf", account="main")
    async with transaction() as connection:
        waiting = await inbox.waiting_integrations(connection)
        assert waiting == {IntegrationType.CARRIER}
        await inbox.sync_stalled(connection, waiting)
    assert await dispatcher.stalled() == ["carrier"]
    assert await open_kinds() == {"intake_stalled"}
    async with transaction() as connection:
        await inbox.sync_stalled(connection, set())
    assert await dispatcher.stalled() == []


async def test_dispatcher_that_fails_every_round_is_named(temporal: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor restarts it each time; the time that the messages have waited goes on."""

    async def fail(*_: object) -> int:
        raise OSError

    monkeypatch.setattr(dispatcher, "take", fail)
    monkeypatch.setattr(dispatcher, "_STALLED_SECONDS", 0.3)
    await store_order(sale())
    dispatching = asyncio.create_task(dispatcher.run(temporal))
    try:

        async def named() -> bool:
            return await dispatcher.stalled() == ["channel"]

        await until(named)
    finally:
        dispatching.cancel()
        await asyncio.gather(dispatching, return_exceptions=True)
    assert "intake_stalled" in await open_kinds()


@pytest.mark.parametrize("scan_id", ["x" * 6000, "y" * 201])
async def test_long_scan_id_is_stored(database: str, scan_id: str) -> None:
    scan = Scan(waybill_no="SF1", scan_id=scan_id, status=None, code=scan_id, at=datetime.now(UTC))
    other = Scan.model_validate({**scan.model_dump(), "scan_id": f"{scan_id}z"})
    async with transaction() as connection:
        await tracking.save_scans(connection, {"sf": [scan, other]})
    assert scan.scan_id != other.scan_id
