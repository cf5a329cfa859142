"""Stock operations: receive, adjust, grade, move to virtual warehouses, sync suppliers, expect receipts."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from uuid import uuid4

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.catalogue.skus import unknown_skus
from activities.kit.errors import InvalidInput
from activities.stock.ledger import (
    has_entered,
    levels,
    lower_safety_stock,
    move,
    open_level,
    violated_column,
)
from activities.stock.waitlist import notify_waiting_orders
from models.base import Value
from models.stock import EFFECT, MAX_QUANTITY, Level, LocationKind, Move, MovementKind

_tables = SQLModel.metadata.tables
_warehouses, _levels, _incoming = _tables["warehouses"], _tables["stock_levels"], _tables["incoming"]


async def receive(
    connection: AsyncConnection, warehouse: str, sku: str, quantity: int, request_id: str, actor: str
) -> Level:
    """Receive goods, give virtual warehouses their shares, and notify waiting orders that can be filled.

    Raise ``InvalidInput``.
    """
    if not 0 < quantity <= MAX_QUANTITY:
        raise InvalidInput("quantity", "invalid.quantity", least=1, most=MAX_QUANTITY)
    await open_level(connection, warehouse, sku)
    received = Move(
        key=f"received:{request_id}",
        kind=MovementKind.RECEIVED,
        warehouse=warehouse,
        sku=sku,
        quantity=quantity,
        actor=actor,
    )
    return await post(connection, received, *await virtual_shares(connection, received))


async def virtual_shares(connection: AsyncConnection, arrived: Move) -> list[Move]:
    """Return the movements that give virtual warehouses their shares of goods received at their parent."""
    query = select(_warehouses.c.code, _warehouses.c.share).where(
        _warehouses.c.parent == arrived.warehouse, _warehouses.c.share > 0, ~_warehouses.c.closed
    )
    moves: list[Move] = []
    for virtual, share in (await connection.execute(query.order_by(_warehouses.c.code))).all():
        if part := int(arrived.quantity * share):
            await open_level(connection, virtual, arrived.sku, virtual=True)
            moves += virtual_transfer(
                arrived.warehouse, virtual, arrived.sku, part, f"shared:{arrived.key}:{virtual}", arrived.actor
            )
    return moves


def virtual_transfer(warehouse: str, virtual: str, sku: str, quantity: int, key: str, actor: str) -> tuple[Move, Move]:
    """Return the movements of a quantity from a warehouse to its virtual one; back, if the quantity is negative."""
    origin, destination = (warehouse, virtual) if quantity > 0 else (virtual, warehouse)
    out = Move(key=key, kind=MovementKind.TRANSFER_OUT, warehouse=origin, sku=sku, quantity=abs(quantity), actor=actor)
    return out, out.model_copy(update={"kind": MovementKind.TRANSFER_IN, "warehouse": destination})


async def move_to_virtual(
    connection: AsyncConnection, code: str, sku: str, quantity: int, request_id: str, actor: str
) -> Level:
    """Move a quantity from a warehouse to its virtual warehouse ``code``; back, if the quantity is negative.

    Raise ``InvalidInput``.
    """
    parent = await connection.scalar(select(_warehouses.c.parent).where(_warehouses.c.code == code))
    if parent is None:
        raise InvalidInput("warehouse", "invalid.warehouse.not_virtual", warehouse=code)
    if quantity == 0 or abs(quantity) > MAX_QUANTITY:
        raise InvalidInput("quantity", "invalid.quantity.not_zero", least=-MAX_QUANTITY, most=MAX_QUANTITY)
    await open_level(connection, parent, sku)
    await open_level(connection, code, sku, virtual=True)
    out, into = virtual_transfer(parent, code, sku, quantity, f"fenced:{request_id}", actor)
    return await post(connection, *((into, out) if quantity > 0 else (out, into)))


async def adjust(
    connection: AsyncConnection, warehouse: str, sku: str, quantity: int, reason: str, request_id: str, actor: str
) -> Level:
    """Correct stock by ``quantity``, up or down. Raise ``InvalidInput``, also without a reason."""
    if not reason.strip():
        raise InvalidInput("reason", "invalid.reason.missing")
    if quantity == 0 or abs(quantity) > MAX_QUANTITY:
        raise InvalidInput("quantity", "invalid.quantity.not_zero", least=-MAX_QUANTITY, most=MAX_QUANTITY)
    await open_level(connection, warehouse, sku)
    adjustment = Move(
        key=f"adjusted:{request_id}",
        kind=MovementKind.ADJUSTED,
        warehouse=warehouse,
        sku=sku,
        quantity=quantity,
        reason=reason,
        actor=actor,
    )
    return await post(connection, adjustment)


async def set_safety_stock(connection: AsyncConnection, warehouse: str, sku: str, quantity: int) -> Level:
    """Set the quantity kept back from orders. Raise ``InvalidInput``."""
    await open_level(connection, warehouse, sku)
    place = (_levels.c.warehouse == warehouse, _levels.c.sku == sku)
    try:
        changed = await connection.execute(
            update(_levels).where(*place).values(safety_stock=quantity).returning(_levels)
        )
    except IntegrityError as error:
        raise InvalidInput("quantity", "invalid.level.below_zero", column=violated_column(error)) from None
    level = Level.model_validate(changed.one()._mapping)
    await notify_waiting_orders(connection, {sku}, f"safety_stock:{uuid4()}")
    return level


async def sync_supplier_stock(
    connection: AsyncConnection, supplier: str, goods: Mapping[str, int], request_id: str, actor: str
) -> list[Level]:
    """Set a supplier's stock to its own count of what it can still ship, SKU → quantity, beside what our orders already
    hold there. Raise ``InvalidInput``."""
    query = select(_warehouses.c.kind).where(_warehouses.c.code == supplier)
    if await connection.scalar(query) != LocationKind.SUPPLIER:
        raise InvalidInput("warehouse", "invalid.warehouse.not_supplier", warehouse=supplier)
    for sku, quantity in sorted(goods.items()):
        if not 0 <= quantity <= MAX_QUANTITY:
            raise InvalidInput("quantity", "invalid.quantity.of", sku=sku, least=0, most=MAX_QUANTITY)
        await open_level(connection, supplier, sku)
    current = [each for each in await levels(connection, goods, lock=True) if each.warehouse == supplier]
    changes = [
        Move(
            key=f"fed:{request_id}",
            kind=MovementKind.ADJUSTED,
            warehouse=supplier,
            sku=each.sku,
            quantity=change,
            reason="the supplier's feed",
            actor=actor,
        )
        for each in current
        if (change := goods[each.sku] - (each.on_hand - each.allocated - each.reserved - each.unavailable))
    ]
    if changes:
        await post_corrections(connection, changes)
    return [each for each in await levels(connection, goods) if each.warehouse == supplier]


class Promise(Value):
    """The quantity of a SKU that can be promised from a day on: available stock and receipts due by then."""

    sku: str
    warehouse: str
    day: date
    quantity: int


async def promises(connection: AsyncConnection, sku: str, today: date) -> list[Promise]:
    """Return the ATP of a SKU by location and day: today, then each day on which receipts are due."""
    query = select(_incoming).where(_incoming.c.sku == sku).order_by(_incoming.c.due)
    due: dict[str, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    for row in await connection.execute(query):
        due[row.warehouse][max(row.due, today)] += row.quantity
    available = {each.warehouse: each.available for each in await levels(connection, [sku])}
    promised = []
    for warehouse in sorted({*available, *due}):
        quantity = available.get(warehouse, 0)
        for day, more in sorted({today: 0, **due[warehouse]}.items()):
            quantity += more
            promised.append(Promise(sku=sku, warehouse=warehouse, day=day, quantity=quantity))
    return promised


async def set_expected_receipts(
    connection: AsyncConnection, source: str, warehouse: str, goods: Mapping[str, int], due: date
) -> None:
    """Replace the receipts that a location expects from ``source``, SKU → quantity."""
    of_source = (_incoming.c.source == source, _incoming.c.warehouse == warehouse)
    await connection.execute(delete(_incoming).where(*of_source))
    rows = [
        {"source": source, "warehouse": warehouse, "sku": sku, "quantity": quantity, "due": due}
        for sku, quantity in goods.items()
        if quantity > 0
    ]
    if rows:
        await connection.execute(insert(_incoming), rows)


_GRADES = (MovementKind.QUARANTINED, MovementKind.RESTORED, MovementKind.SCRAPPED)


async def announce_receipts(
    connection: AsyncConnection, source: str, warehouse: str, goods: Mapping[str, int], due: date
) -> None:
    """Validate and set expected receipts announced by a person or another system. Raise ``InvalidInput``."""
    if not await connection.scalar(select(_warehouses.c.code).where(_warehouses.c.code == warehouse)):
        raise InvalidInput("warehouse", "invalid.warehouse.unknown", warehouse=warehouse)
    if unknown := await unknown_skus(connection, goods):
        raise InvalidInput("goods", "invalid.sku.unknown", sku=unknown[0])
    if wrong := [sku for sku, quantity in goods.items() if not 0 <= quantity <= MAX_QUANTITY]:
        raise InvalidInput("goods", "invalid.quantity.of", sku=wrong[0], least=0, most=MAX_QUANTITY)
    await set_expected_receipts(connection, source, warehouse, goods, due)


async def grade(
    connection: AsyncConnection,
    kind: MovementKind,
    warehouse: str,
    sku: str,
    quantity: int,
    reason: str,
    request_id: str,
    actor: str,
) -> Level:
    """Quarantine, restore or scrap goods that are damaged or in quality control. Raise ``InvalidInput``."""
    if kind not in _GRADES:
        raise InvalidInput("kind", "invalid.choice", choices=", ".join(_GRADES))
    if not reason.strip():
        raise InvalidInput("reason", "invalid.reason.missing")
    if not 0 < quantity <= MAX_QUANTITY:
        raise InvalidInput("quantity", "invalid.quantity", least=1, most=MAX_QUANTITY)
    await open_level(connection, warehouse, sku)
    key = f"{kind}:{request_id}"
    entry = Move(key=key, kind=kind, warehouse=warehouse, sku=sku, quantity=quantity, reason=reason, actor=actor)
    return await post(connection, entry)


async def post_corrections(connection: AsyncConnection, corrections: Sequence[Move]) -> None:
    """Enter the corrections of one count, once, and lower safety stock that no longer exists.

    Raise ``InvalidInput`` if less is left than orders were promised.
    """
    if not await has_entered(connection, corrections[0].key):
        await lower_safety_stock(connection, corrections, {})
        await post_all(connection, corrections, corrections[0].key)


async def post(connection: AsyncConnection, entry: Move, *others: Move) -> Level:
    """Enter movements at existing levels, notify waiting orders, and return the level of the first movement."""
    await post_all(connection, [entry, *others], entry.key)
    place = (_levels.c.warehouse == entry.warehouse, _levels.c.sku == entry.sku)
    return Level.model_validate((await connection.execute(select(_levels).where(*place))).one()._mapping)


async def post_all(connection: AsyncConnection, moves: Sequence[Move], cause: str) -> None:
    """Enter movements at existing levels and notify waiting orders that can be filled, once for each cause."""
    if await move(connection, moves) and (skus := _gained(moves)):
        await notify_waiting_orders(connection, skus, cause)


def _gained(moves: Iterable[Move]) -> set[str]:
    """Return the SKUs of which a location has more to promise after the movements."""
    gained = set()
    for each in moves:
        on_hand, allocated, reserved, unavailable = EFFECT[each.kind]
        if (on_hand - allocated - reserved - unavailable) * each.quantity > 0:
            gained.add(each.sku)
    return gained
