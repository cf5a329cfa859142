"""Stock movements of orders: reserve, allocate, ship, return, give back."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.stock.ledger import has_entered, levels, lower_safety_stock, move
from activities.stock.waitlist import end_waiting, notify_waiting_orders
from models.fulfillment import Fulfillment, FulfillmentStatus, ShortfallKind, TrackingStatus
from models.state import Snapshot
from models.stock import Move, MovementKind, Reservation

_tables = SQLModel.metadata.tables
_warehouses, _reservations = _tables["warehouses"], _tables["reservations"]
_fulfillments = _tables["fulfillments"]


def _moves(kind: MovementKind, act: str, fulfillments: Iterable[tuple[str, Fulfillment]]) -> list[Move]:
    """Return one movement for each SKU of each fulfillment order, which is given with its order's id."""
    totals: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for order_id, each in fulfillments:
        for line in each.lines:
            totals[order_id, each.id, line.stock or each.warehouse, line.sku] += line.quantity
    return [
        Move(key=f"{id_}:{act}", kind=kind, warehouse=warehouse, sku=sku, quantity=quantity, order_id=order_id)
        for (order_id, id_, warehouse, sku), quantity in totals.items()
    ]


_ENDED = "ended"
"""Keys the end of an allocation, so that it is either shipped or given back, never both."""


async def allocate(
    connection: AsyncConnection, fulfillments: Sequence[tuple[str, Fulfillment]], others: Sequence[Move]
) -> None:
    """Allocate the goods of fulfillment orders, each given with its order's id, together with other movements.

    The caller has locked the levels.
    """
    await move(connection, [*others, *_moves(MovementKind.ALLOCATED, "allocated", fulfillments)], locked=True)


async def reenter(connection: AsyncConnection, order_id: str, fulfillments: Sequence[Fulfillment]) -> bool:
    """Enter the movements of an order that the ledger has lost, as by a restore; return whether its stock sufficed.

    Stock that is short by now is adjusted: these goods were allocated, and may have left. Raise ``InvalidInput`` if a
    level itself is lost.
    """

    def those(which: Callable[[Fulfillment], bool]) -> list[tuple[str, Fulfillment]]:
        return [(order_id, each) for each in fulfillments if which(each)]

    moves = [
        *_moves(MovementKind.ALLOCATED, "allocated", those(lambda each: True)),
        *_moves(MovementKind.DEALLOCATED, _ENDED, those(lambda each: each.status is FulfillmentStatus.CANCELLED)),
        *_moves(MovementKind.SHIPPED, _ENDED, those(lambda each: each.deducted)),
        *_moves(MovementKind.RETURNED, "returned", those(lambda each: each.tracking is TrackingStatus.RETURNED)),
    ]
    free = {
        (each.warehouse, each.sku): each.promisable
        for each in await levels(connection, {each.sku for each in moves}, lock=True)
    }
    adjustments = []
    for each in _moves(
        MovementKind.ADJUSTED, "reentered", those(lambda each: each.status is not FulfillmentStatus.CANCELLED)
    ):
        if await has_entered(connection, f"{each.key.removesuffix(':reentered')}:allocated"):
            continue
        place = (each.warehouse, each.sku)
        if (short := each.quantity - free.get(place, 0)) > 0:
            adjustments.append(each.model_copy(update={"quantity": short, "reason": "allocated before a restore"}))
        free[place] = max(free.get(place, 0) - each.quantity, 0)
    await move(connection, [*adjustments, *moves], locked=True)
    return not adjustments


