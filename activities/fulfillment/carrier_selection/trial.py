"""Dry runs: who would have carried past parcels, had a rule held. Nothing is written, and no carrier is asked.

Parcels are judged by the terms, rate tables, records and rules of now, once without the rule and once with it.
"""

from collections import Counter
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.fulfillment import carrier_selection, steps
from activities.kit.database import transaction
from models.base import Value
from models.carrier_selection import CarrierRule, Choice
from models.fulfillment import FulfillmentRow
from models.order import OrderRow
from models.review import Values

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

MOST = 500
"""Parcels of one run: the newest."""
_EXAMPLES = 20


class Example(Value):
    """A parcel to which it would have applied, or that it could not be asked of."""

    fulfillment_id: str
    before: str | None
    after: str | None
    values: Values = {}
    failure: str = ""


class Trial(Value):
    """What a rule would have done."""

    total: int
    """Parcels since then."""
    parcels: int
    """Those looked at."""
    applied: int
    moved: dict[str, int]
    """``{carrier} {carrier}``: how many would have gone from the first to the second; ``-`` is nobody."""
    freight_before: Decimal
    freight_after: Decimal
    """Of the parcels that it applied to, where both prices are known."""
    failed: int
    examples: tuple[Example, ...]


async def run(rule: CarrierRule, since: datetime) -> Trial:
    """Asks a rule, active or not, of parcels whose fulfillment began since then."""
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
        newest = past.order_by(_fulfillments.c.opened_at.desc(), _fulfillments.c.id).limit(MOST)
        ids = list(await connection.scalars(newest))
        for fulfillment_id in ids:
            before, after = await _both(connection, fulfillment_id, rule)
            ruled = next((each for each in after.ruled if each.number == rule.number), None)
            if ruled is None:
                continue
            failed += bool(ruled.failure)
            if not ruled.failure:
                applied += 1
                prices = _price(before), _price(after)
                if None not in prices:
                    before_sum, after_sum = before_sum + (prices[0] or 0), after_sum + (prices[1] or 0)
                if before.carrier != after.carrier:
                    moved[f"{before.carrier or '-'} {after.carrier or '-'}"] += 1
            seen = Example(
                fulfillment_id=fulfillment_id,
                before=before.carrier,
                after=after.carrier,
                values=ruled.values,
                failure=ruled.failure,
            )
            examples += [seen] * (len(examples) < _EXAMPLES)
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


async def _both(connection: AsyncConnection, fulfillment_id: str, rule: CarrierRule) -> tuple[Choice, Choice]:
    row = await steps.read(connection, fulfillment_id)
    parcel = await steps.weighed(connection, row)
    terms = await carrier_selection.eligible_carriers(connection, parcel)
    others = [
        each
        for each in (await carrier_selection.load_config(connection)).rules_of(parcel)
        if each.number != rule.number
    ]
    book = sorted([*others, rule], key=lambda each: each.number)
    before = await carrier_selection.choice(connection, parcel, terms, {}, others)
    return before, await carrier_selection.choice(connection, parcel, terms, {}, book)


def _price(choice: Choice) -> Decimal | None:
    return next((each.price for each in choice.options if each.open), None)
