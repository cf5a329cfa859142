"""Orders that review rules decide on, run to their ends."""

from typing import Any

from activities.kit.database import transaction
from activities.orders.review import rules
from models.hold import HoldKind
from models.order import OrderStatus
from models.requests import Approve, HoldRequest, Modify, Payment, QuantityChange, Release, StockArrived
from models.review import ReviewRule
from tests.integration.books import sql
from tests.unit.orders import an_order, line
from tests.workflow.harness import Harness, request_id


async def rule(number: int, condition: str, *decisions: dict[str, Any]) -> None:
    values = {"number": number, "name": f"rule {number}", "condition": condition, "decisions": decisions}
    async with transaction() as connection:
        await rules.save_rule(connection, ReviewRule.model_validate(values))


def approval(stage: str | None = None) -> Approve:
    return Approve.model_validate({"request_id": request_id(), "actor": "mei", "stage": stage})


async def test_holds_of_two_stages_need_both_approvals(harness: Harness) -> None:
    await rule(1, "order.total > 10", {"do": "hold", "stage": "service", "reason": "call the buyer"})
    await rule(2, "order.total > 20", {"do": "hold", "stage": "finance", "reason": "check the price"})
    run = await harness.start(an_order("1"))
    state = await run.until(OrderStatus.IN_REVIEW)
    assert [(hold.stage, hold.rule) for hold in state.holds] == [("service", 1), ("finance", 2)]
    assert (await run.ask("approve", approval("finance"))).accepted
    state = await run.state()
    assert (state.status, [hold.stage for hold in state.holds]) == (OrderStatus.IN_REVIEW, ["service"])
    answer = await run.ask("approve", approval("finance"))
    assert (answer.accepted, answer.reason) == (False, "refused.stage")
    assert (await run.ask("approve", approval("service"))).accepted
    assert await run.deliver() is OrderStatus.COMPLETED
    assert (await run.timeline())[:3] == ["received", "review.applied", "review.applied"]
    await harness.balanced()


async def test_an_approval_without_a_stage_covers_all_stages(harness: Harness) -> None:
    await rule(1, "true", {"do": "hold", "stage": "service", "reason": "a"})
    await rule(2, "true", {"do": "hold", "stage": "finance", "reason": "b"})
    run = await harness.start(an_order("1"))
    await run.until(OrderStatus.IN_REVIEW)
    assert (await run.ask("approve", approval())).accepted
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_a_delayed_order_continues_by_itself(harness: Harness) -> None:
    await rule(1, "true", {"do": "delay", "minutes": 30})
    run = await harness.start(an_order("1"))
    assert (await run.until(OrderStatus.APPROVED)).active == []
    await harness.skip(minutes=31)
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_a_delayed_order_that_is_held_waits_for_release(harness: Harness) -> None:
    await rule(1, "true", {"do": "delay", "minutes": 30})
    run = await harness.start(an_order("1"))
    await run.until(OrderStatus.APPROVED)
    assert (await run.ask("hold", HoldRequest(request_id=request_id(), reason="wait"))).accepted
    await harness.skip(minutes=60)
    assert (await run.until(OrderStatus.ON_HOLD)).active == []
    assert (await run.ask("release", Release(request_id=request_id()))).accepted
    assert await run.deliver() is OrderStatus.COMPLETED


async def test_a_gift_ships_but_is_not_reported_to_the_channel(harness: Harness) -> None:
    await rule(7, "order.total >= 50", {"do": "gift", "sku": "A003"}, {"do": "carrier", "carrier": "yto"})
    run = await harness.start(an_order("1"))
    (fulfillment,) = await run.dispatched()
    assert {each.sku: each.quantity for each in fulfillment.lines} == {"A001": 1, "A003": 1}
    assert fulfillment.carrier == "yto"
    assert await run.deliver() is OrderStatus.COMPLETED
    assert await run.exceptions() == []
    assert await harness.shipped_lines(run.order) == {"1": 1}
    assert (await harness.level(fulfillment.warehouse, "A003")).on_hand == 9
    await harness.balanced()


