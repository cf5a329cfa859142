"""How an activity says that it failed: whether trying again can help, and when."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic_core import ErrorDetails
from temporalio.exceptions import ApplicationError

from models.i18n import CATALOGUE, InvalidValue, message, t


def refused(key: str, code: str = "", /, **params: object) -> ApplicationError:
    """Return the error of a request that was understood and refused: trying again cannot help.

    ``code`` is the other side's own; ``key`` and ``params`` are a message, or ``key`` the other side's own words.
    """
    return ApplicationError(message(key, **params), code, type="Refused", non_retryable=True)


def unavailable(key: str, retry_after: float | None = None, /, **params: object) -> ApplicationError:
    """Return the error of a side that cannot answer now. ``retry_after`` in seconds where it named one."""
    delay = None if retry_after is None else timedelta(seconds=retry_after)
    return ApplicationError(message(key, **params), type="Unavailable", next_retry_delay=delay)


EXPIRED = "Expired"


def expired(vendor: str) -> ApplicationError:
    """Return the error of an access that has run out: ``accounts.channel_access`` renews it before the next try."""
    return ApplicationError(message("error.expired", vendor=vendor), type=EXPIRED)


PERMANENT = "Permanent"
"""The type of an activity's error that repeating would raise again (``database.is_permanent``)."""


class InvalidInput(Exception):
    """A request that the rules forbid: ``field`` names what to change, ``message`` says why."""

    def __init__(self, field: str, key: str, /, **params: object) -> None:
        self.field = field
        self.message = message(key, **params)
        super().__init__(f"{field}: {t(self.message, 'en')}")


class InvalidFields(Exception):
    """Several faults of one request."""

    def __init__(self, faults: Sequence[InvalidInput]) -> None:
        self.faults = faults
        super().__init__("; ".join(map(str, faults)))


class Unauthentic(Exception):
    """The message was not signed by who it says it is, or is not fresh."""


class Unintelligible(Exception):
    """A payload that cannot be an order: names the field and what is wrong with it, without its content."""

    def __init__(self, field: str, key: str, /, **params: object) -> None:
        self.field = field
        self.reason = message(key, **params)
        super().__init__(f"{field}: {t(self.reason, 'en')}")


def validation_message(fault: ErrorDetails) -> str:
    """Return the message of a fault that Pydantic found, without the value that was given."""
    context: dict[str, Any] = fault.get("ctx", {})
    if isinstance(cause := context.get("error"), InvalidValue):
        return cause.message
    text = CATALOGUE["en"].get(key := f"validation.{fault['type']}")
    if text is None:
        return message("validation.other", type=fault["type"])
    named = {name: str(value).replace(" or ", ", ") for name, value in context.items() if f"{{{name}}}" in text}
    return message(key, **named)
