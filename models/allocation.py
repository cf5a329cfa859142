"""What an allocation decided, and why."""

from pydantic import JsonValue

from models.base import Value
from models.fulfillment import Fulfillment, FulfillmentLine
from models.stock import Shortage


class Site(Value):
    """A place that may ship: what the planner knows of it."""

    code: str
    province: str
    rank: int = 100
    closed: bool = False


class Candidate(Value):
    """What spoke for or against one site, as a message key with its parameters."""

    warehouse: str
    chosen: bool
    reason: str
    params: dict[str, JsonValue] = {}


class Load(Value):
    """What one warehouse is to send."""

    warehouse: str
    lines: tuple[FulfillmentLine, ...]


class Plan(Value):
    """Which warehouse sends what, what is missing, and why so; kept with the order and shown to staff."""

    loads: tuple[Load, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    candidates: tuple[Candidate, ...] = ()


class Allocation(Value):
    """What an order now has: its active fulfillment orders, and what is missing; unpaid, what is kept for it."""

    fulfillments: tuple[Fulfillment, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    reserved: bool = False
