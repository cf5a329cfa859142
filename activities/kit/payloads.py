"""Reading what the world sends: a vendor's shape is a Pydantic model, and a fault is named by the vendor's own path.

The types here are lenient where the world is: absent, ``null``, a number for a text.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_UP, Decimal
from typing import Annotated, Any, TypeVar
from xml.etree.ElementTree import Element, ParseError, fromstring

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError

from activities.kit.errors import Unintelligible
from models.i18n import InvalidValue
from models.money import Amount
from models.order import ChannelOrder

Model = TypeVar("Model", bound=BaseModel)


def decode(model: type[Model], body: bytes) -> Model:
    """A JSON body in the vendor's shape, less NUL characters: no database holds them. Raises ``Unintelligible``."""
    try:
        return model.model_validate_json(body.replace(b"\\u0000", b""))
    except ValidationError as error:
        raise unintelligible(error) from None


def decode_xml(text: str) -> Element:
    """An XML document without entities of its own. Raises ``Unintelligible``."""
    if "<!DOCTYPE" in text:
        raise Unintelligible("body", "a document type is not expected")
    try:
        return fromstring(text)  # noqa: S314
    except (ParseError, ValueError):
        raise Unintelligible("body", "not well-formed XML") from None


def unintelligible(error: ValidationError) -> Unintelligible:
    """The first fault with its path, such as ``line_items[0].quantity``; never the value found there."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    return Unintelligible(path.lstrip(".") or "body", fault["msg"])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _integer(value: Any) -> int:
    return int(value) if str(value).isdecimal() and len(str(value)) < 19 else 0


def _identifier(value: Any) -> Any:
    if isinstance(value, float | bool):
        raise ValueError("an identifier is never a fraction: it would lose digits")  # noqa: TRY004
    return value


def within_calendar(moment: datetime) -> datetime:
    """A time that every calendar here can hold. Raises ``ValueError``."""
    if not 1970 <= moment.year <= 9000:
        raise InvalidValue("invalid.moment")
    return moment


def _seconds(value: Any) -> datetime:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,11}", str(value)):
        raise ValueError("not seconds since 1970")
    return within_calendar(datetime.fromtimestamp(int(value), UTC))


def _fen(value: Any) -> Decimal:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,15}", str(value or 0)):
        raise ValueError("not a whole number of fen")
    return Decimal(int(value or 0)) / 100


CHINA = timezone(timedelta(hours=8))
ChinaTime = Annotated[
    datetime,
    AfterValidator(lambda moment: within_calendar(moment if moment.tzinfo else moment.replace(tzinfo=CHINA))),
]
"""A time told without a zone, as Chinese systems do: GMT+8."""


def format_china_time(moment: datetime) -> str:
    """A time as Chinese systems are told: ``2026-11-11 00:00:00``, GMT+8."""
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")


MaybeChinaTime = Annotated[ChinaTime | None, BeforeValidator(lambda value: value or None)]
Seconds = Annotated[datetime, BeforeValidator(_seconds)]
"""A time told as seconds since 1970."""
MaybeSeconds = Annotated[Seconds | None, BeforeValidator(lambda value: value or None)]
Fen = Annotated[Decimal, BeforeValidator(_fen)]
"""An amount told in hundredths; it may be absent or negative."""
Text = Annotated[str, BeforeValidator(_text)]
"""Free text; anything that is none reads as empty."""
Part = Annotated[str, BeforeValidator(_text), StringConstraints(max_length=200)]
"""A part of an address."""
Code = Annotated[str, BeforeValidator(_text), StringConstraints(min_length=1, max_length=64)]
"""A number or code that must be there."""
Identifier = Annotated[int, BeforeValidator(_identifier), Field(ge=1, lt=2**63)]
"""A 64-bit id: beyond what a float can hold."""
Integer = Annotated[int, BeforeValidator(_integer)]
"""A flag or counter; anything that is none reads as 0."""
Quantity = Annotated[int, Field(ge=1, le=100_000)]
Price = Annotated[Amount, Field(ge=0)]
Fee = Annotated[Decimal, BeforeValidator(lambda value: value or 0), Field(max_digits=18, decimal_places=4)]
"""An amount that may be absent, empty or negative."""


@contextmanager
def validating_order() -> Iterator[None]:
    """Around the making of a ``ChannelOrder``: what the language forbids is a fault of the payload."""
    try:
        yield
    except ValidationError as error:
        raise unintelligible(error) from None


def price_per_unit(amount: Decimal, quantity: int) -> Decimal:
    """What one of so many costs; what does not divide is rounded up, for the line's discount to make good for it."""
    return (amount / quantity).quantize(Decimal("0.0001"), ROUND_UP)


def with_total_mismatch(order: ChannelOrder) -> ChannelOrder:
    """The order as told; where its parts add up to another total, ``custom.total_mismatch`` says by how much more."""
    if not order.mismatch:
        return order
    return order.model_copy(update={"custom": {**order.custom, "total_mismatch": str(order.mismatch)}})
