"""What is printed in a warehouse: labels and packing lists, how often, and the files they were printed from."""

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
    """Width × height in mm, or the name of the paper."""

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
"""What may be printed on what; the first where nobody said."""


class PrintFormat(StrEnum):
    PDF = "pdf"
    ZPL = "zpl"


class Person(Value):
    """A recipient or sender as printed: name and phone masked already."""

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
    """Everything that is printed of one fulfillment order."""

    fulfillment_id: str
    order_no: str
    shop: str
    """``channel:shop``."""
    warehouse: str
    """Its name in the language it is printed in."""
    carrier: str
    """Its own name, as people know it."""
    waybill_no: str
    label: Label
    recipient: Person
    sender: Person
    goods: tuple[Good, ...]
    weight_kg: Decimal
    cash: Decimal | None = None
    """What the carrier collects."""
    currency: Currency = "CNY"
    note: str = ""
    """The buyer's words."""
    number: int = 1
    """1 where it is printed for the first time."""


class PrintJob(Value):
    """What is to be printed, all into one file."""

    fulfillments: tuple[str, ...]
    kind: PrintKind
    size: PrintSize
    format: PrintFormat
    dpi: int
    """Of the label printer; for ZPL alone."""
    lang: str
    actor: str


class PrintProgress(Value):
    """``left_out``: fulfillment orders that could not be printed, and why (a message key)."""

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
    """The file it is in."""
    at: datetime = Col(sa_type=DateTime(timezone=True))
    actor: str


class DocumentRow(SQLModel, table=True):
    """A printed file, sealed; while it is being made, its parts."""

    __tablename__ = "documents"
    __table_args__ = (Index("documents_by_expiry", "expires_at"),)

    id: str = Col(primary_key=True)
    part: int = Col(primary_key=True)
    """0: the whole of it."""
    content_type: str
    content: bytes = Col(sa_type=LargeBinary)
    made_at: datetime = Col(sa_type=DateTime(timezone=True))
    expires_at: datetime = Col(sa_type=DateTime(timezone=True))
