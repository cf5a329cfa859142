"""Replenishment: on what terms goods are bought, what is suggested and what was ordered, and the arithmetic of it."""

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
from models.money import Amount, Currency

HORIZON_DAYS = 365
"""What runs out later than that is not said to run out."""


class Terms(Value):
    """On what terms a SKU is bought for a location; ``warehouse`` empty: for any that has none of its own."""

    sku: Annotated[str, Field(min_length=1, max_length=64)]
    warehouse: str = ""
    supplier: Annotated[str, Field(min_length=1, max_length=100)]
    lead_days: Annotated[int, Field(ge=0, le=HORIZON_DAYS)]
    lead_spread_days: Annotated[float, Field(ge=0, le=HORIZON_DAYS)] = 0
    """Standard deviation of the lead time."""
    review_days: Annotated[int, Field(ge=1, le=HORIZON_DAYS)] = 7
    """For so long one purchase is to last."""
    pack_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    minimum_quantity: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    service_level: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    """The part of lead times in which it does not run out."""
    unit_cost: Annotated[Amount, Field(ge=0)] = Decimal(0)
    currency: Currency = "CNY"


class Promotion(Value):
    """From its first to its last day, in China, sales were not what they usually are; ``sku`` empty: of everything."""

    sku: str = ""
    first: date
    last: date


class Demand(StrEnum):
    """What a history of demand is like, after Syntetos and Boylan."""

    NONE = "none"
    SHORT = "short"
    SMOOTH = "smooth"
    ERRATIC = "erratic"
    INTERMITTENT = "intermittent"
    LUMPY = "lumpy"


class Forecast(Value):
    """What is expected of each coming day."""

    demand: Demand
    model: str
    per_day: float
    spread: float
    """Standard deviation of one day's error."""
    days: int
    """How long the history was."""


class StockPosition(Value):
    """Where a SKU stands at a location."""

    available: int = 0
    incoming: tuple[tuple[date, int], ...] = ()
    waiting: int = 0
    """What orders wait for."""

    @property
    def coming(self) -> int:
        return sum(quantity for _, quantity in self.incoming)

    @property
    def position(self) -> int:
        return self.available + self.coming - self.waiting


class Need(Value):
    """What is to be bought, and the figures that say why."""

    quantity: int
    reorder_point: int
    safety: int
    target: int
    order_by: date
    stock_out_on: date | None


def safety_stock(terms: Terms, forecast: Forecast) -> float:
    """z · √(L·σd² + d²·σL²): what the service level asks for beyond the mean demand of a lead time, where both the
    demand and the lead time vary (Silver, Pyke and Thomas, *Inventory and Production Management in Supply Chains*,
    4th edition, §6.10)."""
    z = NormalDist().inv_cdf(terms.service_level)
    variance = terms.lead_days * forecast.spread**2 + (forecast.per_day * terms.lead_spread_days) ** 2
    return z * sqrt(variance)


def in_packs(quantity: int, terms: Terms) -> int:
    """As many whole packs as it takes, and no less than the supplier's minimum."""
    return ceil(max(quantity, terms.minimum_quantity) / terms.pack_size) * terms.pack_size


def need(terms: Terms, forecast: Forecast, standing: StockPosition, today: date) -> Need:
    """What to buy today: nothing while the position is above the reorder point d·L + safety stock; else up to what
    lasts for the lead time and until the next purchase."""
    safety = safety_stock(terms, forecast)
    reorder_point = ceil(forecast.per_day * terms.lead_days + safety)
    target = ceil(forecast.per_day * (terms.lead_days + terms.review_days) + safety)
    lacking = target - standing.position if standing.position <= reorder_point else 0
    out = stock_out(forecast, standing, today)
    return Need(
        quantity=in_packs(lacking, terms) if lacking > 0 else 0,
        reorder_point=reorder_point,
        safety=ceil(safety),
        target=target,
        order_by=today if out is None else max(today, out - timedelta(days=terms.lead_days)),
        stock_out_on=out,
    )


def stock_out(forecast: Forecast, standing: StockPosition, today: date) -> date | None:
    """The first day on which the mean demand is more than what is there and has come by then."""
    there: float = standing.available - standing.waiting
    if there < 0:
        return today
    if not forecast.per_day:
        return None
    arrivals = sorted((max(day, today), quantity) for day, quantity in standing.incoming)
    since = today
    for day, quantity in [*arrivals, (date.max, 0)]:
        if there > forecast.per_day * HORIZON_DAYS:
            break
        lasting = floor(max(there, 0.0) / forecast.per_day)
        if (runs_out := since + timedelta(days=lasting)) < day:
            return runs_out if (runs_out - today).days <= HORIZON_DAYS else None
        there += quantity - forecast.per_day * (day - since).days
        since = day
    return None


class ReplenishmentStatus(StrEnum):
    SUGGESTED = "suggested"
    ACCEPTED = "accepted"
    DISMISSED = "dismissed"
    SUPERSEDED = "superseded"


class PurchaseStatus(StrEnum):
    ORDERED = "ordered"
    PARTIALLY_RECEIVED = "partially_received"
    RECEIVED = "received"
    CANCELLED = "cancelled"


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
    """A suggestion to buy. Of a SKU at a location one is open at most."""

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
    """Ordered later, it is expected to run out before the goods arrive."""
    stock_out_on: date | None = None
    detail: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    """The figures it follows from: what ``replenish.why`` takes."""
    status: str = ReplenishmentStatus.SUGGESTED
    made_at: datetime = Col(sa_type=DateTime(timezone=True))
    decided_by: str | None = None
    decided_at: datetime | None = Col(default=None, sa_type=DateTime(timezone=True))


class PurchaseOrderRow(SQLModel, table=True):
    """What was ordered of a supplier, for one location."""

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
