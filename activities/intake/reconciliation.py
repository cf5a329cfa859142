"""A shop's orders held against ours: what the channel sold and we do not know is read, and a report says so."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue, ValidationError
from sqlalchemy import ColumnElement, Row, Select, Table, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts import accounts, channel_access
from activities.channels import Channel, Hint, OrderReader, order_reader
from activities.intake import polling
from activities.kit.database import transaction
from activities.kit.errors import Unintelligible, refused
from activities.records import alerts
from models.base import Moment, Value
from models.intake import ChannelOrderRow, InboxRow, InboxState, IntegrationType, ReconciliationRow
from models.order import OrderRow

_reports: Table = ReconciliationRow.__table__  # type: ignore[attr-defined]
_documents: Table = ChannelOrderRow.__table__  # type: ignore[attr-defined]
_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

MISSING, STOPPED = "alert.reconciliation", "alert.reconciliation_stopped"
DAYS = 3.0
"""How far a reconciliation goes back where nobody said, unless the shop's ``reconcile_days`` do."""
LAG = timedelta(hours=1)
"""What was placed later than this may still be on its way."""
EDGE = timedelta(minutes=1)
"""At the ends of the window channel and we may round differently: what we hold there is not looked for."""
_BATCH = 1000
_NOTED = 20
"""So many orders are read before it is noted that they were."""


class Window(Value):
    """Of placing; where an end is missing, as the shop's settings and the clock have it."""

    since: Moment | None = None
    until: Moment | None = None


class Findings(Value):
    """What a reconciliation knows so far."""

    listed: int
    known: int
    pulled: tuple[str, ...] = ()
    """Numbers of what was missing and is in the inbox now."""
    failed: dict[str, str] = {}
    """Numbers of what is missing still, and why."""
    gone: tuple[str, ...] = ()
    """Numbers of ours that the channel does not list any more."""

    @property
    def counts(self) -> dict[str, int]:
        pulled, failed = len(self.pulled), len(self.failed)
        counts = {"missing": pulled + failed, "pulled": pulled, "failed": failed, "gone": len(self.gone)}
        return {"listed": self.listed, "known": self.known} | counts


async def begin(connection: AsyncConnection, report: str, source: str, shop: str, window: Window) -> Row[Any]:
    """The report as it stands, begun where it is not there yet. Raises ``refused`` where there is no such shop."""
    now = datetime.now(UTC)
    days = (await accounts.get_account(IntegrationType.CHANNEL, source, shop)).settings.get("reconcile_days", DAYS)
    until = window.until or now - LAG
    row = {"id": report, "channel": source, "shop": shop, "started_at": now, "until": until, "details": {}}
    row["since"] = window.since or until - timedelta(days=float(days))
    await connection.execute(insert(_reports).values(row).on_conflict_do_nothing())
    return (await connection.execute(select(_reports).where(_reports.c.id == report))).one()


@activity.defn(name="intake.reconcile")
async def reconcile(report: str, source: str, shop: str, window: Window) -> dict[str, int]:
    """Lists what the shop sold, and reads what we do not know of into the inbox; answers the report's counts.

    A repeat goes on where it was cut off. Raises ``refused`` and ``unavailable`` as the channel does.
    """
    async with transaction() as connection:
        row = await begin(connection, report, source, shop, window)
    pulled: list[str] = row.details.get("pulled", [])
    failed: dict[str, str] = {}
    async with channel_access.open_channel(source, shop) as ours:
        listed = await _list(order_reader(ours), row)
        unknown = sorted(await _unknown(source, shop, ours, listed) - set(pulled))
        known = len(listed) - len(unknown) - len(listed.intersection(pulled))
        for done, number in enumerate(unknown):
            if done % _NOTED == 0:
                await _note(report, Findings(listed=len(listed), known=known, pulled=tuple(pulled), failed=failed))
            activity.heartbeat(done)
            try:
                if await _take(source, shop, order_reader(ours), number):
                    pulled.append(number)
                else:
                    known += 1
            except ApplicationError as error:
                if not error.non_retryable:
                    await _note(report, Findings(listed=len(listed), known=known, pulled=tuple(pulled), failed=failed))
                    raise
                failed[number] = error.message
    gone = tuple(sorted(await _ours(row) - listed))
    found = Findings(listed=len(listed), known=known, pulled=tuple(pulled), failed=failed, gone=gone)
    await _call(source, shop, found)
    await _note(report, found, finished_at=datetime.now(UTC))
    return found.counts


@activity.defn(name="intake.fail_reconciliation")
async def mark_failed(report: str, error: str) -> None:
    """Closes a report that could not be finished, and calls a person."""
    now = datetime.now(UTC)
    closed = update(_reports).where(_reports.c.id == report).values(finished_at=now, error=error)
    async with transaction() as connection:
        row = (await connection.execute(closed.returning(_reports.c.channel, _reports.c.shop))).one_or_none()
        if row is not None:
            shop = f"{row.channel}:{row.shop}"
            key = f"{shop}:reconciliation_stopped"
            await alerts.keep_alerts(connection, STOPPED, {key: {"shop": shop, "reason": error}}, key)


