"""The timeline of orders and transfers: what happened, in order, each entry once."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.sql import json_rows
from models.order import Entry, TimelineRow

_timeline = TimelineRow.__table__  # type: ignore[attr-defined]

_entries = json_rows("entries", *(_timeline.c[name] for name in ("order_id", *Entry.model_fields)))
INSERT_ENTRIES = (
    insert(_timeline).from_select([each.name for each in _entries.c], select(*_entries.c)).on_conflict_do_nothing()
)
"""Appends the parameter ``entries``, rows as ``entry_rows`` makes them; an entry already there stays unchanged."""


def entry_rows(order_id: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The parameter ``entries`` of ``INSERT_ENTRIES``."""
    return [{"order_id": order_id, **entry.model_dump(mode="json")} for entry in entries]


async def add_entries(connection: AsyncConnection, order_id: str, entries: Sequence[Entry]) -> None:
    """Appends entries to one timeline; an entry already there stays unchanged."""
    await connection.execute(INSERT_ENTRIES, {"entries": entry_rows(order_id, entries)})
