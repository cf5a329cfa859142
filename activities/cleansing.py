"""Cleansing: an order as told becomes an order as it should be written."""

import re
from datetime import datetime

from models.address import Recipient
from models.order import ChannelOrder, Hold, HoldKind

_WIDTHS = str.maketrans({code + 0xFEE0: code for code in range(0x21, 0x7F)} | {0x3000: 0x20})
"""Full-width forms to their ASCII twins (Unicode block FF00, U+3000)."""


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text.translate(_WIDTHS)).strip()


def standardise(order: ChannelOrder) -> ChannelOrder:
    """The same order with half-width text, single spaces and a bare phone number."""
    person = order.recipient
    tidy = Recipient(**{field: _tidy(text) for field, text in person.model_dump().items()})
    phone = re.sub(r"[^\d+\-转#,]", "", tidy.phone)
    return order.model_copy(update={"recipient": tidy.model_copy(update={"phone": phone})})


def doubts(order: ChannelOrder, at: datetime) -> list[Hold]:
    """An address hold naming the first missing part, where the parcel could not arrive."""
    person = order.recipient
    required = ["name", "phone", "city", "street"] + (["province"] if person.country == "CN" else [])
    for field in required:
        if not getattr(person, field):
            return [Hold(kind=HoldKind.ADDRESS, reason=f"hold.address.{field}", since=at)]
    if person.country == "CN" and len(person.digits) < 7:
        return [Hold(kind=HoldKind.ADDRESS, reason="hold.address.phone", since=at)]
    return []
