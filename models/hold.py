"""Holds: why an order does not advance, and who may release it."""

from enum import StrEnum
from shlex import quote
from typing import Literal

from pydantic import JsonValue

from models.base import Moment, Value
from models.i18n import named, t

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

    _missing_ = named("hold")


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

    def kind_text(self, lang: str | None = None) -> str:
        """Return the kind, with the stage of approval that the hold waits for."""
        kind = t(f"hold.{self.kind}", lang)
        return f"{kind}: {t(f'stage.{self.stage}', lang)}" if self.stage else kind

    def reason_text(self, lang: str | None = None) -> str:
        return t(self.reason, lang, **self.params)

    def remedy(self, order_id: str, lang: str | None = None) -> str:
        """Return what a person does about the hold, with the command for it."""
        names = {"order": order_id, "stage": self.stage or "service"}
        item, shop = self.params.get("item"), self.params.get("shop")
        if self.kind is HoldKind.UNKNOWN_SKU and item and shop:
            channel, _, account = str(shop).partition(":")
            names |= {"item": quote(str(item)), "channel": channel, "account": account}
            return t("hold_remedy.item", lang, **names)
        return t(f"hold_remedy.{self.kind}", lang, **names)

    def same(self, other: "Hold") -> bool:
        """Return whether both holds state the same, whenever and by whomever they were placed."""
        return self.model_copy(update={"since": other.since, "by": other.by}) == other
