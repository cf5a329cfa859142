"""The inbox: every message from the outside world, from its acknowledgement to its effect.

Only this module writes rows of ``inbox``.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    Table,
    bindparam,
    case,
    func,
    lateral,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.records import exceptions
from models.base import Moment, Value
from models.exceptions import ExceptionKind, NewException
from models.i18n import message
from models.intake import ChannelOrderRow, InboxRow, InboxState, IntegrationType, Raw, Receipt
from models.order import ChannelOrder, OrderRow
from models.origins import IntakePath
from models.vault import seal_row


class Outcome(Value):
    """The result of dispatching a message."""

    row: int
    state: InboxState
    order: str | None = None
    reason: str = ""
    field: str = ""
    at: Moment | None = None
    """When its order entered the engine."""


MOST_TRIES = 20
LONGEST_TRIED = timedelta(hours=1)
"""A message fails that had to wait so often and for so long, while others of its integration passed."""
STALE = timedelta(seconds=30)
"""After so long, an order that has not settled no longer counts towards the intake window: it is stuck, not slow."""

_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]
_documents: Table = ChannelOrderRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

_ACCEPT = insert(_inbox).on_conflict_do_nothing().returning(_inbox.c.id)


async def accept(
    connection: AsyncConnection,
    integration: IntegrationType,
    source: str,
    account: str,
    receipt: Receipt,
    raw: Raw,
    actor: str = "",
    order_id: str | None = None,
) -> bool:
    """Store a message; return ``False`` for a known fact. Acknowledge it only after the commit.

    ``order_id``: the order it is for, where known.
    """
    row = {
        "integration": integration,
        "source": source,
        "account": account,
        "fact_key": receipt.fact_key,
        "topic": receipt.topic,
        "priority": receipt.priority,
        "raw": raw,
        "actor": actor,
        "order_id": order_id,
        "received_at": datetime.now(UTC),
    }
    entered = await connection.execute(_ACCEPT, seal_row(_inbox, row))
    return entered.first() is not None


async def accept_pulled(
    connection: AsyncConnection, source: str, shop: str, pulled: Sequence[tuple[Receipt, bytes]]
) -> int:
    """Store orders read from a channel, each receipt with its body; return how many facts are new."""
    now = datetime.now(UTC)
    rows = [
        {
            "integration": IntegrationType.CHANNEL,
            "source": source,
            "account": shop,
            "fact_key": receipt.fact_key,
            "topic": receipt.topic,
            "path": IntakePath.POLL,
            "priority": receipt.priority,
            "raw": Raw.model_construct(body=body),
            "received_at": now,
        }
        for receipt, body in pulled
    ]
    sealed = [seal_row(_inbox, row) for row in rows]
    return len((await connection.execute(_ACCEPT, sealed)).all()) if rows else 0


async def notify_orders(connection: AsyncConnection, topic: str, cause: str, priorities: Mapping[str, int]) -> None:
    """Store one internal message for each order, given by id with its priority; once for each ``cause``."""
    now = datetime.now(UTC)
    rows = [
        {
            "integration": IntegrationType.INTERNAL,
            "source": "stock",
            "account": "",
            "fact_key": f"{cause}:{order_id}",
            "topic": topic,
            "path": IntakePath.MANUAL,
            "priority": priority,
            "raw": _EMPTY,
            "order_id": order_id,
            "received_at": now,
        }
        for order_id, priority in priorities.items()
    ]
    if rows:
        sealed = [seal_row(_inbox, row) for row in rows]
        await connection.execute(insert(_inbox).on_conflict_do_nothing(), sealed)


_EMPTY = Raw(body=b"")

SETTLE = (
    update(_inbox)
    .where(_inbox.c.order_id == func.any(bindparam("settled", type_=ARRAY(String))))
    .where(_inbox.c.state == InboxState.STARTED)
    .where(_inbox.c.reason == "")
    .values(state=InboxState.DONE)
)
"""Marks the orders of the parameter ``settled`` as waiting for others: the dispatcher may admit new orders.

