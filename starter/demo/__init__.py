"""The demo: a merchant's day on real servers, with live progress, a table of results and checks."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
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
from starter.demo.carriers import AGGREGATOR, POLICIES_OF_DEMO, TERMS, TRACKED_CARRIER
from starter.demo.channels import WEB
from starter.demo.checks import Check, all_checks, statuses
from starter.demo.scenarios import (
    DROP_SHIPPED,
    ONLY_BEIJING,
    ONLY_CHENGDU,
    PRESALE,
    RESERVED_SKUS,
    SCENARIOS,
    SHOPS,
    SHORT_SKUS,
    STORE,
    STORE_SKUS,
    SYNCED_SKU,
    VIRTUAL_WAREHOUSE,
    clean,
)
from starter.demo.world import World, people
from starter.sandbox import merchant
from starter.sandbox.accounts import CARRIERS, open_accounts
from starter.up import Stack, wait_for_signal
from workers.client import connect
from workers.embedded.process import listen
from workers.schedules import schedule_shops

ORDERS = 320
OPENING = 500
"""The stock of each SKU in each of its warehouses before the demo starts."""
OWN_SITE = Audience(shops=("own:web",))
ORDERS_PER_SCENARIO = 5
MAX_CONCURRENT = 50
_WAREHOUSES_OF_SKU: dict[str, tuple[str, ...]] = {
    ONLY_BEIJING: ("BJ",),
    ONLY_CHENGDU: ("CD",),
    DROP_SHIPPED: (),
    **dict.fromkeys(SHORT_SKUS, ()),
    **dict.fromkeys(RESERVED_SKUS, ("SH",)),
    **dict.fromkeys(STORE_SKUS, ()),
}
"""The warehouses of SKUs that are not in stock everywhere."""


class Progress:
    """The scenarios, and how each of them ended."""

    def __init__(self, names: list[str]) -> None:
        self.started = time.monotonic()
        self.names = names
        self.results: list[tuple[str, OrderStatus | None, str]] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def table(self, world: World) -> Table:
        counts = statuses(world.rows.values())
        table = Table(
            title=t("demo.progress", done=len(self.results), all=len(self.names), seconds=f"{self.elapsed:.0f}")
        )
        table.add_column(t("demo.status"))
        table.add_column(t("demo.orders"), justify="right")
        for status in OrderStatus:
            if counts[status]:
                table.add_row(t(f"status.{status}"), str(counts[status]))
        table.add_row(t("demo.rate"), f"{len(self.results) / max(self.elapsed, 0.1):.1f}/s")
        return table

    def line(self, world: World) -> str:
        counts = statuses(world.rows.values())
        by_status = "  ".join(f"{t(f'status.{status}')} {counts[status]}" for status in OrderStatus if counts[status])
        return f"{self.elapsed:5.0f} s  {len(self.results)}/{len(self.names)}  {by_status}"


def run(
    *,
    report: Path | None = None,
    orders: int | None = None,
    serve: bool | None = None,
    state_dir: Path | None = None,
) -> int:
    """Run ``orders`` orders on a new stack; return 0 if all ended as expected and all checks passed.

    ``serve``: keep serving until Ctrl-C; by default only in a terminal. ``report``: write the results to this file as
    JSON. Raise ``ValueError`` if ``state_dir`` holds anything but an earlier demo.
    """
    console = Console()
    state_dir = _fresh(state_dir or settings().state_dir / "demo")
    os.environ["HENGDAN_PRIVATE_HOSTS"] = '["127.0.0.1"]'
    settings.cache_clear()
    sandbox = [sys.executable, "-m", "starter.sandbox"]
    console.print(t("demo.starting"))
    with (
        listen(state_dir / "sandbox-port", 8090) as listener,
        Stack(state_dir, children={"sandbox": (sandbox, listener)}) as stack,
        ExitStack() as at_end,
    ):
        at_end.callback(stack.key_file.unlink)  # commands look for another stack from then on
        port = listener.getsockname()[1]
        for line in stack.banner():
            console.print(line, soft_wrap=True)
        results = asyncio.run(_run(console, stack, f"http://127.0.0.1:{port}", orders or ORDERS))
        if report is not None:
            report.write_text(json.dumps(results, ensure_ascii=False, indent=2))
        if sys.stdout.isatty() if serve is None else serve:
            console.print(t("up.stop"))
            wait_for_signal()
    return 0 if results["passed"] else 1


def _fresh(state_dir: Path) -> Path:
    """Return an empty folder for the demo; the demo ignores the configured database and cluster."""
    marker = state_dir / "demo"
    if state_dir.exists() and any(state_dir.iterdir()) and not marker.exists():
        raise ValueError(f"{state_dir} holds no earlier demo: name an empty folder")
    shutil.rmtree(state_dir, ignore_errors=True)
    state_dir.mkdir(parents=True, mode=0o700)
    marker.touch()
    for name in ("HENGDAN_DATABASE_URL", "HENGDAN_KEYS", "HENGDAN_INDEX_KEY", "TEMPORAL_ADDRESS"):
        os.environ.pop(name, None)
    settings.cache_clear()
    return state_dir


async def _run(console: Console, stack: Stack, sandbox: str, orders: int) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        world = await set_up(stack, sandbox, client)
        each = min(ORDERS_PER_SCENARIO, max(1, orders // 40))
        names = [name for name in SCENARIOS for _ in range(each)]
        names += ["clean"] * max(0, orders - len(names))
        progress = Progress(names)
        watcher = asyncio.create_task(world.watch())
        running = asyncio.create_task(run_all(world, progress))
        await _show(console, world, progress, running)
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
        elapsed = progress.elapsed
        console.print(t("demo.checking"))
        await world.refresh()
        checks = await all_checks(world, await connect(), [stack.state_dir])
        await dispose()
    return _conclude(console, stack, world, progress, checks, elapsed)


async def set_up(stack: Stack, sandbox: str, client: httpx.AsyncClient) -> World:
    """Create the merchant's catalogue, stock, accounts and keys; connect the sandbox with the stack."""
    for _ in range(100):
        with suppress(httpx.HTTPError):
            await client.get(f"{sandbox}/health")
            break
        await asyncio.sleep(0.1)
    async with transaction() as connection:
        await merchant.seed(connection)
        await open_accounts(connection, sandbox, SHOPS)
        for sku in merchant.STOCKED:
            for warehouse in _WAREHOUSES_OF_SKU.get(sku, ("SH", "GZ", "BJ", "CD")):
                await operations.receive(connection, warehouse, sku, OPENING, f"opening:{warehouse}:{sku}", "demo")
        await stock_sync.save_listings(connection, "own", WEB, {SYNCED_SKU: {}})
        await _reserve_for_own_site(connection)
        await _open_store(connection)
        await carrier_selection.save_terms(connection, TERMS)
        for policy in POLICIES_OF_DEMO:
            await exceptions.save_policy(connection, policy)
        await operations.sync_supplier_stock(
            connection, merchant.SUPPLIER.code, {DROP_SHIPPED: OPENING}, "opening", "demo"
        )
        await skus.set_presale_date(connection, PRESALE, datetime.now(CHINA).date() + timedelta(days=30))
    aggregator = await accounts.get_account(IntegrationType.CARRIER, AGGREGATOR, "default")
    settings_of_aggregator = {"follow": [TRACKED_CARRIER], "push_url": stack.api_url}
    async with transaction() as connection:
        await accounts.save(
            connection,
            IntegrationType.CARRIER,
            AGGREGATOR,
            "default",
            None,
            aggregator.secrets,
            settings_of_aggregator,
        )
    keys = {
        "staff": await create_key("demo-staff", [Scope.STAFF, Scope.WAREHOUSE]),
        "till": await create_key("demo-till", [Scope.POS]),
        "warehouse": await create_key("demo-warehouse", [Scope.WAREHOUSE]),
    }
    await schedule_shops(await connect())
    config = {"api_url": stack.api_url, "api_key": keys["warehouse"], "delay": 0.1}
    (await client.post(f"{sandbox}/warehouse/_control/config", json=config)).raise_for_status()
    for carrier in CARRIERS:
        secret = (await accounts.get_account(IntegrationType.CARRIER, carrier, "default")).secrets["push_secret"]
        config = {"push_url": f"{stack.api_url}/carriers/{carrier}/default/push/{secret}", "journey": {"delay": 0.1}}
        (await client.post(f"{sandbox}/{carrier}/_control/config", json=config)).raise_for_status()
    return World(client, stack.api_url, sandbox, keys["staff"], keys["till"], people(40))


