"""Pulls of orders into the inbox: cursor, overlap, repeats and schedules."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update
from temporalio.client import Client, ScheduleOverlapPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker

from activities.accounts import accounts
from activities.channels import channel
from activities.intake.polling import FIRST_WINDOW, OVERLAP, PollReport, pull_orders
from activities.kit import http
from activities.kit.database import transaction
from models.intake import AccountRow, InboxRow, InboxState, IntegrationType, Secrets
from models.order import URGENT
from models.settings import settings
from models.vault import seal_row
from starter.sandbox.app import create_app
from tests.api import runs, until
from tests.serving import served
from tests.shops import DAY, NOW, World
from workers.client import data_converter
from workers.embedded import Temporal
from workers.main import worker
from workers.schedules import schedule_shops
from workflows.polling import ChannelPollWorkflow

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


async def save_account(world: World, **chosen: Any) -> World:
    """Save the shop's account in the database; return the shop."""
    await http.close()
    account = world.account
    row = {
        "integration": account.integration,
        "source": account.source,
        "account": account.account,
        "base_url": account.base_url,
    }
    async with transaction() as connection:
        values = {**row, "secrets": Secrets(values=account.secrets), "settings": {**account.settings, **chosen}}
        await connection.execute(insert(AccountRow).values(seal_row(AccountRow, values)))
    return world


async def pull(world: World) -> PollReport:
    return await ActivityEnvironment().run(pull_orders, world.account.source, world.account.account)


async def inbox() -> list[Any]:
    async with transaction() as connection:
        return list((await connection.execute(select(InboxRow).order_by("id"))).all())


async def cursor() -> datetime | None:
    async with transaction() as connection:
        found: datetime | None = (await connection.execute(select(AccountRow.cursor))).scalar_one()
    return found


@pytest.mark.parametrize("source", ["taobao", "shopify", "amazon"])
async def test_pulled_orders_are_stored_once(sandbox: str, source: str) -> None:
    world = await save_account(World(sandbox, source, f"{source}-inbox"))
    ordinary, urgent = world.sell(("A001", 2)), world.sell(urgent=True)
    before = datetime.now(UTC)
    first = await pull(world)
    again = await pull(world)
    assert (first.seen, first.new, again.new) == (2, 2, 0)
    assert first.since == first.until - FIRST_WINDOW
    assert again.since == first.until - OVERLAP
    assert before <= first.until <= (await cursor() or before) == again.until
    rows = await inbox()
    orders = {}
    for row in rows:
        assert (row.integration, row.source, row.account, row.state) == (
            "channel",
            source,
            f"{source}-inbox",
            "pending",
        )
        order = channel(world.account).parse(row.raw.body, row.topic)
        assert order is not None
        orders[order.channel_order_no] = (row.priority, order.origin.intake)
    assert orders == {ordinary: (3, "poll"), urgent: (URGENT, "poll")}


async def test_order_listed_late_is_pulled(sandbox: str) -> None:
    world = await save_account(World(sandbox, "woocommerce", "wc-late"), overlap_seconds=600)
    assert (await pull(world)).seen == 0
    late = world.sell(created=datetime.now(UTC) - timedelta(minutes=8))
    report = await pull(world)
    assert (report.seen, report.new) == (1, 1)
    (row,) = await inbox()
    assert late.encode() in row.raw.body
    assert (await pull(world)).new == 0


async def test_late_pull_continues_from_the_cursor(sandbox: str) -> None:
    world = await save_account(World(sandbox, "taobao", "tb-late"))
    began = datetime.now(UTC)
    async with transaction() as connection:
        await connection.execute(update(AccountRow).values(cursor=began - 2 * DAY))
    world.sell(created=began - timedelta(hours=40))
    second = world.sell(created=began - timedelta(hours=20))
    world.fault("taobao.trade.fullinfo.get", "500", match=second)
    with pytest.raises(ApplicationError):
        await pull(world)
    assert len(await inbox()) == 1
    stands = await cursor()
    assert stands is not None
    assert began - timedelta(hours=21) <= stands <= began - timedelta(hours=20)
    report = await pull(world)
    assert (report.since, report.seen, report.new) == (stands - OVERLAP, 1, 1)
    assert len(await inbox()) == 2


async def test_change_within_the_overlap_is_a_new_message(sandbox: str) -> None:
    world = await save_account(World(sandbox, "taobao", "tb-overlap"))
    number = world.sell(paid=False, created=datetime.now(UTC) - timedelta(minutes=2))
    assert (await pull(world)).new == 1
    world.change(number, paid=True)
    await asyncio.sleep(1.1)
    report = await pull(world)
    assert (report.seen, report.new) == (1, 1)
    assert [row.state for row in await inbox()] == [InboxState.PENDING] * 2


async def test_failed_pull_keeps_its_cursor(sandbox: str) -> None:
    world = await save_account(World(sandbox, "taobao", "tb-fails"))
    placed = datetime.now(UTC) - timedelta(minutes=50)
    world.sell(created=placed)
    world.fault("taobao.trade.fullinfo.get", "500")
    with pytest.raises(ApplicationError):
        await pull(world)
    assert (await cursor() or NOW) < placed
    assert (await pull(world)).new == 1


