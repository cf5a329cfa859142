"""Dry runs of a carrier rule on past parcels. Nothing is written, and no carrier is asked.

The choice is made by current terms, rate tables, measured performance and rules, without the rule and with it.
"""

from collections import Counter
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.fulfillment import carrier_selection
from activities.fulfillment.fulfillment_orders import get_fulfillment_order, shipping_request
from activities.kit.database import transaction
from models.base import Value
from models.carrier_selection import CarrierRule, Choice
from models.fulfillment import FulfillmentRow
from models.order import OrderRow
from models.review import Values

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

MAX_PARCELS = 500
"""A run takes the newest."""
_MAX_EXAMPLES = 20


class Example(Value):
    """A parcel to which the rule would have applied, or for which it failed."""

    fulfillment_id: str
    before: str | None
    after: str | None
    values: Values = {}
    failure: str = ""


class Trial(Value):
    """The effect that the rule would have had."""

    total: int
    """Parcels in the period."""
    parcels: int
    """Parcels evaluated."""
    applied: int
    moved: dict[str, int]
    """``{from} {to}`` → the number of parcels that would have changed carrier; ``-`` is no carrier."""
    freight_before: Decimal
    freight_after: Decimal
    """Of the parcels to which the rule applied and both prices are known."""
    failed: int
    examples: tuple[Example, ...]


async def run(rule: CarrierRule, since: datetime) -> Trial:
    """Try a rule, active or not, on parcels whose fulfillment order was opened since then."""
    rule = rule.model_copy(update={"active": True})
    past = select(_fulfillments.c.id).join(_orders, _orders.c.id == _fulfillments.c.order_id)
    past = past.where(_fulfillments.c.opened_at >= since, _orders.c.recipient.is_not(None))
    if rule.shops:
        past = past.where((_orders.c.channel + ":" + _orders.c.shop).in_(rule.shops))
    moved: Counter[str] = Counter()
    examples: list[Example] = []
    before_sum = after_sum = Decimal(0)
    applied = failed = 0
    async with transaction() as connection:
        total = await connection.scalar(past.with_only_columns(func.count())) or 0
        newest = past.order_by(_fulfillments.c.opened_at.desc(), _fulfillments.c.id).limit(MAX_PARCELS)
        ids = list(await connection.scalars(newest))
        for fulfillment_id in ids:
            before, after = await _choose_both(connection, fulfillment_id, rule)
            result = next((each for each in after.ruled if each.number == rule.number), None)
            if result is None:
                continue
            failed += bool(result.failure)
            if not result.failure:
                applied += 1
                prices = _price(before), _price(after)
                if None not in prices:
                    before_sum, after_sum = before_sum + (prices[0] or 0), after_sum + (prices[1] or 0)
                if before.carrier != after.carrier:
                    moved[f"{before.carrier or '-'} {after.carrier or '-'}"] += 1
            example = Example(
                fulfillment_id=fulfillment_id,
                before=before.carrier,
                after=after.carrier,
                values=result.values,
                failure=result.failure,
            )
            examples += [example] * (len(examples) < _MAX_EXAMPLES)
    return Trial(
        total=total,
        parcels=len(ids),
        applied=applied,
        moved=dict(moved),
        freight_before=before_sum,
        freight_after=after_sum,
        failed=failed,
        examples=tuple(examples),
    )


async def _choose_both(connection: AsyncConnection, fulfillment_id: str, rule: CarrierRule) -> tuple[Choice, Choice]:
    """Return the choice without the rule and the choice with it."""
    request = await shipping_request(connection, await get_fulfillment_order(connection, fulfillment_id))
    terms = await carrier_selection.eligible_carriers(connection, request)
    config = await carrier_selection.load_config(connection)
    others = [each for each in config.rules_for(request) if each.number != rule.number]
    with_rule = sorted([*others, rule], key=lambda each: each.number)
    before = await carrier_selection.choose_carrier(connection, request, terms, {}, others)
    return before, await carrier_selection.choose_carrier(connection, request, terms, {}, with_rule)


def _price(choice: Choice) -> Decimal | None:
    return next((each.price for each in choice.options if each.open), None)
