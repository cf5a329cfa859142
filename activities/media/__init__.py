"""Media: one module each by which people are told.

A module named as its medium offers ``send(account, message)``: it raises ``ApplicationError`` as
``activities.kit.errors`` says, where the message was not sent.
"""

from importlib import import_module

from activities.kit.errors import unavailable
from models.intake import Account
from models.notifications import Message


async def send(account: Account, message: Message) -> None:
    """Sends a message. Raises ``ApplicationError``."""
    await import_module(f"activities.media.{account.source}").send(account, message)


def bot_failed(medium: str, code: object) -> Exception:
    """A chat's bot says no; most often that it was told too much."""
    return unavailable(f"{medium}: {code}", 60)
