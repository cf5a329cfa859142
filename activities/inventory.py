"""Stock: levels and their ledger, moved together, whatever the order of events, never twice.

Every movement has a key, the act that caused it: a key seen before moves nothing. Levels are locked in one order,
(warehouse, SKU), and before anything else that stock is about, so that no two acts wait for each other in a circle.
"""

import base64
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import ARRAY, Row, String, bindparam, cast, column, delete, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from models.base import Value
from models.fulfillment import Fulfillment, FulfillmentStatus, ShortfallKind
from models.intake import Lane, Raw
from models.order import FINAL
from models.state import Snapshot
from models.stock import EFFECT, Buyer, Fence, Level, LocationKind, Move, MovementKind, Reservation, Shelves

_tables = SQLModel.metadata.tables
_skus, _bundles, _warehouses = _tables["skus"], _tables["bundles"], _tables["warehouses"]
_levels, _movements, _waits = _tables["stock_levels"], _tables["movements"], _tables["stock_waits"]
_incoming, _kept = _tables["incoming"], _tables["reservations"]
_orders, _fulfillments, _inbox = _tables["orders"], _tables["fulfillments"], _tables["inbox"]

_parents = _warehouses.alias("parents")
FENCES = (
    select(_warehouses.c.code, _warehouses.c.parent, _warehouses.c.audience)
    .join(_parents, _parents.c.code == _warehouses.c.parent)
    .where(_warehouses.c.kind == LocationKind.VIRTUAL, ~_warehouses.c.closed)
    .order_by(_warehouses.c.rank, _warehouses.c.code)
)
"""The virtual warehouses in force, as ``Fence``."""


async def fences(connection: AsyncConnection) -> list[Fence]:
    """The virtual warehouses in force."""
    return [Fence.model_validate(row._mapping) for row in await connection.execute(FENCES)]


MOST = 10_000_000
"""The largest quantity of one act: more is a slip of the finger."""


