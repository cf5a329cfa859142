"""Changes between two versions of a channel's order become requests to the order workflow."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from activities.intake.changes import Signal, changes
from models.order import ChannelOrder, Refund, RefundState
from models.requests import Refunding, Remark
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
        ({"paid_at": None}, []),
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
