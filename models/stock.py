"""Stock: catalogue, locations, levels and the ledger, and the effect of movements on levels."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Identity, Index, Numeric, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.address import Recipient
from models.base import Value
from models.origins import Code
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
    QUARANTINED = "quarantined"
    RESTORED = "restored"
    SCRAPPED = "scrapped"


EFFECT: dict[MovementKind, tuple[int, int, int, int]] = {
    MovementKind.RECEIVED: (1, 0, 0, 0),
    MovementKind.RESERVED: (0, 0, 1, 0),
    MovementKind.RELEASED: (0, 0, -1, 0),
    MovementKind.ALLOCATED: (0, 1, 0, 0),
    MovementKind.DEALLOCATED: (0, -1, 0, 0),
    MovementKind.SHIPPED: (-1, -1, 0, 0),
    MovementKind.RETURNED: (1, 0, 0, 0),
    MovementKind.ADJUSTED: (1, 0, 0, 0),
    MovementKind.TRANSFER_OUT: (-1, 0, 0, 0),
    MovementKind.TRANSFER_IN: (1, 0, 0, 0),
    MovementKind.QUARANTINED: (0, 0, 0, 1),
    MovementKind.RESTORED: (0, 0, 0, -1),
    MovementKind.SCRAPPED: (-1, 0, 0, -1),
}
"""The effect of one unit of a movement on (on_hand, allocated, reserved, unavailable).

Only an adjustment's quantity may be negative.
"""


MAX_QUANTITY = 10_000_000
"""The largest quantity that one act may move: more is a typing error."""
UNLIMITED = 1_000_000
"""The promisable quantity of a SKU that may be oversold."""


class LocationKind(StrEnum):
    WAREHOUSE = "warehouse"
    STORE = "store"
    SUPPLIER = "supplier"
    """Ships from its own stock on our behalf (drop-ship)."""
    VIRTUAL = "virtual"
    """A share of its parent's stock, reserved for an audience; not a physical location."""


class WarehouseSystem(StrEnum):
    """What runs a location's shelves."""

    MANUAL = "manual"
    """People, who pick, pack and ship at our API or command line."""
    WMS = "wms"
    """A warehouse system that speaks our own protocol."""
    QIMEN = "qimen"
    """A warehouse system behind Alibaba's gateway 奇门."""


class Buyer(Value):
    """The facts of an order that decide which stock it may use."""

    channel: str
    shop: str
    campaign: str | None
    priority: int


class Audience(Value):
    """The orders that may use a virtual warehouse; an empty field matches every order."""

    channels: tuple[str, ...] = ()
    shops: tuple[str, ...] = ()
    """``channel:shop``."""
    campaigns: tuple[Code, ...] = ()
    priority: int | None = None
    """Orders of this priority or a more urgent one."""

    def includes(self, buyer: Buyer) -> bool:
        return (
            (not self.channels or buyer.channel in self.channels)
            and (not self.shops or f"{buyer.channel}:{buyer.shop}" in self.shops)
            and (not self.campaigns or buyer.campaign in self.campaigns)
            and (self.priority is None or buyer.priority <= self.priority)
        )


class VirtualWarehouse(Value):
    """A virtual warehouse: a share of its parent's stock."""

    code: str
    parent: str
    audience: Audience


class Level(Value):
    """Stock of one SKU at one location."""

    warehouse: str
    sku: str
    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0
    safety_stock: int = 0
    unavailable: int = 0
    """Damaged, or in quality control."""
    oversell: bool = False

    @property
    def available(self) -> int:
        return self.on_hand - self.allocated - self.reserved - self.safety_stock - self.unavailable

    @property
    def promisable(self) -> int:
        """The quantity that orders may be promised."""
        return UNLIMITED if self.oversell else max(self.available, 0)


class StockPool:
    """What locations can promise while orders take from them in turn: the virtual warehouses open to the order first,
    then the warehouse's own stock."""

    def __init__(self, levels: Iterable[Level], virtual: Iterable[VirtualWarehouse] = ()) -> None:
        self._free = {(level.warehouse, level.sku): level.promisable for level in levels}
        self._virtual: dict[str, list[VirtualWarehouse]] = defaultdict(list)
        for each in virtual:
            self._virtual[each.parent].append(each)

    def promisable(self, buyer: Buyer, warehouse: str, sku: str) -> int:
        return sum(max(self._free.get((place, sku), 0), 0) for place in self._places(buyer, warehouse))

    def take(self, buyer: Buyer, warehouse: str, sku: str, quantity: int) -> list[tuple[str, int]]:
        """Take up to a quantity; return the locations and the quantity taken from each."""
        taken = []
        for place in self._places(buyer, warehouse):
            part = min(quantity, max(self._free.get((place, sku), 0), 0))
            if part:
                self._free[place, sku] -= part
                quantity -= part
                taken.append((place, part))
        return taken

    def put(self, location: str, sku: str, quantity: int) -> None:
        self._free[location, sku] = self._free.get((location, sku), 0) + quantity

    def _places(self, buyer: Buyer, warehouse: str) -> list[str]:
        virtual = [each.code for each in self._virtual.get(warehouse, ()) if each.audience.includes(buyer)]
        return [*virtual, warehouse]


