"""Reconciliation: missing orders of a shop are read and reported."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update
from structlog.testing import capture_logs
from temporalio.client import Client, ScheduleOverlapPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.accounts.api_keys import create_key
from activities.intake import reconciliation
from activities.intake.reconciliation import Window, mark_failed
from activities.kit import http
from activities.kit.database import transaction
from models.api_keys import Scope
from models.exceptions import ExceptionRow
from models.intake import AccountRow, ReconciliationRow, Secrets
from models.order import OrderRow
from models.settings import settings
from models.vault import seal_row
from starter.sandbox.app import create_app
from starter.sandbox.channels import woocommerce
from tests.api import bearer, rows, until
from tests.commands import Commands
from tests.serving import served
from tests.shops import World
from workers.main import worker
from workers.schedules import schedule_shops

EARLIER = timedelta(hours=5)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


async def save_account(world: World, **chosen: Any) -> World:
    """Save the shop's account in the database; return the shop."""
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


@pytest.fixture
async def shop(sandbox: str, api: httpx.AsyncClient, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    name = request.node.name[:50]
    yield await save_account(World(sandbox, "woocommerce", name))
    await http.close()


async def reconcile(api: httpx.AsyncClient, world: World, **window: Any) -> dict[str, Any]:
    """Start a reconciliation and return its finished report."""
    staff = await bearer(Scope.STAFF)
    path = f"/channels/{world.account.source}/{world.account.account}/reconcile"
    begun = await api.post(path, json=window, headers=staff)
    assert begun.status_code == 202, begun.text

    async def finished() -> dict[str, Any] | None:
        report: dict[str, Any] = (await api.get(f"/intake/reconciliations/{begun.json()['id']}", headers=staff)).json()
        return report if report["finished_at"] else None

    found = await until(finished)
    assert found is not None
    return found


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in ("listed", "known", "missing", "pulled", "failed", "gone")}


async def open_exceptions(*, open_only: bool = True) -> dict[str, Any]:
    query = select(ExceptionRow)
    if open_only:
        query = query.where(ExceptionRow.closed_at.is_(None))  # type: ignore[union-attr]
    async with transaction() as connection:
        return {row.kind: {"shop": row.shop, **row.detail} for row in await connection.execute(query)}


async def orders() -> set[str]:
    async with transaction() as connection:
        return set(await connection.scalars(select(OrderRow.channel_order_no)))


async def test_order_of_a_lost_webhook_is_read_and_reported(
    shop: World, api: httpx.AsyncClient, temporal: Client
) -> None:
    at = datetime.now(UTC) - EARLIER
    here, *lost = [shop.sell(created=at + timedelta(minutes=n)) for n in range(3)]
    shop.sell(created=datetime.now(UTC))  # so new that it may still be on its way
    name = shop.account.account
    statuses = await _deliver(shop, here, api)
    assert statuses == [202]
    async with worker(temporal):
        await until(lambda: _arrived({here}))
        report = await reconcile(api, shop)
        assert counts(report) == {"listed": 3, "known": 1, "missing": 2, "pulled": 2, "failed": 0, "gone": 0}
        assert report["details"]["pulled"] == sorted(lost)
        assert await open_exceptions() == {"reconciliation": {"shop": f"woocommerce:{name}", "missing": 2, "failed": 0}}
        await until(lambda: _arrived({here, *lost}))
        assert {row.path for row in await rows() if row.order_id != f"order:woocommerce:{name}:{here}"} == {"poll"}

        del woocommerce.shops.all[name].sales[here]
        report = await reconcile(api, shop)
        assert counts(report) == {"listed": 2, "known": 2, "missing": 0, "pulled": 0, "failed": 0, "gone": 1}
        assert report["details"]["gone"] == [here]
        assert await open_exceptions() == {}


async def _arrived(wanted: set[str]) -> bool:
    return await orders() == wanted


async def _deliver(world: World, number: str, api: httpx.AsyncClient) -> list[int]:
    url = f"{str(api.base_url).rstrip('/')}/channels/woocommerce/{world.account.account}/webhook"
    return await asyncio.to_thread(world.deliver, number, url)


async def test_order_with_an_unknown_status_is_taken_in(shop: World, api: httpx.AsyncClient, temporal: Client) -> None:
    number = shop.sell(created=datetime.now(UTC) - EARLIER, status="weird")
    async with worker(temporal):
        assert counts(await reconcile(api, shop))["pulled"] == 1

        await until(lambda: _arrived({number}))
        report = await reconcile(api, shop)
        assert (report["missing"], report["failed"], report["known"]) == (0, 0, 1)