async def _list(asked: OrderReader, row: Row[Any]) -> set[str]:
    listed: set[str] = set()
    async for number in asked.numbers(row.since, row.until):
        listed.add(number)
        if len(listed) % _BATCH == 0:
            activity.heartbeat(len(listed))
    return listed


async def _unknown(source: str, shop: str, ours: Channel, listed: Collection[str]) -> set[str]:
    """Of what is listed, what never reached us, nor is on its way in the inbox."""
    unknown = set(listed)
    numbers = list(unknown)
    async with transaction() as connection:
        for at in range(0, len(numbers), _BATCH):
            ids = {f"order:{source}:{shop}:{number}": number for number in numbers[at : at + _BATCH]}
            there = await connection.scalars(select(_documents.c.order_id).where(_documents.c.order_id.in_(ids)))
            unknown.difference_update(ids[order_id] for order_id in there)
        if unknown:
            waiting: Select[Any] = select(_inbox.c.raw, _inbox.c.topic).where(
                _mine(source, shop), _inbox.c.state == InboxState.PENDING
            )
            async for row in await connection.stream(waiting):
                unknown.difference_update(_told(ours, row))
    return unknown


def _mine(source: str, shop: str) -> ColumnElement[bool]:
    return (_inbox.c.integration == IntegrationType.CHANNEL) & (_inbox.c.source == source) & (_inbox.c.account == shop)


def _told(ours: Channel, row: Row[Any]) -> Collection[str]:
    """The numbers of the orders that a message tells of, or names."""
    try:
        told = ours.parse(row.raw.body, row.topic)
    except (Unintelligible, ValidationError):
        return ()
    if isinstance(told, Hint):
        return told.order_nos
    return () if told is None else (told.channel_order_no,)


async def _take(source: str, shop: str, asked: OrderReader, number: str) -> bool:
    """Reads an order into the inbox; ``False`` where just that was understood before, and is no order of ours.

    Raises ``refused`` where it cannot be read, or understood.
    """
    pulled = await asked.read(number)
    if pulled is None:
        raise refused("listed, and yet not told of when asked", "not_told")
    if await polling.save_pulled(source, shop, [pulled]):
        return True
    query = select(_inbox).where(_mine(source, shop), _inbox.c.fact_key == pulled.receipt.fact_key)
    async with transaction() as connection:
        row = (await connection.execute(query)).one()
    if row.state == InboxState.FAILED:
        raise refused(f"{row.field}: {row.reason}" if row.field else row.reason, "not_understood")
    return False


async def _ours(report: Row[Any]) -> set[str]:
    """The numbers of the orders we took in that were placed well within the window."""
    query = select(_orders.c.channel_order_no).where(
        _orders.c.channel == report.channel,
        _orders.c.shop == report.shop,
        _orders.c.placed_at >= report.since + EDGE,
        _orders.c.placed_at < report.until - EDGE,
    )
    async with transaction() as connection:
        return set(await connection.scalars(query))


async def _note(report: str, found: Findings, finished_at: datetime | None = None) -> None:
    details = found.model_dump(mode="json", include={"pulled", "failed", "gone"})
    values = {**found.counts, "details": details, "finished_at": finished_at}
    async with transaction() as connection:
        await connection.execute(update(_reports).where(_reports.c.id == report).values(values))


async def _call(source: str, shop: str, found: Findings) -> None:
    """Has a person know that something was missing; a report without a fault takes that back."""
    name = f"{source}:{shop}"
    key = f"{name}:reconciliation"
    told: dict[str, JsonValue] = {"shop": name, "missing": found.counts["missing"], "failed": len(found.failed)}
    async with transaction() as connection:
        await alerts.keep_alerts(connection, MISSING, {key: told} if told["missing"] else {}, key)
        await alerts.keep_alerts(connection, STOPPED, {}, f"{key}_stopped")


async def list_all(
    connection: AsyncConnection,
    channel: str | None,
    shop: str | None,
    limit: int,
    before: datetime | None,
) -> Sequence[Row[Any]]:
    """Reports, newest first, those begun ``before``."""
    query = select(_reports).order_by(_reports.c.started_at.desc()).limit(limit)
    for name, value in {"channel": channel, "shop": shop}.items():
        if value is not None:
            query = query.where(_reports.c[name] == value)
    if before is not None:
        query = query.where(_reports.c.started_at < before)
    return (await connection.execute(query)).all()


async def get(connection: AsyncConnection, report: str) -> Row[Any] | None:
    return (await connection.execute(select(_reports).where(_reports.c.id == report))).one_or_none()
