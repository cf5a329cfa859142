"""Transfers: record each step's movements, row, timeline and exceptions in one transaction; propose transfers."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, Table, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.records import exceptions, timeline
from activities.stock import ledger, operations
from models.address import remoteness
from models.base import Value
from models.order import OrderRow
from models.requests import YES, Answer, no
from models.stock import IncomingRow, Level, LevelRow, LocationKind, MovementKind, StockWaitRow, WarehouseRow
from models.transfers import Transfer, TransferRow, TransferStatus, TransferStep
from models.vault import readable

_transfers: Table = TransferRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_incoming: Table = IncomingRow.__table__  # type: ignore[attr-defined]
_waits: Table = StockWaitRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

OWN_LOCATIONS = (LocationKind.WAREHOUSE, LocationKind.STORE)
"""Locations between which transfers are possible."""


@activity.defn(name="stock.record_transfer")
async def record_step(step: TransferStep) -> Answer:
    """Record a step; refuse it and write nothing if stock does not allow it.

    May be repeated: of a step that a lost workflow task had recorded otherwise, the repetition wins.
    """
    transfer = step.transfer
    try:
        async with transaction() as connection:
            await _post(connection, step)
            for place in {transfer.origin, transfer.destination}:
                goods = transfer.outstanding if place == transfer.heading else {}
                await operations.set_expected_receipts(connection, transfer.id, place, goods, transfer.due)
            await _save(connection, step)
    except InvalidInput as error:
        return no("refused.transfer.stock", location=transfer.origin, why=await _shortages(transfer) or error.message)
    return YES


async def _post(connection: AsyncConnection, step: TransferStep) -> None:
    """Enter the movements. Virtual warehouses get their shares of what arrives at the destination."""
    moves = list(step.moves)
    for each in sorted(step.moves, key=lambda move: move.sku):
        if each.kind is MovementKind.TRANSFER_IN and each.warehouse == step.transfer.destination:
            await ledger.open_level(connection, each.warehouse, each.sku)
            moves += await operations.virtual_shares(connection, each)
    await operations.post_all(connection, moves, f"{step.transfer.id}:{step.transfer.revision}")


async def _save(connection: AsyncConnection, step: TransferStep) -> None:
    transfer = step.transfer
    row = transfer.model_dump(include=set(_transfers.c.keys()))
    row |= {"status": transfer.status, "updated_at": step.at}
    new = insert(_transfers).values(row)
    await connection.execute(
        new.on_conflict_do_update(index_elements=["id"], set_=row, where=_transfers.c.revision <= transfer.revision)
    )
    if step.entry is not None:
        await timeline.add_entries(connection, transfer.id, [step.entry])
    if step.exception is not None:
        await exceptions.open_all(connection, [step.exception])
    if transfer.status.final:
        await exceptions.close_for_orders(connection, [transfer.id])


async def _shortages(transfer: Transfer) -> str:
    """Return the SKUs of which the origin has less available than planned, as ``SKU: available / planned``."""
    planned = transfer.planned
    async with transaction() as connection:
        available = {
            each.sku: each.available
            for each in await ledger.levels(connection, planned)
            if each.warehouse == transfer.origin
        }
    return ", ".join(
        f"{sku}: {available.get(sku, 0)} / {quantity}"
        for sku, quantity in planned.items()
        if available.get(sku, 0) < quantity
    )


async def validate(connection: AsyncConnection, transfer: Transfer) -> None:
    """Require two different locations of our own, and SKUs that hold stock. Raise ``InvalidInput``."""
    if transfer.origin == transfer.destination:
        raise InvalidInput("destination", "invalid.destination")
    query = select(_warehouses.c.code).where(_warehouses.c.kind.in_(OWN_LOCATIONS))
    own = set(await connection.scalars(query))
    for field in ("origin", "destination"):
        if (code := getattr(transfer, field)) not in own:
            raise InvalidInput(field, "invalid.warehouse.not_ours", warehouse=code)
    for line in sorted(transfer.lines, key=lambda line: line.sku):
        await ledger.open_level(connection, transfer.destination, line.sku)


async def list_all(connection: AsyncConnection, status: TransferStatus | None = None) -> Sequence[Row[Any]]:
    """Return transfers, newest first."""
    query = select(_transfers).order_by(_transfers.c.proposed_at.desc(), _transfers.c.id).limit(1000)
    if status is not None:
        query = query.where(_transfers.c.status == status)
    return (await connection.execute(query)).all()


async def get(connection: AsyncConnection, transfer_id: str) -> Row[Any] | None:
    return (await connection.execute(select(_transfers).where(_transfers.c.id == transfer_id))).one_or_none()


class Proposal(Value):
    """A suggested transfer of one SKU, and the figures behind it."""

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
    """What the origin could spare before this transfer."""


async def propose(connection: AsyncConnection) -> list[Proposal]:
    """Propose transfers from open warehouses and stores that have more than they need to those that have less.

    Beyond what it keeps back, a location needs its safety stock again, and what orders wait for, counted at the
    location nearest to each order. What it is short of, less what is on its way, comes from the others, nearest first,
    each giving what it does not need itself. Transfers not shipped yet count as if they were on their way.
    """
    query = select(_warehouses).where(_warehouses.c.kind.in_(OWN_LOCATIONS), ~_warehouses.c.closed)
    sites = {row.code: row for row in await connection.execute(query)}
    waiting = await _waiting(connection, list(sites.values()))
    levels = {(row.warehouse, row.sku): Level.model_validate(row._mapping) for row in await _stock(connection, sites)}
    incoming, leaving = await _under_way(connection)
    stocked = {place: levels.get(place) or Level(warehouse=place[0], sku=place[1]) for place in {*levels, *waiting}}
    needed = {place: waiting[place] + level.safety_stock for place, level in stocked.items()}
    spare = {place: level.available - needed[place] - leaving[place] for place, level in stocked.items()}
    proposals = []
    for place in sorted(stocked):
        code, sku = place
        short = -(spare[place] + incoming[place]) if needed[place] else 0
        others = sorted(
            (other for other in sites if other != code and spare.get((other, sku), 0) > 0),
            key=lambda other: (remoteness(sites[other].province, sites[code].province), sites[other].rank, other),
        )
        for other in others:
            quantity = min(short, spare[other, sku])
            if quantity <= 0:
                break
            proposals.append(
                Proposal(
                    origin=other,
                    destination=code,
                    sku=sku,
                    quantity=quantity,
                    waiting=waiting[place],
                    available=stocked[place].available,
                    incoming=incoming[place],
                    safety_stock=stocked[place].safety_stock,
                    spare=spare[other, sku],
                )
            )
            short -= quantity
            spare[other, sku] -= quantity
    return proposals


async def _stock(connection: AsyncConnection, codes: Collection[str]) -> Sequence[Row[Any]]:
    return (await connection.execute(select(_levels).where(_levels.c.warehouse.in_(codes)))).all()


async def _waiting(connection: AsyncConnection, sites: Sequence[Row[Any]]) -> Counter[tuple[str, str]]:
    """Return the quantities orders wait for, by the location nearest to each order and SKU."""
    query = select(_waits.c.sku, _waits.c.quantity, _orders.c.recipient).join(
        _orders, _orders.c.id == _waits.c.order_id
    )
    waiting: Counter[tuple[str, str]] = Counter()
    for row in await connection.execute(query) if sites else ():
        recipient = readable(row.recipient)
        province = recipient.province if recipient else ""
        nearest = min(sites, key=lambda site: (remoteness(site.province, province), site.rank, site.code))
        waiting[nearest.code, row.sku] += row.quantity
    return waiting


async def _under_way(connection: AsyncConnection) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Return incoming quantities, and quantities of draft transfers to leave, both by location and SKU."""
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
    """Keep others from accepting proposals until this transaction ends: both would be offered the same goods."""
    await connection.execute(select(func.pg_advisory_xact_lock(_ACCEPTING)))


_ACCEPTING = 0x7472616E7366
