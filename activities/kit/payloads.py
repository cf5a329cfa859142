"""Decoding the payloads of vendors: a Pydantic model describes the shape, and an error names the vendor's own path.

The types here accept what vendors really send: absent fields, ``null``, a number in place of text.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_UP, Decimal
from time import time
from typing import Annotated, Any, TypeVar
from unicodedata import name
from xml.etree.ElementTree import Element, ParseError, fromstring

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    StringConstraints,
    ValidationError,
)
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function

from activities.kit.errors import Unintelligible, validation_message
from models.base import Neutral, bounded_key
from models.i18n import InvalidValue
from models.money import Exact

Model = TypeVar("Model", bound=BaseModel)

_EAST_ASIAN = ("CJK ", "HIRAGANA ", "KATAKANA ", "KATAKANA-HIRAGANA ", "HANGUL ", "IDEOGRAPHIC ")


def decode(model: type[Model], body: bytes) -> Model:
    """Decode a JSON body into the vendor's shape. Raises ``Unintelligible``.

    Texts lose NUL characters and have U+FFFD for half a surrogate pair: no system here can store these.
    """
    try:
        return model.model_validate_json(readable(body))
    except ValidationError as error:
        raise unintelligible(error) from None


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def readable(body: bytes) -> bytes:
    """Return a JSON body whose texts can be stored: see ``decode``."""
    return _STRING.sub(_readable_string, body) if _SUSPECT.search(body) else body


def _readable_string(found: re.Match[bytes]) -> bytes:
    if not _SUSPECT.search(found[0]):
        return found[0]
    try:
        text: str = json.loads(found[0])
    except ValueError:
        return found[0]
    return json.dumps(re.sub("[\ud800-\udfff]", "\ufffd", text.replace("\0", ""))).encode()


def decode_xml(text: str) -> Element:
    """Decode an XML document; a document type, which could define entities, is refused. Raises ``Unintelligible``."""
    if "<!DOCTYPE" in text:
        raise Unintelligible("body", "invalid.xml.doctype")
    try:
        return fromstring(text)  # noqa: S314
    except (ParseError, ValueError):
        raise Unintelligible("body", "invalid.xml") from None


def unintelligible(error: ValidationError) -> Unintelligible:
    """Return the first error with its path, such as ``line_items[0].quantity``, but never the value found there."""
    fault = error.errors(include_url=False, include_input=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    return Unintelligible(path.lstrip(".") or "body", validation_message(fault))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _integer(value: Any) -> int:
    return int(value) if str(value).isdecimal() and len(str(value)) < 19 else 0


def _identifier(value: Any) -> Any:
    if isinstance(value, float | bool):
        raise InvalidValue("invalid.identifier.fraction")
    return value


def _position(keys: Sequence[int | str]) -> int:
    """Return what stands in for an identifier that cannot be read: its place in the list, from 1."""
    return next((key for key in reversed(keys) if isinstance(key, int)), 0) + 1


def within_calendar(moment: datetime) -> datetime:
    """Return a time within 1970 and 9000, which every system here can hold. Raises ``ValueError``."""
    if not 1970 <= moment.year <= 9000:
        raise InvalidValue("invalid.moment")
    return moment


def _seconds(value: Any) -> datetime:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,11}", str(value)):
        raise InvalidValue("invalid.seconds")
    return within_calendar(datetime.fromtimestamp(int(value), UTC))


def _fen(value: Any) -> Decimal:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,15}", str(value or 0)):
        raise InvalidValue("invalid.fen")
    return Decimal(int(value or 0)) / 100


CHINA = timezone(timedelta(hours=8))
ChinaTime = Annotated[
    datetime,
    AfterValidator(lambda moment: within_calendar(moment if moment.tzinfo else moment.replace(tzinfo=CHINA))),
]
"""A time without a zone, as Chinese systems write it: GMT+8."""


def format_china_time(moment: datetime) -> str:
    """Return a time as Chinese systems write it: ``2026-11-11 00:00:00``, GMT+8."""
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")


MaybeChinaTime = Annotated[ChinaTime | None, BeforeValidator(lambda value: value or None)]
Seconds = Annotated[datetime, BeforeValidator(_seconds), Neutral(lambda keys: str(int(time())))]
"""A time in seconds since 1970."""
MaybeSeconds = Annotated[Seconds | None, BeforeValidator(lambda value: value or None)]
Fen = Annotated[Decimal, BeforeValidator(_fen)]
"""An amount in hundredths; may be absent or negative."""
Text = Annotated[str, BeforeValidator(_text)]
"""Free text; any other type becomes empty."""
Part = Annotated[str, BeforeValidator(_text), StringConstraints(max_length=2000)]
"""A part of an address, or its cipher text."""
Code = Annotated[str, BeforeValidator(_text), StringConstraints(min_length=1, max_length=64)]
"""A required number or code."""
Identifier = Annotated[int, BeforeValidator(_identifier), Field(ge=1, lt=2**63), Neutral(_position)]
"""A 64-bit id, too large for a float."""
Integer = Annotated[int, BeforeValidator(_integer)]
"""A flag or counter; any other type becomes 0."""
Quantity = Annotated[int, Field(ge=0, le=10_000_000), Neutral(1)]
"""Pieces; lines of none are dropped."""
Price = Annotated[Exact, Field(ge=0)]
Fee = Annotated[Exact, BeforeValidator(lambda value: value or 0)]
"""An amount that may be absent, empty or negative."""


@dataclass(frozen=True)
class Listed(Neutral):
    """Metadata of a status field: the statuses that the channel's documents list.

    What another one means is not guessed: the field is odd, so that the order is held, and counts as ``value``. So does
    one that is ``null`` or empty, which is odd only where it is ``required``.
    """

    statuses: Collection[str | int]
    required: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._listed, handler(source))

    def _listed(self, given: Any) -> Any:
        text = "" if given is None else str(given).strip()
        if text == str(self.value) or not (text or self.required):
            return self.value
        found = next((each for each in self.statuses if str(each) == text), None)
        if found is None:
            raise InvalidValue("invalid.status", value=bounded_key(text))
        return found


def person_name(first: str, last: str) -> str:
    """Return a whole name; the family name comes first in Chinese, Japanese and Korean writing, without a space."""
    letters = [each for each in first + last if each.isalpha()]
    east_asian = letters and all(name(each, "").startswith(_EAST_ASIAN) for each in letters)
    return f"{last}{first}" if east_asian else f"{first} {last}".strip()


def without_prefixes(text: str, *prefixes: str) -> str:
    """Return an address line without the regions it begins with."""
    for prefix in prefixes:
        text = text.removeprefix(prefix)
    return text


def drop_empty(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the entries that are set, for ``ChannelOrder.custom``."""
    return {key: value for key, value in values.items() if value}


def price_per_unit(amount: Decimal, quantity: int) -> Decimal:
    """Return the price of one unit, rounded up; the line's discount takes the rounding back."""
    return (amount / max(quantity, 1)).quantize(Decimal("0.0001"), ROUND_UP)
