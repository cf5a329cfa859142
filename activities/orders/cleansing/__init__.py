"""Cleansing: an order as told becomes an order as it should be written.

What is changed is a suggestion with a confidence: the channel's own words stay with the channel order, and those of a
changed address with the recipient. Below the shop's threshold a person looks at it first.
"""

import re
from datetime import datetime

from activities.orders.cleansing import china, people, spelling, world
from activities.orders.cleansing.gazetteer import gazetteer
from models.address import Recipient
from models.hold import Hold, HoldKind
from models.order import ChannelOrder
from models.policy import Policy

_WIDTHS = str.maketrans({code + 0xFEE0: code for code in range(0x21, 0x7F)} | {0x3000: 0x20})
"""Full-width forms to their ASCII twins (Unicode block FF00, U+3000)."""
_TEXTS = ("name", "phone", "province", "city", "district", "town", "street", "postcode")


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text.translate(_WIDTHS)).strip()


def standardise(order: ChannelOrder) -> ChannelOrder:
    """The same order with name, phone and address in standard form. What is so already stays as it is."""
    return order.model_copy(update={"recipient": recipient(order.recipient)})


def warm() -> None:
    """Reads what cleansing knows by heart, so that the first order need not wait for it."""
    gazetteer()
    spelling.romanised()


def recipient(told: Recipient) -> Recipient:
    person = told.model_copy(update={field: _tidy(getattr(told, field)) for field in _TEXTS})
    person = person.model_copy(update={"name": people.name(person.name)})
    if person.confidence is None:
        abroad = person.country != "CN"
        if not abroad:
            person = person.model_copy(update=people.taken_out(person))
        found = world.cleansed(person) if abroad else china.cleansed(person)
        person = person.model_copy(update=found)
        if person.address != told.address:
            person = person.model_copy(update={"told": " ".join(filter(None, told.address))})
    return person.model_copy(update={"phone": people.phone(person.phone, person.country)})


def validation_holds(order: ChannelOrder, policy: Policy, at: datetime) -> list[Hold]:
    """An address hold naming the first missing part, or why the address is not sure enough. What a channel masks until
    it is paid is not doubted before."""
    reason = _doubt(order.recipient, policy)
    if order.recipient.unreadable:
        reason = "hold.address.masked" if order.payable else ""
    return [Hold(kind=HoldKind.ADDRESS, reason=reason, since=at)] if reason else []


def _doubt(person: Recipient, policy: Policy) -> str:
    for field in ("name", "phone"):
        if not getattr(person, field):
            return f"hold.address.{field}"
    if not people.reachable(person):
        return "hold.address.phone"
    if person.doubt and person.confidence is not None and person.confidence < policy.address_confidence:
        return person.doubt
    required = ("province", "city", "street") if person.country == "CN" else world.required(person)
    return next((f"hold.address.{field}" for field in required if not getattr(person, field)), "")