class Shortage(Value):
    """A missing quantity of one SKU."""

    sku: str
    quantity: int


class Move(Value):
    """A movement of one SKU at a location; the quantity is negative only in an adjustment."""

    key: str
    kind: MovementKind
    warehouse: str
    sku: str
    quantity: int
    order_id: str | None = None
    reason: str = ""
    actor: str = "hengdan"


class Reservation(Value):
    """Stock reserved for an unpaid order."""

    order_id: str
    warehouse: str
    sku: str
    quantity: int
    number: int
    """1 for the order's first reservation, 2 for its next: each is entered once and released once."""

    def move(self, kind: MovementKind) -> Move:
        """Return the movement that reserves or releases it."""
        return Move(
            key=f"{self.order_id}:R{self.number}:{kind}",
            kind=kind,
            warehouse=self.warehouse,
            sku=self.sku,
            quantity=self.quantity,
            order_id=self.order_id,
        )


SPELT = r"upper(regexp_replace(normalize({}, NFKC), '[\s_\-\u2010-\u2015\u2212]+', '', 'g'))"
"""SQL of a code without case, width, spaces and dashes."""


class SkuRow(SQLModel, table=True):
    """A SKU or bundle of the catalogue. A bundle holds no stock: its components do."""

    __tablename__ = "skus"
    __table_args__ = (Index("skus_by_spelling", text(SPELT.format("sku"))),)

    sku: str = Col(primary_key=True)
    title: str
    title_zh: str = ""
    price: Decimal = Col(sa_column=Column(Numeric(18, 4), nullable=False))
    currency: str = "CNY"
    weight_kg: Decimal = Col(sa_column=Column(Numeric(10, 3), nullable=False))
    volume_cm3: int = 0
    needs: list[str] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False, default=list))
    """Abilities that a location needs to ship it: ``cold_chain``, ``dangerous_goods``."""
    oversell: bool = False
    """Back-order or presale: may be promised beyond available stock."""
    presale_on: date | None = None
    """Presale: ships on this day, in China, at the earliest."""


class SubstituteRow(SQLModel, table=True):
    """A SKU that may be shipped instead if the shop allows it, the lowest rank first."""

    __tablename__ = "substitutes"

    sku: str = Col(primary_key=True)
    substitute: str = Col(primary_key=True)
    rank: int = 100


class BundleRow(SQLModel, table=True):
    """One component of a bundle."""

    __tablename__ = "bundles"
    __table_args__ = (CheckConstraint("quantity > 0", name="bundle_quantity_positive"),)

    bundle: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    quantity: int


class WarehouseRow(SQLModel, table=True):
    """A location: own warehouse, store, supplier, or a virtual warehouse within another."""

    __tablename__ = "warehouses"

    code: str = Col(primary_key=True)
    kind: str = LocationKind.WAREHOUSE
    parent: str | None = None
    """The location where a virtual warehouse's goods lie and from which they ship."""
    audience: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False, default=dict))
    """The ``Audience`` of a virtual warehouse."""
    share: Decimal = Col(default=Decimal(0), sa_column=Column(Numeric(5, 4), nullable=False, default=0))
    """The fraction of its parent's receipts that a virtual warehouse gets."""
    name: str
    name_zh: str = ""
    province: str
    rank: int = 100
    """Between equal plans, the lower rank ships."""
    sender: Recipient | None = Col(default=None, sa_column=Column(Sealed(Recipient, "warehouses.sender", ("code",))))
    carrier: str
    """The carrier account that picks up here by default."""
    system: str = WarehouseSystem.MANUAL
    closed: bool = False
    lead_days: int = 0
    """Days before goods leave, such as a supplier's."""
    capacity: int | None = None
    """Fulfillment orders it can take a day; ``None`` for any number."""
    cutoff: time | None = None
    """Time of day in China; later orders leave a day later."""
    areas: list[str] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False, default=list))
    """Provinces it delivers to; empty for all."""
    abilities: list[str] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False, default=list))
    max_kg: Decimal | None = Col(default=None, sa_column=Column(Numeric(10, 3)))
    """The heaviest single piece it can ship."""
    handling: Decimal = Col(default=Decimal(0), sa_column=Column(Numeric(18, 4), nullable=False, default=0))
    """Cost of one parcel, in the currency of its rates."""


