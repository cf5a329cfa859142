"""Media of notifications: one module each.

The module named after its medium defines ``send(account, message)``, which raises ``ApplicationError`` as described in
``activities.kit.errors`` if the message was not sent.
"""

from importlib import import_module

from activities.kit.errors import unavailable
from models.intake import Account
from models.notifications import Message


async def send(account: Account, message: Message) -> None:
    """Send a message. Raise ``ApplicationError``."""
    await import_module(f"activities.media.{account.source}").send(account, message)


def bot_failed(medium: str, code: object) -> Exception:
    """Return the error of a chat bot that refused a message; most often its rate limit is reached."""
    return unavailable("error.unavailable", 60, vendor=medium, code=code)
