"""Stock sync over real HTTP: shops receive changed quantities once, within their rule."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.catalogue import locations
from activities.kit import http
from activities.kit.database import transaction
from activities.stock import operations, stock_sync
from activities.stock.stock_sync import SyncReport, watch_stock
from models.api_keys import Scope
from models.intake import AccountRow, Secrets
from models.listings import ListingRow, StockRule
from models.stock import Audience, LocationKind
from models.vault import seal_row
from starter.sandbox.app import create_app
from starter.sandbox.merchant import seed
from tests.api import bearer
from tests.integration.books import admitted, now, receive, shipped
from tests.serving import served
from tests.shops import World
from tests.unit.orders import line
from workers.main import worker

pytestmark = pytest.mark.usefixtures("database")
WATCHED = {"A001": {}, "A002": {}, "K001": {}}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture
async def shop(sandbox: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Set up an own site that sells two SKUs and a bundle."""
    world = World(sandbox, "own", request.node.name[:60])
    async with transaction() as connection:
        await seed(connection)
        account = world.account
        await connection.execute(
            insert(AccountRow).values(
                seal_row(
                    AccountRow,
                    dict(
                        integration=account.integration,
                        source=account.source,
                        account=account.account,
                        base_url=account.base_url,
                        secrets=Secrets(values=account.secrets),
                        settings={"stock": {}},
                    ),
                )
            )
        )
        await stock_sync.save_listings(connection, "own", account.account, WATCHED)
    yield world
    await http.close()


async def rule(shop: World, **chosen: Any) -> None:
    async with transaction() as connection:
        await stock_sync.save_rule(connection, "own", shop.account.account, StockRule(**chosen))


async def push(shop: World, *moved: str) -> SyncReport:
    return await stock_sync.push("own", shop.account.account, moved or None)


def offers_of(shop: World) -> dict[str, int]:
    found: dict[str, int] = shop.ok("GET", f"/{shop.account.account}/stock")["stock"]
    return found


async def test_only_changed_quantities_are_pushed(shop: World) -> None:
    await receive("SH", "A001", 10)
    await receive("GZ", "A001", 5)
    assert (await push(shop)).pushed == 3
    assert offers_of(shop) == {"A001": 15, "A002": 0, "K001": 0}
    assert (await push(shop)).pushed == 0
    order = await admitted("1", line(1, "A001", 4))
    assert (await push(shop, "A001")).pushed == 1
    assert offers_of(shop)["A001"] == 11
    await shipped(order, order.active[0])
    assert (await push(shop, "A001")).pushed == 0


async def test_bundles_follow_their_components(shop: World) -> None:
    await receive("SH", "B001", 5)
    await receive("SH", "B002", 9)
    await push(shop)
    assert offers_of(shop)["K001"] == 2
    await receive("GZ", "B001", 1)
    assert (await push(shop, "B001")).pushed == 1
    assert offers_of(shop)["K001"] == 3


@pytest.mark.parametrize(
    ("chosen", "offered"),
    [
        ({"percentage": "50"}, 7),
        ({"buffer": 3}, 12),
        ({"least": 16}, 0),
        ({"most": 6}, 6),
        ({"locations": ["GZ"]}, 5),
        ({"percentage": "50", "buffer": 3, "least": 5, "most": 9}, 0),
    ],
)
async def test_rule_decides_the_quantity(shop: World, chosen: dict[str, Any], offered: int) -> None:
    await receive("SH", "A001", 10)
    await receive("GZ", "A001", 5)
    await rule(shop, **chosen)
    await push(shop)
    assert offers_of(shop)["A001"] == offered


async def test_virtual_stock_of_other_audiences_is_not_offered(shop: World) -> None:
    await receive("SH", "A001", 10)
    for code, audience in (("SH@pos", Audience(channels=("pos",))), ("SH@own", Audience(channels=("own",)))):
        async with transaction() as connection:
            fence = locations.Location(code=code, name=code, kind=LocationKind.VIRTUAL, parent="SH", audience=audience)
            await locations.save(connection, fence)
            await operations.move_to_virtual(connection, code, "A001", 4, code, "test")
    await push(shop)
    assert offers_of(shop)["A001"] == 6


