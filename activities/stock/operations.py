"""What people and systems do to stock: receive, adjust, grade, reserve for virtual warehouses, expect receipts."""

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
    """Goods have arrived; virtual warehouses get their shares, and who waits and can be filled is woken.

    Raises ``NotAllowed``.
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
    """What virtual warehouses get of goods that arrive at their parent."""
    query = select(_warehouses.c.code, _warehouses.c.share).where(
        _warehouses.c.parent == arrived.warehouse, _warehouses.c.share > 0, ~_warehouses.c.closed
    )
    moves: list[Move] = []
    for fence, share in (await connection.execute(query.order_by(_warehouses.c.code))).all():
        if part := int(arrived.quantity * share):
            await open_level(connection, fence, arrived.sku, virtual=True)
            moves += virtual_transfer(
                arrived.warehouse, fence, arrived.sku, part, f"shared:{arrived.key}:{fence}", arrived.actor
            )
    return moves


def virtual_transfer(warehouse: str, fence: str, sku: str, quantity: int, key: str, actor: str) -> tuple[Move, Move]:
    """So many become a virtual warehouse's own, or where negative its parent's again: a transfer on paper."""
    here, there = (warehouse, fence) if quantity > 0 else (fence, warehouse)
    leaves = Move(key=key, kind=MovementKind.TRANSFER_OUT, warehouse=here, sku=sku, quantity=abs(quantity), actor=actor)
    return leaves, leaves.model_copy(update={"kind": MovementKind.TRANSFER_IN, "warehouse": there})


async def move_to_virtual(
    connection: AsyncConnection, code: str, sku: str, quantity: int, request_id: str, actor: str
) -> Level:
    """Gives a virtual warehouse so many of its parent's goods, or where negative gives them back.

    Raises ``NotAllowed``.
    """
    parent = await connection.scalar(select(_warehouses.c.parent).where(_warehouses.c.code == code))
    if parent is None:
        raise InvalidInput("warehouse", "invalid.warehouse.not_virtual", warehouse=code)
    if quantity == 0 or abs(quantity) > MAX_QUANTITY:
        raise InvalidInput("quantity", "invalid.quantity.not_zero", least=-MAX_QUANTITY, most=MAX_QUANTITY)
    await open_level(connection, parent, sku)
    await open_level(connection, code, sku, virtual=True)
    here, there = virtual_transfer(parent, code, sku, quantity, f"fenced:{request_id}", actor)
    return await post(connection, *((there, here) if quantity > 0 else (here, there)))


async def adjust(
    connection: AsyncConnection, warehouse: str, sku: str, quantity: int, reason: str, request_id: str, actor: str
) -> Level:
    """Corrects what is there by ``quantity``, up or down. Raises ``NotAllowed``, also without a reason."""
    if not reason.strip():
        raise InvalidInput("reason", "invalid.reason.missing")
    if quantity == 0 or abs(quantity) > MAX_QUANTITY:
        raise InvalidInput("quantity", "invalid.quantity.not_zero", least=-MAX_QUANTITY, most=MAX_QUANTITY)
    await open_level(connection, warehouse, sku)
    move_ = Move(
        key=f"adjusted:{request_id}",
        kind=MovementKind.ADJUSTED,
        warehouse=warehouse,
        sku=sku,
        quantity=quantity,
        reason=reason,
        actor=actor,
    )
    return await post(connection, move_)


async def set_safety_stock(connection: AsyncConnection, warehouse: str, sku: str, quantity: int) -> Level:
    """So many are kept back from orders. Raises ``NotAllowed``."""
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
    """A supplier's own count of what it can still send, SKU → quantity: our stock there is that, beside what our
    orders there already have. Raises ``NotAllowed``."""
    query = select(_warehouses.c.kind).where(_warehouses.c.code == supplier)
    if await connection.scalar(query) != LocationKind.SUPPLIER:
        raise InvalidInput("warehouse", "invalid.warehouse.not_supplier", warehouse=supplier)
    for sku, quantity in sorted(goods.items()):
        if not 0 <= quantity <= MAX_QUANTITY:
            raise InvalidInput("quantity", "invalid.quantity.of", sku=sku, least=0, most=MAX_QUANTITY)
        await open_level(connection, supplier, sku)
    there = [each for each in await levels(connection, goods, lock=True) if each.warehouse == supplier]
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
        for each in there
        if (change := goods[each.sku] - (each.on_hand - each.allocated - each.reserved - each.unavailable))
    ]
    if changes:
        await post_corrections(connection, changes)
    return [each for each in await levels(connection, goods) if each.warehouse == supplier]


class Promise(Value):
    """What can be promised of a SKU from a day on: what is available, and what is due by then."""

    sku: str
    warehouse: str
    day: date
    quantity: int


async def promises(connection: AsyncConnection, sku: str, today: date) -> list[Promise]:
    """ATP of a SKU by location and day: today's availability, then each day on which something is due."""
    query = select(_incoming).where(_incoming.c.sku == sku).order_by(_incoming.c.due)
    due: dict[str, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    for row in await connection.execute(query):
        due[row.warehouse][max(row.due, today)] += row.quantity
    promised = {each.warehouse: each.available for each in await levels(connection, [sku])}
    found = []
    for warehouse in sorted({*promised, *due}):
        quantity = promised.get(warehouse, 0)
        for day, more in sorted({today: 0, **due[warehouse]}.items()):
            quantity += more
            found.append(Promise(sku=sku, warehouse=warehouse, day=day, quantity=quantity))
    return found


async def set_expected_receipts(
    connection: AsyncConnection, source: str, warehouse: str, goods: Mapping[str, int], due: date
) -> None:
    """What ``source`` will bring to a location, SKU → quantity, and when; in place of what it said before."""
    theirs = (_incoming.c.source == source, _incoming.c.warehouse == warehouse)
    await connection.execute(delete(_incoming).where(*theirs))
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
    """``expect``, as a person or another system says it. Raises ``NotAllowed``."""
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
    """Damaged, or in quality control: quarantined; then restored or scrapped. Raises ``NotAllowed``."""
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


async def post_corrections(connection: AsyncConnection, counted: Sequence[Move]) -> None:
    """Enters what one act found on the shelves, once; safety stock that is not there any more is given up.

    Raises ``NotAllowed`` where less is there than orders were promised.
    """
    if not await has_entered(connection, counted[0].key):
        await lower_safety_stock(connection, counted, {})
        await post_all(connection, counted, counted[0].key)


async def post(connection: AsyncConnection, entry: Move, *others: Move) -> Level:
    """Enters movements at levels that are open, wakes who can now be filled, and answers the first one's level."""
    await post_all(connection, [entry, *others], entry.key)
    place = (_levels.c.warehouse == entry.warehouse, _levels.c.sku == entry.sku)
    return Level.model_validate((await connection.execute(select(_levels).where(*place))).one()._mapping)


async def post_all(connection: AsyncConnection, moves: Sequence[Move], cause: str) -> None:
    """Enters movements at levels that are open, and wakes who can now be filled, once for each cause."""
    if await move(connection, moves) and (more := _gained(moves)):
        await notify_waiting_orders(connection, more, cause)


def _gained(moves: Iterable[Move]) -> set[str]:
    """The SKUs of which some location has more to promise."""
    gained = set()
    for each in moves:
        on_hand, allocated, reserved, unavailable = EFFECT[each.kind]
        if (on_hand - allocated - reserved - unavailable) * each.quantity > 0:
            gained.add(each.sku)
    return gained
