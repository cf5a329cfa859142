"""What goes wrong with parcels, seen in what is written of them: opened once, closed by itself as its cause goes.

Each kind is a question to the database: which fulfillment orders are so now, and since when.
"""

from collections.abc import Mapping, Sequence
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
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import Subquery
from temporalio import activity

from activities.accounts.accounts import get_carrier_account
from activities.aftersales import settlements
from activities.aftersales.reissue import reissue
from activities.carriers import carrier
from activities.fulfillment.fulfillment_orders import get_fulfillment_order, parcel_value
from activities.intake import inbox
from activities.kit.database import transaction
from activities.kit.errors import refused
from activities.records import timeline
from models.base import Value
from models.exceptions import POLICIES, ExceptionKind, ExceptionPolicy, ExceptionPolicyRow, ExceptionRow, Remedy
from models.fulfillment import FulfillmentRow, FulfillmentStatus, RequestStatus, TrackingStatus, carrier_reference
from models.hold import HoldKind
from models.intake import IntegrationType, Raw, Receipt
from models.order import Entry, OrderRow
from models.requests import Replan
from models.settlements import SettlementKind

_exceptions: Table = ExceptionRow.__table__  # type: ignore[attr-defined]
_policies: Table = ExceptionPolicyRow.__table__  # type: ignore[attr-defined]
_f: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

REPLAN = "replan"
"""The topic of a wish to have a fulfillment order planned elsewhere."""
SYSTEM = "hengdan"
_ON_ITS_WAY = (TrackingStatus.PICKED_UP, TrackingStatus.IN_TRANSIT, TrackingStatus.AT_DESTINATION)
_BY_SCAN = {
    ExceptionKind.DELIVERY_FAILED: TrackingStatus.DELIVERY_FAILED,
    ExceptionKind.REFUSED: TrackingStatus.REFUSED,
    ExceptionKind.RETURNED: TrackingStatus.RETURNED,
    ExceptionKind.LOST: TrackingStatus.LOST,
    ExceptionKind.DAMAGED: TrackingStatus.DAMAGED,
}


class ExceptionReport(Value):
    """What one look came to. ``intercept``: fulfillment orders to be stopped on their way."""

    opened: int = 0
    closed: int = 0
    escalated: int = 0
    intercept: tuple[str, ...] = ()


async def list_policies(connection: AsyncConnection) -> dict[ExceptionKind, ExceptionPolicy]:
    rows = await connection.execute(select(_policies))
    return POLICIES | {ExceptionKind(row.kind): ExceptionPolicy.model_validate(row.policy) for row in rows}


async def save_policy(connection: AsyncConnection, policy: ExceptionPolicy) -> None:
    row = insert(_policies).values(kind=policy.kind, policy=policy.model_dump(mode="json"))
    await connection.execute(row.on_conflict_do_update(index_elements=["kind"], set_={"policy": row.excluded.policy}))


def _cause(kind: ExceptionKind) -> tuple[ColumnElement[bool], ColumnElement[Any]]:
    """When a fulfillment order is so, and since when, with its order beside it."""
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


def _found(known: Mapping[ExceptionKind, ExceptionPolicy], now: datetime) -> Subquery:
    """Every fulfillment order with something wrong, by kind."""
    under_way = _f.c.status.not_in([FulfillmentStatus.DELIVERED, FulfillmentStatus.CANCELLED])
    parts = []
    for kind, policy in known.items():
        so, since = _cause(kind)
        parts.append(
            select(
                _f.c.id.label("fulfillment_id"),
                literal(kind.value).label("kind"),
                _f.c.order_id,
                (_orders.c.channel + ":" + _orders.c.shop).label("shop"),
                _f.c.warehouse,
                _f.c.carrier,
                _f.c.waybill_no,
                literal(policy.severity.value).label("severity"),
                literal(policy.owner).label("owner"),
                since.label("cause_at"),
                literal(now).label("opened_at"),
                literal(now + timedelta(seconds=policy.due)).label("due_at"),
                literal("").label("note"),
            )
            .join(_orders, _orders.c.id == _f.c.order_id)
            .where(under_way, so, since <= now - timedelta(seconds=policy.after))
        )
    return union_all(*parts).subquery("found")


