"""Replenishment: purchase terms, forecasts, suggestions and purchase orders, and the arithmetic between them."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from math import ceil, floor, sqrt
from statistics import NormalDist
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import CheckConstraint, Column, DateTime, Index, Numeric
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Value
from models.i18n import named
from models.money import Amount, Currency

HORIZON_DAYS = 365
"""The horizon of stock-out dates, and the limit of lead and review times."""


class Terms(Value):
    """Purchase terms of a SKU for a location; empty ``warehouse``: for every location without its own."""

    sku: Annotated[str, Field(min_length=1, max_length=64)]
    warehouse: str = ""
    supplier: Annotated[str, Field(min_length=1, max_length=100)]
    lead_days: Annotated[int, Field(ge=0, le=HORIZON_DAYS)]
    lead_spread_days: Annotated[float, Field(ge=0, le=HORIZON_DAYS)] = 0
    """Standard deviation of the lead time."""
    review_days: Annotated[int, Field(ge=1, le=HORIZON_DAYS)] = 7
    """Days that one purchase is to last."""
    pack_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    minimum_quantity: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    service_level: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    """The fraction of lead times without a stock-out."""
    unit_cost: Annotated[Amount, Field(ge=0)] = Decimal(0)
    currency: Currency = "CNY"


class Promotion(Value):
    """Days, in China, on which sales were unusual, both inclusive; empty ``sku``: of all SKUs."""

    sku: str = ""
    first: date
    last: date


class Demand(StrEnum):
    """The demand pattern of a history, after Syntetos and Boylan."""

    NONE = "none"
    SHORT = "short"
    SMOOTH = "smooth"
    ERRATIC = "erratic"
    INTERMITTENT = "intermittent"
    LUMPY = "lumpy"


class Forecast(Value):
    """The demand expected of each coming day."""

    demand: Demand
    model: str
    per_day: float
    spread: float
    """Standard deviation of one day's error."""
    days: int
    """The length of the history."""


class StockPosition(Value):
    """The stock position of a SKU at a location."""

    available: int = 0
    incoming: tuple[tuple[date, int], ...] = ()
    waiting: int = 0
    """The quantity that orders wait for."""

    @property
    def incoming_quantity(self) -> int:
        return sum(quantity for _, quantity in self.incoming)

    @property
    def position(self) -> int:
        return self.available + self.incoming_quantity - self.waiting


class Need(Value):
    """The quantity to buy, and the figures behind it."""

    quantity: int
    reorder_point: int
    safety: int
    target: int
    order_by: date
    stock_out_on: date | None


def safety_stock(terms: Terms, forecast: Forecast) -> float:
    """Return z · √(L·σd² + d²·σL²): the stock that the service level requires beyond the mean demand of a lead time,
    where both demand and lead time vary (Silver, Pyke and Thomas, *Inventory and Production Management in Supply
    Chains*, 4th edition, §6.10)."""
    z = NormalDist().inv_cdf(terms.service_level)
    variance = terms.lead_days * forecast.spread**2 + (forecast.per_day * terms.lead_spread_days) ** 2
    return z * sqrt(variance)


def in_packs(quantity: int, terms: Terms) -> int:
    """Round up to whole packs, and to the supplier's minimum."""
    return ceil(max(quantity, terms.minimum_quantity) / terms.pack_size) * terms.pack_size


def need(terms: Terms, forecast: Forecast, position: StockPosition, today: date) -> Need:
    """Return what to buy today: nothing while the position is above the reorder point d·L + safety stock, otherwise
    enough to last for the lead time and until the next purchase."""
    safety = safety_stock(terms, forecast)
    reorder_point = ceil(forecast.per_day * terms.lead_days + safety)
    target = ceil(forecast.per_day * (terms.lead_days + terms.review_days) + safety)
    shortfall = target - position.position if position.position <= reorder_point else 0
    out = stock_out(forecast, position, today)
    return Need(
        quantity=in_packs(shortfall, terms) if shortfall > 0 else 0,
        reorder_point=reorder_point,
        safety=ceil(safety),
        target=target,
        order_by=today if out is None else max(today, out - timedelta(days=terms.lead_days)),
        stock_out_on=out,
    )


