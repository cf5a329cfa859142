"""Orders that rules of review decide on, lived to their ends."""

from typing import Any

from activities.kit.database import transaction
from activities.orders.review import rules
from models.hold import HoldKind
from models.order import OrderStatus
from models.requests import Approve, HoldRequest, Modify, Payment, QuantityChange, Release
from models.review import ReviewRule
from tests.unit.orders import an_order, line
from tests.workflow.life import Lives, request_id


async def rule(number: int, condition: str, *decisions: dict[str, Any]) -> None:
    told = {"number": number, "name": f"rule {number}", "condition": condition, "decisions": decisions}
    async with transaction() as connection:
        await rules.save_rule(connection, ReviewRule.model_validate(told))


def approval(stage: str | None = None) -> Approve:
    return Approve.model_validate({"request_id": request_id(), "actor": "mei", "stage": stage})


async def test_what_two_stages_hold_needs_both_approvals(lives: Lives) -> None:
    await rule(1, "order.total > 10", {"do": "hold", "stage": "service", "reason": "call the buyer"})
    await rule(2, "order.total > 20", {"do": "hold", "stage": "finance", "reason": "check the price"})
    life = await lives.start(an_order("1"))
    state = await life.until(OrderStatus.IN_REVIEW)
    assert [(hold.stage, hold.rule) for hold in state.holds] == [("service", 1), ("finance", 2)]
    assert (await life.ask("approve", approval("finance"))).accepted
    state = await life.state()
    assert (state.status, [hold.stage for hold in state.holds]) == (OrderStatus.IN_REVIEW, ["service"])
    answer = await life.ask("approve", approval("finance"))
    assert (answer.accepted, answer.reason) == (False, "refused.stage")
    assert (await life.ask("approve", approval("service"))).accepted
    assert await life.deliver() is OrderStatus.COMPLETED
    assert (await life.timeline())[:3] == ["received", "review.applied", "review.applied"]
    await lives.balanced()


async def test_approval_without_a_stage_is_for_all(lives: Lives) -> None:
    await rule(1, "true", {"do": "hold", "stage": "service", "reason": "a"})
    await rule(2, "true", {"do": "hold", "stage": "finance", "reason": "b"})
    life = await lives.start(an_order("1"))
    await life.until(OrderStatus.IN_REVIEW)
    assert (await life.ask("approve", approval())).accepted
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_what_is_delayed_goes_on_by_itself(lives: Lives) -> None:
    await rule(1, "true", {"do": "delay", "minutes": 30})
    life = await lives.start(an_order("1"))
    assert (await life.until(OrderStatus.APPROVED)).active == []
    await lives.skip(minutes=31)
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_what_is_delayed_and_held_meanwhile_waits_for_its_release(lives: Lives) -> None:
    await rule(1, "true", {"do": "delay", "minutes": 30})
    life = await lives.start(an_order("1"))
    await life.until(OrderStatus.APPROVED)
    assert (await life.ask("hold", HoldRequest(request_id=request_id(), reason="wait"))).accepted
    await lives.skip(minutes=60)
    assert (await life.until(OrderStatus.ON_HOLD)).active == []
    assert (await life.ask("release", Release(request_id=request_id()))).accepted
    assert await life.deliver() is OrderStatus.COMPLETED


async def test_a_gift_leaves_with_the_order_and_the_channel_hears_nothing_of_it(lives: Lives) -> None:
    await rule(7, "order.total >= 50", {"do": "gift", "sku": "A003"}, {"do": "carrier", "carrier": "yto"})
    life = await lives.start(an_order("1"))
    (parcel,) = await life.dispatched()
    assert {each.sku: each.quantity for each in parcel.lines} == {"A001": 1, "A003": 1}
    assert parcel.carrier == "yto"
    assert await life.deliver() is OrderStatus.COMPLETED
    assert await life.exceptions() == []
    assert await lives.shipped_lines(life.order) == {"1": 1}
    assert (await lives.level(parcel.warehouse, "A003")).on_hand == 9
    await lives.balanced()


async def test_a_rejected_order_ends_at_once(lives: Lives) -> None:
    await rule(1, "lines.exists(l, l.sku == 'A002')", {"do": "reject", "reason": "not sold here"})
    life = await lives.start(an_order("1", line(1, "A002")))
    assert await life.end() is OrderStatus.REJECTED
    assert (await life.row()).status == "rejected"
    assert "review.applied" in await life.timeline()
    await lives.balanced()


async def test_a_change_is_reviewed_again(lives: Lives) -> None:
    await rule(1, "order.quantity > 3", {"do": "hold", "reason": "many"})
    await rule(2, "order.quantity > 8", {"do": "reject", "reason": "too many"})
    life = await lives.start(an_order("1"))
    await life.dispatched()

    async def want(quantity: int) -> None:
        lines = (QuantityChange(line_no="1", quantity=quantity),)
        assert (await life.ask("modify", Modify(request_id=request_id(), lines=lines))).accepted

    await want(5)
    state = await life.until(OrderStatus.IN_REVIEW)
    assert [(hold.kind, hold.rule) for hold in state.holds] == [(HoldKind.REVIEW, 1)]
    await want(2)
    await life.dispatched()
    await want(9)
    assert await life.end() is OrderStatus.REJECTED
    await lives.balanced()


async def test_rules_about_paid_orders_see_it_as_it_is_paid(lives: Lives) -> None:
    await rule(1, "order.paid && order.total > 10", {"do": "hold", "stage": "finance", "reason": "check the payment"})
    await rule(2, "order.paid", {"do": "gift", "sku": "A003"})
    await rule(3, "!order.paid", {"do": "tag", "tags": ["unpaid"]})
    order = an_order("1", paid_at=None)
    life = await lives.start(order)
    await life.until(OrderStatus.AWAITING_PAYMENT)
    for _ in range(2):
        await life.handle.signal("payment", Payment(request_id=request_id(), paid_at=order.placed_at))
    state = await life.until(OrderStatus.IN_REVIEW)
    assert [(hold.stage, hold.rule) for hold in state.holds] == [("finance", 1)]
    assert (await life.ask("approve", approval())).accepted
    (parcel,) = await life.dispatched()
    assert {each.sku: each.quantity for each in parcel.lines} == {"A001": 1, "A003": 1}
    assert await life.deliver() is OrderStatus.COMPLETED
    assert (await life.timeline()).count("paid") == 1
    await lives.balanced()
