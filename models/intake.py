"""The inbox: messages of channels, carriers and warehouses, committed before they are acknowledged."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Base64Bytes
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Key, Moment, Value
from models.order import NORMAL, ChannelOrder
from models.origins import IntakePath
from models.vault import Sealed


class IntegrationType(StrEnum):
    """The sender of a message. Channel messages may start orders and are paced; the others only signal orders."""

    CHANNEL = "channel"
    CARRIER = "carrier"
    WAREHOUSE = "warehouse"
    INTERNAL = "internal"
    MEDIA = "media"
    """Notifies people; sends no messages."""


class InboxState(StrEnum):
    PENDING = "pending"
    STARTED = "started"
    """Its order entered the engine and has not settled yet."""
    DONE = "done"
    FAILED = "failed"
    """Not understood, for the ``reason``; a person corrects and retries it."""
    DISCARDED = "discarded"
    """Not understood, and discarded by a person."""


class Receipt(Value):
    """What a webhook knows of a message before it is parsed."""

    fact_key: Key
    """Identifies the fact on every path and redelivery."""
    topic: str = ""
    priority: int = NORMAL


class Raw(Value):
    """A message as received."""

    body: Base64Bytes
    headers: dict[str, str] = {}


_ACCOUNT = ("integration", "source", "account")
_FACT = (*_ACCOUNT, "fact_key")


class InboxRow(SQLModel, table=True):
    __tablename__ = "inbox"
    __table_args__ = (
        Index("inbox_by_fact", "integration", "source", "account", "fact_key", unique=True),
        Index(
            "inbox_pending",
            "integration",
            "source",
            "account",
            "priority",
            "id",
            postgresql_where="state = 'pending'",
        ),
        Index("inbox_started", "order_id", postgresql_where="state = 'started'"),
        Index("inbox_by_order", "order_id"),
        Index("inbox_failed", "id", postgresql_where="state = 'failed'"),
    )

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    integration: str
    source: str
    """The channel, carrier or warehouse."""
    account: str
    """The shop or carrier account."""
    fact_key: str
    topic: str = ""
    path: str = IntakePath.WEBHOOK
    priority: int = NORMAL
    raw: Raw = Col(sa_column=Column(Sealed(Raw, "inbox.raw", _FACT), nullable=False))
    state: str = InboxState.PENDING
    reason: str = ""
    field: str = ""
    attempts: int = 0
    tries: int = 0
    """How often in a row it had to wait because of an error that looked passing."""
    tried_since: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    """When the first of these was."""
    order_id: str | None = None
    actor: str = ""
    received_at: datetime = Col(sa_type=DateTime(timezone=True))
    started_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class Handling(StrEnum):
    CORRECTED = "corrected"
    DISCARDED = "discarded"


class HandlingRow(SQLModel, table=True):
    """A person's correction or discard of a failed message."""

    __tablename__ = "inbox_handlings"
    __table_args__ = (Index("inbox_handlings_by_message", "message"),)

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    message: int = Col(sa_type=BigInteger)
    what: str
    actor: str
    at: datetime = Col(sa_type=DateTime(timezone=True))
    reason: str = ""
    raw: Raw = Col(sa_column=Column(Sealed(Raw, "inbox_handlings.raw", ("id",)), nullable=False))
    """The message before it was handled."""


class ReconciliationRow(SQLModel, table=True):
    """The result of comparing a shop's orders with ours."""

    __tablename__ = "reconciliations"
    __table_args__ = (Index("reconciliations_by_shop", "channel", "shop", "started_at"),)

    id: str = Col(primary_key=True)
    """The id of its workflow."""
    channel: str
    shop: str
    since: datetime = Col(sa_type=DateTime(timezone=True))
    until: datetime = Col(sa_type=DateTime(timezone=True))
    """The window in which the orders were placed."""
    started_at: datetime = Col(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    listed: int = 0
    known: int = 0
    missing: int = 0
    pulled: int = 0
    failed: int = 0
    gone: int = 0
    """Our orders that the channel no longer lists."""
    error: str = ""
    """Why it was stopped."""
    details: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    """Order numbers: ``pulled`` and ``gone`` as lists, ``failed`` with the reasons."""


class ChannelOrderRow(SQLModel, table=True):
    """The newest version of a channel's order."""

    __tablename__ = "channel_orders"

    order_id: str = Col(primary_key=True)
    modified_at: datetime = Col(sa_type=DateTime(timezone=True))
    document: ChannelOrder = Col(
        sa_column=Column(Sealed(ChannelOrder, "channel_orders.document", ("order_id",)), nullable=False)
    )


class Secrets(Value):
    """Credentials of an account, under the vendor's names."""

    values: dict[str, str] = {}


class AccountRow(SQLModel, table=True):
    """A shop on a channel, or an account with a carrier or a warehouse system."""

    __tablename__ = "accounts"

    integration: str = Col(primary_key=True)
    source: str = Col(primary_key=True)
    account: str = Col(primary_key=True)
    base_url: str = ""
    secrets: Secrets = Col(sa_column=Column(Sealed(Secrets, "accounts.secrets", _ACCOUNT), nullable=False))
    settings: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    """For a shop: ``policy``; ``poll_seconds`` in place of the default, ``false``: never; ``overlap_seconds``;
    ``reconcile_days``."""
    cursor: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class Account(Value):
    """An account as adapters receive it."""

    integration: IntegrationType
    source: str
    account: str
    base_url: str = ""
    secrets: dict[str, str] = {}
    settings: dict[str, Any] = {}
    cursor: Moment | None = None
