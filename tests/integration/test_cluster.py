"""What Hengdan needs of a Temporal cluster, and what it says where that is missing."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from activities.kit.database import transaction
from models.api_keys import Scope
from models.intake import IntegrationType
from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import settings
from starter.api import commands, orders
from starter.sandbox import merchant
from starter.up import Stack
from tests.api import SECRET, bearer, open_account, open_door, sale, tell, until
from tests.commands import Commands
from tests.integration.test_api_webhooks import problem
from workers import cluster
from workers.client import connect
from workers.embedded import StartError, load_keys, start_temporal


@contextmanager
def worker_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "starter", "worker"], stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


ACTS: dict[str, Any] = {
    "/transfers": {"origin": "SH", "destination": "BJ", "goods": {"A001": 1}, "due": "2100-01-01"},
    "/doctor": {},
    "/replenishments/run": {},
    "/plan/again": {"warehouse": "SH", "reason": "flooded"},
    "/plan/again/SH": None,
    "/channels/woocommerce/shop/reconcile": {},
}
"""What a worker must carry out, beside the commands for one order; without a body it is read."""


async def test_what_needs_a_worker_is_refused_while_none_runs(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transaction() as connection:
        await merchant.seed(connection)
    await open_account(IntegrationType.CHANNEL, "woocommerce", "shop", secret=SECRET)
    staff = await bearer(Scope.STAFF, Scope.READ, Scope.WAREHOUSE)
    acts = ACTS | {f"/orders/order:own:web:1/{verb}": example for verb, (_, example) in orders._COMMANDS.items()}
    monkeypatch.setattr(commands, "START_SECONDS", 0.1)
    async with asyncio.timeout(60):
        for path, body in acts.items():
            for language, words in (("en", "No worker is running"), ("zh-CN", "没有正在运行的 worker")):
                headers = staff | {"Accept-Language": language}
                asked = api.get(path, headers=headers) if body is None else api.post(path, json=body, headers=headers)
                answer = await asked
                assert words in problem(answer, 503)["detail"], path
    assert (await api.get("/ready")).json()["workers"] == 0


async def test_command_ends_in_seconds_while_no_worker_runs(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    staff = await bearer(Scope.STAFF)
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", staff["Authorization"].removeprefix("Bearer "))
    settings.cache_clear()
    async with asyncio.timeout(30):
        result = await Commands(capsys).run("orders", "cancel", "order:own:web:1")
    assert result.status != 0
    assert result.err.count("\n") == 1, result
    assert "No worker is running" in result.err
    assert "request id" not in result.err


async def test_worker_that_has_stopped_is_no_longer_counted(temporal: Client, api: httpx.AsyncClient) -> None:
    async def count() -> Any:
        return (await api.get("/ready")).json()["workers"]

    with worker_process() as process:
        assert await until(count, 120) == 1
        process.terminate()
        await asyncio.to_thread(process.wait, 30)

    async def none() -> bool:
        return await count() == 0

    await until(none, 60)


async def test_order_that_stops_answering_is_reported_once_its_worker_is_gone(
    temporal: Client, api: httpx.AsyncClient
) -> None:
    """A worker killed a moment ago still counts: the wait for an answer ends when it does not."""
    staff = await bearer(Scope.STAFF)
    order = sale(paid_at=None)
    path = f"/orders/order:own:web:{order['order_no']}"
    with worker_process() as process:
        await tell(api, order)

        async def admitted() -> bool:
            return (await api.get(path, headers=staff)).status_code == 200

        await until(admitted, 120)
        process.kill()
    async with asyncio.timeout(cluster.HEARTBEAT_LIMIT.total_seconds() + 20):
        answer = await api.post(f"{path}/cancel", json={}, headers=staff, timeout=60)
    assert "no answer yet" in problem(answer, 503)["detail"]


async def test_missing_search_attributes_are_created(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_temporal(tmp_path, search_attributes={}, ui=False, port=0) as server:
        monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
        client = await connect()
        assert set(await cluster.missing_search_attributes(client)) == set(SEARCH_ATTRIBUTES)
        await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
        async with open_door() as door:
            order = sale()
            await tell(door, order)

            async def started() -> bool:
                ready = (await door.get("/ready")).json()
                return bool(ready["engine"] == "ok" and ready["intake"] == "ok")

            await until(started)
        assert not await cluster.missing_search_attributes(client)


async def test_search_attributes_that_cannot_be_created_are_named_with_the_command(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"OrderStatus": "Int", "Holds": "Keyword"}
    with start_temporal(tmp_path, search_attributes=others, ui=False, port=0) as server:
        monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
        async with open_door() as door:

            async def named() -> bool:
                return (await door.get("/ready")).json()["engine"] == "lacks search attributes: OrderStatus, Holds"

            await until(named)
        with worker_process() as process:
            error = (await asyncio.to_thread(process.communicate, timeout=120))[1].decode()
    assert process.returncode != 0
    assert "Traceback" not in error
    for name, kind in (("OrderStatus", "Keyword"), ("Holds", "KeywordList")):
        assert f"temporal operator search-attribute create --namespace default --name {name} --type {kind}" in error


@pytest.mark.parametrize("name", ["HENGDAN_KEYS", "HENGDAN_INDEX_KEY"])
def test_one_key_without_the_other_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("HENGDAN_KEYS", "HENGDAN_INDEX_KEY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, load_keys(tmp_path / "mine").keys)
    monkeypatch.setenv("HENGDAN_API_PORT", "0")
    settings.cache_clear()
    with pytest.raises(StartError, match="HENGDAN_KEYS and HENGDAN_INDEX_KEY belong together"), Stack(tmp_path / "up"):
        pass
    assert not (tmp_path / "up" / "keys").exists()
