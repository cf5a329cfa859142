"""Low-stock alerts: one alert until there is enough again."""

import pytest
from sqlalchemy import select
from temporalio.testing import ActivityEnvironment

from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.stock import thresholds
from activities.stock.thresholds import Threshold, ThresholdReport, watch_thresholds
from models.exceptions import ExceptionRow
from starter.sandbox.merchant import seed
from tests.integration.books import admitted, receive
from tests.unit.orders import line


@pytest.fixture(autouse=True)
async def catalogue(database: str) -> None:
    async with transaction() as connection:
        await seed(connection)


async def set_threshold(sku: str, below: int, warehouse: str = "") -> None:
    async with transaction() as connection:
        await thresholds.save(connection, Threshold(sku=sku, warehouse=warehouse, below=below))


async def check_thresholds() -> tuple[int, int]:
    report: ThresholdReport = await ActivityEnvironment().run(watch_thresholds)
    return report.raised, report.closed


async def open_exceptions() -> list[str]:
    async with transaction() as connection:
        query = select(ExceptionRow.key).where(ExceptionRow.closed_at.is_(None)).order_by("key")  # type: ignore[union-attr]
        return list(await connection.scalars(query))


async def test_low_stock_raises_one_alert_until_there_is_enough_again() -> None:
    await set_threshold("A001", 5)
    await set_threshold("A001", 3, "GZ")
    await receive("SH", "A001", 6)
    assert await check_thresholds() == (1, 0)
    assert await open_exceptions() == ["low_stock:GZ:A001"]
    await admitted("1", line(1, "A001", 2))
    assert await check_thresholds() == (1, 0)
    assert await check_thresholds() == (0, 0)
    assert await open_exceptions() == ["low_stock::A001", "low_stock:GZ:A001"]
    await receive("GZ", "A001", 3)
    assert await check_thresholds() == (0, 2)
    await admitted("2", line(1, "A001", 4))
    assert await check_thresholds() == (1, 0)
    assert await open_exceptions() == ["low_stock::A001"]
    await set_threshold("A001", 0)
    assert await check_thresholds() == (0, 1)


async def test_threshold_of_an_unknown_sku_is_refused() -> None:
    with pytest.raises(InvalidInput, match="catalogue"):
        await set_threshold("no such", 5)
