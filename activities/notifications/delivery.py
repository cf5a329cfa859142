"""Telling people: what happened becomes messages, once each, and messages are sent, once each.

A message is marked as being sent before it is: where we die over it, nobody knows whether it was. A subscriber is then
told again, for he knows a repetition by its id; a person is not, and the log says so.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue, ValidationError
from sqlalchemy import ColumnElement, Row, Table, Update, and_, case, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import media
from activities.accounts.accounts import get_account
from activities.kit.database import transaction
from models.base import Value
from models.exceptions import ExceptionRow
from models.i18n import t
from models.intake import AccountRow, IntegrationType
from models.notifications import (
    DEFAULTS,
    LookRow,
    Medium,
    Message,
    NotificationRow,
    NotificationState,
    OptOutRow,
    Quiet,
    Template,
    TemplateRow,
)
from models.order import OrderRow, TimelineRow
from models.settings import settings
from models.vault import keyring

_templates: Table = TemplateRow.__table__  # type: ignore[attr-defined]
_notifications: Table = NotificationRow.__table__  # type: ignore[attr-defined]
_looks: Table = LookRow.__table__  # type: ignore[attr-defined]
_opt_outs: Table = OptOutRow.__table__  # type: ignore[attr-defined]
_timeline: Table = TimelineRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_exceptions: Table = ExceptionRow.__table__  # type: ignore[attr-defined]
_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]

LOOKED_BACK = timedelta(minutes=30)
"""How far a look at exceptions goes back; nothing is told twice."""
LINES_BACK = 1000
"""How many lines of timelines each look reads again, for those whose transaction ended late."""
AT_ONCE = 50
GATE = 8
LOST = timedelta(minutes=10)
"""A message that has been under way for so long was lost with whoever sent it."""
WAITS = (60, 300, 1800, 7200, 21600, 43200)
"""Seconds until a message that could not be sent is tried again."""
PERSONAL = frozenset({Medium.SMS, Medium.EMAIL})


class DeliveryReport(Value):
    """What one turn came to."""

    made: int = 0
    sent: int = 0
    failed: int = 0


async def save_template(connection: AsyncConnection, template: Template) -> None:
    row = insert(_templates).values(template.model_dump())
    again = {name: getattr(row.excluded, name) for name in ("subject", "body", "active")}
    await connection.execute(row.on_conflict_do_update(index_elements=["event", "medium", "shop", "lang"], set_=again))


async def delete_template(connection: AsyncConnection, event: str, medium: Medium, shop: str, lang: str) -> bool:
    """Whether there was one."""
    place = (_templates.c.event, _templates.c.medium, _templates.c.shop, _templates.c.lang)
    dropped = await connection.execute(delete(_templates).where(tuple_(*place) == (event, medium, shop, lang)))
    return bool(dropped.rowcount)


async def list_templates(connection: AsyncConnection) -> list[Template]:
    """Those that staff set, in place of the defaults of the same event, medium and language, and the other defaults."""
    rows = await connection.execute(select(_templates).order_by(*_templates.primary_key.columns))
    kept = [Template.model_validate(row._mapping) for row in rows]
    known = {(each.event, each.medium, each.shop, each.lang): each for each in (*DEFAULTS, *kept)}
    return list(known.values())


async def opt_out(connection: AsyncConnection, address: str, actor: str) -> None:
    """This phone or address is told nothing any more."""
    row = {"address_index": _index(address), "at": datetime.now(UTC), "actor": actor}
    await connection.execute(insert(_opt_outs).values(row).on_conflict_do_nothing())


async def opt_in(connection: AsyncConnection, address: str) -> None:
    await connection.execute(delete(_opt_outs).where(_opt_outs.c.address_index == _index(address)))


def _index(address: str) -> str:
    return keyring().blind_index(address.strip().lower())


async def search(
    connection: AsyncConnection, *, order_id: str | None, state: str | None, limit: int = 100
) -> Sequence[Row[Any]]:
    """The log, newest first; without the messages, which are personal."""
    columns = [column for column in _notifications.c if column.name != "message"]
    query = select(*columns).order_by(_notifications.c.created_at.desc(), _notifications.c.id).limit(limit)
    for name, value in (("order_id", order_id), ("state", state)):
        if value is not None:
            query = query.where(_notifications.c[name] == value)
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


async def resend(connection: AsyncConnection, notification_id: str) -> bool:
    """Sends it again, as a person wants; whether there is one that is over."""
    fresh = {"state": NotificationState.WAITING, "attempts": 0, "next_at": datetime.now(UTC), "done_at": None}
    done = await connection.execute(
        update(_notifications)
        .where(_notifications.c.id == notification_id, _notifications.c.done_at.is_not(None))
        .values(**fresh, outcome="")
    )
    return bool(done.rowcount)


@activity.defn(name="notifications.deliver")
async def notify() -> DeliveryReport:
    """Makes messages of what happened lately, and sends what is due."""
    async with transaction() as connection:
        made = await _make(connection)
    sent, failed = await _send_due()
    return DeliveryReport(made=made, sent=sent, failed=failed)


# Making messages


async def _make(connection: AsyncConnection) -> int:
    templates = [each for each in await list_templates(connection) if each.active]
    events = {each.event for each in templates}
    since_line = await _next_lines(connection)
    if not events:
        return 0
    accounts = (
        await connection.execute(select(_accounts).where(_accounts.c.integration == IntegrationType.MEDIA))
    ).all()
    since = datetime.now(UTC) - LOOKED_BACK
    rows: list[dict[str, Any]] = []
    for happened in (*await _lines(connection, events, since_line), *await _wrongs(connection, events, since)):
        for ours in accounts:
            template = _words(templates, happened, ours.source, ours.settings.get("lang", settings().lang))
            if template is not None and happened.shop in ours.settings.get("shops", [happened.shop]):
                rows.append(_row(happened, template, ours))
    if not rows:
        return 0
    entered = insert(_notifications).on_conflict_do_nothing().returning(_notifications.c.id)
    return len((await connection.execute(entered, rows)).all())


class _Happened(Value):
    key: str
    event: str
    order_id: str
    shop: str
    to: Mapping[str, str]
    """The buyer's address by medium."""
    facts: dict[str, JsonValue]


