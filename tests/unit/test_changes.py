"""Changes between two versions of a channel's order become requests to the order workflow."""

from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.intake.changes import Signal, changes, newest
from models.order import ChannelOrder, Refund, RefundState
from models.requests import (
    ORDER_TERMS,
    Cancel,
    Modify,
    Payment,
    PaymentReversed,
    Refunding,
    Remark,
    Reopened,
)
from tests.unit.orders import RECIPIENT, an_order, line

BEFORE = an_order("1", line(1), line(2, "B001", 2))
REQUESTED = Refund(refund_no="R1", state=RefundState.ASKED, line_no="2", amount=Decimal(50))
GRANTED = REQUESTED.model_copy(update={"state": RefundState.GRANTED})


def compare(before: ChannelOrder, order: ChannelOrder) -> list[Signal]:
    return changes(before, order, "f")


def signals(before: ChannelOrder = BEFORE, **fields: Any) -> list[str]:
    order = before.model_copy(update={"modified_at": before.modified_at + timedelta(seconds=1), **fields})
    signalled = compare(before, order)
    assert len({request.request_id for _, request in signalled}) == len(signalled)
    return [name for name, _ in signalled]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"paid_at": None}, ["payment_reversed"]),
        ({"total": Decimal(90), "discount": Decimal(60)}, ["modify"]),
        ({"lines": (*BEFORE.lines, line(3))}, ["modify"]),
        ({"refunds": (REQUESTED,)}, ["refund"]),
        ({"lines": BEFORE.lines[:1], "refunds": (GRANTED,)}, ["modify", "refund"]),
        ({"cancelled_at": BEFORE.placed_at, "refunds": (GRANTED,)}, ["cancel", "refund"]),
        ({"buyer_message": "快点"}, ["remark"]),
        ({"seller_memo": "加急", "priority": 1}, ["remark"]),
        ({"recipient": RECIPIENT.masked()}, []),
        ({"recipient": RECIPIENT.model_copy(update={"street": "新路2号"})}, ["modify"]),
        ({"custom": {"channel_hold": "risk"}}, ["hold"]),
        ({"shipped": True}, []),
    ],
)
def test_each_change_is_signalled_before_what_depends_on_it(fields: dict[str, Any], expected: list[str]) -> None:
    assert signals(**fields) == expected


def test_refund_is_signalled_again_only_when_it_changed() -> None:
    requested = BEFORE.model_copy(update={"refunds": (REQUESTED,)})
    assert signals(requested, refunds=(REQUESTED,)) == []
    assert signals(requested, refunds=(GRANTED,)) == ["refund"]
    later = requested.model_copy(
        update={"refunds": (GRANTED,), "modified_at": requested.modified_at + timedelta(seconds=1)}
    )
    (_, request), *_ = compare(requested, later)
    assert isinstance(request, Refunding)
    assert request.refund == GRANTED


def test_refund_that_is_no_longer_listed_is_closed() -> None:
    requested = BEFORE.model_copy(update={"refunds": (REQUESTED,)})
    (_, request), *_ = compare(requested, BEFORE)
    assert isinstance(request, Refunding)
    assert request.refund.state is RefundState.CLOSED


def test_older_version_changes_nothing() -> None:
    assert signals(modified_at=BEFORE.modified_at - timedelta(seconds=1), cancelled_at=BEFORE.placed_at) == []


def test_remark_has_the_current_memo_and_priority() -> None:
    order = BEFORE.model_copy(update={"seller_memo": "加急", "priority": 1})
    (_, request), *_ = compare(BEFORE, order)
    assert isinstance(request, Remark)
    assert (request.seller_memo, request.priority) == ("加急", 1)


def carried_out(order: ChannelOrder, signalled: list[Signal]) -> ChannelOrder:
    """Return the order of a workflow whose stage allows every request."""
    for name, request in signalled:
        update: dict[str, Any] = {}
        match request:
            case Cancel():
                update["cancelled_at"] = order.modified_at
            case Reopened():
                update["cancelled_at"] = None
            case Payment():
                update["paid_at"] = request.paid_at
            case PaymentReversed():
                update["paid_at"] = None
            case Modify():
                order = request.applied_to(order)
            case Remark():
                update = request.model_dump(include={"buyer_message", "seller_memo", "priority"})
            case Refunding():
                refunds = {each.refund_no: each for each in order.refunds} | {request.refund.refund_no: request.refund}
                update["refunds"] = tuple(refunds.values())
            case _:
                assert name in {"hold", "release"}
                update["custom"] = {"channel_hold": "risk"} if name == "hold" else {}
        order = order.model_copy(update=update)
    return order


