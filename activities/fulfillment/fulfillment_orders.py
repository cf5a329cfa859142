"""Read fulfillment orders with their order and warehouse: contents, value, shipping request."""

from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any

from sqlalchemy import Integer, Row, Select, String, bindparam, column, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.errors import refused
from models.carrier_selection import ShippingRequest
from models.fulfillment import FulfillmentLine, FulfillmentRow
from models.order import CENT, URGENT, OrderLine, OrderRow
from models.stock import BundleRow, SkuRow, WarehouseRow

_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders = OrderRow.__table__  # type: ignore[attr-defined]
_warehouses = WarehouseRow.__table__  # type: ignore[attr-defined]
_skus = SkuRow.__table__  # type: ignore[attr-defined]

_line_columns = column("sku", String), column("quantity", Integer)
PACKED_GOODS = (
    func.jsonb_to_recordset(_fulfillments.c.lines)
    .table_valued(*_line_columns)
    .render_derived(name="goods", with_types=True)
)
"""The lines of a fulfillment order as rows of ``sku`` and ``quantity``."""
_weight = (
    select(func.sum(_skus.c.weight_kg * PACKED_GOODS.c.quantity))
    .select_from(PACKED_GOODS.join(_skus, _skus.c.sku == PACKED_GOODS.c.sku))
    .scalar_subquery()
)
FULFILLMENT_ORDERS: Select[Any] = (
    select(
        _fulfillments,
        _orders.c.channel,
        _orders.c.shop,
        _orders.c.channel_order_no,
        _orders.c.priority,
        _orders.c.lines.label("order_lines"),
        _orders.c.currency,
        _orders.c.total,
        _orders.c.paid_at,
        _orders.c.promised_by,
        _orders.c.recipient,
        _orders.c.tags,
        _orders.c.carrier.label("required_carrier"),
        _warehouses.c.province.label("origin"),
        _warehouses.c.sender,
        _warehouses.c.carrier.label("default_carrier"),
        _weight.label("weight"),
    )
    .join(_orders, _orders.c.id == _fulfillments.c.order_id)
    .join(_warehouses, _warehouses.c.code == _fulfillments.c.warehouse)
)
"""Fulfillment orders with their order and their warehouse."""
_by_id = FULFILLMENT_ORDERS.where(_fulfillments.c.id == bindparam("fulfillment_id"))


async def get_fulfillment_order(connection: AsyncConnection, fulfillment_id: str) -> Row[Any]:
    """Return a row of ``FULFILLMENT_ORDERS``. Raises ``ApplicationError`` where there is none."""
    row: Row[Any] | None = (await connection.execute(_by_id, {"fulfillment_id": fulfillment_id})).one_or_none()
    if row is None:
        raise refused("error.fulfillment_unknown", "not_found", fulfillment=fulfillment_id)
    return row


def packed_lines(row: Row[Any]) -> tuple[FulfillmentLine, ...]:
    """Return what to pack: lines of the same goods joined, whichever virtual warehouse's stock they come from."""
    quantities: dict[FulfillmentLine, int] = defaultdict(int)
    for each in row.lines:
        line = FulfillmentLine.model_validate(each)
        quantities[line.model_copy(update={"stock": None, "quantity": 1})] += line.quantity
    return tuple(line.model_copy(update={"quantity": quantity}) for line, quantity in quantities.items())


async def packed_units(connection: AsyncConnection, row: Row[Any]) -> dict[str, Fraction]:
    """Return the packed units of each order line, by line number; each component of a bundle counts equally."""
    sold_skus = {line["line_no"]: line["sku"] for line in row.order_lines}
    lines = packed_lines(row)
    components: dict[str, dict[str, int]] = defaultdict(dict)
    if bundles := {sold_skus[line.line_no] for line in lines if line.sold_sku != sold_skus[line.line_no]}:
        query = select(BundleRow).where(BundleRow.bundle.in_(bundles))  # type: ignore[attr-defined]
        for component in await connection.execute(query):
            components[component.bundle][component.sku] = component.quantity
    units: dict[str, Fraction] = defaultdict(Fraction)
    for line in lines:
        contents = components.get(sold_skus[line.line_no], {line.sold_sku: 1})
        units[line.line_no] += Fraction(line.quantity, contents[line.sold_sku] * len(contents))
    return units


async def parcel_value(connection: AsyncConnection, row: Row[Any]) -> Decimal:
    """Return the parcel's share, by value, of the order's total: what to collect where the order was not paid."""
    packed = await packed_units(connection, row)
    order_lines = [OrderLine.model_validate(line) for line in row.order_lines]
    values = {line.line_no: line.net for line in order_lines}
    if not any(values.values()):
        values = {line.line_no: Decimal(line.quantity) for line in order_lines}
    shares = (Fraction(values[line.line_no]) * packed[line.line_no] / line.quantity for line in order_lines)
    value = sum(shares, Fraction(0)) / Fraction(sum(values.values())) * Fraction(row.total)
    return (Decimal(value.numerator) / value.denominator).quantize(CENT, ROUND_HALF_EVEN)


def basic_shipping_request(row: Row[Any]) -> ShippingRequest:
    """Return what is known without reading the goods."""
    return ShippingRequest(
        channel=row.channel,
        shop=row.shop,
        warehouse=row.warehouse,
        origin=row.origin,
        destination=row.recipient.province,
        city=row.recipient.city,
        required_carrier=row.required_carrier,
        default_carrier=row.default_carrier,
    )


async def shipping_request(connection: AsyncConnection, row: Row[Any]) -> ShippingRequest:
    """Return everything that the choice of a carrier depends on."""
    quantities: dict[str, int] = defaultdict(int)
    for line in packed_lines(row):
        quantities[line.sku] += line.quantity
    query = select(_skus.c.sku, _skus.c.volume_cm3, _skus.c.needs).where(_skus.c.sku.in_(quantities))
    skus = list(await connection.execute(query))
    goods = {
        "skus": tuple(sorted(quantities)),
        "quantity": sum(quantities.values()),
        "tags": tuple(row.tags),
        "weight_kg": row.weight,
        "volume_cm3": sum(quantities[each.sku] * each.volume_cm3 for each in skus),
        "needs": frozenset(need for each in skus for need in each.needs),
        "value": await parcel_value(connection, row),
        "cash_on_delivery": not row.paid_at,
        "urgent": row.priority == URGENT,
        "promised_by": row.promised_by,
    }
    return basic_shipping_request(row).model_copy(update=goods)
