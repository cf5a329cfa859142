"""Temporal schedules: those of the system, and those of each shop that polls, reconciles or sends stock."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleUpdate,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.accounts.accounts import get_account
from activities.channels import OrderReader, channel
from activities.kit.database import transaction
from models.base import CHINA
from models.intake import AccountRow, IntegrationType
from models.settings import settings
from workflows.carrier_selection import CarrierPerformanceWorkflow
from workflows.doctor import DoctorWorkflow
from workflows.exceptions import ExceptionMonitorWorkflow
from workflows.labels import PurgeDocumentsWorkflow
from workflows.notifications import NotificationsWorkflow
from workflows.polling import ChannelPollWorkflow
from workflows.reconciliation import ReconciliationWorkflow
from workflows.replenishment import ReplenishmentWorkflow
from workflows.stock_sync import StockSyncWorkflow
from workflows.thresholds import ThresholdsWorkflow

POLL_INTERVAL = timedelta(minutes=15)
"""How often a shop is polled, unless its ``poll_seconds`` say otherwise."""
STOCK_SYNC_INTERVAL = timedelta(minutes=1)
"""The wait after a stock sync that failed; after one that completed, the buffered next one starts at once."""
DOCTOR_INTERVAL = timedelta(minutes=10)
"""How often orders whose status differs from that of their workflow are looked at."""
CARRIER_PERFORMANCE_HOUR = 1
LABEL_PURGE_HOUR = 1
REPLENISHMENT_HOUR = 2
RECONCILIATION_HOUR = 4
"""Nightly hours are in China's time."""
RECONCILIATION_JITTER = timedelta(minutes=30)
"""Spreads the shops, so that they do not all reconcile at once."""


async def schedule_system(client: Client) -> None:
    """Create or update the schedules that do not depend on shops. Idempotent."""
    for name, run, when in (
        ("thresholds", ThresholdsWorkflow.run, timedelta(seconds=60)),
        ("parcels", ExceptionMonitorWorkflow.run, timedelta(seconds=60)),
        ("notifications", NotificationsWorkflow.run, timedelta(seconds=30)),
        ("doctor", DoctorWorkflow.run, DOCTOR_INTERVAL),
        ("service", CarrierPerformanceWorkflow.run, _nightly(CARRIER_PERFORMANCE_HOUR)),
        ("labels", PurgeDocumentsWorkflow.run, _nightly(LABEL_PURGE_HOUR)),
        ("replenishment", ReplenishmentWorkflow.run, _nightly(REPLENISHMENT_HOUR)),
    ):
        await _schedule(client, name, run, [], when, ScheduleOverlapPolicy.SKIP)


def _nightly(hour: int, jitter: timedelta | None = None) -> ScheduleSpec:
    return ScheduleSpec(
        calendars=[ScheduleCalendarSpec(hour=[ScheduleRange(hour)])], time_zone_name=CHINA.key, jitter=jitter
    )


async def schedule_shops(client: Client) -> None:
    """Create or update the schedules that each shop needs, and delete those it no longer needs. Idempotent."""
    query = select(AccountRow.source, AccountRow.account, AccountRow.settings).where(  # type: ignore[call-overload]
        AccountRow.integration == IntegrationType.CHANNEL
    )
    async with transaction() as connection:
        shops = (await connection.execute(query)).all()
    for source, shop, shop_settings in shops:
        readable = await _is_readable(source, shop)
        poll = _poll_interval(shop_settings, readable)
        reconcile = _nightly(RECONCILIATION_HOUR, RECONCILIATION_JITTER) if readable else None
        sync = STOCK_SYNC_INTERVAL if "stock" in shop_settings else None
        for kind, run, when, overlap in (
            ("poll", ChannelPollWorkflow.run, poll, ScheduleOverlapPolicy.SKIP),
            ("reconcile", ReconciliationWorkflow.run, reconcile, ScheduleOverlapPolicy.SKIP),
            ("stock", StockSyncWorkflow.run, sync, ScheduleOverlapPolicy.BUFFER_ONE),
        ):
            name = f"{kind}:{source}:{shop}"
            if when is None:
                await _unschedule(client, name)
            else:
                await _schedule(client, name, run, [source, shop], when, overlap)


def _poll_interval(shop_settings: Mapping[str, Any], readable: bool) -> timedelta | None:
    """Return the interval of polls; ``None`` if the shop is not polled."""
    seconds = shop_settings.get("poll_seconds")
    if seconds is None:
        return POLL_INTERVAL if readable else None
    return None if seconds is False else timedelta(seconds=float(seconds))


async def _is_readable(source: str, shop: str) -> bool:
    """Return whether the shop's adapter reads orders; ``False`` if there is no adapter for the channel."""
    try:
        return isinstance(channel(await get_account(IntegrationType.CHANNEL, source, shop)), OrderReader)
    except ModuleNotFoundError:
        return False


async def _schedule(
    client: Client,
    name: str,
    run: Callable[..., Any],
    args: list[str],
    when: timedelta | ScheduleSpec,
    overlap: ScheduleOverlapPolicy,
) -> None:
    """Create or update a schedule.

    ``when`` is an interval, whose first run starts at once, or a calendar, whose missed runs are caught up for a day.
    """
    by_calendar = isinstance(when, ScheduleSpec)
    spec = when if isinstance(when, ScheduleSpec) else ScheduleSpec(intervals=[ScheduleIntervalSpec(every=when)])
    missed = timedelta(days=1) if by_calendar else timedelta(minutes=1)
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(run, args=args, id=name, task_queue=settings().task_queue),
        spec=spec,
        policy=SchedulePolicy(overlap=overlap, catchup_window=missed),
    )
    try:
        await client.create_schedule(name, schedule, trigger_immediately=not by_calendar)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(name).update(lambda _: ScheduleUpdate(schedule=schedule))


async def _unschedule(client: Client, name: str) -> None:
    try:
        await client.get_schedule_handle(name).delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
