"""A merchant's allocation rules: which apply to an order, and with what result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from models.allocation import (
    Applied,
    Ask,
    Condition,
    Exclude,
    Fact,
    Facts,
    Item,
    Prefer,
    Queue,
    Rule,
    Scalar,
    Split,
)
from models.base import CHINA
from models.fulfillment import FulfillmentLine


@dataclass(frozen=True)
class RuleResult:
    """The combined result of the rules that apply."""

    preferred: frozenset[str] = frozenset()
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Location → the name of the rule that excludes it."""
    split: str | None = None
    queue: str | None = None
    ask: str | None = None
    applied: tuple[Applied, ...] = ()


def evaluate(
    rules: Sequence[Rule], order: Facts, lines: Sequence[FulfillmentLine], items: Mapping[str, Item]
) -> RuleResult:
    """Apply the rules in the order of their numbers. They override the locations that review prefers."""
    result = RuleResult(preferred=frozenset(order.sites.locations if order.sites else ()))
    if not rules:
        return result
    values = _values(order, lines, items)
    for rule in sorted(rules, key=lambda each: each.number):
        if not rule.active or not _in_scope(rule, order):
            continue
        if order.ask_total is not None and any(each.field == "total" for each in rule.condition):
            result = replace(result, ask=order.ask_total)
        elif all(_holds(each, values) for each in rule.condition):
            applied = Applied(number=rule.number, name=rule.name, action=rule.action)
            result = replace(_act(result, rule), applied=(*result.applied, applied))
    return result


def _in_scope(rule: Rule, order: Facts) -> bool:
    return (not rule.shops or order.shop in rule.shops) and (not rule.campaigns or order.campaign in rule.campaigns)


def _act(result: RuleResult, rule: Rule) -> RuleResult:
    match rule.action:
        case Prefer(locations=locations):
            return replace(result, preferred=frozenset(locations))
        case Exclude(locations=locations):
            return replace(result, excluded=dict.fromkeys(locations, rule.name) | dict(result.excluded))
        case Split(split=split):
            return replace(result, split=split)
        case Queue(name=name):
            return replace(result, queue=name)
        case Ask(reason=reason):
            return replace(result, ask=reason)


def _values(
    order: Facts, lines: Sequence[FulfillmentLine], items: Mapping[str, Item]
) -> Mapping[Fact, Sequence[Scalar]]:
    """Return the values of each field: several only for SKUs, none if unknown."""
    skus = sorted({line.sku for line in lines})
    weight = sum((line.quantity * items.get(line.sku, Item()).weight_kg for line in lines), Decimal(0))
    return {
        "channel": [order.channel],
        "shop": [order.shop],
        "province": [order.province[:2]],
        "city": [order.city],
        "campaign": [order.campaign],
        "total": [] if order.total is None else [order.total],
        "priority": [order.priority],
        "placed_hour": [order.placed_at.astimezone(CHINA).hour] if order.placed_at else [],
        "lines": [len({line.line_no for line in lines})],
        "quantity": [sum(line.quantity for line in lines)],
        "weight_kg": [weight],
        "sku": skus,
        "any_sku": skus,
    }


_OPERATIONS: Mapping[str, Callable[[Scalar, Sequence[Scalar]], bool]] = {
    "eq": lambda value, operands: value in operands,
    "in": lambda value, operands: value in operands,
    "ne": lambda value, operands: value not in operands,
    "not_in": lambda value, operands: value not in operands,
    "gte": lambda value, operands: Decimal(value) >= Decimal(operands[0]),
    "lte": lambda value, operands: Decimal(value) <= Decimal(operands[0]),
}


def _holds(condition: Condition, values: Mapping[Fact, Sequence[Scalar]]) -> bool:
    operands = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    if condition.field == "province":
        operands = tuple(str(each)[:2] for each in operands)
    results = [_OPERATIONS[condition.op](each, operands) for each in values[condition.field]]
    return bool(results) and (any(results) if condition.field == "any_sku" else all(results))
