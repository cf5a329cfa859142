"""Low-stock thresholds: one exception while less is available than the threshold."""

from collections.abc import Sequence

from sqlalchemy import Table, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.catalogue import skus
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.records import exceptions
from models.base import Value
from models.exceptions import ExceptionKind, NewException
from models.stock import LevelRow, ThresholdRow

_thresholds: Table = ThresholdRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]


class Threshold(Value):
    """Open an exception below this quantity at a warehouse; empty ``warehouse``: at all locations together."""

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
    """Open an exception for each level below its threshold; close the exceptions of levels that have recovered."""
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
        low = [
            _low(row.sku, row.warehouse, int(row.available), row.below)
            for row in await connection.execute(query)
            if row.available < row.below
        ]
        raised, closed = await exceptions.sync(connection, ExceptionKind.LOW_STOCK, low)
    return ThresholdReport(raised=raised, closed=closed)


def _low(sku: str, warehouse: str, available: int, below: int) -> NewException:
    return NewException(
        key=f"low_stock:{warehouse}:{sku}",
        kind=ExceptionKind.LOW_STOCK,
        warehouse=warehouse,
        detail={"sku": sku, "warehouse": warehouse or "*", "available": available, "below": below},
    )
