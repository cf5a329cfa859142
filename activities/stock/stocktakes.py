"""Stocktakes: a count of a location, and the entry of its differences from book stock once approved.

A count covers the physical location including its virtual warehouses. Approval enters the difference, not the count,
so that movements between counting and approving stay right.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Table, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.catalogue import skus
from activities.kit.errors import InvalidInput
from activities.stock import ledger, operations
from models.base import Moment, Value
from models.stock import MAX_QUANTITY, LevelRow, Move, MovementKind, StocktakeRow, StocktakeStatus, WarehouseRow

_stocktakes: Table = StocktakeRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]


class Counted(Value):
    """One SKU of a count: its book quantity at that time, and the quantity counted."""

    sku: str
    book: int
    counted: int

    @property
    def difference(self) -> int:
        return self.counted - self.book


class Stocktake(Value):
    id: str
    warehouse: str
    status: StocktakeStatus
    lines: tuple[Counted, ...]
    counted_by: str
    counted_at: Moment
    decided_by: str | None = None
    decided_at: Moment | None = None


async def save_count(
    connection: AsyncConnection, warehouse: str, counts: Mapping[str, int], request_id: str | None, actor: str
) -> Stocktake:
    """Save a count with current book quantities; repeating a request returns the same. Raise ``InvalidInput``."""
    if not counts:
        raise InvalidInput("counts", "invalid.counts.none")
    place = (await connection.execute(select(_warehouses).where(_warehouses.c.code == warehouse))).one_or_none()
    if place is None or place.parent is not None:
        raise InvalidInput("warehouse", "invalid.warehouse.no_goods", warehouse=warehouse)
    if wrong := [sku for sku, quantity in counts.items() if not 0 <= quantity <= MAX_QUANTITY]:
        raise InvalidInput("counts", "invalid.quantity.of", sku=wrong[0], least=0, most=MAX_QUANTITY)
    if unknown := await skus.unknown_skus(connection, counts):
        raise InvalidInput("counts", "invalid.sku.unknown", sku=unknown[0])
    code = _warehouses.c.code.label("code")
    places = select(code).where(or_(_warehouses.c.code == warehouse, _warehouses.c.parent == warehouse))
    books = {
        row.sku: row.book
        for row in await connection.execute(
            select(_levels.c.sku, func.sum(_levels.c.on_hand).label("book"))
            .where(_levels.c.sku.in_(counts), _levels.c.warehouse.in_(places))
            .group_by(_levels.c.sku)
        )
    }
    lines = [{"sku": sku, "book": books.get(sku, 0), "counted": quantity} for sku, quantity in sorted(counts.items())]
    row = {
        "id": f"stocktake:{request_id or uuid4()}",
        "warehouse": warehouse,
        "lines": lines,
        "counted_by": actor,
        "counted_at": datetime.now(UTC),
    }
    await connection.execute(insert(_stocktakes).values(row).on_conflict_do_nothing())
    return await get(connection, str(row["id"]))


async def get(connection: AsyncConnection, stocktake_id: str, *, lock: bool = False) -> Stocktake:
    """Return a stocktake. Raise ``InvalidInput`` if there is none with this id."""
    query = select(_stocktakes).where(_stocktakes.c.id == stocktake_id)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise InvalidInput("id", "invalid.stocktake.unknown", stocktake=stocktake_id)
    return Stocktake.model_validate(row._mapping)


async def list_all(connection: AsyncConnection, status: StocktakeStatus | None, limit: int = 100) -> list[Stocktake]:
    """Return stocktakes, newest first."""
    query = select(_stocktakes).order_by(_stocktakes.c.counted_at.desc(), _stocktakes.c.id).limit(limit)
    if status is not None:
        query = query.where(_stocktakes.c.status == status)
    return [Stocktake.model_validate(row._mapping) for row in await connection.execute(query)]


async def approve(connection: AsyncConnection, stocktake_id: str, actor: str) -> Stocktake:
    """Enter the differences, unless approved already. Raise ``InvalidInput``."""
    stocktake = await get(connection, stocktake_id, lock=True)
    if stocktake.status is StocktakeStatus.DISCARDED:
        raise InvalidInput("id", "invalid.stocktake.discarded")
    for line in stocktake.lines:
        await ledger.open_level(connection, stocktake.warehouse, line.sku)
    differences = [
        Move(
            key=stocktake.id,
            kind=MovementKind.ADJUSTED,
            warehouse=stocktake.warehouse,
            sku=line.sku,
            quantity=line.difference,
            reason=f"counted {line.counted}, booked {line.book}",
            actor=actor,
        )
        for line in stocktake.lines
        if line.difference
    ]
    if differences:
        await operations.post_corrections(connection, differences)
    return await _decide(connection, stocktake, StocktakeStatus.APPROVED, actor)


async def discard(connection: AsyncConnection, stocktake_id: str, actor: str) -> Stocktake:
    """Discard a count; it stays on record. Raise ``InvalidInput``."""
    stocktake = await get(connection, stocktake_id, lock=True)
    if stocktake.status is StocktakeStatus.APPROVED:
        raise InvalidInput("id", "invalid.stocktake.approved")
    return await _decide(connection, stocktake, StocktakeStatus.DISCARDED, actor)


async def _decide(connection: AsyncConnection, stocktake: Stocktake, status: StocktakeStatus, actor: str) -> Stocktake:
    if stocktake.status is status:
        return stocktake
    decided: dict[str, Any] = {"status": status, "decided_by": actor, "decided_at": datetime.now(UTC)}
    await connection.execute(update(_stocktakes).where(_stocktakes.c.id == stocktake.id).values(decided))
    return stocktake.model_copy(update=decided)
