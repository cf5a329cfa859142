"""Records the histories of ``tests/replay``. Run ``pytest tests/workflow/record.py`` after an intended change."""

from pathlib import Path

import pytest

from models.fulfillment import TrackingStatus
from models.order import OrderStatus
from models.policy import Policy
from models.requests import Approve, Cancel, Modify, Payment, QuantityChange, StockArrived
from models.settings import settings
from models.vault import keyring
from tests import replay
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness, OrderRun, request_id

FOLDER = Path(replay.__file__).parent / "histories"


@pytest.fixture
async def database(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database, with the keys that replaying uses."""
    monkeypatch.setenv("HENGDAN_KEYS", replay.KEYS)
    monkeypatch.setenv("HENGDAN_INDEX_KEY", replay.INDEX_KEY)
    settings.cache_clear()
    keyring.cache_clear()
    return database


async def _save(name: str, run: OrderRun) -> None:
    (FOLDER / f"{name}.json").write_text((await run.handle.fetch_history()).to_json())


async def test_record(harness: Harness) -> None:
    run = await harness.start(an_order("clean"))
    assert await run.deliver() is OrderStatus.COMPLETED
    await _save("clean", run)

    run = await harness.start(an_order("split", line(1, "A002", 15)))
    assert await run.deliver() is OrderStatus.COMPLETED
    await _save("split", run)

    order = an_order("paid", paid_at=None)
    run = await harness.start(order, Policy(grace=60))
    await run.until(OrderStatus.AWAITING_PAYMENT)
    await run.handle.signal("payment", Payment(request_id="p1", paid_at=order.placed_at))
    await harness.skip(seconds=61)
    assert await run.deliver() is OrderStatus.COMPLETED
    await _save("paid", run)

    run = await harness.start(an_order("reviewed", line(1, "A001", 1, "9000")))
    await run.until(OrderStatus.IN_REVIEW)
    await run.ask("approve", Approve(request_id=request_id(), actor="li"))
    await run.dispatched()
    change = Modify(request_id=request_id(), lines=(QuantityChange(line_no="1", quantity=2),))
    assert (await run.ask("modify", change)).accepted
    assert await run.deliver() is OrderStatus.COMPLETED
    await _save("reviewed-and-modified", run)

    run = await harness.start(an_order("cancelled"))
    await run.dispatched()
    assert (await run.ask("cancel", Cancel(request_id="c1", actor="li"))).accepted
    assert await run.end() is OrderStatus.CANCELLED
    await _save("cancelled", run)

    run = await harness.start(an_order("short", line(1, "A003", 25)))
    await run.until(OrderStatus.AWAITING_STOCK)
    await harness.receive("SH", "A003", 5)
    await run.handle.signal("stock_arrived", StockArrived(request_id="s1"))
    assert await run.deliver() is OrderStatus.COMPLETED
    await _save("short", run)

    run = await harness.start(an_order("refused"), Policy(movement=3600))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.until(OrderStatus.SHIPPED)
    await harness.skip(hours=2)
    await run.track(fulfillments[0], TrackingStatus.REFUSED)
    await run.track(fulfillments[0], TrackingStatus.RETURNED)
    assert await run.end() is OrderStatus.COMPLETED
    await _save("late-and-refused", run)
