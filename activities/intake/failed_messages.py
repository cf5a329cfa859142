"""What was acknowledged but not understood: found, corrected, read again or discarded. Nothing of it is ever lost."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.intake import inbox
from models.base import Moment, Value
from models.intake import Handling, HandlingRow, InboxRow, InboxState, Raw

_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]
_handlings: Table = HandlingRow.__table__  # type: ignore[attr-defined]


class MessageFilter(Value):
    """Some of what failed."""

    channel: str | None = None
    """Or carrier, or warehouse system."""
    shop: str | None = None
    field: str | None = None
    since: Moment | None = None
    """Of receipt."""

    @property
    def condition(self) -> ColumnElement[bool]:
        found: ColumnElement[bool] = _inbox.c.state == InboxState.FAILED
        for column, value in (
            (_inbox.c.source, self.channel),
            (_inbox.c.account, self.shop),
            (_inbox.c.field, self.field),
        ):
            if value is not None:
                found &= column == value
        return found if self.since is None else found & (_inbox.c.received_at >= self.since)


async def search(connection: AsyncConnection, which: MessageFilter, limit: int, after: int) -> Sequence[Row[Any]]:
    """Oldest first."""
    query = select(_inbox).where(which.condition, _inbox.c.id > after).order_by(_inbox.c.id).limit(limit)
    return (await connection.execute(query)).all()


async def count_by_reason(connection: AsyncConnection, which: MessageFilter) -> Sequence[Row[Any]]:
    """How many failed where, for what reason; the most frequent first."""
    alike = (_inbox.c.integration, _inbox.c.source, _inbox.c.account, _inbox.c.field, _inbox.c.reason)
    count = func.count().label("count")
    oldest = func.min(_inbox.c.received_at).label("oldest")
    query = select(*alike, count, oldest).where(which.condition).group_by(*alike).order_by(count.desc(), *alike)
    return (await connection.execute(query)).all()


async def get(connection: AsyncConnection, row: int) -> Row[Any] | None:
    """Any message, whatever became of it."""
    return (await connection.execute(select(_inbox).where(_inbox.c.id == row))).one_or_none()


async def list_handlings(connection: AsyncConnection, row: int) -> Sequence[Row[Any]]:
    """What people did to a message, oldest first."""
    query = select(_handlings).where(_handlings.c.message == row).order_by(_handlings.c.id)
    return (await connection.execute(query)).all()


async def retry(connection: AsyncConnection, which: MessageFilter) -> int:
    """Queues all of them again; returns how many."""
    return await inbox.requeue(connection, which.condition)


async def retry_one(connection: AsyncConnection, row: int, body: bytes | None, actor: str, reason: str) -> bool:
    """Queues one again, also one that was discarded, with a corrected body where one is given; keeps the body it had.

    Returns ``False`` where no such message failed.
    """
    found = await _locked(connection, row, InboxState.FAILED, InboxState.DISCARDED)
    if found is None:
        return False
    corrected = None
    if body is not None:
        await _handle(connection, found, Handling.CORRECTED, actor, reason)
        corrected = found.raw.model_copy(update={"body": body})
    await inbox.requeue(connection, _inbox.c.id == row, corrected)
    return True


async def discard(connection: AsyncConnection, row: int, actor: str, reason: str) -> bool:
    """Records that a person gave up a message. Returns ``False`` where no such message failed."""
    found = await _locked(connection, row, InboxState.FAILED)
    if found is None:
        return False
    await _handle(connection, found, Handling.DISCARDED, actor, reason)
    await inbox.discard(connection, row)
    return True


async def _locked(connection: AsyncConnection, row: int, *states: InboxState) -> Row[Any] | None:
    query = select(_inbox).where(_inbox.c.id == row, _inbox.c.state.in_(states)).with_for_update()
    return (await connection.execute(query)).one_or_none()


async def _handle(connection: AsyncConnection, found: Row[Any], what: Handling, actor: str, reason: str) -> None:
    raw: Raw = found.raw
    values = {"message": found.id, "what": what, "actor": actor, "at": datetime.now(UTC), "reason": reason, "raw": raw}
    await connection.execute(insert(_handlings).values(values))
