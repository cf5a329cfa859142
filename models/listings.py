"""What shops offer of our stock: their listings, and the rule by which they are told how many they may sell."""

from collections.abc import Mapping as Ids
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Value


class StockRule(Value):
    """How many of what is available a shop may sell: a part of it, less a buffer, within bounds."""

    percentage: Annotated[Decimal, Field(gt=0, le=100)] = Decimal(100)
    buffer: Annotated[int, Field(ge=0)] = 0
    """Kept back for what is sold between two pushes."""
    least: Annotated[int, Field(ge=0)] = 0
    """Fewer than this are offered as none."""
    most: Annotated[int, Field(ge=1)] = 9_999
    """Never more than this, also of what may be oversold."""
    locations: tuple[str, ...] = ()
    """What lies elsewhere is not offered; none named, all."""

    def offer(self, available: int) -> int:
        offered = int(max(available, 0) * self.percentage / 100) - self.buffer
        return min(offered, self.most) if offered >= max(self.least, 0) and offered > 0 else 0


def join_ids(ids: Ids[str, str]) -> str:
    """A channel's own ids as one item."""
    return ":".join(value for _, value in sorted(ids.items()))


class Match(StrEnum):
    """How it was found which SKU an item is."""

    MANUAL = "manual"
    LISTING = "listing"
    """The shop's listings say so."""
    SPELLING = "spelling"
    """But for case, width, spaces and dashes it is this SKU, and no other."""


class Mapping(Value):
    """What a shop, or where ``shop`` is empty every shop of a channel, calls a SKU or bundle."""

    channel: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    shop: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]*$")] = ""
    item: Annotated[str, Field(min_length=1, max_length=200)]
    """The seller's code as the channel tells it, or the channel's own ids joined by colons, in the order of their
    names."""
    sku: Annotated[str, Field(min_length=1, max_length=64)]


class MappingRow(SQLModel, table=True):
    """A ``Mapping``, and how it came to be."""

    __tablename__ = "mappings"

    channel: str = Col(primary_key=True)
    shop: str = Col(primary_key=True)
    item: str = Col(primary_key=True)
    sku: str
    match: str
    actor: str = ""
    at: datetime = Col(sa_type=DateTime(timezone=True))


class ListingRow(SQLModel, table=True):
    """A SKU or bundle that a shop sells, and what the shop was last told of it."""

    __tablename__ = "listings"

    channel: str = Col(primary_key=True)
    shop: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    listing: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    """The channel's own ids of it."""
    offered: int | None = None
    """What the shop was last told; ``None``: nothing yet."""
    offered_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    refused: str = ""
    """Why the channel would not hear of it."""
