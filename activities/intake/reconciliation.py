"""Reconciliation: compare the orders that a channel lists with ours, read the missing ones, and report them."""

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
from activities.records import exceptions
from models.base import Moment, Value
from models.exceptions import ExceptionKind, NewException
from models.intake import ChannelOrderRow, InboxRow, InboxState, IntegrationType, ReconciliationRow
from models.order import OrderRow

_reports: Table = ReconciliationRow.__table__  # type: ignore[attr-defined]
_documents: Table = ChannelOrderRow.__table__  # type: ignore[attr-defined]
_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

MISSING, STOPPED = ExceptionKind.RECONCILIATION, ExceptionKind.RECONCILIATION_STOPPED
DAYS = 3.0
"""The default window, unless the shop has ``reconcile_days``."""
LAG = timedelta(hours=1)
"""The window ends so long ago: newer orders may not have arrived yet."""
EDGE = timedelta(minutes=1)
"""Our orders this close to the ends of the window are not checked: the channel may round times differently."""
_BATCH = 1000
_SAVE_EVERY = 20
"""The report is saved each time so many orders have been read."""


class Window(Value):
    """The times between which orders were placed; a missing end is the default."""

    since: Moment | None = None
    until: Moment | None = None


class Findings(Value):
    """The result of a reconciliation so far."""

    listed: int
    known: int
    pulled: tuple[str, ...] = ()
    """Numbers of missing orders that are in the inbox now."""
    failed: dict[str, str] = {}
    """Numbers of orders that are still missing, and why."""
    gone: tuple[str, ...] = ()
    """Numbers of our orders that the channel no longer lists."""

    @property
    def counts(self) -> dict[str, int]:
        pulled, failed = len(self.pulled), len(self.failed)
        counts = {"missing": pulled + failed, "pulled": pulled, "failed": failed, "gone": len(self.gone)}
        return {"listed": self.listed, "known": self.known} | counts


async def begin(connection: AsyncConnection, report: str, source: str, shop: str, window: Window) -> Row[Any]:
    """Return the report, and create it if needed. Raises ``refused`` where there is no such shop."""
    now = datetime.now(UTC)
    days = (await accounts.get_account(IntegrationType.CHANNEL, source, shop)).settings.get("reconcile_days", DAYS)
    until = window.until or now - LAG
    row = {"id": report, "channel": source, "shop": shop, "started_at": now, "until": until, "details": {}}
    row["since"] = window.since or until - timedelta(days=float(days))
    await connection.execute(insert(_reports).values(row).on_conflict_do_nothing())
    return (await connection.execute(select(_reports).where(_reports.c.id == report))).one()


@activity.defn(name="intake.reconcile")
async def reconcile(report: str, source: str, shop: str, window: Window) -> dict[str, int]:
    """Compare the shop's orders with ours, and read the missing ones into the inbox; return the report's counts.

    A repeat continues where it was interrupted. Raises ``refused`` and ``unavailable`` as the channel does.
    """
    async with transaction() as connection:
        row = await begin(connection, report, source, shop, window)
    pulled: list[str] = row.details.get("pulled", [])
    failed: dict[str, str] = {}
    async with channel_access.open_channel(source, shop) as adapter:
        listed = await _list(order_reader(adapter), row)
        unknown = sorted(await _unknown(source, shop, adapter, listed) - set(pulled))
        known = len(listed) - len(unknown) - len(listed.intersection(pulled))
        for done, number in enumerate(unknown):
            if done % _SAVE_EVERY == 0:
                await _save(report, Findings(listed=len(listed), known=known, pulled=tuple(pulled), failed=failed))
            activity.heartbeat(done)
            try:
                if await _read_order(source, shop, order_reader(adapter), number):
                    pulled.append(number)
                else:
                    known += 1
            except ApplicationError as error:
                if not error.non_retryable:
                    await _save(report, Findings(listed=len(listed), known=known, pulled=tuple(pulled), failed=failed))
                    raise
                failed[number] = error.message
    gone = tuple(sorted(await _known_numbers(row) - listed))
    findings = Findings(listed=len(listed), known=known, pulled=tuple(pulled), failed=failed, gone=gone)
    await _sync_exceptions(source, shop, findings)
    await _save(report, findings, finished_at=datetime.now(UTC))
    return findings.counts


@activity.defn(name="intake.fail_reconciliation")
async def mark_failed(report: str, error: str) -> None:
    """Close a report that could not be finished, and open an exception."""
    now = datetime.now(UTC)
    closed = update(_reports).where(_reports.c.id == report).values(finished_at=now, error=error)
    async with transaction() as connection:
        row = (await connection.execute(closed.returning(_reports.c.channel, _reports.c.shop))).one_or_none()
        if row is not None:
            shop = f"{row.channel}:{row.shop}"
            key = f"{shop}:reconciliation_stopped"
            stopped = NewException(key=key, kind=STOPPED, shop=shop, detail={"reason": error}, cause_at=now)
            await exceptions.sync(connection, STOPPED, [stopped], key)


