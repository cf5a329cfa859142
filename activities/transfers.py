"""Transfers: each step's effect on the stock and what people see of it, in one transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Table, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities import inventory, projection
from activities.database import transaction
from activities.inventory import NotAllowed
from models.requests import YES, Answer, no
from models.stock import LocationKind, MovementKind, WarehouseRow
from models.transfer import Transfer, TransferRow, TransferStatus, TransferStep

_transfers: Table = TransferRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]

OURS = (LocationKind.WAREHOUSE, LocationKind.STORE)
"""Between these goods are moved."""


@activity.defn
async def keep(step: TransferStep) -> Answer:
    """Writes a step down; no, and nothing written, where the stock does not allow it. May be repeated."""
    transfer = step.transfer
    try:
        async with transaction() as connection:
            await _enter(connection, step)
            for place in {transfer.origin, transfer.destination}:
                goods = transfer.outstanding if place == transfer.heading else {}
                await inventory.expect(connection, transfer.id, place, goods, transfer.due)
            await _project(connection, step)
    except NotAllowed as error:
        return no("refused.transfer.stock", location=transfer.origin, why=await _lacking(transfer) or error.reason)
    return YES


async def _enter(connection: AsyncConnection, step: TransferStep) -> None:
    """The movements; what arrives at a destination is shared with its virtual warehouses as any receipt is."""
    moves = list(step.moves)
    for each in sorted(step.moves, key=lambda move: move.sku):
        if each.kind is MovementKind.TRANSFER_IN and each.warehouse == step.transfer.destination:
            await inventory.open_level(connection, each.warehouse, each.sku)
            moves += await inventory.shares(connection, each)
    await inventory.enter_all(connection, moves, f"{step.transfer.id}:{step.transfer.revision}")


async def _project(connection: AsyncConnection, step: TransferStep) -> None:
    transfer = step.transfer
    row = transfer.model_dump(include=set(_transfers.c.keys()))
    row |= {"status": transfer.status, "updated_at": step.at}
    written = insert(_transfers).values(row)
    await connection.execute(
        written.on_conflict_do_update(index_elements=["id"], set_=row, where=_transfers.c.revision < transfer.revision)
    )
    if step.entry is not None:
        await connection.execute(projection.ENTER, {"entries": projection.entries(transfer.id, [step.entry])})
    if step.alert is not None:
        await projection.raise_alerts(connection, [step.alert])
    if transfer.status.final:
        await projection.close_alerts(connection, [transfer.id])


async def _lacking(transfer: Transfer) -> str:
    """What its origin has less of than is planned, as it is there."""
    planned = transfer.planned
    async with transaction() as connection:
        there = {
            each.sku: each.available
            for each in await inventory.levels(connection, planned)
            if each.warehouse == transfer.origin
        }
    return ", ".join(
        f"{sku}: {there.get(sku, 0)} / {asked}" for sku, asked in planned.items() if there.get(sku, 0) < asked
    )


async def check(connection: AsyncConnection, transfer: Transfer) -> None:
    """That it is between two of our own locations, of goods that hold stock. Raises ``NotAllowed``."""
    if transfer.origin == transfer.destination:
        raise NotAllowed("destination", "is the origin")
    query = select(_warehouses.c.code).where(_warehouses.c.kind.in_(OURS))
    ours = set(await connection.scalars(query))
    for field in ("origin", "destination"):
        if (code := getattr(transfer, field)) not in ours:
            raise NotAllowed(field, f"{code} is not a warehouse or store of ours")
    for line in sorted(transfer.lines, key=lambda line: line.sku):
        await inventory.open_level(connection, transfer.destination, line.sku)


async def every(connection: AsyncConnection, status: TransferStatus | None = None) -> Sequence[Row[Any]]:
    """Transfers, newest first; the finished ones at last."""
    query = select(_transfers).order_by(_transfers.c.proposed_at.desc(), _transfers.c.id).limit(1000)
    if status is not None:
        query = query.where(_transfers.c.status == status)
    return (await connection.execute(query)).all()


async def one(connection: AsyncConnection, transfer_id: str) -> Row[Any] | None:
    return (await connection.execute(select(_transfers).where(_transfers.c.id == transfer_id))).one_or_none()
