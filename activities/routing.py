"""The merchant's say in planning: rules and rate tables, set by staff, and kept at hand for a few seconds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.allocation import Rate, RateRow, Rule, RuleRow

_rates: Table = RateRow.__table__  # type: ignore[attr-defined]
_rules: Table = RuleRow.__table__  # type: ignore[attr-defined]

FRESH_SECONDS = 5.0
"""How long what was read may be used: a change takes so long to reach every worker."""


@dataclass(frozen=True)
class Routing:
    rules: Sequence[Rule]
    rates: dict[str, list[Rate]]
    """By the first two characters of their destination; the empty one stands for any."""

    def rates_to(self, province: str) -> list[Rate]:
        return [*self.rates.get(province[:2], ()), *(self.rates.get("", ()) if province else ())]


_read: dict[str, tuple[float, Routing]] = {}


async def routing(connection: AsyncConnection) -> Routing:
    """The rules and rates in force, as of a few seconds ago at most."""
    database = str(connection.engine.url)
    known = _read.get(database)
    if known is not None and monotonic() - known[0] < FRESH_SECONDS:
        return known[1]
    rates: dict[str, list[Rate]] = defaultdict(list)
    for each in await every_rate(connection):
        rates[each.destination[:2]].append(each)
    found = Routing(rules=await every_rule(connection), rates=dict(rates))
    _read[database] = (monotonic(), found)
    return found


def forget() -> None:
    """What this process has read is read anew."""
    _read.clear()


async def every_rule(connection: AsyncConnection) -> list[Rule]:
    rows = await connection.execute(select(_rules).order_by(_rules.c.number))
    return [Rule.model_validate(row._mapping) for row in rows]


async def every_rate(connection: AsyncConnection) -> list[Rate]:
    rows = await connection.execute(select(_rates).order_by(*_rates.primary_key.columns))
    return [Rate.model_validate(row._mapping) for row in rows]


async def keep_rules(connection: AsyncConnection, rules: Sequence[Rule]) -> None:
    """Sets rules up, or changes those of the same numbers."""
    for rule in rules:
        row = rule.model_dump(mode="json")
        entered = insert(_rules).values(row)
        await connection.execute(entered.on_conflict_do_update(index_elements=["number"], set_=row))
    forget()


async def drop_rule(connection: AsyncConnection, number: int) -> bool:
    """Whether there was one."""
    forget()
    return bool((await connection.execute(delete(_rules).where(_rules.c.number == number))).rowcount)


async def replace_rates(connection: AsyncConnection, carrier: str, rates: Sequence[Rate]) -> None:
    """A carrier's whole rate table in place of the old."""
    await connection.execute(delete(_rates).where(_rates.c.carrier == carrier))
    if rates:
        await connection.execute(insert(_rates), [each.model_dump() for each in rates])
    forget()
