"""What the twins of all channels share: shops with their sales, and control paths that play the buyer.

A twin adds its wire format: it renders a ``Sale`` as its channel would, and records the shipments reported to it.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import count
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

Recipient = dict[str, str]
CHINA = timezone(timedelta(hours=8))


def china_time(moment: datetime) -> str:
    """Return a time as Chinese systems write it: GMT+8, without a zone."""
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SaleLine(Strict):
    sku: str
    quantity: int = 1
    price: Decimal = Decimal("10.00")
    discount: Decimal = Decimal(0)
    title: str = ""


class Refund(Strict):
    """A refund of a SKU or, without one, of the whole order; the same number again changes it."""

    refund_no: str
    state: str = "asked"
    """``asked``, ``granted`` or ``closed``."""
    sku: str = ""
    quantity: int = 0
    amount: Decimal = Decimal(0)
    reason: str = ""


class Sale(Strict):
    """A sale. Without ``order_no`` the twin assigns a number."""

    order_no: str = ""
    lines: list[SaleLine]
    recipient: Recipient
    paid: bool = True
    cancelled: bool = False
    cash_on_delivery: bool = False
    urgent: bool = False
    freight: Decimal = Decimal(0)
    buyer_message: str = ""
    seller_memo: str = ""
    status: str = ""
    """Overrides the channel's own status, which otherwise follows from the rest."""
    refunds: dict[str, Refund] = {}
    custom: dict[str, Any] = {}
    store: str = "S001"
    terminal: str = "T1"

    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    modified: datetime = Field(default_factory=lambda data: data["created"])
    paid_at: datetime | None = None
    cancelled_at: datetime | None = None

    @property
    def total(self) -> Decimal:
        return sum((line.price * line.quantity - line.discount for line in self.lines), self.freight)


class Change(Strict):
    """A later change by the buyer or seller; fields left out stay as they are."""

    paid: bool | None = None
    cancelled: bool | None = None
    recipient: Recipient | None = None
    quantities: dict[str, int] = {}
    """New quantities by SKU."""
    status: str | None = None
    buyer_message: str | None = None
    seller_memo: str | None = None


class Shipped(BaseModel):
    """A shipment that the channel accepted. ``lines`` holds quantities by the channel's line numbers."""

    order_no: str
    carrier: str
    waybill_no: str
    lines: dict[str, int]
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Shop(BaseModel):
    """One shop: its credentials as in the account, its sales and its shipments."""

    name: str
    secrets: dict[str, str]
    base_url: str = ""
    sales: dict[str, Sale] = {}
    shipments: list[Shipped] = []
    stock: dict[str, int] = {}
    """Quantities for sale, by the channel's own ids."""
    pushes: int = 0

    def shipped(self, order_no: str) -> list[Shipped]:
        return [each for each in self.shipments if each.order_no == order_no]

    def renew(self, *names: str) -> dict[str, str]:
        """Replace secrets by new random ones and return them."""
        fresh = {name: token_hex(12) for name in names}
        self.secrets = {**self.secrets, **fresh}
        return fresh


class Opening(Strict):
    shop: str
    secrets: dict[str, str]


class Delivery(Strict):
    """Where to send a webhook, how many copies at once, and under which topic where the channel has topics."""

    url: str
    copies: int = 1
    topic: str = ""
    api_key: str = ""
    garbage: bool = False
    """Make the lines unreadable."""
    poison: bool = False
    """Make the order's number unreadable, and add what no database stores; own site only."""


def no_webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    raise HTTPException(404, "this channel sends no webhooks")