async def _next_lines(connection: AsyncConnection) -> int:
    """The number of the line from which on to look; the next look goes on from where the timelines now end.

    A line is told however old what it tells of is: a carrier's scan may come hours late. What was written before
    anybody looked is not told.
    """
    newest = select(func.coalesce(func.max(_timeline.c.number), 0)).scalar_subquery()
    last = (await connection.execute(select(_looks.c.line).where(_looks.c.id == 1))).scalar_one_or_none()
    moved = insert(_looks).values(id=1, line=newest)
    ended = moved.on_conflict_do_update(index_elements=["id"], set_={"line": moved.excluded.line})
    now: int = (await connection.execute(ended.returning(_looks.c.line))).scalar_one()
    return now if last is None else last - LINES_BACK


async def _lines(connection: AsyncConnection, events: Collection[str], since: int) -> list[_Happened]:
    """Lines of timelines that are told."""
    query = (
        select(_timeline.c.key, _timeline.c.what, _timeline.c.detail, _orders)
        .join(_orders, _orders.c.id == _timeline.c.order_id)
        .where(_timeline.c.what.in_([f"timeline.{event}" for event in events]), _timeline.c.number > since)
    )
    rows = (await connection.execute(query)).all()
    return [_happened(row, row.what.removeprefix("timeline."), f"{row.id}:{row.key}", dict(row.detail)) for row in rows]


async def _wrongs(connection: AsyncConnection, events: Collection[str], since: datetime) -> list[_Happened]:
    """Exceptions that were opened, or escalated."""
    found = []
    for event, moment in (("opened", _exceptions.c.opened_at), ("escalated", _exceptions.c.escalated_at)):
        if f"exception.{event}" in events:
            names = ("fulfillment_id", "kind", "owner", "carrier", "waybill_no", "warehouse")
            columns = [_exceptions.c[name].label(f"its_{name}") for name in names]
            query = (
                select(*columns, moment.label("moment"), _orders)
                .join(_orders, _orders.c.id == _exceptions.c.order_id)
                .where(moment > since)
            )
            for row in (await connection.execute(query)).all():
                facts = {name: row._mapping[f"its_{name}"] for name in names}
                facts["fulfillment"] = facts.pop("fulfillment_id").rpartition(":")[2]
                key = f"{row.its_fulfillment_id}:{row.its_kind}:{event}:{row.moment.isoformat()}"
                found.append(_happened(row, f"exception.{event}", key, facts))
    return found


def _happened(row: Any, event: str, key: str, detail: dict[str, JsonValue]) -> _Happened:
    phone = row.recipient.digits if row.recipient and "*" not in row.recipient.phone else ""
    to = {Medium.SMS.value: phone, Medium.EMAIL.value: str(row.custom.get("email") or "")}
    facts = detail | {"order_no": row.channel_order_no, "shop": row.shop, "channel": row.channel}
    return _Happened(key=key, event=event, order_id=row.id, shop=f"{row.channel}:{row.shop}", to=to, facts=facts)


