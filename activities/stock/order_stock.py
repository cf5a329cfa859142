"""What orders do to stock: allocate, ship, return, give back."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.stock.ledger import has_entered, levels, lower_safety_stock, move
from activities.stock.waitlist import notify_waiting_orders
from models.fulfillment import Fulfillment, FulfillmentStatus, ShortfallKind
from models.state import Snapshot
from models.stock import Move, MovementKind, Reservation

_tables = SQLModel.metadata.tables
_warehouses, _reservations = _tables["warehouses"], _tables["reservations"]
_fulfillments, _waits = _tables["fulfillments"], _tables["stock_waits"]


def _moves(kind: MovementKind, act: str, owned: Iterable[tuple[str, Fulfillment]]) -> list[Move]:
    """One movement per fulfillment order, given with its order's id, and SKU, keyed by both."""
    totals: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for order_id, each in owned:
        for line in each.lines:
            totals[order_id, each.id, line.stock or each.warehouse, line.sku] += line.quantity
    return [
        Move(key=f"{id_}:{act}", kind=kind, warehouse=warehouse, sku=sku, quantity=quantity, order_id=order_id)
        for (order_id, id_, warehouse, sku), quantity in totals.items()
    ]


_ENDED = "ended"
"""An allocation ends once: shipped or given back, whichever came first, never both."""


async def allocate(
    connection: AsyncConnection, owned: Sequence[tuple[str, Fulfillment]], others: Sequence[Move]
) -> None:
    """Allocates what is in the fulfillment orders, each with its order's id, together with other movements.

    The caller has locked the levels.
    """
    await move(connection, [*others, *_moves(MovementKind.ALLOCATED, "allocated", owned)], locked=True)


async def ship(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """The goods have left: off the stock, and no longer allocated."""
    await move(connection, _moves(MovementKind.SHIPPED, _ENDED, [(order_id, fulfillment)]))


async def adjust_for_unreceived_shipment(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """Goods left that were never received, as presale may have it: enters what the books lack as an adjustment."""
    wanted = {each.sku: each for each in _moves(MovementKind.ADJUSTED, "found", [(order_id, fulfillment)])}
    there = {
        each.sku: each.on_hand for each in await levels(connection, wanted) if each.warehouse == fulfillment.warehouse
    }
    found = [
        each.model_copy(
            update={"quantity": each.quantity - there.get(sku, 0), "reason": "shipped before it was received"}
        )
        for sku, each in wanted.items()
        if each.quantity > there.get(sku, 0)
    ]
    await move(connection, found)


async def restock(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """The goods came back."""
    returned = _moves(MovementKind.RETURNED, "returned", [(order_id, fulfillment)])
    if await move(connection, returned):
        await notify_waiting_orders(connection, {each.sku for each in returned}, f"{fulfillment.id}:returned")


async def release_inactive(
    connection: AsyncConnection, snapshot: Snapshot, rejected: Fulfillment | None = None
) -> None:
    """Gives back every fulfillment order that the snapshot does not count as active; an ended order waits no more.

    ``rejected`` is the one among them whose warehouse found something amiss: its books are put right with it.
    """
    kept = [each.id for each in snapshot.fulfillments if each.status is not FulfillmentStatus.CANCELLED]
    stopped = [
        Fulfillment(id=row.id, warehouse=row.warehouse, lines=row.lines)
        for row in await connection.execute(
            select(_fulfillments.c.id, _fulfillments.c.warehouse, _fulfillments.c.lines).where(
                _fulfillments.c.order_id == snapshot.order_id, _fulfillments.c.id.not_in(kept)
            )
        )
    ]
    given_back = _moves(MovementKind.DEALLOCATED, _ENDED, [(snapshot.order_id, each) for each in stopped])
    amiss: list[Move] = []
    if rejected and not await has_entered(connection, f"{rejected.id}:{_ENDED}"):
        amiss = await _shortfall_moves(connection, snapshot.order_id, rejected, given_back)
    if await move(connection, [*given_back, *amiss]):
        await connection.execute(
            update(_fulfillments)
            .where(_fulfillments.c.id.in_([each.id for each in stopped]))
            .values(status=FulfillmentStatus.CANCELLED)
        )
        await notify_waiting_orders(
            connection, {each.sku for each in given_back}, f"{snapshot.order_id}:{snapshot.revision}"
        )
    if not snapshot.reserved:
        await unreserve(connection, snapshot.order_id, snapshot.revision)
    if snapshot.status.final:
        await connection.execute(delete(_waits).where(_waits.c.order_id == snapshot.order_id))


async def _shortfall_moves(
    connection: AsyncConnection, order_id: str, rejected: Fulfillment, given_back: Sequence[Move]
) -> list[Move]:
    """What a rejection says of the stock, as movements beside those that give the goods back.

    Not found: nothing that is not promised to others is there, also of virtual warehouses. A mismatch: so many fewer
    are there than were asked for. Damaged: so many are not for sale.
    """
    asked: Counter[str] = Counter()
    for line in rejected.lines:
        asked[line.sku] += line.quantity
    shelves = await connection.scalars(
        select(_warehouses.c.code).where(
            or_(_warehouses.c.code == rejected.warehouse, _warehouses.c.parent == rejected.warehouse)
        )
    )
    places = set(shelves)
    back: Counter[tuple[str, str]] = Counter()
    for move_ in given_back:
        back[move_.warehouse, move_.sku] += move_.quantity
    free: dict[str, dict[str, int]] = defaultdict(dict)
    for level in await levels(connection, asked, lock=True):
        if level.warehouse in places:
            unpromised = level.on_hand - level.allocated - level.reserved - level.unavailable
            free[level.sku][level.warehouse] = unpromised + back[level.warehouse, level.sku]
    found: list[Move] = []
    for each in rejected.shortfalls:
        damaged = each.kind is ShortfallKind.DAMAGED
        lost = each.quantity if damaged else asked[each.sku] - each.quantity
        everything = each.kind is ShortfallKind.NOT_FOUND
        for warehouse in sorted(free[each.sku], key=lambda code: (code != rejected.warehouse, code)):
            part = free[each.sku][warehouse] if everything else min(lost, free[each.sku][warehouse])
            if part > 0:
                lost -= part
                found.append(
                    Move(
                        key=f"{rejected.id}:rejected",
                        kind=MovementKind.QUARANTINED if damaged else MovementKind.ADJUSTED,
                        warehouse=warehouse,
                        sku=each.sku,
                        quantity=part if damaged else -part,
                        order_id=order_id,
                        reason=f"rejected: {each.kind}",
                        actor=f"warehouse:{rejected.warehouse}",
                    )
                )
    await lower_safety_stock(connection, found, back)
    return found


async def unreserve(connection: AsyncConnection, order_id: str, revision: int) -> None:
    """Gives back what was reserved for an order, if anything still is."""
    query = select(_reservations).where(_reservations.c.order_id == order_id)
    kept = [Reservation.model_validate(row._mapping) for row in await connection.execute(query)]
    if await move(connection, [each.move(MovementKind.RELEASED) for each in kept]):
        await connection.execute(delete(_reservations).where(_reservations.c.order_id == order_id))
        await notify_waiting_orders(connection, {each.sku for each in kept}, f"{order_id}:{revision}:unreserved")
