"""Orders that wait for stock, and which of them newly available stock can fill."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ARRAY, Row, String, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.catalogue.locations import list_virtual_warehouses
from activities.intake import inbox
from activities.stock.ledger import levels
from models.stock import Buyer, LocationKind, StockPool

_tables = SQLModel.metadata.tables
_warehouses, _waits, _orders = _tables["warehouses"], _tables["stock_waits"], _tables["orders"]

_PRIORITY = func.coalesce(_orders.c.priority, _waits.c.priority).label("priority")


async def notify_waiting_orders(connection: AsyncConnection, skus: Collection[str], cause: str) -> None:
    """Wakes the orders that wait for these SKUs and can now be filled, first come first served within a priority, as
    that is by now.

    The waiting rows are locked before the levels are read, so that of two arrivals at once the later sees both.
    """
    anyhow = _waits.c.instead.op("?|")(cast(list(skus), ARRAY(String)))
    waiting = select(_waits.c.order_id).where(_waits.c.sku.in_(skus) | anyhow)
    query = (
        select(*(each for each in _waits.c if each.name != "priority"), _PRIORITY)
        .outerjoin_from(_waits, _orders, _orders.c.id == _waits.c.order_id)
        .where(_waits.c.order_id.in_(waiting))
        .order_by(_waits.c.order_id, _waits.c.sku)
    )
    queue: dict[str, list[Any]] = defaultdict(list)
    for row in await connection.execute(query.with_for_update(of=_waits)):
        queue[row.order_id].append(row)
    if not queue:
        return
    query = select(_warehouses.c.code, _warehouses.c.areas)
    shipping = query.where(~_warehouses.c.closed, _warehouses.c.kind != LocationKind.VIRTUAL)
    areas = {row.code: {area[:2] for area in row.areas} for row in await connection.execute(shipping)}
    asked = {sku for needs in queue.values() for need in needs for sku in (need.sku, *need.instead)}
    pool = StockPool(await levels(connection, asked), await list_virtual_warehouses(connection))
    woken = {}
    for order_id, needs in sorted(queue.items(), key=lambda item: (item[1][0].priority, item[1][0].since, item[0])):
        places = [code for code, named in areas.items() if not named or needs[0].province[:2] in named]
        if _fill(pool, _buyer(order_id, needs[0]), places, needs):
            woken[order_id] = needs[0].priority
    await inbox.notify_orders(connection, "stock_arrived", cause, woken)


def _buyer(order_id: str, row: Row[Any]) -> Buyer:
    _, channel, shop, _ = order_id.split(":", 3)
    return Buyer(channel=channel, shop=shop, campaign=row.campaign, priority=row.priority)


def _fill(pool: StockPool, buyer: Buyer, places: Sequence[str], needs: Sequence[Row[Any]]) -> bool:
    """Takes all that an order waits for off the pool, or nothing."""
    chosen: Counter[str] = Counter()
    for need in needs:
        for sku in (need.sku, *need.instead):
            there = sum(pool.promisable(buyer, place, sku) for place in places)
            if there >= chosen[sku] + need.quantity:
                chosen[sku] += need.quantity
                break
        else:
            return False
    for sku, left in chosen.items():
        for place in places:
            left -= sum(part for _, part in pool.take(buyer, place, sku, left))
    return True
