"""Notifications: templates by event and medium, the messages made from them, and the outcome of each."""

import re
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, JsonValue, field_validator
from sqlalchemy import BigInteger, Column, DateTime, Index
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import CHINA, Value
from models.i18n import InvalidValue
from models.vault import Sealed


class Medium(StrEnum):
    SMS = "sms"
    EMAIL = "email"
    WEBHOOK = "webhook"
    """The merchant's own subscribers."""
    DINGTALK = "dingtalk"
    WECOM = "wecom"
    FEISHU = "feishu"


class NotificationState(StrEnum):
    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The recipient opted out, or no address is known."""
    UNKNOWN = "unknown"
    """The process ended while sending, so it may have been sent. Only a person sends it again."""


EVENTS = (
    "shipped",
    "tracking.delivered",
    "tracking.delivery_failed",
    "tracking.refused",
    "tracking.returned",
    "tracking.lost",
    "tracking.damaged",
    "completed",
    "payment_expired",
    "cancel",
    "refund.granted",
    "tell_buyer",
    "exception.opened",
    "exception.escalated",
)
"""What a template may be for: entries of an order's timeline, and exceptions."""
FIELDS = frozenset(
    {
        "order_no",
        "shop",
        "channel",
        "carrier",
        "waybill_no",
        "warehouse",
        "fulfillment",
        "kind",
        "what",
        "owner",
        "amount",
    }
)
"""The facts that a template may name; ``what`` is the text of an exception."""
Lang = Literal["zh-CN", "en"]
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class Template(Value):
    """The text of an event for a medium; ``{name}`` stands for a fact. A shop's template precedes the general one."""

    event: str
    medium: Medium
    shop: str = ""
    """``channel:shop``; empty: every shop without a template of its own."""
    lang: Lang = "zh-CN"
    subject: Annotated[str, Field(max_length=200)] = ""
    body: Annotated[str, Field(min_length=1, max_length=4000)]
    active: bool = True

    @field_validator("event")
    @classmethod
    def _is_known_event(cls, event: str) -> str:
        if event not in EVENTS:
            raise InvalidValue("invalid.choice", choices=", ".join(EVENTS))
        return event

    @field_validator("subject", "body")
    @classmethod
    def _names_known_facts(cls, text: str) -> str:
        if unknown := set(_PLACEHOLDER.findall(text)) - FIELDS:
            raise InvalidValue(
                "invalid.placeholder.unknown", placeholder=min(unknown), choices=", ".join(sorted(FIELDS))
            )
        return text

    def render(self, facts: dict[str, JsonValue]) -> tuple[str, str]:
        """Return subject and body; a missing fact is empty."""

        def fact(match: re.Match[str]) -> str:
            return str(facts.get(match[1]) or "")

        return _PLACEHOLDER.sub(fact, self.subject), _PLACEHOLDER.sub(fact, self.body).rstrip()


_EMAIL_TEXTS: tuple[tuple[str, Lang, str, str], ...] = (
    (
        "shipped",
        "zh-CN",
        "您的订单 {order_no} 已发货",
        "已由 {carrier} 发出，运单号 {waybill_no}。",
    ),
    ("shipped", "en", "Your order {order_no} is on its way", "It left with {carrier}: {waybill_no}."),
    ("tracking.delivered", "zh-CN", "您的订单 {order_no} 已送达", "您的包裹 {waybill_no} 已送达，感谢惠顾。"),
    ("tracking.delivered", "en", "Your order {order_no} has arrived", "Your parcel {waybill_no} is there. Thank you."),
    (
        "tell_buyer",
        "zh-CN",
        "关于您的订单 {order_no}",
        "您的包裹 {waybill_no}：{what}。我们正在处理，非常抱歉。",
    ),
    ("tell_buyer", "en", "About your order {order_no}", "Your parcel {waybill_no}: {what}. We are sorry."),
)
_CHAT_TEXTS: tuple[tuple[str, Lang, str], ...] = (
    ("exception.opened", "zh-CN", "{what}。负责人 {owner}。{shop} {order_no}"),
    ("exception.opened", "en", "{what}. Owner: {owner}. {shop} {order_no}"),
    ("exception.escalated", "zh-CN", "超时升级至 {owner}：{what}。{shop} {order_no}"),
    ("exception.escalated", "en", "Overdue, escalated to {owner}: {what}. {shop} {order_no}"),
)
DEFAULTS: tuple[Template, ...] = (
    *(
        Template(event=event, medium=Medium.EMAIL, lang=lang, subject=subject, body=body)
        for event, lang, subject, body in _EMAIL_TEXTS
    ),
    *(
        Template(event=event, medium=medium, lang=lang, body=body)
        for medium in (Medium.DINGTALK, Medium.WECOM, Medium.FEISHU)
        for event, lang, body in _CHAT_TEXTS
    ),
    *(
        Template(event=event, medium=Medium.WEBHOOK, lang=lang, body="{order_no} {waybill_no}")
        for event in EVENTS
        for lang in get_args(Lang)
    ),
)
"""Used where staff set no template. SMS has no default: its texts must be approved by the provider."""


class Message(Value):
    """A notification as it is sent: personal, and stored encrypted."""

    id: str
    event: str
    to: str = ""
    """A phone number or e-mail address; empty where the account itself defines the recipient."""
    subject: str = ""
    body: str
    facts: dict[str, JsonValue] = {}


class QuietHours(Value):
    """A daily period without messages, in China time; it may span midnight."""

    since: time
    until: time

    def next_allowed(self, at: datetime) -> datetime:
        """Return when a message due at ``at`` may be sent."""
        local = at.astimezone(CHINA)
        end = local.replace(hour=self.until.hour, minute=self.until.minute, second=0, microsecond=0)
        now = local.time()
        if self.since <= self.until:
            return end if self.since <= now < self.until else at
        if now >= self.since:
            return end + timedelta(days=1)
        return end if now < self.until else at


class TemplateRow(SQLModel, table=True):
    """A ``Template``."""

    __tablename__ = "templates"

    event: str = Col(primary_key=True)
    medium: str = Col(primary_key=True)
    shop: str = Col(primary_key=True)
    lang: str = Col(primary_key=True)
    subject: str
    body: str
    active: bool = True


class NotificationRow(SQLModel, table=True):
    """One message by one media account, sent once."""

    __tablename__ = "notifications"
    __table_args__ = (
        Index("notifications_waiting", "next_at", postgresql_where="state IN ('waiting', 'sending')"),
        Index("notifications_by_order", "order_id"),
    )

    id: str = Col(primary_key=True)
    event: str
    medium: str
    account: str
    order_id: str = ""
    message: Any = Col(sa_column=Column(Sealed(Message, "notifications.message", ("id",)), nullable=False))
    state: str = NotificationState.WAITING
    outcome: str = ""
    attempts: int = 0
    created_at: datetime = Col(sa_type=DateTime(timezone=True))
    next_at: datetime = Col(sa_type=DateTime(timezone=True))
    done_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class TimelineCursorRow(SQLModel, table=True):
    """The number of the last timeline entry read: a single row."""

    __tablename__ = "notification_looks"

    id: int = Col(primary_key=True)
    line: int = Col(sa_column=Column(BigInteger, nullable=False))


class OptOutRow(SQLModel, table=True):
    """An address that gets no messages, by its blind index."""

    __tablename__ = "opt_outs"

    address_index: str = Col(primary_key=True)
    at: datetime = Col(sa_type=DateTime(timezone=True))
    actor: str
