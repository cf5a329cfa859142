"""Exceptions: what needs a person. Every part of the system opens them here; staff list, assign and close them.

An exception that closed because its cause was gone opens again when the cause returns. One that a person, or the end of
its order, closed opens again only for a later cause.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_, case, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.exceptions import (
    AFTERMATH,
    POLICIES,
    ExceptionKind,
    ExceptionPolicy,
    ExceptionPolicyRow,
    ExceptionRow,
    NewException,
)
from models.i18n import t

_exceptions: Table = ExceptionRow.__table__  # type: ignore[attr-defined]
_policies: Table = ExceptionPolicyRow.__table__  # type: ignore[attr-defined]

SYSTEM = "hengdan"
"""Closes exceptions whose cause is gone."""
ORDER_END = "order"
"""Closes the exceptions of orders that have ended."""
_CLEARED = ("escalated_at", "remedy", "remedied_at", "closed_at", "closed_by")


async def list_policies(connection: AsyncConnection) -> dict[ExceptionKind, ExceptionPolicy]:
    rows = await connection.execute(select(_policies))
    return POLICIES | {ExceptionKind(row.kind): ExceptionPolicy.model_validate(row.policy) for row in rows}


async def save_policy(connection: AsyncConnection, policy: ExceptionPolicy) -> None:
    row = insert(_policies).values(kind=policy.kind, policy=policy.model_dump(mode="json"))
    await connection.execute(row.on_conflict_do_update(index_elements=["kind"], set_={"policy": row.excluded.policy}))


async def open_all(connection: AsyncConnection, exceptions: Sequence[NewException]) -> set[str]:
    """Open exceptions under the policies of their kinds; return the keys of those that were not open before."""
    if not exceptions:
        return set()
    now = datetime.now(UTC)
    policies = await list_policies(connection)
    rows = {each.key: _row(each, policies[each.kind], now) for each in exceptions}
    opened = await connection.scalars(
        reopening(insert(_exceptions).values(list(rows.values()))).returning(_exceptions.c.key)
    )
    return set(opened)


def _row(exception: NewException, policy: ExceptionPolicy, now: datetime) -> dict[str, Any]:
    return {
        **exception.model_dump(),
        "cause_at": exception.cause_at or now,
        "severity": policy.severity,
        "owner": policy.owner,
        "detected": False,
        "opened_at": now,
        "due_at": now + timedelta(seconds=policy.due),
        "note": "",
    }


def reopening(statement: Insert) -> Insert:
    """Extend an ``INSERT`` of exceptions: closed ones open again where they may, open ones stay unchanged."""
    inserted = {
        each.name: getattr(statement.excluded, each.name) for each in _exceptions.c if each.name not in _CLEARED
    }
    returned = or_(_exceptions.c.closed_by == SYSTEM, statement.excluded.cause_at > _exceptions.c.closed_at)
    return statement.on_conflict_do_update(
        index_elements=["key"],
        set_=inserted | dict.fromkeys(_CLEARED),
        where=and_(_exceptions.c.closed_at.is_not(None), returned),
    )


async def open_keys(connection: AsyncConnection, kind: ExceptionKind) -> list[str]:
    """Return the keys of the open exceptions of a kind, in order."""
    query = select(_exceptions.c.key).where(_exceptions.c.kind == kind, _exceptions.c.closed_at.is_(None))
    return list(await connection.scalars(query.order_by(_exceptions.c.key)))


async def sync(
    connection: AsyncConnection, kind: ExceptionKind, found: Sequence[NewException], prefix: str = ""
) -> tuple[int, int]:
    """Make the open exceptions of a kind match the causes ``found`` now, among the keys that begin with ``prefix``.

    Returns how many opened and how many closed.
    """
    now = datetime.now(UTC)
    keys = [each.key for each in found]
    gone = and_(
        _exceptions.c.kind == kind,
        _exceptions.c.key.startswith(prefix, autoescape=True),
        _exceptions.c.key.not_in(keys),
    )
    closed = await connection.execute(
        update(_exceptions).where(gone, _exceptions.c.closed_at.is_(None)).values(closed_at=now, closed_by=SYSTEM)
    )
    await connection.execute(update(_exceptions).where(gone).values(closed_by=SYSTEM))
    known = {row.key: row for row in await connection.execute(select(_exceptions).where(_exceptions.c.key.in_(keys)))}
    to_open = [each for each in found if each.key not in known or _returns(each, known[each.key])]
    opened = await open_all(connection, to_open)
    for each in found:
        if each.key not in opened:
            still_open = and_(_exceptions.c.key == each.key, _exceptions.c.closed_at.is_(None))
            await connection.execute(update(_exceptions).where(still_open).values(detail=each.detail))
    return len(opened), closed.rowcount


def _returns(exception: NewException, row: Row[Any]) -> bool:
    if row.closed_at is None:
        return False
    return row.closed_by == SYSTEM or (exception.cause_at is not None and exception.cause_at > row.closed_at)


async def close_for_orders(connection: AsyncConnection, order_ids: Sequence[str]) -> None:
    """Close the exceptions that the end of an order settles."""
    ended = and_(
        _exceptions.c.order_id.in_(order_ids), _exceptions.c.closed_at.is_(None), _exceptions.c.kind.not_in(AFTERMATH)
    )
    await connection.execute(update(_exceptions).where(ended).values(closed_at=datetime.now(UTC), closed_by=ORDER_END))


async def escalate(
    connection: AsyncConnection, policies: Mapping[ExceptionKind, ExceptionPolicy], now: datetime
) -> int:
    """Assign overdue exceptions to whom their policy escalates, each once; return how many."""
    above = case({kind.value: each.escalates_to for kind, each in policies.items()}, value=_exceptions.c.kind)
    overdue = and_(_exceptions.c.closed_at.is_(None), _exceptions.c.escalated_at.is_(None), _exceptions.c.due_at < now)
    escalated = await connection.execute(update(_exceptions).where(overdue).values(escalated_at=now, owner=above))
    return int(escalated.rowcount)


async def note_remedy(connection: AsyncConnection, key: str, remedy: str, now: datetime) -> None:
    done = {"remedy": remedy, "remedied_at": now}
    await connection.execute(update(_exceptions).where(_exceptions.c.key == key).values(done))


async def close(connection: AsyncConnection, key: str, actor: str, note: str) -> None:
    """Close an exception on behalf of a person."""
    done = {"closed_at": datetime.now(UTC), "closed_by": actor, "note": note}
    mine = and_(_exceptions.c.key == key, _exceptions.c.closed_at.is_(None))
    await connection.execute(update(_exceptions).where(mine).values(done))


async def assign(connection: AsyncConnection, key: str, owner: str) -> None:
    await connection.execute(update(_exceptions).where(_exceptions.c.key == key).values(owner=owner))


async def get(connection: AsyncConnection, key: str) -> Row[Any] | None:
    return (await connection.execute(select(_exceptions).where(_exceptions.c.key == key))).one_or_none()


async def search(
    connection: AsyncConnection,
    *,
    closed: bool = False,
    after: tuple[datetime, str] | None = None,
    limit: int = 100,
    **equal: str | None,
) -> Sequence[Row[Any]]:
    """Return exceptions, the soonest due first, after ``due_at`` and ``key`` of the last one of an earlier page."""
    place = (_exceptions.c.due_at, _exceptions.c.key)
    query = select(_exceptions).order_by(*place).limit(limit)
    if not closed:
        query = query.where(_exceptions.c.closed_at.is_(None))
    for name, value in equal.items():
        if value is not None:
            query = query.where(_exceptions.c[name] == value)
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*map(literal, after)))
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


async def summary(connection: AsyncConnection) -> Sequence[Row[Any]]:
    """Count the open exceptions of each kind: all, overdue, and open under one day, under three days, and longer."""
    now = datetime.now(UTC)
    opened: ColumnElement[datetime] = _exceptions.c.opened_at
    day, three = now - timedelta(days=1), now - timedelta(days=3)
    query = (
        select(
            _exceptions.c.kind,
            func.count().label("open"),
            func.count().filter(_exceptions.c.due_at < now).label("overdue"),
            func.count().filter(opened > day).label("under_a_day"),
            func.count().filter(and_(opened <= day, opened > three)).label("under_three_days"),
            func.count().filter(opened <= three).label("older"),
        )
        .where(_exceptions.c.closed_at.is_(None))
        .group_by(_exceptions.c.kind)
        .order_by(_exceptions.c.kind)
    )
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


def describe(row: Any, lang: str | None = None) -> str:
    """Return the text of an exception, a row of ``exceptions``."""
    return t(f"exception.{row.kind}", lang, **text_params(row))


def text_params(row: Any) -> dict[str, Any]:
    """Return the params of the texts ``exception.{kind}``: the subject of an exception, and its details."""
    subject = {name: getattr(row, name) or "" for name in ("shop", "warehouse", "carrier", "waybill_no")}
    return {"fulfillment": row.fulfillment_id.rpartition(":")[2], **subject, **row.detail}
