"""Settlements: a claim on a carrier, or a refund to a buyer, for a parcel that went wrong."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field
from sqlalchemy import Column, DateTime, Index, Numeric
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Value
from models.money import Amount


class SettlementKind(StrEnum):
    CLAIM = "claim"
    """The carrier owes money."""
    REFUND = "refund"
    """The buyer gets money back, through the channel."""


class SettlementState(StrEnum):
    OPEN = "open"
    ASKED = "asked"
    """The claim is filed, or the refund is in progress."""
    PAID = "paid"
    REFUSED = "refused"


class Settling(Value):
    """Changes to a settlement; ``None`` leaves a field unchanged."""

    state: SettlementState | None = None
    amount: Annotated[Amount, Field(ge=0)] | None = None
    paid: Annotated[Amount, Field(ge=0)] | None = None
    reference: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] | None = None
    """The carrier's claim number, or the channel's refund number."""
    note: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] | None = None


class SettlementRow(SQLModel, table=True):
    """At most one of each kind for each fulfillment order."""

    __tablename__ = "settlements"
    __table_args__ = (
        Index("settlements_open", "kind", "opened_at", postgresql_where="state IN ('open', 'asked')"),
        Index("settlements_by_order", "order_id"),
    )

    fulfillment_id: str = Col(primary_key=True)
    kind: str = Col(primary_key=True)
    order_id: str
    carrier: str | None = None
    waybill_no: str | None = None
    reason: str
    """The kind of exception."""
    currency: str
    amount: Decimal = Col(sa_column=Column(Numeric(18, 4), nullable=False))
    """The buyer's payment for the parcel's contents, unless a person changed it."""
    paid: Decimal | None = Col(default=None, sa_column=Column(Numeric(18, 4)))
    reference: str = ""
    state: str = SettlementState.OPEN
    note: str = ""
    actor: str
    """Who changed the settlement last."""
    opened_at: datetime = Col(sa_type=DateTime(timezone=True))
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))
