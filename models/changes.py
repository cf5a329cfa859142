"""What a modification changed of an order: for its timeline, with contact data apart, sealed and masked."""

from pydantic import JsonValue

from models.address import ADDRESS, ContactChange
from models.order import ChannelOrder, OrderLine

CONTACT = ("name", "phone", "street")
"""The fields that are masked where they are shown, and sealed where they are stored."""
_PLACE = ("country", *(name for name in ADDRESS if name not in CONTACT), "postcode")
_TERMS = ("total", "freight", "discount", "tax", "currency", "cash_on_delivery", "carrier", "promised_by")


def contact_change(before: ChannelOrder, after: ChannelOrder) -> ContactChange | None:
    """Return the recipients if any field of theirs that people read differs."""
    fields = (*CONTACT, *_PLACE)
    same = all(getattr(before.recipient, name) == getattr(after.recipient, name) for name in fields)
    return None if same else ContactChange(before=before.recipient, after=after.recipient)


def changed_fields(before: ChannelOrder, after: ChannelOrder) -> list[JsonValue]:
    """Return what differs as ``{"field", "before", "after"}``, without personal data; lines also with ``line``.

    A masked field that differs is listed even where both masks look the same.
    """
    found: list[JsonValue] = []
    if before.recipient != after.recipient:
        masked = before.recipient.masked(), after.recipient.masked()
        for name in (*CONTACT, *_PLACE):
            if getattr(before.recipient, name) != getattr(after.recipient, name):
                found.append({"field": name, "before": getattr(masked[0], name), "after": getattr(masked[1], name)})
    lines = [{line.line_no: line for line in order.lines} for order in (before, after)]
    for line_no in dict.fromkeys([*lines[0], *lines[1]]):
        was, now = (_goods(each.get(line_no)) for each in lines)
        if was != now:
            found.append({"field": "line", "line": line_no, "before": was, "after": now})
    for name in _TERMS:
        was, now = (getattr(order, name) for order in (before, after))
        if was != now:
            found.append({"field": name, "before": _plain(was), "after": _plain(now)})
    return found


def _goods(line: OrderLine | None) -> str:
    return f"{line.sku} × {line.quantity} @ {line.unit_price:f}" if line else ""


def _plain(value: object) -> JsonValue:
    if value is None or isinstance(value, bool):
        return value
    return f"{value:f}" if hasattr(value, "as_tuple") else getattr(value, "isoformat", lambda: str(value))()
