"""The listings of shops, and the rules for the quantities they may sell."""

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
    """How much of the available stock a shop may sell: a percentage, less a buffer, within bounds."""

    percentage: Annotated[Decimal, Field(gt=0, le=100)] = Decimal(100)
    buffer: Annotated[int, Field(ge=0)] = 0
    """Withheld for sales between two pushes."""
    least: Annotated[int, Field(ge=0)] = 0
    """Offer 0 below this quantity."""
    most: Annotated[int, Field(ge=1)] = 9_999
    """The largest quantity to offer, also of SKUs that may be oversold."""
    locations: tuple[str, ...] = ()
    """The locations whose stock is offered; empty for all."""

    def offer(self, available: int) -> int:
        """Return the quantity to offer."""
        offered = int(max(available, 0) * self.percentage / 100) - self.buffer
        return min(offered, self.most) if offered >= max(self.least, 0) and offered > 0 else 0


def join_ids(ids: Ids[str, str]) -> str:
    """Return a channel's own ids as one item code, in the order of their names."""
    return ":".join(value for _, value in sorted(ids.items()))


class Match(StrEnum):
    """How the SKU of an item was found."""

    MANUAL = "manual"
    LISTING = "listing"
    """By the shop's listings."""
    SPELLING = "spelling"
    """By spelling: only this SKU is the same apart from case, width, spaces and dashes."""


class Mapping(Value):
    """The item code of a SKU or bundle in a shop, or in every shop of a channel where ``shop`` is empty."""

    channel: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    shop: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]*$")] = ""
    item: Annotated[str, Field(min_length=1, max_length=200)]
    """The seller's code as the channel sends it, or the channel's own ids joined by colons in the order of their
    names."""
    sku: Annotated[str, Field(min_length=1, max_length=64)]


class MappingRow(SQLModel, table=True):
    """A ``Mapping`` and how it was found."""

    __tablename__ = "mappings"

    channel: str = Col(primary_key=True)
    shop: str = Col(primary_key=True)
    item: str = Col(primary_key=True)
    sku: str
    match: str
    actor: str = ""
    at: datetime = Col(sa_type=DateTime(timezone=True))


class ListingRow(SQLModel, table=True):
    """A SKU or bundle that a shop sells, and the quantity last pushed to the shop."""

    __tablename__ = "listings"

    channel: str = Col(primary_key=True)
    shop: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    listing: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    """The channel's own ids."""
    offered: int | None = None
    """The quantity last pushed; ``None`` before the first push."""
    offered_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
    refused: str = ""
    """Why the channel refused the quantity; empty where it accepted."""
