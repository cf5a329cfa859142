"""The processes of a stack, as an operator of many sees them: JSON logs, health, metrics."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from activities.kit.database import dispose
from models.intake import IntegrationType
from models.settings import settings
from tests.api import SECRET, open_account, open_door, sale, tell, until
from workers.embedded import start_postgres
from workers.embedded.process import free_port
from workers.schema import migrate


@contextmanager
def service(name: str, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of ours, its output in a file."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "starter", name], env={**os.environ, **env}, stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, each of which is a JSON object with the same basic fields."""
    events: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    for event in events:
        assert {"event", "level", "timestamp"} <= set(event), event
    return events


async def answers(url: str) -> httpx.Response | None:
    try:
        async with httpx.AsyncClient() as client:
            return await client.get(url)
    except httpx.HTTPError:
        return None


async def test_every_line_of_every_service_is_json(temporal: Client, tmp_path: Path, database: str) -> None:
    """The worker polls a shop that refuses: failed activities, library warnings and refusals are among its lines."""
    health, metrics, api = (free_port(tmp_path / name) for name in ("health", "metrics", "api"))
    await open_account(
        IntegrationType.CHANNEL,
        "woocommerce",
        "shut",
        base_url="http://127.0.0.1:9",
        settings={"poll_seconds": 1},
        consumer_key="k",
        consumer_secret="s",
        secret="s",
    )
    env = {
        "HENGDAN_LOG_FORMAT": "json",
        "HENGDAN_HEALTH_PORT": str(health),
        "HENGDAN_METRICS_PORT": str(metrics),
        "HENGDAN_API_PORT": str(api),
    }
    logs = {name: tmp_path / f"{name}.log" for name in ("worker", "api")}
    with service("worker", logs["worker"], **env) as worker, service("api", logs["api"], **env) as door:

        async def both() -> bool:
            found = [await answers(f"http://127.0.0.1:{port}/health") for port in (health, api)]
            return all(each is not None and each.status_code == 200 for each in found)

        await until(both, 180)
        assert (await answers(f"http://127.0.0.1:{health}/health")).json() == {"database": "ok", "engine": "ok"}  # type: ignore[union-attr]
        assert "temporal_" in (await answers(f"http://127.0.0.1:{metrics}/metrics")).text  # type: ignore[union-attr]

        async def failed() -> bool:
            return "intake.pull_orders" in logs["worker"].read_text()

        await until(failed, 120)
        for process in (worker, door):
            process.send_signal(signal.SIGTERM)
        for process in (worker, door):
            await asyncio.to_thread(process.wait, 60)
    for name, log in logs.items():
        events = lines(log)
        started = next(each for each in events if each["event"] == f"{name}.started")
        assert started["version"]
        assert started["settings"]["task_queue"] == settings().task_queue
        assert (started["settings"]["keys"], started["settings"]["database_url"]) == ("set", "set")
        assert any(each["event"] == f"{name}.stopping" for each in events)
        assert "Traceback" not in log.read_text()
        for secret in (settings().keys, settings().index_key):
            assert secret is not None
            assert secret.get_secret_value() not in log.read_text()


def test_error_that_ends_a_process_is_one_line_of_json(tmp_path: Path) -> None:
    code = (
        "import warnings; from starter.logs import configure; configure();"
        "warnings.warn('old'); raise ValueError('13800138000')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HENGDAN_LOG_FORMAT": "json"}, capture_output=True, check=False
    )
    warned, fell = [json.loads(line) for line in ended.stderr.decode().splitlines()]
    assert "old" in warned["event"]
    assert re.match(r"ValueError at .*:1$", fell["error"])
    assert b"13800138000" not in ended.stderr


async def test_restart_of_the_database_costs_no_webhook(
    temporal: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await asyncio.to_thread(start_postgres, tmp_path / "own")
    try:
        await dispose()
        monkeypatch.setenv("HENGDAN_DATABASE_URL", server.url)
        settings.cache_clear()
        await asyncio.to_thread(migrate, server.url)
        await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
        async with open_door() as door:
            answered = await asyncio.gather(*(tell(door, sale()) for _ in range(12)))
            assert {each.status_code for each in answered} == {202}
            server.process.send_signal(signal.SIGINT)
            await asyncio.to_thread(server.process.wait, 60)
            await asyncio.to_thread(server.start)
            answered = await asyncio.gather(*(tell(door, sale()) for _ in range(12)))
            assert {each.status_code for each in answered} == {202}
        await dispose()
    finally:
        await asyncio.to_thread(server.stop)
