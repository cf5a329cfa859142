"""The steps of a fulfillment order that reach the outside world: carriers, warehouses and channels.

Each is known to the other side by a reference derived from the fulfillment order, so that it may be repeated; each
reads what is personal from the database, so that none of it passes through a workflow.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

from sqlalchemy import Row, select, update
from temporalio import activity

from activities import projection, warehouses
from activities.accounts import account
from activities.carriers import Carrier, carrier
from activities.channels import channel
from activities.database import transaction
from activities.errors import refused
from models.base import Value
from models.fulfillment import (
    Booking,
    FulfillmentLine,
    FulfillmentRow,
    RequestStatus,
    Shipment,
    ShipmentLine,
    Waybill,
)
from models.intake import AccountRow, Lane
from models.order import Entry, OrderRow
from models.stock import SkuRow, WarehouseRow


class Recall(Value):
    """Whether a warehouse gave a fulfillment order back, and why not."""

    accepted: bool
    reason: str = ""


def reference(fulfillment_id: str) -> str:
    """Our number of a fulfillment order at a carrier: at most 64 of ``[A-Za-z0-9-]``, the same each time."""
    order_id, _, part = fulfillment_id.rpartition(":")
    number = re.sub(r"[^A-Za-z0-9]", "", order_id.rpartition(":")[2])[:40]
    return f"{number}-{part}-{sha256(fulfillment_id.encode()).hexdigest()[:10]}"


@activity.defn
async def book_waybill(fulfillment_id: str) -> Waybill:
    """Books a waybill once: whoever finds one booked under our reference, by whatever earlier try, takes that one."""
    row = await _read(fulfillment_id)
    name = await _choose_carrier(row)
    ours = reference(fulfillment_id)
    if row.waybill_no is not None:
        return Waybill(carrier=row.carrier, waybill_no=row.waybill_no, reference=ours)
    chosen = await _carrier(name)
    waybill = await chosen.find(ours) if activity.info().attempt > 1 else None
    if waybill is None:
        lines = tuple(FulfillmentLine.model_validate(line) for line in row.lines)
        waybill = await chosen.book(
            Booking(
                reference=ours,
                sender=row.sender,
                recipient=row.recipient,
                goods=lines,
                weight_kg=await _weight(lines),
                cash_on_delivery=row.total if row.paid_at is None else None,
            )
        )
    await _note(
        row,
        "booked",
        {"carrier": waybill.carrier, "waybill_no": waybill.waybill_no, "label": waybill.label},
        carrier=waybill.carrier,
        waybill_no=waybill.waybill_no,
    )
    return waybill


@activity.defn
async def release_to_warehouse(fulfillment_id: str) -> RequestStatus:
    """Asks the warehouse to send it; from then on the order waits for the world."""
    row = await _read(fulfillment_id)
    status = await warehouses.submit(
        await account(Lane.WAREHOUSE, "wms", row.warehouse),
        fulfillment_id,
        lines=tuple(FulfillmentLine.model_validate(line) for line in row.lines),
        waybill=Waybill(carrier=row.carrier, waybill_no=row.waybill_no, reference=reference(fulfillment_id)),
        recipient=row.recipient,
        priority=row.priority,
    )
    await _note(row, "released", {"request_status": status}, rest=True, warehouse=row.warehouse)
    return status


@activity.defn
async def recall_from_warehouse(fulfillment_id: str) -> Recall:
    """Asks for it back. Asked whatever we believe the warehouse to have: an earlier call may have arrived unseen."""
    row = await _read(fulfillment_id)
    recall = await warehouses.recall(await account(Lane.WAREHOUSE, "wms", row.warehouse), fulfillment_id)
    said = RequestStatus.CANCELLATION_ACCEPTED if recall.accepted else RequestStatus.CANCELLATION_REJECTED
    await _note(row, "recalled" if recall.accepted else "recall_rejected", {"request_status": said})
    return Recall(accepted=recall.accepted, reason=recall.reason)


@activity.defn
async def cancel_waybill(fulfillment_id: str) -> None:
    """Cancels what was booked under our reference, also where the booking's answer was lost."""
    row = await _read(fulfillment_id)
    chosen = await _carrier(row.carrier or await _choose_carrier(row))
    waybill = await chosen.find(reference(fulfillment_id))
    if waybill is not None:
        await chosen.cancel(waybill)
        await _note(row, "waybill_cancelled", {}, waybill_no=waybill.waybill_no)