A message with a reason has not reached its order: it waits.
"""


async def next_messages(
    connection: AsyncConnection, integrations: Collection[IntegrationType], limit: int
) -> Sequence[Row[Any]]:
    """Return the next messages: urgent first, then accounts with the fewest entering orders, then oldest first."""
    return await _next(connection, integrations, room=limit, share=0, limit=limit)


async def next_orders(connection: AsyncConnection, window: int) -> Sequence[Row[Any]]:
    """Return the next channel messages, so that at most ``window`` orders are entering the engine.

    A shop always has an eighth of the window, whatever other shops' orders fill it.
    """
    started = (await connection.execute(_STARTED, {"recent": datetime.now(UTC) - STALE})).scalar_one()
    room = max(window - started, 0)
    return await _next(connection, [IntegrationType.CHANNEL], room=room, share=max(window // 8, 1), limit=window)


async def _next(
    connection: AsyncConnection, integrations: Collection[IntegrationType], *, room: int, share: int, limit: int
) -> Sequence[Row[Any]]:
    parameters = {
        "integrations": list(integrations),
        "room": room,
        "share": share,
        "limit": limit,
        "recent": datetime.now(UTC) - STALE,
    }
    rows: Sequence[Row[Any]] = (await connection.execute(_PENDING, parameters)).all()
    return rows


def _waiting_accounts() -> CTE:
    """Return the accounts with pending messages by a loose index scan, whose cost does not grow with the backlog."""
    account = (_inbox.c.integration, _inbox.c.source, _inbox.c.account)
    waiting = (
        select(*account)
        .where(_inbox.c.state == InboxState.PENDING)
        .order_by(*account, _inbox.c.priority, _inbox.c.id)  # as in the index of what is pending
        .limit(1)
    )
    accounts = select(waiting.subquery()).cte("accounts", recursive=True)
    following = lateral(waiting.where(tuple_(*account) > tuple_(*accounts.c)))
    return accounts.union_all(select(following).select_from(accounts.join(following, true())))


def _pending() -> Select[Any]:
    accounts = _waiting_accounts()
    limit = bindparam("limit", type_=Integer)
    turn = func.row_number().over(partition_by=_inbox.c.priority, order_by=_inbox.c.id).label("turn")
    each = lateral(
        select(_inbox, turn)
        .where(
            _inbox.c.state == InboxState.PENDING,
            _inbox.c.integration == accounts.c.integration,
            _inbox.c.source == accounts.c.source,
            _inbox.c.account == accounts.c.account,
        )
        .order_by(_inbox.c.priority, _inbox.c.id)
        .limit(limit)
    )
    entering = (
        select(_inbox.c.source, _inbox.c.account, func.count().label("orders"))
        .where(_ENTERING)
        .group_by(_inbox.c.source, _inbox.c.account)
        .subquery()
    )
    same = (entering.c.source == accounts.c.source) & (entering.c.account == accounts.c.account)
    place = each.c.turn + func.coalesce(entering.c.orders, 0)
    order = (each.c.priority, place, each.c.id)
    queue = (
        select(each, place.label("place"), func.row_number().over(order_by=order).label("position"))
        .select_from(accounts.join(each, true()).outerjoin(entering, same))
        .where(accounts.c.integration.in_(bindparam("integrations", expanding=True)))
        .subquery()
    )
    allowed = (queue.c.position <= bindparam("room", type_=Integer)) | (
        queue.c.place <= bindparam("share", type_=Integer)
    )
    return select(queue).where(allowed).order_by(queue.c.position).limit(limit)


_ENTERING = (_inbox.c.state == InboxState.STARTED) & (
    _inbox.c.started_at > bindparam("recent", type_=_inbox.c.started_at.type)
)
_STARTED = select(func.count()).where(_ENTERING)
_PENDING = _pending()


_waits = bindparam("state", type_=String) == InboxState.PENDING
_enters = bindparam("state", type_=String) == InboxState.STARTED
"""Marked before the engine is called: whether that succeeds is not known yet."""


async def record_outcomes(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    """Save the outcomes of messages; open an exception where one failed. A failed message stays failed."""
    if outcomes:
        statement = (
            update(_inbox)
            .where(_inbox.c.id == bindparam("row"), _inbox.c.state != InboxState.FAILED)
            .values(
                state=bindparam("state"),
                order_id=func.coalesce(bindparam("order"), _inbox.c.order_id),
                reason=bindparam("reason"),
                field=bindparam("field"),
                started_at=func.coalesce(bindparam("at"), _inbox.c.started_at),
                attempts=_inbox.c.attempts + 1,
                tries=case((_waits, _inbox.c.tries + 1), (_enters, _inbox.c.tries), else_=0),
                tried_since=case(
                    (_waits, func.coalesce(_inbox.c.tried_since, func.now())), (_enters, _inbox.c.tried_since)
                ),
            )
        )
        await connection.execute(statement, [each.model_dump() for each in outcomes])
        if any(each.state is InboxState.FAILED for each in outcomes):
            await sync_exceptions(connection)


async def fail_stuck(connection: AsyncConnection, moving: Collection[IntegrationType]) -> None:
    """Fail the messages that had to wait ``MOST_TRIES`` times over ``LONGEST_TRIED`` while others of their kind passed.

    ``moving``: the integrations of which other messages were settled lately.
    """
    stuck = (
        select(_inbox.c.id, _inbox.c.tries, _inbox.c.reason)
        .where(_inbox.c.state == InboxState.PENDING, _inbox.c.integration.in_(moving))
        .where(_inbox.c.tries >= MOST_TRIES, _inbox.c.tried_since < datetime.now(UTC) - LONGEST_TRIED)
    )
    failed = [
        Outcome(row=row.id, state=InboxState.FAILED, reason=message("inbox.tried", times=row.tries, error=row.reason))
        for row in await connection.execute(stuck)
    ]
    await record_outcomes(connection, failed)


_COUNT_LOCK = 0x63616C6C
"""Held while failures are counted, so that a later count sees all earlier commits."""


async def sync_exceptions(connection: AsyncConnection) -> None:
    """Keep one exception open for each account with failed messages, and close the others."""
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_COUNT_LOCK})"))
    account = (_inbox.c.integration, _inbox.c.source, _inbox.c.account)
    counts = (func.count().label("failed"), func.max(_inbox.c.received_at).label("newest"))
    query = select(*account, *counts).where(_inbox.c.state == InboxState.FAILED).group_by(*account)
    failed = []
    for row in await connection.execute(query):
        shop = f"{row.source}:{row.account}"
        failed.append(
            NewException(
                key=f"{row.integration}:{shop}:failed",
                kind=ExceptionKind.INTAKE_FAILED,
                shop=shop,
                detail={"count": row.failed},
                cause_at=row.newest,
            )
        )
    await exceptions.sync(connection, ExceptionKind.INTAKE_FAILED, failed)


async def requeue(connection: AsyncConnection, which: ColumnElement[bool]) -> int:
    """Queue messages again; return how many."""
    changed = (
        update(_inbox).where(which).values(state=InboxState.PENDING, reason="", field="", tries=0, tried_since=None)
    )
    count = int((await connection.execute(changed)).rowcount)
    await sync_exceptions(connection)
    return count


async def correct(connection: AsyncConnection, row: Row[Any], raw: Raw) -> None:
    """Replace the content of a message."""
    values = seal_row(_inbox, {**row._mapping, "raw": raw})
    await connection.execute(update(_inbox).where(_inbox.c.id == row.id).values(raw=values["raw"]))


async def discard(connection: AsyncConnection, row: int) -> None:
    """Mark a message as discarded."""
    await connection.execute(update(_inbox).where(_inbox.c.id == row).values(state=InboxState.DISCARDED))
    await sync_exceptions(connection)


async def reopen_lost(connection: AsyncConnection) -> None:
    """Queue messages again whose order was to be started when a process died: marked long ago, but never admitted."""
    long_ago = datetime.now(UTC) - STALE
    admitted = select(_orders.c.id).where(_orders.c.id == _inbox.c.order_id).exists()
    await connection.execute(
        update(_inbox)
        .where(_inbox.c.state == InboxState.STARTED, _inbox.c.started_at < long_ago, ~admitted)
        .values(state=InboxState.PENDING)
    )


async def fail_order(connection: AsyncConnection, order_id: str, reason: str) -> None:
    """Fail the newest message of an order that could not be admitted, a reissue's too."""
    newest = select(func.max(_inbox.c.id)).where(_inbox.c.order_id == order_id)
    failed = update(_inbox).where(_inbox.c.id == newest.scalar_subquery())
    await connection.execute(failed.values(state=InboxState.FAILED, reason=reason))
    await sync_exceptions(connection)


