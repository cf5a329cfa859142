"""Failed messages: acknowledged, but not understood. Search, correct, retry or discard them; none is ever deleted."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.intake import inbox
from models.base import Moment, Value
from models.intake import Handling, HandlingRow, InboxRow, InboxState, Raw
from models.vault import seal_row

_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]
_handlings: Table = HandlingRow.__table__  # type: ignore[attr-defined]


class MessageFilter(Value):
    """Selects failed messages."""

    channel: str | None = None
    """Or carrier, or warehouse system."""
    shop: str | None = None
    field: str | None = None
    since: Moment | None = None
    """The earliest time of receipt."""

    @property
    def condition(self) -> ColumnElement[bool]:
        condition: ColumnElement[bool] = _inbox.c.state == InboxState.FAILED
        for column, value in (
            (_inbox.c.source, self.channel),
            (_inbox.c.account, self.shop),
            (_inbox.c.field, self.field),
        ):
            if value is not None:
                condition &= column == value
        return condition if self.since is None else condition & (_inbox.c.received_at >= self.since)


async def search(connection: AsyncConnection, selected: MessageFilter, limit: int, after: int) -> Sequence[Row[Any]]:
    """Return failed messages after row ``after``, oldest first."""
    query = select(_inbox).where(selected.condition, _inbox.c.id > after).order_by(_inbox.c.id).limit(limit)
    return (await connection.execute(query)).all()


async def count_by_reason(connection: AsyncConnection, selected: MessageFilter) -> Sequence[Row[Any]]:
    """Count failed messages by account, field and reason, the most frequent first."""
    group = (_inbox.c.integration, _inbox.c.source, _inbox.c.account, _inbox.c.field, _inbox.c.reason)
    count = func.count().label("count")
    oldest = func.min(_inbox.c.received_at).label("oldest")
    query = select(*group, count, oldest).where(selected.condition).group_by(*group).order_by(count.desc(), *group)
    return (await connection.execute(query)).all()


async def get(connection: AsyncConnection, row: int) -> Row[Any] | None:
    """Return a message in any state."""
    return (await connection.execute(select(_inbox).where(_inbox.c.id == row))).one_or_none()


async def list_handlings(connection: AsyncConnection, row: int) -> Sequence[Row[Any]]:
    """Return the corrections and discards of a message, oldest first."""
    query = select(_handlings).where(_handlings.c.message == row).order_by(_handlings.c.id)
    return (await connection.execute(query)).all()


async def retry(connection: AsyncConnection, selected: MessageFilter) -> int:
    """Queue the selected messages again; return how many."""
    return await inbox.requeue(connection, selected.condition)


async def retry_one(connection: AsyncConnection, row: int, body: bytes | None, actor: str, reason: str) -> bool:
    """Queue one failed or discarded message again, with a corrected body where given; record the body it had.

    Return ``False`` where there is no such message.
    """
    message = await _lock(connection, row, InboxState.FAILED, InboxState.DISCARDED)
    if message is None:
        return False
    if body is not None:
        await _record(connection, message, Handling.CORRECTED, actor, reason)
        await inbox.correct(connection, message, message.raw.model_copy(update={"body": body}))
    await inbox.requeue(connection, _inbox.c.id == row)
    return True


async def discard(connection: AsyncConnection, row: int, actor: str, reason: str) -> bool:
    """Record that a person discarded a failed message. Return ``False`` where there is no such message."""
    message = await _lock(connection, row, InboxState.FAILED)
    if message is None:
        return False
    await _record(connection, message, Handling.DISCARDED, actor, reason)
    await inbox.discard(connection, row)
    return True


async def _lock(connection: AsyncConnection, row: int, *states: InboxState) -> Row[Any] | None:
    query = select(_inbox).where(_inbox.c.id == row, _inbox.c.state.in_(states)).with_for_update()
    return (await connection.execute(query)).one_or_none()


async def _record(connection: AsyncConnection, message: Row[Any], what: Handling, actor: str, reason: str) -> None:
    raw: Raw = message.raw
    values = {
        "id": await connection.scalar(select(func.nextval(func.pg_get_serial_sequence("inbox_handlings", "id")))),
        "message": message.id,
        "what": what,
        "actor": actor,
        "at": datetime.now(UTC),
        "reason": reason,
        "raw": raw,
    }
    await connection.execute(insert(_handlings).values(seal_row(_handlings, values)))
