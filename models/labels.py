"""Labels and packing lists printed in a warehouse: their content, print numbers and files."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import DateTime, Index, LargeBinary
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Value
from models.fulfillment import Label
from models.money import Currency


class PrintKind(StrEnum):
    LABEL = "label"
    PACKING_LIST = "packing_list"


class PrintSize(StrEnum):
    """Width × height in mm, or the paper format."""

    TALL = "100x180"
    SHORT = "100x150"
    A5 = "a5"
    A4 = "a4"

    @property
    def mm(self) -> tuple[int, int]:
        return {"100x180": (100, 180), "100x150": (100, 150), "a5": (148, 210), "a4": (210, 297)}[self]


SIZES: dict[PrintKind, tuple[PrintSize, ...]] = {
    PrintKind.LABEL: (PrintSize.TALL, PrintSize.SHORT),
    PrintKind.PACKING_LIST: (PrintSize.A5, PrintSize.A4),
}
"""The sizes allowed for each kind; the first is the default."""


class PrintFormat(StrEnum):
    PDF = "pdf"
    ZPL = "zpl"


class Person(Value):
    """A recipient or sender as printed, with name and phone already masked."""

    name: str
    phone: str
    place: str


class Good(Value):
    sku: str
    title: str
    title_zh: str
    quantity: int
    gift: bool = False


class Slip(Value):
    """All data printed for one fulfillment order."""

    fulfillment_id: str
    order_no: str
    shop: str
    """``channel:shop``."""
    warehouse: str
    """The name of the warehouse in the language of the print."""
    carrier: str
    """The display name of the carrier."""
    booked_with: str = ""
    """The code of the carrier that booked the waybill and provides the label."""
    waybill_no: str
    label: Label
    recipient: Person
    sender: Person
    goods: tuple[Good, ...]
    weight_kg: Decimal
    cash: Decimal | None = None
    """The amount that the carrier collects on delivery."""
    currency: Currency = "CNY"
    note: str = ""
    """The buyer's message."""
    number: int = 1
    """The print number; 1 for the first print."""


class PrintJob(Value):
    """A request to print fulfillment orders into one file."""

    fulfillments: tuple[str, ...]
    kind: PrintKind
    size: PrintSize
    format: PrintFormat
    dpi: int
    """Resolution of the label printer; used for ZPL only."""
    lang: str
    actor: str


class PrintProgress(Value):
    """``left_out``: fulfillment orders that could not be printed, each with the message key of the reason."""

    done: int = 0
    total: int
    left_out: dict[str, str] = {}


class PrintRow(SQLModel, table=True):
    """One print of one fulfillment order's label or packing list. Prints are numbered from 1."""

    __tablename__ = "prints"
    __table_args__ = (Index("prints_by_document", "document", "fulfillment_id", unique=True),)

    fulfillment_id: str = Col(primary_key=True)
    kind: str = Col(primary_key=True)
    number: int = Col(primary_key=True)
    document: str
    """The id of the file."""
    at: datetime = Col(sa_type=DateTime(timezone=True))
    actor: str


class DocumentRow(SQLModel, table=True):
    """An encrypted print file, or one of its parts until all are drawn."""

    __tablename__ = "documents"
    __table_args__ = (Index("documents_by_expiry", "expires_at"),)

    id: str = Col(primary_key=True)
    part: int = Col(primary_key=True)
    """0 for the complete file."""
    content_type: str
    content: bytes = Col(sa_type=LargeBinary)
    made_at: datetime = Col(sa_type=DateTime(timezone=True))
    expires_at: datetime = Col(sa_type=DateTime(timezone=True))
