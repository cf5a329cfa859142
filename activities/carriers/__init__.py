"""Carriers: one module a system, each the whole adapter for it.

A module named as its carrier offers ``adapter(account) -> Carrier``; nothing else needs to know of it.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from models.base import Value
from models.fulfillment import Booking, Scan, Waybill
from models.intake import Account, Receipt


class PushAnswer(Value):
    """What a carrier must read to believe its push arrived."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes


class Carrier(Protocol):
    async def book(self, booking: Booking) -> Waybill:
        """Books under ``booking.reference``; a repeat answers with the first waybill. Raises ``ApplicationError``."""
        ...

    async def find(self, reference: str) -> Waybill | None:
        """What was booked under our reference, if anything."""
        ...

    async def cancel(self, waybill: Waybill) -> None:
        """Cancels a booking; one already cancelled is no error."""
        ...

    async def track(self, waybill_no: str) -> Sequence[Scan]: ...

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """Verifies a push and names its fact. Raises ``errors.Unauthentic``."""
        ...

    def answer(self) -> PushAnswer:
        """The acknowledgement of a push that is committed."""
        ...

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """The scans of a push, in whatever order. Raises ``errors.Unintelligible``."""
        ...


def carrier(account: Account) -> Carrier:
    """The adapter of an account's carrier. Raises ``ModuleNotFoundError`` where there is none."""
    return cast(Carrier, import_module(f"activities.carriers.{account.source}").adapter(account))
