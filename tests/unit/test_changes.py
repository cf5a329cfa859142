"""What a channel's newer word of an order amounts to."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from models.order import ChannelOrder, Refund, RefundState
from models.requests import Refunding, Remark
from starter.dispatcher import Fact, changes
from tests.unit.orders import RECIPIENT, an_order, line

BEFORE = an_order("1", line(1), line(2, "B001", 2))
ASKED = Refund(refund_no="R1", state=RefundState.ASKED, line_no="2", amount=Decimal(50))
GRANTED = ASKED.model_copy(update={"state": RefundState.GRANTED})


def told(before: ChannelOrder = BEFORE, **now: Any) -> list[str]:
    order = before.model_copy(update={"modified_at": before.modified_at + timedelta(seconds=1), **now})
    found = changes(before, Fact(row=1, key="f", order=order))
    assert len({request.request_id for _, request in found}) == len(found)
    return [name for name, _ in found]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({}, []),
        ({"paid_at": None}, []),
        ({"refunds": (ASKED,)}, ["refund"]),
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
def test_each_change_is_told_in_the_order_that_lets_the_rest_go_on(now: dict[str, Any], expected: list[str]) -> None:
    assert told(**now) == expected


def test_a_refund_is_told_again_only_where_it_stands_otherwise() -> None:
    asked = BEFORE.model_copy(update={"refunds": (ASKED,)})
    assert told(asked, refunds=(ASKED,)) == []
    assert told(asked, refunds=(GRANTED,)) == ["refund"]
    later = asked.model_copy(update={"refunds": (GRANTED,), "modified_at": asked.modified_at + timedelta(seconds=1)})
    (_, request), *_ = changes(asked, Fact(row=1, key="f", order=later))
    assert isinstance(request, Refunding)
    assert request.refund == GRANTED


def test_a_refund_that_is_not_spoken_of_any_more_was_withdrawn() -> None:
    asked = BEFORE.model_copy(update={"refunds": (ASKED,)})
    (_, request), *_ = changes(asked, Fact(row=1, key="f", order=BEFORE))
    assert isinstance(request, Refunding)
    assert request.refund.state is RefundState.CLOSED


def test_an_older_word_amounts_to_nothing() -> None:
    assert told(modified_at=BEFORE.modified_at - timedelta(seconds=1), cancelled_at=BEFORE.placed_at) == []


def test_a_remark_carries_what_is_now_said_and_how_urgent_it_is() -> None:
    order = BEFORE.model_copy(update={"seller_memo": "加急", "priority": 1})
    (_, request), *_ = changes(BEFORE, Fact(row=1, key="f", order=order))
    assert isinstance(request, Remark)
    assert (request.seller_memo, request.priority) == ("加急", 1)