async def test_a_rejected_order_ends_at_once(harness: Harness) -> None:
    await rule(1, "lines.exists(l, l.sku == 'A002')", {"do": "reject", "reason": "not sold here"})
    run = await harness.start(an_order("1", line(1, "A002")))
    assert await run.end() is OrderStatus.REJECTED
    assert (await run.row()).status == "rejected"
    assert "review.applied" in await run.timeline()
    await harness.balanced()


async def test_a_modified_order_is_reviewed_again(harness: Harness) -> None:
    await rule(1, "order.quantity > 3", {"do": "hold", "reason": "many"})
    await rule(2, "order.quantity > 8", {"do": "reject", "reason": "too many"})
    run = await harness.start(an_order("1"))
    await run.dispatched()

    async def change_to(quantity: int) -> None:
        lines = (QuantityChange(line_no="1", quantity=quantity),)
        assert (await run.ask("modify", Modify(request_id=request_id(), lines=lines))).accepted

    await change_to(5)
    state = await run.until(OrderStatus.IN_REVIEW)
    assert [(hold.kind, hold.rule) for hold in state.holds] == [(HoldKind.REVIEW, 1)]
    await change_to(2)
    await run.dispatched()
    await change_to(9)
    assert await run.end() is OrderStatus.REJECTED
    await harness.balanced()


async def test_rules_on_paid_orders_apply_once_the_order_is_paid(harness: Harness) -> None:
    await rule(1, "order.paid && order.total > 10", {"do": "hold", "stage": "finance", "reason": "check the payment"})
    await rule(2, "order.paid", {"do": "gift", "sku": "A003"})
    await rule(3, "!order.paid", {"do": "tag", "tags": ["unpaid"]})
    order = an_order("1", paid_at=None)
    run = await harness.start(order)
    await run.until(OrderStatus.AWAITING_PAYMENT)
    for _ in range(2):
        await run.handle.signal("payment", Payment(request_id=request_id(), paid_at=order.placed_at))
    state = await run.until(OrderStatus.IN_REVIEW)
    assert [(hold.stage, hold.rule) for hold in state.holds] == [("finance", 1)]
    assert (await run.ask("approve", approval())).accepted
    (fulfillment,) = await run.dispatched()
    assert {each.sku: each.quantity for each in fulfillment.lines} == {"A001": 1, "A003": 1}
    assert await run.deliver() is OrderStatus.COMPLETED
    assert (await run.timeline()).count("paid") == 1
    await harness.balanced()


async def test_a_rate_entered_later_lifts_the_hold_that_asked_for_it(harness: Harness) -> None:
    """What is above the limit once converted is held for that instead."""
    cheap = await harness.start(an_order("rate-cheap", line(1, "A001", 1, "6000"), currency="KRW"))
    dear = await harness.start(an_order("rate-dear", line(1, "A001", 1, "900000"), currency="KRW"))
    other = await harness.start(an_order("rate-other", line(1, "A001", 1, "6000"), currency="THB"))
    for run in (cheap, dear, other):
        state = await run.until(OrderStatus.IN_REVIEW)
        assert [hold.reason for hold in state.holds] == ["hold.review.no_rate"]
    await sql("INSERT INTO exchange_rates (currency, base, day, rate) VALUES ('KRW', 'CNY', '2020-01-01', 0.05)")
    for run in (cheap, dear, other):
        await run.handle.signal("mapped", StockArrived(request_id=request_id()))
    assert [hold.reason for hold in (await other.state()).holds] == ["hold.review.no_rate"]
    assert await cheap.deliver() is OrderStatus.COMPLETED
    assert "mapped" in await cheap.timeline()
    assert [hold.reason for hold in (await dear.state()).holds] == ["hold.review.amount"]
    for run in (dear, other):
        assert (await run.ask("approve", Approve(request_id=request_id(), actor="li"))).accepted
        assert await run.deliver() is OrderStatus.COMPLETED
