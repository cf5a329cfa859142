"""Cleansing: bring the name, phone and address of an order into standard form.

Every change is a suggestion with a confidence. The channel order keeps the original text, and the recipient keeps the
original of a changed address. Below the shop's confidence threshold the order is held for a person to check.
"""

import re
from datetime import datetime
from decimal import Decimal

from activities.cleansing import china, people, spelling, world
from activities.cleansing.gazetteer import gazetteer
from models import origins
from models.address import Recipient
from models.hold import Hold, HoldKind
from models.order import ChannelOrder
from models.policy import Policy

_WIDTHS = str.maketrans({code + 0xFEE0: code for code in range(0x21, 0x7F)} | {0x3000: 0x20})
"""Full-width characters to their ASCII equivalents (Unicode block FF00, U+3000)."""
_TEXTS = ("name", "phone", "province", "city", "district", "town", "street", "postcode")


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text.translate(_WIDTHS)).strip()


def standardise(order: ChannelOrder) -> ChannelOrder:
    """Return the order with name, phone and address in standard form; applying it again changes nothing."""
    return order.model_copy(update={"recipient": recipient(order.recipient)})


def warm() -> None:
    """Load the reference data of cleansing, so that the first order does not wait for it."""
    gazetteer()
    spelling.romanised()


def recipient(original: Recipient) -> Recipient:
    """Return the recipient in standard form. An address that was cleansed before is left unchanged."""
    person = original.model_copy(update={field: _tidy(getattr(original, field)) for field in _TEXTS})
    person = person.model_copy(update={"name": people.name(person.name)})
    if person.confidence is None:
        abroad = person.country != "CN"
        if not abroad:
            person = person.model_copy(update=people.taken_out(person))
        changes = world.cleansed(person) if abroad else china.cleansed(person)
        person = person.model_copy(update=changes)
        if person.address != original.address:
            person = person.model_copy(update={"told": " ".join(filter(None, original.address))})
    return person.model_copy(update={"phone": people.phone(person.phone, person.country)})


def region(text: str) -> str:
    """Return a region that a person wrote in the form of ``Recipient.region``; it begins with its country."""
    country, _, rest = origins.region(text).partition(" ")
    if country == "CN":
        found = recipient(Recipient(street=rest))
        return found.region if found.province and not found.street else f"CN {rest}".strip()
    province = world.area_at_start(country, rest)
    return Recipient(country=country, province=province, city=rest[len(province) :].strip()).region


def validation_holds(order: ChannelOrder, policy: Policy, at: datetime) -> list[Hold]:
    """Return an address hold if a part is missing or the confidence is too low, with the first reason found.

    A recipient that the channel masks is held only once the order is payable: channels mask unpaid orders.
    """
    reason = doubt(order.recipient, policy.address_confidence)
    if order.recipient.unreadable:
        reason = "hold.address.masked" if order.payable else ""
    return [Hold(kind=HoldKind.ADDRESS, reason=reason, since=at)] if reason else []


def doubt(person: Recipient, confidence: Decimal) -> str:
    """Return why a cleansed address may not be used, as a message key; empty if it may.

    A part is missing, the phone is none, or cleansing trusts the address less than ``confidence``.
    """
    for field in ("name", "phone"):
        if not getattr(person, field):
            return f"hold.address.{field}"
    if not people.reachable(person):
        return "hold.address.phone"
    if person.doubt and person.confidence is not None and person.confidence < confidence:
        return person.doubt
    required = ("province", "city", "street") if person.country == "CN" else world.required(person)
    return next((f"hold.address.{field}" for field in required if not getattr(person, field)), "")
