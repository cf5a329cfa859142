"""The activities of a fulfillment order that reach outside systems: carrier, warehouse, channel.

Each takes only the fulfillment order's id and reads the rest from the database, so that no personal data passes through
a workflow. Each may be repeated, and fails as ``activities.kit.errors`` describes.

A fulfillment order whose booking was cancelled, or which its warehouse gave back, is never used again: its goods are
planned under a new id, and so booked under a new reference.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, Select, Update, case, literal_column, select, update
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts import channel_access
from activities.accounts.accounts import get_account, get_carrier_account
from activities.carriers import carrier
from activities.fulfillment import carrier_selection, manual_warehouse
from activities.fulfillment.fulfillment_orders import (
    basic_shipping_request,
    cash_to_collect,
    exception_of,
    get_fulfillment_order,
    packed_lines,
    shipping_request,
    units_to_report,
)
from activities.intake import inbox
from activities.kit import sql
from activities.kit.database import at_once, transaction
from activities.kit.errors import refused
from activities.records import exceptions, timeline
from activities.warehouses import qimen, wms
from models.carrier_selection import Choice
from models.exceptions import ExceptionKind
from models.fulfillment import (
    Booking,
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
from models.order import URGENT, Entry, OrderLine
from models.stock import WarehouseSystem

_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]


@activity.defn(name="fulfillment.book")
async def book_waybill(fulfillment_id: str) -> Waybill:
    """Book with the best carrier, or with the next where that one refuses for good.

    Once an answer was lost, only that carrier is asked again, for it may have booked. If it then refuses, the activity
    fails and a person decides. The waybill is returned without its label, which stays in the database.
    """
    async with at_once() as connection:
        row = await get_fulfillment_order(connection, fulfillment_id)
    reference = carrier_reference(fulfillment_id)
    if row.waybill_no:
        return Waybill(carrier=row.carrier, waybill_no=row.waybill_no, reference=reference)
    if row.sender is None:
        raise refused("location.no_sender", "no_address", warehouse=row.warehouse)
    if row.recipient is None:
        raise refused("error.no_recipient", "no_address", fulfillment=fulfillment_id)
    cash = None if row.paid_at else await _fix_cash(row)
    booking = Booking(
        reference=reference,
        sender=row.sender,
        recipient=row.recipient,
        goods=packed_lines(row),
        weight_kg=row.weight,
        cash_on_delivery=cash,
    )
    choice, asked_before = await _choose_carrier(row, booking)
    asked_before = asked_before or activity.info().attempt > 1
    failure: ApplicationError | None = None
    while (source := choice.carrier) is not None:
        try:
            waybill = await _find_or_book(source, booking, asked_before=asked_before)
        except ApplicationError as error:
            if not error.non_retryable:
                await _save_choice(row, choice)
                raise
            if asked_before:
                raise
            failure = failure or error
            choice = choice.without(source, str(error.details[0]) if error.details else "")
            await _save_choice(row, choice)
        else:
            booked = waybill.model_dump(include={"carrier", "waybill_no", "label"})
            await _record(row, "booked", _BOOKED, **booked, booked_at=datetime.now(UTC).isoformat())
            return waybill.model_copy(update={"label": Label()})
    raise failure or refused("carrier.none", "no_carrier")


async def _fix_cash(row: Row[Any]) -> Decimal:
    async with transaction() as connection:
        return await cash_to_collect(connection, row)


async def _choose_carrier(row: Row[Any], booking: Booking) -> tuple[Choice, bool]:
    """Return the ranked carriers, and whether the first one was asked before.

    A choice among several is saved before any carrier is asked. A saved choice without a carrier left is replaced.
    """
    saved = Choice.model_validate(row.choice) if row.choice else None
    if saved is not None and saved.carrier is not None:
        return saved, True
    basic_request = basic_shipping_request(row)
    async with at_once() as connection:
        terms = await carrier_selection.eligible_carriers(connection, basic_request)
        if not terms:
            raise _no_carrier_account(row)
        sole_choice = await carrier_selection.sole_choice(connection, basic_request, terms)
    if saved is None and sole_choice is not None:
        return sole_choice, False
    prices = await carrier_selection.quote_prices(terms, booking)
    async with at_once() as connection:
        request = await shipping_request(connection, row)
        choice = await carrier_selection.choose_carrier(connection, request, terms, prices)
    await _save_choice(row, choice)
    return choice, False


def _no_carrier_account(row: Row[Any]) -> ApplicationError:
    """Return the error of a parcel that no carrier can be asked for: the message names the location and the remedy."""
    if not (carrier := row.required_carrier or row.default_carrier):
        return refused("location.no_carrier", "no_account", warehouse=row.warehouse)
    return refused("location.no_carrier_account", "no_account", warehouse=row.warehouse, carrier=carrier)


async def _find_or_book(source: str, booking: Booking, *, asked_before: bool) -> Waybill:
    account = await get_carrier_account(source)
    if account is None:
        raise refused("carrier.no_account", "no_account")
    adapter = carrier(account)
    waybill = await adapter.find(booking.reference) if asked_before else None
    return waybill or await adapter.book(booking)


async def _save_choice(row: Row[Any], choice: Choice) -> None:
    async with at_once() as connection:
        query = update(_fulfillments).where(_fulfillments.c.id == row.id)
        await connection.execute(query.values(choice=choice.model_dump(mode="json")))


@activity.defn(name="fulfillment.release")
async def release_to_warehouse(fulfillment_id: str) -> RequestStatus:
    """Submit to the warehouse, settle the order's inbox messages, and return the request status."""
    async with at_once() as connection:
        row = await get_fulfillment_order(connection, fulfillment_id)
    if row.request_status != RequestStatus.UNSUBMITTED:
        return RequestStatus(row.request_status)
    if row.recipient is None:
        raise refused("error.no_recipient", "no_address", fulfillment=fulfillment_id)
    if row.system == WarehouseSystem.MANUAL:
        async with transaction() as connection:
            await manual_warehouse.accept(connection, fulfillment_id)
        status = RequestStatus.ACCEPTED
    else:
        status = await _submit(row)
    await _record(row, "released", _RELEASED, request_status=status)
    return status