class NotAllowed(Exception):
    """A movement that the rules of stock forbid; ``field`` names what to change."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Drift(Value):
    """A level that is not what it should be."""

    warehouse: str
    sku: str
    what: str
    """``on_hand``, ``allocated``, ``reserved`` or ``unavailable`` against the ledger; ``finished``: allocated to ended
    orders."""
    level: int
    expected: int


async def unknown_skus(connection: AsyncConnection, skus: Collection[str]) -> list[str]:
    """Those of the SKUs that the catalogue does not have."""
    known = await connection.scalars(select(_skus.c.sku).where(_skus.c.sku.in_(skus)))
    return sorted(set(skus) - set(known))


async def levels(connection: AsyncConnection, skus: Collection[str], *, lock: bool = False) -> list[Level]:
    """The levels of the SKUs at every warehouse, in locking order; locked for this transaction where asked."""
    query = select(_levels).where(_levels.c.sku.in_(skus)).order_by(_levels.c.warehouse, _levels.c.sku)
    rows = await connection.execute(query.with_for_update() if lock else query)
    return [Level.model_validate(row._mapping) for row in rows]


# The ledger

_AMOUNTS = ("on_hand", "allocated", "reserved", "unavailable")
_told = (
    func.jsonb_to_recordset(bindparam("moves", type_=JSONB))
    .table_valued(*(column(each.name, each.type) for each in _movements.c if each.name != "id"))
    .render_derived(name="told", with_types=True)
)
_entered = (
    insert(_movements)
    .from_select([each.name for each in _told.c], select(*_told.c))
    .on_conflict_do_nothing()
    .returning(_movements)
    .cte("entered")
)
_changes = (
    select(_entered.c.warehouse, _entered.c.sku, *(func.sum(_entered.c[each]).label(each) for each in _AMOUNTS))
    .group_by(_entered.c.warehouse, _entered.c.sku)
    .cte("changes")
)
_moved = (
    update(_levels)
    .where(_levels.c.warehouse == _changes.c.warehouse, _levels.c.sku == _changes.c.sku)
    .values({each: _levels.c[each] + _changes.c[each] for each in _AMOUNTS})
    .returning(literal(1))
    .cte("moved")
)
_MOVE = select(
    *(
        select(func.count()).select_from(each).scalar_subquery().label(each.name)
        for each in (_entered, _changes, _moved)
    )
)
"""Enters the movements whose key is new, and moves the levels by just those."""


async def move(connection: AsyncConnection, moves: Sequence[Move], *, locked: bool = False) -> int:
    """Enters the movements not entered before and moves the levels by just those; answers how many.

    ``locked``: the caller has locked the levels. Raises ``NotAllowed`` where a level would fall below what the rules
    allow; the transaction is then to be given up.
    """
    if not moves:
        return 0
    places = {(each.warehouse, each.sku) for each in moves}
    if not locked and len(places) > 1:
        await connection.execute(
            select(_levels.c.sku)
            .where(tuple_(_levels.c.warehouse, _levels.c.sku).in_(places))
            .order_by(_levels.c.warehouse, _levels.c.sku)
            .with_for_update()
        )
    at = datetime.now(UTC).isoformat()
    rows = []
    for each in moves:
        amounts = (sign * each.quantity for sign in EFFECT[each.kind])
        rows.append({**each.model_dump(mode="json"), **dict(zip(_AMOUNTS, amounts, strict=True)), "at": at})
    try:
        done = (await connection.execute(_MOVE, {"moves": rows})).one()
    except IntegrityError as error:
        raise NotAllowed("quantity", _rule(error)) from None
    if done.moved != done.changes:
        raise NotAllowed("sku", "has no level at this warehouse: receive it first")
    return int(done.entered)


def _rule(error: IntegrityError) -> str:
    text = str(error.orig)
    rule = next((each for each in (*_AMOUNTS, "available") if f'"{each}_not_negative"' in text), "stock")
    return f"{rule} would fall below zero"


# Orders


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


async def find(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
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
        await wake(connection, {each.sku for each in returned}, f"{fulfillment.id}:returned")


async def settle(connection: AsyncConnection, snapshot: Snapshot, rejected: Fulfillment | None = None) -> None:
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
    if rejected and not await _entered_before(connection, f"{rejected.id}:{_ENDED}"):
        amiss = await _amiss(connection, snapshot.order_id, rejected, given_back)
    if await move(connection, [*given_back, *amiss]):
        await connection.execute(
            update(_fulfillments)
            .where(_fulfillments.c.id.in_([each.id for each in stopped]))
            .values(status=FulfillmentStatus.CANCELLED)
        )
        await wake(connection, {each.sku for each in given_back}, f"{snapshot.order_id}:{snapshot.revision}")
    if not snapshot.reserved:
        await unreserve(connection, snapshot.order_id, snapshot.revision)
    if snapshot.status.final:
        await connection.execute(delete(_waits).where(_waits.c.order_id == snapshot.order_id))


# People


async def receive(
    connection: AsyncConnection, warehouse: str, sku: str, quantity: int, request_id: str, actor: str
) -> Level:
    """Goods have arrived; virtual warehouses get their shares, and who waits and can be filled is woken.

    Raises ``NotAllowed``.
    """
    if not 0 < quantity <= MOST:
        raise NotAllowed("quantity", f"must be between 1 and {MOST}")
    await open_level(connection, warehouse, sku)
    received = Move(
        key=f"received:{request_id}",
        kind=MovementKind.RECEIVED,
        warehouse=warehouse,
        sku=sku,
        quantity=quantity,
        actor=actor,
    )
    return await enter(connection, received, *await shares(connection, received))


async def shares(connection: AsyncConnection, arrived: Move) -> list[Move]:
    """What virtual warehouses get of goods that arrive at their parent."""
    query = select(_warehouses.c.code, _warehouses.c.share).where(
        _warehouses.c.parent == arrived.warehouse, _warehouses.c.share > 0, ~_warehouses.c.closed
    )
    moves: list[Move] = []
    for fence, share in (await connection.execute(query.order_by(_warehouses.c.code))).all():
        if part := int(arrived.quantity * share):
            await open_level(connection, fence, arrived.sku, fenced=True)
            moves += fencing(
                arrived.warehouse, fence, arrived.sku, part, f"shared:{arrived.key}:{fence}", arrived.actor
            )
    return moves


def fencing(warehouse: str, fence: str, sku: str, quantity: int, key: str, actor: str) -> tuple[Move, Move]:
    """So many become a virtual warehouse's own, or where negative its parent's again: a transfer on paper."""
    here, there = (warehouse, fence) if quantity > 0 else (fence, warehouse)
    leaves = Move(key=key, kind=MovementKind.TRANSFER_OUT, warehouse=here, sku=sku, quantity=abs(quantity), actor=actor)
    return leaves, leaves.model_copy(update={"kind": MovementKind.TRANSFER_IN, "warehouse": there})


async def fence(connection: AsyncConnection, code: str, sku: str, quantity: int, request_id: str, actor: str) -> Level:
    """Gives a virtual warehouse so many of its parent's goods, or where negative gives them back.

    Raises ``NotAllowed``.
    """
    parent = await connection.scalar(select(_warehouses.c.parent).where(_warehouses.c.code == code))
    if parent is None:
        raise NotAllowed("warehouse", f"{code} is not a virtual warehouse")
    if quantity == 0 or abs(quantity) > MOST:
        raise NotAllowed("quantity", f"must be between -{MOST} and {MOST}, and not zero")
    await open_level(connection, parent, sku)
    await open_level(connection, code, sku, fenced=True)
    here, there = fencing(parent, code, sku, quantity, f"fenced:{request_id}", actor)
    return await enter(connection, *((there, here) if quantity > 0 else (here, there)))


async def adjust(
    connection: AsyncConnection, warehouse: str, sku: str, quantity: int, reason: str, request_id: str, actor: str
) -> Level:
    """Corrects what is there by ``quantity``, up or down. Raises ``NotAllowed``, also without a reason."""
    if not reason.strip():
        raise NotAllowed("reason", "say why")
    if quantity == 0 or abs(quantity) > MOST:
        raise NotAllowed("quantity", f"must be between -{MOST} and {MOST}, and not zero")
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
    return await enter(connection, move_)


async def set_safety_stock(connection: AsyncConnection, warehouse: str, sku: str, quantity: int) -> Level:
    """So many are kept back from orders. Raises ``NotAllowed``."""
    await open_level(connection, warehouse, sku)
    place = (_levels.c.warehouse == warehouse, _levels.c.sku == sku)
    try:
        changed = await connection.execute(
            update(_levels).where(*place).values(safety_stock=quantity).returning(_levels)
        )
    except IntegrityError as error:
        raise NotAllowed("quantity", _rule(error)) from None
    level = Level.model_validate(changed.one()._mapping)
    await wake(connection, {sku}, f"safety_stock:{uuid4()}")
    return level


async def feed(
    connection: AsyncConnection, supplier: str, goods: Mapping[str, int], request_id: str, actor: str
) -> list[Level]:
    """A supplier's own count of what it can still send, SKU → quantity: our stock there is that, beside what our
    orders there already have. Raises ``NotAllowed``."""
    query = select(_warehouses.c.kind).where(_warehouses.c.code == supplier)
    if (kind := await connection.scalar(query)) != LocationKind.SUPPLIER:
        raise NotAllowed("warehouse", f"{supplier} is {'a ' + kind + ', not a supplier' if kind else 'not known'}")
    for sku, quantity in sorted(goods.items()):
        if not 0 <= quantity <= MOST:
            raise NotAllowed("quantity", f"of {sku} must be between 0 and {MOST}")
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
        await correct(connection, changes)
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


async def expect(connection: AsyncConnection, source: str, warehouse: str, goods: Mapping[str, int], due: date) -> None:
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


async def announce(
    connection: AsyncConnection, source: str, warehouse: str, goods: Mapping[str, int], due: date
) -> None:
    """``expect``, as a person or another system says it. Raises ``NotAllowed``."""
    if not await connection.scalar(select(_warehouses.c.code).where(_warehouses.c.code == warehouse)):
        raise NotAllowed("warehouse", f"{warehouse} is not known")
    if unknown := await unknown_skus(connection, goods):
        raise NotAllowed("goods", f"{unknown[0]} is not in the catalogue")
    if wrong := [sku for sku, quantity in goods.items() if not 0 <= quantity <= MOST]:
        raise NotAllowed("goods", f"of {wrong[0]} must be between 0 and {MOST}")
    await expect(connection, source, warehouse, goods, due)


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
        raise NotAllowed("kind", f"must be one of {', '.join(_GRADES)}")
    if not reason.strip():
        raise NotAllowed("reason", "say why")
    if not 0 < quantity <= MOST:
        raise NotAllowed("quantity", f"must be between 1 and {MOST}")
    await open_level(connection, warehouse, sku)
    key = f"{kind}:{request_id}"
    entry = Move(key=key, kind=kind, warehouse=warehouse, sku=sku, quantity=quantity, reason=reason, actor=actor)
    return await enter(connection, entry)


async def correct(connection: AsyncConnection, counted: Sequence[Move]) -> None:
    """Enters what one act found on the shelves, once; safety stock that is not there any more is given up.

    Raises ``NotAllowed`` where less is there than orders were promised.
    """
    if not await _entered_before(connection, counted[0].key):
        await _give_up_safety(connection, counted, {})
        await enter_all(connection, counted, counted[0].key)


async def _entered_before(connection: AsyncConnection, key: str) -> bool:
    """Whether the act was carried out: what is counted must not be counted again from what it left."""
    return await connection.scalar(select(_movements.c.id).where(_movements.c.key == key).limit(1)) is not None


async def _give_up_safety(
    connection: AsyncConnection, counted: Iterable[Move], back: Mapping[tuple[str, str], int]
) -> None:
    """Lowers safety stock to what is left of it once these are entered, and ``back`` is given back by orders."""
    losses: dict[tuple[str, str], int] = defaultdict(int)
    for each in counted:
        on_hand, _, _, unavailable = EFFECT[each.kind]
        losses[each.warehouse, each.sku] += (unavailable - on_hand) * each.quantity
    for (warehouse, sku), loss in sorted(losses.items()):
        if loss > 0:
            unpromised = _levels.c.on_hand - _levels.c.allocated - _levels.c.reserved - _levels.c.unavailable
            left = unpromised + back.get((warehouse, sku), 0) - loss
            await connection.execute(
                update(_levels)
                .where(_levels.c.warehouse == warehouse, _levels.c.sku == sku)
                .values(safety_stock=func.greatest(0, func.least(_levels.c.safety_stock, left)))
            )


async def enter(connection: AsyncConnection, entry: Move, *others: Move) -> Level:
    """Enters movements at levels that are open, wakes who can now be filled, and answers the first one's level."""
    await enter_all(connection, [entry, *others], entry.key)
    place = (_levels.c.warehouse == entry.warehouse, _levels.c.sku == entry.sku)
    return Level.model_validate((await connection.execute(select(_levels).where(*place))).one()._mapping)


