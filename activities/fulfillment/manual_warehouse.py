"""The warehouse of a location that people run: it accepts every fulfillment order, and they pick, pack and ship it.

Its jobs stand in one table. Whether a fulfillment order ships or is recalled is decided under the lock of its job, so
that of a scan and a cancellation that meet only one succeeds. What people do reaches the order as a warehouse system's
report would, through the inbox.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, Table, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.fulfillment.fulfillment_orders import packed_lines
from activities.intake import inbox
from activities.kit.errors import InvalidInput
from models.fulfillment import FulfillmentRow, Recall
from models.intake import IntegrationType, Raw, Receipt
from models.manual_warehouse import Act, Job, JobState, ManualJobRow
from models.order import OrderRow
from models.requests import WarehouseEvent, WarehouseEventKind
from models.stock import WarehouseRow, WarehouseSystem

_jobs: Table = ManualJobRow.__table__  # type: ignore[attr-defined]
_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

_WITH_ORDER = select(
    _jobs,
    _fulfillments.c.warehouse,
    _fulfillments.c.carrier,
    _fulfillments.c.waybill_no,
    _fulfillments.c.lines,
    _fulfillments.c.queue,
    _fulfillments.c.order_id,
).join(_fulfillments, _fulfillments.c.id == _jobs.c.fulfillment_id)
_MOST_LISTED = 1000


async def accept(connection: AsyncConnection, fulfillment_id: str) -> None:
    """Put a fulfillment order on the pick list, once."""
    row = {"fulfillment_id": fulfillment_id, "state": JobState.OPEN, "updated_at": datetime.now(UTC)}
    await connection.execute(insert(_jobs).values(_new(row)).on_conflict_do_nothing())


async def recall(connection: AsyncConnection, fulfillment_id: str) -> Recall:
    """Take a fulfillment order off the pick list, unless it has shipped."""
    row = {"fulfillment_id": fulfillment_id, "state": JobState.RECALLED, "updated_at": datetime.now(UTC)}
    new = insert(_jobs).values(_new(row))
    recalled = new.on_conflict_do_update(
        index_elements=["fulfillment_id"],
        set_={"state": JobState.RECALLED, "updated_at": new.excluded.updated_at},
        where=_jobs.c.state != JobState.SHIPPED,
    )
    if (await connection.execute(recalled.returning(_jobs.c.state))).first() is None:
        return Recall(accepted=False, reason="shipped")
    return Recall(accepted=True)


def _new(row: dict[str, Any]) -> dict[str, Any]:
    return {"picked": {}, "packed": {}, "requests": [], "actor": "", **row}


async def pick_list(connection: AsyncConnection, warehouse: str | None = None) -> list[Job]:
    """Return the first thousand jobs that wait, of one location or of all: urgent orders first, then the oldest."""
    query = _WITH_ORDER.join(_orders, _orders.c.id == _fulfillments.c.order_id).where(_jobs.c.state == JobState.OPEN)
    query = query.order_by(_orders.c.priority, _jobs.c.updated_at, _jobs.c.fulfillment_id).limit(_MOST_LISTED)
    if warehouse is not None:
        query = query.where(_fulfillments.c.warehouse == warehouse)
    return [_job(row) for row in await connection.execute(query)]


async def scan(
    connection: AsyncConnection,
    parcel: str,
    act: Act,
    scans: Mapping[str, int] | None,
    *,
    request_id: str,
    actor: str,
) -> Job:
    """Enter what was picked or packed, by SKU; without ``scans``, all that remains. Return the job as it then is.

    ``parcel`` is a waybill number, or the id of a fulfillment order. A repeated ``request_id`` changes nothing. Raise
    ``InvalidInput``, saying what remains, where a SKU or quantity is not due, or the parcel is not waiting here.
    """
    row = await _lock(connection, parcel)
    job = _job(row)
    if request_id in row.requests:
        return job
    _require_open(job, row)
    remaining = job.remaining(act)
    done = Counter(job.done(act))
    for sku, quantity in (remaining if scans is None else scans).items():
        if sku not in job.due:
            raise InvalidInput("sku", "scan.wrong_sku", sku=sku, parcel=job.waybill_no, remaining=_text(remaining))
        if quantity > remaining.get(sku, 0):
            raise InvalidInput(
                "sku", "scan.too_many", sku=sku, quantity=quantity, parcel=job.waybill_no, remaining=_text(remaining)
            )
        done[sku] += quantity
    if act is Act.PACK:
        _require_complete(job, Act.PICK)
    job = job.model_copy(update={"picked" if act is Act.PICK else "packed": dict(done)})
    await _save(connection, job, [*row.requests, request_id], actor)
    if act is Act.PICK and remaining and not job.remaining(act):
        await _report(connection, job, WarehouseEventKind.PICKED, actor)
    return job


async def ship(connection: AsyncConnection, parcel: str, weight_g: int | None, *, request_id: str, actor: str) -> Job:
    """Hand a parcel to its carrier, weighed in grams, and report it to its order. Return the job.

    A repeated ``request_id`` changes nothing. Raise ``InvalidInput`` where the parcel is not waiting here, or picking
    or packing was begun and not finished.
    """
    row = await _lock(connection, parcel)
    job = _job(row)
    if request_id in row.requests:
        return job
    _require_open(job, row)
    _require_complete(job, Act.PICK)
    _require_complete(job, Act.PACK)
    job = job.model_copy(update={"state": JobState.SHIPPED, "weight_g": weight_g})
    await _save(connection, job, [*row.requests, request_id], actor)
    await _report(connection, job, WarehouseEventKind.SHIPPED, actor)
    return job


async def _lock(connection: AsyncConnection, parcel: str) -> Row[Any]:
    """Return the job of a parcel, locked. Raise ``InvalidInput`` if no location that people run has it."""
    mine = or_(_fulfillments.c.waybill_no == parcel, _fulfillments.c.id == parcel)
    rows = (await connection.execute(_WITH_ORDER.where(mine).with_for_update(of=_jobs))).all()
    waiting = [row for row in rows if row.state == JobState.OPEN]
    if len(waiting) > 1:
        found = ", ".join(row.fulfillment_id for row in waiting)
        raise InvalidInput("parcel", "scan.several", parcel=parcel, fulfillments=found)
    if rows:
        return (waiting or rows)[0]
    query = select(_fulfillments.c.warehouse, _warehouses.c.system).join(
        _warehouses, _warehouses.c.code == _fulfillments.c.warehouse
    )
    elsewhere = (await connection.execute(query.where(mine))).first()
    if elsewhere is None:
        raise InvalidInput("parcel", "scan.unknown_parcel", parcel=parcel)
    if elsewhere.system != WarehouseSystem.MANUAL:
        raise InvalidInput("parcel", "scan.other_system", parcel=parcel, warehouse=elsewhere.warehouse)
    raise InvalidInput("parcel", "scan.not_released", parcel=parcel, warehouse=elsewhere.warehouse)


def _require_open(job: Job, row: Row[Any]) -> None:
    if job.state is JobState.SHIPPED:
        at = f"{row.updated_at:%Y-%m-%d %H:%M} UTC"
        raise InvalidInput("parcel", "scan.shipped", parcel=job.waybill_no, at=at, actor=row.actor)
    if job.state is JobState.RECALLED:
        raise InvalidInput("parcel", "scan.recalled", parcel=job.waybill_no)


def _require_complete(job: Job, act: Act) -> None:
    """Raise ``InvalidInput`` where an act was begun and not finished."""
    if job.done(act) and (remaining := job.remaining(act)):
        key = "scan.not_picked" if act is Act.PICK else "scan.not_packed"
        raise InvalidInput("parcel", key, parcel=job.waybill_no, remaining=_text(remaining))


def _job(row: Row[Any]) -> Job:
    due: Counter[str] = Counter()
    for line in packed_lines(row):
        due[line.sku] += line.quantity
    fields = {name: row._mapping[name] for name in Job.model_fields if name != "due"}
    return Job(**fields, due=dict(due))


def _text(quantities: Mapping[str, int]) -> str:
    return ", ".join(f"{sku} × {quantity}" for sku, quantity in quantities.items()) or "0"


async def _save(connection: AsyncConnection, job: Job, requests: Sequence[str], actor: str) -> None:
    values = {
        **job.model_dump(include={"state", "picked", "packed", "weight_g"}),
        "requests": list(requests),
        "actor": actor,
        "updated_at": datetime.now(UTC),
    }
    await connection.execute(update(_jobs).where(_jobs.c.fulfillment_id == job.fulfillment_id).values(values))


async def _report(connection: AsyncConnection, job: Job, kind: WarehouseEventKind, actor: str) -> None:
    """Report to the order, as a warehouse system does."""
    event = WarehouseEvent(
        request_id=f"{job.fulfillment_id}:{kind}",
        actor=actor,
        fulfillment_id=job.fulfillment_id,
        kind=kind,
        at=datetime.now(UTC),
        weight_kg=Decimal(job.weight_g) / 1000 if job.weight_g else None,
    )
    raw = Raw.model_construct(body=event.model_dump_json().encode(), headers={})
    receipt = Receipt(fact_key=event.request_id, topic=kind)
    source = WarehouseSystem.MANUAL
    await inbox.accept(connection, IntegrationType.WAREHOUSE, source, job.warehouse, receipt, raw, actor)
