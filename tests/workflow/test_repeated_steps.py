"""A workflow task may be lost after its local activities ran: each is executed again, with a longer history.

Here every local activity of every life runs three times: as a lost task would have run it, with less seen and other
content under the same keys, then twice in earnest. The last execution must win or be equal.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from models.fulfillment import Shortfall, ShortfallKind, TrackingStatus
from models.order import OrderStatus
from models.policy import Policy
from models.requests import Cancel, Modify, Payment, QuantityChange, Remark, WarehouseEventKind
from models.state import OrderState, Snapshot
from tests.integration.books import drifts, sql
from tests.repository.test_i18n import local_steps
from tests.unit.orders import an_order
from tests.workflow.harness import Harness, OrderRun, request_id
from workers import failures

executed: set[str] = set()
differing: list[str] = []


class Repeat(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        if not info.is_local or not info.activity_type.startswith("order."):
            return await super().execute_activity(input)
        executed.add(info.activity_type)
        if any(isinstance(each, Snapshot | OrderState) for each in input.args):
            lost = ExecuteActivityInput(
                fn=input.fn, args=[lost_version(each) for each in input.args], executor=input.executor, headers={}
            )
            await super().execute_activity(lost)
        first = await super().execute_activity(input)
        again = await super().execute_activity(input)
        if again != first:
            differing.append(f"{info.activity_type}: {first} {again}")
        return again


def lost_version(given: Any) -> Any:
    """Return what a lost task, which had seen less, gave to the step."""
    if isinstance(given, Snapshot):
        entries = tuple(each.model_copy(update={"what": "timeline.note"}) for each in given.entries)
        changes = {"status": OrderStatus.ON_HOLD, "priority": 9, "next_step": "next.on_hold", "entries": entries}
        return given.model_copy(update={"seen": given.seen - 1, **changes})
    if isinstance(given, OrderState):
        return given.model_copy(update={"seen": given.seen - 1}, deep=True)
    return given


@pytest.fixture(autouse=True)
def _repeated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(failures.ReportFailing, "intercept_activity", lambda self, next: Repeat(next))
    differing.clear()
    yield
    assert differing == []


async def settled(harness: Harness, run: OrderRun) -> None:
    """Assert that row, timeline and books are as if every step had run once."""
    state, row = await run.state(), await run.row()
    assert (row.status, row.revision, row.priority) == (state.status, state.revision, state.order.priority)
    timeline = await run.timeline()
    assert "note" not in timeline
    assert len(await sql("SELECT key FROM timeline WHERE order_id = :id", id=run.order.order_id)) == len(timeline)
    assert await drifts() == []


async def test_a_life_with_every_step_repeated_is_as_if_each_had_run_once(harness: Harness) -> None:
    clean = await harness.start(an_order("repeated-clean"))
    assert await clean.deliver() is OrderStatus.COMPLETED
    assert await harness.shipped_lines(clean.order) == {"1": 1}

    paid = await harness.start(an_order("repeated-paid", paid_at=None), Policy(reserve="placed"))
    await paid.until(OrderStatus.AWAITING_PAYMENT)
    await paid.handle.signal("payment", Payment(request_id=request_id(), paid_at=paid.order.placed_at))
    await paid.dispatched()
    await paid.handle.signal("remark", Remark(request_id=request_id(), buyer_message="", priority=3))
    change = Modify(request_id=request_id(), lines=(QuantityChange(line_no="1", quantity=2),))
    assert (await paid.ask("modify", change)).accepted
    assert await paid.deliver() is OrderStatus.COMPLETED
    assert await harness.shipped_lines(paid.order) == {"1": 2}

    rejected = await harness.start(an_order("repeated-rejected"))
    (parcel,) = await rejected.dispatched()
    missing = Shortfall(sku="A001", kind=ShortfallKind.MISMATCH, quantity=0)
    await rejected.event(parcel, WarehouseEventKind.REJECTED, shortfalls=(missing,))
    await rejected.next_dispatched([parcel])
    assert (await rejected.ask("cancel", Cancel(request_id=request_id(), actor="li"))).accepted
    assert await rejected.end() is OrderStatus.CANCELLED

    returned = await harness.start(an_order("repeated-returned"), Policy(movement=3600))
    (parcel,) = await returned.dispatched()
    await returned.ship(parcel)
    await returned.until(OrderStatus.SHIPPED)
    await harness.skip(hours=2)
    await returned.track(parcel, TrackingStatus.RETURNED)
    assert await returned.end() is OrderStatus.COMPLETED
    assert "no_movement" in await returned.exceptions()

    for run in (clean, paid, rejected, returned):
        await settled(harness, run)
    await harness.balanced()
    assert executed == {each for each in local_steps() if each.startswith("order.")} - {"order.fail_admission"}