def _submission(row: Row[Any]) -> wms.Submission:
    return wms.Submission(
        fulfillment_id=row.id,
        order_no=row.channel_order_no,
        carrier=row.carrier,
        waybill_no=row.waybill_no,
        label=Label.model_validate(row.label or {}),
        lines=packed_lines(row),
        recipient=row.recipient.masked(),
        priority=row.priority,
        promised_by=row.promised_by,
        queue=row.queue,
    )


def _qimen_delivery(row: Row[Any]) -> qimen.Delivery:
    if row.sender is None:
        raise refused("location.no_sender", "no_address", warehouse=row.warehouse)
    return qimen.Delivery(
        fulfillment_id=row.id,
        order_no=row.channel_order_no,
        channel=row.channel,
        shop=row.shop,
        placed_at=row.placed_at,
        carrier=(row.label or {}).get("courier") or row.carrier,
        waybill_no=row.waybill_no,
        lines=packed_lines(row),
        sender=row.sender,
        recipient=row.recipient,
        urgent=row.priority == URGENT,
    )


async def _submit(row: Row[Any]) -> RequestStatus:
    """Submit to the warehouse's system. While it cannot be reached, an exception is open."""
    account = await get_account(IntegrationType.WAREHOUSE, row.system, row.warehouse)
    trouble = exception_of(row, ExceptionKind.WAREHOUSE_UNREACHABLE)
    try:
        if row.system == WarehouseSystem.QIMEN:
            status = await qimen.submit(account, _qimen_delivery(row))
        else:
            status = await wms.submit(account, _submission(row))
    except ApplicationError as error:
        if not error.non_retryable:
            async with transaction() as connection:
                await exceptions.open_all(
                    connection, [trouble.model_copy(update={"detail": {"reason": error.message}})]
                )
        raise
    if activity.info().attempt > 1:
        async with transaction() as connection:
            await exceptions.close(connection, trouble.key, exceptions.SYSTEM, "")
    return status


@activity.defn(name="fulfillment.recall")
async def recall_from_warehouse(fulfillment_id: str) -> Recall:
    """Ask the warehouse to give the fulfillment order back.

    Anything with a waybill may have been submitted, even where no answer came, so the warehouse is asked. Without a
    waybill nothing was submitted, and the recall succeeds at once.
    """
    async with at_once() as connection:
        row = await get_fulfillment_order(connection, fulfillment_id)
    if not row.waybill_no:
        return Recall(accepted=True)
    if row.system == WarehouseSystem.MANUAL:
        async with transaction() as connection:
            recall = await manual_warehouse.recall(connection, fulfillment_id)
    else:
        account = await get_account(IntegrationType.WAREHOUSE, row.system, row.warehouse)
        system = qimen if row.system == WarehouseSystem.QIMEN else wms
        recall = await system.recall(account, fulfillment_id, "cancelled")
    if recall.accepted:
        await _record(row, "recalled", _RECALLED, request_status=RequestStatus.CANCELLATION_ACCEPTED)
    else:
        await _record(row, "recall_rejected", _RECALLED, request_status=RequestStatus.CANCELLATION_REJECTED)
    return recall


