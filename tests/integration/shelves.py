"""A merchant with an own site, a carrier and shelves of its own: a fixture."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from structlog.testing import capture_logs
from temporalio.client import Client

from activities.accounts.api_keys import create_key
from activities.kit import http
from activities.kit.database import transaction
from activities.stock import operations
from models.api_keys import Scope
from models.fulfillment import FulfillmentRow
from models.intake import IntegrationType
from models.order import OrderRow
from models.settings import settings
from starter.sandbox import merchant
from starter.sandbox.app import create_app
from starter.sandbox.carriers import sf
from tests.api import open_account, open_door, until
from tests.commands import Commands
from tests.serving import served
from tests.shops import World
from workers.main import worker


@pytest.fixture(scope="module")
def twins_of_merchant() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


class Merchant:
    """A merchant with an own site, a carrier, and shelves of its own in Suzhou."""

    def __init__(self, api: httpx.AsyncClient, twins: httpx.AsyncClient, shop: World, hengdan: Commands) -> None:
        self.api, self.twins, self.shop, self.hengdan = api, twins, shop, hengdan

    async def place(self, *lines: tuple[str, int]) -> str:
        """Sell an order and send its webhook; return its number."""
        number = await asyncio.to_thread(self.shop.sell, *lines)
        url = f"{self.api.base_url}/channels/own/web/webhook"
        await asyncio.to_thread(self.shop.deliver, number, url)
        return number

    async def sell(self, *lines: tuple[str, int]) -> str:
        """Sell an order; return its number once it waits to be picked."""
        number = await self.place(*lines)

        async def waits() -> bool:
            return any(number in each["fulfillment_id"] for each in await self.pick_list())

        await until(waits)
        return number

    async def pick_list(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(await self.hengdan.ok("pick", "--json"))
        return listed

    async def waybill(self, number: str) -> str:
        return str((await self.parcel(number)).waybill_no)

    async def parcel(self, number: str) -> Any:
        query = select(FulfillmentRow).where(FulfillmentRow.id == f"order:own:web:{number}:F1")  # type: ignore[arg-type]
        async with transaction() as connection:
            return (await connection.execute(query)).one()

    async def until_status(self, number: str, *statuses: str) -> None:
        query = select(OrderRow.status).where(OrderRow.id == f"order:own:web:{number}")  # type: ignore[arg-type]

        async def reached() -> bool:
            async with transaction() as connection:
                return await connection.scalar(query) in statuses

        await until(reached, 120)


@pytest.fixture
async def shelves(
    temporal: Client, twins_of_merchant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Merchant]:
    shop = World(twins_of_merchant, "own", "web")
    async with transaction() as connection:
        await merchant.seed(connection)
    await open_account(IntegrationType.CHANNEL, "own", "web", base_url=shop.account.base_url, **shop.account.secrets)
    await open_account(
        IntegrationType.CARRIER, "sf", "default", base_url=f"{twins_of_merchant}/sf", **sf.SECRETS, push_secret="pushed"
    )
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("mei", list(Scope)))
    async with open_door() as api, httpx.AsyncClient(base_url=twins_of_merchant, timeout=30) as twins:
        monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
        settings.cache_clear()
        config = {"push_url": f"{api.base_url}/carriers/sf/default/push/pushed"}
        assert (await twins.post("/sf/_control/config", json=config)).is_success
        hengdan = Commands(capsys)
        where = ("--province", "江苏省", "--city", "苏州市", "--district", "吴中区", "--street", "木渎镇1号")
        who = ("--contact", "恒单苏州仓", "--phone", "13912345678", "--carrier", "sf", "--json")
        location = json.loads(await hengdan.ok("locations", "set", "SZ", *where, *who))
        assert (location["system"], location["obstacles"]) == ("manual", [])
        async with transaction() as connection:
            for sku in ("A001", "A002"):
                await operations.receive(connection, "SZ", sku, 50, f"SZ{sku}", "test")
        with capture_logs():  # the API shares standard output with the command here
            async with worker(temporal):
                yield Merchant(api, twins, shop, hengdan)
    await http.close()
