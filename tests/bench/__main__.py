"""``python -m tests.bench``: Hengdan compared with the bare parts it is built on. Reports, asserts nothing."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from activities.accounts import accounts
from activities.kit import signing
from activities.kit.database import dispose, transaction
from activities.stock import operations
from models.intake import IntegrationType
from starter.demo.world import people
from starter.sandbox import merchant
from starter.sandbox.accounts import CARRIERS, Shop, open_accounts
from starter.up import Stack
from tests.bench import addresses, allocation, labels, planning, pushes, sweeps
from tests.bench.http_load import CONNECTIONS, Message, load
from tests.bench.machine import cpu_ms_per_order, cpu_seconds
from workers.client import connect
from workers.embedded.process import listen

console = Console()
PARTS = ("addresses", "sweeps", "allocation", "labels", "workflow", "intake", "pushes", "planning")
WITHOUT_STACK = {"addresses", "sweeps", "labels", "planning"}
"""Parts that need no servers."""
SHOP = "bench"
CONCURRENT = 48
"""Bare workflows running at the same time."""


class Bench:
    def __init__(self, stack: Stack, sandbox: str, bare_endpoint: str, client: httpx.AsyncClient) -> None:
        self.stack = stack
        self.sandbox = sandbox
        self.bare_endpoint = bare_endpoint
        self.client = client
        self.secret = ""
        self.sold = 0

    async def set_up(self) -> None:
        for url in (f"{self.sandbox}/health", f"{self.bare_endpoint}/docs"):
            await self._until_ready(url)
        async with transaction() as connection:
            await connection.execute(
                text("CREATE TABLE bench_rows (id bigint GENERATED ALWAYS AS IDENTITY, body bytea)")
            )
            await merchant.seed(connection)
            await open_accounts(connection, self.sandbox, [Shop(channel="own", name=SHOP)])
            for sku in merchant.STOCKED:
                for warehouse in ("SH", "GZ"):
                    await operations.receive(connection, warehouse, sku, 100_000, f"bench:{warehouse}:{sku}", "bench")
        self.secret = (await accounts.get_account(IntegrationType.CHANNEL, "own", SHOP)).secrets["secret"]
        config = {"api_url": self.stack.api_url, "api_key": self.stack.new_key}
        await self.client.post(f"{self.sandbox}/warehouse/_control/config", json=config)
        for carrier in CARRIERS:
            push = (await accounts.get_account(IntegrationType.CARRIER, carrier, "default")).secrets["push_secret"]
            url = f"{self.stack.api_url}/carriers/{carrier}/default/push/{push}"
            await self.client.post(f"{self.sandbox}/{carrier}/_control/config", json={"push_url": url})

    async def _until_ready(self, url: str) -> None:
        for _ in range(100):
            try:
                await self.client.get(url)
                return
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
        raise TimeoutError(url)

    async def sell(self, count: int) -> list[int]:
        """Place this many orders at the shop, without their webhooks."""
        numbers = list(range(self.sold, self.sold + count))
        self.sold += count
        url = f"{self.sandbox}/own/_control/shops/{SHOP}/orders"
        for batch in range(0, count, 50):
            sales = [
                {"order_no": f"N{n:07}", "lines": [{"sku": _sku(n)}], "recipient": {}}
                for n in numbers[batch : batch + 50]
            ]
            await asyncio.gather(*(self.client.post(url, json=sale) for sale in sales))
        return numbers

    def webhook(self, number: int) -> Message:
        """Return the signed webhook of a paid order of one line without holds."""
        now = datetime.now(UTC).isoformat()
        order = {
            "event_id": f"e{number}",
            "order_no": f"N{number:07}",
            "placed_at": now,
            "updated_at": now,
            "paid_at": now,
            "lines": [{"sku": _sku(number), "quantity": 1, "unit_price": "59.00", "title": "纯棉T恤 " * 20}],
            "total": "59.00",
            "recipient": PEOPLE[number % len(PEOPLE)],
            "custom": {"note": "x" * 1000},
        }
        body = json.dumps(order, ensure_ascii=False).encode()
        return body, signing.signed_headers(self.secret, body)

    async def completed(self) -> int:
        counts = await self.client.get(f"{self.stack.api_url}/orders/counts", headers=self._key)
        return int(counts.json().get("completed", 0))

    async def send_webhooks(self, numbers: list[int]) -> dict[str, float]:
        return await load(
            f"{self.stack.api_url}/channels/own/{SHOP}/webhook", len(numbers), lambda n: self.webhook(numbers[n])
        )

    async def load_bare_endpoint(self, count: int) -> dict[str, float]:
        return await load(f"{self.bare_endpoint}/", count, self.webhook)

    async def drain(self, total: int, label: str) -> None:
        with console.status(label) as status:
            while (done := await self.completed()) < total:
                status.update(f"{label}: {done}/{total}")
                await asyncio.sleep(0.5)

    async def order_workflows(self, orders: int) -> dict[str, Any]:
        """Measure orders from the webhook to completion."""
        warm = await self.sell(20)
        await self.send_webhooks(warm)
        await self.drain(20, "warming up")
        numbers = await self.sell(orders)
        before, started = cpu_seconds(), time.monotonic()
        await self.send_webhooks(numbers)
        await self.drain(20 + orders, "order workflows")
        seconds = time.monotonic() - started
        cpu = cpu_ms_per_order(before, cpu_seconds(), orders)
        handle = (await connect()).get_workflow_handle(f"order:own:{SHOP}:N{numbers[-1]:07}")
        events = len((await handle.fetch_history()).events)
        return {"orders": orders, "per_second": round(orders / seconds, 2), "events": events, "cpu_ms_per_order": cpu}

    def bare_workflows(self, orders: int) -> dict[str, Any]:
        """Measure the bare workflow on the same Temporal server."""
        command = [sys.executable, "-m", "tests.bench.bare", str(orders), str(CONCURRENT)]
        with (
            console.status("bare workflows"),
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        ):
            assert process.stdout is not None
            process.stdout.readline()
            before = cpu_seconds()
            results: dict[str, Any] = json.loads(process.stdout.readline())
            cpu = cpu_ms_per_order(before, cpu_seconds(), orders)
            process.communicate()
        return results | {"cpu_ms_per_order": cpu}

    async def endpoints(self, messages: int) -> dict[str, Any]:
        """Measure both endpoints with an empty and with a full inbox."""
        quiet_bare = await self.load_bare_endpoint(messages)
        quiet = await self.send_webhooks(await self.sell(messages))
        backlog = await self.sell(2 * messages)
        await self.send_webhooks(backlog[:messages])
        busy = await self.send_webhooks(backlog[messages:])
        busy_bare = await self.load_bare_endpoint(messages)
        return {"empty": {"hengdan": quiet, "bare": quiet_bare}, "full": {"hengdan": busy, "bare": busy_bare}}

    @property
    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stack.new_key}"}


PEOPLE = people(50)


def _sku(number: int) -> str:
    return merchant.STOCKED[number % 40]


async def measure(
    stack: Stack, sandbox: str, bare: str, orders: int, messages: int, parts: Collection[str]
) -> dict[str, Any]:
    results: dict[str, Any] = {}
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=60)) as client:
        bench = Bench(stack, sandbox, bare, client)
        await bench.set_up()
        if "allocation" in parts:
            results["allocation"] = await allocation.compare(5 * orders)
        if "workflow" in parts:
            bares = [bench.bare_workflows(orders)]
            life = await bench.order_workflows(orders)
            bares.append(bench.bare_workflows(orders))
            floor = sum(each["per_second"] for each in bares) / len(bares)
            results |= {
                "workflow": life,
                "bare_workflow": bares,
                "workflow_ratio": round(life["per_second"] / floor, 3),
            }
        if "intake" in parts:
            results["endpoints"] = await bench.endpoints(messages)
        if "pushes" in parts:
            results["pushes"] = await pushes.compare(stack.api_url, bare, messages)
        await dispose()
    return results


def show(results: dict[str, Any]) -> None:
    if "addresses" in results:
        console.print(_addresses(results["addresses"]))
    if "sweeps" in results:
        console.print(_sweeps(results["sweeps"]))
    if "allocation" in results:
        console.print(_allocations(results["allocation"]))
    if "planning" in results:
        console.print(_plans(results["planning"]))
    if "labels" in results:
        console.print(_labels(results["labels"]))
    if "workflow" in results:
        console.print(_workflows(results["workflow"], results["bare_workflow"], results["workflow_ratio"]))
    if "endpoints" in results:
        console.print(_endpoints(results["endpoints"]))
    if "pushes" in results:
        console.print(_pushes(results["pushes"]))


def _addresses(found: dict[str, Any]) -> Table:
    rows = found["categories"] if found["library"] else [{**row, "library alone": "-"} for row in found["categories"]]
    caption = f"{found['ms_clean']} ms for a clean address, {found['ms_difficult']} ms for a difficult one"
    table = Table("category", title="Difficult addresses parsed correctly", caption=caption)
    for column in [each for each in rows[0] if each != "category"]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def _sweeps(found: dict[str, dict[str, Any]]) -> Table:
    table = Table("form", title="Every district in every form: no address may be silently wrong")
    for column in ("cases", "silently_wrong", "held"):
        table.add_column(column.replace("_", " "), justify="right")
    for form, row in found.items():
        table.add_row(form, *(str(row[column]) for column in ("cases", "silently_wrong", "held")))
    return table


def _allocations(found: list[dict[str, Any]]) -> Table:
    table = Table("catalogue", "concurrent", title="Orders allocated per second, singly and by group commit")
    for way in ("single", "group"):
        for what in ("/s", "p50 ms", "p99 ms"):
            table.add_column(f"{way} {what}", justify="right")
    table.add_column("ratio", justify="right")
    for row in found:
        numbers = [str(row[way][what]) for way in ("single", "group") for what in ("per_second", "p50_ms", "p99_ms")]
        table.add_row(row["catalogue"], str(row["concurrent"]), *numbers, str(row["ratio"]))
    return table


def _plans(found: list[dict[str, Any]]) -> Table:
    table = Table("objective", title="Plans compared with a mixed-integer program")
    for column in [each for each in found[0] if each != "objective"]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in found:
        table.add_row(*map(str, row.values()))
    return table


def _labels(found: list[dict[str, Any]]) -> Table:
    title = f"{labels.PAGES} labels of {labels.SIZE} mm"
    table = Table("format", title=title, caption="ratio: pages per second compared with bare reportlab")
    for column in ("pages/s", "ratio", "kB/page"):
        table.add_column(column, justify="right")
    for row in found:
        table.add_row(*map(str, row.values()))
    return table


def _workflows(life: dict[str, Any], bares: list[dict[str, Any]], ratio: float) -> Table:
    table = Table("", "Hengdan", "bare, before", "bare, after", title="Orders from webhook to completion")
    each = (life, *bares)
    for name, label in (("per_second", "orders/s"), ("events", "history events")):
        table.add_row(label, *(str(one[name]) for one in each))
    table.add_row("ratio", str(ratio), "", "")
    cpu = [one["cpu_ms_per_order"] for one in each]
    for role in dict.fromkeys(role for one in cpu for role in one):
        table.add_row(f"CPU ms/order: {role}", *(str(one.get(role, "")) for one in cpu))
    table.add_row("CPU ms/order: all", *(str(round(sum(one.values()), 1)) for one in cpu))
    return table


def _endpoints(endpoints: dict[str, Any]) -> Table:
    columns = ("per_second", "p50_ms", "p99_ms", "client_cpu_ms")
    table = Table(
        "backlog",
        "endpoint",
        "acknowledged/s",
        "p50 ms",
        "p99 ms",
        "client CPU ms/message",
        title=f"Webhooks, {CONNECTIONS} connections",
    )
    for backlog, both in endpoints.items():
        for endpoint, measured in both.items():
            table.add_row(backlog, endpoint, *(str(measured[column]) for column in columns))
    return table


def _pushes(found: dict[str, Any]) -> Table:
    table = Table(
        "connections", title="Scans pushed by carriers", caption=f"processed: {found['processed_per_second']}/s"
    )
    for endpoint in pushes.ENDPOINTS:
        for what in ("/s", "p99 ms"):
            table.add_column(f"{endpoint} {what}", justify="right")
    for row in found["endpoints"]:
        numbers = [str(row[endpoint][what]) for endpoint in pushes.ENDPOINTS for what in ("per_second", "p99_ms")]
        table.add_row(str(row["connections"]), *numbers)
    return table


def _on_a_stack(orders: int, messages: int, parts: Collection[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        os.environ["HENGDAN_PRIVATE_HOSTS"] = '["127.0.0.1"]'
        modules = {"sandbox": "starter.sandbox", "bare": "tests.bench.http_load"}
        with ExitStack() as opened:
            listeners = {name: opened.enter_context(listen(state / f"{name}-port")) for name in modules}
            children = {name: ([sys.executable, "-m", module], listeners[name]) for name, module in modules.items()}
            stack = opened.enter_context(Stack(state, children=children))
            sandbox, bare = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in listeners.values())
            return asyncio.run(measure(stack, sandbox, bare, orders, messages, parts))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("--orders", type=int, default=400, help="workflows of each kind")
    parser.add_argument("--messages", type=int, default=1000, help="webhooks in each measurement of an endpoint")
    parser.add_argument("--cases", type=int, default=20, help="plans of each size and objective")
    parser.add_argument("--report", type=Path, help="write the results to this file as JSON")
    parser.add_argument("--only", choices=PARTS, help="run only this part")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else PARTS
    results: dict[str, Any] = {}
    if not WITHOUT_STACK.issuperset(parts):
        results = _on_a_stack(arguments.orders, arguments.messages, parts)
    if "addresses" in parts:
        results["addresses"] = addresses.report()
    if "sweeps" in parts:
        results["sweeps"] = sweeps.report()
    if "labels" in parts:
        results["labels"] = labels.report()
    if "planning" in parts:
        results["planning"] = planning.report(arguments.cases)
    show(results)
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(results, indent=2))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
