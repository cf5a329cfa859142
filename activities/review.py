"""Review: rules that hold an order for a person."""

from datetime import datetime

from models.order import ChannelOrder, Hold, HoldKind, Policy

_DOUBTFUL = ("先别发", "暂不发货", "不要发货", "do not ship", "don't ship", "hold this order")
"""Remarks that ask us to wait."""


def decide(order: ChannelOrder, policy: Policy, at: datetime) -> list[Hold]:
    """The holds this order earns; none: approved."""
    holds = []
    if order.total > policy.review_above:
        holds.append(Hold(kind=HoldKind.REVIEW, reason="hold.review.amount", since=at))
    holds += remarked(order, at)
    if order.custom.get("channel_hold"):
        holds.append(Hold(kind=HoldKind.CHANNEL, reason="hold.channel.told", since=at))
    return holds


def remarked(order: ChannelOrder, at: datetime) -> list[Hold]:
    """The holds that its remarks earn."""
    remarks = f"{order.buyer_message} {order.seller_memo}".lower()
    if any(words in remarks for words in _DOUBTFUL):
        return [Hold(kind=HoldKind.REVIEW, reason="hold.review.remark", since=at)]
    return []
