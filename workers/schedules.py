"""The schedules: one for each shop that is to be pulled."""

from datetime import timedelta

from sqlalchemy import select
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.database import transaction
from models.intake import AccountRow, Lane
from models.settings import settings
from workflows.channel_poll import ChannelPollWorkflow

POLL_SECONDS = 15 * 60
"""How often a shop is pulled whose ``poll_seconds`` is ``null``."""


async def schedule_polls(client: Client) -> None:
    """Gives every shop with ``poll_seconds`` in its settings its schedule, and no other. Repeating it is harmless."""
    query = select(AccountRow.source, AccountRow.account, AccountRow.settings).where(  # type: ignore[call-overload]
        AccountRow.lane == Lane.CHANNEL
    )
    async with transaction() as connection:
        shops = (await connection.execute(query)).all()
    for source, shop, chosen in shops:
        name = f"poll:{source}:{shop}"
        if "poll_seconds" in chosen:
            await _schedule(client, name, source, shop, float(chosen["poll_seconds"] or POLL_SECONDS))
        else:
            await _unschedule(client, name)


async def _schedule(client: Client, name: str, source: str, shop: str, seconds: float) -> None:
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            ChannelPollWorkflow.run, args=[source, shop], id=name, task_queue=settings().task_queue
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=seconds))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(minutes=1)),
    )
    try:
        await client.create_schedule(name, schedule, trigger_immediately=True)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(name).update(lambda _: ScheduleUpdate(schedule=schedule))


async def _unschedule(client: Client, name: str) -> None:
    try:
        await client.get_schedule_handle(name).delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
