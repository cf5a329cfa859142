"""Carriers: one module a system, each the whole adapter for it.

A module named as its carrier offers ``adapter(account)``, a ``Carrier``, an ``Aggregator`` or both; nothing else needs
to know of it.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

from activities.kit.errors import Unauthentic, refused
from models.base import Value
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt


class PushAnswer(Value):
    """What a carrier must read to believe its push arrived."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes


class Tracker(Protocol):
    """What tells where parcels are."""

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """What is known now, in whatever order; nothing known is no error. ``phone``: the last four digits of the
        recipient's, which some ask for."""
        ...

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """Verifies a push and names its fact. Raises ``errors.Unauthentic``."""
        ...

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        """The acknowledgement of a push that is committed, in the push's own format."""
        ...

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """The scans of a push, in whatever order. Raises ``errors.Unintelligible``."""
        ...


@runtime_checkable
class Carrier(Tracker, Protocol):
    """Books parcels. Whatever reaches out raises ``ApplicationError`` as ``activities.kit.errors`` says."""

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        """What it asks for such a parcel; nothing where it makes no offers, or does not serve the address."""
        ...

    async def book(self, booking: Booking) -> Waybill:
        """Books under ``booking.reference``; a repeat answers with the first waybill."""
        ...

    async def find(self, reference: str) -> Waybill | None:
        """What was booked under our reference, if anything."""
        ...

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Cancels what was booked under our reference; nothing booked, or already cancelled, is no error.

        ``waybill_no`` as booked, empty where no answer ever reached us.
        """
        ...

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Stops a parcel on its way and has it sent back; asking again is no error. Refused where it cannot be."""
        ...


@runtime_checkable
class Aggregator(Tracker, Protocol):
    """Follows the parcels of any carrier. Carriers are named as their modules here."""

    async def subscribe(self, waybill_no: str, carrier: str, phone: str, push_url: str) -> None:
        """Has each scan pushed to us; asking again is no error. Refused for a carrier that it does not know."""
        ...

    async def recognise(self, number: str) -> Sequence[str]:
        """Whose waybill a number may be, the likeliest first; one without a module here under its own code."""
        ...


_PHONE = re.compile(r"(?<![A-Za-z\d])\+?\d[\d-]{6,}\d")
_PERSON = re.compile(
    r"((?:(?:签收|收件|取件|派件|派送|揽收|配送|快递)[人员]{1,2}|业务员)\s*[:：]\s*)[^\s,，。;；()（）\[\]【】]+"
)


def masked(text: str) -> str:
    """A carrier's words without the phones and names that carriers like to put there."""
    return _PERSON.sub(r"\1***", _PHONE.sub("****", text))


_LOST = re.compile("丢失|遗失")
_WRONG_ADDRESS = re.compile("地址(?:不详|不清|不全|错误|有误)")


def trouble(text: str) -> tuple[TrackingStatus, ExceptionKind | None]:
    """What a carrier's words make of a parcel whose code says no more than that something is wrong."""
    if "拒收" in text or "拒签" in text:
        return TrackingStatus.REFUSED, None
    if _LOST.search(text):
        return TrackingStatus.LOST, None
    if "破损" in text:
        return TrackingStatus.DAMAGED, None
    return TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS if _WRONG_ADDRESS.search(text) else None


def content_id(at: datetime, text: str) -> str:
    """An id for a scan that its carrier gives none: when, and a digest of its masked words."""
    return f"{at.isoformat()}:{sha256(text.encode()).hexdigest()[:12]}"


def known_as(name: str) -> str:
    """A carrier as people know it: the ``NAME`` of its module; of one without, its code in capitals."""
    try:
        return str(getattr(import_module(f"activities.carriers.{name}"), "NAME", name.upper()))
    except ModuleNotFoundError:
        return name.upper()


def authenticate(account: Account, secret: str) -> None:
    """Checks the secret at the end of a push's URL, in constant time. Raises ``Unauthentic``."""
    expected = account.secrets.get("push_secret", "")
    if not (expected and hmac.compare_digest(expected.encode(), secret.encode())):
        raise Unauthentic("secret: does not match")


def tracker(account: Account) -> Tracker:
    """The adapter of an account. Raises ``ModuleNotFoundError`` where there is none."""
    return cast(Tracker, import_module(f"activities.carriers.{account.source}").adapter(account))


def carrier(account: Account) -> Carrier:
    """The adapter of an account that books. Raises ``ApplicationError`` where it only follows parcels."""
    found = tracker(account)
    if not isinstance(found, Carrier):
        raise refused("carrier.does_not_book", "does_not_book")
    return found