@activity.defn(name="fulfillment.watch_exceptions")
async def watch_exceptions() -> ExceptionReport:
    """Opens what is wrong now, closes what is not any more, escalates what is overdue, and does what policy says."""
    now = datetime.now(UTC)
    async with transaction() as connection:
        known = await list_policies(connection)
        found = _found(known, now)
        closed = (await connection.execute(_close_what_is_gone(found, now))).rowcount
        opened = await _open(connection, found)
        escalated = (await connection.execute(_escalate(known, now))).rowcount
        for row in opened:
            remedy = known[ExceptionKind(row.kind)].automatic
            if remedy in (None, Remedy.INTERCEPT):
                continue
            try:
                async with connection.begin_nested():
                    await apply_remedy(connection, row, remedy, SYSTEM)
            except Exception as error:  # whatever is wrong with one parcel keeps no other waiting
                activity.logger.warning("not remedied: %s %s: %s", row.fulfillment_id, row.kind, type(error).__name__)
        await settlements.close_granted(connection)
        intercept = await connection.scalars(_to_stop(known, now))
    return ExceptionReport(opened=len(opened), closed=closed, escalated=escalated, intercept=tuple(intercept))


async def _open(connection: AsyncConnection, found: Subquery) -> Sequence[Row[Any]]:
    """Those that are new, or came back; what a person closed comes back for a later cause alone."""
    names = [column.name for column in found.c]
    entered = insert(_exceptions).from_select(names, select(found))
    back = or_(_exceptions.c.closed_by == SYSTEM, entered.excluded.cause_at > _exceptions.c.closed_at)
    fresh = {name: getattr(entered.excluded, name) for name in names}
    cleared = dict.fromkeys(("escalated_at", "remedy", "remedied_at", "closed_at", "closed_by"))
    renewed = entered.on_conflict_do_update(
        index_elements=["fulfillment_id", "kind"],
        set_=fresh | cleared,
        where=and_(_exceptions.c.closed_at.is_not(None), back),
    )
    rows: Sequence[Row[Any]] = (await connection.execute(renewed.returning(*_exceptions.c))).all()
    return rows


def _close_what_is_gone(found: Subquery, now: datetime) -> Update:
    standing = select(found.c.fulfillment_id, found.c.kind)
    gone = tuple_(_exceptions.c.fulfillment_id, _exceptions.c.kind).not_in(standing)
    return update(_exceptions).where(_exceptions.c.closed_at.is_(None), gone).values(closed_at=now, closed_by=SYSTEM)


def _escalate(known: Mapping[ExceptionKind, ExceptionPolicy], now: datetime) -> Update:
    above = case({kind.value: each.escalates_to for kind, each in known.items()}, value=_exceptions.c.kind)
    overdue = and_(_exceptions.c.closed_at.is_(None), _exceptions.c.escalated_at.is_(None), _exceptions.c.due_at < now)
    return update(_exceptions).where(overdue).values(escalated_at=now, owner=above)


def _to_stop(known: Mapping[ExceptionKind, ExceptionPolicy], now: datetime) -> Select[str]:
    """Those that policy wants stopped and nobody has stopped yet, for an hour: then a person is due."""
    kinds = [kind for kind, policy in known.items() if policy.automatic is Remedy.INTERCEPT]
    return (
        select(_exceptions.c.fulfillment_id)
        .where(_exceptions.c.kind.in_(kinds), _exceptions.c.closed_at.is_(None), _exceptions.c.remedy.is_(None))
        .where(_exceptions.c.opened_at > now - timedelta(hours=1))
        .distinct()
    )


def _here(fulfillment_id: str, kind: str) -> ColumnElement[bool]:
    return and_(_exceptions.c.fulfillment_id == fulfillment_id, _exceptions.c.kind == kind)


async def get(connection: AsyncConnection, fulfillment_id: str, kind: ExceptionKind) -> Row[Any] | None:
    return (await connection.execute(select(_exceptions).where(_here(fulfillment_id, kind)))).one_or_none()


async def apply_remedy(connection: AsyncConnection, row: Row[Any], remedy: Remedy, actor: str) -> None:
    """Does what can be done about an exception, once however often it is asked, and notes it. Raises
    ``ApplicationError``.

    A parcel that is to be booked elsewhere is asked back; one that is sent once more becomes an order of its own; what
    carrier or buyer are to be paid is written down; that the buyer is to be told stands on the timeline, which is told.
    Every other remedy is a person's, and noted as done.
    """
    now = datetime.now(UTC)
    told: dict[str, JsonValue] = {"fulfillment": row.fulfillment_id.rpartition(":")[2], "kind": row.kind}
    match remedy:
        case Remedy.REBOOK:
            await _ask_back(connection, row, actor)
        case Remedy.REISSUE:
            told["order"] = await reissue(connection, row.fulfillment_id, actor)
        case Remedy.CLAIM | Remedy.REFUND:
            due = SettlementKind(remedy.value)
            parcel = await get_fulfillment_order(connection, row.fulfillment_id)
            value = await parcel_value(connection, parcel)
            amount = await settlements.open_once(connection, due, parcel, value, row.kind, actor)
            told["amount"] = str(amount)
        case _:
            pass
    done = {"remedy": remedy, "remedied_at": now}
    await connection.execute(update(_exceptions).where(_here(row.fulfillment_id, row.kind)).values(done))
    key = f"remedy:{row.fulfillment_id}:{row.kind}:{remedy}:{row.opened_at.isoformat()}"
    told |= {"remedy": remedy.value, "carrier": row.carrier, "waybill_no": row.waybill_no}
    what = "timeline.tell_buyer" if remedy is Remedy.TELL_BUYER else "timeline.remedy"
    entry = Entry(key=key, at=now, what=what, actor=actor, detail=told)
    await connection.execute(timeline.INSERT_ENTRIES, {"entries": timeline.entry_rows(row.order_id, [entry])})


