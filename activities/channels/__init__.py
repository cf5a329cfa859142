"""Channels: one module for each system, holding its whole adapter.

A module named after its channel offers ``adapter(account) -> Channel``; no other registration is needed.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib import import_module
from typing import Annotated, Any, Protocol, cast, runtime_checkable

from pydantic import Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities.kit.errors import refused, unavailable
from models.base import Value
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import NORMAL, ChannelOrder
from models.origins import ChannelKind, IntakePath, Origin


class Hint(Value):
    """A message that names orders without their contents: read each of them."""

    order_nos: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]


class PulledOrder(Value):
    """One order as the channel returned it."""

    receipt: Receipt
    body: bytes


class StockOffer(Value):
    """How many of a SKU a shop may sell now."""

    sku: str
    """The merchant's SKU."""
    listing: dict[str, str]
    """The channel's own ids of the listing; empty where the channel uses the merchant's SKUs."""
    quantity: Annotated[int, Field(ge=0)]


class StockRefusal(Value):
    """A SKU whose quantity the channel refuses for good: a retry cannot help."""

    sku: str
    reason: str


class Channel(Protocol):
    signed: bool
    """Whether webhooks prove their sender. Where they do not, the API asks for an API key with scope ``pos``."""

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Verify a webhook and name its fact; header names in lower case. Raises ``errors.Unauthentic``.

        A body that is authentic but unreadable still gets a receipt: parsing comes later.
        """
        ...

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        """Return the order in standard form as it now stands, also after it shipped; or the orders to read; or ``None``
        where the message holds no order to fulfill, such as a connection test or goods that are not shipped. An item
        without a merchant's code is identified by the channel's own id. Raises ``errors.Unintelligible``, for an order
        only where its number cannot be read: any other odd field is named in ``odd`` (``activities.kit.lenient``).

        ``custom.channel_hold`` says why the channel does not want it shipped yet, ``custom.partly_shipped`` that the
        channel knows of a shipment of some of it, ``custom.cancel_reason`` why it was cancelled,
        ``custom.total_mismatch`` by how much the sum of its parts exceeds its total.
        """
        ...

    def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield every order changed in the window. Raises ``ApplicationError`` by ``activities.kit.errors``."""
        ...

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Report a shipment to the channel, line by line where the channel supports that. Idempotent.

        Raises ``ApplicationError``.
        """
        ...


@runtime_checkable
class OrderReader(Protocol):
    """A channel whose orders can be queried."""

    async def read(self, order_no: str) -> PulledOrder | None:
        """Return one order as it now stands; ``None`` where the channel has none. Raises ``ApplicationError``."""
        ...

    def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        """Yield the numbers of all orders placed in the window. Raises ``ApplicationError``."""
        ...


@runtime_checkable
class AccessRenewer(Protocol):
    """A channel whose access expires. Its secret ``expires_at`` (ISO 8601) says when, where that is known."""

    async def renew(self) -> Mapping[str, str]:
        """Return the secrets to replace. Raises ``refused`` where a person must authorise the access again."""
        ...


@runtime_checkable
class WebhookAcknowledger(Protocol):
    """A channel that expects a body of its own in answer to a webhook."""

    acknowledgement: Mapping[str, JsonValue]
    """The body to answer with, status 200, once the webhook is committed."""


@runtime_checkable
class StockReceiver(Protocol):
    """A channel that accepts stock quantities. A shop counter, for one, does not."""

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Set the quantities in as few calls as the channel allows; return the SKUs it refused for good.

        Idempotent. Raises ``ApplicationError``: then any part may have been set.
        """
        ...


CARRIER_NAMES: Mapping[str, str] = {
    "sf": "SF Express",
    "yto": "YTO Express",
    "sto": "STO Express",
    "zto": "ZTO Express",
    "yunda": "Yunda Express",
    "jdl": "JD Logistics",
    "ems": "EMS",
}
"""Our carriers by the names that buyers read, for channels without carrier codes of their own."""


def carrier_code(account: Account, codes: Mapping[str, str], carrier: str, default: str | None = None) -> str:
    """Return what a channel calls one of our carriers: the account's setting ``carrier_codes`` overrides the adapter's
    ``codes``. Without either, return ``default``; raise ``refused`` where there is none."""
    code = {**codes, **account.settings.get("carrier_codes", {})}.get(carrier, default)
    if code is None:
        raise refused("error.carrier_code", "carrier", vendor=account.source, carrier=carrier)
    return str(code)


