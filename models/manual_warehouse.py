"""The work of people at a location without a warehouse system: what they have picked, packed and shipped."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, DateTime, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.base import Value


class JobState(StrEnum):
    OPEN = "open"
    SHIPPED = "shipped"
    RECALLED = "recalled"


class Act(StrEnum):
    PICK = "pick"
    PACK = "pack"


class Job(Value):
    """A fulfillment order as the people see it who pick, pack and ship it. Quantities by SKU."""

    fulfillment_id: str
    warehouse: str
    carrier: str
    waybill_no: str
    state: JobState
    due: dict[str, int]
    picked: dict[str, int]
    packed: dict[str, int]
    weight_g: int | None = None
    queue: str | None = None
    """The place to work at, where the merchant's rules name one."""

    def done(self, act: Act) -> dict[str, int]:
        return self.picked if act is Act.PICK else self.packed

    def remaining(self, act: Act) -> dict[str, int]:
        """Return what is still to be picked or packed."""
        done = self.done(act)
        return {sku: left for sku, quantity in self.due.items() if (left := quantity - done.get(sku, 0))}


class ManualJobRow(SQLModel, table=True):
    """What was done with a fulfillment order at a location that people run; its row is the one place that decides
    whether it ships or is recalled."""

    __tablename__ = "manual_jobs"
    __table_args__ = (Index("manual_jobs_open", "updated_at", postgresql_where="state = 'open'"),)

    fulfillment_id: str = Col(primary_key=True)
    state: str = JobState.OPEN
    picked: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    packed: dict[str, Any] = Col(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    weight_g: int | None = None
    requests: list[Any] = Col(default_factory=list, sa_column=Column(JSONB, nullable=False))
    """The ids of the requests that counted: repeated ones change nothing."""
    actor: str = ""
    """Who did something last."""
    updated_at: datetime = Col(sa_type=DateTime(timezone=True))
