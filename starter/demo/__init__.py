"""The demo: a merchant's day on real parts, live, with a table of what came out and the checks that it is true."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from activities.accounts import accounts
from activities.accounts.api_keys import create_key
from activities.catalogue import locations, skus
from activities.fulfillment import carrier_selection
from activities.kit.database import Connection, dispose, transaction
from activities.records import exceptions
from activities.stock import operations, stock_sync
from models.api_keys import Scope
from models.base import CHINA
from models.i18n import t
from models.intake import IntegrationType
from models.order import OrderStatus
from models.settings import settings
from models.stock import Audience, LocationKind
from starter.demo.carriers import AGGREGATOR, FOLLOWED, PATIENCE, TERMS
from starter.demo.channels import WEB
from starter.demo.checks import Check, all_checks, statuses
from starter.demo.stories import (
    DROP_SHIPPED,
    FENCE,
    FENCED_SKUS,
    ONLY_BEIJING,
    ONLY_CHENGDU,
    PRESALE,
    SHOPS,
    SHORT_SKUS,
    STORE,
    STORE_SKUS,
    STORIES,
    WATCHED,
    clean,
)
from starter.demo.world import World, people
from starter.sandbox import merchant
from starter.sandbox.accounts import CARRIERS, open_accounts
from starter.up import Stack, wait_for_signal
from workers.client import connect
from workers.embedded.process import free_port
from workers.schedules import schedule_shops

ORDERS = 320
OPENING = 500
"""What lies where of each SKU before the day begins."""
OWN_SITE = Audience(shops=("own:web",))
EACH_STORY = 5
AT_ONCE = 50
_ALONE: dict[str, tuple[str, ...]] = {
    ONLY_BEIJING: ("BJ",),
    ONLY_CHENGDU: ("CD",),
    DROP_SHIPPED: (),
    **dict.fromkeys(SHORT_SKUS, ()),
    **dict.fromkeys(FENCED_SKUS, ("SH",)),
    **dict.fromkeys(STORE_SKUS, ()),
}
"""What does not lie everywhere."""


class Telling:
    """How far each story has come, and how each ended."""

    def __init__(self, names: list[str]) -> None:
        self.begun = time.monotonic()
        self.names = names
        self.ends: list[tuple[str, OrderStatus | None, str]] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begun

    def progress(self, world: World) -> Table:
        counts = statuses(world.rows.values())
        table = Table(title=t("demo.progress", done=len(self.ends), all=len(self.names), seconds=f"{self.elapsed:.0f}"))
        table.add_column(t("demo.status"))
        table.add_column(t("demo.orders"), justify="right")
        for status in OrderStatus:
            if counts[status]:
                table.add_row(t(f"status.{status}"), str(counts[status]))
        table.add_row(t("demo.rate"), f"{len(self.ends) / max(self.elapsed, 0.1):.1f}/s")
        return table

    def line(self, world: World) -> str:
        counts = statuses(world.rows.values())
        by_status = "  ".join(f"{t(f'status.{status}')} {counts[status]}" for status in OrderStatus if counts[status])
        return f"{self.elapsed:5.0f} s  {len(self.ends)}/{len(self.names)}  {by_status}"


def run(
    *,
    report: Path | None = None,
    orders: int | None = None,
    serve: bool | None = None,
    state_dir: Path | None = None,
) -> int:
    """Plays ``orders`` orders on a fresh stack of its own; 0 where all ended as told and all checks hold.

    ``serve``: keep serving until Ctrl-C; by default in a terminal only. ``report``: a file to hold all of it as JSON.
    Raises ``ValueError`` where ``state_dir`` holds something else than an earlier demo.
    """
    console = Console()
    state_dir = _fresh(state_dir or settings().state_dir / "demo")
    port = free_port(state_dir / "sandbox-port", 8090)
    sandbox = [sys.executable, "-m", "starter.sandbox", "--port", str(port)]
    console.print(t("demo.starting"))
    with Stack(state_dir, children={"sandbox": sandbox}) as stack:
        console.print(t("up.serving", api=stack.api_url, ui=stack.ui_url or "-"))
        console.print(t("up.key", key=stack.new_key))
        told = asyncio.run(_play(console, stack, f"http://127.0.0.1:{port}", orders or ORDERS))
        if report is not None:
            report.write_text(json.dumps(told, ensure_ascii=False, indent=2))
        if sys.stdout.isatty() if serve is None else serve:
            console.print(t("up.stop"))
            wait_for_signal()
    return 0 if told["passed"] else 1


def _fresh(state_dir: Path) -> Path:
    """An empty folder for the demo alone; whatever database or cluster is set, the demo has its own."""
    marker = state_dir / "demo"
    if state_dir.exists() and any(state_dir.iterdir()) and not marker.exists():
        raise ValueError(f"{state_dir} holds something else than a demo: name an empty folder")
    shutil.rmtree(state_dir, ignore_errors=True)
    state_dir.mkdir(parents=True, mode=0o700)
    marker.touch()
    for name in ("HENGDAN_DATABASE_URL", "HENGDAN_KEYS", "HENGDAN_INDEX_KEY", "TEMPORAL_ADDRESS"):
        os.environ.pop(name, None)
    settings.cache_clear()
    return state_dir


async def _play(console: Console, stack: Stack, sandbox: str, orders: int) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        world = await _set_up(stack, sandbox, client)
        each = min(EACH_STORY, max(1, orders // 40))
        names = [name for name in STORIES for _ in range(each)]
        names += ["clean"] * max(0, orders - len(names))
        telling = Telling(names)
        watching = asyncio.create_task(world.watch())
        playing = asyncio.create_task(_tell_all(world, telling))
        await _show(console, world, telling, playing)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        elapsed = telling.elapsed
        console.print(t("demo.checking"))
        await world.look()
        checks = await all_checks(world, await connect(), [stack.state_dir])
        await dispose()
    return _conclude(console, stack, world, telling, checks, elapsed)


async def _set_up(stack: Stack, sandbox: str, client: httpx.AsyncClient) -> World:
    for _ in range(100):
        with suppress(httpx.HTTPError):
            await client.get(f"{sandbox}/health")
            break
        await asyncio.sleep(0.1)
    async with transaction() as connection:
        await merchant.seed(connection)
        await open_accounts(connection, sandbox, SHOPS)
        for sku in merchant.STOCKED:
            for warehouse in _ALONE.get(sku, ("SH", "GZ", "BJ", "CD")):
                await operations.receive(connection, warehouse, sku, OPENING, f"opening:{warehouse}:{sku}", "demo")
        await stock_sync.save_listings(connection, "own", WEB, {WATCHED: {}})
        await _fence(connection)
        await _open_store(connection)
        follows = {"follow": [FOLLOWED], "push_url": stack.api_url}
        await accounts.save(connection, IntegrationType.CARRIER, AGGREGATOR, "default", None, {}, follows)
        await carrier_selection.save_terms(connection, TERMS)
        for policy in PATIENCE:
            await exceptions.save_policy(connection, policy)
        await operations.sync_supplier_stock(
            connection, merchant.SUPPLIER.code, {DROP_SHIPPED: OPENING}, "opening", "demo"
        )
        await skus.set_presale_date(connection, PRESALE, datetime.now(CHINA).date() + timedelta(days=30))
    keys = {
        "staff": await create_key("demo-staff", [Scope.STAFF, Scope.WAREHOUSE]),
        "till": await create_key("demo-till", [Scope.POS]),
        "warehouse": await create_key("demo-warehouse", [Scope.WAREHOUSE]),
    }
    await schedule_shops(await connect())
    told = {"api_url": stack.api_url, "api_key": keys["warehouse"], "delay": 0.1}
    (await client.post(f"{sandbox}/warehouse/_control/config", json=told)).raise_for_status()
    for carrier in CARRIERS:
        secret = (await accounts.get_account(IntegrationType.CARRIER, carrier, "default")).secrets["push_secret"]
        told = {"push_url": f"{stack.api_url}/carriers/{carrier}/default/push/{secret}", "way": {"delay": 0.1}}
        (await client.post(f"{sandbox}/{carrier}/_control/config", json=told)).raise_for_status()
    return World(client, stack.api_url, sandbox, keys["staff"], keys["till"], people(40))


async def _fence(connection: Connection) -> None:
    """All there is of some SKUs is kept for the own site."""
    kept = locations.Location(
        code=FENCE, name="Own site", name_zh="自营专享仓", kind=LocationKind.VIRTUAL, parent="SH", audience=OWN_SITE
    )
    await locations.save(connection, kept)
    for sku in FENCED_SKUS:
        await operations.move_to_virtual(connection, FENCE, sku, OPENING, f"opening:{sku}", "demo")


async def _open_store(connection: Connection) -> None:
    """Some SKUs lie at a shop counter alone, which delivers nowhere else."""
    store = locations.Location(
        code=STORE,
        name="Lhasa",
        name_zh="拉萨店",
        kind=LocationKind.STORE,
        province="西藏",
        areas=("西藏",),
        carrier="sf",
    )
    await locations.save(connection, store)
    for sku in STORE_SKUS:
        await operations.receive(connection, STORE, sku, OPENING, f"opening:{STORE}:{sku}", "demo")


async def _tell_all(world: World, telling: Telling) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def tell(number: int, name: str) -> None:
        async with limit:
            end, fault = None, ""
            try:
                end = await (STORIES[name][0](world) if name in STORIES else clean(world, number))
            except (AssertionError, httpx.HTTPError) as error:
                fault = f"{type(error).__name__}: {error}"
            telling.ends.append((name, end, fault))

    await asyncio.gather(*(tell(number, name) for number, name in enumerate(telling.names)))


async def _show(console: Console, world: World, telling: Telling, playing: asyncio.Task[None]) -> None:
    if console.is_terminal:
        with Live(telling.progress(world), console=console, refresh_per_second=4, transient=True) as live:
            while not playing.done():
                await asyncio.wait([playing], timeout=0.25)
                live.update(telling.progress(world))
    else:
        while not playing.done():
            await asyncio.wait([playing], timeout=5)
            console.print(telling.line(world), soft_wrap=True)
    await playing


def _by_channel(console: Console, world: World) -> list[dict[str, Any]]:
    """How many orders each channel brought, and how many of them reached the door."""
    table = Table(title=t("demo.by_channel"))
    for head in ("demo.channel", "demo.orders", "status.completed"):
        table.add_column(t(head))
    brought = Counter(sale.channel for sale in world.sales)
    done = Counter(sale.channel for sale in world.sales if world.rows[sale.order_id]["status"] == "completed")
    for channel, orders in sorted(brought.items()):
        table.add_row(channel, str(orders), str(done[channel]))
    console.print(table)
    return [{"channel": channel, "orders": orders, "completed": done[channel]} for channel, orders in brought.items()]


def _conclude(
    console: Console, stack: Stack, world: World, telling: Telling, checks: list[Check], elapsed: float
) -> dict[str, Any]:
    table = Table(title=t("demo.stories"))
    for head in ("demo.story", "demo.expected", "demo.orders", "demo.as_told", "demo.fault"):
        table.add_column(t(head))
    stories: list[dict[str, Any]] = []
    for name in dict.fromkeys(telling.names):
        expected = STORIES[name][1] if name in STORIES else OrderStatus.COMPLETED
        ends = [(end, fault) for told, end, fault in telling.ends if told == name]
        good = sum(end is expected and not fault for end, fault in ends)
        fault = next((fault for end, fault in ends if fault or end is not expected), "")
        stories.append({"story": name, "expected": expected, "orders": len(ends), "as_told": good, "fault": fault})
        mark = "[green]✓[/]" if good == len(ends) else "[red]✗[/]"
        table.add_row(_title(name), t(f"status.{expected}"), str(len(ends)), f"{good} {mark}", fault)
    console.print(table)
    channels = _by_channel(console, world)
    proof = Table(title=t("demo.checks"))
    proof.add_column(t("demo.check"))
    proof.add_column("")
    proof.add_column(t("demo.detail"))
    for check in checks:
        proof.add_row(t(f"demo.check.{check.name}"), "[green]✓[/]" if check.passed else "[red]✗[/]", check.detail)
    console.print(proof)
    passed = all(each["orders"] == each["as_told"] for each in stories) and all(check.passed for check in checks)
    orders = len(telling.names)
    for each in stories:
        if each["as_told"] < each["orders"]:
            console.print(f"✗ {_title(each['story'])}: {each['fault']}", soft_wrap=True)
    console.print(t("demo.passed" if passed else "demo.not_passed", orders=orders, seconds=f"{elapsed:.0f}"))
    console.print(t("up.serving", api=stack.api_url, ui=stack.ui_url or "-"))
    return {
        "passed": passed,
        "orders": orders,
        "seconds": round(elapsed, 1),
        "orders_per_second": round(orders / elapsed, 2),
        "stories": stories,
        "channels": channels,
        "checks": [check.model_dump() for check in checks],
        "api": stack.api_url,
        "temporal_ui": stack.ui_url,
    }


def _title(name: str) -> str:
    """Of a story; those of a carrier or an exception are named by it."""
    kind, _, about = name.partition("_")
    if kind == "by":
        return t("demo.story.by", carrier=about.upper())
    if kind == "wrong":
        return t("demo.story.wrong", kind=t(f"exception.{about}"))
    return t(f"demo.story.{name}")
