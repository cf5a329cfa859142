"""Compare two versions of a channel's order: which requests the newer one means for its workflow.

``changes`` covers every field of ``ChannelOrder`` that decides what, where, how and for how much is shipped, in both
directions: an order whose workflow carries out each request equals the newest version. Where the order's stage forbids
a request, the workflow opens an exception that names the difference.
"""

from collections.abc import Sequence
from typing import Any

from models.address import RecipientChange
from models.base import bounded_key
from models.hold import HoldKind
from models.i18n import message
from models.order import ChannelOrder, Refund, RefundState
from models.requests import (
    ORDER_TERMS,
    Cancel,
    HoldRequest,
    Modify,
    Payment,
    PaymentReversed,
    Refunding,
    Release,
    Remark,
    Reopened,
    Request,
    Terms,
)

Signal = tuple[str, Request]
"""The name of the workflow's signal, and its argument."""


def needs_fulfillment(order: ChannelOrder) -> bool:
    """Whether a new order is to be started: neither cancelled nor already shipped by others."""
    return order.cancelled_at is None and not order.shipped


def newest(before: ChannelOrder, order: ChannelOrder) -> ChannelOrder:
    """Return the later version, completed by what the earlier one still says.

    A recipient that is masked now stays as known, and so do the terms where a field cannot be read any more. Of two
    versions with the same time, neither is known to be the later one: a payment, a cancellation and a decided refund of
    either count. A granted refund is never undone by an older report that it was asked for.
    """
    if order.modified_at < before.modified_at:
        return before
    update: dict[str, Any] = {"refunds": tuple(_latest_refund(before, order, refund) for refund in order.refunds)}
    if order.recipient.unreadable:
        update["recipient"] = before.recipient
    if _unread(before, order):
        kept = (*ORDER_TERMS, "lines", "recipient")
        update |= {name: getattr(before, name) for name in kept} | {"paid_at": order.paid_at or before.paid_at}
    if order.modified_at == before.modified_at:
        update["paid_at"] = order.paid_at or before.paid_at
        update["cancelled_at"] = order.cancelled_at or before.cancelled_at
    later = order.model_copy(update=update)
    if later.cancelled_at is None:
        return later
    fields = ("modified_at", "cancelled_at", "shipped", "refunds")
    return before.model_copy(update={name: getattr(later, name) for name in fields})


def _unread(before: ChannelOrder, order: ChannelOrder) -> set[str]:
    """Return the fields that could be read before and cannot be now: what stands in for them is no change."""
    return {field for field in order.odd.keys() - before.odd.keys() if field != "total"}


def _latest_refund(before: ChannelOrder, order: ChannelOrder, refund: Refund) -> Refund:
    known = next((each for each in before.refunds if each.refund_no == refund.refund_no), refund)
    same_time = order.modified_at == before.modified_at
    decided_before = same_time and known.state is not RefundState.ASKED and refund.state is RefundState.ASKED
    return known if known.outlasts(refund) or decided_before else refund


def foreign_shipment(before: ChannelOrder, order: ChannelOrder) -> bool:
    """Return whether the channel now reports a shipment of all or some of the order, which may not be ours."""
    return any(now and not then for now, then in zip(_shipped(order), _shipped(before), strict=True))


def _shipped(order: ChannelOrder) -> tuple[bool, bool]:
    return order.shipped, order.shipped or bool(order.custom.get("partly_shipped"))


def holds_for_foreign_shipment(order: ChannelOrder, ours: Sequence[bool], fact_key: str) -> list[Signal]:
    """Return the hold of an order that its channel reports as shipped, or in part, but that we did not ship so.

    ``ours``: for each of its fulfillment orders, whether we have shipped it.
    """
    if (ours and all(ours)) or (any(ours) and not order.shipped):
        return []
    hold = HoldRequest(
        request_id=bounded_key(f"shipped:{fact_key}"),
        actor=f"channel:{order.channel}",
        kind=HoldKind.CHANNEL,
        reason="hold.channel.shipped" if order.shipped else "hold.channel.partly_shipped",
    )
    return [("hold", hold)]


def changes(before: ChannelOrder, order: ChannelOrder, fact_key: str) -> list[Signal]:
    """Return the requests that a newer version of an order amounts to; none for an older version.

    Cancelled lines come before their refund: the refund releases the rest of the order.
    """
    if order.modified_at < before.modified_at:
        return []
    cancel_reason = str(order.custom.get("cancel_reason", ""))
    order = newest(before, order)

    def fields(kind: str) -> dict[str, Any]:
        return {"request_id": bounded_key(f"{kind}:{fact_key}"), "actor": f"channel:{order.channel}"}

    signals: list[Signal] = []
    if order.cancelled_at and not before.cancelled_at:
        signals.append(("cancel", Cancel(**fields("cancel"), reason=cancel_reason)))
        return signals + _refunds(before, order, fact_key)
    if order.cancelled_at:
        return _refunds(before, order, fact_key)
    if before.cancelled_at:
        signals.append(("reopened", Reopened(**fields("reopened"))))
    if order.paid_at and not before.paid_at:
        signals.append(("payment", Payment(**fields("paid"), paid_at=order.paid_at)))
    if before.paid_at and not order.paid_at:
        signals.append(("payment_reversed", PaymentReversed(**fields("unpaid"))))
    terms = _terms(before, order)
    recipient = None if order.recipient == before.recipient else RecipientChange.model_validate(order.recipient)
    if (terms or recipient) and not _unread(before, order):
        signals.append(("modify", Modify(**fields("modify"), recipient=recipient, terms=terms)))
    remarks = (order.buyer_message, order.seller_memo, order.priority)
    if remarks != (before.buyer_message, before.seller_memo, before.priority):
        remark = Remark(**fields("remark"), buyer_message=remarks[0], seller_memo=remarks[1], priority=remarks[2])
        signals.append(("remark", remark))
    signals += _refunds(before, order, fact_key)
    for field, reason in order.odd.items():
        if field not in before.odd:
            held_for = message("hold.content.field", field=field, why=reason)
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


def _terms(before: ChannelOrder, order: ChannelOrder) -> Terms | None:
    """Return the terms of the newer version; ``None`` if they are the same.

    A version that the channel reports as shipped lists what was sold, also what was refunded earlier: of its terms only
    the amount to collect on delivery still matters.
    """
    known = {line.line_no: line for line in before.lines}
    numbers = {line.line_no for line in order.lines}
    terms = Terms(
        **{name: getattr(order, name) for name in ORDER_TERMS},
        lines=tuple(line for line in order.lines if line != known.get(line.line_no)),
        dropped=tuple(line_no for line_no in known if line_no not in numbers),
    )
    if order.shipped:
        same = order.paid_at is not None or order.owed == before.owed
    else:
        same = not (terms.lines or terms.dropped) and all(
            getattr(before, name) == getattr(order, name) for name in ORDER_TERMS
        )
    return None if same else terms


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
