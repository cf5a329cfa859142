"""Tracking: store carrier scans, derive the current state of each parcel and its expected delivery, poll carriers."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    ColumnElement,
    Row,
    String,
    Table,
    Update,
    and_,
    case,
    func,
    or_,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts.accounts import get_account, get_carrier_account
from activities.carriers import Aggregator, tracker
from activities.intake import inbox
from activities.kit.database import transaction
from activities.records import exceptions, failing_calls
from models.base import CHINA, Value, bounded_key
from models.carrier_selection import LaneRow
from models.exceptions import ExceptionKind, NewException
from models.fulfillment import (
    TERMINAL_STATUSES,
    FulfillmentRow,
    FulfillmentStatus,
    Scan,
    ScanRow,
    TrackingStatus,
)
from models.intake import Account, AccountRow, IntegrationType, Raw, Receipt
from models.order import OrderRow
from models.stock import WarehouseRow
from models.vault import readable

_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]
_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_lanes: Table = LaneRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_scans: Table = ScanRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]

PULLED = "pulled"
"""The inbox topic of polled scans; the body is a list of ``Scan``."""
SCANS = TypeAdapter(list[Scan])
_POLL_AFTER = timedelta(hours=6)
"""How long a shipped parcel may go without scans before its carrier is polled."""
_BATCH_SIZE = 200
_CONCURRENCY = 8
_FOLLOWED_FOR = timedelta(days=3)
"""How long aggregators follow a parcel without scans."""


ScanKey = tuple[str, str, str]
"""A scan's source, waybill number and id."""


class SavedScans(Value):
    """What became of scans: the orders of those that moved a parcel, and those that only have the number of one."""

    orders: dict[ScanKey, str] = {}
    foreign: frozenset[ScanKey] = frozenset()


async def save_scans(connection: AsyncConnection, reported: Mapping[str, Sequence[Scan]]) -> SavedScans:
    """Store scans, given by the carrier or aggregator that reported them, without duplicates; move their parcels.

    A scan is of a parcel if the parcel's number is the same, the parcel's carrier is the source or named by it, and the
    scan is not older than the booking. A scan that only has the number of a parcel is kept without effect, and opens an
    exception. Fulfillment orders are locked before their scans are read, so that the later of two concurrent calls sees
    all scans.
    """
    scans = {(source, each.waybill_no, each.scan_id): each for source, each in _pairs(reported)}
    if not scans:
        return SavedScans()
    rows = [{"source": key[0], **scans[key].model_dump()} for key in sorted(scans)]
    await connection.execute(insert(_scans).on_conflict_do_nothing(), rows)
    await _report_unknown_codes(
        connection, sorted({(key[0], each.code) for key, each in scans.items() if each.unknown})
    )
    numbers = sorted({number for _, number, _ in scans})
    query = select(_fulfillments).where(_fulfillments.c.waybill_no.in_(numbers))
    parcels = (await connection.execute(query.order_by(_fulfillments.c.id).with_for_update())).all()
    if not parcels:
        return SavedScans()
    owner = select(_fulfillments.c.id).where(_belongs()).order_by(_since.desc().nulls_last()).limit(1).scalar_subquery()
    unmatched = (_scans.c.waybill_no.in_(numbers), _scans.c.fulfillment_id.is_(None))
    await connection.execute(update(_scans).where(*unmatched).values(fulfillment_id=owner))
    await connection.execute(_update_from_scans([each.id for each in parcels]))
    orders = {each.id: each.order_id for each in parcels}
    ids = (_scans.c.source, _scans.c.waybill_no, _scans.c.scan_id)
    ours = await connection.execute(select(*ids, _scans.c.fulfillment_id).where(tuple_(*ids).in_(list(scans))))
    moved = {(row[0], row[1], row[2]): orders[row.fulfillment_id] for row in ours if row.fulfillment_id in orders}
    by_number = {each.waybill_no: each for each in parcels}
    foreign = frozenset(key for key in scans if key not in moved and key[1] in by_number)
    opened = [_foreign_scan(key[0], scans[key], by_number[key[1]]) for key in sorted(foreign)]
    await exceptions.open_all(connection, opened)
    return SavedScans(orders=moved, foreign=foreign)


def _pairs(reported: Mapping[str, Sequence[Scan]]) -> Iterator[tuple[str, Scan]]:
    return ((source, scan) for source, scans in reported.items() for scan in scans)


