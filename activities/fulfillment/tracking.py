"""Tracking: store carrier scans, derive the current state of each parcel and its expected delivery, poll carriers."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, String, Table, Update, and_, case, func, or_, select, type_coerce, update
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts.accounts import get_account, get_carrier_account
from activities.carriers import Aggregator, tracker
from activities.intake import inbox
from activities.kit.database import transaction
from models.base import CHINA
from models.carrier_selection import LaneRow
from models.fulfillment import TERMINAL_STATUSES, FulfillmentRow, FulfillmentStatus, Scan, ScanRow, TrackingStatus
from models.intake import Account, AccountRow, IntegrationType, Raw, Receipt
from models.order import OrderRow
from models.stock import WarehouseRow

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


async def save_scans(connection: AsyncConnection, scans: Sequence[Scan]) -> dict[str, str]:
    """Store scans without duplicates and update our fulfillment orders; return order ids by waybill number.

    Lock the fulfillment orders before reading their scans, so that the later of two concurrent calls sees all scans.
    """
    if not scans:
        return {}
    rows = sorted((scan.model_dump() for scan in scans), key=lambda row: (row["waybill_no"], row["scan_id"]))
    await connection.execute(insert(_scans).on_conflict_do_nothing(), rows)
    ours = _fulfillments.c.waybill_no.in_({scan.waybill_no for scan in scans})
    query = select(_fulfillments.c.waybill_no, _fulfillments.c.order_id).where(ours)
    query = query.order_by(_fulfillments.c.id).with_for_update()
    orders = {waybill_no: order_id for waybill_no, order_id in await connection.execute(query)}
    if orders:
        await connection.execute(_update_from_scans(orders))
    return orders


def _update_from_scans(waybill_nos: Collection[str]) -> Update:
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
            _scans.c.waybill_no,
            func.max(_scans.c.at).label("at"),
            _ordered(_scans.c.status, has_status, *by_finality).label("statuses"),
            _ordered(_scans.c.exception, has_status, *by_finality).label("exceptions"),
            _ordered(_scans.c.place, has_place, _scans.c.at.desc()).label("places"),
        )
        .where(_scans.c.waybill_no.in_(waybill_nos))
        .group_by(_scans.c.waybill_no)
        .cte("seen")
    )
    newest = select(
        seen.c.waybill_no,
        seen.c.at,
        seen.c.statuses[1].label("status"),
        seen.c.exceptions[1].label("exception"),
        seen.c.places[1].label("place"),
    ).cte("newest")
    elsewhere, here = _scans.alias("elsewhere"), _scans.alias("here")
    left = (
        select(func.max(elsewhere.c.at))
        .where(elsewhere.c.waybill_no == newest.c.waybill_no, elsewhere.c.place.not_in(["", newest.c.place]))
        .correlate(newest)
        .scalar_subquery()
    )
    came = (
        select(func.min(here.c.at))
        .where(here.c.waybill_no == newest.c.waybill_no, here.c.place == newest.c.place)
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
        .where(_fulfillments.c.waybill_no == newest.c.waybill_no)
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
    async with limit:
        try:
            scans = await tracker(ours).track(row.waybill_no, row.recipient.digits[-4:] if row.recipient else "")
        except Exception as error:  # a failing account must not delay other parcels
            activity.logger.warning("tracking not polled: %s: %s", ours.source, type(error).__name__)
            return
        activity.heartbeat()
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
        phone = row.recipient.digits if row.recipient and "*" not in row.recipient.phone else ""
        async with limit:
            try:
                await aggregator.subscribe(row.waybill_no, row.courier, phone, url + ours.secrets["push_secret"])
            except ApplicationError as error:
                activity.logger.warning("tracking subscription failed: %s: %s", ours.source, error.message)
                return row.id if error.non_retryable else None
            activity.heartbeat()
            return str(row.id)

    done = [each for each in await asyncio.gather(*map(subscribe, rows)) if each is not None]
    async with transaction() as connection:
        followed = update(_fulfillments).where(_fulfillments.c.id.in_(done))
        await connection.execute(followed.values(followed_at=now))
    return len(done)
