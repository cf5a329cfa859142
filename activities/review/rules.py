"""The merchant's rules of review, set by staff, and kept at hand for a few seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities import inventory, language
from activities.inventory import NotAllowed
from activities.language import BadExpression
from activities.review import facts
from activities.review.samples import ORDERS
from models.review import Gives, Places, ReviewRule, ReviewRuleRow
from models.stock import WarehouseRow

_rules: Table = ReviewRuleRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]

FRESH_SECONDS = 5.0
"""How long what was read may be used: a change takes so long to reach every worker."""


@dataclass(frozen=True)
class Rulebook:
    """The rules in force, in their order."""

    rules: Sequence[ReviewRule]

    @cached_property
    def needs(self) -> frozenset[str]:
        """What must be looked up before they can be asked."""
        paths: set[str] = set()
        for rule in self.rules:
            try:
                paths |= ORDERS.compiled(rule.condition).paths
            except BadExpression:
                continue
        return facts.needs(paths)


_read: dict[str, tuple[float, Rulebook]] = {}


async def rulebook(connection: AsyncConnection) -> Rulebook:
    """The active rules, as of a few seconds ago at most."""
    database = str(connection.engine.url)
    known = _read.get(database)
    if known is not None and monotonic() - known[0] < FRESH_SECONDS:
        return known[1]
    found = Rulebook([rule for rule in await every_rule(connection) if rule.active])
    _read[database] = (monotonic(), found)
    return found


def forget() -> None:
    """What this process has read is read anew."""
    _read.clear()


async def every_rule(connection: AsyncConnection) -> list[ReviewRule]:
    rows = await connection.execute(select(_rules).order_by(_rules.c.number))
    return [ReviewRule.model_validate(row._mapping) for row in rows]


async def keep_rule(connection: AsyncConnection, rule: ReviewRule) -> None:
    """Sets a rule up, or changes the one of its number. Raises ``NotAllowed``."""
    try:
        ORDERS.check(rule.condition)
    except BadExpression as error:
        raise NotAllowed("condition", language.told(error)) from None
    for each in rule.decisions:
        if isinstance(each, Gives) and await inventory.unknown_skus(connection, [each.sku]):
            raise NotAllowed("decisions", f"{each.sku} is not in the catalogue")
        if isinstance(each, Places):
            there = set(await connection.scalars(select(_warehouses.c.code)))
            if unknown := sorted(set(each.locations) - there):
                raise NotAllowed("decisions", f"there is no location {unknown[0]}")
    row = rule.model_dump(mode="json")
    entered = insert(_rules).values(row)
    await connection.execute(entered.on_conflict_do_update(index_elements=["number"], set_=row))
    forget()


async def drop_rule(connection: AsyncConnection, number: int) -> bool:
    """Whether there was one."""
    forget()
    return bool((await connection.execute(delete(_rules).where(_rules.c.number == number))).rowcount)
