"""The looks at parcels that schedules start."""

from models.order import OrderStatus
from models.settings import settings
from tests.unit.orders import an_order
from tests.workflow.life import Lives
from workflows.carrier_selection import CarrierPerformanceWorkflow
from workflows.exceptions import ExceptionMonitorWorkflow


async def test_every_minute_what_is_wrong_and_every_night_how_carriers_did(lives: Lives) -> None:
    order = await lives.start(an_order())
    assert await order.deliver() is OrderStatus.COMPLETED
    queue = settings().task_queue
    watched = await lives.client.execute_workflow(ExceptionMonitorWorkflow.run, id="parcels", task_queue=queue)
    assert (watched.opened, watched.intercept) == (0, ())
    assert await lives.client.execute_workflow(CarrierPerformanceWorkflow.run, id="service", task_queue=queue) == 1
    await lives.balanced()