async def test_pending_order_is_not_missing(shop: World, database: str) -> None:
    shop.sell(created=datetime.now(UTC) - EARLIER)
    name = shop.account.account
    first = await ActivityEnvironment().run(reconciliation.reconcile, "first", "woocommerce", name, Window())
    async with transaction() as connection:
        await connection.execute(update(ReconciliationRow).values(details={}))
    assert first["pulled"] == 1
    second = await ActivityEnvironment().run(reconciliation.reconcile, "second", "woocommerce", name, Window())
    assert (second["known"], second["missing"]) == (1, 0)


async def test_interrupted_reconciliation_continues_with_its_counts(shop: World) -> None:
    at = datetime.now(UTC) - EARLIER
    second = max(shop.sell(created=at) for _ in range(2))
    name = shop.account.account
    run = (reconciliation.reconcile, "cut", "woocommerce", name, Window())
    shop.fault("order", "500", match=second)
    with pytest.raises(ApplicationError):
        await ActivityEnvironment().run(*run)
    report = await ActivityEnvironment().run(*run)
    assert (report["listed"], report["missing"], report["pulled"], report["known"]) == (2, 2, 2, 0)


async def test_window_is_configurable(shop: World, api: httpx.AsyncClient, temporal: Client) -> None:
    now = datetime.now(UTC)
    old = shop.sell(created=now - timedelta(days=10))
    shop.sell(created=now - EARLIER)
    async with worker(temporal):
        window = {"since": (now - timedelta(days=11)).isoformat(), "until": (now - timedelta(days=9)).isoformat()}
        assert (await reconcile(api, shop, **window))["details"]["pulled"] == [old]
    staff = await bearer(Scope.STAFF)
    path = f"/channels/woocommerce/{shop.account.account}/reconcile"
    backwards = await api.post(path, json={"since": window["until"], "until": window["since"]}, headers=staff)
    assert (backwards.status_code, backwards.json()["errors"][0]["field"]) == (422, "since")
    assert (await api.post("/channels/own/web/reconcile", headers=staff)).json()["errors"][0]["field"] == "channel"
    assert (await api.post("/channels/own/nobody/reconcile", headers=staff)).status_code == 404
    assert (await api.post(path, headers=await bearer(Scope.READ))).status_code == 403
    assert (await api.get("/intake/reconciliations/none", headers=staff)).status_code == 404


async def test_unfinished_reconciliation_opens_an_exception(
    shop: World, api: httpx.AsyncClient, temporal: Client
) -> None:
    wrong = shop.account.secrets | {"consumer_secret": "wrong"}
    async with transaction() as connection:
        query = update(AccountRow).where(AccountRow.source == "woocommerce")  # type: ignore[arg-type]
        key = shop.account.model_dump(include={"integration", "source", "account"})
        await connection.execute(query.values(seal_row(AccountRow, key | {"secrets": Secrets(values=wrong)})))
    async with worker(temporal):
        report = await reconcile(api, shop)
    assert report["error"]
    assert set(await open_exceptions()) == {"reconciliation_stopped"}
    await mark_failed("no such report", "?")


async def test_each_shop_that_lists_orders_is_reconciled_nightly(shop: World, temporal: Client) -> None:
    await schedule_shops(temporal)
    handle = temporal.get_schedule_handle(f"reconcile:woocommerce:{shop.account.account}")
    described = (await handle.describe()).schedule
    assert described.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert described.spec.time_zone_name == "Asia/Shanghai"
    assert [each.hour[0].start for each in described.spec.calendars] == [4]
    with pytest.raises(RPCError):
        await temporal.get_schedule_handle("reconcile:own:web").describe()
    await handle.delete()
    await temporal.get_schedule_handle(f"poll:woocommerce:{shop.account.account}").delete()


async def test_command_line_waits_for_the_report(
    shop: World,
    api: httpx.AsyncClient,
    temporal: Client,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("Mei", [Scope.STAFF]))
    settings.cache_clear()
    hengdan = Commands(capsys)
    number = shop.sell(created=datetime.now(UTC) - EARLIER)
    async with worker(temporal):
        said = await hengdan.ok("intake", "reconcile", "woocommerce", shop.account.account, "--lang", "en")
        assert number in said
        assert "Was missing, now read" in said
        (report,) = json.loads(await hengdan.ok("intake", "reports", "--json"))
        assert report["pulled"] == 1
        assert report["id"] in await hengdan.ok("intake", "reports", "--shop", shop.account.account)
        assert number in await hengdan.ok("intake", "reports", report["id"])
        with capture_logs():
            assert "does not support downloading" in await hengdan.refused("intake", "reconcile", "own", "web")
