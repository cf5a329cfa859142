"""Channels: one module a system, each the whole adapter for it.

A module named as its channel offers ``adapter(account) -> Channel``; nothing else needs to know of it.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib import import_module
from typing import Annotated, Any, Protocol, cast, runtime_checkable

from pydantic import Field, JsonValue

from activities.kit.errors import refused, unavailable
from models.base import Value
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder


class Hint(Value):
    """A message that names orders without telling of them: they are read."""

    order_nos: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]


class PulledOrder(Value):
    """One order as a page of the channel held it."""

    receipt: Receipt
    body: bytes


class StockOffer(Value):
    """How many of a SKU a shop may sell now."""

    sku: str
    """The merchant's."""
    listing: dict[str, str]
    """The channel's own ids of what it sells; empty where it goes by the merchant's SKUs."""
    quantity: Annotated[int, Field(ge=0)]


class StockRefusal(Value):
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

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        """The order in standard form as it stands, also after it left; which orders to read; or ``None`` where there is
        no order of ours in it, such as a test of the connection, or goods that nobody ships. Raises
        ``errors.Unintelligible``. An item without a merchant's code goes by the channel's own id.

        ``custom.channel_hold`` names why the channel does not want it shipped yet, ``custom.cancel_reason`` why it was
        cancelled, ``custom.total_mismatch`` by how much more its parts add up to than its total.
        """
        ...

    def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Every order changed in the window. Raises ``ApplicationError`` as ``activities.kit.errors`` makes them."""
        ...

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Tells the channel what left, line by line where it takes that. Repeating it is harmless.

        Raises ``ApplicationError``.
        """
        ...


@runtime_checkable
class OrderReader(Protocol):
    """A channel that can be asked."""

    async def read(self, order_no: str) -> PulledOrder | None:
        """One order as it stands; ``None`` where the channel has none. Raises ``ApplicationError``."""
        ...

    def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        """The numbers of all orders placed in the window. Raises ``ApplicationError``."""
        ...


@runtime_checkable
class AccessRenewer(Protocol):
    """A channel whose access runs out. ``expires_at`` among its secrets, ISO 8601, says when, where it is known."""

    async def renew(self) -> Mapping[str, str]:
        """Secrets that replace those of the same names. Raises ``refused`` where a person must authorise anew."""
        ...


def order_fact_key(order_no: object, modified: object, said: Any) -> str:
    """The key of an order as it was read: when it changed, and a digest of all that is said of it, for channels count
    by seconds, and more than one thing may change in one."""
    digest = sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]
    return f"{order_no}:{modified}:{digest}"


def oauth_secrets(told: Mapping[str, Any], name: str = "access_token") -> dict[str, str]:
    """The secrets that an OAuth answer gives, the access token under a ``name``. Raises ``unavailable``."""
    try:
        ends = datetime.now(UTC) + timedelta(seconds=int(told["expires_in"]))
        fresh = {name: str(told["access_token"]), "expires_at": ends.isoformat()}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise unavailable("answered with what is no token") from None
    return fresh | ({"refresh_token": str(told["refresh_token"])} if told.get("refresh_token") else {})


@runtime_checkable
class WebhookAcknowledger(Protocol):
    """A channel that believes only its own words."""

    acknowledgement: Mapping[str, JsonValue]
    """What it is to be answered, with status 200, once its webhook is committed."""


@runtime_checkable
class StockReceiver(Protocol):
    """A channel that is told how many it may sell. One that has no ``push_stock``, such as a shop counter, is not."""

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Sets the quantities, in as few calls as the channel allows, and answers what it refused for good.

        Repeating it is harmless. Raises ``ApplicationError``: then any part may have been set.
        """
        ...


async def refused_by_halves(
    batch: Sequence[StockOffer], attempt: Callable[[Sequence[StockOffer]], Awaitable[str]]
) -> list[StockRefusal]:
    """What of a batch is refused for good, where a channel refuses it as a whole and does not say for which SKU.

    ``attempt`` sets quantities in one call, and answers why that was refused; empty where it was not.
    """
    if not (reason := await attempt(batch)):
        return []
    if len(batch) == 1:
        return [StockRefusal(sku=batch[0].sku, reason=reason)]
    half = len(batch) // 2
    return [*await refused_by_halves(batch[:half], attempt), *await refused_by_halves(batch[half:], attempt)]


def channel(account: Account) -> Channel:
    """The adapter of an account's channel. Raises ``ModuleNotFoundError`` where there is none."""
    return cast(Channel, import_module(f"activities.channels.{account.source}").adapter(account))


def stock_receiver(ours: Channel) -> StockReceiver:
    """The same, to be told of stock. Raises ``refused`` where the channel takes none."""
    if not isinstance(ours, StockReceiver):
        raise refused("this channel takes no stock", "takes_no_stock")
    return ours


def order_reader(ours: Channel) -> OrderReader:
    """The same, to be asked. Raises ``refused`` where the channel answers no questions."""
    if not isinstance(ours, OrderReader):
        raise refused("this channel cannot be asked for its orders", "no_reader")
    return ours
