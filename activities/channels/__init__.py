"""Channels: one module a system, each the whole adapter for it.

A module named as its channel offers ``adapter(account) -> Channel``; nothing else needs to know of it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Annotated, Protocol, cast, runtime_checkable

from pydantic import Field

from activities.errors import refused
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
    """The merchant's."""
    listing: dict[str, str]
    """The channel's own ids of what it sells; empty where it goes by the merchant's SKUs."""
    quantity: Annotated[int, Field(ge=0)]


class Refused(Value):
    """A SKU whose quantity the channel will not take, however often it is told."""

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


@runtime_checkable
class StockTaker(Protocol):
    """A channel that is told how many it may sell. One that has no ``push_stock``, such as a shop counter, is not."""

    async def push_stock(self, offered: Sequence[Offered]) -> list[Refused]:
        """Sets the quantities, in as few calls as the channel allows, and answers what it refused for good.

        Repeating it is harmless. Raises ``ApplicationError``: then any part may have been set.
        """
        ...


def channel(account: Account) -> Channel:
    """The adapter of an account's channel. Raises ``ModuleNotFoundError`` where there is none."""
    return cast(Channel, import_module(f"activities.channels.{account.source}").adapter(account))


def stock_taker(account: Account) -> StockTaker:
    """The same, to be told of stock. Raises ``refused`` where the channel takes none."""
    adapter = channel(account)
    if not isinstance(adapter, StockTaker):
        raise refused(f"{account.source}: takes no stock", "takes_no_stock")
    return adapter
