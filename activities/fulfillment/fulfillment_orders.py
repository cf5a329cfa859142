"""Read fulfillment orders with their order and warehouse: contents, value, shipping request."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any

from sqlalchemy import Integer, Row, Select, String, bindparam, column, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.catalogue import exchange_rates
from activities.kit.errors import refused
from models.carrier_selection import ShippingRequest
from models.exceptions import ExceptionKind, NewException
from models.exchange_rates import NoRate
from models.fulfillment import FulfillmentLine, FulfillmentRow, FulfillmentStatus
from models.money import Money, minor_unit
from models.order import CENT, URGENT, OrderLine, OrderRow
from models.settings import settings
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
        _orders.c.placed_at,
        _orders.c.recipient,
        _orders.c.tags,
        _orders.c.carrier.label("required_carrier"),
        _warehouses.c.province.label("origin"),
        _warehouses.c.sender,
        _warehouses.c.carrier.label("default_carrier"),
        _warehouses.c.system,
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


def exception_of(row: Row[Any], kind: ExceptionKind) -> NewException:
    """Return the exception of this kind that a fulfillment order has at most once."""
    return NewException(
        key=f"{row.id}:{kind}",
        kind=kind,
        order_id=row.order_id,
        fulfillment_id=row.id,
        warehouse=row.warehouse,
        carrier=row.carrier,
        waybill_no=row.waybill_no,
    )


def packed_lines(row: Row[Any]) -> tuple[FulfillmentLine, ...]:
    """Return what to pack: lines of the same goods joined, whichever virtual warehouse's stock they come from."""
    quantities: dict[FulfillmentLine, int] = defaultdict(int)
    for each in row.lines:
        line = FulfillmentLine.model_validate(each)
        quantities[line.model_copy(update={"stock": None, "quantity": 1})] += line.quantity
    return tuple(line.model_copy(update={"quantity": quantity}) for line, quantity in quantities.items())


Recipes = dict[str, dict[str, int]]
"""By order line, what one unit consists of: SKU → quantity."""