async def _list(reader: OrderReader, row: Row[Any]) -> set[str]:
    listed: set[str] = set()
    async for number in reader.numbers(row.since, row.until):
        listed.add(number)
        if len(listed) % _BATCH == 0:
            activity.heartbeat(len(listed))
    return listed


async def _unknown(source: str, shop: str, adapter: Channel, listed: Collection[str]) -> set[str]:
    """Return the listed numbers that are neither known nor pending in the inbox."""
    unknown = set(listed)
    numbers = list(unknown)
    async with transaction() as connection:
        for at in range(0, len(numbers), _BATCH):
            ids = {f"order:{source}:{shop}:{number}": number for number in numbers[at : at + _BATCH]}
            known = await connection.scalars(select(_documents.c.order_id).where(_documents.c.order_id.in_(ids)))
            unknown.difference_update(ids[order_id] for order_id in known)
        if unknown:
            waiting: Select[Any] = select(_inbox.c.raw, _inbox.c.topic).where(
                _same_shop(source, shop), _inbox.c.state == InboxState.PENDING
            )
            async for row in await connection.stream(waiting):
                unknown.difference_update(_order_numbers(adapter, row))
    return unknown


def _same_shop(source: str, shop: str) -> ColumnElement[bool]:
    return (_inbox.c.integration == IntegrationType.CHANNEL) & (_inbox.c.source == source) & (_inbox.c.account == shop)


def _order_numbers(adapter: Channel, row: Row[Any]) -> Collection[str]:
    """Return the numbers of the orders that a message holds or names."""
    try:
        order = adapter.parse(row.raw.body, row.topic)
    except (Unintelligible, ValidationError):
        return ()
    if isinstance(order, Hint):
        return order.order_nos
    return () if order is None else (order.channel_order_no,)


async def _read_order(source: str, shop: str, reader: OrderReader, number: str) -> bool:
    """Read an order into the inbox; return ``False`` where the inbox has this version already, as not to be fulfilled.

    Raises ``refused`` where the order cannot be read, or its message failed.
    """
    pulled = await reader.read(number)
    if pulled is None:
        raise refused("error.not_listed", "not_told")
    if await polling.save_pulled(source, shop, [pulled]):
        return True
    query = select(_inbox).where(_same_shop(source, shop), _inbox.c.fact_key == pulled.receipt.fact_key)
    async with transaction() as connection:
        row = (await connection.execute(query)).one()
    if row.state == InboxState.FAILED:
        raise refused("error.not_understood", "not_understood", field=row.field or "body", why=row.reason)
    return False


async def _known_numbers(report: Row[Any]) -> set[str]:
    """Return the numbers of our orders that were placed within the window, without its edges."""
    query = select(_orders.c.channel_order_no).where(
        _orders.c.channel == report.channel,
        _orders.c.shop == report.shop,
        _orders.c.placed_at >= report.since + EDGE,
        _orders.c.placed_at < report.until - EDGE,
    )
    async with transaction() as connection:
        return set(await connection.scalars(query))


async def _save(report: str, findings: Findings, finished_at: datetime | None = None) -> None:
    details = findings.model_dump(mode="json", include={"pulled", "failed", "gone"})
    values = {**findings.counts, "details": details, "finished_at": finished_at}
    async with transaction() as connection:
        await connection.execute(update(_reports).where(_reports.c.id == report).values(values))


async def _sync_exceptions(source: str, shop: str, findings: Findings) -> None:
    """Open an exception where orders were missing; close it where none was."""
    name = f"{source}:{shop}"
    key = f"{name}:reconciliation"
    missing = findings.counts["missing"]
    detail: dict[str, JsonValue] = {"missing": missing, "failed": len(findings.failed)}
    exception = NewException(key=key, kind=MISSING, shop=name, detail=detail, cause_at=datetime.now(UTC))
    async with transaction() as connection:
        await exceptions.sync(connection, MISSING, [exception] if missing else [], key)
        await exceptions.sync(connection, STOPPED, [], f"{key}_stopped")


async def list_all(
    connection: AsyncConnection,
    channel: str | None,
    shop: str | None,
    limit: int,
    before: datetime | None,
) -> Sequence[Row[Any]]:
    """Return reports started ``before``, newest first."""
    query = select(_reports).order_by(_reports.c.started_at.desc()).limit(limit)
    for name, value in {"channel": channel, "shop": shop}.items():
        if value is not None:
            query = query.where(_reports.c[name] == value)
    if before is not None:
        query = query.where(_reports.c.started_at < before)
    return (await connection.execute(query)).all()


async def get(connection: AsyncConnection, report: str) -> Row[Any] | None:
    return (await connection.execute(select(_reports).where(_reports.c.id == report))).one_or_none()
