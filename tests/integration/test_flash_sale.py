"""A flash sale: more buyers than goods, from several worker processes, one of which may be killed."""

import asyncio
import sys
from collections.abc import Sequence

import pytest
from sqlalchemy import func, select
from sqlmodel import SQLModel

from activities.kit.database import transaction
from activities.stock import ledger, operations
from models.stock import UNLIMITED
from starter.sandbox import merchant
from tests.integration.buyers import HOT, buyers

PROCESSES = ("a", "b", "c", "d")
UNITS = 1000
_fulfillments, _waits = (SQLModel.metadata.tables[name] for name in ("fulfillments", "stock_waits"))


@pytest.fixture
async def sale_stock(database: str) -> None:
    async with transaction() as connection:
        await merchant.seed(connection)
        await operations.receive(connection, "SH", HOT, 600, "sh", "test")
        await operations.receive(connection, "GZ", HOT, UNITS - 600, "gz", "test")


async def start_buyers(name: str, count: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.integration.buyers", name, str(count))


async def allocated_orders() -> list[str]:
    async with transaction() as connection:
        return list(await connection.scalars(select(_fulfillments.c.order_id)))


async def sold_out(count: int) -> None:
    """Require that all stock is allocated, each piece to one buyer; the others wait; levels equal the ledger."""
    won = await allocated_orders()
    assert len(won) == len(set(won)) == UNITS
    async with transaction() as connection:
        levels = await ledger.levels(connection, [HOT])
        assert sum(level.allocated for level in levels) == UNITS < UNLIMITED
        assert all(level.available == 0 for level in levels)
        assert await connection.scalar(select(func.count()).select_from(_waits)) == count - UNITS
        assert await ledger.verify(connection) == []


def served_in_sequence(name: str, count: int, won: Sequence[str]) -> bool:
    """Whether the process served its buyers by priority, then by the time of the order."""
    in_turn = [order.order_id in set(won) for order in buyers(name, count)]
    return in_turn == sorted(in_turn, reverse=True)


async def test_five_thousand_buyers_of_a_thousand_units(sale_stock: None) -> None:
    processes = [await start_buyers(name, 1250) for name in PROCESSES]
    assert [await each.wait() for each in processes] == [0] * len(processes)
    await sold_out(5000)
    won = await allocated_orders()
    assert all(served_in_sequence(name, 1250, won) for name in PROCESSES)


async def test_worker_killed_during_the_sale(sale_stock: None) -> None:
    processes = [await start_buyers(name, 400) for name in PROCESSES]
    while not any(":a-" in order_id for order_id in await allocated_orders()):
        assert processes[0].returncode is None
        await asyncio.sleep(0.02)
    processes[0].kill()
    assert await processes[0].wait() != 0
    processes.append(await start_buyers("a", 400))
    assert [await each.wait() for each in processes[1:]] == [0] * len(PROCESSES)
    await sold_out(1600)
