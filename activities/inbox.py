"""The inbox: what the world told us, from its acknowledgement to the moment it took effect."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CTE, Integer, Row, Select, Table, bindparam, func, lateral, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities import failures
from models.base import Moment, Value
from models.intake import ChannelOrderRow, InboxRow, InboxState, Lane, Raw, Receipt
from models.order import ChannelOrder, OrderRow


class Outcome(Value):
    """What became of a message."""

    row: int
    state: InboxState
    order: str | None = None
    reason: str = ""
    field: str = ""
    at: Moment | None = None
    """When its order entered the engine."""


STALE = timedelta(seconds=30)
"""An order that has not come to rest for so long no longer counts against the pace: it is stuck, not slow."""

_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]
_documents: Table = ChannelOrderRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

_ACCEPT = insert(_inbox).on_conflict_do_nothing().returning(_inbox.c.id)


async def accept(
    connection: AsyncConnection,
    lane: Lane,
    source: str,
    account: str,
    receipt: Receipt,
    raw: Raw,
    actor: str = "",
    order_id: str | None = None,
) -> bool:
    """Keeps a message; ``False`` where the same fact is here already. Committed, it may be acknowledged.

    ``order_id`` where it is known whom it is for.
    """
    row = {
        "lane": lane,
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
    entered = await connection.execute(_ACCEPT, row)
    return entered.first() is not None


async def started(connection: AsyncConnection) -> int:
    """How many orders have entered the engine and not come to rest yet."""
    return int((await connection.execute(_STARTED, {"recent": datetime.now(UTC) - STALE})).scalar_one())


async def pending(connection: AsyncConnection, lanes: Collection[Lane], limit: int) -> Sequence[Row[Any]]:
    """The next messages: urgent first, then whichever account has the fewest orders entering, then as they came."""
    if limit <= 0:
        return []
    asked = {"lanes": list(lanes), "most": limit, "recent": datetime.now(UTC) - STALE}
    rows: Sequence[Row[Any]] = (await connection.execute(_PENDING, asked)).all()
    return rows


def _waiting_accounts() -> CTE:
    """Whoever has messages waiting, found by leaps through the index: a long backlog costs no more than a short one."""
    account = (_inbox.c.lane, _inbox.c.source, _inbox.c.account)
    waiting = (
        select(*account)
        .where(_inbox.c.state == InboxState.PENDING)
        .order_by(*account, _inbox.c.priority, _inbox.c.id)  # as in the index of what is pending
        .limit(1)
    )
    found = select(waiting.subquery()).cte("accounts", recursive=True)
    following = lateral(waiting.where(tuple_(*account) > tuple_(*found.c)))
    return found.union_all(select(following).select_from(found.join(following, true())))


def _pending() -> Select[Any]:
    accounts = _waiting_accounts()
    most = bindparam("most", type_=Integer)
    turn = func.row_number().over(partition_by=_inbox.c.priority, order_by=_inbox.c.id).label("turn")
    each = lateral(
        select(_inbox, turn)
        .where(
            _inbox.c.state == InboxState.PENDING,
            _inbox.c.lane == accounts.c.lane,
            _inbox.c.source == accounts.c.source,
            _inbox.c.account == accounts.c.account,
        )
        .order_by(_inbox.c.priority, _inbox.c.id)
        .limit(most)
    )
    entering = (
        select(_inbox.c.source, _inbox.c.account, func.count().label("orders"))
        .where(_ENTERING)
        .group_by(_inbox.c.source, _inbox.c.account)
        .subquery()
    )
    same = (entering.c.source == accounts.c.source) & (entering.c.account == accounts.c.account)
    return (
        select(each)
        .select_from(accounts.join(each, true()).outerjoin(entering, same))
        .where(accounts.c.lane.in_(bindparam("lanes", expanding=True)))
        .order_by(each.c.priority, each.c.turn + func.coalesce(entering.c.orders, 0), each.c.id)
        .limit(most)
    )


_ENTERING = (_inbox.c.state == InboxState.STARTED) & (
    _inbox.c.started_at > bindparam("recent", type_=_inbox.c.started_at.type)
)
_STARTED = select(func.count()).where(_ENTERING)
_PENDING = _pending()


async def mark(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    """Writes what became of messages; where one was not understood, a person is called."""
    if outcomes:
        written = (
            update(_inbox)
            .where(_inbox.c.id == bindparam("row"))
            .values(
                state=bindparam("state"),
                order_id=func.coalesce(bindparam("order"), _inbox.c.order_id),
                reason=bindparam("reason"),
                field=bindparam("field"),
                started_at=func.coalesce(bindparam("at"), _inbox.c.started_at),
                attempts=_inbox.c.attempts + 1,
            )
        )
        await connection.execute(written, [each.model_dump() for each in outcomes])
        if any(each.state is InboxState.FAILED for each in outcomes):
            await failures.call(connection)


async def reopen_lost(connection: AsyncConnection) -> None:
    """Takes up again what was about to enter the engine when we died: too long on its way, and never admitted."""
    long_ago = datetime.now(UTC) - STALE
    admitted = select(_orders.c.id).where(_orders.c.id == _inbox.c.order_id).exists()
    await connection.execute(
        update(_inbox)
        .where(_inbox.c.state == InboxState.STARTED, _inbox.c.started_at < long_ago, ~admitted)
        .values(state=InboxState.PENDING)
    )


async def documents(connection: AsyncConnection, order_ids: Collection[str]) -> dict[str, tuple[ChannelOrder, bool]]:
    """What the channel last said of each order known to us, and whether it has been admitted."""
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


async def keep_documents(connection: AsyncConnection, orders: Collection[ChannelOrder]) -> None:
    """Keeps the newest that a channel said of its orders."""
    if orders:
        rows = [{"order_id": order.order_id, "modified_at": order.modified_at, "document": order} for order in orders]
        entered = insert(_documents).values(rows)
        newer = {"modified_at": entered.excluded.modified_at, "document": entered.excluded.document}
        await connection.execute(
            entered.on_conflict_do_update(
                index_elements=["order_id"],
                set_=newer,
                where=_documents.c.modified_at <= entered.excluded.modified_at,
            )
        )


async def summary(connection: AsyncConnection) -> dict[str, dict[str, int]]:
    """How many messages of each lane are in each state."""
    query = select(_inbox.c.lane, _inbox.c.state, func.count()).group_by(_inbox.c.lane, _inbox.c.state)
    counts: dict[str, dict[str, int]] = {}
    for lane, state, count in await connection.execute(query):
        counts.setdefault(lane, {})[state] = count
    return counts