async def enter_all(connection: AsyncConnection, moves: Sequence[Move], cause: str) -> None:
    """Enters movements at levels that are open, and wakes who can now be filled, once for each cause."""
    if await move(connection, moves) and (more := _gained(moves)):
        await wake(connection, more, cause)


def _gained(moves: Iterable[Move]) -> set[str]:
    """The SKUs of which some location has more to promise."""
    gained = set()
    for each in moves:
        on_hand, allocated, reserved, unavailable = EFFECT[each.kind]
        if (on_hand - allocated - reserved - unavailable) * each.quantity > 0:
            gained.add(each.sku)
    return gained


async def open_level(connection: AsyncConnection, warehouse: str, sku: str, *, fenced: bool = False) -> None:
    """There is a level of the SKU there from now on; ``fenced``: at a virtual warehouse. Raises ``NotAllowed``."""
    known = (
        await connection.execute(
            select(
                select(_skus.c.oversell).where(_skus.c.sku == sku).scalar_subquery().label("oversell"),
                select(_warehouses.c.code).where(_warehouses.c.code == warehouse).scalar_subquery().label("warehouse"),
                select(_warehouses.c.parent).where(_warehouses.c.code == warehouse).scalar_subquery().label("parent"),
                select(_bundles.c.bundle).where(_bundles.c.bundle == sku).limit(1).scalar_subquery().label("bundle"),
                select(_levels.c.sku)
                .where(_levels.c.warehouse == warehouse, _levels.c.sku == sku)
                .scalar_subquery()
                .label("level"),
            )
        )
    ).one()
    if known.warehouse is None:
        raise NotAllowed("warehouse", f"{warehouse} is not known")
    if known.parent is not None and not fenced:
        raise NotAllowed("warehouse", f"{warehouse} exists on paper: its goods lie at {known.parent}")
    if known.oversell is None:
        raise NotAllowed("sku", f"{sku} is not in the catalogue")
    if known.bundle is not None:
        raise NotAllowed("sku", f"{sku} is a bundle: its components hold the stock")
    if known.level is None:
        async with connection.begin_nested() as attempt:
            await lock_skus(connection, [sku])
            opened = insert(_levels).values(warehouse=warehouse, sku=sku, oversell=known.oversell and not fenced)
            if (await connection.execute(opened.on_conflict_do_nothing())).rowcount == 0:
                await attempt.rollback()  # another was first: who has locked its level may be waiting for the SKU