class Shops:
    """The shops of one twin. ``number`` makes the channel's next order number, ``webhook`` renders a sale as headers
    and body, ``expiring`` names the secret that can expire."""

    def __init__(
        self,
        router: APIRouter,
        number: Callable[[Sale, int], str],
        webhook: Callable[[Shop, Sale, Delivery], tuple[Mapping[str, str], bytes]] = no_webhook,
        expiring: str = "",
    ) -> None:
        self.all: dict[str, Shop] = {}
        self.expired: set[str] = set()
        """Tokens that no longer give access."""
        self._expiring = expiring
        self._number = number
        self._webhook = webhook
        self._counter = count(1)
        control = APIRouter(prefix="/_control/shops")
        control.post("", status_code=201)(self.open)
        control.post("/{shop}/orders", status_code=201)(self.sell)
        control.patch("/{shop}/orders/{order_no}")(self.change)
        control.put("/{shop}/orders/{order_no}/refunds")(self.refund)
        control.get("/{shop}/shipments")(self.shipments)
        control.get("/{shop}/stock")(self.stock)
        control.post("/{shop}/orders/{order_no}/deliver")(self.deliver)
        if expiring:
            control.post("/{shop}/expire", status_code=204)(self.expire)
        router.include_router(control)

    async def open(self, opening: Opening) -> dict[str, str]:
        """Open a shop, or change the credentials of an open one."""
        shop = self.all.setdefault(opening.shop, Shop(name=opening.shop, secrets={}))
        shop.secrets = opening.secrets
        return {"shop": shop.name}

    async def sell(self, shop: str, sale: Sale) -> dict[str, str]:
        sale.order_no = sale.order_no or self._number(sale, next(self._counter))
        if sale.paid:
            sale.paid_at = sale.paid_at or sale.created
        self.shop(shop).sales[sale.order_no] = sale
        return {"order_no": sale.order_no}

    async def change(self, shop: str, order_no: str, change: Change) -> dict[str, str]:
        sale = self.sale(shop, order_no)
        now = datetime.now(UTC)
        if change.paid and not sale.paid:
            sale.paid, sale.paid_at = True, now
        if change.cancelled and not sale.cancelled:
            sale.cancelled, sale.cancelled_at = True, now
        for field in ("recipient", "status", "buyer_message", "seller_memo"):
            if (value := getattr(change, field)) is not None:
                setattr(sale, field, value)
        for line in sale.lines:
            line.quantity = change.quantities.get(line.sku, line.quantity)
        sale.modified = max(now, sale.modified + timedelta(milliseconds=1))
        return {"order_no": order_no}

    async def refund(self, shop: str, order_no: str, refund: Refund) -> dict[str, str]:
        sale = self.sale(shop, order_no)
        sale.refunds[refund.refund_no] = refund
        sale.modified = max(datetime.now(UTC), sale.modified + timedelta(milliseconds=1))
        return {"refund_no": refund.refund_no}

    async def shipments(self, shop: str) -> list[Shipped]:
        return self.shop(shop).shipments

    async def stock(self, shop: str) -> dict[str, Any]:
        """Return the quantities pushed to the shop, and the number of calls."""
        found = self.shop(shop)
        return {"stock": found.stock, "pushes": found.pushes}

    async def deliver(self, shop: str, order_no: str, delivery: Delivery, request: Request) -> dict[str, list[int]]:
        """Send the sale as it stands, all copies at once; return the statuses of the responses."""
        headers, body = self._webhook(self.shop(shop), self.sale(shop, order_no), delivery)
        client = request.app.state.http
        requests = [client.post(delivery.url, content=body, headers=headers) for _ in range(delivery.copies)]
        return {"statuses": [response.status_code for response in await asyncio.gather(*requests)]}

    async def expire(self, shop: str) -> None:
        """Let the shop's token expire."""
        self.expired.add(self.shop(shop).secrets[self._expiring])

    def find(self, **secrets: str | None) -> Shop | None:
        """Return the shop with these secrets."""
        return next((each for each in self.all.values() if secrets.items() <= each.secrets.items()), None)

    def shop(self, name: str) -> Shop:
        if name not in self.all:
            raise HTTPException(404, f"no shop {name}: open it first")
        return self.all[name]

    def sale(self, shop: str, order_no: str) -> Sale:
        sale = self.shop(shop).sales.get(order_no)
        if sale is None:
            raise HTTPException(404, f"no order {order_no}")
        return sale
