"""What people are told, by which medium, in which words, and what became of it."""

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
    """Our own subscribers."""
    DINGTALK = "dingtalk"
    WECOM = "wecom"
    FEISHU = "feishu"


class NotificationState(StrEnum):
    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The person wants no messages, or there is nobody to tell."""
    UNKNOWN = "unknown"
    """It may have been sent: we did not live to hear. It is not sent again, unless a person says so."""


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
"""What may be told: lines of an order's timeline, and exceptions."""
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
"""What a template may name; ``what`` is the kind of exception in words."""
Lang = Literal["zh-CN", "en"]
_NAMED = re.compile(r"\{(\w+)\}")


class Template(Value):
    """The words for an event by a medium; ``{name}`` stands for a fact. Of several, the one of the shop counts."""

    event: str
    medium: Medium
    shop: str = ""
    """``channel:shop``; empty, every shop without one of its own."""
    lang: Lang = "zh-CN"
    subject: Annotated[str, Field(max_length=200)] = ""
    body: Annotated[str, Field(min_length=1, max_length=4000)]
    active: bool = True

    @field_validator("event")
    @classmethod
    def _is_told(cls, event: str) -> str:
        if event not in EVENTS:
            raise InvalidValue("invalid.choice", choices=", ".join(EVENTS))
        return event

    @field_validator("subject", "body")
    @classmethod
    def _names_facts(cls, text: str) -> str:
        if unknown := set(_NAMED.findall(text)) - FIELDS:
            raise InvalidValue(
                "invalid.placeholder.unknown", placeholder=min(unknown), choices=", ".join(sorted(FIELDS))
            )
        return text

    def filled(self, facts: dict[str, JsonValue]) -> tuple[str, str]:
        """Subject and body; what is not known of a fact is empty."""

        def fact(match: re.Match[str]) -> str:
            return str(facts.get(match[1]) or "")

        return _NAMED.sub(fact, self.subject), _NAMED.sub(fact, self.body)


_MAILS: tuple[tuple[str, Lang, str, str], ...] = (
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
_CHATS: tuple[tuple[str, Lang, str], ...] = (
    ("exception.opened", "zh-CN", "订单 {order_no}：{what}，{carrier} {waybill_no}，负责人 {owner}"),
    ("exception.opened", "en", "Order {order_no}: {what}, {carrier} {waybill_no}, for {owner}"),
    ("exception.escalated", "zh-CN", "超时升级至 {owner}：订单 {order_no}，{what}，{carrier} {waybill_no}"),
    ("exception.escalated", "en", "Overdue, now for {owner}: order {order_no}, {what}, {carrier} {waybill_no}"),
)
DEFAULTS: tuple[Template, ...] = (
    *(
        Template(event=event, medium=Medium.EMAIL, lang=lang, subject=subject, body=body)
        for event, lang, subject, body in _MAILS
    ),
    *(
        Template(event=event, medium=medium, lang=lang, body=body)
        for medium in (Medium.DINGTALK, Medium.WECOM, Medium.FEISHU)
        for event, lang, body in _CHATS
    ),
    *(
        Template(event=event, medium=Medium.WEBHOOK, lang=lang, body="{order_no} {waybill_no}")
        for event in EVENTS
        for lang in get_args(Lang)
    ),
)
"""The words where staff set none; a text message has none, for its words are agreed with who sends it."""


class Message(Value):
    """A notification as it is sent: personal, and kept sealed."""

    id: str
    event: str
    to: str = ""
    """A phone or an address; empty where the account itself says whom."""
    subject: str = ""
    body: str
    facts: dict[str, JsonValue] = {}


class Quiet(Value):
    """From when to when nobody is to be woken, on China's clocks."""

    since: time
    until: time

    def ends(self, at: datetime) -> datetime:
        """When a message may be sent that is due at this time."""
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
    """One message to one account or person, sent once."""

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
    message: Any = Col(sa_column=Column(Sealed(Message, "notifications.message"), nullable=False))
    state: str = NotificationState.WAITING
    outcome: str = ""
    attempts: int = 0
    created_at: datetime = Col(sa_type=DateTime(timezone=True))
    next_at: datetime = Col(sa_type=DateTime(timezone=True))
    done_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class LookRow(SQLModel, table=True):
    """How far timelines were looked through: one row."""

    __tablename__ = "notification_looks"

    id: int = Col(primary_key=True)
    line: int = Col(sa_column=Column(BigInteger, nullable=False))


class OptOutRow(SQLModel, table=True):
    """Who wants no messages, by a blind index of the address."""

    __tablename__ = "opt_outs"

    address_index: str = Col(primary_key=True)
    at: datetime = Col(sa_type=DateTime(timezone=True))
    actor: str
