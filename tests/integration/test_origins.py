"""Order origins: paths, messages, corrections, and counts by origin."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select
from structlog.testing import capture_logs
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.accounts.api_keys import create_key
from activities.intake.polling import pull_orders
from activities.kit import http
from activities.kit.database import transaction
from models.address import Recipient
from models.api_keys import Scope
from models.intake import AccountRow, Secrets
from models.order import OrderRow
from models.settings import settings
from models.vault import seal_row
from starter.sandbox.app import create_app
from tests.api import bearer, sale, tell, until
from tests.commands import Commands
from tests.serving import served
from tests.shops import World
from workers.main import worker


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture
async def shop(sandbox: str, api: httpx.AsyncClient) -> AsyncIterator[World]:
    world = World(sandbox, "woocommerce", "wc-origin")
    account = world.account
    row = {
        "integration": account.integration,
        "source": account.source,
        "account": account.account,
        "base_url": account.base_url,
    }
    async with transaction() as connection:
        values = {**row, "secrets": Secrets(values=account.secrets), "settings": {}}
        await connection.execute(insert(AccountRow).values(seal_row(AccountRow, values)))
    yield world
    await http.close()


@pytest.fixture
async def working(temporal: Client) -> AsyncIterator[None]:
    async with worker(temporal):
        yield


async def arrived(*numbers: str) -> list[str]:
    """Return the ids of these orders once all have arrived."""

    async def look() -> list[str]:
        async with transaction() as connection:
            query = select(OrderRow.channel_order_no, OrderRow.id)  # type: ignore[call-overload]
            ids = dict((await connection.execute(query)).all())
        return [ids[number] for number in numbers] if set(numbers) <= set(ids) else []

    return await until(look)


@pytest.mark.usefixtures("working")
async def test_order_is_traced_to_its_messages_and_their_effects(shop: World, api: httpx.AsyncClient) -> None:
    reader = await bearer(Scope.READ)
    number = shop.sell(created=datetime.now(UTC) - timedelta(minutes=3), paid=False)
    url = f"{str(api.base_url).rstrip('/')}/channels/woocommerce/wc-origin/webhook"
    assert await asyncio.to_thread(shop.deliver, number, url) == [202]
    (order_id,) = await arrived(number)
    shop.change(number, paid=True)
    await asyncio.sleep(1.1)  # the channel reports times in seconds
    await ActivityEnvironment().run(pull_orders, "woocommerce", "wc-origin")

    async def traced() -> dict[str, Any] | None:
        answer: dict[str, Any] = (await api.get(f"/orders/{order_id}/origin", headers=reader)).json()
        return answer if [each["state"] for each in answer["messages"]] == ["done", "done"] else None

    trace = await until(traced)
    assert trace is not None
    assert trace["paths"] == ["webhook", "poll"]
    first, second = trace["messages"]
    assert (first["topic"], first["path"], second["path"]) == ("order.created", "webhook", "poll")
    assert first["led_to"] == ["Received by webhook"]
    assert second["reason"] == "payment"
    origin = trace["origin"]
    assert (origin["platform"], origin["intake"]) == ("woocommerce", "webhook")
    assert origin["region"].startswith("CN ")
    assert datetime.fromisoformat(origin["first_seen_at"]) == datetime.fromisoformat(first["received_at"])
    assert (await api.get(f"/intake/{first['id']}/raw", headers=reader)).status_code == 403
    raw = (await api.get(f"/intake/{first['id']}/raw", headers=await bearer(Scope.STAFF))).json()
    assert number in raw["body"]


@pytest.mark.usefixtures("working")
async def test_corrected_origin_is_counted_and_the_previous_one_kept(api: httpx.AsyncClient) -> None:
    staff = await bearer(Scope.STAFF, name="mei")
    reader = await bearer(Scope.READ)
    order, other = sale(campaign="Double  11"), sale(campaign="double 11")
    for each in (order, other):
        assert (await tell(api, each)).status_code == 202
    order_id, _ = await arrived(order["order_no"], other["order_no"])
    path = f"/orders/{order_id}/origin"

    async def counted(by: str) -> dict[str, int]:
        counts = (await api.get("/origins", params={"by": by}, headers=reader)).json()
        return {each["origin"]: each["orders"] for each in counts}

    assert await counted("campaign") == {"double 11": 2}
    assert await counted("path") == {"webhook": 2}
    change = {"campaign": "６１８", "region": "浙江省 杭州市", "reason": "the code was reused", "request_id": "r1"}
    for _ in range(2):
        trace = (await api.post(path, json=change, headers=staff)).json()
    (correction,) = trace["corrections"]
    assert (correction["actor"], correction["reason"]) == ("mei", "the code was reused")
    assert (correction["before"]["campaign"], correction["after"]["campaign"]) == ("double 11", "618")
    assert trace["origin"]["region"] == "CN 浙江省 杭州市"
    assert trace["origin"]["told"]["campaign"] == "Double  11"
    assert await counted("campaign") == {"double 11": 1, "618": 1}
    assert (await counted("province"))["浙江省"] == 1
    shown = (await api.get(f"/orders/{order_id}", headers=reader)).json()
    assert "Origin corrected: the code was reused" in [each["text"] for each in shown["timeline"]]
    assert (await api.post(path, json={"reason": "?"}, headers=staff)).status_code == 422
    assert (await api.post(path, json=change, headers=reader)).status_code == 403
    assert (await api.post("/orders/order:own:web:0/origin", json=change, headers=staff)).status_code == 404
    assert (await api.get("/orders/order:own:web:0/origin", headers=reader)).status_code == 404
    assert (await api.get("/origins?by=phone", headers=reader)).status_code == 422


async def insert_order(number: int, **more: Any) -> None:
    """Insert an order."""
    row = {
        "id": f"order:own:web:{number}", "channel": "own", "shop": "web", "channel_order_no": str(number),
        "status": "completed", "revision": 1, "priority": 3, "holds": [], "lines": [], "custom": {}, "currency": "CNY",
        "total": 10, "origin": {"platform": "own", "intake": "webhook", "region": "CN 浙江省 杭州市"},
        "phone_index": "", "region": "CN 浙江省 杭州市", "next_step": "",
        "placed_at": datetime(2026, 11, number, tzinfo=UTC),
        "updated_at": datetime.now(UTC),
    }  # fmt: skip
    async with transaction() as connection:
        await connection.execute(insert(OrderRow).values(seal_row(OrderRow, row | more)))


async def test_orders_are_counted_by_origin(api: httpx.AsyncClient) -> None:
    await insert_order(1)
    await insert_order(2, currency="USD", total=7)
    await insert_order(3, status="cancelled", total=1000)
    await insert_order(4, origin={"platform": "app", "intake": "poll", "region": "CN 广东省"})
    reader = await bearer(Scope.READ)
    counts = (await api.get("/origins", params={"by": "province"}, headers=reader)).json()
    assert [(each["origin"], each["orders"], each["dropped"]) for each in counts] == [
        ("浙江省", 3, 1),
        ("广东省", 1, 0),
    ]
    assert {currency: float(amount) for currency, amount in counts[0]["amounts"].items()} == {
        "CNY": 10,
        "USD": 7,
    }
    window = {"by": "platform", "from": "2026-11-03T00:00:00Z", "to": "2026-11-04T00:00:00Z"}
    counts = (await api.get("/origins", params=window, headers=reader)).json()
    assert [(each["origin"], each["orders"]) for each in counts] == [("own", 1)]
    assert [each["origin"] for each in (await api.get("/origins?by=shop", headers=reader)).json()] == ["own:web"]


@pytest.mark.usefixtures("working")
async def test_command_line_traces_and_counts(
    api: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("mei", [Scope.STAFF]))
    settings.cache_clear()
    hengdan = Commands(capsys)
    order = sale(campaign="Autumn")
    number = str(order["order_no"])
    assert (await tell(api, order)).status_code == 202
    await arrived(number)
    with capture_logs():
        output = await hengdan.ok("origin", number, "--lang", "en")
        assert "channel sent Autumn" in output
        assert "Received by webhook" in output
        assert order["event_id"] in await hengdan.ok("origin", number, "--raw")
        assert "--reason" in await hengdan.refused("origin", number, "--campaign", "618")
        assert "autumn → 618" in await hengdan.ok("origin", number, "--campaign", "618", "--reason", "asked the buyer")
        assert "618" in await hengdan.ok("origins", "--by", "campaign")
        assert json.loads(await hengdan.ok("origins", "--by", "path", "--json"))[0]["origin"] == "webhook"
        assert "by" in await hengdan.refused("origins", "--by", "phone")


async def test_province_of_two_words_is_counted_whole(api: httpx.AsyncClient) -> None:
    region = Recipient(country="US", province="New York", city="New York").region
    await insert_order(1, origin={"platform": "own", "intake": "webhook", "region": region})
    counts = (await api.get("/origins", params={"by": "province"}, headers=await bearer(Scope.READ))).json()
    assert [each["origin"] for each in counts] == ["New York"]
