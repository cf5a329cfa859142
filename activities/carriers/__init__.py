"""Carriers: one module per system, which holds its whole adapter.

The module named after its carrier defines ``adapter(account)``, which returns a ``Carrier``, an ``Aggregator`` or an
object that is both. Nothing is registered anywhere else.
"""

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from hashlib import md5, sha256
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import parse_qs

from temporalio.exceptions import ApplicationError

from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import Model, decode
from models.address import Addressee
from models.base import Value
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Offer, Scan, TrackingStatus, Waybill
from models.i18n import CATALOGUE
from models.intake import Account, Receipt


class PushAnswer(Value):
    """The response by which a carrier knows that its push arrived."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes


class Tracker(Protocol):
    """Tracks parcels."""

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """Return the scans known now, in any order; an empty list if there are none. ``phone``: the last four digits of
        the recipient's phone, which some carriers require."""
        ...

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """Verify a push and return the key of its fact. Raise ``errors.Unauthentic``."""
        ...

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        """Return the acknowledgement of a committed push, in the format of the push."""
        ...

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """Return the scans of a push, in any order. Raise ``errors.Unintelligible``."""
        ...


@runtime_checkable
class Carrier(Tracker, Protocol):
    """Books parcels. Calls raise ``ApplicationError`` as described in ``activities.kit.errors``."""

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        """Return the carrier's offers; none if it makes no offers or does not serve the address."""
        ...

    async def book(self, booking: Booking) -> Waybill:
        """Book under ``booking.reference``; a repeated booking returns the first waybill."""
        ...

    async def find(self, reference: str) -> Waybill | None:
        """Return the waybill booked under our reference, if any."""
        ...

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Cancel the booking under our reference; a booking that is missing or already cancelled is no error.

        ``waybill_no`` is empty if no response to the booking was ever received.
        """
        ...

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Stop a parcel in transit and return it to the sender; repeating the request is no error. Raise ``refused`` if
        the carrier cannot."""
        ...


@runtime_checkable
class Aggregator(Tracker, Protocol):
    """Tracks the parcels of any carrier. Carriers are named as their modules here."""

    async def subscribe(self, waybill_no: str, carrier: str, phone: str, push_url: str) -> None:
        """Subscribe to pushes of each scan; subscribing again is no error. Raise ``refused`` for an unknown carrier."""
        ...

    async def candidate_carriers(self, number: str) -> Sequence[str]:
        """Return the carriers that a waybill number may belong to, the likeliest first; a carrier without a module here
        by the aggregator's own code."""
        ...


_PHONE = re.compile(r"(?<![A-Za-z\d])\+?\d[\d-]{6,}\d")
_PERSON = re.compile(
    r"((?:(?:签收|收件|取件|派件|派送|揽收|配送|快递)[人员]{1,2}|业务员)\s*[:：]\s*)[^\s,，。;；()（）\[\]【】]+"
)


def mask_personal_data(text: str) -> str:
    """Mask the phones and names in a carrier's text."""
    return _PERSON.sub(r"\1***", _PHONE.sub("****", text))


_LOST = re.compile("丢失|遗失")
_WRONG_ADDRESS = re.compile("地址(?:不详|不清|不全|错误|有误)")


def classify_problem(text: str) -> tuple[TrackingStatus, ExceptionKind | None]:
    """Return the status of a scan whose code only says that there is a problem, by the carrier's text."""
    if contains_any(text, ("拒收", "拒签")):
        return TrackingStatus.REFUSED, None
    if _LOST.search(text):
        return TrackingStatus.LOST, None
    if "破损" in text:
        return TrackingStatus.DAMAGED, None
    return TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS if _WRONG_ADDRESS.search(text) else None


def contains_any(text: str, words: Collection[str]) -> bool:
    """Return whether a carrier's text contains one of these words: for responses whose codes are not documented."""
    return any(word in text for word in words)


def content_id(at: datetime, text: str) -> str:
    """Return an id for a scan without one: its time and a digest of its masked text."""
    return f"{at.isoformat()}:{sha256(text.encode()).hexdigest()[:12]}"


def display_name(name: str) -> str:
    """Return the ``NAME`` of a carrier's module; its code in capitals if it has none."""
    try:
        return str(getattr(import_module(f"activities.carriers.{name}"), "NAME", name.upper()))
    except ModuleNotFoundError:
        return name.upper()


def contact(person: Addressee, *, district: str) -> dict[str, str]:
    """Return a sender or recipient as several carriers take it; they name the district differently."""
    return {
        "name": person.name,
        "mobile": person.national_phone,
        "province": person.province,
        "city": person.city,
        district: person.district,
        "address": person.full_street,
    }


def is_mobile(phone: str) -> bool:
    """Return whether a phone is a Chinese mobile number; several carriers take landlines in another field."""
    return len(phone) == 11 and phone.startswith("1")


def compact_json(value: Any) -> str:
    """Return JSON without spaces, keys in the given order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def md5_base64(text: str) -> str:
    """Return the MD5 digest of a text in base64: the signature of several carriers."""
    return b64encode(md5(text.encode(), usedforsecurity=False).digest()).decode()


def form_fields(body: bytes, *names: str) -> dict[str, str]:
    """Return these fields of a form; missing fields are empty, and so are all of a body that is not a form."""
    fields = parse_qs(body.decode(errors="replace"))
    return {name: fields.get(name, [""])[0] for name in names}


def read_response(source: str, model: type[Model], content: bytes) -> Model:
    """Decode a carrier's response. Raise ``unavailable`` if it is not in the documented format."""
    try:
        return decode(model, content)
    except Unintelligible:
        raise unavailable("error.malformed", vendor=source) from None


def refusal(source: str, code: str) -> ApplicationError:
    """Return the error for a refused request. It names the carrier's code only: its text may repeat what was sent."""
    published = f"carrier.{source}.{code}"
    if published in CATALOGUE["en"]:
        return refused(published, code)
    if not code:
        return refused("error.refused.unexplained", code, vendor=source)
    return refused("error.refused", code, vendor=source, code=code)


def cannot_intercept() -> ApplicationError:
    """Return the error of a carrier without an interface for interception."""
    return refused("carrier.cannot_intercept", "cannot_intercept")


def authenticate(account: Account, secret: str) -> None:
    """Check the secret at the end of a push's URL in constant time. Raise ``Unauthentic``."""
    expected = account.secrets.get("push_secret", "")
    if not (expected and hmac.compare_digest(expected.encode(), secret.encode())):
        raise Unauthentic("secret: does not match")


def check_signature(field: str, expected: str, given: str) -> None:
    """Compare a push's signature in constant time. Raise ``Unauthentic``, which names the field."""
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise Unauthentic(f"{field}: does not match")


def tracker(account: Account) -> Tracker:
    """Return the adapter of an account. Raise ``ModuleNotFoundError`` if there is none."""
    return cast(Tracker, import_module(f"activities.carriers.{account.source}").adapter(account))


def carrier(account: Account) -> Carrier:
    """Return the adapter of an account that books. Raise ``ApplicationError`` if it only tracks."""
    found = tracker(account)
    if not isinstance(found, Carrier):
        raise refused("carrier.does_not_book", "does_not_book")
    return found
