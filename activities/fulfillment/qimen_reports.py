"""What a Qimen warehouse reports, entered: facts of fulfillment orders through the inbox, stock through the ledger."""

from typing import Any

from sqlalchemy import Row, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.fulfillment.fulfillment_orders import packed_lines
from activities.intake import inbox
from activities.kit.errors import Unintelligible
from activities.stock import operations
from activities.warehouses import qimen
from activities.warehouses.qimen import OrderReport, StockReport
from models.base import bounded_key
from models.fulfillment import FulfillmentRow
from models.intake import IntegrationType, Raw, Receipt
from models.requests import WarehouseEvent, WarehouseEventKind
from models.stock import MovementKind, WarehouseSystem

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]


async def enter(connection: AsyncConnection, warehouse: str, report: OrderReport | StockReport) -> None:
    """Enter a report once, however often it comes.

    Raise ``Unintelligible`` where it fits no fulfillment order here, or says that other goods left, or under another
    waybill number, and ``InvalidInput`` where the stock cannot be changed so.
    """
    if isinstance(report, StockReport):
        await _enter_stock(connection, warehouse, report)
        return
    row = await _find(connection, warehouse, report.order_code)
    if report.kind is None:
        return
    if report.kind is WarehouseEventKind.SHIPPED:
        _check_shipment(row, report)
    event = WarehouseEvent(
        request_id=f"{row.id}:{report.kind}",
        actor=f"qimen:{warehouse}",
        fulfillment_id=row.id,
        kind=report.kind,
        at=report.at,
        weight_kg=report.weight_kg,
        reason=report.reason[:500],
        shortfalls=report.shortfalls,
    )
    receipt = Receipt(fact_key=bounded_key(event.request_id), topic=event.kind)
    raw = Raw.model_construct(body=event.model_dump_json().encode(), headers={})
    source = WarehouseSystem.QIMEN
    await inbox.accept(connection, IntegrationType.WAREHOUSE, source, warehouse, receipt, raw, event.actor)


async def _find(connection: AsyncConnection, warehouse: str, code: str) -> Row[Any]:
    """Return the fulfillment order of a ``deliveryOrderCode``. Raise ``Unintelligible`` if this warehouse has none."""
    here = select(_fulfillments).where(_fulfillments.c.warehouse == warehouse)
    row = (await connection.execute(here.where(_fulfillments.c.id == code))).one_or_none()
    if row is None and "~" in code:
        ending = _fulfillments.c.id.endswith(code.partition("~")[2], autoescape=True)
        rows = await connection.execute(here.where(ending, func.length(_fulfillments.c.id) > len(code)))
        row = next((each for each in rows if qimen.order_code(each.id) == code), None)
    if row is None:
        raise Unintelligible("deliveryOrderCode", "invalid.fulfillment.not_here")
    return row


def _check_shipment(row: Row[Any], report: OrderReport) -> None:
    """Require our waybill number, and all the goods where the report lists them."""
    for waybill_no in report.waybills:
        if row.waybill_no is not None and waybill_no != row.waybill_no:
            raise Unintelligible("expressCode", "invalid.qimen.waybill", expected=row.waybill_no)
    due: dict[str, int] = {}
    for line in packed_lines(row):
        due[line.sku] = due.get(line.sku, 0) + line.quantity
    if report.shipped and report.shipped != due:
        expected = ", ".join(f"{sku} × {quantity}" for sku, quantity in due.items())
        raise Unintelligible("orderLines", "invalid.qimen.lines", expected=expected)


async def _enter_stock(connection: AsyncConnection, warehouse: str, report: StockReport) -> None:
    actor, request_id = f"qimen:{warehouse}", bounded_key(f"qimen:{warehouse}:{report.code}")
    for sku, quantity in report.received.items():
        if quantity:
            await operations.receive(connection, warehouse, sku, quantity, request_id, actor)
    for sku, quantity in report.damaged.items():
        if quantity:
            kind = MovementKind.QUARANTINED
            await operations.grade(connection, kind, warehouse, sku, quantity, report.code, request_id, actor)
    for sku, quantity in report.differences.items():
        await operations.adjust(connection, warehouse, sku, quantity, report.code, request_id, actor)
