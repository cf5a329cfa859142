"""The steps of a fulfillment order that reach the outside world: carrier, warehouse, channel.

Each takes the fulfillment order's id alone and reads the rest from the database, so that nothing personal passes
through a workflow; each may be repeated, and fails as ``activities.kit.errors`` says.

A fulfillment order whose booking was cancelled or whose warehouse gave it back is never used again: its goods are
planned afresh under a new id, and so booked under a new reference.
"""

from collections import defaultdict
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from math import ceil
from typing import Any

from sqlalchemy import (
    Integer,
    Row,
    Select,
    String,
    Update,
    bindparam,
    case,
    column,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts import channel_access, wms
from activities.accounts.accounts import get_account, get_carrier_account
from activities.carriers import carrier
from activities.fulfillment import carrier_selection
from activities.intake import inbox
from activities.kit import sql
from activities.kit.database import at_once
from activities.kit.errors import refused
from activities.records import timeline
from models.carrier_selection import Choice, ShippingRequest
from models.fulfillment import (
    Booking,
    FulfillmentLine,
    FulfillmentRow,
    Label,
    Recall,
    RequestStatus,
    Shipment,
    ShipmentLine,
    Waybill,
    carrier_reference,
)
from models.intake import Account, IntegrationType
from models.order import CENT, URGENT, Entry, OrderLine, OrderRow
from models.stock import BundleRow, SkuRow, WarehouseRow

WAREHOUSE_SYSTEM = "wms"

_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders = OrderRow.__table__  # type: ignore[attr-defined]
_warehouses = WarehouseRow.__table__  # type: ignore[attr-defined]
_skus = SkuRow.__table__  # type: ignore[attr-defined]

_goods = func.jsonb_to_recordset(_fulfillments.c.lines).table_valued(column("sku", String), column("quantity", Integer))
PACKED = _goods.render_derived(name="goods", with_types=True)
_weight = (
    select(func.sum(_skus.c.weight_kg * PACKED.c.quantity))
    .select_from(PACKED.join(_skus, _skus.c.sku == PACKED.c.sku))
    .scalar_subquery()
)
EVERYTHING: Select[Any] = (
    select(
        _fulfillments,
        _orders.c.channel,
        _orders.c.shop,
        _orders.c.channel_order_no,
        _orders.c.priority,
        _orders.c.lines.label("sold"),
        _orders.c.currency,
        _orders.c.total,
        _orders.c.paid_at,
        _orders.c.promised_by,
        _orders.c.recipient,
        _orders.c.tags,
        _orders.c.carrier.label("demanded"),
        _warehouses.c.province.label("origin"),
        _warehouses.c.sender,
        _warehouses.c.carrier.label("usual"),
        _weight.label("weight"),
    )
    .join(_orders, _orders.c.id == _fulfillments.c.order_id)
    .join(_warehouses, _warehouses.c.code == _fulfillments.c.warehouse)
)
"""A fulfillment order with its order and its warehouse."""
_one = EVERYTHING.where(_fulfillments.c.id == bindparam("fulfillment_id"))


@activity.defn(name="fulfillment.book")
async def book_waybill(fulfillment_id: str) -> Waybill:
    """Books with the best carrier for it, and where that refuses at once and for good, with the next.

    Once an answer was lost, that carrier alone is asked again: it may have booked, so that even where it then refuses,
    no other is asked, but a person. The waybill is returned without its label, which is kept in the database.
    """
    async with at_once() as connection:
        row = await read(connection, fulfillment_id)
        cash = None if row.paid_at else await worth(connection, row)
    reference = carrier_reference(fulfillment_id)
    if row.waybill_no:
        return Waybill(carrier=row.carrier, waybill_no=row.waybill_no, reference=reference)
    if row.sender is None or row.recipient is None:
        raise refused("carrier.no_address", "no_address")
    booking = Booking(
        reference=reference,
        sender=row.sender,
        recipient=row.recipient,
        goods=packed_lines(row),
        weight_kg=row.weight,
        cash_on_delivery=cash,
    )
    choice, asked = await _choice(row, booking)
    asked = asked or activity.info().attempt > 1
    failure: ApplicationError | None = None
    while (source := choice.carrier) is not None:
        try:
            waybill = await _booked(source, booking, asked_before=asked)
        except ApplicationError as error:
            if not error.non_retryable:
                await _keep_choice(row, choice)
                raise
            if asked:
                raise
            failure = failure or error
            choice = choice.without(source, str(error.details[0]) if error.details else "")
            await _keep_choice(row, choice)
        else:
            await _write(row, "booked", _BOOKED, **waybill.model_dump(include={"carrier", "waybill_no", "label"}))
            return waybill.model_copy(update={"label": Label()})
    raise failure or refused("carrier.none", "no_carrier")


async def _choice(row: Row[Any], booking: Booking) -> tuple[Choice, bool]:
    """The carriers to be asked, and whether the first of them was asked before.

    A choice between several is kept before anybody is asked. One that nobody is left of is made anew.
    """
    kept = Choice.model_validate(row.choice) if row.choice else None
    if kept is not None and kept.carrier is not None:
        return kept, True
    parcel = _parcel(row)
    async with at_once() as connection:
        terms = await carrier_selection.eligible_carriers(connection, parcel)
        if not terms:
            raise refused("carrier.no_account", "no_account")
        only = await carrier_selection.sole_choice(connection, parcel, terms)
    if kept is None and only is not None:
        return only, False
    prices = await carrier_selection.quote_prices(terms, booking)
    async with at_once() as connection:
        choice = await carrier_selection.choice(connection, await weighed(connection, row), terms, prices)
    await _keep_choice(row, choice)
    return choice, False


def _parcel(row: Row[Any]) -> ShippingRequest:
    """What is known of it without looking at its goods."""
    return ShippingRequest(
        channel=row.channel,
        shop=row.shop,
        warehouse=row.warehouse,
        origin=row.origin,
        destination=row.recipient.province,
        city=row.recipient.city,
        demanded=row.demanded,
        usual=row.usual,
    )


async def weighed(connection: AsyncConnection, row: Row[Any]) -> ShippingRequest:
    """All that a choice of its carrier looks at, of a row as ``read`` answers it."""
    goods: dict[str, int] = defaultdict(int)
    for line in packed_lines(row):
        goods[line.sku] += line.quantity
    query = select(_skus.c.sku, _skus.c.volume_cm3, _skus.c.needs).where(_skus.c.sku.in_(goods))
    items = list(await connection.execute(query))
    facts = {
        "skus": tuple(sorted(goods)),
        "quantity": sum(goods.values()),
        "tags": tuple(row.tags),
        "weight_kg": row.weight,
        "volume_cm3": sum(goods[each.sku] * each.volume_cm3 for each in items),
        "needs": frozenset(need for each in items for need in each.needs),
        "value": await worth(connection, row),
        "cash_on_delivery": not row.paid_at,
        "urgent": row.priority == URGENT,
        "promised_by": row.promised_by,
    }
    return _parcel(row).model_copy(update=facts)


async def _booked(source: str, booking: Booking, *, asked_before: bool) -> Waybill:
    ours = await get_carrier_account(source)
    if ours is None:
        raise refused("carrier.no_account", "no_account")
    system = carrier(ours)
    waybill = await system.find(booking.reference) if asked_before else None
    return waybill or await system.book(booking)


async def _keep_choice(row: Row[Any], choice: Choice) -> None:
    async with at_once() as connection:
        kept = update(_fulfillments).where(_fulfillments.c.id == row.id)
        await connection.execute(kept.values(choice=choice.model_dump(mode="json")))


@activity.defn(name="fulfillment.release")
async def release_to_warehouse(fulfillment_id: str) -> RequestStatus:
    """Hands it over to its warehouse; what it told of its order is then at rest. Answers where the request stands."""
    async with at_once() as connection:
        row = await read(connection, fulfillment_id)
    if row.request_status != RequestStatus.UNSUBMITTED:
        return RequestStatus(row.request_status)
    if row.recipient is None:
        raise refused("carrier.no_address", "no_address")
    status = await wms.submit(
        await get_account(IntegrationType.WAREHOUSE, WAREHOUSE_SYSTEM, row.warehouse),
        wms.Submission(
            fulfillment_id=fulfillment_id,
            order_no=row.channel_order_no,
            carrier=row.carrier,
            waybill_no=row.waybill_no,
            label=Label.model_validate(row.label or {}),
            lines=packed_lines(row),
            recipient=row.recipient.masked(),
            priority=row.priority,
            promised_by=row.promised_by,
            queue=row.queue,
        ),
    )
    await _write(row, "released", _RELEASED, request_status=status)
    return status


@activity.defn(name="fulfillment.recall")
async def recall_from_warehouse(fulfillment_id: str) -> Recall:
    """Asks its warehouse to give it back.

    Whatever was booked may have been submitted, even where no answer came: only what was not is given back unasked.
    """
    async with at_once() as connection:
        row = await read(connection, fulfillment_id)
    if not row.waybill_no:
        return Recall(accepted=True)
    ours = await get_account(IntegrationType.WAREHOUSE, WAREHOUSE_SYSTEM, row.warehouse)
    recall = await wms.recall(ours, fulfillment_id, "cancelled")
    if recall.accepted:
        await _write(row, "recalled", _RECALLED, request_status=RequestStatus.CANCELLATION_ACCEPTED)
    else:
        await _write(row, "recall_rejected", _RECALLED, request_status=RequestStatus.CANCELLATION_REJECTED)
    return recall


@activity.defn(name="fulfillment.cancel_waybill")
async def cancel_waybill(fulfillment_id: str) -> None:
    """Cancels its booking, also one whose answer never reached us. The number is kept for the record."""
    async with at_once() as connection:
        row = await read(connection, fulfillment_id)
    ours = await _carrier_account(row)
    if ours is not None:
        await carrier(ours).cancel(carrier_reference(fulfillment_id), row.waybill_no or "")


@activity.defn(name="fulfillment.confirm_shipment")
async def confirm_shipment(fulfillment_id: str) -> None:
    """Tells the channel what left with which waybill; of gifts it knows nothing."""
    async with at_once() as connection:
        row = await read(connection, fulfillment_id)
        if row.channel_notified:
            return
        packed = await _packed_units(connection, row)
    sold = [line for line in map(OrderLine.model_validate, row.sold) if not line.gift]
    shipment = Shipment(
        channel_order_no=row.channel_order_no,
        reference=fulfillment_id,
        carrier=(row.label or {}).get("courier") or row.carrier,
        waybill_no=row.waybill_no,
        lines=tuple(
            ShipmentLine(line_no=line.line_no, sku=line.told or line.sku, quantity=ceil(packed[line.line_no]))
            for line in sold
            if packed[line.line_no]
        ),
        whole_order=all(packed[line.line_no] >= line.quantity for line in sold),
        shipped_at=row.shipped_at or datetime.now(UTC),
    )
    if shipment.lines:
        async with channel_access.open_channel(row.channel, row.shop) as ours:
            await ours.confirm_shipment(shipment)
    await _write(row, "channel_notified", _TOLD, channel_notified=True)


async def read(connection: AsyncConnection, fulfillment_id: str) -> Row[Any]:
    """A fulfillment order with its order and its warehouse. Raises ``ApplicationError``."""
    asked = {"fulfillment_id": fulfillment_id}
    row: Row[Any] | None = (await connection.execute(_one, asked)).one_or_none()
    if row is None:
        raise refused(f"no fulfillment order {fulfillment_id}", "not_found")
    return row


_given = sql.json_rows("changes", *(_fulfillments.c[name] for name in ("id", "request_status", "updated_at")))
_advanced = case(
    (_fulfillments.c.request_status == RequestStatus.UNSUBMITTED, _given.c.request_status),
    else_=_fulfillments.c.request_status,
)


def _keeping(*columns: str) -> Update:
    """What keeps these of ``changes``."""
    given = (_fulfillments.c[name] for name in ("id", *columns, "updated_at"))
    return sql.update_from(_fulfillments, sql.json_rows("changes", *given))


def _telling(kept: Update, *more: Update) -> Select[Any]:
    """One statement that keeps what the other side said, and tells it on the order's timeline."""
    parts = (kept, timeline.INSERT_ENTRIES, *more)
    return select(literal_column("1")).add_cte(*(part.cte(f"part_{number}") for number, part in enumerate(parts)))


_BOOKED = _telling(_keeping("carrier", "waybill_no", "label"))
_RELEASED = _telling(sql.update_from(_fulfillments, _given).values(request_status=_advanced), inbox.SETTLE)
_RECALLED = _telling(_keeping("request_status"))
_TOLD = _telling(_keeping("channel_notified"))


async def _write(row: Row[Any], what: str, statement: Select[Any], **values: Any) -> None:
    now = datetime.now(UTC)
    told = {"fulfillment": row.id.rpartition(":")[2], "warehouse": row.warehouse}
    told |= {name: values.get(name) or row._mapping[name] for name in ("carrier", "waybill_no")}
    entry = Entry(key=f"{what}:{row.id}", at=now, what=f"timeline.{what}", detail=told)
    async with at_once() as connection:
        await connection.execute(
            statement,
            {
                "changes": [{"id": row.id, **values, "updated_at": now.isoformat()}],
                "entries": timeline.entry_rows(row.order_id, [entry]),
                "settled": [row.order_id],
            },
        )


async def _carrier_account(row: Row[Any]) -> Account | None:
    """The account it was or is to be booked with."""
    kept = Choice.model_validate(row.choice).carrier if row.choice else None
    if booked := row.carrier or kept:
        return await get_carrier_account(str(booked))
    demanded = await get_carrier_account(row.demanded) if row.demanded else None
    return demanded or await get_carrier_account(row.usual)


def packed_lines(row: Row[Any]) -> tuple[FulfillmentLine, ...]:
    """What is to be packed; whose share of the stock it comes from is nothing to the warehouse."""
    packed: dict[FulfillmentLine, int] = defaultdict(int)
    for each in row.lines:
        line = FulfillmentLine.model_validate(each)
        packed[line.model_copy(update={"stock": None, "quantity": 1})] += line.quantity
    return tuple(line.model_copy(update={"quantity": quantity}) for line, quantity in packed.items())


async def _packed_units(connection: AsyncConnection, row: Row[Any]) -> dict[str, Fraction]:
    """How many units of each sold line it carries; of a bundle, each component is an equal part."""
    sold = {line["line_no"]: line["sku"] for line in row.sold}
    lines = packed_lines(row)
    components: dict[str, dict[str, int]] = defaultdict(dict)
    if bundles := {sold[line.line_no] for line in lines if line.sold_sku != sold[line.line_no]}:
        query = select(BundleRow).where(BundleRow.bundle.in_(bundles))  # type: ignore[attr-defined]
        for part in await connection.execute(query):
            components[part.bundle][part.sku] = part.quantity
    packed: dict[str, Fraction] = defaultdict(Fraction)
    for line in lines:
        contents = components.get(sold[line.line_no], {line.sold_sku: 1})
        packed[line.line_no] += Fraction(line.quantity, contents[line.sold_sku] * len(contents))
    return packed


async def worth(connection: AsyncConnection, row: Row[Any]) -> Decimal:
    """This parcel's share, by value, of what the buyer pays for the order: what is collected, where it was not paid."""
    packed = await _packed_units(connection, row)
    sold = [OrderLine.model_validate(line) for line in row.sold]
    values = {line.line_no: line.net for line in sold}
    if not any(values.values()):
        values = {line.line_no: Decimal(line.quantity) for line in sold}
    share = sum((Fraction(values[line.line_no]) * packed[line.line_no] / line.quantity for line in sold), Fraction(0))
    due = share / Fraction(sum(values.values())) * Fraction(row.total)
    return (Decimal(due.numerator) / due.denominator).quantize(CENT, ROUND_HALF_EVEN)
