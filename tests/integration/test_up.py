"""``hengdan up`` on one machine: started, killed, restarted and stopped."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from activities.kit.database import dispose, transaction
from models.intake import IntegrationType
from models.settings import INSTANCE_HEADER, settings
from models.vault import keyring
from starter import up
from starter.sandbox import merchant
from tests import serving
from tests.api import SECRET, open_account, sale, tell, until
from workers.embedded import StartError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: reads /proc"),
    pytest.mark.timeout(900),
]
TIMEOUT = 240
"""Seconds for any step of a whole stack, generous for a machine under load."""
UNPAID = {"paid_at": None, "pay_before": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}


def processes(state_dir: Path) -> set[int]:
    """Return the running processes of a state directory."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            send_order = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(state_dir).encode() in send_order:
            found.add(int(process.name))
    return found


def environment(state_dir: Path, child: str) -> dict[str, str]:
    """Return the environment of a child process of the stack."""
    for pid in processes(state_dir):
        if child.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return dict(pair.decode().split("=", 1) for pair in pairs if pair)
    raise AssertionError(f"no {child} runs")


class Up(NamedTuple):
    process: subprocess.Popen[bytes]
    printed: str
    url: str
    key: str

    async def gone(self, state_dir: Path) -> None:
        async def look() -> bool:
            return not processes(state_dir)

        await until(look, TIMEOUT)
        await asyncio.to_thread(self.process.wait, TIMEOUT)


def command(state_dir: Path, port: int, out: Any = None) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HENGDAN_", "TEMPORAL_"))}
    env |= {
        "HENGDAN_STATE_DIR": str(state_dir),
        "HENGDAN_API_PORT": str(port),
        "TEMPORAL_PROFILE": "of-another-cluster",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "starter", "up"],
        env=env,
        stdout=out,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a background job
    )


@asynccontextmanager
async def served(state_dir: Path, port: int) -> AsyncIterator[Up]:
    """Run ``hengdan up``; yield when it serves, and kill it with its processes."""
    out = state_dir.with_suffix(".out")
    with out.open("wb") as file:
        process = command(state_dir, port, file)
    try:

        async def ready() -> bool:
            assert process.poll() is None, process.communicate()[1].decode()
            return "Ctrl-C" in out.read_text()

        await until(ready, TIMEOUT)
        kept = json.loads((state_dir / "api.json").read_text())
        yield Up(process, out.read_text(), kept["url"], kept["key"])
    finally:
        for pid in processes(state_dir):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


async def show_order(stack: Up, order_id: str) -> Any:
    async with httpx.AsyncClient(base_url=stack.url, headers={"Authorization": f"Bearer {stack.key}"}) as client:
        answer = await client.get(f"/orders/{order_id}")
    return answer.json() if answer.status_code == 200 else {"status": answer.status_code}


async def send_order(stack: Up, order: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=stack.url) as client:
        assert (await tell(client, order)).status_code == 202


async def test_restart_after_kill_continues_all_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_dir = tmp_path / "state"
    order = sale(**UNPAID)
    order_id = f"order:own:web:{order['order_no']}"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        async with served(state_dir, port) as first:
            assert first.key in first.printed
            assert first.url in first.printed
            assert first.url != f"http://127.0.0.1:{port}"
            assert (state_dir / "api.json").stat().st_mode & 0o777 == 0o600
            given = environment(state_dir, "api")
            for name in ("HENGDAN_DATABASE_URL", "HENGDAN_KEYS", "HENGDAN_INDEX_KEY"):
                monkeypatch.setenv(name, given[name])
            settings.cache_clear()
            keyring.cache_clear()
            async with transaction() as connection:
                await merchant.seed(connection)
            await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
            await dispose()
            await send_order(first, order)
            await until(lambda: at(first, order_id, "awaiting_payment"), TIMEOUT)
            other = command(state_dir, port, subprocess.PIPE)
            out, err = await asyncio.to_thread(other.communicate, timeout=TIMEOUT)
            assert (other.returncode, out, err.count(b"\n")) == (1, b"", 1)
            for pid in processes(state_dir):
                os.kill(pid, signal.SIGKILL)
            await first.gone(state_dir)
        async with served(state_dir, port) as second:
            assert (second.url, second.key) == (first.url, first.key)
            assert first.key not in second.printed
            assert (await show_order(second, order_id))["status"] == "awaiting_payment"
            await send_order(second, sale(order["order_no"]))
            await until(lambda: at(second, order_id, "awaiting_stock"), TIMEOUT)
            second.process.send_signal(signal.SIGINT)
            await second.gone(state_dir)
            assert second.process.returncode == 0


async def at(stack: Up, order_id: str, status: str) -> bool:
    return bool((await show_order(stack, order_id))["status"] == status)


async def test_api_of_another_stack_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = FastAPI()

    @stranger.get("/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({}, headers={INSTANCE_HEADER: "another"})

    with serving.served(stranger) as url:
        stack = up.Stack(tmp_path)
        stack.api_url = url
        monkeypatch.setattr(up, "READY_SECONDS", 1)
        with pytest.raises(StartError):
            await asyncio.to_thread(stack._wait, "ours")
        await asyncio.to_thread(stack._wait, "another")


async def test_start_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    process = command(tmp_path / "state", 0, subprocess.PIPE)
    out, err = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1), err
