"""The timeline of orders and transfers: what happened, in order, each entry once."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.sql import json_rows
from models.order import Entry, TimelineRow
from models.vault import seal_row

_timeline = TimelineRow.__table__  # type: ignore[attr-defined]

_entries = json_rows("entries", *(_timeline.c[name] for name in ("order_id", *Entry.model_fields)))
_new = insert(_timeline).from_select([each.name for each in _entries.c], select(*_entries.c))
INSERT_ENTRIES = _new.on_conflict_do_update(
    index_elements=["order_id", "key"],
    set_={name: _new.excluded[name] for name in ("at", "what", "actor", "detail", "contact")},
    where=_new.excluded.what != _timeline.c.what,
)
"""Appends the parameter ``entries``, rows as ``entry_rows`` makes them.

A key names one event: what is written again stays as it is, but a step that was done over and came out otherwise, such
as a request now refused, replaces what the lost one wrote.
"""


def entry_rows(order_id: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The parameter ``entries`` of ``INSERT_ENTRIES``."""
    newest = {entry.key: entry for entry in entries}
    return [_entry_row(order_id, entry) for entry in newest.values()]


def _entry_row(order_id: str, entry: Entry) -> dict[str, Any]:
    row = {"order_id": order_id, **entry.model_dump(mode="json", exclude={"contact"}), "contact": None}
    if entry.contact is not None:
        sealed = seal_row(_timeline, row | {"contact": entry.contact})["contact"]
        row["contact"] = f"\\x{sealed.hex()}"  # as PostgreSQL reads bytes from text
    return row


async def add_entries(connection: AsyncConnection, order_id: str, entries: Sequence[Entry]) -> None:
    """Append entries to one timeline, as ``INSERT_ENTRIES`` does."""
    await connection.execute(INSERT_ENTRIES, {"entries": entry_rows(order_id, entries)})
