"""Low-stock thresholds: one alert while less is available than the threshold."""

from collections.abc import Sequence

from pydantic import JsonValue
from sqlalchemy import Table, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.catalogue import skus
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.records import alerts
from models.base import Value
from models.stock import LevelRow, ThresholdRow

_thresholds: Table = ThresholdRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]

KIND = "alert.low_stock"


class Threshold(Value):
    """Alert below this quantity at a warehouse; empty ``warehouse``: at all locations together."""

    sku: str
    warehouse: str = ""
    below: int


class ThresholdReport(Value):
    raised: int
    closed: int


async def save(connection: AsyncConnection, threshold: Threshold) -> None:
    """Save a threshold; delete it if ``below`` is not positive. Raise ``InvalidInput``."""
    if await skus.unknown_skus(connection, [threshold.sku]):
        raise InvalidInput("sku", "invalid.sku.unknown", sku=threshold.sku)
    if threshold.below <= 0:
        key = (_thresholds.c.sku == threshold.sku, _thresholds.c.warehouse == threshold.warehouse)
        await connection.execute(delete(_thresholds).where(*key))
        return
    entered = insert(_thresholds).values(threshold.model_dump())
    await connection.execute(
        entered.on_conflict_do_update(index_elements=["sku", "warehouse"], set_={"below": threshold.below})
    )


async def list_all(connection: AsyncConnection) -> Sequence[Threshold]:
    rows = await connection.execute(select(_thresholds).order_by(_thresholds.c.sku, _thresholds.c.warehouse))
    return [Threshold.model_validate(row._mapping) for row in rows]


@activity.defn(name="stock.watch_thresholds")
async def watch_thresholds() -> ThresholdReport:
    """Raise an alert for each level below its threshold; close the alerts of levels that have recovered."""
    available = _levels.c.on_hand - _levels.c.allocated - _levels.c.reserved - _levels.c.unavailable
    query = (
        select(_thresholds, func.coalesce(func.sum(available), 0).label("available"))
        .outerjoin(
            _levels,
            (_levels.c.sku == _thresholds.c.sku)
            & or_(_thresholds.c.warehouse == "", _thresholds.c.warehouse == _levels.c.warehouse),
        )
        .group_by(*_thresholds.c)
    )
    async with transaction() as connection:
        low = {
            f"low_stock:{row.warehouse}:{row.sku}": _detail(row.sku, row.warehouse, int(row.available), row.below)
            for row in await connection.execute(query)
            if row.available < row.below
        }
        raised, closed = await alerts.keep_alerts(connection, KIND, low)
    return ThresholdReport(raised=raised, closed=closed)


def _detail(sku: str, warehouse: str, available: int, below: int) -> dict[str, JsonValue]:
    return {"sku": sku, "warehouse": warehouse or "*", "available": available, "below": below}
