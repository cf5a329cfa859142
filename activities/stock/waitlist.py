"""Orders that wait for stock, and which of them newly available stock can fill."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ARRAY, Row, Select, String, cast, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.catalogue.locations import list_virtual_warehouses
from activities.catalogue.skus import lock_skus
from activities.intake import inbox
from activities.stock.ledger import levels
from models.base import Moment, Value
from models.stock import Buyer, LocationKind, StockPool

_tables = SQLModel.metadata.tables
_warehouses, _waits, _orders = _tables["warehouses"], _tables["stock_waits"], _tables["orders"]

_PRIORITY = func.coalesce(_orders.c.priority, _waits.c.priority).label("priority")


class StockWait(Value):
    """A quantity of one SKU that an order waits for, and its place in the queue."""

    order_id: str
    sku: str
    quantity: int
    priority: int
    since: Moment
    campaign: str | None
    province: str
    instead: tuple[str, ...] = ()
    """Substitutes that would do, the best first."""


def select_waiting(order_ids: Any) -> Select[Any]:
    """Select those of the orders, given as an array, that wait for stock."""
    return select(_waits.c.order_id).where(_waits.c.order_id == func.any(order_ids))


async def enqueue(connection: AsyncConnection, waits: Sequence[StockWait]) -> None:
    """Make each order wait for exactly these SKUs. An order that waited already keeps its place.

    The SKUs are locked, so that no level of them is created unseen.
    """
    rows = sorted((each.model_dump() for each in waits), key=lambda row: (row["order_id"], row["sku"]))
    keys = {(row["order_id"], row["sku"]) for row in rows}
    await lock_skus(connection, {sku for _, sku in keys})
    of_orders = _waits.c.order_id.in_({order_id for order_id, _ in keys})
    await connection.execute(delete(_waits).where(of_orders, tuple_(_waits.c.order_id, _waits.c.sku).not_in(keys)))
    new = insert(_waits)
    changes = {name: new.excluded[name] for name in ("quantity", "priority", "province", "instead")}
    await connection.execute(new.on_conflict_do_update(index_elements=["order_id", "sku"], set_=changes), rows)


async def dequeue(connection: AsyncConnection, order_ids: Collection[str]) -> None:
    """Remove orders that no longer wait."""
    await connection.execute(delete(_waits).where(_waits.c.order_id.in_(order_ids)))


async def notify_waiting_orders(connection: AsyncConnection, skus: Collection[str], cause: str) -> None:
    """Notify the orders waiting for these SKUs that can now be filled, by current priority, then first come.

    The waiting rows are locked before the levels are read, so that the later of two concurrent arrivals sees both.
    """
    as_substitute = _waits.c.instead.op("?|")(cast(list(skus), ARRAY(String)))
    waiting = select(_waits.c.order_id).where(_waits.c.sku.in_(skus) | as_substitute)
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
    acceptable = {sku for needs in queue.values() for need in needs for sku in (need.sku, *need.instead)}
    pool = StockPool(await levels(connection, acceptable), await list_virtual_warehouses(connection))
    fillable = {}
    for order_id, needs in sorted(queue.items(), key=lambda item: (item[1][0].priority, item[1][0].since, item[0])):
        places = [code for code, named in areas.items() if not named or needs[0].province[:2] in named]
        if _fill(pool, _buyer(order_id, needs[0]), places, needs):
            fillable[order_id] = needs[0].priority
    await inbox.notify_orders(connection, "stock_arrived", cause, fillable)


def _buyer(order_id: str, row: Row[Any]) -> Buyer:
    _, channel, shop, _ = order_id.split(":", 3)
    return Buyer(channel=channel, shop=shop, campaign=row.campaign, priority=row.priority)


def _fill(pool: StockPool, buyer: Buyer, places: Sequence[str], needs: Sequence[Row[Any]]) -> bool:
    """Take everything that an order waits for from the pool, or nothing."""
    chosen: Counter[str] = Counter()
    for need in needs:
        for sku in (need.sku, *need.instead):
            promisable = sum(pool.promisable(buyer, place, sku) for place in places)
            if promisable >= chosen[sku] + need.quantity:
                chosen[sku] += need.quantity
                break
        else:
            return False
    for sku, left in chosen.items():
        for place in places:
            left -= sum(part for _, part in pool.take(buyer, place, sku, left))
    return True
