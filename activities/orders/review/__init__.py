"""Review: which orders go on, which wait for a person, and which end, by the merchant's rules and the shop's limits."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit import expressions
from activities.kit.expressions import InvalidExpression
from activities.orders.review import facts, rules
from activities.orders.review.samples import ORDERS
from models.base import Value
from models.hold import Hold, HoldKind
from models.order import ChannelOrder, OrderLine, Sites
from models.policy import Policy
from models.review import (
    Approves,
    Carries,
    Decision,
    Delays,
    Gives,
    Holds,
    Places,
    Prioritises,
    Rejects,
    ReviewRule,
    Tags,
)
from models.state import RuleResult

_DOUBTFUL = ("先别发", "暂不发货", "不要发货", "do not ship", "don't ship", "hold this order")
"""Remarks that ask us to wait."""
MOST_LINES = 200
"""An order of so many lines is given none more."""


class Verdict(Value):
    """What the rules come to for one order."""

    order: ChannelOrder
    holds: tuple[Hold, ...] = ()
    rejected: bool = False
    approved: bool = False
    """The shop's own limits do not count."""
    minutes: int = 0
    """It goes on by itself so much later."""
    ruled: tuple[RuleResult, ...] = ()
    """The rules that applied, or failed."""


async def review(connection: AsyncConnection, orders: Sequence[tuple[ChannelOrder, datetime]]) -> list[Verdict]:
    """The rules in force, asked of a whole group of orders, each at its time."""
    book = await rules.rulebook(connection)
    if not any(rule.concerns(_shop(order)) for rule in book.rules for order, _ in orders):
        return [Verdict(order=order) for order, _ in orders]
    latest = max(at for _, at in orders)
    found = await facts.gather(connection, [order for order, _ in orders], book.needs, latest)
    return [judge(book.rules, order, known, at) for (order, at), known in zip(orders, found, strict=True)]


def decide(order: ChannelOrder, policy: Policy, at: datetime) -> list[Hold]:
    """The holds that an order earns by the shop's own limits and the channel's word; none: approved."""
    return [*limits(order, policy, at), *told(order, at)]


def limits(order: ChannelOrder, policy: Policy, at: datetime) -> list[Hold]:
    remarks = f"{order.buyer_message} {order.seller_memo}".lower()
    reasons = []
    if order.total > policy.review_above:
        reasons.append("hold.review.amount")
    if any(words in remarks for words in _DOUBTFUL):
        reasons.append("hold.review.remark")
    return [Hold(kind=HoldKind.REVIEW, reason=reason, since=at) for reason in reasons]


def told(order: ChannelOrder, at: datetime) -> list[Hold]:
    if not order.custom.get("channel_hold"):
        return []
    return [Hold(kind=HoldKind.CHANNEL, reason="hold.channel.told", since=at)]


def judge(book: Sequence[ReviewRule], order: ChannelOrder, known: dict[str, Any], at: datetime) -> Verdict:
    """Applies the rules in their order to the facts of one order. One that cannot be answered holds it."""
    verdict = Verdict(order=order)
    for rule in book:
        if verdict.rejected:
            break
        if not rule.concerns(_shop(order)):
            continue
        try:
            expression = ORDERS.compiled(rule.condition)
            if expression.holds(expressions.context(expression.roots, known)):
                values = expression.values(known)
                verdict = _apply(verdict, rule, values, at)
        except InvalidExpression as error:
            failed = RuleResult(number=rule.number, name=rule.name, failure=error.message)
            held = Hold(kind=HoldKind.REVIEW, reason="hold.review.rule_failed", since=at, rule=rule.number)
            holds = verdict.holds if verdict.approved else (*verdict.holds, held)
            verdict = _changed(verdict, failed, holds=holds)
    return verdict


def _apply(verdict: Verdict, rule: ReviewRule, values: dict[str, JsonValue], at: datetime) -> Verdict:
    ruled = RuleResult(number=rule.number, name=rule.name, decisions=tuple(map(_spoken, rule.decisions)), values=values)
    verdict = _changed(verdict, ruled)
    for decision in rule.decisions:
        verdict = _decided(verdict, rule, decision, at)
    return verdict


def _decided(verdict: Verdict, rule: ReviewRule, decision: Decision, at: datetime) -> Verdict:
    order = verdict.order
    match decision:
        case Approves():
            return verdict.model_copy(update={"approved": True})
        case Holds() | Rejects() | Delays() if verdict.approved:
            return verdict
        case Holds(stage=stage, reason=reason):
            held = Hold(kind=HoldKind.REVIEW, reason=reason, since=at, stage=stage, rule=rule.number)
            return verdict.model_copy(update={"holds": (*verdict.holds, held)})
        case Rejects():
            return verdict.model_copy(update={"rejected": True})
        case Delays(minutes=minutes):
            return verdict.model_copy(update={"minutes": max(minutes, verdict.minutes)})
        case Tags(tags=tags):
            changes: dict[str, Any] = {"tags": tuple(dict.fromkeys((*order.tags, *tags)))}
        case Prioritises(priority=priority):
            changes = {"priority": priority}
        case Places(locations=locations, only=only):
            changes = {"sites": Sites(locations=locations, only=only)}
        case Carries(carrier=carrier):
            changes = {"carrier": order.carrier or carrier}
        case Gives(sku=sku, quantity=quantity):
            changes = {"lines": _with_gift(order, rule.number, sku, quantity)}
    return verdict.model_copy(update={"order": order.model_copy(update=changes)})


def _with_gift(order: ChannelOrder, number: int, sku: str, quantity: int) -> tuple[OrderLine, ...]:
    line_no = f"gift:{number}"
    if len(order.lines) >= MOST_LINES or any(line.line_no == line_no for line in order.lines):
        return order.lines
    gift = OrderLine(line_no=line_no, sku=sku, quantity=quantity, unit_price=Decimal(0), gift=True)
    return (*order.lines, gift)


def _changed(verdict: Verdict, ruled: RuleResult, **changes: Any) -> Verdict:
    return verdict.model_copy(update={"ruled": (*verdict.ruled, ruled), **changes})


def _spoken(decision: Decision) -> str:
    """A decision with what belongs to it: ``hold finance``, ``gift B006 1``."""
    told = decision.model_dump(mode="json", exclude={"reason"})
    parts = [" ".join(map(str, each)) if isinstance(each, list) else str(each) for each in told.values()]
    return " ".join(parts)


def _shop(order: ChannelOrder) -> str:
    return f"{order.channel}:{order.shop}"
