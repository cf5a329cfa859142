"""Money that is due because something went wrong: a claim on a carrier, a refund to a buyer."""

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
    """The carrier is to pay."""
    REFUND = "refund"
    """The buyer is to be paid, where the order was sold."""


class SettlementState(StrEnum):
    OPEN = "open"
    ASKED = "asked"
    """The carrier has the claim; the refund is under way."""
    PAID = "paid"
    REFUSED = "refused"


class Settling(Value):
    """What became of it; what is not named stays."""

    state: SettlementState | None = None
    amount: Annotated[Amount, Field(ge=0)] | None = None
    paid: Annotated[Amount, Field(ge=0)] | None = None
    reference: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] | None = None
    """The carrier's number of the claim, or the channel's of the refund."""
    note: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] | None = None


class SettlementRow(SQLModel, table=True):
    """One of each kind at most for a parcel."""

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
    """What the buyer paid for what was in the parcel, unless a person said otherwise."""
    paid: Decimal | None = Col(default=None, sa_column=Column(Numeric(18, 4)))
    reference: str = ""
    state: str = SettlementState.OPEN
    note: str = ""
    actor: str
    """Who last had a hand in it."""
    opened_at: datetime = Col(sa_type=DateTime(timezone=True))
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))
