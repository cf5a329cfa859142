"""The merchant's review rules, set by staff and cached for five seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.catalogue import skus
from activities.kit.errors import InvalidInput
from activities.kit.expressions import InvalidExpression
from activities.kit.ttl_cache import TtlCache
from activities.orders.review import facts
from activities.orders.review.samples import ORDER_VOCABULARY
from models.review import AddGift, ChooseWarehouses, ReviewRule, ReviewRuleRow
from models.stock import WarehouseRow

_rules: Table = ReviewRuleRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Rulebook:
    """The active rules, in their order."""

    rules: Sequence[ReviewRule]

    @cached_property
    def needs(self) -> frozenset[str]:
        """The facts to look up before the rules can be evaluated."""
        paths: set[str] = set()
        for rule in self.rules:
            try:
                paths |= ORDER_VOCABULARY.compile(rule.condition).paths
            except InvalidExpression:
                continue
        return facts.needs(paths)


_cache: TtlCache[str, Rulebook] = TtlCache(5)


async def rulebook(connection: AsyncConnection) -> Rulebook:
    """Return the active rules, at most five seconds old."""
    return await _cache.get(str(connection.engine.url), lambda: _read(connection))


async def _read(connection: AsyncConnection) -> Rulebook:
    return Rulebook([rule for rule in await list_rules(connection) if rule.active])


def clear_cache() -> None:
    """Make the next ``rulebook`` of this process read the database."""
    _cache.clear()


async def list_rules(connection: AsyncConnection) -> list[ReviewRule]:
    rows = await connection.execute(select(_rules).order_by(_rules.c.number))
    return [ReviewRule.model_validate(row._mapping) for row in rows]


async def save_rule(connection: AsyncConnection, rule: ReviewRule) -> None:
    """Create the rule, or replace the one with its number. Raises ``InvalidInput``."""
    try:
        ORDER_VOCABULARY.check(rule.condition)
    except InvalidExpression as error:
        raise InvalidInput("condition", error.described) from None
    for each in rule.decisions:
        if isinstance(each, AddGift) and await skus.unknown_skus(connection, [each.sku]):
            raise InvalidInput("decisions", "invalid.sku.unknown", sku=each.sku)
        if isinstance(each, ChooseWarehouses):
            known = set(await connection.scalars(select(_warehouses.c.code)))
            if unknown := sorted(set(each.locations) - known):
                raise InvalidInput("decisions", "invalid.location.unknown", location=unknown[0])
    row = rule.model_dump(mode="json")
    await connection.execute(insert(_rules).values(row).on_conflict_do_update(index_elements=["number"], set_=row))
    clear_cache()


async def delete_rule(connection: AsyncConnection, number: int) -> bool:
    """Return whether the rule existed."""
    clear_cache()
    return bool((await connection.execute(delete(_rules).where(_rules.c.number == number))).rowcount)
