"""How an activity says that it failed: whether trying again can help, and when."""

from datetime import timedelta

from temporalio.exceptions import ApplicationError

from models.i18n import message, t


def refused(reason: str, code: str = "") -> ApplicationError:
    """The other side understood and said no: trying again cannot help. ``code`` is the other side's own."""
    return ApplicationError(reason, code, type="Refused", non_retryable=True)


def unavailable(reason: str, retry_after: float | None = None) -> ApplicationError:
    """The other side cannot just now. ``retry_after`` in seconds where it named one."""
    return ApplicationError(
        reason, type="Unavailable", next_retry_delay=None if retry_after is None else timedelta(seconds=retry_after)
    )


EXPIRED = "Expired"


def expired(reason: str) -> ApplicationError:
    """Our access has run out: ``activities.accounts.channel_access`` renews it, and the call is tried again."""
    return ApplicationError(reason, type=EXPIRED)


class InvalidInput(Exception):
    """A request that the rules forbid: ``field`` names what to change, ``message`` says why."""

    def __init__(self, field: str, key: str, /, **params: object) -> None:
        self.field = field
        self.message = message(key, **params)
        super().__init__(f"{field}: {t(self.message, 'en')}")


class Unauthentic(Exception):
    """The message was not signed by who it says it is, or is not fresh."""


class Unintelligible(Exception):
    """A payload that cannot be an order: names the field and what is wrong with it, without its content."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
