"""The inbox: everything the outside world told us, committed before it is acknowledged."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Base64Bytes
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Moment, Value
from models.order import NORMAL, ChannelOrder
from models.origins import IntakePath
from models.vault import Sealed


class IntegrationType(StrEnum):
    """Who speaks. Channel rows may start orders and are paced; the others only wake them."""

    CHANNEL = "channel"
    CARRIER = "carrier"
    WAREHOUSE = "warehouse"
    INTERNAL = "internal"
    MEDIA = "media"
    """By which people are notified; it says nothing itself."""


class InboxState(StrEnum):
    PENDING = "pending"
    STARTED = "started"
    """Its order entered the engine and has not come to rest yet."""
    DONE = "done"
    FAILED = "failed"
    """Not understood: ``reason`` says why; a person corrects and retries it."""
    DISCARDED = "discarded"
    """Not understood, and a person said that it need not be."""


class Receipt(Value):
    """What a door learns of a message before it acknowledges it."""

    fact_key: str
    """The same fact, delivered again by any path, has the same key."""
    topic: str = ""
    priority: int = NORMAL


class Raw(Value):
    """A message as it came."""

    body: Base64Bytes
    headers: dict[str, str] = {}


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
    raw: Raw = Col(sa_column=Column(Sealed(Raw, "inbox.raw"), nullable=False))
    state: str = InboxState.PENDING
    reason: str = ""
    field: str = ""
    attempts: int = 0
    order_id: str | None = None
    actor: str = ""
    received_at: datetime = Col(sa_type=DateTime(timezone=True))
    started_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class Handling(StrEnum):
    CORRECTED = "corrected"
    DISCARDED = "discarded"


class HandlingRow(SQLModel, table=True):
    """What a person did to a message that was not understood."""

    __tablename__ = "inbox_handlings"
    __table_args__ = (Index("inbox_handlings_by_message", "message"),)

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    message: int = Col(sa_type=BigInteger)
    what: str
    actor: str
    at: datetime = Col(sa_type=DateTime(timezone=True))
    reason: str = ""
    raw: Raw = Col(sa_column=Column(Sealed(Raw, "inbox_handlings.raw"), nullable=False))
    """The message as it was before."""


class ReconciliationRow(SQLModel, table=True):
    """What a shop's orders, held against ours, had for a result."""

    __tablename__ = "reconciliations"
    __table_args__ = (Index("reconciliations_by_shop", "channel", "shop", "started_at"),)

    id: str = Col(primary_key=True)
    """Its workflow's."""
    channel: str
    shop: str
    since: datetime = Col(sa_type=DateTime(timezone=True))
    until: datetime = Col(sa_type=DateTime(timezone=True))
    """Of placing."""
    started_at: datetime = Col(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    listed: int = 0
    known: int = 0
    missing: int = 0
    pulled: int = 0
    failed: int = 0
    gone: int = 0
    """Of ours, what the channel does not list any more."""
    error: str = ""
    """Why it was given up."""
    details: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    """The numbers of what was ``pulled`` and is ``gone``; of what ``failed``, why."""


class ChannelOrderRow(SQLModel, table=True):
    """The newest the channel said of an order."""

    __tablename__ = "channel_orders"

    order_id: str = Col(primary_key=True)
    modified_at: datetime = Col(sa_type=DateTime(timezone=True))
    document: ChannelOrder = Col(sa_column=Column(Sealed(ChannelOrder, "channel_orders.document"), nullable=False))


class Secrets(Value):
    """Credentials of an account: names as the vendor calls them."""

    values: dict[str, str] = {}


class AccountRow(SQLModel, table=True):
    """A shop on a channel, or an account with a carrier or a warehouse system."""

    __tablename__ = "accounts"

    integration: str = Col(primary_key=True)
    source: str = Col(primary_key=True)
    account: str = Col(primary_key=True)
    base_url: str = ""
    secrets: Secrets = Col(sa_column=Column(Sealed(Secrets, "accounts.secrets"), nullable=False))
    settings: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    """For a shop: its ``policy``; ``poll_seconds``, where it is not to be polled as others are, ``false``: never;
    ``overlap_seconds``; ``reconcile_days``."""
    cursor: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class Account(Value):
    """An account as adapters are given it."""

    integration: IntegrationType
    source: str
    account: str
    base_url: str = ""
    secrets: dict[str, str] = {}
    settings: dict[str, Any] = {}
    cursor: Moment | None = None