@activity.defn
async def confirm_shipment(fulfillment_id: str) -> None:
    """Tells the channel what left, by which carrier, under which number."""
    row = await _read(fulfillment_id)
    sold = {line["line_no"]: line for line in row.sold}
    sent = {line["line_no"]: line for line in row.lines}
    lines = tuple(
        ShipmentLine(line_no=number, sku=sold[number]["sku"], quantity=_sold_units(sold[number], number, row.lines))
        for number in sent
    )
    whole = {line.line_no: line.quantity for line in lines} == {n: line["quantity"] for n, line in sold.items()}
    shop = await account(Lane.CHANNEL, row.channel, row.shop)
    await channel(shop).confirm_shipment(
        Shipment(
            channel_order_no=row.channel_order_no,
            reference=reference(fulfillment_id),
            carrier=row.carrier,
            waybill_no=row.waybill_no,
            lines=lines,
            whole_order=whole,
            shipped_at=row.shipped_at,
        )
    )
    await _note(row, "told_channel", {"told_channel": True}, waybill_no=row.waybill_no)


def _sold_units(line: dict[str, Any], number: str, sent: list[dict[str, Any]]) -> int:
    """How many of a line as sold are in what was sent: a bundle counts once its parts are."""
    units = [each["quantity"] for each in sent if each["line_no"] == number]
    own = sum(each["quantity"] for each in sent if each["line_no"] == number and each["sku"] == line["sku"])
    return own or min(line["quantity"], *units)


async def _read(fulfillment_id: str) -> Row[Any]:
    """The fulfillment order with what is needed of its order and its warehouse."""
    query = (
        select(
            FulfillmentRow.__table__,  # type: ignore[attr-defined]
            OrderRow.channel,
            OrderRow.shop,
            OrderRow.channel_order_no,
            OrderRow.lines.label("sold"),  # type: ignore[attr-defined]
            OrderRow.carrier.label("carrier_demanded"),  # type: ignore[union-attr]
            OrderRow.recipient,
            OrderRow.priority,
            OrderRow.total,
            OrderRow.paid_at,
            WarehouseRow.sender,
            WarehouseRow.carrier.label("default_carrier"),  # type: ignore[attr-defined]
        )
        .join(OrderRow, OrderRow.id == FulfillmentRow.order_id)
        .join(WarehouseRow, WarehouseRow.code == FulfillmentRow.warehouse)
        .where(FulfillmentRow.id == fulfillment_id)
    )
    async with transaction() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise refused(f"no fulfillment order {fulfillment_id}", "not_found")
    return row


async def _carrier(name: str) -> Carrier:
    """The adapter of the account that we hold with a carrier."""
    return carrier(await account(Lane.CARRIER, name, "default"))


async def _choose_carrier(row: Row[Any]) -> str:
    """The carrier that buyer or channel demands, where we have an account with it; else the warehouse's own."""
    if row.carrier_demanded is None or row.carrier_demanded == row.default_carrier:
        return str(row.default_carrier)
    query = select(AccountRow.account).where(
        AccountRow.lane == Lane.CARRIER,  # type: ignore[arg-type]
        AccountRow.source == row.carrier_demanded,  # type: ignore[arg-type]
    )
    async with transaction() as connection:
        found = (await connection.execute(query)).first()
    return str(row.carrier_demanded if found else row.default_carrier)


async def _weight(lines: tuple[FulfillmentLine, ...]) -> Decimal:
    """Kilograms by the catalogue; at least a tenth."""
    query = select(SkuRow.sku, SkuRow.weight_kg).where(SkuRow.sku.in_([line.sku for line in lines]))  # type: ignore[call-overload, attr-defined]
    async with transaction() as connection:
        weights = {sku: weight for sku, weight in await connection.execute(query)}
    return max(sum((weights.get(line.sku, Decimal(0)) * line.quantity for line in lines), Decimal(0)), Decimal("0.1"))


async def _note(row: Row[Any], what: str, values: dict[str, Any], *, rest: bool = False, **detail: Any) -> None:
    """Keeps what the other side said, on the fulfillment order and on the timeline."""
    now = datetime.now(UTC)
    detail = {"fulfillment": row.id.rpartition(":")[2], "warehouse": row.warehouse, **detail}
    entry = Entry(key=f"{what}:{row.id}", at=now, what=f"timeline.{what}", detail=detail)
    async with transaction() as connection:
        await connection.execute(
            update(FulfillmentRow).where(FulfillmentRow.id == row.id).values(updated_at=now, **values)  # type: ignore[arg-type]
        )
        await projection.add_entries(connection, row.order_id, [entry])
        if rest:
            await projection.at_rest(connection, row.order_id)
