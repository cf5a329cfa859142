"""The policy of a shop: how long its orders may wait, and how they are planned."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from models.base import Value
from models.money import Amount

Criterion = Literal["on_time", "fewest_parcels", "lowest_cost", "nearest", "balance"]
"""A quality by which plans are compared."""

OBJECTIVE: tuple[Criterion, ...] = ("on_time", "fewest_parcels", "lowest_cost", "nearest", "balance")


class Policy(Value):
    """The time limits of an order's waits, in seconds, and the planning options; set per shop."""

    grace: int = 0
    """The window after admission in which cancelling and modifying are free."""
    payment: int = 24 * 3600
    """From placing to expiry, where the channel gives no deadline."""
    review: int = 4 * 3600
    stock: int = 24 * 3600
    ship: int = 48 * 3600
    movement: int = 24 * 3600
    """A parcel without a scan for this long is late."""
    delivery: int = 7 * 24 * 3600
    review_above: Amount = Decimal(5000)
    """Orders with a higher total, in the home currency, are held for review."""
    address_confidence: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.8")
    """Orders whose address is cleansed with a lower confidence are held."""
    ship_in_part: bool = False
    """Ship the available lines and back-order the rest; presale lines always ship on their own."""
    objective: tuple[Criterion, ...] = OBJECTIVE
    """The criteria by which plans are compared, each breaking the ties of those before it."""
    replan_when_late: bool = False
    """Replan a fulfillment order that its warehouse has not shipped in time, if the warehouse accepts the recall."""
    substitute: bool = False
    """Allow the catalogue's substitutes to replace SKUs that are short."""
    reserve: Literal["placed", "paid"] = "paid"
    """When stock is set aside for an order: when it is placed, or when it is paid."""
    reservation: int = 1800
    """How long stock is reserved for an unpaid order after the buyer's last activity."""
