"""Orders allocated per second: one transaction per order, and group commit, on the same PostgreSQL."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from random import Random
from typing import Any

from sqlalchemy import insert
from sqlmodel import SQLModel

from activities.kit.database import transaction
from activities.kit.group_commit import GroupCommit
from activities.orders import steps
from activities.stock.ledger import move
from models.order import ChannelOrder
from models.policy import Policy
from models.state import OrderState
from models.stock import Move, MovementKind
from tests.unit.orders import an_order, line
from workers import memory

CONCURRENT = (1, 8, 64)
SPREAD = 10_000
LINES = 5
_skus, _levels, _orders = (SQLModel.metadata.tables[name] for name in ("skus", "stock_levels", "orders"))
_numbers = count()

Process = Callable[[steps.OrderTask], Awaitable[Any]]


async def single(task: steps.OrderTask) -> None:
    async with transaction() as connection:
        await steps.process_tasks(connection, [task])


async def receive_stock() -> None:
    """Receive one hot SKU and a catalogue of ten thousand SKUs at two warehouses."""
    skus = ["HOT", *(f"S{number:05}" for number in range(SPREAD))]
    async with transaction() as connection:
        await connection.execute(
            insert(_skus),
            [{"sku": sku, "title": sku, "title_zh": "", "price": 1, "weight_kg": 1, "oversell": False} for sku in skus],
        )
        places = [{"warehouse": warehouse, "sku": sku} for sku in skus for warehouse in ("SH", "GZ")]
        await connection.execute(insert(_levels), places)
        await move(
            connection,
            [Move(key="bench", kind=MovementKind.RECEIVED, quantity=1_000_000, **place) for place in places],
            locked=True,
        )


def hot(_: Random) -> list[str]:
    return ["HOT"]


def spread(chance: Random) -> list[str]:
    return [f"S{number:05}" for number in chance.sample(range(SPREAD), LINES)]


async def _orders_of(choose: Callable[[Random], list[str]], orders: int) -> list[ChannelOrder]:
    chance = Random(orders)
    made = [
        an_order(f"A{next(_numbers)}", *(line(number, sku) for number, sku in enumerate(choose(chance), 1)))
        for _ in range(orders)
    ]
    async with transaction() as connection:
        await connection.execute(insert(_orders), [steps.order_row(order, datetime.now(UTC)) for order in made])
    return made


async def _timed(process: Process, orders: Sequence[ChannelOrder], concurrent: int) -> dict[str, float]:
    waiting = [
        steps.OrderTask(state=OrderState(order=order, policy=Policy()), at=datetime.now(UTC), new=False)
        for order in orders
    ]
    waiting.reverse()
    durations: list[float] = []

    async def work() -> None:
        while waiting:
            task, started = waiting.pop(), time.perf_counter()
            await process(task)
            durations.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrent)))
    seconds = time.perf_counter() - started
    durations.sort()
    return {
        "per_second": round(len(orders) / seconds),
        "p50_ms": round(durations[len(durations) // 2], 1),
        "p99_ms": round(durations[int(len(durations) * 0.99)], 1),
    }


async def compare(orders: int) -> list[dict[str, Any]]:
    """Return one row per catalogue and number of concurrent orders."""
    await receive_stock()
    memory.tune()
    rows = []
    for choose in (hot, spread):
        for concurrent in CONCURRENT:
            count_ = orders if concurrent > 1 else orders // 4
            one_by_one = await _timed(single, await _orders_of(choose, count_), concurrent)
            group = await _timed(GroupCommit(steps.process_tasks), await _orders_of(choose, count_), concurrent)
            rows.append(
                {
                    "catalogue": choose.__name__,
                    "concurrent": concurrent,
                    "single": one_by_one,
                    "group": group,
                    "ratio": round(group["per_second"] / one_by_one["per_second"], 1),
                }
            )
    return rows
