"""Chaos: a merchant's day while processes are killed or stand still, connections are cut and the disk is full.

``python -m tests.chaos --seed 7 --orders 400 --disturbances 60`` plays the demo's scenarios on a stack of its own. The
seed decides which disturbances come, and when. Then each store in turn is restored to a copy older than the other, and
the doctor mends what differs. Every order must end, and the checks of the demo must hold across database, engine, stock
ledger, channels and carriers. Exit 1 if one does not.
"""

import argparse
import asyncio
import json
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
from starter.demo.world import Sale, World
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
STANDING = (OrderStatus.AWAITING_PAYMENT, OrderStatus.SHIPPED)
"""Where an order stands still until somebody pays or delivers it."""
FINAL = {status for status in OrderStatus if status.final}
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


@dataclass
class Chaos:
    """The stack under test, and the world around it, which goes on while the stack is down."""

    console: Console
    state: Path
    sandbox: str
    outside: Outside

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Stack]:
        stack = Stack(self.state)
        await asyncio.to_thread(stack.__enter__)
        try:
            yield stack
        finally:
            await dispose()
            await asyncio.to_thread(stack.__exit__)

    async def run(self, orders: int, times: int, *, restore: bool) -> list[Check]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=60, transport=Persistent(limits=limits)) as client:
            async with self.serving() as stack:
                world = await set_up(stack, self.sandbox, client)
                watcher = asyncio.create_task(world.watch())
                checks = await self._storm(world, orders, times)
            for store in ("postgres", "temporal"):
                if restore and all(each.passed for each in checks):
                    checks += await self._restore(world, store, max(2, orders // 10))
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        return checks

    async def _storm(self, world: World, orders: int, times: int) -> list[Check]:
        """Play the scenarios under disturbances."""
        names = [SCENARIOS[number % len(SCENARIOS)] if number % 2 else "clean" for number in range(orders)]
        progress = Progress(names)
        playing = asyncio.create_task(run_all(world, progress))
        disturbing = asyncio.create_task(disturb(self.console, self.outside, times, progress.started))
        while not (playing.done() and disturbing.done()):
            await asyncio.wait([playing, disturbing], timeout=5, return_when=asyncio.ALL_COMPLETED)
            self.console.print(progress.line(world), soft_wrap=True)
        await asyncio.gather(playing, disturbing)
        for name, end, fault in progress.results:
            if fault:
                self.console.print(f"[dim]{name} missed its stage ({end}): {fault}[/]", soft_wrap=True)
        return await self._checks(world, "storm")

    async def _restore(self, world: World, store: str, count: int) -> list[Check]:
        """Restore one store to a copy that is older than the other, and let the doctor compare them."""
        async with self.serving():
            early = [await self._sell(world, paid=bool(number % 2)) for number in range(2 * count)]
            await asyncio.gather(*(world.until(each, *STANDING) for each in early))
        copy = [file for file in self.state.glob(f"{store}*") if file.suffix in ("", ".db", ".db-wal", ".db-shm")]
        kept = self.state.parent / "kept"
        kept.mkdir()
        copying = await asyncio.create_subprocess_exec("cp", "--archive", *copy, kept)  # keeps the owner
        assert await copying.wait() == 0
        async with self.serving():
            late = [await self._sell(world, paid=bool(number % 2)) for number in range(2 * count)]
            await asyncio.gather(*(world.until(each, *STANDING) for each in late))
            for sale in early[:count] + late[:count]:
                await self._continue(world, sale)
            await asyncio.gather(*(world.until(each, OrderStatus.COMPLETED) for each in early[:count] + late[:count]))
        for file in copy:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        for file in kept.iterdir():
            file.rename(self.state / file.name)
        kept.rmdir()
        async with self.serving() as stack:
            world.rows.clear()
            self.console.print(f"{store} is older than the other store: {await self._doctor(world, stack)}")
            for sale in early + late:
                await self._continue(world, sale)
            return await self._checks(world, f"{store} restored")

    async def _sell(self, world: World, *, paid: bool) -> Sale:
        """Sell what stands still: unpaid, or under way without news."""
        sale = await world.sell("shopify", "global", "A001", paid=paid)
        await world.plan_journey(sale, kind="silent")
        await world.deliver(sale)
        return sale

    async def _continue(self, world: World, sale: Sale) -> None:
        """Pay what is unpaid; deliver what is under way."""
        status = await world.until(sale, *STANDING, OrderStatus.COMPLETED)
        if status is OrderStatus.AWAITING_PAYMENT:
            await world.change(sale, paid=True)
            status = await world.until(sale, OrderStatus.SHIPPED, OrderStatus.COMPLETED)
        if status is OrderStatus.SHIPPED:
            await world.travel(sale)

    async def _doctor(self, world: World, stack: Stack) -> str:
        key = json.loads(stack.key_file.read_text())["key"]
        headers = {"Authorization": f"Bearer {key}"}
        begun = await world.client.post(f"{world.api}/doctor", json={"mend": True}, headers=headers)
        begun.raise_for_status()
        while True:
            found = await world.client.get(f"{world.api}/doctor/{begun.json()['id']}", headers=headers)
            found.raise_for_status()
            if not found.json()["running"]:
                return json.dumps(found.json()["counts"])
            await asyncio.sleep(1)

    async def _checks(self, world: World, when: str) -> list[Check]:
        """Wait until every order has ended; return what the demo checks."""
        deadline = time.monotonic() + PATIENCE
        while True:
            await world.refresh()
            known = {sale.order_id: world.rows.get(sale.order_id, {"status": "unknown"}) for sale in world.sales}
            left = [id for id, row in known.items() if row["status"] not in FINAL]
            if not left or time.monotonic() > deadline:
                break
            self.console.print(f"{len(left)} of {len(known)} orders have not ended")
            await asyncio.sleep(3)
        counts = dict(Counter(row["status"] for row in known.values()))
        detail = ", ".join(f"{each} is {known[each]['status']}" for each in left[:5]) or str(counts)
        checks = [Check(name="all ended", passed=not left, detail=detail)]
        if not left:
            checks += await all_checks(world, await connect(), [self.state])
        if when.startswith("temporal"):  # what ended after the copy was made has no workflow any more
            checks = [each for each in checks if each.name != "workflows"]
        return [each.model_copy(update={"name": f"{when}: {each.name}"}) for each in checks]


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
    parser.add_argument("--orders", type=int, default=40)
    parser.add_argument("--disturbances", type=int, default=7)
    parser.add_argument("--storm-only", action="store_true", help="restore no store")
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
            chaos = Chaos(console, state, sandbox, outside)
            checks = asyncio.run(chaos.run(options.orders, options.disturbances, restore=not options.storm_only))
        finally:
            if options.logs is not None:
                shutil.copytree(state, options.logs, ignore=shutil.ignore_patterns("postgres", "*.db*"))
    for check in checks:
        console.print(f"{'[green]✓[/]' if check.passed else '[red]✗[/]'} {check.name}: {check.detail}", soft_wrap=True)
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
