"""The merchant's carrier rules and penalty weights, set by staff."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit import expressions
from activities.kit.errors import InvalidInput
from activities.kit.expressions import InvalidExpression, Vocabulary
from models.carrier_selection import (
    CarrierRule,
    CarrierRuleRow,
    ExcludeCarriers,
    FavourCarriers,
    OverrideWeights,
    RestrictToCarriers,
    RuleOutcome,
    ShippingRequest,
    Weights,
    WeightsRow,
    days_left,
)
from models.settings import settings
from models.state import RuleResult

_rules: Table = CarrierRuleRow.__table__  # type: ignore[attr-defined]
_weights: Table = WeightsRow.__table__  # type: ignore[attr-defined]

NO_DEADLINE = 999
"""``parcel.days_left`` where no day was promised."""


def facts(request: ShippingRequest, now: datetime) -> dict[str, Any]:
    """Return the facts that conditions may use."""
    parcel = request.model_dump(include={"channel", "warehouse", "origin", "destination", "city", "quantity"})
    parcel |= {
        "shop": f"{request.channel}:{request.shop}",
        "demanded": request.required_carrier or "",
        "weight_kg": float(request.weight_kg),
        "volume_cm3": request.volume_cm3,
        "value": float(request.value),
        "needs": sorted(request.needs),
        "skus": list(request.skus),
        "tags": list(request.tags),
        "cash_on_delivery": request.cash_on_delivery,
        "urgent": request.urgent,
        "days_left": NO_DEADLINE if request.promised_by is None else days_left(request.promised_by, now),
    }
    return {"parcel": parcel}


_NOON = datetime.fromisoformat("2026-11-11T04:00:00+00:00")
VOCABULARY = Vocabulary(
    (
        facts(ShippingRequest(channel="taobao", shop="flagship", origin="上海市", destination="浙江省"), _NOON),
        facts(
            ShippingRequest(
                channel="own",
                shop="web",
                warehouse="SH",
                origin="上海市",
                destination="西藏自治区",
                city="那曲市",
                required_carrier="sf",
                skus=("A001", "B006"),
                quantity=50,
                tags=("vip",),
                weight_kg=Decimal("35.5"),
                volume_cm3=250_000,
                needs=frozenset({"cold_chain"}),
                value=Decimal("12345.50"),
                cash_on_delivery=True,
                urgent=True,
                promised_by=_NOON,
            ),
            _NOON,
        ),
    )
)
"""The facts that conditions may name, with their types."""


def evaluate(
    rules: Sequence[CarrierRule], request: ShippingRequest, carriers: Collection[str], weights: Weights, now: datetime
) -> RuleOutcome:
    """Apply the rules in their order. A rule that fails does not apply, and its result has the failure."""
    outcome = RuleOutcome(weights=weights)
    known = facts(request, now)
    for rule in rules:
        if not rule.applies_to(f"{request.channel}:{request.shop}"):
            continue
        try:
            expression = VOCABULARY.compile(rule.condition)
            if request.no_rate and "parcel.value" in expression.paths:
                raise InvalidExpression("expression.no_rate", currency=request.no_rate, home=settings().currency)
            applies = expression.evaluate(expressions.context(expression.roots, known))
        except InvalidExpression as error:
            failed = RuleResult(number=rule.number, name=rule.name, failure=error.message)
            outcome = outcome.model_copy(update={"results": (*outcome.results, failed)})
            continue
        if applies:
            decisions = tuple(map(_as_text, rule.decisions))
            result = RuleResult(
                number=rule.number, name=rule.name, decisions=decisions, values=expression.values(known)
            )
            outcome = outcome.model_copy(update={"results": (*outcome.results, result)})
            outcome = _apply(rule, outcome, carriers)
    return outcome


def _apply(rule: CarrierRule, outcome: RuleOutcome, carriers: Collection[str]) -> RuleOutcome:
    changes: dict[str, Any] = {}
    for decision in rule.decisions:
        match decision:
            case ExcludeCarriers(carriers=named) | RestrictToCarriers(carriers=named):
                excluded = named if isinstance(decision, ExcludeCarriers) else set(carriers) - set(named)
                changes["excluded"] = dict.fromkeys(excluded, rule.name) | changes.get("excluded", outcome.excluded)
            case FavourCarriers(carriers=named, by=by):
                changed = {each: outcome.bonuses.get(each, Decimal(0)) + by for each in named}
                changes["bonuses"] = outcome.bonuses | changed
            case OverrideWeights(weights=weights):
                changes["weights"] = weights
    return outcome.model_copy(update=changes)


def _as_text(decision: ExcludeCarriers | RestrictToCarriers | FavourCarriers | OverrideWeights) -> str:
    """Return a decision with its arguments: ``exclude yto sto``, ``favour sf 5``."""
    match decision:
        case FavourCarriers(carriers=named, by=by):
            return f"favour {' '.join(named)} {by}"
        case OverrideWeights(weights=weights):
            changed = weights.model_dump(mode="json", exclude_defaults=True)
            return " ".join(("weigh", *(f"{name}={value}" for name, value in changed.items())))
        case ExcludeCarriers(do=do, carriers=named) | RestrictToCarriers(do=do, carriers=named):
            return f"{do} {' '.join(named)}"


async def list_rules(connection: AsyncConnection) -> list[CarrierRule]:
    rows = await connection.execute(select(_rules.c.rule).order_by(_rules.c.number))
    return [CarrierRule.model_validate(row.rule) for row in rows]


async def save_rule(connection: AsyncConnection, rule: CarrierRule) -> None:
    """Create the rule, or replace the one with its number. Raises ``InvalidInput``."""
    try:
        VOCABULARY.check(rule.condition)
    except InvalidExpression as error:
        raise InvalidInput("condition", error.described) from None
    row = insert(_rules).values(number=rule.number, rule=rule.model_dump(mode="json"))
    await connection.execute(row.on_conflict_do_update(index_elements=["number"], set_={"rule": row.excluded.rule}))


async def delete_rule(connection: AsyncConnection, number: int) -> bool:
    """Return whether the rule existed."""
    return bool((await connection.execute(delete(_rules).where(_rules.c.number == number))).rowcount)


async def list_weights(connection: AsyncConnection) -> dict[str, Weights]:
    """Return weights by ``channel:shop``; those of ``""`` apply to all others."""
    rows = await connection.execute(select(_weights).order_by(_weights.c.shop))
    return {"": Weights()} | {row.shop: Weights.model_validate(row.weights) for row in rows}


async def save_weights(connection: AsyncConnection, weights: Mapping[str, Weights]) -> None:
    """Replace all saved weights."""
    await connection.execute(delete(_weights))
    rows = [{"shop": shop, "weights": each.model_dump(mode="json")} for shop, each in weights.items()]
    if rows:
        await connection.execute(insert(_weights), rows)
