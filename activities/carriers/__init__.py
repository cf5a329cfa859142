"""Carriers: one module a system, each the whole adapter for it.

A module named as its carrier offers ``adapter(account) -> Carrier``; nothing else needs to know of it.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from activities.errors import Unauthentic
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

    async def cancel(self, reference: str) -> None:
        """Cancels what was booked under our reference; nothing booked, or already cancelled, is no error."""
        ...

    async def track(self, waybill_no: str) -> Sequence[Scan]: ...

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """Verifies a push and names its fact. Raises ``errors.Unauthentic``."""
        ...

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        """The acknowledgement of a push that is committed, in the push's own format."""
        ...

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """The scans of a push, in whatever order. Raises ``errors.Unintelligible``."""
        ...


_PHONE = re.compile(r"(?<![A-Za-z\d])\+?\d[\d-]{6,}\d")
_PERSON = re.compile(r"((?:签收|收件|取件|派件|派送|揽收)[人员]\s*[:：]\s*)[^\s,，。;；()（）\[\]【】]+")


def masked(text: str) -> str:
    """A carrier's words without the phones and names that carriers like to put there."""
    return _PERSON.sub(r"\1***", _PHONE.sub("****", text))


def authenticate(account: Account, secret: str) -> None:
    """Checks the secret at the end of a push's URL, in constant time. Raises ``Unauthentic``."""
    expected = account.secrets.get("push_secret", "")
    if not (expected and hmac.compare_digest(expected.encode(), secret.encode())):
        raise Unauthentic("secret: does not match")


def carrier(account: Account) -> Carrier:
    """The adapter of an account's carrier. Raises ``ModuleNotFoundError`` where there is none."""
    return cast(Carrier, import_module(f"activities.carriers.{account.source}").adapter(account))
