"""SKUs of the catalogue."""

from collections.abc import Collection

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from models.stock import SkuRow

_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]


async def unknown_skus(connection: AsyncConnection, skus: Collection[str]) -> list[str]:
    """Those of the SKUs that the catalogue does not have."""
    known = await connection.scalars(select(_skus.c.sku).where(_skus.c.sku.in_(skus)))
    return sorted(set(skus) - set(known))


async def lock_skus(connection: AsyncConnection, skus: Collection[str]) -> None:
    """No level of these SKUs is opened by others until this transaction ends."""
    query = select(_skus.c.sku).where(_skus.c.sku.in_(skus)).order_by(_skus.c.sku)
    await connection.execute(query.with_for_update(key_share=True))