def stock_out(forecast: Forecast, position: StockPosition, today: date) -> date | None:
    """Return the first day on which the mean demand exceeds stock and arrivals; ``None`` if none within the horizon."""
    stock: float = position.available - position.waiting
    if stock < 0:
        return today
    if not forecast.per_day:
        return None
    arrivals = sorted((max(day, today), quantity) for day, quantity in position.incoming)
    since = today
    for day, quantity in [*arrivals, (date.max, 0)]:
        if stock > forecast.per_day * HORIZON_DAYS:
            break
        lasting = floor(max(stock, 0.0) / forecast.per_day)
        if (runs_out := since + timedelta(days=lasting)) < day:
            return runs_out if (runs_out - today).days <= HORIZON_DAYS else None
        stock += quantity - forecast.per_day * (day - since).days
        since = day
    return None


class ReplenishmentStatus(StrEnum):
    SUGGESTED = "suggested"
    ACCEPTED = "accepted"
    DISMISSED = "dismissed"
    SUPERSEDED = "superseded"

    _missing_ = named("replenishment")


class PurchaseStatus(StrEnum):
    ORDERED = "ordered"
    PARTIALLY_RECEIVED = "partially_received"
    RECEIVED = "received"
    CANCELLED = "cancelled"

    _missing_ = named("purchase")


class PurchaseLine(Value):
    sku: str
    ordered: int
    received: int = 0

    @property
    def outstanding(self) -> int:
        return self.ordered - self.received


class TermsRow(SQLModel, table=True):
    """``Terms``."""

    __tablename__ = "purchase_terms"
    __table_args__ = (
        CheckConstraint("lead_days >= 0", name="lead_not_negative"),
        CheckConstraint("pack_size > 0", name="pack_positive"),
    )

    sku: str = Col(primary_key=True)
    warehouse: str = Col(primary_key=True)
    supplier: str
    lead_days: int
    lead_spread_days: float
    review_days: int
    pack_size: int
    minimum_quantity: int
    service_level: float
    unit_cost: Decimal = Col(sa_column=Column(Numeric(18, 4), nullable=False))
    currency: str


class PromotionRow(SQLModel, table=True):
    """``Promotion``."""

    __tablename__ = "promotions"
    __table_args__ = (CheckConstraint("last >= first", name="promotion_in_order"),)

    sku: str = Col(primary_key=True)
    first: date = Col(primary_key=True)
    last: date


class ReplenishmentRow(SQLModel, table=True):
    """A purchase suggestion. At most one is open for a SKU at a location."""

    __tablename__ = "replenishments"
    __table_args__ = (
        Index("replenishments_open", "sku", "warehouse", unique=True, postgresql_where="status = 'suggested'"),
        Index("replenishments_by_status", "status", "order_by"),
    )

    id: str = Col(primary_key=True)
    sku: str
    warehouse: str
    quantity: int
    reorder_point: int
    order_by: date
    """If ordered later, stock is expected to run out before the goods arrive."""
    stock_out_on: date | None = None
    detail: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    """The figures behind it, as the text ``replenish.why`` takes them."""
    status: str = ReplenishmentStatus.SUGGESTED
    made_at: datetime = Col(sa_type=DateTime(timezone=True))
    decided_by: str | None = None
    decided_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class PurchaseOrderRow(SQLModel, table=True):
    """An order to a supplier, for one location."""

    __tablename__ = "purchase_orders"
    __table_args__ = (Index("purchase_orders_by_status", "status", "due"),)

    id: str = Col(primary_key=True)
    warehouse: str
    supplier: str
    lines: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    """``PurchaseLine``."""
    status: str = PurchaseStatus.ORDERED
    due: date
    created_by: str
    created_at: datetime = Col(sa_type=DateTime(timezone=True))
