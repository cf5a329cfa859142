"""The worker process: workflows and activities of one task queue, until it is told to stop."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from activities import (
    cleansing,
    database,
    exceptions,
    fulfillment,
    http,
    labels,
    notifications,
    order,
    polling,
    reconciliation,
    replanning,
    replenishment,
    selection,
    stock_sync,
    thresholds,
    tracking,
    transfers,
)
from models.settings import settings
from workers import memory
from workers.client import connect
from workers.schedules import schedule_house, schedule_shops
from workers.signals import OnlyWhole
from workflows.channel_poll import ChannelPollWorkflow
from workflows.channel_read import ChannelReadWorkflow
from workflows.notifications import NotificationsWorkflow
from workflows.order import OrderWorkflow
from workflows.parcels import ParcelsWorkflow, ServiceWorkflow
from workflows.printing import PrintWorkflow
from workflows.reconciliation import ReconciliationWorkflow
from workflows.replan import ReplanWorkflow
from workflows.replenishment import ReplenishmentWorkflow
from workflows.stock_sync import StockSyncWorkflow
from workflows.thresholds import ThresholdsWorkflow
from workflows.transfer import TransferWorkflow

BUILD = f"hengdan-{version('hengdan')}"
"""Named, for else the SDK reads and hashes every loaded module at start."""

WORKFLOWS: Sequence[type] = (
    OrderWorkflow,
    ChannelPollWorkflow,
    ChannelReadWorkflow,
    NotificationsWorkflow,
    ParcelsWorkflow,
    PrintWorkflow,
    ReconciliationWorkflow,
    ReplanWorkflow,
    ReplenishmentWorkflow,
    ServiceWorkflow,
    StockSyncWorkflow,
    ThresholdsWorkflow,
    TransferWorkflow,
)

ACTIVITIES: Sequence[Callable[..., Any]] = (
    order.admit,
    order.allocate,
    order.record,
    order.revise,
    order.recognise,
    order.reconsider,
    order.ship,
    order.restock,
    order.settle,
    order.reject,
    order.sightings,
    fulfillment.book_waybill,
    fulfillment.release_to_warehouse,
    fulfillment.recall_from_warehouse,
    fulfillment.cancel_waybill,
    fulfillment.confirm_shipment,
    labels.draw_part,
    labels.bind_parts,
    labels.throw_old_away,
    polling.pull_orders,
    polling.read_orders,
    reconciliation.reconcile,
    reconciliation.give_up,
    replanning.orders_to_leave,
    replenishment.suggest_purchases,
    transfers.keep,
    stock_sync.watch_stock,
    thresholds.watch_thresholds,
    tracking.ask_after_silent,
    tracking.follow_parcels,
    exceptions.watch_exceptions,
    exceptions.intercept_parcel,
    selection.measure_service,
    notifications.notify,
)


def worker(client: Client, *, runner: WorkflowRunner | None = None, cached: int = 2000, **options: Any) -> Worker:
    """A worker of our task queue. In production unsandboxed, for the sandbox triples its CPU; tests pass a sandbox."""
    return Worker(
        client,
        task_queue=settings().task_queue,
        workflows=WORKFLOWS,
        activities=ACTIVITIES,
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        workflow_failure_exception_types=[ValidationError],
        max_cached_workflows=cached,
        interceptors=[OnlyWhole()],
        build_id=BUILD,
        **options,
    )


async def run() -> None:
    """Serves until SIGTERM or SIGINT, then lets what is under way finish."""
    client = await connect()
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    cleansing.warm()
    memory.settle()
    try:
        await schedule_house(client)
        await schedule_shops(client)
        async with worker(client):
            await stop.wait()
    finally:
        await http.close()
        await database.dispose()
