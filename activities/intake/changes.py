"""Compare two versions of a channel's order: which requests the newer one means for its workflow."""

from typing import Any

from models.base import bounded_key
from models.hold import HoldKind
from models.i18n import message
from models.order import ChannelOrder, RefundState
from models.requests import Cancel, HoldRequest, Modify, Payment, QuantityChange, Refunding, Release, Remark, Request

Signal = tuple[str, Request]
"""The name of the workflow's signal, and its argument."""


def needs_fulfillment(order: ChannelOrder) -> bool:
    """Whether a new order is to be started: neither cancelled nor already shipped by others."""
    return order.cancelled_at is None and not order.shipped


def newest(before: ChannelOrder, order: ChannelOrder) -> ChannelOrder:
    """Return the later version, with what is known of the recipient and the lines where the later one lacks that."""
    later = order if order.modified_at >= before.modified_at else before
    known: dict[str, Any] = {"recipient": before.recipient} if later.recipient.unreadable else {}
    if _unread(before, later):
        known |= {"lines": before.lines, "recipient": before.recipient}
    return later.model_copy(update=known)


def _unread(before: ChannelOrder, order: ChannelOrder) -> set[str]:
    """Return the fields that could be read before and cannot be now: what stands in for them is no change."""
    return {field for field in order.odd.keys() - before.odd.keys() if field != "total"}


def count_added_lines(before: ChannelOrder, order: ChannelOrder) -> int:
    """Count the lines that the order did not have before."""
    return len({line.line_no for line in order.lines} - {line.line_no for line in before.lines})


def hold_for_foreign_shipment(order: ChannelOrder, fact_key: str) -> Signal:
    """Return the hold of an order that its channel reports as shipped, but that we did not ship."""
    hold = HoldRequest(
        request_id=bounded_key(f"shipped:{fact_key}"),
        actor=f"channel:{order.channel}",
        kind=HoldKind.CHANNEL,
        reason="hold.channel.shipped",
    )
    return "hold", hold


def changes(before: ChannelOrder, order: ChannelOrder, fact_key: str) -> list[Signal]:
    """Return the requests that a newer version of an order amounts to; none for an older version.

    Cancelled lines come before their refund: the refund releases the rest of the order.
    """
    if order.modified_at < before.modified_at:
        return []

    def fields(kind: str) -> dict[str, Any]:
        return {"request_id": bounded_key(f"{kind}:{fact_key}"), "actor": f"channel:{order.channel}"}

    signals: list[Signal] = []
    if order.cancelled_at and not before.cancelled_at:
        signals.append(("cancel", Cancel(**fields("cancel"), reason=str(order.custom.get("cancel_reason", "")))))
        return signals + _refunds(before, order, fact_key)
    if order.paid_at and not before.paid_at:
        signals.append(("payment", Payment(**fields("paid"), paid_at=order.paid_at)))
    quantities = {line.line_no: line.quantity for line in order.lines}
    lines = tuple(
        QuantityChange(line_no=line.line_no, quantity=quantities.get(line.line_no, 0))
        for line in before.lines
        if quantities.get(line.line_no, 0) != line.quantity
    )
    recipient = None if order.recipient == before.recipient or order.recipient.unreadable else order.recipient
    if (lines or recipient) and not _unread(before, order):
        signals.append(("modify", Modify(**fields("modify"), recipient=recipient, lines=lines)))
    remarks = (order.buyer_message, order.seller_memo, order.priority)
    if remarks != (before.buyer_message, before.seller_memo, before.priority):
        remark = Remark(**fields("remark"), buyer_message=remarks[0], seller_memo=remarks[1], priority=remarks[2])
        signals.append(("remark", remark))
    signals += _refunds(before, order, fact_key)
    for field, reason in order.odd.items():
        if field not in before.odd:
            held_for = message("hold.content.field", field=field, reason=reason)
            signals.append(("hold", HoldRequest(**fields("content"), kind=HoldKind.CONTENT, reason=held_for)))
            break
    if before.odd and not order.odd:
        signals.append(("release", Release(**fields("content-release"), kind=HoldKind.CONTENT)))
    held, hold = before.custom.get("channel_hold"), order.custom.get("channel_hold")
    if hold and not held:
        signals.append(("hold", HoldRequest(**fields("hold"), kind=HoldKind.CHANNEL, reason="hold.channel.told")))
    if held and not hold:
        signals.append(("release", Release(**fields("release"), kind=HoldKind.CHANNEL)))
    return signals


def _refunds(before: ChannelOrder, order: ChannelOrder, fact_key: str) -> list[Signal]:
    """Return the refunds that are new or changed, and as closed those that are no longer listed."""
    current = {refund.refund_no: refund for refund in order.refunds}
    known = {refund.refund_no: refund for refund in before.refunds}
    withdrawn = [
        refund.model_copy(update={"state": RefundState.CLOSED})
        for refund in before.refunds
        if refund.refund_no not in current and refund.state is RefundState.ASKED
    ]
    return [
        (
            "refund",
            Refunding(
                request_id=bounded_key(f"refund:{refund.refund_no}:{refund.state}:{fact_key}"),
                actor=f"channel:{order.channel}",
                refund=refund,
            ),
        )
        for refund in (*current.values(), *withdrawn)
        if known.get(refund.refund_no) != refund
    ]
