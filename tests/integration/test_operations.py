"""docs/operations.md, executed as written: on the real server, with its command line and our codec."""

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from sys import executable
from time import sleep
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import insert
from temporalio.client import Client, WorkflowHandle

from activities.accounts.api_keys import create_key
from activities.kit.database import transaction
from models.api_keys import Scope
from models.intake import AccountRow, IntegrationType, Secrets
from models.order import OrderStatus
from models.state import OrderState
from models.vault import Keyring, seal_row
from starter.dispatcher import start_order
from starter.sandbox import merchant
from tests.unit.orders import an_order, line
from workers.client import data_converter
from workers.embedded import Temporal
from workers.main import worker

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
SIGNALS = dict(re.findall(r"^\| `(\w+)` \S+ \| `(\{.*\})` \|$", GUIDE, re.MULTILINE))
COMMANDS = re.findall(r"^\$ (temporal workflow .*)$", GUIDE, re.MULTILINE)
QUERIES = re.findall(r"^\| [^|]+ \| `(\w+ [=<].*)` \|$", GUIDE, re.MULTILINE)
SCRIPTS = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)

Order = WorkflowHandle[Any, Any]


class Office(NamedTuple):
    """An operator's connection, and the environment of the command line."""

    client: Client
    env: dict[str, str]

    async def run(self, command: str, **more: str) -> str:
        """Run a line of the guide in a shell; return its output."""
        process = await asyncio.create_subprocess_shell(
            command, env=self.env | more, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        printed = (await asyncio.wait_for(process.communicate(), 30))[0].decode()
        assert process.returncode == 0, printed
        return printed

    async def signal(self, order: Order, name: str) -> None:
        await self.run(f"temporal workflow signal --workflow-id '{order.id}' --name {name} --input '{SIGNALS[name]}'")

    async def order_in_review(self, number: str) -> Order:
        """Start an order that is held for review and out of stock."""
        sold = an_order(number, line(1, "A001", 3, "4000"))
        await start_order(self.client, sold)
        order = self.client.get_workflow_handle(sold.order_id)
        await until(order, OrderStatus.IN_REVIEW)
        return order


async def until(order: Order, status: OrderStatus) -> OrderState:
    for _ in range(250):
        state: OrderState = await order.query("state", result_type=OrderState)
        if state.status is status:
            return state
        await asyncio.sleep(0.02)
    raise AssertionError(f"{state.status}, not {status}")


@contextmanager
def api(temporal: Temporal) -> Iterator[str]:
    """Run ``hengdan api`` as a process; yield its base URL when ready."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        command = [executable, "-m", "starter", "api", f"--fd={fd}"]
        process = subprocess.Popen(command, env=os.environ | {"TEMPORAL_ADDRESS": temporal.address}, pass_fds=[fd])
    with process:
        try:
            while not _ready(f"http://127.0.0.1:{port}/ready"):
                assert process.poll() is None, "the API has ended"
                sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(15)


STUCK = """
import asyncio
from contextlib import asynccontextmanager
from workers import main

@asynccontextmanager
async def worker(client):
    print("up", flush=True)
    try:
        yield
    finally:
        await asyncio.sleep(3600)

main.worker = worker
asyncio.run(main.run())
"""


@pytest.mark.usefixtures("database")
def test_worker_ends_although_a_task_does_not(temporal_server: Temporal) -> None:
    env = os.environ | {"TEMPORAL_ADDRESS": temporal_server.address}
    with subprocess.Popen([executable, "-c", STUCK], env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
        finally:
            process.kill()


SELDOM = {"cel", "matplotlib", "numpy", "openpyxl", "pandas", "pypdf", "pypdfium2", "pypinyin", "reportlab", "segno"}
"""Large libraries that few requests and orders need, or that can be loaded while others are served."""


def test_start_loads_no_library_that_is_seldom_needed() -> None:
    code = "import sys, starter.api, workers.main; print(*sys.modules)"
    printed = subprocess.run([executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not SELDOM & set(printed.split())


def _ready(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
async def office(database: str, temporal_server: Temporal) -> AsyncIterator[Office]:
    shop = {
        "integration": IntegrationType.CHANNEL,
        "source": "own",
        "account": "web",
        "base_url": "http://127.0.0.1:9",
        "settings": {},
    }
    async with transaction() as connection:
        await merchant.seed(connection)
        row = seal_row(AccountRow, {**shop, "secrets": Secrets(values={"secret": "whisper"})})
        await connection.execute(insert(AccountRow).values(row))
    key = await create_key("alice", [Scope.STAFF])
    client = await Client.connect(temporal_server.address, data_converter=data_converter())
    with api(temporal_server) as url:
        env = {
            "PATH": f"{Path(executable).parent}:{os.environ['PATH']}",
            "HOME": "/nonexistent",
            "API": url,
            "KEY": key,
        }
        env |= {"TEMPORAL_ADDRESS": temporal_server.address}
        env |= {"TEMPORAL_CODEC_ENDPOINT": f"{url}/codec", "TEMPORAL_CODEC_AUTH": f"Bearer {key}"}
        async with worker(client):
            yield Office(client, env)


def test_guide_has_examples() -> None:
    assert (len(SIGNALS), len(COMMANDS), len(QUERIES), len(SCRIPTS)) == (8, 4, 12, 2)


async def test_every_signal_has_its_documented_effect(office: Office) -> None:
    order = await office.order_in_review("op-1")
    for name in ("note", "expedite", "hold", "modify"):
        await office.signal(order, name)
    held = await until(order, OrderStatus.IN_REVIEW)
    assert {hold.by for hold in held.holds} == {"alice", "hengdan"}
    assert held.order.priority == 1
    assert [each.quantity for each in held.order.lines] == [2]
    await office.signal(order, "approve")
    await until(order, OrderStatus.ON_HOLD)
    await office.signal(order, "release")
    await until(order, OrderStatus.AWAITING_STOCK)
    await office.signal(order, "cancel")
    assert await order.result() == "cancelled"

    other = await office.order_in_review("op-2")
    await office.signal(other, "reject")
    assert await other.result() == "rejected"


async def test_signals_are_encrypted_and_readable_with_a_key(office: Office) -> None:
    order = await office.order_in_review("op-3")
    show, *acts = COMMANDS
    printed = [await office.run(command, ORDER=order.id) for command in acts]
    assert "accepted" in printed[-1]
    state = await until(order, OrderStatus.IN_REVIEW)
    assert (state.order.recipient.name, state.order.priority) == ("李雷", 1)
    assert "漕溪北路1号" in await office.run(show, ORDER=order.id)
    kept = (await order.fetch_history()).events
    assert "漕溪北路1号".encode() not in b"".join(event.SerializeToString() for event in kept)
    await order.terminate()


@pytest.mark.parametrize("query", QUERIES)
async def test_every_query_is_valid(query: str, temporal_server: Temporal) -> None:
    client = await Client.connect(temporal_server.address)
    await client.count_workflows(query)


def test_documented_secrets_suffice(tmp_path: Path) -> None:
    subprocess.run(["sh", "-ec", SCRIPTS[0]], cwd=tmp_path, check=True)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    made = dict(entry.split("=", 1) for entry in (tmp_path / ".env").read_text().splitlines())
    assert set(made) == set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    ring = Keyring.parse(made["HENGDAN_KEYS"], made["HENGDAN_INDEX_KEY"])
    assert ring.open(ring.seal(b"clear", "test"), "test") == b"clear"


def test_first_key_is_created_as_documented(database: str) -> None:
    python = re.search(r"-c '\n(.*)'", SCRIPTS[1], re.DOTALL)
    assert python
    made = subprocess.run([executable, "-c", python[1]], capture_output=True, text=True, check=True)
    assert made.stdout.startswith("hd_")
