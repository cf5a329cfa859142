"""A warehouse that closes: all that was to leave it leaves from elsewhere."""

from sqlalchemy import update

from activities.allocation import replanning
from activities.kit.database import transaction
from models.order import OrderStatus
from models.settings import settings
from models.stock import WarehouseRow
from tests.unit.orders import an_order, line
from tests.workflow.life import Lives
from workflows.replanning import ReplanInput, ReplanWorkflow


async def test_all_that_was_to_leave_a_closed_warehouse_leaves_from_another(lives: Lives) -> None:
    there = [await lives.start(an_order(str(number), line(1, "A001", 3))) for number in range(3)]
    before = [await each.parcel(request_status="submitted") for each in there]
    assert {each.warehouse for each in before} == {"SH"}
    gone = await lives.start(an_order("gone"))
    await gone.ship(await gone.parcel(request_status="submitted"))
    await gone.until(OrderStatus.SHIPPED)
    async with transaction() as connection:
        await connection.execute(update(WarehouseRow).where(WarehouseRow.code == "SH").values(closed=True))  # type: ignore[arg-type]
    told = await lives.client.execute_workflow(
        ReplanWorkflow.run,
        ReplanInput(warehouse="SH", reason="flooded", actor="boss"),
        id=f"replan:SH:{there[0].order.order_id}",
        task_queue=settings().task_queue,
    )
    assert told == 3
    for each, parcel in zip(there, before, strict=True):
        assert (await each.next_dispatched([parcel])).warehouse == "GZ"
        assert await each.deliver() is OrderStatus.COMPLETED
    assert await replanning.count_orders_to_leave("SH") == 0
    await gone.track((await gone.state()).active[0])
    assert await gone.end() is OrderStatus.COMPLETED
    await lives.balanced()
