"""Statements that take many rows in one parameter."""

from typing import Any

from sqlalchemy import Column, Table, TableValuedAlias, Update, bindparam, column, func, update
from sqlalchemy.dialects.postgresql import JSONB


def json_rows(parameter: str, *columns: Column[Any]) -> TableValuedAlias:
    """A parameter that holds a list of JSON objects, as a table of these columns."""
    given = func.jsonb_to_recordset(bindparam(parameter, type_=JSONB))
    return given.table_valued(*(column(each.name, each.type) for each in columns)).render_derived(
        name=f"given_{parameter}", with_types=True
    )


def update_from(table: Table, given: TableValuedAlias) -> Update:
    """Updates the rows of ``table`` that have the ids of ``given`` with its other columns."""
    return (
        update(table).where(table.c.id == given.c.id).values({each.name: each for each in given.c if each.name != "id"})
    )