_CLOCKS_DIFFER = timedelta(minutes=10)
"""By how much a carrier's clock may be behind ours."""
_since = func.coalesce(_fulfillments.c.booked_at, _fulfillments.c.opened_at)
_courier = func.nullif(_fulfillments.c.label["courier"].astext, "")


def _belongs() -> ColumnElement[bool]:
    """Whether a scan is of the parcel of a fulfillment order."""
    named = func.nullif(_scans.c.carrier, "")
    by_its_carrier = func.coalesce(named, _scans.c.source) == func.coalesce(_courier, _fulfillments.c.carrier)
    by_its_account = and_(_scans.c.source == _fulfillments.c.carrier, or_(named.is_(None), _courier.is_(None)))
    return and_(
        _fulfillments.c.waybill_no == _scans.c.waybill_no,
        or_(by_its_carrier, by_its_account),
        or_(_since.is_(None), _scans.c.at >= _since - _CLOCKS_DIFFER),
    )


def _foreign_scan(source: str, scan: Scan, parcel: Row[Any]) -> NewException:
    """Return the exception for a scan that has the number of a parcel, but cannot be of it."""
    return NewException(
        key=f"{parcel.id}:{ExceptionKind.FOREIGN_SCAN}:{source}",
        kind=ExceptionKind.FOREIGN_SCAN,
        order_id=parcel.order_id,
        fulfillment_id=parcel.id,
        warehouse=parcel.warehouse,
        carrier=parcel.carrier,
        waybill_no=parcel.waybill_no,
        detail={"source": scan.carrier or source, "code": scan.code, "at": f"{scan.at.astimezone(UTC):%Y-%m-%d %H:%M}"},
        cause_at=scan.at,
    )


async def _report_unknown_codes(connection: AsyncConnection, codes: Sequence[tuple[str, str]]) -> None:
    """Open an exception for each code, given with its source, that is in no table; its cause is the first such scan."""
    if not codes:
        return
    group = (_scans.c.source, _scans.c.code)
    query = select(*group, func.min(_scans.c.at).label("first"), func.min(_scans.c.text).label("text"))
    query = query.where(_scans.c.unknown, tuple_(*group).in_(codes)).group_by(*group)
    unknown = [
        NewException(
            key=f"{row.source}:{ExceptionKind.UNKNOWN_CODE}:{bounded_key(row.code)}",
            kind=ExceptionKind.UNKNOWN_CODE,
            carrier=row.source,
            detail={"code": row.code, "text": row.text},
            cause_at=row.first,
        )
        for row in await connection.execute(query)
    ]
    await exceptions.open_all(connection, unknown)


async def count_unknown_codes(connection: AsyncConnection) -> Sequence[Row[Any]]:
    """Count the scans by carrier and code whose code the carrier's tables lack, the most frequent first."""
    count, last = func.count().label("count"), func.max(_scans.c.at).label("last")
    query = select(_scans.c.source.label("carrier"), _scans.c.code, count, func.min(_scans.c.at).label("first"), last)
    query = query.where(_scans.c.unknown).group_by(_scans.c.source, _scans.c.code)
    return (await connection.execute(query.order_by(count.desc(), _scans.c.source, _scans.c.code))).all()


