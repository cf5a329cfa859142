"""Base classes of values, and times."""

from datetime import UTC, datetime
from typing import Annotated
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


class Value(BaseModel):
    """An immutable value, equal to any other of the same content."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Record(BaseModel):
    """A mutable part of an order's state."""

    model_config = ConfigDict(validate_assignment=False, extra="ignore")
