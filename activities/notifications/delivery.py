"""Send messages, each once, and keep a log of them.

A message is marked as sending first. After a crash in between, nobody knows whether it was sent: a webhook subscriber
gets it again, for he recognises a repeat by its id; a person does not, and the log says ``unknown``.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, Update, and_, case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import media
from activities.accounts.accounts import get_account
from activities.kit.database import transaction
from activities.notifications.messages import create_messages
from activities.notifications.templates import opted_out
from activities.records import failing_calls
from models.base import Value
from models.intake import IntegrationType
from models.notifications import Medium, NotificationRow, NotificationState
from models.vault import BrokenSeal, SealBroken

_notifications: Table = NotificationRow.__table__  # type: ignore[attr-defined]

BATCH = 50
"""Messages sent in one run."""
CONCURRENCY = 8
SENDING_TIMEOUT = timedelta(minutes=10)
"""A message that has been sending for so long was lost with its process."""
RETRY_DELAYS = (60, 300, 1800, 7200, 21600, 43200)
"""Seconds until each further attempt at a message that could not be sent."""


class DeliveryReport(Value):
    """Counts of one run."""

    made: int = 0
    sent: int = 0
    failed: int = 0


async def search(
    connection: AsyncConnection, *, order_id: str | None, state: str | None, limit: int = 100
) -> Sequence[Row[Any]]:
    """Return the log, newest first, without the messages, which are personal."""
    columns = [column for column in _notifications.c if column.name != "message"]
    query = select(*columns).order_by(_notifications.c.created_at.desc(), _notifications.c.id).limit(limit)
    for name, value in (("order_id", order_id), ("state", state)):
        if value is not None:
            query = query.where(_notifications.c[name] == value)
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


async def resend(connection: AsyncConnection, notification_id: str) -> bool:
    """Queue a finished message again; return whether there is one."""
    reset = {"state": NotificationState.WAITING, "attempts": 0, "next_at": datetime.now(UTC), "done_at": None}
    result = await connection.execute(
        update(_notifications)
        .where(_notifications.c.id == notification_id, _notifications.c.done_at.is_not(None))
        .values(**reset, outcome="")
    )
    return bool(result.rowcount)


@activity.defn(name="notifications.deliver")
async def deliver() -> DeliveryReport:
    """Create messages of recent events, and send what is due."""
    async with transaction() as connection:
        created = await create_messages(connection)
    sent, failed = await _send_due()
    return DeliveryReport(made=created, sent=sent, failed=failed)


async def _send_due() -> tuple[int, int]:
    """Send the messages that are due; return how many were sent and how many failed for good."""
    now = datetime.now(UTC)
    async with transaction() as connection:
        await connection.execute(_resolve_lost(now))
        due = (
            select(_notifications.c.id)
            .where(_notifications.c.state == NotificationState.WAITING, _notifications.c.next_at <= now)
            .order_by(_notifications.c.next_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        claim = (
            update(_notifications)
            .where(_notifications.c.id.in_(due))
            .values(
                state=NotificationState.SENDING, attempts=_notifications.c.attempts + 1, next_at=now + SENDING_TIMEOUT
            )
        )
        rows = (await connection.execute(claim.returning(*_notifications.c))).all()
        messages = [row.message for row in rows if not isinstance(row.message, BrokenSeal)]
        muted = await opted_out(connection, {message.to for message in messages if message.to})
    semaphore = asyncio.Semaphore(CONCURRENCY)
    states = await asyncio.gather(*(_send(row, muted, semaphore) for row in rows))
    return states.count(NotificationState.SENT), states.count(NotificationState.FAILED)


def _resolve_lost(now: datetime) -> Update:
    """Queue webhook messages again whose sending was interrupted; close others as unknown."""
    lost: ColumnElement[bool] = and_(
        _notifications.c.state == NotificationState.SENDING, _notifications.c.next_at <= now
    )
    repeatable = _notifications.c.medium == Medium.WEBHOOK
    return (
        update(_notifications)
        .where(lost)
        .values(
            state=case((repeatable, NotificationState.WAITING.value), else_=NotificationState.UNKNOWN.value),
            outcome=case((repeatable, ""), else_="lost"),
            done_at=case((repeatable, None), else_=now),
        )
    )


async def _send(row: Row[Any], muted: Collection[str], semaphore: asyncio.Semaphore) -> NotificationState:
    """Send a message, and record and return its new state."""
    state, outcome, next_at = NotificationState.SENT, "", row.next_at
    if isinstance(row.message, BrokenSeal):
        state, outcome = NotificationState.FAILED, SealBroken.__name__
    elif row.message.to in muted:
        state, outcome = NotificationState.SKIPPED, "opted_out"
    else:
        async with semaphore:
            failure = ""
            try:
                await media.send(await get_account(IntegrationType.MEDIA, row.medium, row.account), row.message)
            except ApplicationError as error:
                outcome = str(error.details[0]) if error.details else error.message
                state = NotificationState.FAILED
                failure = "" if error.non_retryable else error.message
                if not error.non_retryable and row.attempts <= len(RETRY_DELAYS):
                    state = NotificationState.WAITING
                    requested = error.next_retry_delay or timedelta(0)
                    next_at = datetime.now(UTC) + max(requested, timedelta(seconds=RETRY_DELAYS[row.attempts - 1]))
            except Exception as error:  # a fault of one account or message must not stop the others
                state, outcome = NotificationState.FAILED, type(error).__name__
                failure = failing_calls.reason(error)
            if failure or state is NotificationState.SENT:
                await failing_calls.observe((row.medium, row.account), failure)
    done_at = None if state is NotificationState.WAITING else datetime.now(UTC)
    changes = {"state": state, "outcome": outcome[:200], "next_at": next_at, "done_at": done_at}
    async with transaction() as connection:
        await connection.execute(update(_notifications).where(_notifications.c.id == row.id).values(changes))
    return state
