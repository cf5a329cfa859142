"""Answers say what remains, and messages that are not understood are noted on the timeline."""

import asyncio

import pytest
from sqlalchemy import select
from temporalio.client import WorkflowUpdateFailedError
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from activities.kit.database import transaction
from models.hold import HoldKind
from models.order import OrderStatus, TimelineRow
from models.requests import Approve, Cancel, Expedite, HoldRequest, Modify, Note, QuantityChange, Release
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness, OrderRun, request_id


async def test_releasing_an_item_that_is_still_unknown_is_refused_with_what_to_do(harness: Harness) -> None:
    run = await harness.start(an_order("unknown-stays", line(1, "ZZ Z")))
    await run.until(OrderStatus.ON_HOLD)
    answer = await run.ask("release", Release(request_id=request_id(), actor="li", kind=HoldKind.UNKNOWN_SKU))
    assert not answer.accepted
    assert "hengdan map set own 'ZZ Z' SKU --shop web" in answer.text
    assert "仍挂起" in answer.text
    assert "Still on hold" in answer.text
    assert [each.kind for each in (await run.state()).holds] == [HoldKind.UNKNOWN_SKU]
    await run.ask("hold", HoldRequest(request_id=request_id(), actor="li", reason="call first"))
    answer = await run.ask("release", Release(request_id=request_id(), actor="li"))
    assert answer.accepted
    assert [each.kind for each in answer.holds] == [HoldKind.UNKNOWN_SKU]


async def test_what_has_no_effect_is_said(harness: Harness) -> None:
    run = await harness.start(an_order("no-effect"))
    await run.dispatched()
    same = (QuantityChange(line_no="1", quantity=run.order.lines[0].quantity),)
    assert (await run.ask("modify", Modify(request_id=request_id(), lines=same))).reason == "refused.modify.same"
    assert (await run.ask("expedite", Expedite(request_id=request_id()))).accepted
    assert (await run.ask("expedite", Expedite(request_id=request_id()))).reason == "refused.expedite.already"
    assert [each.request_status for each in (await run.state()).active] == ["submitted"]
    held = await harness.start(an_order("held-twice", line(1, "ZZZ")))
    await held.until(OrderStatus.ON_HOLD)
    hold = {"actor": "li", "reason": "call first"}
    assert (await held.ask("hold", HoldRequest(request_id=request_id(), **hold))).accepted
    assert (await held.ask("hold", HoldRequest(request_id=request_id(), **hold))).reason == "refused.hold.already"
    none = await held.ask("release", Release(request_id=request_id(), actor="li", kind=HoldKind.REFUND))
    assert none.reason == "refused.release.none"
    assert "没有这类挂起：退款" in none.text
    assert len(none.holds) == 2


async def test_releasing_a_hold_whose_cause_stands_says_so(harness: Harness) -> None:
    order = an_order("no-street")
    run = await harness.start(order.model_copy(update={"recipient": order.recipient.model_copy(update={"street": ""})}))
    await run.until(OrderStatus.ON_HOLD)
    answer = await run.ask("release", Release(request_id=request_id(), actor="li", kind=HoldKind.ADDRESS))
    assert answer.accepted
    assert "Released although its cause stands: Address: The street address is missing" in answer.text


async def test_every_refusal_reaches_temporal_as_text_in_both_languages(harness: Harness) -> None:
    run = await harness.start(an_order("texts"))
    await run.dispatched()
    requests = {
        "approve": Approve(request_id=request_id()),
        "release": Release(request_id=request_id()),
        "hold": HoldRequest(request_id=request_id()),
    }
    for verb, request in requests.items():
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await run.handle.execute_update(verb, request)
        text = str(failed.value.cause)
        assert "“Allocated”" in text
        assert "“已分配”" in text
    assert (await run.handle.execute_update("note", Note(request_id="n", text="x")))["text"] == "Done. / 已执行。"


async def entries(run: OrderRun, count: int) -> list[tuple[str, str, str]]:
    """Return name, reason and actor of the signals noted as not understood, once there are so many."""
    query = select(TimelineRow).where(
        TimelineRow.order_id == run.order.order_id, TimelineRow.what == "timeline.not_understood"
    )
    for _ in range(3000):
        async with transaction() as connection:
            found = (await connection.execute(query.order_by(TimelineRow.number))).all()
        if len(found) >= count:
            break
        await asyncio.sleep(0.02)
    return [(each.detail["name"], each.detail["why"], each.actor) for each in found]


async def test_messages_that_are_not_understood_are_noted_and_harm_nothing(harness: Harness) -> None:
    run = await harness.start(an_order("not-understood", line(1, "ZZZ")))
    await run.until(OrderStatus.ON_HOLD)
    config = harness.client.config()
    by_hand = type(harness.client)(**{**config, "data_converter": DataConverter.default})
    handle = by_hand.get_workflow_handle(run.order.order_id)
    await handle.signal("cancle", {"request_id": "1"})
    await handle.signal("cancel", {"reason": "no id"})
    await handle.signal("cancel", "free text")
    await handle.signal("cancel")
    await handle.signal("cancel", args=[{"request_id": "1"}, {"request_id": "2"}])
    await handle.signal("frobnicate")
    noted = await entries(run, 6)
    assert [name for name, _, _ in noted] == ["cancle", "cancel", "cancel", "cancel", "cancel", "frobnicate"]
    assert noted[0][1] == "not_understood.near?name=cancel"
    assert "request_id" in noted[1][1]
    assert {why for _, why, _ in noted[3:5]} == {"not_understood.arguments"}
    assert noted[5][1] == "not_understood.unknown"
    assert {actor for _, _, actor in noted} == {"unsealed:"}
    with pytest.raises(WorkflowUpdateFailedError) as failed:
        await handle.execute_update("cancel", {"reason": "no id"})
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "NotUnderstood"
    assert (await run.state()).status is OrderStatus.ON_HOLD
    assert (await run.ask("cancel", Cancel(request_id=request_id()))).accepted
    assert await run.end() is OrderStatus.CANCELLED
