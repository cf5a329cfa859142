"""The exceptions of fulfillment orders: detected in the database, closed when their cause is gone, and remedied.

Each kind is a query: which fulfillment orders are so now, and since when.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue
from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Table,
    Update,
    and_,
    case,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import Subquery
from temporalio import activity

from activities.accounts.accounts import get_carrier_account
from activities.aftersales import settlements
from activities.aftersales.reissue import reissue
from activities.carriers import carrier
from activities.fulfillment.fulfillment_orders import get_fulfillment_order, parcel_value
from activities.fulfillment.steps import confirm_shipment
from activities.intake import inbox
from activities.kit.database import transaction
from activities.kit.errors import refused
from activities.records import exceptions, timeline
from models.base import Value
from models.exceptions import ExceptionKind, ExceptionPolicy, ExceptionRow, Remedy
from models.fulfillment import FulfillmentRow, FulfillmentStatus, RequestStatus, TrackingStatus, carrier_reference
from models.hold import HoldKind
from models.intake import IntegrationType, Raw, Receipt
from models.order import Entry, OrderRow
from models.requests import Replan
from models.settlements import SettlementKind

_exceptions: Table = ExceptionRow.__table__  # type: ignore[attr-defined]
_f: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

REPLAN = "replan"
"""The topic of requests to plan a fulfillment order elsewhere."""
_ON_ITS_WAY = (TrackingStatus.PICKED_UP, TrackingStatus.IN_TRANSIT, TrackingStatus.AT_DESTINATION)
_BY_SCAN = {
    ExceptionKind.DELIVERY_FAILED: TrackingStatus.DELIVERY_FAILED,
    ExceptionKind.REFUSED: TrackingStatus.REFUSED,
    ExceptionKind.RETURNED: TrackingStatus.RETURNED,
    ExceptionKind.LOST: TrackingStatus.LOST,
    ExceptionKind.DAMAGED: TrackingStatus.DAMAGED,
}


DETECTED = (
    ExceptionKind.NOT_ACCEPTED,
    ExceptionKind.BOOKING_FAILED,
    ExceptionKind.NOT_PICKED_UP,
    ExceptionKind.NO_MOVEMENT,
    ExceptionKind.STUCK,
    ExceptionKind.LATE,
    ExceptionKind.WRONG_ADDRESS,
    *_BY_SCAN,
)
"""The kinds that the scanner opens and closes; their keys are ``{fulfillment_id}:{kind}``."""
_UNDER_WAY = _f.c.status.not_in([FulfillmentStatus.DELIVERED, FulfillmentStatus.CANCELLED])


class ExceptionReport(Value):
    """What one scan changed. ``intercept``: fulfillment orders whose parcels the policy wants stopped."""

    opened: int = 0
    closed: int = 0
    escalated: int = 0
    intercept: tuple[str, ...] = ()


def _cause(kind: ExceptionKind) -> tuple[ColumnElement[bool], ColumnElement[Any]]:
    """Return the condition of a kind, on a fulfillment order joined with its order, and since when it holds."""
    shipped = _f.c.status == FulfillmentStatus.SHIPPED
    waiting = _f.c.status.in_([FulfillmentStatus.OPEN, FulfillmentStatus.IN_PROGRESS])
    moving = and_(shipped, _f.c.scan_status.in_(_ON_ITS_WAY))
    match kind:
        case ExceptionKind.NOT_ACCEPTED:
            return and_(waiting, _f.c.request_status == RequestStatus.SUBMITTED), _f.c.opened_at
        case ExceptionKind.BOOKING_FAILED:
            held = _orders.c.holds.contains([{"kind": HoldKind.BOOKING}])
            return and_(waiting, _f.c.waybill_no.is_(None), held), _f.c.opened_at
        case ExceptionKind.NOT_PICKED_UP:
            return and_(shipped, _f.c.scanned_at.is_(None)), _f.c.shipped_at
        case ExceptionKind.NO_MOVEMENT:
            return moving, _f.c.scanned_at
        case ExceptionKind.STUCK:
            return and_(moving, _f.c.scan_place_at < _f.c.scanned_at), _f.c.scan_place_at
        case ExceptionKind.LATE:
            will_be = case((_f.c.eta > _orders.c.promised_by, _f.c.scanned_at))
            since = func.least(_orders.c.promised_by, will_be)
            return and_(or_(shipped, waiting), _orders.c.promised_by.is_not(None)), since
        case ExceptionKind.WRONG_ADDRESS:
            return and_(shipped, _f.c.scan_exception == kind), _f.c.scanned_at
        case _:
            return _f.c.scan_status == _BY_SCAN[kind], _f.c.scanned_at


def _found(policies: Mapping[ExceptionKind, ExceptionPolicy], now: datetime) -> Subquery:
    """Select every fulfillment order with a cause that lasts, once for each kind, as rows of ``exceptions``."""
    parts = []
    for kind in DETECTED:
        policy = policies[kind]
        exists, since = _cause(kind)
        parts.append(
            select(
                (_f.c.id + f":{kind.value}").label("key"),
                literal(kind.value).label("kind"),
                _f.c.order_id,
                _f.c.id.label("fulfillment_id"),
                (_orders.c.channel + ":" + _orders.c.shop).label("shop"),
                _f.c.warehouse,
                _f.c.carrier,
                _f.c.waybill_no,
                literal({}, JSONB).label("detail"),
                literal(policy.severity.value).label("severity"),
                literal(policy.owner).label("owner"),
                true().label("detected"),
                since.label("cause_at"),
                literal(now).label("opened_at"),
                literal(now + timedelta(seconds=policy.due)).label("due_at"),
                literal("").label("note"),
            )
            .join(_orders, _orders.c.id == _f.c.order_id)
            .where(_UNDER_WAY, exists, since <= now - timedelta(seconds=policy.after))
        )
    return union_all(*parts).subquery("found")


@activity.defn(name="fulfillment.watch_exceptions")
async def watch_exceptions() -> ExceptionReport:
    """Open what is detected, close what is no longer so, escalate what is overdue, and apply automatic remedies."""
    now = datetime.now(UTC)
    async with transaction() as connection:
        policies = await exceptions.list_policies(connection)
        found = _found(policies, now)
        closed = (await connection.execute(_close_resolved(found, now))).rowcount
        names = [column.name for column in found.c]
        entered = exceptions.reopening(insert(_exceptions).from_select(names, select(found)))
        opened = (await connection.execute(entered.returning(_exceptions.c.key))).all()
        escalated = await exceptions.escalate(connection, policies, now)
        intercept = set()
        automatic = {kind: each.automatic for kind, each in policies.items() if each.automatic is not None}
        for row in (await connection.execute(_without_remedy(automatic, now))).all():
            remedy = automatic[ExceptionKind(row.kind)]
            if remedy is Remedy.INTERCEPT:
                intercept.add(row.fulfillment_id)
                continue
            try:
                async with connection.begin_nested():
                    await apply_remedy(connection, row, remedy, exceptions.SYSTEM)
            except Exception as error:  # one exception must not hold up the others
                activity.logger.warning("no remedy applied: %s: %s", row.key, type(error).__name__)
        await settlements.close_granted(connection)
    return ExceptionReport(opened=len(opened), closed=closed, escalated=escalated, intercept=tuple(sorted(intercept)))


def _close_resolved(found: Subquery, now: datetime) -> Update:
    """Close open exceptions of the detected kinds whose cause is gone.

    A cause that a workflow reported is gone once a later scan contradicts it, or the fulfillment order is delivered or
    cancelled. A late delivery stays late, whatever is scanned, and so does a call of the fulfillment order that fails.
    """
    unscanned = or_(_f.c.scanned_at.is_(None), _f.c.scanned_at <= _exceptions.c.cause_at)
    lasting = _exceptions.c.kind.in_([ExceptionKind.LATE, ExceptionKind.CALL_FAILING])
    reported = (
        select(_f.c.id)
        .where(_f.c.id == _exceptions.c.fulfillment_id, _UNDER_WAY)
        .where(or_(lasting, unscanned))
        .exists()
    )
    failing = and_(_exceptions.c.kind == ExceptionKind.CALL_FAILING, _exceptions.c.fulfillment_id != "")
    resolved = and_(
        or_(_exceptions.c.kind.in_(DETECTED), failing),
        _exceptions.c.closed_at.is_(None),
        _exceptions.c.key.not_in(select(found.c.key)),
        or_(_exceptions.c.detected, not_(reported)),
    )
    return update(_exceptions).where(resolved).values(closed_at=now, closed_by=exceptions.SYSTEM)


def _without_remedy(kinds: Collection[ExceptionKind], now: datetime) -> Select[Any]:
    """Select open exceptions that wait for their automatic remedy; after an hour without success a person acts."""
    return select(_exceptions).where(
        _exceptions.c.kind.in_(kinds),
        _exceptions.c.fulfillment_id != "",
        _exceptions.c.closed_at.is_(None),
        _exceptions.c.remedy.is_(None),
        _exceptions.c.opened_at > now - timedelta(hours=1),
    )


async def apply_remedy(connection: AsyncConnection, row: Row[Any], remedy: Remedy, actor: str) -> None:
    """Apply a remedy to an exception once, and record it. Raises ``ApplicationError``.

    Rebooking requests a replan of the fulfillment order; a reissue becomes an order of its own; a claim or refund
    becomes a settlement. Informing the buyer is a timeline entry, which notifications pick up. Every other remedy, and
    every remedy of an exception without a fulfillment order, is a person's and only recorded.
    """
    now = datetime.now(UTC)
    detail: dict[str, JsonValue] = {"fulfillment": row.fulfillment_id.rpartition(":")[2], "kind": row.kind}
    match remedy:
        case _ if not row.fulfillment_id:
            pass
        case Remedy.REBOOK:
            await _request_replan(connection, row, actor)
        case Remedy.REISSUE:
            detail["order"] = await reissue(connection, row.fulfillment_id, actor)
        case Remedy.CLAIM | Remedy.REFUND:
            due = SettlementKind(remedy.value)
            fulfillment_order = await get_fulfillment_order(connection, row.fulfillment_id)
            value = await parcel_value(connection, fulfillment_order)
            amount = await settlements.open_once(connection, due, fulfillment_order, value, row.kind, actor)
            detail["amount"] = str(amount)
        case _:
            pass
    await exceptions.note_remedy(connection, row.key, remedy, now)
    if not row.order_id:
        return
    key = f"remedy:{row.key}:{remedy}:{row.opened_at.isoformat()}"
    detail |= {"remedy": remedy.value, "carrier": row.carrier, "waybill_no": row.waybill_no}
    what = "timeline.tell_buyer" if remedy is Remedy.TELL_BUYER else "timeline.remedy"
    entry = Entry(key=key, at=now, what=what, actor=actor, detail=detail)
    await timeline.add_entries(connection, row.order_id, [entry])


async def _request_replan(connection: AsyncConnection, row: Row[Any], actor: str) -> None:
    key = f"rebook:{row.key}"
    request = Replan(request_id=key, actor=actor, fulfillment_id=row.fulfillment_id)
    raw = Raw.model_construct(body=request.model_dump_json().encode())
    receipt = Receipt(fact_key=key, topic=REPLAN)
    await inbox.accept(
        connection, IntegrationType.INTERNAL, "exceptions", row.warehouse, receipt, raw, order_id=row.order_id
    )


@activity.defn(name="fulfillment.intercept")
async def intercept_parcel(fulfillment_id: str, actor: str = exceptions.SYSTEM) -> None:
    """Have the carrier stop a parcel and return it; record that on its open exceptions. Raises ``ApplicationError``."""
    async with transaction() as connection:
        row = (await connection.execute(select(_f).where(_f.c.id == fulfillment_id))).one_or_none()
    if row is None or not row.waybill_no:
        raise refused("error.fulfillment_unknown", "not_found", fulfillment=fulfillment_id)
    account = await get_carrier_account(row.carrier)
    if account is None:
        raise refused("carrier.no_account", "no_account")
    await carrier(account).intercept(carrier_reference(fulfillment_id), row.waybill_no)
    async with transaction() as connection:
        wrong = (_exceptions.c.fulfillment_id == fulfillment_id) & _exceptions.c.closed_at.is_(None)
        for each in (await connection.execute(select(_exceptions).where(wrong))).all():
            await apply_remedy(connection, each, Remedy.INTERCEPT, actor)


async def notify_channel(fulfillment_id: str, actor: str) -> None:
    """Confirm the shipment to the channel, and close the exception of the refused confirmation.

    Raises ``ApplicationError``.
    """
    await confirm_shipment(fulfillment_id)
    async with transaction() as connection:
        refused = (_exceptions.c.fulfillment_id == fulfillment_id) & _exceptions.c.closed_at.is_(None)
        refused &= _exceptions.c.kind == ExceptionKind.CHANNEL_REFUSED
        for each in (await connection.execute(select(_exceptions).where(refused))).all():
            await apply_remedy(connection, each, Remedy.NOTIFY_CHANNEL, actor)
            await exceptions.close(connection, each.key, actor, "")
