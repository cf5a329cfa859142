"""Chaos: a merchant's day while processes are killed or stand still, connections are cut and the disk is full.

``python -m tests.chaos --seed 7 --orders 400 --disturbances 40`` plays the demo's scenarios on a stack of its own. The
seed decides which disturbances come, and when. Afterwards every order must have ended, and the checks of the demo must
hold across database, engine, stock ledger, channels and carriers. Exit 1 if one does not.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from uuid import uuid4

import httpx
import psycopg
from rich.console import Console

from activities.kit.database import dispose
from models.order import OrderStatus
from models.settings import settings
from starter.demo import Progress, run_all, set_up
from starter.demo.checks import Check, all_checks
from starter.demo.world import World
from starter.sandbox.app import create_app
from starter.up import Stack
from tests.disks import NoSmallDisk, fill, small_disk
from tests.serving import served
from workers.client import connect

SCENARIOS = (
    "bundle",
    "split",
    "drop_shipped",
    "unpaid_then_paid",
    "unpaid_then_expired",
    "address_modified",
    "quantity_modified",
    "cancelled_in_time",
    "duplicate_webhooks",
    "carrier_500",
    "carrier_timeout_after_booking",
    "pushes_out_of_order",
    "refused_by_buyer",
)
"""Scenarios that end by themselves, also where an outage made them miss the stage that they wanted to act in."""
DISK_MEBIBYTES = 2048
PATIENCE = 300
"""Seconds after the last disturbance within which every order must have ended."""


class Persistent(httpx.AsyncHTTPTransport):
    """Sends a request again until the server answers other than with an error of its own, as channels and staff do."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Idempotency-Key"] = uuid4().hex
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                response = await super().handle_async_request(request)
                if response.status_code < 500 or time.monotonic() > deadline:
                    return response
                await response.aclose()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)


def processes() -> dict[str, int]:
    """Return the PIDs of the stack's processes by name: our own children."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text().strip("\0").split("\0")
                name = words[-1] if words[-1] in ("worker", "api") else Path(words[0]).name
                found[name] = int(pid)
    return found


@dataclass
class Outside:
    """What may happen to the stack."""

    dice: Random
    disk: Path | None

    async def kill(self) -> str:
        """Kill a process; it is started again by itself."""
        name = self.dice.choice(["worker", "worker", "api", "postgres", "temporal"])
        if pid := processes().get(name):
            os.kill(pid, signal.SIGKILL)
        return f"kill {name}"

    async def freeze(self) -> str:
        """Let a process stand still for seconds: its peers see a connection that says nothing."""
        name, seconds = self.dice.choice(["worker", "api", "temporal"]), self.dice.uniform(1, 6)
        if pid := processes().get(name):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return f"freeze {name} for {seconds:.0f} s"

    async def cut(self) -> str:
        """Cut every connection to the database, in the middle of whatever it carries."""
        url = settings().database_url
        assert url is not None
        with suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(url.get_secret_value(), autocommit=True) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        return "cut the connections to the database"

    async def fill_disk(self) -> str:
        """Fill the disk of both databases and all logs for seconds."""
        if self.disk is None:
            return "no small disk can be mounted here: not filled"
        seconds = self.dice.uniform(1, 4)
        ballast = await asyncio.to_thread(fill, self.disk)
        await asyncio.sleep(seconds)
        ballast.unlink()
        return f"fill the disk for {seconds:.0f} s"

    @property
    def all(self) -> list[Callable[[], Awaitable[str]]]:
        return [self.kill, self.kill, self.freeze, self.cut, self.fill_disk]


async def disturb(console: Console, outside: Outside, times: int, started: float) -> None:
    """Disturb the stack ``times`` times, each kind at least once if there are enough."""
    kinds = [*outside.all, *outside.dice.choices(outside.all, k=times)][:times]
    outside.dice.shuffle(kinds)
    for kind in kinds:
        await asyncio.sleep(outside.dice.uniform(1, 5))
        console.print(f"{time.monotonic() - started:5.0f} s  {await kind()}")


@asynccontextmanager
async def merchant(stack: Stack, sandbox: str) -> AsyncIterator[World]:
    """Set up a merchant's shops, and keep reading its orders."""
    async with httpx.AsyncClient(timeout=60, transport=Persistent(limits=httpx.Limits(max_connections=200))) as client:
        world = await set_up(stack, sandbox, client)
        watcher = asyncio.create_task(world.watch())
        try:
            yield world
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
            await dispose()