async def ship(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """Deduct goods that have left."""
    await move(connection, _moves(MovementKind.SHIPPED, _ENDED, [(order_id, fulfillment)]))


async def adjust_for_unreceived_shipment(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """Add goods that were shipped before they were received, as in a presale, by an adjustment."""
    shipped = {each.sku: each for each in _moves(MovementKind.ADJUSTED, "found", [(order_id, fulfillment)])}
    on_hand = {
        each.sku: each.on_hand for each in await levels(connection, shipped) if each.warehouse == fulfillment.warehouse
    }
    adjustments = [
        each.model_copy(
            update={"quantity": each.quantity - on_hand.get(sku, 0), "reason": "shipped before it was received"}
        )
        for sku, each in shipped.items()
        if each.quantity > on_hand.get(sku, 0)
    ]
    await move(connection, adjustments)


async def restock(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """Add goods that came back."""
    returned = _moves(MovementKind.RETURNED, "returned", [(order_id, fulfillment)])
    if await move(connection, returned):
        await notify_waiting_orders(connection, {each.sku for each in returned}, f"{fulfillment.id}:returned")


async def release_inactive(
    connection: AsyncConnection, snapshot: Snapshot, rejected: Fulfillment | None = None
) -> None:
    """Give back the goods of every fulfillment order that is not active in the snapshot; end an ended order's waiting.

    ``rejected`` is the one among them that its warehouse rejected for missing or damaged goods: stock is corrected.
    """
    active = [each.id for each in snapshot.fulfillments if each.status is not FulfillmentStatus.CANCELLED]
    inactive = [
        Fulfillment(id=row.id, warehouse=row.warehouse, lines=row.lines)
        for row in await connection.execute(
            select(_fulfillments.c.id, _fulfillments.c.warehouse, _fulfillments.c.lines).where(
                _fulfillments.c.order_id == snapshot.order_id, _fulfillments.c.id.not_in(active)
            )
        )
    ]
    given_back = _moves(MovementKind.DEALLOCATED, _ENDED, [(snapshot.order_id, each) for each in inactive])
    corrections: list[Move] = []
    if rejected and not await has_entered(connection, f"{rejected.id}:{_ENDED}"):
        corrections = await _shortfall_moves(connection, snapshot.order_id, rejected, given_back)
    if await move(connection, [*given_back, *corrections]):
        await connection.execute(
            update(_fulfillments)
            .where(_fulfillments.c.id.in_([each.id for each in inactive]))
            .values(status=FulfillmentStatus.CANCELLED)
        )
        await notify_waiting_orders(connection, {each.sku for each in given_back}, f"{snapshot.order_id}:{uuid4()}")
    if not snapshot.reserved:
        await unreserve(connection, snapshot.order_id)
    if snapshot.status.final:
        await end_waiting(connection, snapshot.order_id, f"{snapshot.order_id}:{snapshot.revision}:ended")


async def _shortfall_moves(
    connection: AsyncConnection, order_id: str, rejected: Fulfillment, given_back: Sequence[Move]
) -> list[Move]:
    """Return the movements that correct stock after a rejection, beside those that give the goods back.

    Not found: writes off everything not promised to others, also at virtual warehouses. Mismatch: writes off the
    difference between the quantity requested and the quantity found. Damaged: quarantines the quantity.
    """
    requested: Counter[str] = Counter()
    for line in rejected.lines:
        requested[line.sku] += line.quantity
    places = set(
        await connection.scalars(
            select(_warehouses.c.code).where(
                or_(_warehouses.c.code == rejected.warehouse, _warehouses.c.parent == rejected.warehouse)
            )
        )
    )
    back: Counter[tuple[str, str]] = Counter()
    for move_ in given_back:
        back[move_.warehouse, move_.sku] += move_.quantity
    free: dict[str, dict[str, int]] = defaultdict(dict)
    for level in await levels(connection, requested, lock=True):
        if level.warehouse in places:
            unpromised = level.on_hand - level.allocated - level.reserved - level.unavailable
            free[level.sku][level.warehouse] = unpromised + back[level.warehouse, level.sku]
    moves: list[Move] = []
    for each in rejected.shortfalls:
        damaged = each.kind is ShortfallKind.DAMAGED
        lost = each.quantity if damaged else requested[each.sku] - each.quantity
        everything = each.kind is ShortfallKind.NOT_FOUND
        for warehouse in sorted(free[each.sku], key=lambda code: (code != rejected.warehouse, code)):
            part = free[each.sku][warehouse] if everything else min(lost, free[each.sku][warehouse])
            if part > 0:
                lost -= part
                moves.append(
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
    await lower_safety_stock(connection, moves, back)
    return moves


def select_reservations(order_ids: Any) -> Select[Any]:
    """Select the reservations of the orders, given as an array."""
    return select(_reservations).where(_reservations.c.order_id == func.any(order_ids))


async def insert_reservations(connection: AsyncConnection, reservations: Sequence[Reservation]) -> None:
    """Insert reservations; their movements are the caller's."""
    await connection.execute(insert(_reservations), [each.model_dump() for each in reservations])


async def delete_reservations(connection: AsyncConnection, order_ids: Collection[str]) -> None:
    """Delete the orders' reservations; their movements are the caller's."""
    await connection.execute(delete(_reservations).where(_reservations.c.order_id.in_(order_ids)))


async def unreserve(connection: AsyncConnection, order_id: str) -> None:
    """Release an order's reservations, if it still has any."""
    query = select(_reservations).where(_reservations.c.order_id == order_id)
    reservations = [Reservation.model_validate(row._mapping) for row in await connection.execute(query)]
    if await move(connection, [each.move(MovementKind.RELEASED) for each in reservations]):
        await delete_reservations(connection, [order_id])
        skus = {each.sku for each in reservations}
        await notify_waiting_orders(connection, skus, f"{order_id}:{uuid4()}:unreserved")
