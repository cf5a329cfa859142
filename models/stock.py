"""Stock: catalogue, levels, the ledger, and the arithmetic that keeps them equal."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Identity, Index, Numeric
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.address import Recipient
from models.base import Value
from models.vault import Sealed


class MovementKind(StrEnum):
    RECEIVED = "received"
    RESERVED = "reserved"
    RELEASED = "released"
    ALLOCATED = "allocated"
    DEALLOCATED = "deallocated"
    SHIPPED = "shipped"
    RETURNED = "returned"
    ADJUSTED = "adjusted"
    TRANSFER_OUT = "transfer_out"
    TRANSFER_IN = "transfer_in"


EFFECT: dict[MovementKind, tuple[int, int, int]] = {
    MovementKind.RECEIVED: (1, 0, 0),
    MovementKind.RESERVED: (0, 0, 1),
    MovementKind.RELEASED: (0, 0, -1),
    MovementKind.ALLOCATED: (0, 1, 0),
    MovementKind.DEALLOCATED: (0, -1, 0),
    MovementKind.SHIPPED: (-1, -1, 0),
    MovementKind.RETURNED: (1, 0, 0),
    MovementKind.ADJUSTED: (1, 0, 0),
    MovementKind.TRANSFER_OUT: (-1, 0, 0),
    MovementKind.TRANSFER_IN: (1, 0, 0),
}
"""What one unit of a movement does to (on_hand, allocated, reserved). Only an adjustment's quantity may be negative."""


BEYOND = 1_000_000
"""What may be promised of a SKU that may be oversold."""


class Level(Value):
    """Stock of one SKU at one warehouse."""

    warehouse: str
    sku: str
    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0
    safety_stock: int = 0
    oversell: bool = False

    @property
    def available(self) -> int:
        return self.on_hand - self.allocated - self.reserved - self.safety_stock

    @property
    def promisable(self) -> int:
        """How many an order may be given."""
        return BEYOND if self.oversell else max(self.available, 0)


class Shortage(Value):
    """So many of a SKU are missing."""

    sku: str
    quantity: int


class SkuRow(SQLModel, table=True):
    """What is sold. A bundle holds no stock: its components do."""

    __tablename__ = "skus"

    sku: str = Col(primary_key=True)
    title: str
    title_zh: str = ""
    price: Decimal = Col(sa_column=Column(Numeric(18, 4), nullable=False))
    currency: str = "CNY"
    weight_kg: Decimal = Col(sa_column=Column(Numeric(10, 3), nullable=False))
    oversell: bool = False
    """Back-order or presale: may be promised beyond what is there."""


class BundleRow(SQLModel, table=True):
    """One component of a bundle."""

    __tablename__ = "bundles"
    __table_args__ = (CheckConstraint("quantity > 0", name="bundle_quantity_positive"),)

    bundle: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    quantity: int


class WarehouseRow(SQLModel, table=True):
    __tablename__ = "warehouses"

    code: str = Col(primary_key=True)
    name: str
    name_zh: str = ""
    province: str
    rank: int = 100
    """Between equals, the lower one ships."""
    sender: Recipient | None = Col(default=None, sa_column=Column(Sealed(Recipient, "warehouses.sender")))
    carrier: str
    """The carrier account that picks up here by default."""
    closed: bool = False


class LevelRow(SQLModel, table=True):
    """The level per warehouse and SKU. The database itself refuses what must never be."""

    __tablename__ = "stock_levels"
    __table_args__ = (
        CheckConstraint("on_hand >= 0", name="on_hand_not_negative"),
        CheckConstraint("allocated >= 0", name="allocated_not_negative"),
        CheckConstraint("reserved >= 0", name="reserved_not_negative"),
        CheckConstraint("safety_stock >= 0", name="safety_stock_not_negative"),
        CheckConstraint(
            "oversell OR on_hand - allocated - reserved - safety_stock >= 0", name="available_not_negative"
        ),
        Index("stock_levels_by_sku", "sku"),
    )

    warehouse: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0
    safety_stock: int = 0
    oversell: bool = False


class MovementRow(SQLModel, table=True):
    """One immutable row of the ledger: its sums are the levels."""

    __tablename__ = "movements"
    __table_args__ = (
        Index("movements_by_key", "key", "warehouse", "sku", unique=True),
        Index("movements_by_sku", "sku", "warehouse", "id"),
        Index("movements_by_order", "order_id"),
    )

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    key: str
    """The act that caused it, such as ``{fulfillment id}:allocated``: the same act moves nothing twice."""
    warehouse: str
    sku: str
    kind: str
    quantity: int
    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0
    order_id: str | None = None
    reason: str = ""
    actor: str = "hengdan"
    at: datetime = Col(sa_type=DateTime(timezone=True))


class StockWaitRow(SQLModel, table=True):
    """An order that waits for a SKU: who is woken, in which order, when it arrives."""

    __tablename__ = "stock_waits"
    __table_args__ = (Index("stock_waits_by_sku", "sku", "priority", "since"),)

    order_id: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    quantity: int
    priority: int
    since: datetime = Col(sa_type=DateTime(timezone=True))