async def storm(console: Console, stack: Stack, sandbox: str, outside: Outside, orders: int, times: int) -> list[Check]:
    """Play the scenarios under disturbances; wait until all orders have ended; return the checks."""
    names = [SCENARIOS[number % len(SCENARIOS)] if number % 2 else "clean" for number in range(orders)]
    progress = Progress(names)
    async with merchant(stack, sandbox) as world:
        playing = asyncio.create_task(run_all(world, progress))
        disturbing = asyncio.create_task(disturb(console, outside, times, progress.started))
        while not (playing.done() and disturbing.done()):
            await asyncio.wait([playing, disturbing], timeout=5, return_when=asyncio.ALL_COMPLETED)
            console.print(progress.line(world), soft_wrap=True)
        await asyncio.gather(playing, disturbing)
        for name, end, fault in progress.results:
            if fault:
                console.print(f"[dim]{name} missed its stage ({end}): {fault}[/]", soft_wrap=True)
        ended = await _all_ended(console, world, progress)
        if not ended.passed:
            return [ended]
        checks = await all_checks(world, await connect(), [stack.state_dir])
        return [ended, *checks]


async def _all_ended(console: Console, world: World, progress: Progress) -> Check:
    deadline = time.monotonic() + PATIENCE
    while True:
        await world.refresh()
        known = {sale.order_id: world.rows.get(sale.order_id, {"status": "unknown"}) for sale in world.sales}
        left = [id for id, row in known.items() if row["status"] not in {each for each in OrderStatus if each.final}]
        if not left or time.monotonic() > deadline:
            detail = ", ".join(f"{each} is {known[each]['status']}" for each in left[:5])
            counts = Counter(row["status"] for row in known.values())
            return Check(name="all ended", passed=not left, detail=detail or str(dict(counts)))
        console.print(progress.line(world), soft_wrap=True)
        await asyncio.sleep(3)


@contextmanager
def folder() -> Iterator[tuple[Path, Path | None]]:
    """Yield a new state folder, and the small disk that it lies on, if one can be mounted."""
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hengdan-chaos-")))
        disk: Path | None = None
        with suppress(NoSmallDisk):
            disk = stack.enter_context(small_disk(base / "disk", DISK_MEBIBYTES))
        yield (disk or base) / "state", disk


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--orders", type=int, default=60)
    parser.add_argument("--disturbances", type=int, default=8)
    parser.add_argument("--logs", type=Path, help="keep the logs of all processes in this new folder")
    options = parser.parse_args()
    console = Console()
    for name in ("HENGDAN_DATABASE_URL", "HENGDAN_KEYS", "HENGDAN_INDEX_KEY", "TEMPORAL_ADDRESS"):
        os.environ.pop(name, None)
    os.environ["HENGDAN_PRIVATE_HOSTS"] = '["127.0.0.1"]'
    settings.cache_clear()
    console.print(f"seed {options.seed}: {options.orders} orders, {options.disturbances} disturbances")
    with folder() as (state, disk), served(create_app()) as sandbox:
        outside = Outside(Random(options.seed), disk)
        try:
            with Stack(state) as stack:
                checks = asyncio.run(storm(console, stack, sandbox, outside, options.orders, options.disturbances))
        finally:
            if options.logs is not None:
                logs = shutil.ignore_patterns("postgres", "*.db*")
                shutil.copytree(state, options.logs, ignore=logs)
    for check in checks:
        console.print(f"{'[green]✓[/]' if check.passed else '[red]✗[/]'} {check.name}: {check.detail}", soft_wrap=True)
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
