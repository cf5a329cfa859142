"""A shop in the sandbox, its account in Hengdan, and the actions of its buyers."""

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import httpx
import pytest
from temporalio.exceptions import ApplicationError

from activities.channels import Channel, channel
from models.fulfillment import Shipment, ShipmentLine
from models.intake import Account, IntegrationType

SECRETS = {
    "taobao": {"app_key": "12345678", "app_secret": "s3cret", "session": "session-of-{shop}"},
    "shopify": {"client_secret": "hush", "access_token": "token-of-{shop}"},
    "own": {"secret": "whisper"},
}
PERSON = {
    "name": "韩梅梅",
    "phone": "13900139000",
    "province": "浙江省",
    "city": "杭州市",
    "district": "西湖区",
    "street": "文三路1号",
}
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
BUYER = httpx.Client(timeout=30)


def shipment(order: Any, waybill_no: str = "SF1234567890", *line_nos: str, **quantities: int) -> Shipment:
    """Return the shipment of an order, of some of its lines, or of some quantities by SKU."""
    lines = tuple(
        ShipmentLine(line_no=line.line_no, sku=line.sku, quantity=quantities.get(line.sku, line.quantity))
        for line in order.lines
        if not line_nos or line.line_no in line_nos
    )
    return Shipment(
        channel_order_no=order.channel_order_no,
        reference=f"{order.order_id}:{waybill_no}",
        carrier="sf",
        waybill_no=waybill_no,
        lines=lines,
        whole_order=not line_nos and not quantities,
        shipped_at=datetime.now(UTC),
    )


async def failure(act: Any) -> ApplicationError:
    """Return the error that awaiting ``act`` raises."""
    with pytest.raises(ApplicationError) as caught:
        await act
    return caught.value


class World:
    """A shop of one channel. ``url`` is the address of the sandbox."""

    def __init__(self, url: str, source: str, shop: str, **settings: Any) -> None:
        twin = import_module(f"starter.sandbox.channels.{source}")
        templates = {name: f"{name}-of-{{shop}}" for name in twin.SECRETS} | SECRETS.get(source, {})
        secrets = {name: value.format(shop=shop) for name, value in templates.items()}
        base_url = f"{url}/{source}{twin.PATH.format(shop=shop)}"
        defaults = {
            key: value.format(url=base_url, shop=shop) if isinstance(value, str) else value
            for key, value in twin.SETTINGS.items()
        }
        settings = defaults | settings
        self.account = Account(
            integration=IntegrationType.CHANNEL,
            source=source,
            account=shop,
            base_url=base_url,
            secrets=secrets,
            settings=settings,
        )
        self.control = f"{url}/{source}/_control/shops"
        self.ok("POST", "", {"shop": shop, "secrets": secrets})
        self.faults = f"{url}/_faults"

    @property
    def adapter(self) -> Channel:
        return channel(self.account)

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        response = BUYER.request(method, self.control + path, json=body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def sell(self, *lines: tuple[str, int], **more: Any) -> str:
        sold = [{"sku": sku, "quantity": quantity, "price": "20.00"} for sku, quantity in lines or [("A001", 1)]]
        created = more.pop("created", NOW - timedelta(hours=1)).isoformat()
        sale = {"lines": sold, "recipient": PERSON, "created": created, **more}
        return str(self.ok("POST", f"/{self.account.account}/orders", sale)["order_no"])

    def change(self, order_no: str, **change: Any) -> None:
        self.ok("PATCH", f"/{self.account.account}/orders/{order_no}", change)

    def refund(self, order_no: str, refund_no: str, **refund: Any) -> None:
        content = {"refund_no": refund_no, **refund}
        self.ok("PUT", f"/{self.account.account}/orders/{order_no}/refunds", content)

    def deliver(self, order_no: str, url: str, **more: Any) -> list[int]:
        path = f"/{self.account.account}/orders/{order_no}/deliver"
        statuses: list[int] = self.ok("POST", path, {"url": url, **more})["statuses"]
        return statuses

    @property
    def shipments(self) -> list[dict[str, Any]]:
        shipped: list[dict[str, Any]] = self.ok("GET", f"/{self.account.account}/shipments")
        return shipped

    def fault(self, operation: str, fault: str, **more: Any) -> None:
        content = {"system": self.account.source, "operation": operation, "fault": fault, **more}
        assert BUYER.post(self.faults, json=content).is_success

    async def pulled(self, since: datetime = NOW - DAY, until: datetime | None = None) -> list[Any]:
        until = until or datetime.now(UTC) - timedelta(seconds=1)
        orders = []
        async for pulled in self.adapter.pull(since, until):
            order = self.adapter.parse(pulled.body, pulled.receipt.topic)
            assert order is not None
            orders.append(order)
        return orders
