"""Review: approve, hold, reject or change orders by the merchant's rules and the shop's limits."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit import expressions
from activities.kit.expressions import InvalidExpression
from activities.orders.review import facts, rules
from activities.orders.review.samples import ORDER_VOCABULARY
from models.base import Value
from models.exchange_rates import NO_RATE, NoRate, Rates
from models.hold import Hold, HoldKind
from models.money import Money
from models.order import MAX_LINES, ChannelOrder, OrderLine, Sites
from models.policy import Policy
from models.review import (
    AddGift,
    AddTags,
    ApproveOrder,
    ChooseCarrier,
    ChooseWarehouses,
    Decision,
    DelayOrder,
    HoldOrder,
    RejectOrder,
    ReviewRule,
    SetPriority,
)
from models.settings import settings
from models.state import RuleResult

_HOLD_PHRASES = ("先别发", "暂不发货", "不要发货", "do not ship", "don't ship", "hold this order")
"""Phrases in remarks that ask us to wait."""
_NAMED_FIELDS = 10


class Verdict(Value):
    """The outcome of the rules for one order."""

    order: ChannelOrder
    holds: tuple[Hold, ...] = ()
    rejected: bool = False
    approved: bool = False
    """The shop's own limits do not apply."""
    minutes: int = 0
    """The delay."""
    ruled: tuple[RuleResult, ...] = ()
    """The rules that applied, or failed."""


async def review(connection: AsyncConnection, orders: Sequence[tuple[ChannelOrder, datetime]]) -> list[Verdict]:
    """Apply the active rules to a group of orders, each at its own time."""
    rulebook = await rules.rulebook(connection)
    if not any(rule.applies_to(_shop(order)) for rule in rulebook.rules for order, _ in orders):
        return [Verdict(order=order) for order, _ in orders]
    latest = max(at for _, at in orders)
    gathered = await facts.gather(connection, [order for order, _ in orders], rulebook.needs, latest)
    return [judge(rulebook.rules, order, known, at) for (order, at), known in zip(orders, gathered, strict=True)]


ABOVE_LIMIT = "hold.review.amount"


def limit_holds(order: ChannelOrder, policy: Policy, rates: Rates, at: datetime) -> list[Hold]:
    """Return the holds by the shop's limits, which are in the home currency, and by remarks that ask to wait."""
    remarks = f"{order.buyer_message} {order.seller_memo}".lower()
    holds = []
    try:
        total = rates.convert(Money(amount=order.total, currency=order.currency), settings().currency, at)
    except NoRate as error:
        holds.append(_no_rate(error.currency, at))
    else:
        if total > policy.review_above:
            holds.append(Hold(kind=HoldKind.REVIEW, reason=ABOVE_LIMIT, since=at))
    if any(phrase in remarks for phrase in _HOLD_PHRASES):
        holds.append(Hold(kind=HoldKind.REVIEW, reason="hold.review.remark", since=at))
    return holds


def _no_rate(currency: str, at: datetime) -> Hold:
    params = {"currency": currency, "home": settings().currency}
    return Hold(kind=HoldKind.REVIEW, reason=NO_RATE, params=params, since=at)


def channel_holds(order: ChannelOrder, at: datetime) -> list[Hold]:
    """Return the holds of a new order that its channel does not want shipped, or of which others shipped a part."""
    reasons = {"channel_hold": "hold.channel.told", "partly_shipped": "hold.channel.partly_shipped"}
    return [
        Hold(kind=HoldKind.CHANNEL, reason=reason, since=at)
        for name, reason in reasons.items()
        if order.custom.get(name)
    ]


def content_holds(order: ChannelOrder, at: datetime) -> list[Hold]:
    """Return one hold for each field that the channel sent and that is not usable; the last counts those beyond ten."""
    holds = [
        Hold(kind=HoldKind.CONTENT, reason="hold.content.field", params={"field": field, "why": reason}, since=at)
        for field, reason in list(order.odd.items())[:_NAMED_FIELDS]
    ]
    if (more := len(order.odd) - len(holds)) > 0:
        holds.append(Hold(kind=HoldKind.CONTENT, reason="hold.content.more", params={"count": more}, since=at))
    return holds