async def test_pull_never_moves_the_cursor_back(sandbox: str) -> None:
    world = await save_account(World(sandbox, "taobao", "tb-back"))
    ahead = datetime.now(UTC) + timedelta(hours=1)
    async with transaction() as connection:
        await connection.execute(update(AccountRow).values(cursor=ahead))
    await pull(world)
    assert await cursor() == ahead


async def test_unknown_shop_is_refused() -> None:
    with pytest.raises(ApplicationError, match="account_unknown"):
        await ActivityEnvironment().run(pull_orders, "taobao", "nobody")


async def test_each_shop_that_supports_pulls_has_a_schedule(sandbox: str, temporal_server: Temporal) -> None:
    client = await Client.connect(temporal_server.address, data_converter=data_converter())
    world = await save_account(World(sandbox, "woocommerce", "wc-schedule"), poll_seconds=1)
    await save_account(World(sandbox, "own", "own-schedule"))
    world.sell()
    await schedule_shops(client)
    handle = client.get_schedule_handle("poll:woocommerce:wc-schedule")
    async with Worker(
        client, task_queue=settings().task_queue, workflows=[ChannelPollWorkflow], activities=[pull_orders]
    ):
        async with asyncio.timeout(240):
            while not await inbox():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await schedule_shops(client)
        described = await handle.describe()
        assert described.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
        assert described.schedule.spec.intervals[0].every == timedelta(seconds=1)

        async def polls() -> list[tuple[str, int]]:
            """Return the status and the number of polls of each execution."""
            query = "WorkflowType = 'ChannelPollWorkflow' AND WorkflowId STARTS_WITH 'poll:woocommerce:wc-schedule'"
            found = [each async for each in client.list_workflows(query)]
            histories = [
                await client.get_workflow_handle(each.id, run_id=each.run_id).fetch_history() for each in found
            ]
            return [
                (
                    each.status.name if each.status else "",
                    sum(event.HasField("activity_task_completed_event_attributes") for event in history.events),
                )
                for each, history in zip(found, histories, strict=True)
            ]

        async def several() -> bool:
            return sum(number for _, number in await polls()) >= 3

        await until(several, 240)
        assert len(await polls()) == 1
        await save_settings({})
        await schedule_shops(client)
        assert (await handle.describe()).schedule.spec.intervals[0].every == timedelta(minutes=15)

        async def cancelled() -> bool:
            return [status for status, _ in await polls()] == ["CANCELED"]

        await until(cancelled)
        with pytest.raises(RPCError):
            await client.get_schedule_handle("poll:own:own-schedule").describe()
        await save_settings({"poll_seconds": False})
        await schedule_shops(client)
        await schedule_shops(client)
        with pytest.raises(RPCError):
            await handle.describe()
    assert len(await inbox()) == 1


async def save_settings(chosen: dict[str, Any]) -> None:
    async with transaction() as connection:
        await connection.execute(update(AccountRow).values(settings=chosen))


async def test_order_received_by_webhook_and_poll_is_one_workflow(
    sandbox: str, api: httpx.AsyncClient, temporal: Client
) -> None:
    world = await save_account(World(sandbox, "woocommerce", "wc-twice"))
    number = world.sell(created=datetime.now(UTC) - timedelta(minutes=2))
    hook = f"{api.base_url}/channels/woocommerce/wc-twice/webhook".replace("//channels", "/channels")
    statuses, report, again = await asyncio.gather(
        asyncio.to_thread(world.deliver, number, hook, copies=3), pull(world), pull(world)
    )
    assert set(statuses) == {202}
    assert report.seen == again.seen == 1
    order_id = f"order:woocommerce:wc-twice:{number}"

    async def settled() -> bool:
        return all(row.state not in {InboxState.PENDING, InboxState.FAILED} for row in await inbox())

    await until(settled)
    assert {row.order_id for row in await inbox()} == {order_id}
    assert sum(row.state == InboxState.STARTED for row in await inbox()) == 1
    assert await runs(temporal, order_id) == "RUNNING"


async def test_pull_reads_the_cursor_past_the_cache(sandbox: str) -> None:
    world = await save_account(World(sandbox, "shopify", "sh-cache"))
    before = await accounts.get_account(IntegrationType.CHANNEL, "shopify", "sh-cache")
    await pull(world)
    moved = NOW - timedelta(minutes=20)
    async with transaction() as connection:
        await connection.execute(update(AccountRow).values(cursor=moved))
    assert await accounts.get_account(IntegrationType.CHANNEL, "shopify", "sh-cache") is before
    assert (await pull(world)).since == moved - OVERLAP


@pytest.mark.parametrize("source", ["amazon", "douyin"])
async def test_hint_has_its_order_read(sandbox: str, api: httpx.AsyncClient, temporal: Client, source: str) -> None:
    """By the running worker, without a pull."""
    name = f"{source}-hinted"
    world = await save_account(World(sandbox, source, name), poll_seconds=False)
    number = world.sell(("A001", 1))
    hook = f"{api.base_url}/channels/{source}/{name}/webhook".replace("//channels", "/channels")

    async def received() -> bool:
        return len([row for row in await inbox() if row.state in (InboxState.STARTED, InboxState.DONE)]) == 2

    async with worker(temporal):
        await asyncio.to_thread(world.deliver, number, hook)
        await until(received)
