"""A first catalogue: SKUs, bundles, locations and exchange rates for demos and tests."""

from collections.abc import Collection

from sqlalchemy.dialects.postgresql import insert

from activities.kit.database import Connection
from models.exchange_rates import ExchangeRateRow
from models.stock import BundleRow, SkuRow, WarehouseRow
from models.vault import seal_row


async def insert_missing(
    connection: Connection,
    skus: Collection[SkuRow],
    bundles: Collection[BundleRow],
    locations: Collection[WarehouseRow],
    rates: Collection[ExchangeRateRow],
) -> None:
    """Insert the rows that are not there yet; existing rows stay as they are."""
    for table, rows in (
        (SkuRow, [row.model_dump() for row in skus]),
        (BundleRow, [row.model_dump() for row in bundles]),
        (WarehouseRow, [seal_row(WarehouseRow, {**row.model_dump(), "sender": row.sender}) for row in locations]),
        (ExchangeRateRow, [row.model_dump() for row in rates]),
    ):
        await connection.execute(insert(table).values(rows).on_conflict_do_nothing())
