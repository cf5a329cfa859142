"""What every twin of a channel has in common: shops that hold sales, and the control paths that act the buyer's part.

A twin adds its own wire format: it renders a ``Sale`` as its channel would, and records what it is told was shipped.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

Recipient = dict[str, str]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SaleLine(Strict):
    sku: str
    quantity: int = 1
    price: Decimal = Decimal("10.00")
    discount: Decimal = Decimal(0)
    title: str = ""


class Refund(Strict):
    """What a buyer wants back, by SKU, or of the whole order; the same number again changes it."""

    refund_no: str
    state: str = "asked"
    """``asked``, ``granted`` or ``closed``."""
    sku: str = ""
    quantity: int = 0
    amount: Decimal = Decimal(0)
    reason: str = ""


class Sale(Strict):
    """A sale in plain terms. Without ``order_no`` the twin numbers it."""

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
    """The channel's own status, where it is to be other than what follows from the rest."""
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
    """What a buyer or seller changes later; what is not named stays."""

    paid: bool | None = None
    cancelled: bool | None = None
    recipient: Recipient | None = None
    quantities: dict[str, int] = {}
    """New quantities by SKU."""
    status: str | None = None
    buyer_message: str | None = None
    seller_memo: str | None = None


class Shipped(BaseModel):
    """A shipment as the channel took it. ``lines`` are quantities by the channel's line numbers."""

    order_no: str
    carrier: str
    waybill_no: str
    lines: dict[str, int]
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Shop(BaseModel):
    """One shop: its credentials as the account holds them, what it sold, what it knows to be shipped."""

    name: str
    secrets: dict[str, str]
    base_url: str = ""
    sales: dict[str, Sale] = {}
    shipments: list[Shipped] = []
    stock: dict[str, int] = {}
    """What it may sell, by what its channel calls it."""
    pushes: int = 0

    def shipped(self, order_no: str) -> list[Shipped]:
        return [each for each in self.shipments if each.order_no == order_no]


class Opening(Strict):
    shop: str
    secrets: dict[str, str]


class Delivery(Strict):
    """Where a webhook goes, how often at once, and under which topic where the channel has topics."""

    url: str
    copies: int = 1
    topic: str = ""
    api_key: str = ""
    garbage: bool = False
    """Sends an authentic body that nobody can understand."""


def no_webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    raise HTTPException(404, "this channel sends no webhooks")


class Shops:
    """The shops of one twin. ``number`` makes the channel's next order number; ``webhook`` renders a sale for delivery
    as headers and body."""

    def __init__(
        self,
        router: APIRouter,
        number: Callable[[Sale, int], str],
        webhook: Callable[[Shop, Sale, Delivery], tuple[Mapping[str, str], bytes]] = no_webhook,
    ) -> None:
        self.all: dict[str, Shop] = {}
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
        router.include_router(control)

    async def open(self, opening: Opening) -> dict[str, str]:
        """Opens a shop, or changes the credentials of one that is open."""
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
        """What the shop was told that it may sell, and in how many calls."""
        known = self.shop(shop)
        return {"stock": known.stock, "pushes": known.pushes}

    async def deliver(self, shop: str, order_no: str, delivery: Delivery, request: Request) -> dict[str, list[int]]:
        """Sends the sale as it stands, all copies at once; answers with their statuses."""
        headers, body = self._webhook(self.shop(shop), self.sale(shop, order_no), delivery)
        client = request.app.state.http
        sent = [client.post(delivery.url, content=body, headers=headers) for _ in range(delivery.copies)]
        return {"statuses": [response.status_code for response in await asyncio.gather(*sent)]}

    def shop(self, name: str) -> Shop:
        if name not in self.all:
            raise HTTPException(404, f"no shop {name}: open it first")
        return self.all[name]

    def sale(self, shop: str, order_no: str) -> Sale:
        sale = self.shop(shop).sales.get(order_no)
        if sale is None:
            raise HTTPException(404, f"no order {order_no}")
        return sale