async def _reserve_for_own_site(connection: Connection) -> None:
    """Move the stock of some SKUs to a virtual warehouse of the own site."""
    virtual = locations.Location(
        code=VIRTUAL_WAREHOUSE,
        name="Own site",
        name_zh="自营专享仓",
        kind=LocationKind.VIRTUAL,
        parent="SH",
        audience=OWN_SITE,
    )
    await locations.save(connection, virtual)
    for sku in RESERVED_SKUS:
        await operations.move_to_virtual(connection, VIRTUAL_WAREHOUSE, sku, OPENING, f"opening:{sku}", "demo")


async def _open_store(connection: Connection) -> None:
    """Open a remote store that has some SKUs alone and delivers only to its own province."""
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


async def run_all(world: World, progress: Progress) -> None:
    """Play the scenarios of the progress, a limited number at once."""
    limit = asyncio.Semaphore(MAX_CONCURRENT)

    async def run_one(number: int, name: str) -> None:
        async with limit:
            end, fault = None, ""
            try:
                end = await (SCENARIOS[name][0](world) if name in SCENARIOS else clean(world, number))
            except (AssertionError, httpx.HTTPError) as error:
                fault = f"{type(error).__name__}: {error}"
            progress.results.append((name, end, fault))

    await asyncio.gather(*(run_one(number, name) for number, name in enumerate(progress.names)))


