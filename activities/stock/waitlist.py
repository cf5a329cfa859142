"""Orders that wait for stock, and which of them newly available stock can fill."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ARRAY, Select, String, cast, delete, func, select, tuple_, update
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
    claims: bool = False
    """Whether stock arrived that the order was not filled from: what arrives from then on is first its own."""


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


Turn = tuple[int, Moment, str]
"""An order's place in the queue: its priority, when it was placed, its id."""


class Taken(Value):
    """A quantity of one SKU taken from the pool at a location."""

    location: str
    sku: str
    quantity: int


class Claim(Value):
    """What an order waits for, and where it may be shipped from."""

    turn: Turn
    buyer: Buyer
    places: tuple[str, ...]
    needs: tuple[StockWait, ...]

    @property
    def active(self) -> bool:
        return any(need.claims for need in self.needs)

    def take(self, pool: StockPool) -> tuple[bool, list[Taken]]:
        """Take everything that the order waits for; return whether it was there, and what was taken.

        Where it was not and the claim is active, what the order lacks is taken as far as it is there, so that no later
        order is served from it; what is there in full, only if something of everything is.
        """
        chosen: Counter[str] = Counter()
        lacking: Counter[str] = Counter()
        for need in self.needs:
            for sku in (need.sku, *need.instead):
                if self._promisable(pool, sku) >= chosen[sku] + need.quantity:
                    chosen[sku] += need.quantity
                    break
            else:
                lacking[need.sku] += need.quantity
        if lacking and not self.active:
            return False, []
        if lacking and not all(self._promisable(pool, sku) > chosen[sku] for sku in lacking):
            chosen.clear()
        taken = [
            Taken(location=location, sku=sku, quantity=part)
            for sku, quantity in (chosen + lacking).items()
            for location, part in self._take(pool, sku, quantity)
        ]
        return not lacking, taken

    def _promisable(self, pool: StockPool, sku: str) -> int:
        return sum(pool.promisable(self.buyer, place, sku) for place in self.places)

    def _take(self, pool: StockPool, sku: str, quantity: int) -> Iterator[tuple[str, int]]:
        for place in self.places:
            for location, part in pool.take(self.buyer, place, sku, quantity):
                quantity -= part
                yield location, part


async def list_claims(
    connection: AsyncConnection, skus: Collection[str], *, without: Collection[str] = (), lock: bool = False
) -> list[Claim]:
    """Return the claims of the orders that wait for any of these SKUs, by current priority, then first come.

    ``without`` are orders to leave out. With ``lock``, the rows of all of them stay locked, in one order.
    """
    as_substitute = _waits.c.instead.op("?|")(cast(list(skus), ARRAY(String)))
    waiting = select(_waits.c.order_id).where(_waits.c.sku.in_(skus) | as_substitute)
    query = (
        select(*(each for each in _waits.c if each.name != "priority"), _PRIORITY)
        .outerjoin_from(_waits, _orders, _orders.c.id == _waits.c.order_id)
        .where(_waits.c.order_id.in_(waiting))
        .order_by(_waits.c.order_id, _waits.c.sku)
    )
    queue: dict[str, list[StockWait]] = defaultdict(list)
    for row in await connection.execute(query.with_for_update(of=_waits) if lock else query):
        if row.order_id not in without:
            queue[row.order_id].append(StockWait.model_validate(row._mapping))
    if not queue:
        return []
    query = select(_warehouses.c.code, _warehouses.c.areas)
    shipping = query.where(~_warehouses.c.closed, _warehouses.c.kind != LocationKind.VIRTUAL)
    areas = {row.code: {area[:2] for area in row.areas} for row in await connection.execute(shipping)}
    claims = [
        Claim(
            turn=(needs[0].priority, needs[0].since, order_id),
            buyer=_buyer(needs[0]),
            places=tuple(code for code, named in areas.items() if not named or needs[0].province[:2] in named),
            needs=tuple(needs),
        )
        for order_id, needs in queue.items()
    ]
    return sorted(claims, key=lambda claim: claim.turn)


async def notify_waiting_orders(
    connection: AsyncConnection, skus: Collection[str], cause: str, *, without: Collection[str] = ()
) -> None:
    """Notify the orders waiting for these SKUs that can now be filled, by current priority, then first come.

    An order that is passed over once claims what arrives from then on, before every later order. The waiting rows are
    locked before the levels are read, so that the later of two concurrent arrivals sees both.
    """
    claims = await list_claims(connection, skus, without=without, lock=True)
    if not claims:
        return
    acceptable = {sku for claim in claims for need in claim.needs for sku in (need.sku, *need.instead)}
    pool = StockPool(await levels(connection, acceptable), await list_virtual_warehouses(connection))
    fillable = {claim.turn[2]: claim.turn[0] for claim in claims if claim.take(pool)[0]}
    idle = [claim.turn[2] for claim in claims if not claim.active]
    if idle:
        await connection.execute(update(_waits).where(_waits.c.order_id.in_(idle)).values(claims=True))
    await inbox.notify_orders(connection, "stock_arrived", cause, fillable)


async def end_waiting(connection: AsyncConnection, order_id: str, cause: str) -> None:
    """Remove an order that ended from the queue, and notify those that its claims kept waiting."""
    skus = set(await connection.scalars(select(_waits.c.sku).where(_waits.c.order_id == order_id)))
    if skus:
        await notify_waiting_orders(connection, skus, cause, without=[order_id])
        await dequeue(connection, [order_id])


def _buyer(wait: StockWait) -> Buyer:
    _, channel, shop, _ = wait.order_id.split(":", 3)
    return Buyer(channel=channel, shop=shop, campaign=wait.campaign, priority=wait.priority)
