"""API keys and their scopes."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel


class Scope(StrEnum):
    STAFF = "staff"
    POS = "pos"
    WAREHOUSE = "warehouse"
    READ = "read"
    SEARCH = "search"
    """Find orders by phone or buyer account, which are stored encrypted. No other scope includes it."""
    REVEAL = "reveal"
    """Read contact data in clear, one order at a time, with a reason and on record. No other scope includes it."""


class ApiKeyRow(SQLModel, table=True):
    """An API key, stored as SHA-256: the key is 256 random bits and needs no salt."""

    __tablename__ = "api_keys"

    hash: str = Col(primary_key=True)
    name: str = Col(unique=True)
    """Recorded as the actor."""
    scopes: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Col(sa_type=DateTime(timezone=True))
    revoked_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
