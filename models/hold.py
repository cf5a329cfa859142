"""Holds: why an order does not advance, and who may release it."""

from enum import StrEnum
from typing import Literal

from pydantic import JsonValue

from models.base import Moment, Value

Stage = Literal["service", "finance"]
"""The team whose approval a review waits for."""


class HoldKind(StrEnum):
    """Why an order does not advance."""

    REVIEW = "review"
    STAFF = "staff"
    ADDRESS = "address"
    UNKNOWN_SKU = "unknown_sku"
    BOOKING = "booking"
    WAREHOUSE = "warehouse"
    CHANNEL = "channel"
    REFUND = "refund"
    CONTENT = "content"
    """Something that the channel sent cannot be right."""


class Hold(Value):
    kind: HoldKind
    reason: str
    """A message key of the catalogue, or text that a person typed."""
    params: dict[str, JsonValue] = {}
    since: Moment
    by: str = "hengdan"
    stage: Stage | None = None
    """The team that must approve; ``None``: anyone may."""
    rule: int | None = None
    """The review rule that placed the hold."""

    def same(self, other: "Hold") -> bool:
        """Return whether both holds state the same, whenever and by whomever they were placed."""
        return self.model_copy(update={"since": other.since, "by": other.by}) == other