@activity.defn(name="fulfillment.cancel_waybill")
async def cancel_waybill(fulfillment_id: str) -> None:
    """Cancel the booking, even one whose answer was lost. The waybill number is kept for the record."""
    async with at_once() as connection:
        row = await get_fulfillment_order(connection, fulfillment_id)
    account = await _carrier_account(row)
    if account is not None:
        await carrier(account).cancel(carrier_reference(fulfillment_id), row.waybill_no or "")


@activity.defn(name="fulfillment.confirm_shipment")
async def confirm_shipment(fulfillment_id: str) -> None:
    """Report to the channel which lines left with which waybill, without gifts, which the channel does not know."""
    async with at_once() as connection:
        row = await get_fulfillment_order(connection, fulfillment_id)
        if row.channel_notified:
            return
    async with transaction() as connection:
        units = await units_to_report(connection, row)
    order_lines = [line for line in map(OrderLine.model_validate, row.order_lines) if not line.gift]
    shipment = Shipment(
        channel_order_no=row.channel_order_no,
        reference=fulfillment_id,
        carrier=(row.label or {}).get("courier") or row.carrier,
        waybill_no=row.waybill_no,
        lines=tuple(
            ShipmentLine(line_no=line.line_no, sku=line.told or line.sku, quantity=units[line.line_no])
            for line in order_lines
            if units.get(line.line_no)
        ),
        whole_order=all(units.get(line.line_no, 0) >= line.quantity for line in order_lines),
        shipped_at=row.shipped_at or datetime.now(UTC),
    )
    if shipment.lines:
        async with channel_access.open_channel(row.channel, row.shop) as channel:
            await channel.confirm_shipment(shipment)
    await _record(row, "channel_notified", _CHANNEL_NOTIFIED, channel_notified=True)


_request_changes = sql.json_rows("changes", *(_fulfillments.c[name] for name in ("id", "request_status", "updated_at")))
_advanced_status = case(
    (_fulfillments.c.request_status == RequestStatus.UNSUBMITTED, _request_changes.c.request_status),
    else_=_fulfillments.c.request_status,
)


def _update_columns(*columns: str) -> Update:
    """Return a statement that updates these columns from the parameter ``changes``."""
    changed = (_fulfillments.c[name] for name in ("id", *columns, "updated_at"))
    return sql.update_from(_fulfillments, sql.json_rows("changes", *changed))


def _with_entry(change: Update, *more: Update) -> Select[Any]:
    """Return one statement that makes the changes and adds an entry to the order's timeline."""
    parts = (change, timeline.INSERT_ENTRIES, *more)
    return select(literal_column("1")).add_cte(*(part.cte(f"part_{number}") for number, part in enumerate(parts)))


_BOOKED = _with_entry(_update_columns("carrier", "waybill_no", "label", "booked_at"))
_RELEASED = _with_entry(
    sql.update_from(_fulfillments, _request_changes).values(request_status=_advanced_status), inbox.SETTLE
)
_RECALLED = _with_entry(_update_columns("request_status"))
_CHANNEL_NOTIFIED = _with_entry(_update_columns("channel_notified"))


async def _record(row: Row[Any], what: str, statement: Select[Any], **values: Any) -> None:
    """Execute one of the statements above: save ``values``, and add the entry ``timeline.{what}``."""
    now = datetime.now(UTC)
    detail = {"fulfillment": row.id.rpartition(":")[2], "warehouse": row.warehouse}
    detail |= {name: values.get(name) or row._mapping[name] for name in ("carrier", "waybill_no")}
    entry = Entry(key=f"{what}:{row.id}", at=now, what=f"timeline.{what}", detail=detail)
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
    """Return the account that the parcel was or will be booked with."""
    chosen = Choice.model_validate(row.choice).carrier if row.choice else None
    if source := row.carrier or chosen:
        return await get_carrier_account(str(source))
    required = await get_carrier_account(row.required_carrier) if row.required_carrier else None
    return required or await get_carrier_account(row.default_carrier)
