"""Printing: waybill labels and packing lists, drawn from what the database holds of fulfillment orders."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import Table, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities import fulfillment
from activities.inventory import NotAllowed
from models.fulfillment import FulfillmentLine, FulfillmentRow, Label
from models.order import OrderRow
from models.printing import PrintKind, PrintRow, Sheet
from models.stock import SkuRow, WarehouseRow

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]
_prints: Table = PrintRow.__table__  # type: ignore[attr-defined]


async def sheets(
    connection: AsyncConnection, ids: Sequence[str], kind: PrintKind, actor: str, lang: str
) -> list[Sheet]:
    """What is to be printed, in the order asked for, noted as printed by this actor. Raises ``NotAllowed`` where one
    is not there, has no waybill yet, or its recipient was erased."""
    query = (
        select(
            _fulfillments,
            _orders.c.channel_order_no,
            _orders.c.shop,
            _orders.c.recipient,
            _orders.c.paid_at,
            _orders.c.total,
            _orders.c.lines.label("sold"),
            _warehouses.c.sender,
        )
        .join(_orders, _orders.c.id == _fulfillments.c.order_id)
        .join(_warehouses, _warehouses.c.code == _fulfillments.c.warehouse)
        .where(_fulfillments.c.id.in_(ids))
    )
    rows = {row.id: row for row in await connection.execute(query)}
    for number, id_ in enumerate(ids):
        row = rows.get(id_)
        if row is None:
            raise NotAllowed(f"fulfillments.{number}", f"no fulfillment order {id_}")
        if not row.waybill_no and kind is PrintKind.LABEL:
            raise NotAllowed(f"fulfillments.{number}", f"{id_} has no waybill yet")
        if row.recipient is None or row.sender is None:
            raise NotAllowed(f"fulfillments.{number}", f"{id_} has no address any more")
    lines = {id_: [FulfillmentLine.model_validate(line) for line in row.lines] for id_, row in rows.items()}
    skus = {line.sku for each in lines.values() for line in each}
    title = _skus.c.title_zh if lang == "zh-CN" else _skus.c.title
    named = select(_skus.c.sku, title, _skus.c.weight_kg).where(_skus.c.sku.in_(skus))
    items = {sku: (text, weight) for sku, text, weight in await connection.execute(named)}
    counted = (
        select(_prints.c.fulfillment_id, func.count())
        .where(_prints.c.fulfillment_id.in_(ids), _prints.c.kind == kind)
        .group_by(_prints.c.fulfillment_id)
    )
    printed = {id_: count for id_, count in await connection.execute(counted)}
    cash = {id_: await fulfillment.worth(connection, row) for id_, row in rows.items() if row.paid_at is None}
    now = datetime.now(UTC)
    entered = [{"fulfillment_id": id_, "kind": kind, "at": now, "actor": actor} for id_ in ids]
    await connection.execute(insert(_prints), entered)
    return [
        Sheet(
            fulfillment_id=id_,
            order_no=rows[id_].channel_order_no,
            shop=rows[id_].shop,
            carrier=rows[id_].carrier or "",
            waybill_no=rows[id_].waybill_no or "",
            label=Label.model_validate(rows[id_].label or {}),
            sender=rows[id_].sender,
            recipient=rows[id_].recipient,
            lines=tuple(lines[id_]),
            titles={line.sku: items[line.sku][0] for line in lines[id_] if line.sku in items},
            weight_kg=sum((items[line.sku][1] * line.quantity for line in lines[id_] if line.sku in items), Decimal(0)),
            cash_on_delivery=cash.get(id_),
            printed=printed.get(id_, 0),
        )
        for id_ in ids
    ]


def masked(phone: str) -> str:
    """A phone as labels show it: 138****5678, an extension kept."""
    number, mark, extension = phone.partition("-")
    hidden = f"{number[:3]}****{number[-4:]}" if len(number) >= 8 else "****"
    return f"{hidden}{mark}{extension}"
