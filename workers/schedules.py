"""The schedules: for each shop that can be asked one to pull its orders and one to hold them against ours, for each
with a stock rule one to tell it of its stock; and those of the house."""

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
from workflows.channel_poll import ChannelPollWorkflow
from workflows.exceptions import CarrierPerformanceWorkflow, ExceptionMonitorWorkflow
from workflows.notifications import NotificationsWorkflow
from workflows.reconciliation import ReconciliationWorkflow
from workflows.replenishment import ReplenishmentWorkflow
from workflows.stock_sync import StockSyncWorkflow
from workflows.thresholds import ThresholdsWorkflow

POLLED = timedelta(minutes=15)
"""How often a shop is pulled whose settings do not say otherwise."""
SYNCED = timedelta(minutes=1)
"""How soon a turn of telling a shop of its stock follows one that failed; after one that ended, the next is at once."""


THRESHOLD_SECONDS = 60
PARCELS_SECONDS = 60
NOTIFICATIONS_SECONDS = 30
SERVICE_HOUR = 1
"""In China: when it is measured how carriers did."""
REPLENISHMENT_HOUR = 2
"""In China: when what is to be bought is looked at."""
RECONCILIATION_HOUR = 4
"""In China: when shops are held against ours, not all at once."""


async def schedule_system(client: Client) -> None:
    """What the house does by itself. Repeating it is harmless."""
    every = timedelta(seconds=THRESHOLD_SECONDS)
    await _schedule(client, "thresholds", ThresholdsWorkflow.run, [], every, ScheduleOverlapPolicy.SKIP)
    parcels = timedelta(seconds=PARCELS_SECONDS)
    await _schedule(client, "parcels", ExceptionMonitorWorkflow.run, [], parcels, ScheduleOverlapPolicy.SKIP)
    turns = timedelta(seconds=NOTIFICATIONS_SECONDS)
    await _schedule(client, "notifications", NotificationsWorkflow.run, [], turns, ScheduleOverlapPolicy.SKIP)
    service = _nightly(SERVICE_HOUR)
    await _schedule(client, "service", CarrierPerformanceWorkflow.run, [], service, ScheduleOverlapPolicy.SKIP)
    nightly = _nightly(REPLENISHMENT_HOUR)
    await _schedule(client, "replenishment", ReplenishmentWorkflow.run, [], nightly, ScheduleOverlapPolicy.SKIP)


def _nightly(hour: int, jitter: timedelta | None = None) -> ScheduleSpec:
    return ScheduleSpec(
        calendars=[ScheduleCalendarSpec(hour=[ScheduleRange(hour)])], time_zone_name=CHINA.key, jitter=jitter
    )


async def schedule_shops(client: Client) -> None:
    """Gives every shop the schedules that become it, and no other.

    Repeating it is harmless.
    """
    query = select(AccountRow.source, AccountRow.account, AccountRow.settings).where(  # type: ignore[call-overload]
        AccountRow.integration == IntegrationType.CHANNEL
    )
    async with transaction() as connection:
        shops = (await connection.execute(query)).all()
    for source, shop, chosen in shops:
        asked = await _can_be_asked(source, shop)
        reconciled = _nightly(RECONCILIATION_HOUR, jitter=timedelta(minutes=30)) if asked else None
        for kind, run, when, overlap in (
            ("poll", ChannelPollWorkflow.run, _polled(chosen, asked), ScheduleOverlapPolicy.SKIP),
            ("reconcile", ReconciliationWorkflow.run, reconciled, ScheduleOverlapPolicy.SKIP),
            ("stock", StockSyncWorkflow.run, SYNCED if "stock" in chosen else None, ScheduleOverlapPolicy.BUFFER_ONE),
        ):
            name = f"{kind}:{source}:{shop}"
            if when is None:
                await _unschedule(client, name)
            else:
                await _schedule(client, name, run, [source, shop], when, overlap)


def _polled(chosen: Mapping[str, Any], asked: bool) -> timedelta | None:
    """How often; ``None``: never."""
    told = chosen.get("poll_seconds")
    if told is None:
        return POLLED if asked else None
    return None if told is False else timedelta(seconds=float(told))


async def _can_be_asked(source: str, shop: str) -> bool:
    """``False`` also where no adapter of such a channel is here."""
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
    """``when``: every so often, and at once; or as the calendar says, made good within a day."""
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
