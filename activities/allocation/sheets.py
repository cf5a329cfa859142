"""Sheets of allocation: carriers' rates and routing rules."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.allocation import rules_and_rates
from activities.kit.sheets import (
    JSON,
    Code,
    Count,
    Days,
    ImportContext,
    Kilograms,
    Line,
    Lines,
    Price,
    Rank,
    SheetDefinition,
    Text,
    Words,
    YesNo,
    accept_all,
    given_columns,
    select_lines,
    to_json,
    upsert,
)
from models.allocation import Action, Condition, RateRow, RuleRow

_rates: Table = RateRow.__table__  # type: ignore[attr-defined]
_rules: Table = RuleRow.__table__  # type: ignore[attr-defined]


class RateLine(Line):
    carrier: Code
    origin: Text = ""
    destination: Text = ""
    first_kg: Kilograms = Decimal(1)
    first_price: Price
    further_kg: Annotated[Kilograms, Field(gt=0)] = Decimal(1)
    further_price: Price = Decimal(0)
    volume_divisor: Count = 0
    days: Days = 0
    surcharge: Price = Decimal(0)


class RuleLine(Line):
    """``condition`` and ``action`` are JSON, as in the API."""

    number: Rank
    name: Annotated[Text, Field(min_length=1)]
    shops: Words = ()
    campaigns: Words = ()
    active: YesNo = True
    condition: Annotated[tuple[Condition, ...], JSON] = ()
    action: Annotated[Action, JSON]


async def _apply_rates(connection: AsyncConnection, lines: Lines[RateLine], context: ImportContext) -> None:
    await upsert(connection, _rates, to_json(lines), given_columns(lines))
    rules_and_rates.clear_cache()


async def _apply_rules(connection: AsyncConnection, lines: Lines[RuleLine], context: ImportContext) -> None:
    await upsert(connection, _rules, to_json(lines), given_columns(lines))
    rules_and_rates.clear_cache()


RATES = SheetDefinition(
    RateLine, ("carrier", "origin", "destination"), select_lines(_rates, RateLine), accept_all, _apply_rates
)
RULES = SheetDefinition(
    RuleLine, ("number",), select_lines(_rules, RuleLine, "condition", "action"), accept_all, _apply_rules
)