async def _ask_back(connection: AsyncConnection, row: Row[Any], actor: str) -> None:
    key = f"rebook:{row.fulfillment_id}:{row.kind}"
    wish = Replan(request_id=key, actor=actor, fulfillment_id=row.fulfillment_id)
    raw = Raw.model_construct(body=wish.model_dump_json().encode())
    receipt = Receipt(fact_key=key, topic=REPLAN)
    await inbox.accept(
        connection, IntegrationType.INTERNAL, "exceptions", row.warehouse, receipt, raw, order_id=row.order_id
    )


async def close(connection: AsyncConnection, row: Row[Any], actor: str, note: str) -> None:
    """By a person; it opens again only for a cause that came later."""
    done = {"closed_at": datetime.now(UTC), "closed_by": actor, "note": note}
    here = _here(row.fulfillment_id, row.kind)
    await connection.execute(update(_exceptions).where(here, _exceptions.c.closed_at.is_(None)).values(done))


async def assign(connection: AsyncConnection, row: Row[Any], owner: str) -> None:
    await connection.execute(update(_exceptions).where(_here(row.fulfillment_id, row.kind)).values(owner=owner))


async def search(
    connection: AsyncConnection,
    *,
    closed: bool = False,
    after: tuple[datetime, str, str] | None = None,
    limit: int = 100,
    **equal: str | None,
) -> Sequence[Row[Any]]:
    """What is wrong, the soonest due first."""
    place = (_exceptions.c.due_at, _exceptions.c.fulfillment_id, _exceptions.c.kind)
    query = select(_exceptions).order_by(*place).limit(limit)
    if not closed:
        query = query.where(_exceptions.c.closed_at.is_(None))
    for name, value in equal.items():
        if value is not None:
            query = query.where(_exceptions.c[name] == value)
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*map(literal, after)))
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


async def summary(connection: AsyncConnection) -> Sequence[Row[Any]]:
    """By kind: how many are open, how many overdue, and how many for less than a day, less than three, and longer."""
    now = datetime.now(UTC)
    opened = _exceptions.c.opened_at
    day, three = now - timedelta(days=1), now - timedelta(days=3)
    query = (
        select(
            _exceptions.c.kind,
            func.count().label("open"),
            func.count().filter(_exceptions.c.due_at < now).label("overdue"),
            func.count().filter(opened > day).label("under_a_day"),
            func.count().filter(and_(opened <= day, opened > three)).label("under_three_days"),
            func.count().filter(opened <= three).label("older"),
        )
        .where(_exceptions.c.closed_at.is_(None))
        .group_by(_exceptions.c.kind)
        .order_by(_exceptions.c.kind)
    )
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


@activity.defn(name="fulfillment.intercept")
async def intercept_parcel(fulfillment_id: str, actor: str = SYSTEM) -> None:
    """Asks its carrier to stop it and send it back, and notes so. Raises ``ApplicationError``."""
    async with transaction() as connection:
        row = (await connection.execute(select(_f).where(_f.c.id == fulfillment_id))).one_or_none()
    if row is None or not row.waybill_no:
        raise refused(f"no parcel of {fulfillment_id}", "not_found")
    ours = await get_carrier_account(row.carrier)
    if ours is None:
        raise refused("carrier.no_account", "no_account")
    await carrier(ours).intercept(carrier_reference(fulfillment_id), row.waybill_no)
    async with transaction() as connection:
        wrong = (_exceptions.c.fulfillment_id == fulfillment_id) & _exceptions.c.closed_at.is_(None)
        for each in (await connection.execute(select(_exceptions).where(wrong))).all():
            await apply_remedy(connection, each, Remedy.INTERCEPT, actor)