def judge(ordered_rules: Sequence[ReviewRule], order: ChannelOrder, known: dict[str, Any], at: datetime) -> Verdict:
    """Apply the rules in their order to the facts of one order. A rule that fails holds the order."""
    verdict = Verdict(order=order)
    for rule in ordered_rules:
        if verdict.rejected:
            break
        if not rule.applies_to(_shop(order)):
            continue
        currency = None
        try:
            expression = ORDER_VOCABULARY.compile(rule.condition)
            currency = facts.unconverted(known, expression.paths)
            if currency is not None:
                raise InvalidExpression("expression.no_rate", currency=currency, home=settings().currency)
            if expression.evaluate(expressions.context(expression.roots, known)):
                values = expression.values(known)
                verdict = _apply(verdict, rule, values, at)
        except InvalidExpression as error:
            failed = RuleResult(number=rule.number, name=rule.name, failure=error.message)
            hold = Hold(kind=HoldKind.REVIEW, reason="hold.review.rule_failed", since=at)
            hold = (hold if currency is None else _no_rate(currency, at)).model_copy(update={"rule": rule.number})
            holds = verdict.holds if verdict.approved else (*verdict.holds, hold)
            verdict = _with_result(verdict, failed, holds=holds)
    return verdict


def _apply(verdict: Verdict, rule: ReviewRule, values: dict[str, JsonValue], at: datetime) -> Verdict:
    decisions = tuple(map(_as_text, rule.decisions))
    result = RuleResult(number=rule.number, name=rule.name, decisions=decisions, values=values)
    verdict = _with_result(verdict, result)
    for decision in rule.decisions:
        verdict = _apply_decision(verdict, rule, decision, at)
    return verdict


def _apply_decision(verdict: Verdict, rule: ReviewRule, decision: Decision, at: datetime) -> Verdict:
    order = verdict.order
    match decision:
        case ApproveOrder():
            return verdict.model_copy(update={"approved": True})
        case HoldOrder() | RejectOrder() | DelayOrder() if verdict.approved:
            return verdict
        case HoldOrder(stage=stage, reason=reason):
            hold = Hold(kind=HoldKind.REVIEW, reason=reason, since=at, stage=stage, rule=rule.number)
            return verdict.model_copy(update={"holds": (*verdict.holds, hold)})
        case RejectOrder():
            return verdict.model_copy(update={"rejected": True})
        case DelayOrder(minutes=minutes):
            return verdict.model_copy(update={"minutes": max(minutes, verdict.minutes)})
        case AddTags(tags=tags):
            changes: dict[str, Any] = {"tags": tuple(dict.fromkeys((*order.tags, *tags)))}
        case SetPriority(priority=priority):
            changes = {"priority": priority}
        case ChooseWarehouses(locations=locations, only=only):
            changes = {"sites": Sites(locations=locations, only=only)}
        case ChooseCarrier(carrier=carrier):
            changes = {"carrier": order.carrier or carrier}
        case AddGift(sku=sku, quantity=quantity):
            changes = {"lines": _with_gift(order, rule.number, sku, quantity)}
    return verdict.model_copy(update={"order": order.model_copy(update=changes)})


def _with_gift(order: ChannelOrder, number: int, sku: str, quantity: int) -> tuple[OrderLine, ...]:
    line_no = f"gift:{number}"
    if len(order.lines) >= MAX_LINES or any(line.line_no == line_no for line in order.lines):
        return order.lines
    gift = OrderLine(line_no=line_no, sku=sku, quantity=quantity, unit_price=Decimal(0), gift=True)
    return (*order.lines, gift)


def _with_result(verdict: Verdict, result: RuleResult, **changes: Any) -> Verdict:
    return verdict.model_copy(update={"ruled": (*verdict.ruled, result), **changes})


def _as_text(decision: Decision) -> str:
    """Return a decision with its arguments: ``hold finance``, ``gift B006 1``."""
    arguments = decision.model_dump(mode="json", exclude={"reason"})
    parts = [" ".join(map(str, each)) if isinstance(each, list) else str(each) for each in arguments.values()]
    return " ".join(parts)


def _shop(order: ChannelOrder) -> str:
    return f"{order.channel}:{order.shop}"
