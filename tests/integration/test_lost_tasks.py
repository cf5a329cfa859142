"""A workflow task that was lost after its local activities ran, and is done over with a longer history."""

from random import Random

import pytest

from activities.kit.database import transaction
from activities.orders import steps
from activities.stock import transfers
from models.fulfillment import FulfillmentStatus
from models.state import OrderState
from models.transfers import Transfer, TransferLine, TransferStep
from starter.sandbox.merchant import seed
from tests.integration.books import admitted, drifts, level, now, receive, sql
from tests.unit.orders import line


@pytest.fixture(autouse=True)
async def catalogue(database: str) -> None:
    async with transaction() as connection:
        await seed(connection)
    await receive("SH", "A001", 10)


async def write(order: OrderState, status: FulfillmentStatus, seen: int, revision: int, run: str = "a") -> None:
    state = order.model_copy(deep=True)
    state.seen, state.revision, state.run_id = seen, revision, run
    state.active[0].status = status
    state.entries = []
    state.add_timeline_entry("c1", now(), "cancel" if status is FulfillmentStatus.OPEN else "refused.cancel")
    await steps.record(state.snapshot(now()))


async def test_a_task_done_over_replaces_what_the_lost_one_wrote() -> None:
    order = await admitted("1", line(1, "A001", 1))
    await write(order, FulfillmentStatus.OPEN, seen=10, revision=4)
    await write(order, FulfillmentStatus.DELIVERED, seen=12, revision=4)
    await write(order, FulfillmentStatus.OPEN, seen=10, revision=6)
    (row,) = await sql("SELECT status, revision, seen FROM orders")
    assert (row.status, row.revision, row.seen) == ("delivered", 4, 12)
    (parcel,) = await sql("SELECT status FROM fulfillments")
    assert parcel.status == "delivered"


async def test_a_newer_run_wins_although_it_has_seen_less() -> None:
    """An operator resets a workflow: its history is shorter, and the run that was reset may still be writing."""
    order = await admitted("1", line(1, "A001", 1))
    await write(order, FulfillmentStatus.DELIVERED, seen=40, revision=9)
    await write(order, FulfillmentStatus.OPEN, seen=12, revision=3, run="b")
    await write(order, FulfillmentStatus.DELIVERED, seen=44, revision=10)
    (row,) = await sql("SELECT status, revision, seen, run_id, past_runs FROM orders")
    assert (row.status, row.revision, row.seen, row.run_id) == ("allocated", 3, 12, "b")
    await write(order, FulfillmentStatus.SHIPPED, seen=14, revision=4, run="b")
    await write(order, FulfillmentStatus.OPEN, seen=12, revision=3, run="b")
    (row,) = await sql("SELECT status, run_id, past_runs FROM orders")
    assert (row.status, row.run_id, row.past_runs[-1]) == ("shipped", "b", "a")


@pytest.mark.parametrize("seed", range(3))
async def test_every_write_of_a_life_may_be_lost_and_done_over(seed: int) -> None:
    """The last execution wins after each write, however many writes of lost tasks came before it."""
    chance = Random(seed)
    order = await admitted("1", line(1, "A001", 1))
    statuses = (FulfillmentStatus.OPEN, FulfillmentStatus.SHIPPED, FulfillmentStatus.DELIVERED)
    seen, revision = 5, 1
    for _ in range(8):
        for lost in range(chance.randint(0, 3)):
            await write(order, chance.choice(statuses), seen, revision + 1 + lost)
        seen += chance.randint(1, 3)
        revision += 1
        status = chance.choice(statuses)
        await write(order, status, seen, revision)
        (row,) = await sql("SELECT revision, seen FROM orders")
        (parcel,) = await sql("SELECT status FROM fulfillments")
        (entry,) = await sql("SELECT what FROM timeline WHERE key = 'c1'")
        said = "timeline.cancel" if status is FulfillmentStatus.OPEN else "timeline.refused.cancel"
        assert (row.revision, row.seen, parcel.status, entry.what) == (revision, seen, status, said)
    assert await level("SH", "A001") == (10, 1, 9)
    assert await drifts() == []


async def test_a_step_of_a_transfer_done_over_replaces_what_the_lost_one_wrote() -> None:
    """The lost task saw the deadline first, its repetition the cancellation that had arrived meanwhile."""
    goods = [TransferLine(sku="A001", quantity=1)]
    given = {"origin": "SH", "destination": "GZ", "lines": goods, "due": now().date(), "proposed_by": "mei"}
    transfer = Transfer(id="TR1", proposed_at=now(), revision=1, **given)
    late = transfer.model_copy(update={"revision": 2, "overdue": True})
    cancelled = transfer.model_copy(update={"revision": 2, "withdrawn": True})
    for each in (transfer, late, cancelled):
        assert (await transfers.record_step(TransferStep(transfer=each, at=now()))).accepted
    (row,) = await sql("SELECT status, revision FROM transfers")
    assert (row.status, row.revision) == ("cancelled", 2)
