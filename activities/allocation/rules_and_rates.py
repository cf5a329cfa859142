"""Routing rules and rate tables, set by staff and cached for a few seconds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.ttl_cache import TtlCache
from models.allocation import Rate, RateRow, Rule, RuleRow

_rates: Table = RateRow.__table__  # type: ignore[attr-defined]
_rules: Table = RuleRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class RulesAndRates:
    rules: Sequence[Rule]
    rates: dict[str, list[Rate]]
    """By the first two characters of the destination; empty for any destination."""

    def rates_to(self, province: str) -> list[Rate]:
        return [*self.rates.get(province[:2], ()), *(self.rates.get("", ()) if province else ())]


_cache: TtlCache[str, RulesAndRates] = TtlCache(5)


async def load(connection: AsyncConnection) -> RulesAndRates:
    """Return the rules and rates in force, at most a few seconds old."""
    return await _cache.get(str(connection.engine.url), lambda: _read(connection))


async def _read(connection: AsyncConnection) -> RulesAndRates:
    rates: dict[str, list[Rate]] = defaultdict(list)
    for each in await list_rates(connection):
        rates[each.destination[:2]].append(each)
    return RulesAndRates(rules=await list_rules(connection), rates=dict(rates))


def clear_cache() -> None:
    """Make the next ``load`` in this process read the database."""
    _cache.clear()


async def list_rules(connection: AsyncConnection) -> list[Rule]:
    rows = await connection.execute(select(_rules).order_by(_rules.c.number))
    return [Rule.model_validate(row._mapping) for row in rows]


async def list_rates(connection: AsyncConnection) -> list[Rate]:
    rows = await connection.execute(select(_rates).order_by(*_rates.primary_key.columns))
    return [Rate.model_validate(row._mapping) for row in rows]


async def save_rules(connection: AsyncConnection, rules: Sequence[Rule]) -> None:
    """Insert rules, or update those with the same numbers."""
    for rule in rules:
        row = rule.model_dump(mode="json")
        entered = insert(_rules).values(row)
        await connection.execute(entered.on_conflict_do_update(index_elements=["number"], set_=row))
    clear_cache()


async def delete_rule(connection: AsyncConnection, number: int) -> bool:
    """Delete a rule; ``False`` if there is none with this number."""
    clear_cache()
    return bool((await connection.execute(delete(_rules).where(_rules.c.number == number))).rowcount)


async def replace_rates(connection: AsyncConnection, carrier: str, rates: Sequence[Rate]) -> None:
    """Replace the whole rate table of a carrier."""
    await connection.execute(delete(_rates).where(_rates.c.carrier == carrier))
    if rates:
        await connection.execute(insert(_rates), [each.model_dump() for each in rates])
    clear_cache()
