"""What shops offer of our stock: their listings, and the rule by which they are told how many they may sell."""

from datetime import datetime
from decimal import Decimal
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
