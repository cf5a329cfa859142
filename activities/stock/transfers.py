"""Transfers: each step's effect on the stock and what people see of it, in one transaction."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, Table, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.records import alerts, timeline
from activities.stock import ledger, operations
from models.address import remoteness
from models.base import Value
from models.order import OrderRow
from models.requests import YES, Answer, no
from models.stock import IncomingRow, Level, LevelRow, LocationKind, MovementKind, StockWaitRow, WarehouseRow
from models.transfers import Transfer, TransferRow, TransferStatus, TransferStep

_transfers: Table = TransferRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_incoming: Table = IncomingRow.__table__  # type: ignore[attr-defined]
_waits: Table = StockWaitRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

OWN_LOCATIONS = (LocationKind.WAREHOUSE, LocationKind.STORE)
"""Between these goods are moved."""


@activity.defn(name="stock.record_transfer")
async def record_step(step: TransferStep) -> Answer:
    """Writes a step down; no, and nothing written, where the stock does not allow it. May be repeated."""
    transfer = step.transfer
    try:
        async with transaction() as connection:
            await _enter(connection, step)
            for place in {transfer.origin, transfer.destination}:
                goods = transfer.outstanding if place == transfer.heading else {}
                await operations.set_expected_receipts(connection, transfer.id, place, goods, transfer.due)
            await _project(connection, step)
    except InvalidInput as error:
        return no("refused.transfer.stock", location=transfer.origin, why=await _lacking(transfer) or error.message)
    return YES


async def _enter(connection: AsyncConnection, step: TransferStep) -> None:
    """The movements; what arrives at a destination is shared with its virtual warehouses as any receipt is."""
    moves = list(step.moves)
    for each in sorted(step.moves, key=lambda move: move.sku):
        if each.kind is MovementKind.TRANSFER_IN and each.warehouse == step.transfer.destination:
            await ledger.open_level(connection, each.warehouse, each.sku)
            moves += await operations.virtual_shares(connection, each)
    await operations.post_all(connection, moves, f"{step.transfer.id}:{step.transfer.revision}")


async def _project(connection: AsyncConnection, step: TransferStep) -> None:
    transfer = step.transfer
    row = transfer.model_dump(include=set(_transfers.c.keys()))
    row |= {"status": transfer.status, "updated_at": step.at}
    written = insert(_transfers).values(row)
    await connection.execute(
        written.on_conflict_do_update(index_elements=["id"], set_=row, where=_transfers.c.revision < transfer.revision)
    )
    if step.entry is not None:
        await connection.execute(timeline.INSERT_ENTRIES, {"entries": timeline.entry_rows(transfer.id, [step.entry])})
    if step.alert is not None:
        await alerts.raise_alerts(connection, [step.alert])
    if transfer.status.final:
        await alerts.close_alerts(connection, [transfer.id])


async def _lacking(transfer: Transfer) -> str:
    """What its origin has less of than is planned, as it is there."""
    planned = transfer.planned
    async with transaction() as connection:
        there = {
            each.sku: each.available
            for each in await ledger.levels(connection, planned)
            if each.warehouse == transfer.origin
        }
    return ", ".join(
        f"{sku}: {there.get(sku, 0)} / {asked}" for sku, asked in planned.items() if there.get(sku, 0) < asked
    )


async def validate(connection: AsyncConnection, transfer: Transfer) -> None:
    """That it is between two of our own locations, of goods that hold stock. Raises ``NotAllowed``."""
    if transfer.origin == transfer.destination:
        raise InvalidInput("destination", "invalid.destination")
    query = select(_warehouses.c.code).where(_warehouses.c.kind.in_(OWN_LOCATIONS))
    ours = set(await connection.scalars(query))
    for field in ("origin", "destination"):
        if (code := getattr(transfer, field)) not in ours:
            raise InvalidInput(field, "invalid.warehouse.not_ours", warehouse=code)
    for line in sorted(transfer.lines, key=lambda line: line.sku):
        await ledger.open_level(connection, transfer.destination, line.sku)


async def list_all(connection: AsyncConnection, status: TransferStatus | None = None) -> Sequence[Row[Any]]:
    """Transfers, newest first."""
    query = select(_transfers).order_by(_transfers.c.proposed_at.desc(), _transfers.c.id).limit(1000)
    if status is not None:
        query = query.where(_transfers.c.status == status)
    return (await connection.execute(query)).all()


async def get(connection: AsyncConnection, transfer_id: str) -> Row[Any] | None:
    return (await connection.execute(select(_transfers).where(_transfers.c.id == transfer_id))).one_or_none()


class Proposal(Value):
    """So many of a SKU from one of our locations to another, and the figures that say why."""

    origin: str
    destination: str
    sku: str
    quantity: int
    waiting: int
    """At the destination, as are the next three."""
    available: int
    incoming: int
    safety_stock: int
    spare: int
    """What the origin had to give before this."""


async def propose(connection: AsyncConnection) -> list[Proposal]:
    """What is better moved: from open warehouses and stores that have more than they need to those that have less.

    A location needs its safety stock once more above what it keeps back, and what orders wait for, each of them at the
    location nearest to it. What it lacks of that, less what is on its way there, is asked of the others, the nearest
    first, each giving what it does not need itself. Transfers not sent yet count as if they were under way.
    """
    query = select(_warehouses).where(_warehouses.c.kind.in_(OWN_LOCATIONS), ~_warehouses.c.closed)
    sites = {row.code: row for row in await connection.execute(query)}
    waiting = await _waiting(connection, list(sites.values()))
    levels = {(row.warehouse, row.sku): Level.model_validate(row._mapping) for row in await _stock(connection, sites)}
    incoming, leaving = await _under_way(connection)
    blank = {place: levels.get(place) or Level(warehouse=place[0], sku=place[1]) for place in {*levels, *waiting}}
    needed = {place: waiting[place] + level.safety_stock for place, level in blank.items()}
    spare = {place: level.available - needed[place] - leaving[place] for place, level in blank.items()}
    found = []
    for place in sorted(blank):
        code, sku = place
        lacking = -(spare[place] + incoming[place]) if needed[place] else 0
        others = sorted(
            (other for other in sites if other != code and spare.get((other, sku), 0) > 0),
            key=lambda other: (remoteness(sites[other].province, sites[code].province), sites[other].rank, other),
        )
        for other in others:
            quantity = min(lacking, spare[other, sku])
            if quantity <= 0:
                break
            found.append(
                Proposal(
                    origin=other,
                    destination=code,
                    sku=sku,
                    quantity=quantity,
                    waiting=waiting[place],
                    available=blank[place].available,
                    incoming=incoming[place],
                    safety_stock=blank[place].safety_stock,
                    spare=spare[other, sku],
                )
            )
            lacking -= quantity
            spare[other, sku] -= quantity
    return found


async def _stock(connection: AsyncConnection, codes: Collection[str]) -> Sequence[Row[Any]]:
    return (await connection.execute(select(_levels).where(_levels.c.warehouse.in_(codes)))).all()


async def _waiting(connection: AsyncConnection, sites: Sequence[Row[Any]]) -> Counter[tuple[str, str]]:
    """What orders wait for, by the location nearest to each and SKU."""
    query = select(_waits.c.sku, _waits.c.quantity, _orders.c.recipient).join(
        _orders, _orders.c.id == _waits.c.order_id
    )
    waiting: Counter[tuple[str, str]] = Counter()
    for row in await connection.execute(query) if sites else ():
        province = row.recipient.province if row.recipient else ""
        nearest = min(sites, key=lambda site: (remoteness(site.province, province), site.rank, site.code))
        waiting[nearest.code, row.sku] += row.quantity
    return waiting


async def _under_way(connection: AsyncConnection) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """What comes to each location, by SKU, and what is to leave it and not set aside yet."""
    incoming: Counter[tuple[str, str]] = Counter()
    leaving: Counter[tuple[str, str]] = Counter()
    for row in await connection.execute(select(_incoming)):
        incoming[row.warehouse, row.sku] += row.quantity
    unsent = (TransferStatus.DRAFT, TransferStatus.READY)
    for row in await connection.execute(select(_transfers).where(_transfers.c.status.in_(unsent))):
        for line in row.lines:
            incoming[row.destination, line["sku"]] += line["quantity"]
            if row.status == TransferStatus.DRAFT:
                leaving[row.origin, line["sku"]] += line["quantity"]
    return incoming, leaving


async def lock_proposals(connection: AsyncConnection) -> None:
    """Until this transaction ends nobody else accepts proposals: the same goods would be proposed to both."""
    await connection.execute(select(func.pg_advisory_xact_lock(_ACCEPTING)))


_ACCEPTING = 0x7472616E7366