def _update_from_scans(fulfillment_ids: Collection[str]) -> Update:
    """Derive each parcel's state from all its scans, in any order of arrival.

    A terminal status wins over later scans. Of scans with the same time, the furthest status wins. A scan without a
    status updates time and place only.
    """
    has_status, ended = _scans.c.status.is_not(None), _scans.c.status.in_(TERMINAL_STATUSES)
    further = case({status.value: rank for rank, status in enumerate(TrackingStatus)}, value=_scans.c.status)
    by_finality = (ended.desc(), _scans.c.at.desc(), further.desc())
    has_place = _scans.c.place != ""
    seen = (
        select(
            _scans.c.fulfillment_id,
            func.max(_scans.c.at).label("at"),
            _ordered(_scans.c.status, has_status, *by_finality).label("statuses"),
            _ordered(_scans.c.exception, has_status, *by_finality).label("exceptions"),
            _ordered(_scans.c.place, has_place, _scans.c.at.desc()).label("places"),
        )
        .where(_scans.c.fulfillment_id.in_(fulfillment_ids))
        .group_by(_scans.c.fulfillment_id)
        .cte("seen")
    )
    newest = select(
        seen.c.fulfillment_id,
        seen.c.at,
        seen.c.statuses[1].label("status"),
        seen.c.exceptions[1].label("exception"),
        seen.c.places[1].label("place"),
    ).cte("newest")
    elsewhere, here = _scans.alias("elsewhere"), _scans.alias("here")
    left = (
        select(func.max(elsewhere.c.at))
        .where(elsewhere.c.fulfillment_id == newest.c.fulfillment_id, elsewhere.c.place.not_in(["", newest.c.place]))
        .correlate(newest)
        .scalar_subquery()
    )
    came = (
        select(func.min(here.c.at))
        .where(here.c.fulfillment_id == newest.c.fulfillment_id, here.c.place == newest.c.place)
        .where(or_(left.is_(None), here.c.at > left))
        .correlate(newest)
        .scalar_subquery()
    )
    days = (
        select(_lanes.c.days)
        .select_from(_lanes, _orders, _warehouses)
        .where(
            _orders.c.id == _fulfillments.c.order_id,
            _warehouses.c.code == _fulfillments.c.warehouse,
            _lanes.c.carrier == _fulfillments.c.carrier,
            _lanes.c.origin == func.left(_warehouses.c.province, 2),
            _lanes.c.destination == func.left(_orders.c.region, 2),
        )
        .scalar_subquery()
    )
    due = _fulfillments.c.shipped_at + func.make_interval(0, 0, 0, 0, 0, 0, days * 86400)
    evening = func.date_trunc("day", newest.c.at, CHINA.key) + timedelta(hours=21)
    eta = case(
        (newest.c.status == TrackingStatus.OUT_FOR_DELIVERY, func.greatest(evening, newest.c.at)),
        (due < newest.c.at, newest.c.at + timedelta(days=1)),
        else_=due,
    )
    return (
        update(_fulfillments)
        .where(_fulfillments.c.id == newest.c.fulfillment_id)
        .values(
            scanned_at=newest.c.at,
            scan_status=newest.c.status,
            scan_exception=newest.c.exception,
            scan_place=newest.c.place,
            scan_place_at=came,
            eta=case((newest.c.status.in_(TERMINAL_STATUSES), _fulfillments.c.eta), else_=eta),
        )
    )


def _ordered(column: ColumnElement[Any], among: ColumnElement[bool], *order: ColumnElement[Any]) -> ColumnElement[Any]:
    return type_coerce(func.array_agg(aggregate_order_by(column, *order)).filter(among), ARRAY(String))


@activity.defn(name="fulfillment.poll_stale_tracking")
async def poll_stale_tracking() -> int:
    """Poll carriers for shipped parcels without recent scans, the longest silent first; return how many.

    Polled scans go through the inbox, as pushed ones do. A failed poll is repeated after the same interval.
    """
    since = datetime.now(UTC) - _POLL_AFTER
    silent = func.coalesce(_fulfillments.c.asked_at, _fulfillments.c.scanned_at, _fulfillments.c.shipped_at)
    query = (
        select(_fulfillments.c.id, _fulfillments.c.carrier, _fulfillments.c.waybill_no, _orders.c.recipient)
        .join(_orders, _orders.c.id == _fulfillments.c.order_id)
        .where(
            _fulfillments.c.status == FulfillmentStatus.SHIPPED,
            func.coalesce(_fulfillments.c.scanned_at, _fulfillments.c.shipped_at) < since,
            silent < since,
        )
        .order_by(silent)
        .limit(_BATCH_SIZE)
    )
    async with transaction() as connection:
        rows = (await connection.execute(query)).all()
        here = _fulfillments.c.id.in_([row.id for row in rows])
        await connection.execute(update(_fulfillments).where(here).values(asked_at=datetime.now(UTC)))
    limit = asyncio.Semaphore(_CONCURRENCY)
    await asyncio.gather(*(_poll(row, limit) for row in rows))
    return len(rows)