async def waiting_integrations(connection: AsyncConnection) -> set[IntegrationType]:
    """Return the integrations with pending messages."""
    accounts = _waiting_accounts()
    return {IntegrationType(each) for each in await connection.scalars(select(accounts.c.integration).distinct())}


async def sync_stalled(connection: AsyncConnection, stalled: Collection[IntegrationType]) -> None:
    """Keep one exception open for each integration whose messages wait without one being settled."""
    kind = ExceptionKind.INTAKE_STALLED
    found = [NewException(key=f"{each}:{kind}", kind=kind, detail={"integration": each}) for each in sorted(stalled)]
    await exceptions.sync(connection, kind, found)


async def stalled_integrations(connection: AsyncConnection) -> list[str]:
    """Return the integrations for which ``sync_stalled`` keeps an exception open."""
    keys = await exceptions.open_keys(connection, ExceptionKind.INTAKE_STALLED)
    return [key.partition(":")[0] for key in keys]


async def load_documents(
    connection: AsyncConnection, order_ids: Collection[str]
) -> dict[str, tuple[ChannelOrder, bool]]:
    """Return the channel's last version of each known order, and whether its workflow has admitted it."""
    if not order_ids:
        return {}
    query = (
        select(_documents.c.order_id, _documents.c.document, _orders.c.id)
        .outerjoin(_orders, _orders.c.id == _documents.c.order_id)
        .where(_documents.c.order_id.in_(order_ids))
    )
    return {
        order_id: (document, admitted is not None) for order_id, document, admitted in await connection.execute(query)
    }


async def save_documents(
    connection: AsyncConnection, orders: Collection[ChannelOrder], *, replace: bool = False
) -> None:
    """Save the newest version of channels' orders; with ``replace`` also an older one."""
    if orders:
        rows = [{"order_id": order.order_id, "modified_at": order.modified_at, "document": order} for order in orders]
        statement = insert(_documents).values([seal_row(_documents, row) for row in rows])
        newer = {"modified_at": statement.excluded.modified_at, "document": statement.excluded.document}
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["order_id"],
                set_=newer,
                where=None if replace else _documents.c.modified_at <= statement.excluded.modified_at,
            )
        )


async def summary(connection: AsyncConnection) -> dict[str, dict[str, int]]:
    """Count messages by integration and state."""
    query = select(_inbox.c.integration, _inbox.c.state, func.count()).group_by(_inbox.c.integration, _inbox.c.state)
    counts: dict[str, dict[str, int]] = {}
    for integration, state, count in await connection.execute(query):
        counts.setdefault(integration, {})[state] = count
    return counts