def decisive(order: ChannelOrder) -> dict[str, Any]:
    """Return what decides what, where, how and for how much is shipped; lines by number, as their order is free."""
    fields = (*ORDER_TERMS, "recipient", "buyer_message", "seller_memo", "priority")
    refunds = {each.refund_no: each for each in order.refunds if each.state is not RefundState.CLOSED}
    found = {name: getattr(order, name) for name in fields} | {"refunds": refunds}
    found |= {"paid": order.paid_at is not None, "held": bool(order.custom.get("channel_hold"))}
    return found | {"lines": {each.line_no: each for each in order.lines}}


AMOUNTS = st.decimals(0, 200, places=2)
VERSIONS = st.fixed_dictionaries(
    {
        "paid_at": st.sampled_from([None, BEFORE.placed_at]),
        "cancelled_at": st.sampled_from([None, None, None, BEFORE.placed_at]),
        "cash_on_delivery": st.booleans(),
        "currency": st.sampled_from(["CNY", "USD"]),
        "carrier": st.sampled_from([None, "sf"]),
        "pay_before": st.sampled_from([None, BEFORE.placed_at]),
        "promised_by": st.sampled_from([None, BEFORE.placed_at]),
        **{name: AMOUNTS for name in ("total", "freight", "discount", "tax")},
        "recipient": st.sampled_from([RECIPIENT, RECIPIENT.model_copy(update={"street": "新路2号"})]),
        "lines": st.lists(
            st.builds(
                lambda number, sku, quantity, price: line(number, sku, quantity, str(price)),
                st.integers(1, 4),
                st.sampled_from(["A001", "B001"]),
                st.integers(1, 3),
                AMOUNTS,
            ),
            min_size=1,
            max_size=4,
            unique_by=lambda each: each.line_no,
        ).map(tuple),
        "refunds": st.sampled_from([(), (REQUESTED,), (GRANTED,)]),
        "buyer_message": st.sampled_from(["", "快点"]),
        "seller_memo": st.sampled_from(["", "加急"]),
        "priority": st.sampled_from([1, 3]),
        "custom": st.sampled_from([{}, {"channel_hold": "risk"}]),
    }
)


@settings(max_examples=30, deadline=None)
@given(st.lists(VERSIONS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_order_equals_the_newest_version_in_whatever_order_versions_arrive(
    versions: list[dict[str, Any]], random: Random
) -> None:
    orders = [
        BEFORE.model_copy(update=version | {"modified_at": BEFORE.modified_at + timedelta(seconds=number)})
        for number, version in enumerate(versions, 1)
    ]
    last = orders[-1]
    random.shuffle(orders)
    known = state = BEFORE
    for number, order in enumerate(orders):
        state = carried_out(state, changes(known, order, f"f{number}"))
        known = newest(known, order)
    assert (state.cancelled_at is None) == (last.cancelled_at is None)
    if last.cancelled_at is None:
        granted = {each.refund_no: each for each in state.refunds if each.state is RefundState.GRANTED}
        expected = decisive(last)
        if expected["refunds"]:
            expected["refunds"] |= granted
        else:
            expected["refunds"] = granted
        assert decisive(state) == expected


def test_of_two_versions_with_one_time_the_paid_and_granted_one_counts() -> None:
    paid = BEFORE.model_copy(update={"refunds": (GRANTED,)})
    stale = BEFORE.model_copy(update={"paid_at": None, "refunds": (REQUESTED,)})
    assert compare(paid, stale) == []
    assert newest(paid, stale) == paid


def test_granted_refund_is_never_asked_for_again() -> None:
    granted = BEFORE.model_copy(update={"refunds": (GRANTED,)})
    assert signals(granted, refunds=(REQUESTED,)) == []
