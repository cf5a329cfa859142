"""Stock: levels and their ledger, moved together, whatever the order of events, never twice.

Every movement has a key, the act that caused it: a key seen before moves nothing. Rows are locked in one order,
(warehouse, SKU), so that no two acts ever wait for each other in a circle.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Integer, column, func, literal, select, tuple_, update, values
from sqlalchemy import String as Text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import Value
from models.fulfillment import Fulfillment, FulfillmentRow, FulfillmentStatus
from models.intake import InboxRow, Lane, Raw
from models.order import FINAL, OrderRow
from models.state import Snapshot
from models.stock import (
    EFFECT,
    BundleRow,
    Level,
    LevelRow,
    MovementKind,
    MovementRow,
    SkuRow,
    StockWaitRow,
    WarehouseRow,
)


class NotAllowed(Exception):
    """A movement that the rules of stock forbid; ``field`` names what to change."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Move(Value):
    """So many of a SKU at a warehouse; negative only in an adjustment."""

    key: str
    kind: MovementKind
    warehouse: str
    sku: str
    quantity: int
    order_id: str | None = None
    reason: str = ""
    actor: str = "hengdan"


class Drift(Value):
    """A level that is not what it should be."""

    warehouse: str
    sku: str
    what: str
    """``on_hand``, ``allocated`` or ``reserved`` against the ledger; ``finished``: allocated for orders that are over."""
    level: int
    expected: int


_levels = LevelRow.__table__  # type: ignore[attr-defined]


async def unknown_skus(connection: AsyncConnection, skus: Collection[str]) -> list[str]:
    """Those of the SKUs that the catalogue does not have."""
    known = await connection.scalars(select(SkuRow.sku).where(SkuRow.sku.in_(skus)))  # type: ignore[attr-defined]
    return sorted(set(skus) - set(known))


async def levels(connection: AsyncConnection, skus: Collection[str], *, lock: bool = False) -> list[Level]:
    """The levels of the SKUs at every warehouse, in locking order; locked for this transaction where asked."""
    query = select(LevelRow).where(LevelRow.sku.in_(skus)).order_by(LevelRow.warehouse, LevelRow.sku)  # type: ignore[attr-defined]
    rows = await connection.execute(query.with_for_update() if lock else query)
    return [Level.model_validate(row._mapping) for row in rows]


async def move(connection: AsyncConnection, moves: Sequence[Move]) -> int:
    """Enters the movements not entered before and moves the levels by just those; answers how many.

    Raises ``NotAllowed`` where a level would fall below what the rules allow; the transaction is then to be given up.
    """
    if not moves:
        return 0
    places = sorted({(each.warehouse, each.sku) for each in moves})
    await connection.execute(
        select(_levels.c.sku)
        .where(tuple_(_levels.c.warehouse, _levels.c.sku).in_(places))
        .order_by(_levels.c.warehouse, _levels.c.sku)
        .with_for_update()
    )
    return await _move_locked(connection, moves)


async def _move_locked(connection: AsyncConnection, moves: Sequence[Move]) -> int:
    now = datetime.now(UTC)
    rows = []
    for each in moves:
        on_hand, allocated, reserved = (sign * each.quantity for sign in EFFECT[each.kind])
        rows.append({**each.model_dump(), "on_hand": on_hand, "allocated": allocated, "reserved": reserved, "at": now})
    entered = await connection.execute(
        insert(MovementRow)
        .values(rows)
        .on_conflict_do_nothing()
        .returning(
            MovementRow.warehouse,  # type: ignore[arg-type]
            MovementRow.sku,  # type: ignore[arg-type]
            MovementRow.on_hand,  # type: ignore[arg-type]
            MovementRow.allocated,  # type: ignore[arg-type]
            MovementRow.reserved,  # type: ignore[arg-type]
        )
    )
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    count = 0
    for row in entered:
        count += 1
        for index, change in enumerate(row[2:]):
            sums[row.warehouse, row.sku][index] += change
    if not sums:
        return 0
    changes = (
        values(
            column("warehouse", Text),
            column("sku", Text),
            column("on_hand", Integer),
            column("allocated", Integer),
            column("reserved", Integer),
            name="changes",
        )
        .data([(*place, *change) for place, change in sorted(sums.items())])
        .alias("changes")
    )
    try:
        moved = await connection.execute(
            update(_levels)
            .where(_levels.c.warehouse == changes.c.warehouse, _levels.c.sku == changes.c.sku)
            .values(
                on_hand=_levels.c.on_hand + changes.c.on_hand,
                allocated=_levels.c.allocated + changes.c.allocated,
                reserved=_levels.c.reserved + changes.c.reserved,
            )
        )
    except IntegrityError as error:
        raise NotAllowed("quantity", _rule(error)) from None
    if moved.rowcount != len(sums):
        raise NotAllowed("sku", "has no level at this warehouse: receive it first")
    return count


