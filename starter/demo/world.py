"""The client of the demo: acts as buyers at the channels' twins, and as staff and warehouses at our API."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
from temporalio.service import RPCError

from models.order import OrderStatus
from starter.sandbox.accounts import BOOKING
from workers.client import connect

PROVINCES = (
    ("上海市", "上海市", "浦东新区"),
    ("广东省", "广州市", "天河区"),
    ("北京市", "北京市", "海淀区"),
    ("四川省", "成都市", "武侯区"),
    ("浙江省", "杭州市", "西湖区"),
    ("湖北省", "武汉市", "洪山区"),
)
_SURNAMES, _GIVEN = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨", ("梓涵", "浩宇", "欣怡", "子轩", "雨桐", "俊杰", "诗雅", "明哲")
_STREETS = ("梧桐巷", "银杏路", "望江街", "听雨里", "松涛道", "晚晴弄")


def people(count: int, seed: int = 11) -> list[dict[str, str]]:
    """Return distinct invented recipients."""
    dice = random.Random(seed)  # noqa: S311
    recipients = []
    for number in range(count):
        province, city, district = PROVINCES[number % len(PROVINCES)]
        recipients.append(
            {
                "name": dice.choice(_SURNAMES) + dice.choice(_GIVEN) + dice.choice(_GIVEN)[0],
                "phone": f"1{dice.choice('3578')}{dice.randrange(10**9):09}",
                "province": province,
                "city": city,
                "district": district,
                "street": f"{dice.choice(_STREETS)}{dice.randrange(100, 999)}号{dice.randrange(101, 3200)}室",
            }
        )
    return recipients


class ScenarioFailed(AssertionError):
    """An expected event did not happen, or not in time."""


def expect(condition: bool, otherwise: object) -> None:
    """Raise ``ScenarioFailed`` with this message unless the condition holds."""
    if not condition:
        raise ScenarioFailed(str(otherwise))


@dataclass
class Sale:
    """One order of the demo."""

    channel: str
    shop: str
    order_no: str
    person: dict[str, str]
    on_channel: bool = True
    """The channel has this order; a reissue it has not."""

    @property
    def order_id(self) -> str:
        return f"order:{self.channel}:{self.shop}:{self.order_no}"


@dataclass
class World:
    """``rows`` holds the orders by id as listed last; one reader serves all scenarios."""

    client: httpx.AsyncClient
    api: str
    sandbox: str
    key: str
    till_key: str
    people: list[dict[str, str]]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    sales: list[Sale] = field(default_factory=list)

    # Buyers

    async def sell(
        self, channel: str, shop: str, *skus: str, quantity: int = 1, price: str = "59", **sale: Any
    ) -> Sale:
        """Place an order on a channel, without its webhook."""
        person = sale.pop("recipient", None) or self.people[len(self.sales) % len(self.people)]
        body = {
            "lines": [{"sku": sku, "quantity": quantity, "price": price} for sku in skus],
            "recipient": person,
            **sale,
        }
        sold = Sale(channel, shop, "", person)
        self.sales.append(sold)
        response = await self._twin("POST", f"/{channel}/_control/shops/{shop}/orders", body)
        sold.order_no = response["order_no"]
        return sold

    def recipient_in(self, province: str) -> dict[str, str]:
        """Return a recipient in this province."""
        return next(each for each in self.people if each["province"] == province)

    async def deliver(self, sale: Sale, *, copies: int = 1, malformed: bool = False, poisoned: bool = False) -> None:
        """Send the channel's webhook, in this many copies at once; channels without webhooks are polled.

        Channels send a webhook again that was answered with a server's error.
        """
        target = {
            "url": f"{self.api}/channels/{sale.channel}/{sale.shop}/webhook",
            "copies": copies,
            "api_key": self.till_key if sale.channel == "pos" else "",
            "garbage": malformed,
            "poison": poisoned,
        }
        for _ in range(60):
            response = await self.client.post(f"{self.sandbox}{_control(sale)}/deliver", json=target)
            if response.status_code == 404:
                return
            response.raise_for_status()
            statuses = response.json()["statuses"]
            if all(status < 500 for status in statuses):
                break
            await asyncio.sleep(0.5)
        expect(all(status < 300 for status in statuses), f"the webhook returned {statuses}")

    async def place(self, channel: str, shop: str, *skus: str, **sale: Any) -> Sale:
        """Place an order on a channel and send its webhook."""
        sold = await self.sell(channel, shop, *skus, **sale)
        await self.deliver(sold)
        return sold

    async def change(self, sale: Sale, **change: Any) -> None:
        """Change an order on its channel and send the webhook."""
        await self._twin("PATCH", _control(sale), change)
        await self.deliver(sale)

    async def refund(self, sale: Sale, state: str) -> None:
        """Request, grant or close a full refund on the channel and send the webhook."""
        refund = {
            "refund_no": f"8{sale.order_no[-12:]}",
            "state": state,
            "amount": "59.00",
            "reason": "changed my mind",
        }
        await self._twin("PUT", f"{_control(sale)}/refunds", refund)
        await self.deliver(sale)

    async def shipments(self, channel: str, shop: str) -> list[dict[str, Any]]:
        """Return the shipments that a shop was notified of."""
        shipments: list[dict[str, Any]] = await self._twin("GET", f"/{channel}/_control/shops/{shop}/shipments")
        return shipments

    async def until_notified(self, sale: Sale, seconds: float = 60) -> None:
        """Wait until the channel was notified of the order's shipment."""
        for _ in range(int(seconds / 0.2)):
            if any(each["order_no"] == sale.order_no for each in await self.shipments(sale.channel, sale.shop)):
                return
            await asyncio.sleep(0.2)
        raise ScenarioFailed(f"{sale.channel} was not notified of {sale.order_id}")

    # Carriers and warehouses

    async def plan_journey(self, sale: Sale, *carriers: str, **options: Any) -> None:
        """Plan the journey of the order's parcels with these carriers, by default with any."""
        for carrier in carriers or BOOKING:
            await self._twin("POST", f"/{carrier}/_control/plans", {"match": _reference(sale), **options})

    async def travel(self, sale: Sale, kind: str = "delivered", by: str = "") -> None:
        """Continue the journey of the order's parcels, reported by their carrier or by an aggregator."""
        for parcel in (await self.order(sale))["fulfillments"]:
            path = f"/{by or parcel['carrier']}/_control/journey"
            await self._twin("POST", path, {"waybill_no": parcel["waybill_no"], "kind": kind})

    async def push_scans(self, sale: Sale, *scans: tuple[str, str, float], **more: str) -> None:
        """Push scans of the order's only parcel: code, place and minutes ago; ``more`` extends the last scan."""
        (parcel,) = (await self.order(sale))["fulfillments"]
        now = datetime.now(UTC)
        routes: list[dict[str, str]] = [
            {
                "waybill_no": parcel["waybill_no"],
                "code": code,
                "place": place,
                "text": f"{code} {place}",
                "at": (now - timedelta(minutes=minutes)).isoformat(),
            }
            for code, place, minutes in scans
        ]
        routes[-1] |= more
        await self._twin("POST", f"/{parcel['carrier']}/_control/route", {"routes": routes})

    async def fault(self, sale: Sale, fault: str, **more: Any) -> None:
        """Set a fault for the booking of this order at SF and YTO."""
        for system, operation in (("sf", "EXP_RECE_CREATE_ORDER"), ("yto", "privacy_create_adapter")):
            body = {"system": system, "operation": operation, "match": _reference(sale), "fault": fault, **more}
            await self._twin("POST", "/_faults", body)

    async def hold_at_warehouse(self, sale: Sale, fulfillment: str, *, unaccepted: bool = False) -> None:
        """Keep the warehouse from shipping this fulfillment order; ``unaccepted``: also from accepting it."""
        body = {"match": f"{sale.order_id}:{fulfillment}", "unaccepted": unaccepted}
        await self._twin("POST", "/warehouse/_control/hold", body)

    async def until_submitted(self, sale: Sale) -> None:
        """Wait until the order is submitted to a warehouse."""
        await self.until(sale, OrderStatus.ALLOCATED)
        for _ in range(150):
            if any(each["request_status"] != "unsubmitted" for each in (await self.order(sale))["fulfillments"]):
                return
            await asyncio.sleep(0.2)
        raise ScenarioFailed(f"{sale.order_id} was not submitted to a warehouse")

    async def reject(self, sale: Sale, warehouse: str, sku: str) -> None:
        """Have this warehouse reject the order because a SKU is missing."""
        missing = [{"sku": sku, "kind": "not_found"}]
        body = {"warehouse": warehouse, "match": sale.order_no, "reason": "not found", "shortfalls": missing}
        await self._twin("POST", "/warehouse/_control/reject", body)

    async def pushed_stock(self, shop: str, sku: str) -> int:
        """Wait for a stock push of a SKU to an own site and return its quantity."""
        for _ in range(300):
            stock = (await self._twin("GET", f"/own/_control/shops/{shop}/stock"))["stock"]
            if sku in stock:
                return int(stock[sku])
            await asyncio.sleep(0.2)
        raise ScenarioFailed(f"no stock of {sku} was pushed to {shop}")

    async def get_from_twin(self, path: str) -> Any:
        return await self._twin("GET", path)

    # Staff

    async def failed_message(self, sale: Sale) -> dict[str, Any]:
        """Wait for the failed message about an order and return it with its raw body."""
        for _ in range(100):
            for row in await self.get("/intake/failed", limit=500):
                message: dict[str, Any] = await self.get(f"/intake/{row['id']}/raw")
                if sale.order_no in message["body"]:
                    return message
            await asyncio.sleep(0.2)
        raise ScenarioFailed(f"no message about {sale.order_id} failed")

    async def request(self, sale: Sale, verb: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """Send a request of staff about an order and return the status and body of the response."""
        response = await self.client.post(f"{self.api}/orders/{sale.order_id}/{verb}", json=body, headers=self._staff)
        return response.status_code, response.json()

    async def apply_remedy(self, sale: Sale, kind: str, remedy: str) -> None:
        """Apply a remedy to an exception of the order's first fulfillment order."""
        await self.post(f"/exceptions/{quote(f'{sale.order_id}:F1:{kind}', safe='')}/remedy", {"remedy": remedy})

    async def until_reissued(self, sale: Sale) -> OrderStatus:
        """Wait until the reissue of the order's first fulfillment order is completed."""
        reissue = Sale(sale.channel, sale.shop, f"{sale.order_no}-F1R", sale.person, on_channel=False)
        self.sales.append(reissue)
        return await self.until(reissue, OrderStatus.COMPLETED)

    async def receive(self, warehouse: str, sku: str, quantity: int) -> None:
        await self.post("/stock/receive", {"warehouse": warehouse, "sku": sku, "quantity": quantity})

    async def order(self, sale: Sale) -> dict[str, Any]:
        response = await self.client.get(f"{self.api}/orders/{sale.order_id}", headers=self._staff)
        response.raise_for_status()
        order: dict[str, Any] = response.json()
        return order

    async def get(self, path: str, **params: Any) -> Any:
        response = await self.client.get(f"{self.api}{path}", params=params, headers=self._staff)
        response.raise_for_status()
        return response.json()

    async def post(self, path: str, body: Any) -> Any:
        response = await self.client.post(f"{self.api}{path}", json=body, headers=self._staff)
        response.raise_for_status()
        return response.json()

    # Waiting

    async def watch(self) -> None:
        """Refresh the list of orders until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(0.5)

    async def refresh(self) -> None:
        cursor: str | None = None
        while True:
            params = {"limit": "500"} | ({"cursor": cursor} if cursor else {})
            page = await self.get("/orders", **params)
            self.rows |= {row["id"]: row for row in page["items"]}
            if (cursor := page["next"]) is None:
                return

    async def until(self, sale: Sale, *statuses: OrderStatus, seconds: float = 240) -> OrderStatus:
        """Wait until the order is in one of these statuses and return it."""

        def reached() -> bool:
            return sale.order_id in self.rows and self.rows[sale.order_id]["status"] in statuses

        await self.wait(
            reached, seconds, lambda: f"{sale.order_id} is {self.rows.get(sale.order_id, {}).get('status')}"
        )
        return OrderStatus(self.rows[sale.order_id]["status"])

    async def until_exception(
        self, sale: Sale, kind: str, *, closed: bool = False, remedy: str | None = None, seconds: float = 60
    ) -> None:
        """Wait until an exception of this kind is open, closed, or has a remedy; trigger the monitor each time."""
        monitor = (await connect()).get_schedule_handle("parcels")
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        while datetime.now(UTC) < deadline:
            with suppress(RPCError):  # the worker creates the schedule when it starts
                await monitor.trigger()
            await asyncio.sleep(1)
            exceptions = await self.get("/exceptions", order_id=sale.order_id, kind=kind, closed="true")
            if any((each["closed_at"] or not closed) and remedy in (None, each["remedy"]) for each in exceptions):
                return
        state = remedy or ("closed" if closed else "open")
        raise ScenarioFailed(f"no exception {kind} of {sale.order_id} is {state}")

    async def until_subscribed(self, aggregator: str, waybill_no: str, seconds: float = 60) -> None:
        """Wait until an aggregator has a subscription to a parcel; trigger the monitor each time."""
        monitor = (await connect()).get_schedule_handle("parcels")
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        while datetime.now(UTC) < deadline:
            with suppress(RPCError):
                await monitor.trigger()
            await asyncio.sleep(1)
            bookings = await self._twin("GET", f"/{aggregator}/_control/bookings")
            if any(each["waybill_no"] == waybill_no and each["followed"] for each in bookings):
                return
        raise ScenarioFailed(f"{aggregator} has no subscription to {waybill_no}")

    async def wait(self, condition: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                raise ScenarioFailed(f"after {seconds:.0f} s: {otherwise()}")
            await asyncio.sleep(0.2)

    @property
    def _staff(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def _twin(self, method: str, path: str, body: Any = None) -> Any:
        response = await self.client.request(method, f"{self.sandbox}{path}", json=body)
        response.raise_for_status()
        return response.json() if response.content else None


def _control(sale: Sale) -> str:
    """Return the control path of the order at its channel's twin."""
    return f"/{sale.channel}/_control/shops/{sale.shop}/orders/{sale.order_no}"


def _reference(sale: Sale) -> str:
    """Return the beginning of the references of the order's bookings."""
    return f"{sale.order_no}-F"
