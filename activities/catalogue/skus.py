"""SKUs of the catalogue."""

from collections.abc import Collection
from datetime import date

from sqlalchemy import Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.sql import in_values
from models.stock import SkuRow

_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]


async def unknown_skus(connection: AsyncConnection, skus: Collection[str]) -> list[str]:
    """Return the SKUs that are not in the catalogue."""
    known = await connection.scalars(select(_skus.c.sku).where(_skus.c.sku.in_(skus)))
    return sorted(set(skus) - set(known))


async def lock_skus(connection: AsyncConnection, skus: Collection[str]) -> None:
    """Keep other transactions from creating levels of these SKUs until this one ends."""
    query = select(_skus.c.sku).where(in_values(_skus.c.sku, skus)).order_by(_skus.c.sku)
    await connection.execute(query.with_for_update(key_share=True))


async def set_presale_date(connection: AsyncConnection, sku: str, presale_on: date | None) -> None:
    """Set the day from which a SKU sold ahead is shipped."""
    await connection.execute(update(_skus).where(_skus.c.sku == sku).values(presale_on=presale_on))