def marketplace_origin(account: Account, region: str, campaign: str = "", platform: str = "") -> Origin:
    """Return the origin of an order that was read from a marketplace."""
    return Origin(
        kind=ChannelKind.MARKETPLACE,
        platform=platform or account.source,
        shop=account.account,
        region=region,
        campaign=campaign,
        intake=IntakePath.POLL,
    )


def order_fact_key(order_no: object, modified: object, content: Any, changing: Set[str] = frozenset()) -> str:
    """Return the fact key of an order that was read: its time of change and a digest of its content. The time alone is
    not enough: channels count in seconds, and several changes may fall into one. Fields in ``changing`` do not count:
    their cipher text differs from call to call though nothing changed."""
    stable = json.dumps(_without(content, changing), sort_keys=True).encode()
    return f"{order_no}:{modified}:{sha256(stable).hexdigest()[:32]}"


def _without(content: Any, names: Set[str]) -> Any:
    if isinstance(content, dict):
        return {name: _without(value, names) for name, value in content.items() if name not in names}
    return [_without(each, names) for each in content] if isinstance(content, list) else content


def pulled_order(topic: str, fact_key: str, document: Mapping[str, Any], priority: int = NORMAL) -> PulledOrder:
    """Return an order that was read, its document as compact JSON."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return PulledOrder(receipt=Receipt(fact_key=fact_key, topic=topic, priority=priority), body=body)


def oauth_secrets(response: Mapping[str, Any], name: str = "access_token") -> dict[str, str]:
    """Return the secrets in an OAuth response, the access token under ``name``. Raises ``unavailable``."""
    try:
        ends = datetime.now(UTC) + timedelta(seconds=int(response["expires_in"]))
        secrets = {name: str(response["access_token"]), "expires_at": ends.isoformat()}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise unavailable("error.no_token") from None
    return secrets | ({"refresh_token": str(response["refresh_token"])} if response.get("refresh_token") else {})


def refusal_code(error: ApplicationError) -> str:
    """Return the channel's own code of a final refusal; empty where a retry may help."""
    return str(error.details[0]) if error.non_retryable and error.details else ""


async def refused_one_by_one(
    offered: Sequence[StockOffer], attempt: Callable[[StockOffer], Awaitable[str]]
) -> list[StockRefusal]:
    """Set quantities where a channel takes one SKU a call; return what it refused for good.

    ``attempt`` sets one quantity and returns the reason of a refusal; empty where it was accepted.
    """
    refusals = []
    for each in offered:
        if reason := await attempt(each):
            refusals.append(StockRefusal(sku=each.sku, reason=reason))
    return refusals


async def refused_by_halves(
    batch: Sequence[StockOffer], attempt: Callable[[Sequence[StockOffer]], Awaitable[str]]
) -> list[StockRefusal]:
    """Set quantities where a channel refuses a batch as a whole without naming the SKU; return what it refused for
    good, found by bisection.

    ``attempt`` sets quantities in one call and returns the reason of a refusal; empty where it was accepted.
    """
    if not (reason := await attempt(batch)):
        return []
    if len(batch) == 1:
        return [StockRefusal(sku=batch[0].sku, reason=reason)]
    half = len(batch) // 2
    return [*await refused_by_halves(batch[:half], attempt), *await refused_by_halves(batch[half:], attempt)]


def channel(account: Account) -> Channel:
    """Return the adapter of an account's channel. Raises ``ModuleNotFoundError`` where there is none."""
    return cast(Channel, import_module(f"activities.channels.{account.source}").adapter(account))


def stock_receiver(adapter: Channel) -> StockReceiver:
    """Return the adapter as a receiver of stock. Raises ``refused`` where the channel takes none."""
    if not isinstance(adapter, StockReceiver):
        raise refused("error.channel.no_stock", "takes_no_stock")
    return adapter


def order_reader(adapter: Channel) -> OrderReader:
    """Return the adapter as a reader of orders. Raises ``refused`` where the channel cannot be queried."""
    if not isinstance(adapter, OrderReader):
        raise refused("error.channel.no_reader", "no_reader")
    return adapter
