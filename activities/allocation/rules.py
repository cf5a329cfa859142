"""A merchant's rules of allocation: which apply to an order, and what they come to."""

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
class Ruling:
    """What the rules that apply come to."""

    preferred: frozenset[str] = frozenset()
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Location → the name of the rule that excludes it."""
    split: str | None = None
    queue: str | None = None
    ask: str | None = None
    applied: tuple[Applied, ...] = ()


def evaluate(
    rules: Sequence[Rule], order: Facts, wanted: Sequence[FulfillmentLine], items: Mapping[str, Item]
) -> Ruling:
    """Applies the rules in the order of their numbers, over what review prefers."""
    ruling = Ruling(preferred=frozenset(order.sites.locations if order.sites else ()))
    if not rules:
        return ruling
    known = _known(order, wanted, items)
    for rule in sorted(rules, key=lambda each: each.number):
        if rule.active and _in_scope(rule, order) and all(_holds(each, known) for each in rule.condition):
            applied = Applied(number=rule.number, name=rule.name, action=rule.action)
            ruling = replace(_act(ruling, rule), applied=(*ruling.applied, applied))
    return ruling


def _in_scope(rule: Rule, order: Facts) -> bool:
    return (not rule.shops or order.shop in rule.shops) and (not rule.campaigns or order.campaign in rule.campaigns)


def _act(ruling: Ruling, rule: Rule) -> Ruling:
    match rule.action:
        case Prefer(locations=locations):
            return replace(ruling, preferred=frozenset(locations))
        case Exclude(locations=locations):
            return replace(ruling, excluded=dict.fromkeys(locations, rule.name) | dict(ruling.excluded))
        case Split(split=split):
            return replace(ruling, split=split)
        case Queue(name=name):
            return replace(ruling, queue=name)
        case Ask(reason=reason):
            return replace(ruling, ask=reason)


def _known(
    order: Facts, wanted: Sequence[FulfillmentLine], items: Mapping[str, Item]
) -> Mapping[Fact, Sequence[Scalar]]:
    """The values of each field; more than one only of SKUs, none of what is not known."""
    skus = sorted({line.sku for line in wanted})
    weight = sum((line.quantity * items.get(line.sku, Item()).weight_kg for line in wanted), Decimal(0))
    return {
        "channel": [order.channel],
        "shop": [order.shop],
        "province": [order.province[:2]],
        "city": [order.city],
        "campaign": [order.campaign],
        "total": [order.total],
        "priority": [order.priority],
        "placed_hour": [order.placed_at.astimezone(CHINA).hour] if order.placed_at else [],
        "lines": [len({line.line_no for line in wanted})],
        "quantity": [sum(line.quantity for line in wanted)],
        "weight_kg": [weight],
        "sku": skus,
        "any_sku": skus,
    }


_OPERATIONS: Mapping[str, Callable[[Scalar, Sequence[Scalar]], bool]] = {
    "eq": lambda known, values: known in values,
    "in": lambda known, values: known in values,
    "ne": lambda known, values: known not in values,
    "not_in": lambda known, values: known not in values,
    "gte": lambda known, values: Decimal(known) >= Decimal(values[0]),
    "lte": lambda known, values: Decimal(known) <= Decimal(values[0]),
}


def _holds(condition: Condition, known: Mapping[Fact, Sequence[Scalar]]) -> bool:
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    if condition.field == "province":
        values = tuple(str(each)[:2] for each in values)
    found = [_OPERATIONS[condition.op](each, values) for each in known[condition.field]]
    return bool(found) and (any(found) if condition.field == "any_sku" else all(found))
