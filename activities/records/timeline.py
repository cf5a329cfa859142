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
_new = insert(_timeline).from_select([each.name for each in _entries.c], select(*_entries.c))
INSERT_ENTRIES = _new.on_conflict_do_update(
    index_elements=["order_id", "key"],
    set_={name: _new.excluded[name] for name in ("at", "what", "actor", "detail")},
    where=_new.excluded.what != _timeline.c.what,
)
"""Appends the parameter ``entries``, rows as ``entry_rows`` makes them.

A key names one event: what is written again stays as it is, but a step that was done over and came out otherwise, such
as a request now refused, replaces what the lost one wrote.
"""


def entry_rows(order_id: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The parameter ``entries`` of ``INSERT_ENTRIES``."""
    newest = {entry.key: entry for entry in entries}
    return [{"order_id": order_id, **entry.model_dump(mode="json")} for entry in newest.values()]


async def add_entries(connection: AsyncConnection, order_id: str, entries: Sequence[Entry]) -> None:
    """Append entries to one timeline, as ``INSERT_ENTRIES`` does."""
    await connection.execute(INSERT_ENTRIES, {"entries": entry_rows(order_id, entries)})
