"""Create messages from what happened to orders: one for each event and media account, once."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue, ValidationError
from sqlalchemy import Row, Table, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.accounts.accounts import shop_name
from activities.notifications.templates import list_templates
from activities.records.exceptions import text_params
from models.base import Value
from models.exceptions import ExceptionRow
from models.i18n import t
from models.intake import AccountRow, IntegrationType
from models.notifications import (
    Medium,
    Message,
    NotificationRow,
    NotificationState,
    QuietHours,
    Template,
    TimelineCursorRow,
)
from models.order import OrderRow, TimelineRow
from models.settings import settings
from models.vault import readable, seal_row

_notifications: Table = NotificationRow.__table__  # type: ignore[attr-defined]
_cursors: Table = TimelineCursorRow.__table__  # type: ignore[attr-defined]
_timeline: Table = TimelineRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_exceptions: Table = ExceptionRow.__table__  # type: ignore[attr-defined]
_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]

_ORDER = (_orders.c.id, _orders.c.channel_order_no, _orders.c.recipient, _orders.c.custom)
EXCEPTION_WINDOW = timedelta(minutes=30)
"""How far back each run reads exceptions; the message id keeps a repeat from creating a second message."""
OVERLAP = 1000
"""How many timeline entries each run reads again, to catch those whose transaction committed late."""
PERSONAL = frozenset({Medium.SMS, Medium.EMAIL})
"""Media that need a recipient's address."""


class _Event(Value):
    key: str
    name: str
    order_id: str
    shop: str
    addresses: Mapping[str, str]
    """The buyer's address by medium."""
    facts: dict[str, JsonValue]


async def create_messages(connection: AsyncConnection) -> int:
    """Create the messages of recent events; return how many are new."""
    templates = [each for each in await list_templates(connection) if each.active]
    names = {each.event for each in templates}
    after = await _advance_cursor(connection)
    if not names:
        return 0
    accounts = (
        await connection.execute(select(_accounts).where(_accounts.c.integration == IntegrationType.MEDIA))
    ).all()
    since = datetime.now(UTC) - EXCEPTION_WINDOW
    rows: list[dict[str, Any]] = []
    for event in (
        *await _timeline_events(connection, names, after),
        *await _exception_events(connection, names, since),
    ):
        if channel := event.facts["channel"]:
            event.facts["shop"] = await shop_name(str(channel), str(event.facts["shop"]))
        for account in accounts:
            template = _choose_template(templates, event, account.source, account.settings.get("lang", settings().lang))
            if template is not None and event.shop in account.settings.get("shops", [event.shop]):
                rows.append(_notification_row(event, template, account))
    if not rows:
        return 0
    created = insert(_notifications).on_conflict_do_nothing().returning(_notifications.c.id)
    return len((await connection.execute(created, rows)).all())


async def _advance_cursor(connection: AsyncConnection) -> int:
    """Return the number of the last entry already read, and move the cursor to the end of the timelines.

    Reading goes by number, not by time: a carrier's scan may arrive hours late. Entries from before the first run are
    skipped.
    """
    newest = select(func.coalesce(func.max(_timeline.c.number), 0)).scalar_subquery()
    previous = (await connection.execute(select(_cursors.c.line).where(_cursors.c.id == 1))).scalar_one_or_none()
    row = insert(_cursors).values(id=1, line=newest)
    upsert = row.on_conflict_do_update(index_elements=["id"], set_={"line": row.excluded.line})
    current: int = (await connection.execute(upsert.returning(_cursors.c.line))).scalar_one()
    return current if previous is None else previous - OVERLAP


async def _timeline_events(connection: AsyncConnection, names: Collection[str], after: int) -> list[_Event]:
    query = (
        select(_timeline.c.key, _timeline.c.what, _timeline.c.detail, _orders.c.channel, _orders.c.shop, *_ORDER)
        .join(_orders, _orders.c.id == _timeline.c.order_id)
        .where(_timeline.c.what.in_([f"timeline.{name}" for name in names]), _timeline.c.number > after)
    )
    rows = (await connection.execute(query)).all()
    return [
        _event(row, row.what.removeprefix("timeline."), f"{row.id}:{row.key}", f"{row.channel}:{row.shop}", row.detail)
        for row in rows
    ]


async def _exception_events(connection: AsyncConnection, names: Collection[str], since: datetime) -> list[_Event]:
    """Return the exceptions opened or escalated since then, with the order of those that are about one."""
    events = []
    for change, moment in (("opened", _exceptions.c.opened_at), ("escalated", _exceptions.c.escalated_at)):
        if f"exception.{change}" in names:
            query = (
                select(*_exceptions.c, moment.label("moment"), *_ORDER)
                .outerjoin(_orders, _orders.c.id == _exceptions.c.order_id)
                .where(moment > since)
            )
            for row in (await connection.execute(query)).all():
                key = f"{row.key}:{change}:{row.moment.isoformat()}"
                facts = {"kind": row.kind, "owner": row.owner, "severity": row.severity, **text_params(row)}
                events.append(_event(row, f"exception.{change}", key, row.shop, facts))
    return events


def _event(row: Any, name: str, key: str, shop: str, facts: Mapping[str, JsonValue]) -> _Event:
    """Return an event of the shop ``channel:shop``; ``row`` has the columns ``_ORDER``, null without an order."""
    recipient = readable(row.recipient)
    phone = recipient.digits if recipient and "*" not in recipient.phone else ""
    channel, _, account = shop.partition(":")
    return _Event(
        key=key,
        name=name,
        order_id=row.id or "",
        shop=shop,
        addresses={Medium.SMS.value: phone, Medium.EMAIL.value: str((row.custom or {}).get("email") or "")},
        facts={**facts, "order_no": row.channel_order_no or "", "shop": account, "channel": channel},
    )


def _choose_template(templates: Sequence[Template], event: _Event, medium: str, lang: str) -> Template | None:
    """Return the shop's own template, or else the one for every shop."""
    matching = [
        each
        for each in templates
        if (each.event, each.medium, each.lang) == (event.name, medium, lang) and each.shop in ("", event.shop)
    ]
    return max(matching, key=lambda each: bool(each.shop), default=None)


def _notification_row(event: _Event, template: Template, account: Row[Any]) -> dict[str, Any]:
    facts = dict(event.facts)
    if "kind" in facts:
        facts["what"] = t(f"exception.{facts['kind']}", template.lang, **facts)
    subject, body = template.render(facts)
    to = str(account.settings.get("to") or event.addresses.get(template.medium, ""))
    message_id = f"{event.key}:{template.medium}:{account.account}"
    now = datetime.now(UTC)
    sendable = bool(to) or template.medium not in PERSONAL
    row = {
        "id": message_id,
        "event": event.name,
        "medium": template.medium,
        "account": account.account,
        "order_id": event.order_id,
        "message": Message(id=message_id, event=event.name, to=to, subject=subject, body=body, facts=event.facts),
        "state": NotificationState.WAITING if sendable else NotificationState.SKIPPED,
        "outcome": "" if sendable else "nobody",
        "attempts": 0,
        "created_at": now,
        "next_at": _due(account.settings, now),
        "done_at": None if sendable else now,
    }
    return seal_row(_notifications, row)


def _due(account_settings: Mapping[str, Any], now: datetime) -> datetime:
    """Return now or the end of quiet hours; a day later where ``quiet`` is malformed, so that nobody is disturbed."""
    if not (quiet := account_settings.get("quiet")):
        return now
    try:
        return QuietHours.model_validate(quiet).next_allowed(now)
    except ValidationError:
        return now + timedelta(days=1)
