"""Workflows that schedules start."""

from models.order import OrderStatus
from models.settings import settings
from tests.unit.orders import an_order
from tests.workflow.harness import Harness
from workflows.carrier_selection import CarrierPerformanceWorkflow
from workflows.exceptions import ExceptionMonitorWorkflow


async def test_scheduled_workflows_report_exceptions_and_carrier_performance(harness: Harness) -> None:
    order = await harness.start(an_order())
    assert await order.deliver() is OrderStatus.COMPLETED
    queue = settings().task_queue
    report = await harness.client.execute_workflow(ExceptionMonitorWorkflow.run, id="parcels", task_queue=queue)
    assert (report.opened, report.intercept) == (0, ())
    assert await harness.client.execute_workflow(CarrierPerformanceWorkflow.run, id="service", task_queue=queue) == 1
    await harness.balanced()
