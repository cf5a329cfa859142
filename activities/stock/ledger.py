"""The stock ledger: levels and movements change together in one statement, each movement once.

Every movement has a key, the act that caused it; a key already entered moves nothing. Lock levels in the order
(warehouse, SKU), before any other row that depends on stock, so that no two transactions deadlock.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.catalogue.skus import lock_skus
from activities.kit.errors import InvalidInput
from activities.kit.sql import json_rows
from models.base import Value
from models.order import FINAL
from models.stock import EFFECT, Level, Move

_tables = SQLModel.metadata.tables
_skus, _bundles, _warehouses = _tables["skus"], _tables["bundles"], _tables["warehouses"]
_levels, _movements, _orders = _tables["stock_levels"], _tables["movements"], _tables["orders"]


class Discrepancy(Value):
    """A quantity of a level that is not what it should be."""

    warehouse: str
    sku: str
    field: str
    """``on_hand``, ``allocated``, ``reserved`` or ``unavailable``, expected to be the sum of the ledger; or
    ``ended_orders``, allocated to orders that have ended."""
    level: int
    expected: int


async def levels(connection: AsyncConnection, skus: Collection[str], *, lock: bool = False) -> list[Level]:
    """Return the levels of the SKUs at every warehouse in locking order, locked for this transaction if ``lock``."""
    query = select(_levels).where(_levels.c.sku.in_(skus)).order_by(_levels.c.warehouse, _levels.c.sku)
    rows = await connection.execute(query.with_for_update() if lock else query)
    return [Level.model_validate(row._mapping) for row in rows]


_AMOUNTS = ("on_hand", "allocated", "reserved", "unavailable")

_given = json_rows("moves", *(each for each in _movements.c if each.name != "id"))

_entered = (
    insert(_movements)
    .from_select([each.name for each in _given.c], select(*_given.c))
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
"""Enter the movements whose key is new, and move the levels by exactly those."""


async def move(connection: AsyncConnection, moves: Sequence[Move], *, locked: bool = False) -> int:
    """Enter the movements not entered before, move the levels by exactly those, and return how many there were.

    ``locked``: the caller has locked the levels. Raise ``InvalidInput`` if a level would fall below what its rules
    allow; the caller must then roll back.
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
        counts = (await connection.execute(_MOVE, {"moves": rows})).one()
    except IntegrityError as error:
        raise InvalidInput("quantity", "invalid.level.below_zero", column=violated_column(error)) from None
    if counts.moved != counts.changes:
        raise InvalidInput("sku", "invalid.level.missing")
    return int(counts.entered)


def violated_column(error: IntegrityError) -> str:
    """Return the amount that would have fallen below zero."""
    text = str(error.orig)
    return next((each for each in (*_AMOUNTS, "available") if f'"{each}_not_negative"' in text), "stock")


async def has_entered(connection: AsyncConnection, key: str) -> bool:
    """Whether movements with this key exist. A repeated count must not be compared with the levels it left."""
    return await connection.scalar(select(_movements.c.id).where(_movements.c.key == key).limit(1)) is not None


async def open_level(connection: AsyncConnection, warehouse: str, sku: str, *, virtual: bool = False) -> None:
    """Create the level of a SKU at a warehouse, virtual or not, if it is missing. Raise ``InvalidInput``."""
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
        raise InvalidInput("warehouse", "invalid.warehouse.unknown", warehouse=warehouse)
    if known.parent is not None and not virtual:
        raise InvalidInput("warehouse", "invalid.warehouse.virtual", warehouse=warehouse, parent=known.parent)
    if known.oversell is None:
        raise InvalidInput("sku", "invalid.sku.unknown", sku=sku)
    if known.bundle is not None:
        raise InvalidInput("sku", "invalid.sku.bundle", sku=sku)
    if known.level is None:
        async with connection.begin_nested() as attempt:
            await lock_skus(connection, [sku])
            new = insert(_levels).values(warehouse=warehouse, sku=sku, oversell=known.oversell and not virtual)
            if (await connection.execute(new.on_conflict_do_nothing())).rowcount == 0:
                # Another transaction created the level; one that has locked it may be waiting for this SKU.
                await attempt.rollback()


async def lower_safety_stock(
    connection: AsyncConnection, corrections: Iterable[Move], returned: Mapping[tuple[str, str], int]
) -> None:
    """Lower safety stock to what will be left after the corrections and after ``returned`` comes back from orders."""
    losses: dict[tuple[str, str], int] = defaultdict(int)
    for each in corrections:
        on_hand, _, _, unavailable = EFFECT[each.kind]
        losses[each.warehouse, each.sku] += (unavailable - on_hand) * each.quantity
    for (warehouse, sku), loss in sorted(losses.items()):
        if loss > 0:
            unpromised = _levels.c.on_hand - _levels.c.allocated - _levels.c.reserved - _levels.c.unavailable
            left = unpromised + returned.get((warehouse, sku), 0) - loss
            await connection.execute(
                update(_levels)
                .where(_levels.c.warehouse == warehouse, _levels.c.sku == sku)
                .values(safety_stock=func.greatest(0, func.least(_levels.c.safety_stock, left)))
            )


async def verify(connection: AsyncConnection) -> list[Discrepancy]:
    """Check that every level is the sum of its ledger and that no ended order holds stock; return what differs."""
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
    discrepancies = []
    for row in await connection.execute(joined):
        for each in _AMOUNTS:
            level, expected = row._mapping[f"level_{each}"], row._mapping[f"ledger_{each}"]
            if level != expected:
                discrepancies.append(
                    Discrepancy(warehouse=row.warehouse, sku=row.sku, field=each, level=level, expected=expected)
                )
    held = (
        select(_movements.c.warehouse, _movements.c.sku, func.sum(_movements.c.allocated).label("held"))
        .join_from(_movements, _orders, _orders.c.id == _movements.c.order_id)
        .where(_orders.c.status.in_(FINAL))
        .group_by(_movements.c.warehouse, _movements.c.sku)
        .having(func.sum(_movements.c.allocated) != 0)
    )
    return discrepancies + [
        Discrepancy(warehouse=row.warehouse, sku=row.sku, field="ended_orders", level=row.held, expected=0)
        for row in await connection.execute(held)
    ]