async def test_refused_listings_are_recorded_and_the_others_pushed(shop: World) -> None:
    async with transaction() as connection:
        await connection.execute(
            insert(ListingRow).values(channel="own", shop=shop.account.account, sku="?1", listing={}, refused="")
        )
    await receive("SH", "A001", 10)
    report = await push(shop)
    assert (report.pushed, report.refused) == (3, 1)
    assert offers_of(shop)["A001"] == 10
    async with transaction() as connection:
        query = select(ListingRow.refused).where(ListingRow.sku == "?1")
        assert await connection.scalar(query) == "not sold here"


async def test_failed_push_resumes_after_recorded_offers(shop: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_sync, "PORTION", 1)
    await receive("SH", "A001", 10)
    shop.fault("stock", "500", match="A002")
    with pytest.raises(ApplicationError):
        await push(shop)
    assert offers_of(shop) == {"A001": 10}
    assert (await push(shop)).pushed == 2
    assert shop.ok("GET", f"/{shop.account.account}/stock")["pushes"] == 3


async def test_pos_shop_has_no_stock_rule(shop: World, api: httpx.AsyncClient) -> None:
    async with transaction() as connection:
        await connection.execute(
            insert(AccountRow).values(
                seal_row(
                    AccountRow,
                    dict(
                        integration=shop.account.integration,
                        source="pos",
                        account="counter",
                        base_url="",
                        secrets=Secrets(values={}),
                        settings={},
                    ),
                )
            )
        )
    api.headers.update(await bearer(Scope.STAFF))
    assert (await api.put("/listings/pos/counter/rule", json={})).status_code == 422


async def test_sale_lowers_offers_within_seconds(shop: World) -> None:
    await receive("SH", "A001", 10)
    watching = asyncio.create_task(ActivityEnvironment().run(watch_stock, "own", shop.account.account, 8.0))
    await until(shop, 10)
    shop.fault("stock", "500", times=1)
    shop.fault("stock", "429", seconds=1)
    for number in range(3):
        await admitted(str(number), line(1, "A001", 2))
    await until(shop, 4)
    assert (await watching).refused == 0
    calls = shop.ok("GET", f"/{shop.account.account}/stock")["pushes"]
    assert calls <= 4


async def test_new_rule_reaches_a_shop_after_a_failed_push(shop: World) -> None:
    await receive("SH", "A001", 10)
    watching = asyncio.create_task(ActivityEnvironment().run(watch_stock, "own", shop.account.account, 5.0))
    await until(shop, 10)
    shop.fault("stock", "500", times=2)
    await rule(shop, buffer=3)
    await until(shop, 7)
    await watching


async def until(shop: World, quantity: int) -> None:
    begun = now()
    while offers_of(shop).get("A001") != quantity:
        assert (now() - begun).total_seconds() < 60, offers_of(shop)
        await asyncio.sleep(0.1)


async def test_listings_and_rule_set_by_staff_start_the_sync(
    shop: World, temporal: Client, api: httpx.AsyncClient
) -> None:
    await receive("SH", "A003", 8)
    api.headers.update(await bearer(Scope.STAFF))
    path = f"/listings/own/{shop.account.account}"
    assert (await api.put(path, json={"no such": {}})).status_code == 422
    assert (await api.put("/listings/own/nobody", json={"A003": {}})).status_code == 404
    assert (await api.put(path, json={"A003": {}})).json() == {"listings": 1}
    assert (await api.put(f"{path}/rule", json={"percentage": 0})).status_code == 422
    async with worker(temporal):
        (await api.put(f"{path}/rule", json={"buffer": 1})).raise_for_status()
        for _ in range(600):
            if offers_of(shop).get("A003") == 7:
                break
            await asyncio.sleep(0.1)
        await temporal.get_schedule_handle(f"stock:own:{shop.account.account}").delete()
        assert offers_of(shop)["A003"] == 7
        listed = (await api.get("/listings", params={"sku": "A003"})).json()
        assert [(each["offered"], each["refused"]) for each in listed] == [(7, "")]
        async for run in temporal.list_workflows(f"WorkflowId = 'stock:own:{shop.account.account}'"):
            await temporal.get_workflow_handle(run.id).terminate()
