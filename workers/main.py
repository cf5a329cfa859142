"""The worker process: workflows and activities of one task queue, until it is asked to stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from importlib.metadata import version
from threading import Thread, Timer
from typing import Any

import structlog
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from activities import cleansing
from activities.allocation import replanning
from activities.fulfillment import carrier_selection, exceptions, labels, tracking
from activities.fulfillment import steps as fulfillment_activities
from activities.intake import polling, reconciliation
from activities.kit import database, http
from activities.notifications import delivery
from activities.orders import doctor
from activities.orders import steps as order_activities
from activities.stock import replenishment, stock_sync, thresholds, transfers
from models.settings import settings
from workers import memory
from workers.client import connect
from workers.cluster import ensure_search_attributes
from workers.failures import FailPermanently, ReportFailing
from workers.health import HealthServer
from workers.heartbeats import KeepBeating
from workers.schedules import schedule_shops, schedule_system
from workers.signals import NoteMalformedMessages
from workers.supervisor import supervise
from workers.telemetry import HEARTBEAT, runtime
from workflows.carrier_selection import CarrierPerformanceWorkflow
from workflows.doctor import DoctorWorkflow
from workflows.exceptions import ExceptionMonitorWorkflow
from workflows.labels import PrintWorkflow, PurgeDocumentsWorkflow
from workflows.notifications import NotificationsWorkflow
from workflows.order.workflow import OrderWorkflow
from workflows.polling import ChannelPollWorkflow, ChannelReadWorkflow
from workflows.reconciliation import ReconciliationWorkflow
from workflows.replanning import ReplanWorkflow
from workflows.replenishment import ReplenishmentWorkflow
from workflows.stock_sync import StockSyncWorkflow
from workflows.thresholds import ThresholdsWorkflow
from workflows.transfers import TransferWorkflow

log = structlog.get_logger()

BUILD = f"hengdan-{version('hengdan')}"
"""Set because the SDK would otherwise read and hash every loaded module at start."""

STOP_SECONDS = 3.0
"""Between the signal to stop and the end of the process, at most."""

WORKFLOWS: Sequence[type] = (
    OrderWorkflow,
    ChannelPollWorkflow,
    ChannelReadWorkflow,
    NotificationsWorkflow,
    ExceptionMonitorWorkflow,
    PrintWorkflow,
    PurgeDocumentsWorkflow,
    ReconciliationWorkflow,
    ReplanWorkflow,
    ReplenishmentWorkflow,
    CarrierPerformanceWorkflow,
    DoctorWorkflow,
    StockSyncWorkflow,
    ThresholdsWorkflow,
    TransferWorkflow,
)

ACTIVITIES: Sequence[Callable[..., Any]] = (
    order_activities.admit,
    order_activities.fail_admission,
    order_activities.allocate,
    order_activities.record,
    order_activities.review_modified_order,
    order_activities.remap_and_review,
    order_activities.review_remark,
    order_activities.ship,
    order_activities.restock,
    order_activities.settle,
    order_activities.reject,
    order_activities.last_scans,
    doctor.compare_stores,
    fulfillment_activities.book_waybill,
    fulfillment_activities.release_to_warehouse,
    fulfillment_activities.recall_from_warehouse,
    fulfillment_activities.cancel_waybill,
    fulfillment_activities.confirm_shipment,
    labels.draw_part,
    labels.merge_parts,
    labels.purge_expired_documents,
    polling.pull_orders,
    polling.read_orders,
    reconciliation.reconcile,
    reconciliation.mark_failed,
    replanning.orders_to_leave,
    replenishment.suggest_purchases,
    transfers.record_step,
    stock_sync.watch_stock,
    thresholds.watch_thresholds,
    tracking.poll_stale_tracking,
    tracking.subscribe_to_tracking,
    exceptions.watch_exceptions,
    exceptions.intercept_parcel,
    carrier_selection.measure_performance,
    delivery.deliver,
)


def worker(client: Client, *, runner: WorkflowRunner | None = None, cached: int = 2000, **options: Any) -> Worker:
    """Return a worker of our task queue.

    Production runs workflows without the sandbox, which triples CPU use; tests pass a sandboxed runner.
    """
    return Worker(
        client,
        task_queue=settings().task_queue,
        workflows=WORKFLOWS,
        activities=ACTIVITIES,
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        workflow_failure_exception_types=[ValidationError],
        max_cached_workflows=cached,
        interceptors=[NoteMalformedMessages(), ReportFailing(), FailPermanently(), KeepBeating()],
        max_heartbeat_throttle_interval=HEARTBEAT,
        build_id=BUILD,
        **options,
    )


async def run() -> None:
    """Serve until SIGTERM or SIGINT, then finish the tasks in progress.

    Orders are taken at once: the rest of the start-up runs beside them. After ``STOP_SECONDS`` the process ends
    whatever is in progress, as if it were killed: the engine gives it to another worker. The SDK takes many seconds
    to dismantle a full cache of workflows.
    """
    metrics = settings().metrics_port
    client = await connect(runtime=runtime(f"{settings().api_host}:{metrics}" if metrics else None))
    await ensure_search_attributes(client)
    stop = asyncio.Event()

    def begin_to_stop() -> None:
        log.info("worker.stopping")
        stop.set()
        limit = Timer(STOP_SECONDS, os._exit, (0,))
        limit.daemon = True
        limit.start()

    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, begin_to_stop)
    try:
        async with worker(client):
            log.info("worker.polling", task_queue=settings().task_queue)
            health = asyncio.create_task(_serve_health(client)) if settings().health_port else None
            Thread(target=_warm, name="warm", daemon=True).start()
            scheduling = asyncio.create_task(supervise("schedules", lambda: _schedule(client)))
            await stop.wait()
            scheduling.cancel()
            if health is not None:
                health.cancel()
    finally:
        await http.close()
        await database.dispose()
        log.info("worker.stopped")


async def _serve_health(client: Client) -> None:
    host, port = settings().api_host, settings().health_port
    assert port is not None  # noqa: S101
    await supervise("health", lambda: HealthServer(client, host, port).serve())


def _warm() -> None:
    cleansing.warm()
    memory.tune()


async def _schedule(client: Client) -> None:
    """Create the schedules, and never return: an engine that is too busy to answer must not end the worker."""
    await schedule_system(client)
    await schedule_shops(client)
    await asyncio.Event().wait()
