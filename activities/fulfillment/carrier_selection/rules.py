"""The merchant's say in who carries a parcel: rules, and what a carrier's faults count; set by staff."""

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
    Excludes,
    Favours,
    Restricts,
    Say,
    ShippingRequest,
    Weighs,
    Weights,
    WeightsRow,
    days_left,
)
from models.state import RuleResult

_rules: Table = CarrierRuleRow.__table__  # type: ignore[attr-defined]
_weights: Table = WeightsRow.__table__  # type: ignore[attr-defined]

FAR = 999
"""``parcel.days_left`` where nothing was promised."""


def facts(parcel: ShippingRequest, now: datetime) -> dict[str, Any]:
    """What rules may look at."""
    told = parcel.model_dump(include={"channel", "warehouse", "origin", "destination", "city", "quantity"})
    told |= {
        "shop": f"{parcel.channel}:{parcel.shop}",
        "demanded": parcel.demanded or "",
        "weight_kg": float(parcel.weight_kg),
        "volume_cm3": parcel.volume_cm3,
        "value": float(parcel.value),
        "needs": sorted(parcel.needs),
        "skus": list(parcel.skus),
        "tags": list(parcel.tags),
        "cash_on_delivery": parcel.cash_on_delivery,
        "urgent": parcel.urgent,
        "days_left": FAR if parcel.promised_by is None else days_left(parcel.promised_by, now),
    }
    return {"parcel": told}


_NOON = datetime.fromisoformat("2026-11-11T04:00:00+00:00")
PARCELS = Vocabulary(
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
                demanded="sf",
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
"""What conditions of carriage may name."""


def evaluate(
    book: Sequence[CarrierRule], parcel: ShippingRequest, carriers: Collection[str], weights: Weights, now: datetime
) -> Say:
    """Applies the rules in their order; one that cannot be answered does not apply, and says so."""
    say = Say(weights=weights)
    known = facts(parcel, now)
    for rule in book:
        if not rule.concerns(f"{parcel.channel}:{parcel.shop}"):
            continue
        try:
            expression = PARCELS.compiled(rule.condition)
            applies = expression.holds(expressions.context(expression.roots, known))
        except InvalidExpression as error:
            failed = RuleResult(number=rule.number, name=rule.name, failure=error.message)
            say = say.model_copy(update={"ruled": (*say.ruled, failed)})
            continue
        if applies:
            spoken = tuple(map(_spoken, rule.decisions))
            ruled = RuleResult(number=rule.number, name=rule.name, decisions=spoken, values=expression.values(known))
            say = _applied(rule, say.model_copy(update={"ruled": (*say.ruled, ruled)}), carriers)
    return say


def _applied(rule: CarrierRule, say: Say, carriers: Collection[str]) -> Say:
    changes: dict[str, Any] = {}
    for decision in rule.decisions:
        match decision:
            case Excludes(carriers=named) | Restricts(carriers=named):
                out = named if isinstance(decision, Excludes) else set(carriers) - set(named)
                changes["excluded"] = dict.fromkeys(out, rule.name) | changes.get("excluded", say.excluded)
            case Favours(carriers=named, by=by):
                changes["favours"] = say.favours | {each: say.favours.get(each, Decimal(0)) + by for each in named}
            case Weighs(weights=weights):
                changes["weights"] = weights
    return say.model_copy(update=changes)


def _spoken(decision: Excludes | Restricts | Favours | Weighs) -> str:
    """A decision with what belongs to it: ``exclude yto sto``, ``favour sf 5``."""
    match decision:
        case Favours(carriers=named, by=by):
            return f"favour {' '.join(named)} {by}"
        case Weighs(weights=weights):
            told = weights.model_dump(mode="json", exclude_defaults=True)
            return " ".join(("weigh", *(f"{name}={value}" for name, value in told.items())))
        case Excludes(do=do, carriers=named) | Restricts(do=do, carriers=named):
            return f"{do} {' '.join(named)}"


async def list_rules(connection: AsyncConnection) -> list[CarrierRule]:
    rows = await connection.execute(select(_rules.c.rule).order_by(_rules.c.number))
    return [CarrierRule.model_validate(row.rule) for row in rows]


async def save_rule(connection: AsyncConnection, rule: CarrierRule) -> None:
    """Sets a rule up, or changes the one of its number. Raises ``NotAllowed``."""
    try:
        PARCELS.check(rule.condition)
    except InvalidExpression as error:
        raise InvalidInput("condition", error.described) from None
    row = insert(_rules).values(number=rule.number, rule=rule.model_dump(mode="json"))
    await connection.execute(row.on_conflict_do_update(index_elements=["number"], set_={"rule": row.excluded.rule}))


async def delete_rule(connection: AsyncConnection, number: int) -> bool:
    """Whether there was one."""
    return bool((await connection.execute(delete(_rules).where(_rules.c.number == number))).rowcount)


async def list_weights(connection: AsyncConnection) -> dict[str, Weights]:
    """By ``channel:shop``; those of ``""`` hold of all others."""
    rows = await connection.execute(select(_weights).order_by(_weights.c.shop))
    return {"": Weights()} | {row.shop: Weights.model_validate(row.weights) for row in rows}


async def save_weights(connection: AsyncConnection, weights: Mapping[str, Weights]) -> None:
    """These in place of all that were."""
    await connection.execute(delete(_weights))
    rows = [{"shop": shop, "weights": each.model_dump(mode="json")} for shop, each in weights.items()]
    if rows:
        await connection.execute(insert(_weights), rows)