async def lock_skus(connection: AsyncConnection, skus: Collection[str]) -> None:
    """No level of these SKUs is opened by others until this transaction ends."""
    query = select(_skus.c.sku).where(_skus.c.sku.in_(skus)).order_by(_skus.c.sku)
    await connection.execute(query.with_for_update(key_share=True))


async def _amiss(
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
    await _give_up_safety(connection, found, back)
    return found


async def unreserve(connection: AsyncConnection, order_id: str, revision: int) -> None:
    """Gives back what was reserved for an order, if anything still is."""
    query = select(_kept).where(_kept.c.order_id == order_id)
    kept = [Reservation.model_validate(row._mapping) for row in await connection.execute(query)]
    if await move(connection, [each.move(MovementKind.RELEASED) for each in kept]):
        await connection.execute(delete(_kept).where(_kept.c.order_id == order_id))
        await wake(connection, {each.sku for each in kept}, f"{order_id}:{revision}:unreserved")


_PRIORITY = func.coalesce(_orders.c.priority, _waits.c.priority).label("priority")


async def wake(connection: AsyncConnection, skus: Collection[str], cause: str) -> None:
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
    shelves = Shelves(await levels(connection, asked), await fences(connection))
    woken = []
    for order_id, needs in sorted(queue.items(), key=lambda item: (item[1][0].priority, item[1][0].since, item[0])):
        places = [code for code, named in areas.items() if not named or needs[0].province[:2] in named]
        if _fill(shelves, _buyer(order_id, needs[0]), places, needs):
            woken.append(
                {
                    "lane": Lane.STOCK,
                    "source": "stock",
                    "account": "",
                    "fact_key": f"{cause}:{order_id}",
                    "topic": "stock_arrived",
                    "priority": needs[0].priority,
                    "raw": _NOTHING_MORE,
                    "order_id": order_id,
                    "received_at": datetime.now(UTC),
                }
            )
    if woken:
        await connection.execute(insert(_inbox).on_conflict_do_nothing(), woken)


def _buyer(order_id: str, row: Row[Any]) -> Buyer:
    _, channel, shop, _ = order_id.split(":", 3)
    return Buyer(channel=channel, shop=shop, campaign=row.campaign, priority=row.priority)


def _fill(shelves: Shelves, buyer: Buyer, places: Sequence[str], needs: Sequence[Row[Any]]) -> bool:
    """Takes all that an order waits for off the shelves, or nothing."""
    chosen: Counter[str] = Counter()
    for need in needs:
        for sku in (need.sku, *need.instead):
            there = sum(shelves.promisable(buyer, place, sku) for place in places)
            if there >= chosen[sku] + need.quantity:
                chosen[sku] += need.quantity
                break
        else:
            return False
    for sku, left in chosen.items():
        for place in places:
            left -= sum(part for _, part in shelves.take(buyer, place, sku, left))
    return True


_NOTHING_MORE = Raw(body=base64.b64encode(b"{}"))


# Proof


async def verify(connection: AsyncConnection) -> list[Drift]:
    """Proves that every level is the sum of its ledger and that no finished order holds stock; names what is not so."""
    ledger = (
        select(
            _movements.c.warehouse, _movements.c.sku, *(func.sum(_movements.c[each]).label(each) for each in _AMOUNTS)
        )
        .group_by(_movements.c.warehouse, _movements.c.sku)
        .subquery()
    )
    joined = select(
        func.coalesce(_levels.c.warehouse, ledger.c.warehouse).label("warehouse"),
        func.coalesce(_levels.c.sku, ledger.c.sku).label("sku"),
        *(func.coalesce(_levels.c[each], 0).label(f"level_{each}") for each in _AMOUNTS),
        *(func.coalesce(ledger.c[each], 0).label(f"ledger_{each}") for each in _AMOUNTS),
    ).select_from(
        _levels.join(ledger, (ledger.c.warehouse == _levels.c.warehouse) & (ledger.c.sku == _levels.c.sku), full=True)
    )
    drifts = []
    for row in await connection.execute(joined):
        for each in _AMOUNTS:
            level, expected = row._mapping[f"level_{each}"], row._mapping[f"ledger_{each}"]
            if level != expected:
                drifts.append(Drift(warehouse=row.warehouse, sku=row.sku, what=each, level=level, expected=expected))
    held = (
        select(_movements.c.warehouse, _movements.c.sku, func.sum(_movements.c.allocated).label("held"))
        .join_from(_movements, _orders, _orders.c.id == _movements.c.order_id)
        .where(_orders.c.status.in_(FINAL))
        .group_by(_movements.c.warehouse, _movements.c.sku)
        .having(func.sum(_movements.c.allocated) != 0)
    )
    return drifts + [
        Drift(warehouse=row.warehouse, sku=row.sku, what="finished", level=row.held, expected=0)
        for row in await connection.execute(held)
    ]
