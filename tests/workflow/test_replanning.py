"""Replanning of every order of a warehouse that closes."""

from sqlalchemy import update

from activities.allocation import replanning
from activities.kit.database import transaction
from models.order import OrderStatus
from models.settings import settings
from models.stock import WarehouseRow
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness
from workflows.replanning import ReplanInput, ReplanWorkflow


async def test_orders_of_a_closed_warehouse_ship_from_another(harness: Harness) -> None:
    orders = [await harness.start(an_order(str(number), line(1, "A001", 3))) for number in range(3)]
    before = [await each.fulfillment(request_status="submitted") for each in orders]
    assert {each.warehouse for each in before} == {"SH"}
    shipped = await harness.start(an_order("shipped"))
    await shipped.ship(await shipped.fulfillment(request_status="submitted"))
    await shipped.until(OrderStatus.SHIPPED)
    async with transaction() as connection:
        await connection.execute(update(WarehouseRow).where(WarehouseRow.code == "SH").values(closed=True))  # type: ignore[arg-type]
    requested = await harness.client.execute_workflow(
        ReplanWorkflow.run,
        ReplanInput(warehouse="SH", reason="flooded", actor="boss"),
        id=f"replan:SH:{orders[0].order.order_id}",
        task_queue=settings().task_queue,
    )
    assert requested == 3
    with harness.environment.auto_time_skipping_disabled():  # the shipped order would time out meanwhile
        for each, fulfillment in zip(orders, before, strict=True):
            assert (await each.next_dispatched([fulfillment])).warehouse == "GZ"
            assert await each.deliver() is OrderStatus.COMPLETED
        assert await replanning.count_orders_to_leave("SH") == 0
        await shipped.track((await shipped.state()).active[0])
        assert await shipped.end() is OrderStatus.COMPLETED
    await harness.balanced()