async def _recipes(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> Recipes:
    """Return what the packed order lines consist of; rows of one order."""
    sold_skus = {line["line_no"]: line["sku"] for line in rows[0].order_lines}
    recipes = {line_no: {sku: 1} for line_no, sku in sold_skus.items()}
    bundles: dict[str, dict[str, int]] = defaultdict(dict)
    split = {line.line_no for row in rows for line in packed_lines(row) if line.sold_sku != sold_skus[line.line_no]}
    if split:
        query = select(BundleRow).where(BundleRow.bundle.in_({sold_skus[line_no] for line_no in split}))  # type: ignore[attr-defined]
        for component in await connection.execute(query):
            bundles[component.bundle][component.sku] = component.quantity
    return recipes | {line_no: bundles[sold_skus[line_no]] for line_no in split}


def _units(rows: Sequence[Row[Any]], recipes: Recipes) -> dict[str, Fraction]:
    """Return the packed units of each order line, by line number; each component of a bundle counts equally."""
    units: dict[str, Fraction] = defaultdict(Fraction)
    for row in rows:
        for line in packed_lines(row):
            recipe = recipes[line.line_no]
            units[line.line_no] += Fraction(line.quantity, recipe[line.sold_sku] * len(recipe))
    return units


def _complete_units(rows: Sequence[Row[Any]], recipes: Recipes) -> dict[str, int]:
    """Return the units of each order line of which all parts are packed."""
    packed: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        for line in packed_lines(row):
            packed[line.line_no, line.sold_sku] += line.quantity
    return {
        line_no: min(packed[line_no, sku] // quantity for sku, quantity in recipe.items())
        for line_no, recipe in recipes.items()
    }


async def units_to_report(connection: AsyncConnection, row: Row[Any]) -> dict[str, int]:
    """Return the units of each order line to report to the channel with this parcel, in a transaction.

    A bundle whose parts leave in several parcels is reported once, with the parcel that completes it.
    """
    recipes = await _recipes(connection, [row])
    if all(len(recipe) == 1 for recipe in recipes.values()):
        return _complete_units([row], recipes)
    if row.reported_units is not None:
        return dict(row.reported_units)
    reported = [each for each in await _lock_parcels(connection, row) if each.reported_units is not None]
    others = [each for each in reported if each.id != row.id]
    before = _complete_units(others, await _recipes(connection, others)) if others else {}
    parcels = [*others, row]
    after = _complete_units(parcels, await _recipes(connection, parcels))
    units_now = {line_no: units - before.get(line_no, 0) for line_no, units in after.items()}
    await connection.execute(update(_fulfillments).where(_fulfillments.c.id == row.id).values(reported_units=units_now))
    return units_now


async def cash_to_collect(connection: AsyncConnection, row: Row[Any]) -> Decimal:
    """Return what the carrier is to collect with this parcel, in a transaction; the same for each try.

    It is the share, by value, of the parcels asked for so far, less what they collect: together the parcels of an order
    collect exactly its total.
    """
    parcels = await _lock_parcels(connection, row)
    own = next(each for each in parcels if each.id == row.id)
    if own.cash is not None:
        return Decimal(own.cash)
    others = [each for each in parcels if each.cash is not None]
    due = await _share(connection, [*others, own])
    unit = minor_unit(row.currency)
    rounded = (Decimal(due.numerator) / due.denominator).quantize(unit, ROUND_HALF_EVEN)
    cash = max(rounded - sum((each.cash for each in others), Decimal(0)), Decimal(0)).quantize(unit)
    await connection.execute(update(_fulfillments).where(_fulfillments.c.id == row.id).values(cash=cash))
    return cash


async def _lock_parcels(connection: AsyncConnection, row: Row[Any]) -> Sequence[Row[Any]]:
    """Lock the parcels of a parcel's order; return those that are not cancelled, and itself."""
    query = select(_fulfillments.c.id).where(_fulfillments.c.order_id == row.order_id).order_by(_fulfillments.c.id)
    await connection.execute(query.with_for_update())
    alive = or_(_fulfillments.c.status != FulfillmentStatus.CANCELLED, _fulfillments.c.id == row.id)
    parcels = FULFILLMENT_ORDERS.where(_fulfillments.c.order_id == row.order_id, alive)
    locked: Sequence[Row[Any]] = (await connection.execute(parcels.order_by(_fulfillments.c.id))).all()
    return locked


async def _share(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> Fraction:
    """Return the share of parcels of one order, by value, of the order's total."""
    packed = _units(rows, await _recipes(connection, rows))
    order_lines = [OrderLine.model_validate(line) for line in rows[0].order_lines]
    values = {line.line_no: line.net for line in order_lines}
    if not any(values.values()):
        values = {line.line_no: Decimal(line.quantity) for line in order_lines}
    shares = (Fraction(values[line.line_no]) * packed[line.line_no] / line.quantity for line in order_lines)
    return sum(shares, Fraction(0)) / Fraction(sum(values.values())) * Fraction(rows[0].total)


async def parcel_value(connection: AsyncConnection, row: Row[Any]) -> Decimal:
    """Return the parcel's share, by value, of the order's total; what it collects on delivery, once that is fixed."""
    if row.cash is not None:
        return Decimal(row.cash)
    value = await _share(connection, [row])
    return (Decimal(value.numerator) / value.denominator).quantize(CENT, ROUND_HALF_EVEN)


async def _home_value(connection: AsyncConnection, row: Row[Any]) -> dict[str, object]:
    """Return the parcel's value in the home currency, or its currency as ``no_rate``."""
    value = Money.model_construct(amount=await parcel_value(connection, row), currency=row.currency)
    try:
        return {"value": (await exchange_rates.load(connection)).convert(value, settings().currency, datetime.now(UTC))}
    except NoRate as error:
        return {"no_rate": error.currency}


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
        **await _home_value(connection, row),
        "cash_on_delivery": not row.paid_at,
        "urgent": row.priority == URGENT,
        "promised_by": row.promised_by,
    }
    return basic_shipping_request(row).model_copy(update=goods)