async def _poll(row: Any, limit: asyncio.Semaphore) -> None:
    ours = await get_carrier_account(row.carrier)
    if ours is None:
        return
    recipient = readable(row.recipient)
    async with limit:
        try:
            scans = await tracker(ours).track(row.waybill_no, recipient.digits[-4:] if recipient else "")
        except Exception as error:  # a failing account must not delay other parcels
            activity.logger.warning("tracking not polled: %s: %s", ours.source, type(error).__name__)
            await failing_calls.observe((ours.source, ours.account), failing_calls.reason(error))
            return
        await failing_calls.observe((ours.source, ours.account))
        activity.heartbeat()
    if (fault := getattr(scans, "fault", None)) is not None:
        activity.logger.warning("scan not read: %s: %s", ours.source, fault)
    if not scans:
        return
    body = SCANS.dump_json(sorted(scans, key=lambda scan: (scan.at, scan.scan_id)))
    raw = Raw.model_construct(body=body)
    receipt = Receipt(fact_key=f"{row.waybill_no}:{sha256(body).hexdigest()[:32]}", topic=PULLED)
    async with transaction() as connection:
        await inbox.accept(connection, IntegrationType.CARRIER, ours.source, ours.account, receipt, raw)


@activity.defn(name="fulfillment.subscribe_to_tracking")
async def subscribe_to_tracking() -> int:
    """Subscribe aggregators to the parcels of the carriers in their accounts' ``follow``; return how many parcels.

    Settings of such an account: ``follow``, a list of carrier codes, and ``push_url``, the public address of our API,
    such as ``https://oms.example.com``. A parcel without scans for days is subscribed to again, because the
    subscription may have ended.
    """
    async with transaction() as connection:
        query = select(_accounts.c.source, _accounts.c.account).where(
            _accounts.c.integration == IntegrationType.CARRIER, _accounts.c.settings.has_key("follow")
        )
        following = (await connection.execute(query)).all()
    subscribed = 0
    for each in following:
        try:
            ours = await get_account(IntegrationType.CARRIER, each.source, each.account)
            aggregator = tracker(ours)
            if isinstance(aggregator, Aggregator):
                subscribed += await _follow(ours, aggregator)
        except Exception as error:  # a failing account must not delay others
            activity.logger.warning("tracking subscriptions failed: %s: %s", each.source, type(error).__name__)
            await failing_calls.observe((each.source, each.account), failing_calls.reason(error))
    return subscribed


async def _follow(ours: Account, aggregator: Aggregator) -> int:
    now = datetime.now(UTC)
    courier = func.coalesce(func.nullif(_fulfillments.c.label["courier"].astext, ""), _fulfillments.c.carrier)
    silent = func.coalesce(_fulfillments.c.scanned_at, _fulfillments.c.shipped_at) < now - _FOLLOWED_FOR
    query = (
        select(_fulfillments.c.id, _fulfillments.c.waybill_no, courier.label("courier"), _orders.c.recipient)
        .join(_orders, _orders.c.id == _fulfillments.c.order_id)
        .where(
            _fulfillments.c.status == FulfillmentStatus.SHIPPED,
            _fulfillments.c.waybill_no.is_not(None),
            courier.in_(ours.settings["follow"]),
            or_(
                _fulfillments.c.followed_at.is_(None),
                and_(_fulfillments.c.followed_at < now - _FOLLOWED_FOR, silent),
            ),
        )
        .order_by(_fulfillments.c.shipped_at)
        .limit(_BATCH_SIZE)
    )
    async with transaction() as connection:
        rows = (await connection.execute(query)).all()
    url = f"{ours.settings['push_url'].rstrip('/')}/carriers/{ours.source}/{ours.account}/push/"
    limit = asyncio.Semaphore(_CONCURRENCY)

    async def subscribe(row: Any) -> str | None:
        recipient = readable(row.recipient)
        phone = recipient.digits if recipient and "*" not in recipient.phone else ""
        async with limit:
            try:
                await aggregator.subscribe(row.waybill_no, row.courier, phone, url + ours.secrets["push_secret"])
            except ApplicationError as error:
                activity.logger.warning("tracking subscription failed: %s: %s", ours.source, error.message)
                await failing_calls.observe((ours.source, ours.account), error.message)
                return row.id if error.non_retryable else None
            await failing_calls.observe((ours.source, ours.account))
            activity.heartbeat()
            return str(row.id)

    done = [each for each in await asyncio.gather(*map(subscribe, rows)) if each is not None]
    async with transaction() as connection:
        followed = update(_fulfillments).where(_fulfillments.c.id.in_(done))
        await connection.execute(followed.values(followed_at=now))
    return len(done)
