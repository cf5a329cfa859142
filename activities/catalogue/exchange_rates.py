"""The exchange rates, as imported by the sheet ``exchange_rates``."""

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.ttl_cache import TtlCache
from models.exchange_rates import ExchangeRateRow, Rates

_rates: Table = ExchangeRateRow.__table__  # type: ignore[attr-defined]
_cache: TtlCache[str, Rates] = TtlCache(5)


async def load(connection: AsyncConnection) -> Rates:
    """Return the rates, at most five seconds old."""
    return await _cache.get(str(connection.engine.url), lambda: _read(connection))


async def _read(connection: AsyncConnection) -> Rates:
    query = select(_rates.c.currency, _rates.c.base, _rates.c.day, _rates.c.rate)
    return Rates([(row.currency, row.base, row.day, row.rate) for row in await connection.execute(query)])


def clear_cache() -> None:
    """Make the next ``load`` of this process read the database."""
    _cache.clear()