def _rule(error: IntegrityError) -> str:
    text = str(error.orig)
    rule = next(
        (each for each in ("on_hand", "allocated", "reserved", "available") if f"{each}_not_negative" in text), ""
    )
    return f"{rule or 'stock'} would fall below zero"


# Orders


def _moves(kind: MovementKind, order_id: str, fulfillments: Iterable[Fulfillment]) -> list[Move]:
    """One movement per fulfillment order and SKU, keyed by both."""
    totals: dict[tuple[str, str, str], int] = defaultdict(int)
    for each in fulfillments:
        for line in each.lines:
            totals[each.id, each.warehouse, line.sku] += line.quantity
    return [
        Move(key=f"{id_}:{kind}", kind=kind, warehouse=warehouse, sku=sku, quantity=quantity, order_id=order_id)
        for (id_, warehouse, sku), quantity in sorted(totals.items(), key=lambda item: item[0][1:])
    ]


async def allocate(connection: AsyncConnection, order_id: str, fulfillments: Sequence[Fulfillment]) -> None:
    """Allocates what is in the fulfillment orders; the caller has locked the levels."""
    await _move_locked(connection, _moves(MovementKind.ALLOCATED, order_id, fulfillments))


async def ship(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """The goods have left: off the stock, and no longer allocated."""
    await move(connection, _moves(MovementKind.SHIPPED, order_id, [fulfillment]))


async def restock(connection: AsyncConnection, order_id: str, fulfillment: Fulfillment) -> None:
    """The goods came back."""
    returned = _moves(MovementKind.RETURNED, order_id, [fulfillment])
    if await move(connection, returned):
        await _wake(connection, {(each.warehouse, each.sku) for each in returned}, f"{fulfillment.id}:returned")


async def settle(connection: AsyncConnection, snapshot: Snapshot) -> None:
    """Deallocates every fulfillment order that the snapshot no longer counts as active; an ended order waits for none."""
    kept = {each.id for each in snapshot.fulfillments if each.status is not FulfillmentStatus.CANCELLED}
    rows = await connection.execute(
        select(FulfillmentRow).where(FulfillmentRow.order_id == snapshot.order_id, FulfillmentRow.shipped_at.is_(None))  # type: ignore[arg-type, union-attr]
    )
    stopped = [Fulfillment(id=row.id, warehouse=row.warehouse, lines=row.lines) for row in rows if row.id not in kept]
    given_back = _moves(MovementKind.DEALLOCATED, snapshot.order_id, stopped)
    if await move(connection, given_back):
        await connection.execute(
            update(FulfillmentRow)
            .where(FulfillmentRow.id.in_([each.id for each in stopped]))  # type: ignore[attr-defined]
            .values(status=FulfillmentStatus.CANCELLED)
        )
        places = {(each.warehouse, each.sku) for each in given_back}
        await _wake(connection, places, f"{snapshot.order_id}:{snapshot.revision}")
    if snapshot.status.final:
        await connection.execute(StockWaitRow.__table__.delete().where(StockWaitRow.order_id == snapshot.order_id))  # type: ignore[attr-defined]


# People


async def receive(
    connection: AsyncConnection, warehouse: str, sku: str, quantity: int, request_id: str, actor: str
) -> Level:
    """Goods have arrived; whoever waits for them and can be filled is woken. Raises ``NotAllowed``."""
    if quantity <= 0:
        raise NotAllowed("quantity", "must be above zero")
    kind = MovementKind.RECEIVED
    move_ = Move(key=f"received:{request_id}", kind=kind, warehouse=warehouse, sku=sku, quantity=quantity, actor=actor)
    return await _enter(connection, move_)


async def adjust(
    connection: AsyncConnection, warehouse: str, sku: str, quantity: int, reason: str, request_id: str, actor: str
) -> Level:
    """Corrects what is there by ``quantity``, up or down. Raises ``NotAllowed``, also without a reason."""
    if not reason.strip():
        raise NotAllowed("reason", "say why")
    if quantity == 0:
        raise NotAllowed("quantity", "must not be zero")
    return await _enter(
        connection,
        Move(
            key=f"adjusted:{request_id}",
            kind=MovementKind.ADJUSTED,
            warehouse=warehouse,
            sku=sku,
            quantity=quantity,
            reason=reason,
            actor=actor,
        ),
    )


async def _enter(connection: AsyncConnection, entry: Move) -> Level:
    await _open_level(connection, entry.warehouse, entry.sku)
    if await move(connection, [entry]) and entry.quantity > 0:
        await _wake(connection, {(entry.warehouse, entry.sku)}, entry.key)
    row = await connection.execute(
        select(LevelRow).where(LevelRow.warehouse == entry.warehouse, LevelRow.sku == entry.sku)  # type: ignore[arg-type]
    )
    return Level.model_validate(row.one()._mapping)


async def _open_level(connection: AsyncConnection, warehouse: str, sku: str) -> None:
    known = (
        await connection.execute(
            select(
                select(SkuRow.oversell).where(SkuRow.sku == sku).scalar_subquery().label("oversell"),  # type: ignore[arg-type]
                select(literal(1)).where(WarehouseRow.code == warehouse).scalar_subquery().label("warehouse"),  # type: ignore[arg-type]
                select(literal(1)).where(BundleRow.bundle == sku).limit(1).scalar_subquery().label("bundle"),  # type: ignore[arg-type]
            )
        )
    ).one()
    if known.warehouse is None:
        raise NotAllowed("warehouse", f"{warehouse} is not known")
    if known.oversell is None:
        raise NotAllowed("sku", f"{sku} is not in the catalogue")
    if known.bundle is not None:
        raise NotAllowed("sku", f"{sku} is a bundle: its components hold the stock")
    opened = insert(LevelRow).values(warehouse=warehouse, sku=sku, oversell=known.oversell)
    await connection.execute(opened.on_conflict_do_nothing())


async def _wake(connection: AsyncConnection, places: Collection[tuple[str, str]], cause: str) -> None:
    """Wakes the orders that wait for these SKUs and can now be filled, first come first served within a priority."""
    skus = {sku for _, sku in places}
    waiting = select(StockWaitRow.order_id).where(StockWaitRow.sku.in_(skus))  # type: ignore[attr-defined]
    query = (
        select(StockWaitRow)
        .where(StockWaitRow.order_id.in_(waiting))  # type: ignore[attr-defined]
        .order_by(StockWaitRow.priority, StockWaitRow.since, StockWaitRow.order_id)
    )
    wanted: dict[str, dict[str, int]] = {}
    for row in await connection.execute(query):
        wanted.setdefault(row.order_id, {})[row.sku] = row.quantity
    if not wanted:
        return
    free: dict[str, int] = defaultdict(int)
    for level in await levels(connection, {sku for skus_ in wanted.values() for sku in skus_}):
        free[level.sku] += level.available
    now = datetime.now(UTC)
    woken = []
    for order_id, needs in wanted.items():
        if all(free[sku] >= quantity for sku, quantity in needs.items()):
            for sku, quantity in needs.items():
                free[sku] -= quantity
            woken.append(
                {
                    "lane": Lane.STOCK,
                    "source": "stock",
                    "account": "",
                    "fact_key": f"{cause}:{order_id}",
                    "topic": "stock_arrived",
                    "raw": Raw(body=b"e30="),
                    "order_id": order_id,
                    "received_at": now,
                }
            )
    if woken:
        await connection.execute(insert(InboxRow).values(woken).on_conflict_do_nothing())


# Proof


async def verify(connection: AsyncConnection) -> list[Drift]:
    """Proves that every level is the sum of its ledger and that no finished order holds stock; names what is not so."""
    names = ("on_hand", "allocated", "reserved")
    ledger = (
        select(
            MovementRow.warehouse,
            MovementRow.sku,
            *(func.sum(getattr(MovementRow, name)).label(name) for name in names),
        )
        .group_by(MovementRow.warehouse, MovementRow.sku)  # type: ignore[arg-type]
        .subquery()
    )
    joined = select(
        func.coalesce(_levels.c.warehouse, ledger.c.warehouse).label("warehouse"),
        func.coalesce(_levels.c.sku, ledger.c.sku).label("sku"),
        *(func.coalesce(_levels.c[name], 0).label(f"level_{name}") for name in names),
        *(func.coalesce(ledger.c[name], 0).label(f"ledger_{name}") for name in names),
    ).select_from(
        _levels.join(ledger, (ledger.c.warehouse == _levels.c.warehouse) & (ledger.c.sku == _levels.c.sku), full=True)
    )
    drifts = []
    for row in await connection.execute(joined):
        for name in names:
            level, expected = getattr(row, f"level_{name}"), getattr(row, f"ledger_{name}")
            if level != expected:
                drifts.append(Drift(warehouse=row.warehouse, sku=row.sku, what=name, level=level, expected=expected))
    held = (
        select(MovementRow.warehouse, MovementRow.sku, func.sum(MovementRow.allocated).label("held"))  # type: ignore[call-overload]
        .join(OrderRow, OrderRow.id == MovementRow.order_id)
        .where(OrderRow.status.in_(FINAL))  # type: ignore[attr-defined]
        .group_by(MovementRow.warehouse, MovementRow.sku)
        .having(func.sum(MovementRow.allocated) != 0)
    )
    for row in await connection.execute(held):
        drifts.append(Drift(warehouse=row.warehouse, sku=row.sku, what="finished", level=row.held, expected=0))
    return drifts