def _words(templates: Sequence[Template], happened: _Happened, medium: str, lang: str) -> Template | None:
    """The shop's own words, or those for every shop."""
    meant = [
        each
        for each in templates
        if (each.event, each.medium, each.lang) == (happened.event, medium, lang) and each.shop in ("", happened.shop)
    ]
    return max(meant, key=lambda each: bool(each.shop), default=None)


def _row(happened: _Happened, template: Template, ours: Row[Any]) -> dict[str, Any]:
    facts = dict(happened.facts)
    if "kind" in facts:
        facts["what"] = t(f"exception.{facts['kind']}", template.lang)
    subject, body = template.filled(facts)
    to = str(ours.settings.get("to") or happened.to.get(template.medium, ""))
    number = f"{happened.key}:{template.medium}:{ours.account}"
    now = datetime.now(UTC)
    message = Message(id=number, event=happened.event, to=to, subject=subject, body=body, facts=happened.facts)
    known = bool(to) or template.medium not in PERSONAL
    return {
        "id": number,
        "event": happened.event,
        "medium": template.medium,
        "account": ours.account,
        "order_id": happened.order_id,
        "message": message,
        "state": NotificationState.WAITING if known else NotificationState.SKIPPED,
        "outcome": "" if known else "nobody",
        "attempts": 0,
        "created_at": now,
        "next_at": _due(ours.settings, now),
        "done_at": None if known else now,
    }


def _due(chosen: Mapping[str, Any], now: datetime) -> datetime:
    """Now, or when quiet hours end; a day later where these cannot be read: nobody is woken by a slip."""
    if not (quiet := chosen.get("quiet")):
        return now
    try:
        return Quiet.model_validate(quiet).ends(now)
    except ValidationError:
        return now + timedelta(days=1)


# Sending them


async def _send_due() -> tuple[int, int]:
    now = datetime.now(UTC)
    async with transaction() as connection:
        await connection.execute(_give_up_lost(now))
        due = (
            select(_notifications.c.id)
            .where(_notifications.c.state == NotificationState.WAITING, _notifications.c.next_at <= now)
            .order_by(_notifications.c.next_at)
            .limit(AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        taken = (
            update(_notifications)
            .where(_notifications.c.id.in_(due))
            .values(state=NotificationState.SENDING, attempts=_notifications.c.attempts + 1, next_at=now + LOST)
        )
        rows = (await connection.execute(taken.returning(*_notifications.c))).all()
        addresses = {_index(row.message.to) for row in rows if row.message.to}
        query = select(_opt_outs.c.address_index).where(_opt_outs.c.address_index.in_(addresses))
        silent = set(await connection.scalars(query))
    gate = asyncio.Semaphore(GATE)
    outcomes = await asyncio.gather(*(_send(row, silent, gate) for row in rows))
    return outcomes.count(NotificationState.SENT), outcomes.count(NotificationState.FAILED)


def _give_up_lost(now: datetime) -> Update:
    lost: ColumnElement[bool] = and_(
        _notifications.c.state == NotificationState.SENDING, _notifications.c.next_at <= now
    )
    again = _notifications.c.medium == Medium.WEBHOOK
    return (
        update(_notifications)
        .where(lost)
        .values(
            state=case((again, NotificationState.WAITING.value), else_=NotificationState.UNKNOWN.value),
            outcome=case((again, ""), else_="lost"),
            done_at=case((again, None), else_=now),
        )
    )


async def _send(row: Row[Any], silent: Collection[str], gate: asyncio.Semaphore) -> NotificationState:
    """What became of it, also in the database."""
    state, outcome, next_at = NotificationState.SENT, "", row.next_at
    if row.message.to and _index(row.message.to) in silent:
        state, outcome = NotificationState.SKIPPED, "opted_out"
    else:
        async with gate:
            try:
                await media.send(await get_account(IntegrationType.MEDIA, row.medium, row.account), row.message)
            except ApplicationError as error:
                outcome = str(error.details[0]) if error.details else error.message
                state = NotificationState.FAILED
                if not error.non_retryable and row.attempts <= len(WAITS):
                    state = NotificationState.WAITING
                    told = error.next_retry_delay or timedelta(0)
                    next_at = datetime.now(UTC) + max(told, timedelta(seconds=WAITS[row.attempts - 1]))
            except Exception as error:  # whatever is wrong with one account or message keeps no other waiting
                state, outcome = NotificationState.FAILED, type(error).__name__
    done_at = None if state is NotificationState.WAITING else datetime.now(UTC)
    done = {"state": state, "outcome": outcome[:200], "next_at": next_at, "done_at": done_at}
    async with transaction() as connection:
        await connection.execute(update(_notifications).where(_notifications.c.id == row.id).values(done))
    return state