class LevelRow(SQLModel, table=True):
    """The level of a SKU at a warehouse. Constraints refuse negative quantities."""

    __tablename__ = "stock_levels"
    __table_args__ = (
        CheckConstraint("on_hand >= 0", name="on_hand_not_negative"),
        CheckConstraint("allocated >= 0", name="allocated_not_negative"),
        CheckConstraint("reserved >= 0", name="reserved_not_negative"),
        CheckConstraint("safety_stock >= 0", name="safety_stock_not_negative"),
        CheckConstraint("unavailable >= 0", name="unavailable_not_negative"),
        CheckConstraint(
            "oversell OR on_hand - allocated - reserved - safety_stock - unavailable >= 0",
            name="available_not_negative",
        ),
        Index("stock_levels_by_sku", "sku"),
    )

    warehouse: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0
    safety_stock: int = 0
    unavailable: int = 0
    oversell: bool = False


class MovementRow(SQLModel, table=True):
    """One immutable row of the ledger. The sums of its rows are the levels."""

    __tablename__ = "movements"
    __table_args__ = (
        Index("movements_by_key", "key", "warehouse", "sku", unique=True),
        Index("movements_by_sku", "sku", "warehouse", "id"),
        Index("movements_by_order", "order_id"),
    )

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    key: str
    """The act that caused it, such as ``{fulfillment id}:allocated``: no act moves anything twice."""
    warehouse: str
    sku: str
    kind: str
    quantity: int
    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0
    unavailable: int = 0
    order_id: str | None = None
    reason: str = ""
    actor: str = "hengdan"
    at: datetime = Col(sa_type=DateTime(timezone=True))


class StockWaitRow(SQLModel, table=True):
    """An order that waits for a SKU, and its place in the queue."""

    __tablename__ = "stock_waits"
    __table_args__ = (Index("stock_waits_by_sku", "sku", "priority", "since"),)

    order_id: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    quantity: int
    priority: int
    since: datetime = Col(sa_type=DateTime(timezone=True))
    campaign: str | None = None
    province: str = ""
    """The destination: stock at locations that do not deliver there does not count."""
    instead: list[str] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False, default=list))
    """Substitutes that would do, the best first."""
    claims: bool = False
    """Whether stock arrived that the order was not filled from: what arrives from now on is first its own."""


class ReservationRow(SQLModel, table=True):
    """A ``Reservation`` in force, counted in its level as reserved."""

    __tablename__ = "reservations"

    order_id: str = Col(primary_key=True)
    warehouse: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    quantity: int
    number: int


class IncomingRow(SQLModel, table=True):
    """An expected receipt: not available, but counted in what can be promised by a date."""

    __tablename__ = "incoming"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="incoming_positive"),
        Index("incoming_by_sku", "sku", "warehouse", "due"),
    )

    source: str = Col(primary_key=True)
    """The id of its transfer, purchase order or notice."""
    warehouse: str = Col(primary_key=True)
    sku: str = Col(primary_key=True)
    quantity: int
    due: date


class ThresholdRow(SQLModel, table=True):
    """The quantity below which an exception opens."""

    __tablename__ = "thresholds"
    __table_args__ = (CheckConstraint("below > 0", name="threshold_positive"),)

    sku: str = Col(primary_key=True)
    warehouse: str = Col(primary_key=True)
    """Empty for all locations together."""
    below: int


class StocktakeStatus(StrEnum):
    COUNTED = "counted"
    APPROVED = "approved"
    DISCARDED = "discarded"


class StocktakeRow(SQLModel, table=True):
    """A count of a location; approval enters its differences from book stock."""

    __tablename__ = "stocktakes"

    id: str = Col(primary_key=True)
    warehouse: str
    status: str = StocktakeStatus.COUNTED
    lines: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    """``{"sku", "book", "counted"}``, where ``book`` is the book quantity at the time of the count."""
    counted_by: str
    counted_at: datetime = Col(sa_type=DateTime(timezone=True))
    decided_by: str | None = None
    decided_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))
