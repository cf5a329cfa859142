"""Statements that take many values or rows in one parameter."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    String,
    Table,
    TableValuedAlias,
    Update,
    any_,
    bindparam,
    cast,
    func,
    update,
)
from sqlalchemy import column as column_named
from sqlalchemy.dialects.postgresql import JSONB

from models.vault import Sealed


def in_values(column: Any, values: Collection[str]) -> ColumnElement[bool]:
    """``column IN values`` with one parameter, however many values there are."""
    return column == any_(cast(list(values), ARRAY(String)))  # type: ignore[no-any-return]


def json_rows(parameter: str, *columns: Column[Any]) -> TableValuedAlias:
    """Return a parameter that holds a list of JSON objects as a table with these columns; sealed ones are bytes."""
    given = func.jsonb_to_recordset(bindparam(parameter, type_=JSONB))
    types = (each.type.impl_instance if isinstance(each.type, Sealed) else each.type for each in columns)
    named = (column_named(each.name, kind) for each, kind in zip(columns, types, strict=True))
    return given.table_valued(*named).render_derived(name=f"given_{parameter}", with_types=True)


def update_from(table: Table, given: TableValuedAlias) -> Update:
    """Update the rows of ``table`` that have the ids of ``given`` with its other columns."""
    return (
        update(table).where(table.c.id == given.c.id).values({each.name: each for each in given.c if each.name != "id"})
    )
