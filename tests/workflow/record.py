"""Records the histories of ``tests/replay``: ``pytest tests/workflow/record.py``, after a change that is meant."""

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
from tests.workflow.life import Life, Lives, request_id

FOLDER = Path(replay.__file__).parent / "histories"


@pytest.fixture
async def database(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the key that replaying knows."""
    monkeypatch.setenv("HENGDAN_KEYS", replay.KEYS)
    monkeypatch.setenv("HENGDAN_INDEX_KEY", replay.INDEX_KEY)
    settings.cache_clear()
    keyring.cache_clear()
    return database


async def _keep(name: str, life: Life) -> None:
    (FOLDER / f"{name}.json").write_text((await life.handle.fetch_history()).to_json())


async def test_record(lives: Lives) -> None:
    life = await lives.start(an_order("clean"))
    assert await life.deliver() is OrderStatus.COMPLETED
    await _keep("clean", life)

    life = await lives.start(an_order("split", line(1, "A002", 15)))
    assert await life.deliver() is OrderStatus.COMPLETED
    await _keep("split", life)

    order = an_order("paid", paid_at=None)
    life = await lives.start(order, Policy(grace=60))
    await life.until(OrderStatus.AWAITING_PAYMENT)
    await life.handle.signal("payment", Payment(request_id="p1", paid_at=order.placed_at))
    await lives.skip(seconds=61)
    assert await life.deliver() is OrderStatus.COMPLETED
    await _keep("paid", life)

    life = await lives.start(an_order("reviewed", line(1, "A001", 1, "9000")))
    await life.until(OrderStatus.IN_REVIEW)
    await life.ask("approve", Approve(request_id=request_id(), actor="li"))
    await life.dispatched()
    change = Modify(request_id=request_id(), lines=(QuantityChange(line_no="1", quantity=2),))
    assert (await life.ask("modify", change)).accepted
    assert await life.deliver() is OrderStatus.COMPLETED
    await _keep("reviewed-and-modified", life)

    life = await lives.start(an_order("cancelled"))
    await life.dispatched()
    assert (await life.ask("cancel", Cancel(request_id="c1", actor="li"))).accepted
    assert await life.end() is OrderStatus.CANCELLED
    await _keep("cancelled", life)

    life = await lives.start(an_order("short", line(1, "A003", 25)))
    await life.until(OrderStatus.AWAITING_STOCK)
    await lives.receive("SH", "A003", 5)
    await life.handle.signal("stock_arrived", StockArrived(request_id="s1"))
    assert await life.deliver() is OrderStatus.COMPLETED
    await _keep("short", life)

    life = await lives.start(an_order("refused"), Policy(movement=3600))
    parcels = await life.dispatched()
    await life.ship(*parcels)
    await life.until(OrderStatus.SHIPPED)
    await lives.skip(hours=2)
    await life.track(parcels[0], TrackingStatus.REFUSED)
    await life.track(parcels[0], TrackingStatus.RETURNED)
    assert await life.end() is OrderStatus.COMPLETED
    await _keep("late-and-refused", life)
