"""Channels: one module a system, each the whole adapter for it.

A module named as its channel offers ``adapter(account) -> Channel``; nothing else needs to know of it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Protocol, cast

from models.base import Value
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder


class Pulled(Value):
    """One order as a page of the channel held it."""

    receipt: Receipt
    body: bytes


class Offered(Value):
    """How many of a SKU a shop may sell now."""

    sku: str
    listing: dict[str, str]
    quantity: int


class Refused(Value):
    sku: str
    reason: str


class Channel(Protocol):
    signed: bool
    """Its webhooks prove who sent them; where they do not, the door asks for an API key with scope ``pos``."""

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Verifies a webhook and names its fact; header names in lower case. Raises ``errors.Unauthentic``.

        A body that is authentic but not understood still gets a receipt: understanding comes later.
        """
        ...

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        """The order in standard form; ``None`` where nothing is left for us to do. Raises ``errors.Unintelligible``.

        ``custom.channel_hold`` names why the channel does not want it shipped yet, ``custom.cancel_reason`` why it was
        cancelled, ``custom.total_mismatch`` by how much more its parts add up to than its total.
        """
        ...

    def pull(self, since: datetime, until: datetime) -> AsyncIterator[Pulled]:
        """Every order changed in the window. Raises ``ApplicationError`` as ``activities.errors`` makes them."""
        ...

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Tells the channel what left. Repeating it is harmless. Raises ``ApplicationError``."""
        ...

    async def push_stock(self, offered: Sequence[Offered]) -> list[Refused]:
        """Sets the quantities."""
        ...


def channel(account: Account) -> Channel:
    """The adapter of an account's channel. Raises ``ModuleNotFoundError`` where there is none."""
    return cast(Channel, import_module(f"activities.channels.{account.source}").adapter(account))
