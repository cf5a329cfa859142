"""Base classes of values, and times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict

from models.i18n import InvalidValue


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidValue("invalid.moment") from None


CHINA = ZoneInfo("Asia/Shanghai")
"""The time zone in which the days of shops and warehouses begin and end."""

Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
"""A timezone-aware time, converted to UTC."""


_LONGEST_KEY = 200


def bounded_key(key: str) -> str:
    """Return a key of at most 200 characters: a longer one as its beginning and a digest."""
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{key[:100]}~{sha256(key.encode(errors='replace')).hexdigest()}"


Key = Annotated[str, AfterValidator(bounded_key)]
"""An identity made of what others send, bounded because an index row is."""


@dataclass(frozen=True)
class Neutral:
    """Metadata of a field: what stands in for a value that cannot be read; a function takes the field's place."""

    value: Any | Callable[[Sequence[int | str]], Any]


class Value(BaseModel):
    """An immutable value, equal to any other of the same content."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Record(BaseModel):
    """A mutable part of an order's state."""

    model_config = ConfigDict(validate_assignment=False, extra="ignore")
