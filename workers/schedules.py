"""Temporal schedules: those of the system, and those of each shop that polls, reconciles or sends stock.

Work that is done every few minutes or more often runs in one execution, which its schedule starts again if it fails.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
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
STOCK_SYNC_INTERVAL = timedelta(seconds=1)
"""Between two turns of a stock sync."""
STOCK_SYNC_RESTART = timedelta(minutes=1)
"""How soon a stock sync that failed starts again."""
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
    repeated: Mapping[str, tuple[Callable[..., Any], timedelta]] = {
        "thresholds": (ThresholdsWorkflow.run, timedelta(seconds=60)),
        "parcels": (ExceptionMonitorWorkflow.run, timedelta(seconds=60)),
        "notifications": (NotificationsWorkflow.run, timedelta(seconds=30)),
    }
    for name, (run, every) in repeated.items():
        await _repeat(client, name, run, [], every)
    started: Mapping[str, tuple[Callable[..., Any], ScheduleSpec]] = {
        "doctor": (DoctorWorkflow.run, ScheduleSpec(intervals=[ScheduleIntervalSpec(every=DOCTOR_INTERVAL)])),
        "service": (CarrierPerformanceWorkflow.run, _nightly(CARRIER_PERFORMANCE_HOUR)),
        "labels": (PurgeDocumentsWorkflow.run, _nightly(LABEL_PURGE_HOUR)),
        "replenishment": (ReplenishmentWorkflow.run, _nightly(REPLENISHMENT_HOUR)),
    }
    for name, (run, spec) in started.items():
        await _schedule(client, name, run, [], spec)


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
        args = [source, shop]
        if poll is None:
            await _unschedule(client, f"poll:{source}:{shop}")
        else:
            await _repeat(client, f"poll:{source}:{shop}", ChannelPollWorkflow.run, args, poll)
        if reconcile is None:
            await _unschedule(client, f"reconcile:{source}:{shop}")
        else:
            await _schedule(client, f"reconcile:{source}:{shop}", ReconciliationWorkflow.run, args, reconcile)
        if "stock" in shop_settings:
            await _repeat(
                client,
                f"stock:{source}:{shop}",
                StockSyncWorkflow.run,
                args,
                STOCK_SYNC_INTERVAL,
                STOCK_SYNC_RESTART,
            )
        else:
            await _unschedule(client, f"stock:{source}:{shop}")


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


async def _repeat(
    client: Client,
    name: str,
    run: Callable[..., Any],
    args: list[str],
    every: timedelta,
    restart: timedelta | None = None,
) -> None:
    """Create or update a schedule of work that repeats itself in one execution.

    ``run`` takes the seconds in between as its last argument. ``restart`` is how soon work that failed starts again, by
    default ``every``.
    """
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=restart or every)])
    await _schedule(client, name, run, [*args, every.total_seconds()], spec)


async def _schedule(
    client: Client, name: str, run: Callable[..., Any], args: Sequence[str | float], spec: ScheduleSpec
) -> None:
    """Create or update a schedule, whose first run starts at once unless it has a calendar.

    Runs of a calendar that were missed are caught up for a day. A run that repeats itself is cancelled where its
    interval has changed: the next one has the new interval.
    """
    missed = timedelta(days=1) if spec.calendars else timedelta(minutes=1)
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(run, args=args, id=name, task_queue=settings().task_queue),
        spec=spec,
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=missed),
    )
    try:
        await client.create_schedule(name, schedule, trigger_immediately=not spec.calendars)
    except ScheduleAlreadyRunningError:
        before: list[ScheduleDescription] = []

        def update(known: ScheduleUpdateInput) -> ScheduleUpdate:
            before.append(known.description)
            return ScheduleUpdate(schedule=schedule)

        await client.get_schedule_handle(name).update(update)
        if before[-1].schedule.spec.intervals != spec.intervals:
            await _cancel_runs(client, before[-1])


async def _unschedule(client: Client, name: str) -> None:
    handle = client.get_schedule_handle(name)
    try:
        before = await handle.describe()
        await handle.delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    else:
        await _cancel_runs(client, before)


async def _cancel_runs(client: Client, schedule: ScheduleDescription) -> None:
    for each in schedule.info.running_actions:
        assert isinstance(each, ScheduleActionExecutionStartWorkflow)  # noqa: S101
        try:
            await client.get_workflow_handle(each.workflow_id).cancel()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