async def _show(console: Console, world: World, progress: Progress, running: asyncio.Task[None]) -> None:
    if console.is_terminal:
        with Live(progress.table(world), console=console, refresh_per_second=4, transient=True) as live:
            while not running.done():
                await asyncio.wait([running], timeout=0.25)
                live.update(progress.table(world))
    else:
        while not running.done():
            await asyncio.wait([running], timeout=5)
            console.print(progress.line(world), soft_wrap=True)
    await running


def _by_channel(console: Console, world: World) -> list[dict[str, Any]]:
    """Print and return the number of orders and of completed orders by channel."""
    table = Table(title=t("demo.by_channel"))
    for head in ("demo.channel", "demo.orders", "status.completed"):
        table.add_column(t(head))
    received = Counter(sale.channel for sale in world.sales)
    ends = {order_id: row["status"] for order_id, row in world.rows.items()}
    done = Counter(sale.channel for sale in world.sales if ends.get(sale.order_id) == OrderStatus.COMPLETED)
    for channel, orders in sorted(received.items()):
        table.add_row(channel, str(orders), str(done[channel]))
    console.print(table)
    return [{"channel": channel, "orders": orders, "completed": done[channel]} for channel, orders in received.items()]


def _conclude(
    console: Console, stack: Stack, world: World, progress: Progress, checks: list[Check], elapsed: float
) -> dict[str, Any]:
    table = Table(title=t("demo.scenarios"))
    for head in ("demo.scenario", "demo.expected", "demo.orders", "demo.as_expected", "demo.fault"):
        table.add_column(t(head))
    scenarios: list[dict[str, Any]] = []
    for name in dict.fromkeys(progress.names):
        expected = SCENARIOS[name][1] if name in SCENARIOS else OrderStatus.COMPLETED
        ends = [(end, fault) for each, end, fault in progress.results if each == name]
        matching = sum(end is expected and not fault for end, fault in ends)
        fault = next((fault for end, fault in ends if fault or end is not expected), "")
        scenarios.append(
            {"scenario": name, "expected": expected, "orders": len(ends), "as_expected": matching, "fault": fault}
        )
        mark = "[green]✓[/]" if matching == len(ends) else "[red]✗[/]"
        table.add_row(_title(name), t(f"status.{expected}"), str(len(ends)), f"{matching} {mark}", fault)
    console.print(table)
    channels = _by_channel(console, world)
    proof = Table(title=t("demo.checks"))
    proof.add_column(t("demo.check"))
    proof.add_column("")
    proof.add_column(t("demo.detail"))
    for check in checks:
        proof.add_row(t(f"demo.check.{check.name}"), "[green]✓[/]" if check.passed else "[red]✗[/]", check.detail)
    console.print(proof)
    passed = all(each["orders"] == each["as_expected"] for each in scenarios) and all(check.passed for check in checks)
    orders = len(progress.names)
    for each in scenarios:
        if each["as_expected"] < each["orders"]:
            console.print(f"✗ {_title(each['scenario'])}: {each['fault']}", soft_wrap=True)
    console.print(t("demo.passed" if passed else "demo.not_passed", orders=orders, seconds=f"{elapsed:.0f}"))
    for line in stack.banner():
        console.print(line, soft_wrap=True)
    return {
        "passed": passed,
        "orders": orders,
        "seconds": round(elapsed, 1),
        "orders_per_second": round(orders / elapsed, 2),
        "scenarios": scenarios,
        "channels": channels,
        "checks": [check.model_dump() for check in checks],
        "api": stack.api_url,
        "temporal_ui": stack.ui_url,
    }


def _title(name: str) -> str:
    """Return the title of a scenario; those of carriers and exceptions share one text each."""
    kind, _, about = name.partition("_")
    if kind == "by":
        return t("demo.scenario.by", carrier=about.upper())
    if kind == "exception":
        return t("demo.scenario.exception", kind=t(f"exception_kind.{about}"))
    return t(f"demo.scenario.{name}")
