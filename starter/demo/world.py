"""The demo's hands on the outside world: buyers at the channels' twins, staff and warehouses at our API."""

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
    """Invented recipients, no two alike."""
    dice = random.Random(seed)  # noqa: S311
    found = []
    for number in range(count):
        province, city, district = PROVINCES[number % len(PROVINCES)]
        found.append(
            {
                "name": dice.choice(_SURNAMES) + dice.choice(_GIVEN) + dice.choice(_GIVEN)[0],
                "phone": f"1{dice.choice('3578')}{dice.randrange(10**9):09}",
                "province": province,
                "city": city,
                "district": district,
                "street": f"{dice.choice(_STREETS)}{dice.randrange(100, 999)}号{dice.randrange(101, 3200)}室",
            }
        )
    return found


class Untold(AssertionError):
    """Something did not happen in time."""


def demand(held: bool, otherwise: object) -> None:
    if not held:
        raise Untold(str(otherwise))


@dataclass
class Sale:
    """One order as the demo follows it."""

    channel: str
    shop: str
    order_no: str
    person: dict[str, str]
    told: bool = True
    """Its channel knows of it."""

    @property
    def order_id(self) -> str:
        return f"order:{self.channel}:{self.shop}:{self.order_no}"


@dataclass
class World:
    """``rows`` is the newest list of orders by id, read once for all stories."""

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
        """A buyer buys; the channel knows, we do not yet."""
        person = sale.pop("recipient", None) or self.people[len(self.sales) % len(self.people)]
        told = {
            "lines": [{"sku": sku, "quantity": quantity, "price": price} for sku in skus],
            "recipient": person,
            **sale,
        }
        sold = Sale(channel, shop, "", person)
        self.sales.append(sold)
        answer = await self._twin("POST", f"/{channel}/_control/shops/{shop}/orders", told)
        sold.order_no = answer["order_no"]
        return sold

    def somebody(self, province: str) -> dict[str, str]:
        """Who lives there."""
        return next(each for each in self.people if each["province"] == province)

    async def deliver(self, sale: Sale, *, copies: int = 1, garbage: bool = False) -> None:
        """The channel's webhook, so many copies at once. One without waits to be asked."""
        target = {
            "url": f"{self.api}/channels/{sale.channel}/{sale.shop}/webhook",
            "copies": copies,
            "api_key": self.till_key if sale.channel == "pos" else "",
            "garbage": garbage,
        }
        answer = await self.client.post(f"{self.sandbox}{_control(sale)}/deliver", json=target)
        if answer.status_code == 404:
            return
        answer.raise_for_status()
        statuses = answer.json()["statuses"]
        demand(all(status < 300 for status in statuses), f"webhook answered {statuses}")

    async def place(self, channel: str, shop: str, *skus: str, **sale: Any) -> Sale:
        """A buyer buys, and the channel tells us."""
        sold = await self.sell(channel, shop, *skus, **sale)
        await self.deliver(sold)
        return sold

    async def change(self, sale: Sale, **change: Any) -> None:
        """The buyer changes something, and the channel tells us."""
        await self._twin("PATCH", _control(sale), change)
        await self.deliver(sale)

    async def refund(self, sale: Sale, state: str) -> None:
        """The buyer wants all of the money back, or was given it, or not; and the channel tells us."""
        refund = {
            "refund_no": f"8{sale.order_no[-12:]}",
            "state": state,
            "amount": "59.00",
            "reason": "changed my mind",
        }
        await self._twin("PUT", f"{_control(sale)}/refunds", refund)
        await self.deliver(sale)

    async def shipments(self, channel: str, shop: str) -> list[dict[str, Any]]:
        """What a shop was told that left."""
        told: list[dict[str, Any]] = await self._twin("GET", f"/{channel}/_control/shops/{shop}/shipments")
        return told

    # Carriers and warehouses

    async def journey(self, sale: Sale, *carriers: str, **way: Any) -> None:
        """How the order's parcels will travel, with these carriers or any."""
        for carrier in carriers or BOOKING:
            await self._twin("POST", f"/{carrier}/_control/plans", {"match": _reference(sale), **way})

    async def travel(self, sale: Sale, kind: str = "delivered", by: str = "") -> None:
        """A parcel that stood still goes on, as its carrier tells, or an aggregator that follows it."""
        for parcel in (await self.order(sale))["fulfillments"]:
            path = f"/{by or parcel['carrier']}/_control/journey"
            await self._twin("POST", path, {"waybill_no": parcel["waybill_no"], "kind": kind})

    async def scanned(self, sale: Sale, *scans: tuple[str, str, float], **more: str) -> None:
        """The order's parcel is scanned, so many hours ago: the carrier's code, and where; ``more`` of the last."""
        (parcel,) = (await self.order(sale))["fulfillments"]
        now = datetime.now(UTC)
        routes: list[dict[str, str]] = [
            {
                "waybill_no": parcel["waybill_no"],
                "code": code,
                "place": place,
                "text": f"{code} {place}",
                "at": (now - timedelta(hours=hours)).isoformat(),
            }
            for code, place, hours in scans
        ]
        routes[-1] |= more
        await self._twin("POST", f"/{parcel['carrier']}/_control/route", {"routes": routes})

    async def fault(self, sale: Sale, fault: str, **more: Any) -> None:
        """What goes wrong when either carrier is asked to book this order."""
        for system, operation in (("sf", "EXP_RECE_CREATE_ORDER"), ("yto", "privacy_create_adapter")):
            told = {"system": system, "operation": operation, "match": _reference(sale), "fault": fault, **more}
            await self._twin("POST", "/_faults", told)

    async def keep_in_warehouse(self, sale: Sale, fulfillment: str, *, unseen: bool = False) -> None:
        """The warehouse does not ship this fulfillment order until told to; ``unseen``, it does not even accept it."""
        told = {"match": f"{sale.order_id}:{fulfillment}", "unseen": unseen}
        await self._twin("POST", "/warehouse/_control/hold", told)

    async def submitted(self, sale: Sale) -> None:
        """Waits until a warehouse has the order."""
        await self.until(sale, OrderStatus.ALLOCATED)
        for _ in range(150):
            if any(each["request_status"] != "unsubmitted" for each in (await self.order(sale))["fulfillments"]):
                return
            await asyncio.sleep(0.2)
        raise Untold(f"no warehouse was told of {sale.order_id}")

    async def reject(self, sale: Sale, warehouse: str, sku: str) -> None:
        """This warehouse will not find a SKU of the order."""
        missing = [{"sku": sku, "kind": "not_found"}]
        told = {"warehouse": warehouse, "match": sale.order_no, "reason": "not found", "shortfalls": missing}
        await self._twin("POST", "/warehouse/_control/reject", told)

    async def offered(self, shop: str, sku: str) -> int:
        """How many of a SKU an own site was told that it may sell; it waits to be told."""
        for _ in range(300):
            told = (await self._twin("GET", f"/own/_control/shops/{shop}/stock"))["stock"]
            if sku in told:
                return int(told[sku])
            await asyncio.sleep(0.2)
        raise Untold(f"{shop} was told nothing of {sku}")

    async def twin(self, path: str) -> Any:
        return await self._twin("GET", path)

    # Staff

    async def failed(self, sale: Sale) -> dict[str, Any]:
        """The message about an order that was not understood, as it came; waits for it."""
        for _ in range(100):
            for row in await self.get("/intake/failed", limit=500):
                message: dict[str, Any] = await self.get(f"/intake/{row['id']}/raw")
                if sale.order_no in message["body"]:
                    return message
            await asyncio.sleep(0.2)
        raise Untold(f"nothing about {sale.order_id} failed")

    async def ask(self, sale: Sale, verb: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """Status and body of what staff ask of an order."""
        answer = await self.client.post(f"{self.api}/orders/{sale.order_id}/{verb}", json=body, headers=self._staff)
        return answer.status_code, answer.json()

    async def remedy(self, sale: Sale, kind: str, remedy: str) -> None:
        """What is wrong with the order's first parcel is done about."""
        await self.post(f"/exceptions/{quote(f'{sale.order_id}:F1:{kind}', safe='')}/remedy", {"remedy": remedy})

    async def reissued(self, sale: Sale) -> OrderStatus:
        """What was in the order's first parcel is sent once more, and arrives."""
        again = Sale(sale.channel, sale.shop, f"{sale.order_no}-F1R", sale.person, told=False)
        self.sales.append(again)
        return await self.until(again, OrderStatus.COMPLETED)

    async def receive(self, warehouse: str, sku: str, quantity: int) -> None:
        await self.post("/stock/receive", {"warehouse": warehouse, "sku": sku, "quantity": quantity})

    async def order(self, sale: Sale) -> dict[str, Any]:
        answer = await self.client.get(f"{self.api}/orders/{sale.order_id}", headers=self._staff)
        answer.raise_for_status()
        shown: dict[str, Any] = answer.json()
        return shown

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.client.get(f"{self.api}{path}", params=params, headers=self._staff)
        answer.raise_for_status()
        return answer.json()

    async def post(self, path: str, body: Any) -> Any:
        answer = await self.client.post(f"{self.api}{path}", json=body, headers=self._staff)
        answer.raise_for_status()
        return answer.json()

    # Waiting

    async def watch(self) -> None:
        """Reads the list of orders again and again."""
        while True:
            await self.look()
            await asyncio.sleep(0.5)

    async def look(self) -> None:
        cursor: str | None = None
        while True:
            params = {"limit": "500"} | ({"cursor": cursor} if cursor else {})
            page = await self.get("/orders", **params)
            self.rows |= {row["id"]: row for row in page["items"]}
            if (cursor := page["next"]) is None:
                return

    async def until(self, sale: Sale, *statuses: OrderStatus, seconds: float = 90) -> OrderStatus:
        """Waits until the order is in one of the statuses."""

        def there() -> bool:
            return sale.order_id in self.rows and self.rows[sale.order_id]["status"] in statuses

        await self.wait(there, seconds, lambda: f"{sale.order_id} is {self.rows.get(sale.order_id, {}).get('status')}")
        return OrderStatus(self.rows[sale.order_id]["status"])

    async def wrong(self, sale: Sale, kind: str, *, closed: bool = False, seconds: float = 60) -> None:
        """Waits until an exception of this kind is there, or is closed; looks are taken at once."""
        look = (await connect()).get_schedule_handle("parcels")
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        while datetime.now(UTC) < deadline:
            with suppress(RPCError):  # the worker sets it up as it begins
                await look.trigger()
            await asyncio.sleep(1)
            found = await self.get("/exceptions", order_id=sale.order_id, kind=kind, closed="true")
            if any(each["closed_at"] or not closed for each in found):
                return
        raise Untold(f"no exception {kind} of {sale.order_id} is {'closed' if closed else 'there'}")

    async def followed(self, aggregator: str, waybill_no: str, seconds: float = 60) -> None:
        """Waits until an aggregator was asked to follow a parcel; looks are taken at once."""
        look = (await connect()).get_schedule_handle("parcels")
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        while datetime.now(UTC) < deadline:
            with suppress(RPCError):
                await look.trigger()
            await asyncio.sleep(1)
            bookings = await self._twin("GET", f"/{aggregator}/_control/bookings")
            if any(each["waybill_no"] == waybill_no and each["followed"] for each in bookings):
                return
        raise Untold(f"{aggregator} does not follow {waybill_no}")

    async def wait(self, condition: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                raise Untold(f"after {seconds:.0f} s: {otherwise()}")
            await asyncio.sleep(0.2)

    @property
    def _staff(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def _twin(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.client.request(method, f"{self.sandbox}{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None


def _control(sale: Sale) -> str:
    """Where its channel's twin is told what becomes of it."""
    return f"/{sale.channel}/_control/shops/{sale.shop}/orders/{sale.order_no}"


def _reference(sale: Sale) -> str:
    """What its bookings' references contain."""
    return f"{sale.order_no}-F"
