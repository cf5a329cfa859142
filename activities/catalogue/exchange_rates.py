"""The exchange rates, as imported by the sheet ``exchange_rates``, and the orders held until one is known."""

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Table, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.catalogue.sku_mapping import MAPPED
from activities.intake import inbox
from activities.kit.ttl_cache import TtlCache
from models.exchange_rates import NO_RATE, ExchangeRateRow, NoRate, Rates
from models.hold import HoldKind
from models.money import Money
from models.order import OrderRow, OrderStatus
from models.settings import settings

_LOCK = 0x72617465
"""Advisory lock: shared while an order finds a rate missing and records that, exclusive while rates are imported."""

_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_rates: Table = ExchangeRateRow.__table__  # type: ignore[attr-defined]
_cache: TtlCache[str, Rates] = TtlCache(5)


async def load(connection: AsyncConnection) -> Rates:
    """Return the rates, at most five seconds old."""
    return await _cache.get(str(connection.engine.url), lambda: _read(connection))


async def refresh(connection: AsyncConnection, currencies: Collection[str], at: datetime) -> None:
    """Make the next ``load`` read the database if a rate into the home currency is missing.

    An import waits for the present transaction, so that it sees the orders that this one holds for the rate.
    """
    rates = await load(connection)
    try:
        for currency in currencies:
            rates.convert(Money(amount=Decimal(1), currency=currency), settings().currency, at)
    except NoRate:
        await connection.execute(select(func.pg_advisory_xact_lock_shared(_LOCK)))
        clear_cache()


async def lock(connection: AsyncConnection) -> None:
    """Lock before rates are imported, so that ``notify_held_orders`` sees every order held until then."""
    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


async def notify_held_orders(connection: AsyncConnection, currencies: Collection[str], cause: str) -> None:
    """Notify the orders that are held because no rate was known for one of these currencies."""
    held = [
        _orders.c.holds.contains([{"kind": HoldKind.REVIEW, "reason": NO_RATE, "params": {"currency": currency}}])
        for currency in sorted(currencies)
    ]
    query = select(_orders.c.id, _orders.c.priority).where(
        _orders.c.status.in_([OrderStatus.IN_REVIEW, OrderStatus.ON_HOLD]), or_(*held)
    )
    waiting = await connection.execute(query)
    await inbox.notify_orders(connection, MAPPED, cause, {row.id: row.priority for row in waiting})


async def _read(connection: AsyncConnection) -> Rates:
    query = select(_rates.c.currency, _rates.c.base, _rates.c.day, _rates.c.rate)
    return Rates([(row.currency, row.base, row.day, row.rate) for row in await connection.execute(query)])


def clear_cache() -> None:
    """Make the next ``load`` of this process read the database."""
    _cache.clear()
