"""Calls that keep failing: the order goes on where it can, and an exception stands until the call succeeds."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import select, update

from activities.accounts import accounts
from activities.fulfillment.exceptions import notify_channel
from activities.kit.database import transaction
from activities.records import failing_calls
from models.exceptions import ExceptionKind, ExceptionRow
from models.i18n import LANGUAGES, t
from models.intake import AccountRow
from models.order import OrderStatus, Refund, RefundState
from models.requests import Cancel, Refunding
from tests.unit.orders import an_order
from tests.workflow.harness import Harness, OrderRun, request_id

_accounts: Any = AccountRow.__table__  # type: ignore[attr-defined]
MANY = 1_000_000


@pytest.fixture(autouse=True)
def _alerts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing_calls, "ALERT_AFTER", timedelta(0))


async def break_down(sandbox: str, system: str, operation: str) -> None:
    async with AsyncClient(base_url=sandbox) as world:
        fault = {"system": system, "operation": operation, "fault": "500", "times": MANY}
        (await world.post("/_faults", json=fault)).raise_for_status()


async def mend(sandbox: str) -> None:
    async with AsyncClient(base_url=sandbox) as world:
        (await world.delete("/_faults")).raise_for_status()


async def exception_of(run: OrderRun, kind: ExceptionKind, *, closed: bool = False) -> Any:
    """Wait for an open, or closed, exception of an order."""
    query = select(ExceptionRow).where(ExceptionRow.order_id == run.order.order_id, ExceptionRow.kind == kind)  # type: ignore[arg-type]
    for _ in range(3000):
        async with transaction() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is not None and (row.closed_at is not None) is closed:
            return row
        await asyncio.sleep(0.02)
    raise AssertionError(f"no exception {kind}, closed: {closed}")


async def status(run: OrderRun, expected: OrderStatus) -> None:
    for _ in range(3000):
        if (row := await run.row()).status == expected:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{row.status}, not {expected}")


async def set_address(base_url: str) -> None:
    async with transaction() as connection:
        await connection.execute(update(_accounts).where(_accounts.c.source == "own").values(base_url=base_url))
    accounts.clear_cache()


@pytest.mark.parametrize(
    ("system", "operation", "kind"),
    [
        ("sf", "EXP_RECE_CREATE_ORDER", ExceptionKind.CALL_FAILING),
        ("warehouse", "submit", ExceptionKind.CALL_FAILING),
        ("own", "shipments", ExceptionKind.CHANNEL_REFUSED),
    ],
)
async def test_a_call_that_keeps_failing_opens_an_exception_until_it_succeeds(
    harness: Harness, sandbox: str, system: str, operation: str, kind: ExceptionKind
) -> None:
    await break_down(sandbox, system, operation)
    run = await harness.start(an_order(f"failing-{operation}"))
    if system == "own":
        await run.ship(*await run.dispatched())
    row = await exception_of(run, kind)
    for lang in LANGUAGES:
        assert "{" not in t(f"exception.{kind}", lang, fulfillment="F1", **row.detail)
    await mend(sandbox)
    if system == "own":
        await run.track(*(await run.state()).active)
        assert await run.end() is OrderStatus.COMPLETED
    else:
        assert await run.deliver() is OrderStatus.COMPLETED
    closed = await exception_of(run, kind, closed=True)
    assert closed.closed_by in ("hengdan", "order")
    assert await harness.shipped_lines(run.order) == {"1": 1}


async def test_a_waybill_that_cannot_be_voided_opens_an_exception_until_it_can(harness: Harness, sandbox: str) -> None:
    run = await harness.start(an_order("failing-void"))
    await run.dispatched()
    await break_down(sandbox, "sf", "EXP_RECE_UPDATE_ORDER")
    assert (await run.ask("cancel", Cancel(request_id=request_id(), actor="li"))).accepted
    await status(run, OrderStatus.CANCELLED)
    await exception_of(run, ExceptionKind.WAYBILL_NOT_CANCELLED)
    await mend(sandbox)
    assert await run.end() is OrderStatus.CANCELLED
    await exception_of(run, ExceptionKind.WAYBILL_NOT_CANCELLED, closed=True)


async def test_a_delivered_order_completes_although_its_channel_does_not_answer(harness: Harness, sandbox: str) -> None:
    await break_down(sandbox, "own", "shipments")
    run = await harness.start(an_order("unnotified"))
    fulfillments = await run.dispatched()
    await run.ship(*fulfillments)
    await run.track(*fulfillments)
    await status(run, OrderStatus.COMPLETED)
    await exception_of(run, ExceptionKind.CHANNEL_REFUSED)
    assert await harness.shipped_lines(run.order) == {}
    asked = Refund(refund_no="R1", state=RefundState.ASKED, amount=Decimal(50))
    await run.handle.signal("refund", Refunding(request_id=request_id(), refund=asked))
    await exception_of(run, ExceptionKind.REFUND_AFTER_END)
    await mend(sandbox)
    assert await run.end() is OrderStatus.COMPLETED
    assert await harness.shipped_lines(run.order) == {"1": 1}
    await exception_of(run, ExceptionKind.CHANNEL_REFUSED, closed=True)
    await harness.balanced()


async def test_staff_notify_the_channel_of_an_order_that_completed_without(harness: Harness, sandbox: str) -> None:
    await set_address(f"{sandbox}/own/nobody")
    run = await harness.start(an_order("no-address"))
    assert await run.deliver() is OrderStatus.COMPLETED
    refused = await exception_of(run, ExceptionKind.CHANNEL_REFUSED)
    assert "404" in t("exception.channel_refused", "en", **refused.detail)
    await set_address(f"{sandbox}/own/web")
    await notify_channel(refused.fulfillment_id, "li")
    assert await harness.shipped_lines(run.order) == {"1": 1}
    assert (await exception_of(run, ExceptionKind.CHANNEL_REFUSED, closed=True)).closed_by == "li"
    assert (await run.timeline())[-2:] == ["channel_notified", "remedy"]
