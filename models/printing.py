"""What goes onto paper with a parcel, and what was printed."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import DateTime, Index
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.address import Addressee
from models.base import Value
from models.fulfillment import FulfillmentLine, Label


class Paper(StrEnum):
    """Of labels, in millimetres."""

    HIGH = "100x180"
    LOW = "100x150"

    @property
    def size(self) -> tuple[int, int]:
        width, _, height = self.value.partition("x")
        return int(width), int(height)


class PrintKind(StrEnum):
    LABEL = "label"
    PACKING_LIST = "packing_list"


class Sheet(Value):
    """All that one label or packing list shows; the phones on it are masked."""

    fulfillment_id: str
    order_no: str
    shop: str
    carrier: str
    waybill_no: str
    label: Label
    sender: Addressee
    recipient: Addressee
    lines: tuple[FulfillmentLine, ...]
    titles: dict[str, str] = {}
    """By SKU."""
    weight_kg: Decimal
    cash_on_delivery: Decimal | None = None
    printed: int = 0
    """How often it was printed before."""


class PrintRow(SQLModel, table=True):
    """One printing of one sheet: reprints are counted, and known by whom."""

    __tablename__ = "prints"
    __table_args__ = (Index("prints_of", "fulfillment_id", "kind"),)

    id: int | None = Col(default=None, primary_key=True)
    fulfillment_id: str
    kind: str
    at: datetime = Col(sa_type=DateTime(timezone=True))
    actor: str
