"""Adapters against their twins over real HTTP: both use the wire format and check each other's signatures."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.kit import http
from activities.kit.errors import Unauthentic
from models.order import URGENT, ChannelOrder
from starter.sandbox.app import create_app
from starter.sandbox.channels import shopify as shopify_twin
from tests.serving import served
from tests.shops import DAY, NOW, PERSON, World, failure, shipment


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


@pytest.mark.parametrize("method", ["md5", "hmac", "hmac-sha256"])
async def test_taobao_orders_are_pulled(sandbox: str, method: str) -> None:
    world = World(sandbox, "taobao", f"tb-{method}", sign_method=method)
    paid = world.sell(("A001", 2), ("B007", 1), urgent=True, buyer_message="轻放")
    unpaid = world.sell(paid=False)
    orders = {order.channel_order_no: order for order in await world.pulled()}
    assert set(orders) == {paid, unpaid}
    assert orders[paid].payable
    assert not orders[unpaid].payable
    assert orders[paid].priority == URGENT
    assert orders[paid].recipient.phone == "13900139000"
    assert "total_mismatch" not in orders[paid].custom


async def test_taobao_pull_is_complete_while_rows_move(sandbox: str) -> None:
    world = World(sandbox, "taobao", "tb-pages")
    sold = {world.sell(created=NOW - timedelta(minutes=n)) for n in range(10, 130)}
    until = datetime.now(UTC) - timedelta(seconds=1)
    seen = set()
    moved = ""
    async for pulled in world.adapter.pull(NOW - DAY, until):
        order = world.adapter.parse(pulled.body, "")
        assert order is not None
        seen.add(order.channel_order_no)
        if not moved:
            moved = min(sold - seen)
            world.change(moved, buyer_message="changed while you read")
    assert seen | {moved} == sold


async def test_taobao_reads_long_windows_day_by_day(sandbox: str) -> None:
    world = World(sandbox, "taobao", "tb-days")
    sold = {world.sell(created=NOW - n * DAY) for n in range(1, 4)}
    assert {order.channel_order_no for order in await world.pulled(NOW - 5 * DAY)} == sold
    assert await world.pulled(NOW - timedelta(minutes=30)) == []


async def test_taobao_leaves_the_current_second_to_the_next_pull(sandbox: str) -> None:
    world = World(sandbox, "taobao", "tb-now")
    number = world.sell(created=datetime.now(UTC))
    assert await world.pulled(until=datetime.now(UTC)) == []
    later = [order.channel_order_no for order in await world.pulled(until=datetime.now(UTC) + timedelta(seconds=5))]
    assert later == [number]


async def test_taobao_change_is_a_new_fact_once(sandbox: str) -> None:
    world = World(sandbox, "taobao", "tb-facts")
    number = world.sell(paid=False)

    async def keys() -> set[str]:
        ahead = datetime.now(UTC) + timedelta(seconds=5)
        return {pulled.receipt.fact_key async for pulled in world.adapter.pull(NOW - DAY, ahead)}

    before = await keys()
    assert await keys() == before
    world.change(number, paid=True)
    assert len(await keys() | before) == 2


@pytest.mark.parametrize(
    ("secret", "code"),
    [({"app_secret": "guess"}, "25"), ({"session": "stale", "refresh_token": ""}, "27"), ({"app_key": "0"}, "29")],
)
async def test_taobao_wrong_credentials_are_refused(sandbox: str, secret: dict[str, str], code: str) -> None:
    world = World(sandbox, "taobao", "tb-wrong")
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | secret})
    error = await failure(world.pulled())
    assert (error.type, error.details[0]) == ("Refused", code)


@pytest.mark.parametrize(
    ("fault", "wait"), [("500", None), ("429", 17), ("garbage", None)], ids=["broken", "banned", "garbage"]
)
async def test_taobao_passing_fault_is_retried(sandbox: str, fault: str, wait: int | None) -> None:
    world = World(sandbox, "taobao", f"tb-{fault}")
    world.sell()
    world.fault("taobao.trades.sold.increment.get", fault, match=f"session-of-tb-{fault}", seconds=17)
    error = await failure(world.pulled())
    assert error.type == "Unavailable"
    assert (error.next_retry_delay and error.next_retry_delay.total_seconds()) == wait
    assert len(await world.pulled()) == 1


async def test_taobao_shipment_is_confirmed_once(sandbox: str) -> None:
    world = World(sandbox, "taobao", "tb-ship")
    number = world.sell(("A001", 2), ("B007", 1))
    (order,) = await world.pulled()
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(order))
    assert [(each["order_no"], each["carrier"], each["waybill_no"]) for each in world.shipments] == [
        (number, "SF", "SF1234567890")
    ]
    error = await failure(world.adapter.confirm_shipment(shipment(order, "SF0000000000")))
    assert (error.type, error.details[0]) == ("Refused", "isv.logistics-offline-service-error:B04")


async def test_taobao_parts_are_confirmed(sandbox: str) -> None:
    world = World(sandbox, "taobao", "tb-parts", carrier_codes={"sf": "SFEXPRESS"})
    world.sell(("A001", 2), ("B007", 1))
    (order,) = await world.pulled()
    first, second = (line.line_no for line in order.lines)
    await world.adapter.confirm_shipment(shipment(order, "SF1", first))
    (between,) = await world.pulled(until=datetime.now(UTC) + timedelta(seconds=5))
    await world.adapter.confirm_shipment(shipment(order, "SF2", second))
    assert [(each["carrier"], each["waybill_no"], each["lines"]) for each in world.shipments] == [
        ("SFEXPRESS", "SF1", {first: 2}),
        ("SFEXPRESS", "SF2", {second: 1}),
    ]
    assert len(between.lines) == 2


async def test_taobao_keeps_the_first_waybill_of_a_split_line(sandbox: str) -> None:
    world = World(sandbox, "taobao", "tb-halves")
    world.sell(("A001", 2))
    (order,) = await world.pulled()
    for waybill_no in ("SF1", "SF2"):
        await world.adapter.confirm_shipment(shipment(order, waybill_no, A001=1))
    assert [each["waybill_no"] for each in world.shipments] == ["SF1"]


@pytest.mark.parametrize("source", ["taobao", "shopify", "own"])
async def test_shipment_without_a_response_is_recorded_once(
    sandbox: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(sandbox, source, f"{source}-silence")
    number = world.sell(("A001", 2))
    order = await _order(world, number)
    operation = {"taobao": "taobao.logistics.offline.send", "shopify": "fulfillmentCreate", "own": "shipments"}[source]
    world.fault(operation, "timeout_after", match=number, seconds=1)
    monkeypatch.setattr(http, "_client", httpx.AsyncClient(timeout=0.3))
    error = await failure(world.adapter.confirm_shipment(shipment(order)))
    assert error.type == "Unavailable"
    await http.close()
    await world.adapter.confirm_shipment(shipment(order))
    assert [each["waybill_no"] for each in world.shipments] == ["SF1234567890"]


async def _order(world: World, number: str) -> Any:
    """Return an order of a shop, pulled or by webhook."""
    if world.account.source in {"taobao", "shopify"}:
        return next(order for order in await world.pulled() if order.channel_order_no == number)
    headers, body = (await _received(world, number))[0]
    return world.adapter.parse(body, world.adapter.receive(headers, body).topic)


async def _received(world: World, number: str, **delivery: Any) -> list[tuple[dict[str, str], bytes]]:
    """Return the headers and bodies that a webhook endpoint receives."""
    messages: list[tuple[dict[str, str], bytes]] = []
    app = FastAPI()

    @app.post("/webhook")
    async def _(request: Request) -> Response:
        messages.append((dict(request.headers), await request.body()))
        return Response(status_code=202)

    with served(app) as url:
        assert set(world.deliver(number, f"{url}/webhook", **delivery)) == {202}
    return messages


async def test_shopify_copies_of_a_delivery_are_one_fact(sandbox: str) -> None:
    world = World(sandbox, "shopify", "sh-hooks")
    number = world.sell(("A001", 2), urgent=True)
    messages = await _received(world, number, copies=3)
    receipts = [world.adapter.receive(headers, body) for headers, body in messages]
    assert len(receipts) == 3
    assert len({receipt.fact_key for receipt in receipts}) == 1
    assert (receipts[0].topic, receipts[0].priority) == ("orders/create", URGENT)
    order = world.adapter.parse(messages[0][1], receipts[0].topic)
    assert order is not None
    assert (order.channel_order_no, order.recipient.city) == (number, "杭州市")
    assert "total_mismatch" not in order.custom
    with pytest.raises(Unauthentic):
        world.adapter.receive(messages[0][0], messages[0][1] + b" ")


async def test_shopify_webhooks_carry_changes(sandbox: str) -> None:
    world = World(sandbox, "shopify", "sh-changes")
    number = world.sell(("A001", 2), paid=False)
    topics = []
    for change in ({"paid": True}, {"recipient": PERSON | {"street": "文三路2号"}}, {"cancelled": True}):
        world.change(number, **change)
        ((headers, body),) = await _received(world, number)
        receipt = world.adapter.receive(headers, body)
        topics.append(receipt.topic)
        order = world.adapter.parse(body, receipt.topic)
        assert order is not None
    assert topics == ["orders/updated", "orders/updated", "orders/cancelled"]
    assert order.payable
    assert order.cancelled_at
    assert order.recipient.street.startswith("文三路2号")


async def test_shopify_pages_follow_their_links(sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shopify_twin, "_LARGEST_PAGE", 2)
    world = World(sandbox, "shopify", "sh-pages")
    sold = {world.sell(created=NOW - timedelta(minutes=n)) for n in range(5)}
    assert {order.channel_order_no for order in await world.pulled()} == sold


async def test_shopify_parts_are_confirmed_once_each(sandbox: str) -> None:
    world = World(sandbox, "shopify", "sh-parts")
    number = world.sell(("A001", 2), ("B007", 1))
    (order,) = await world.pulled()
    first, second = (line.line_no for line in order.lines)
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(order, "SF1", first, A001=1))
    await world.adapter.confirm_shipment(shipment(order, "SF2"))
    assert [(each["waybill_no"], each["lines"]) for each in world.shipments] == [
        ("SF1", {first: 1}),
        ("SF2", {first: 1, second: 1}),
    ]
    error = await failure(world.adapter.confirm_shipment(shipment(order, "SF3")))
    assert error.type == "Refused"
    assert number not in str(error)


async def test_shopify_refusal_in_a_200_response_is_raised(sandbox: str) -> None:
    world = World(sandbox, "shopify", "sh-refusals")
    number = world.sell()
    (order,) = await world.pulled()
    world.change(number, cancelled=True)
    error = await failure(world.adapter.confirm_shipment(shipment(order)))
    assert (error.type, error.details[0]) == ("Refused", "userErrors")
    stranger = order.model_copy(update={"channel_order_no": "1"})
    assert (await failure(world.adapter.confirm_shipment(shipment(stranger)))).details[0] == "not_found"


async def test_shopify_throttling_lasts_as_the_bucket_says(sandbox: str) -> None:
    world = World(sandbox, "shopify", "sh-throttle")
    number = world.sell()
    (order,) = await world.pulled()
    world.fault("order", "429", match=number, seconds=4)
    error = await failure(world.adapter.confirm_shipment(shipment(order)))
    assert (error.type, error.next_retry_delay) == ("Unavailable", timedelta(seconds=4))
    world.fault("orders.json", "429", seconds=3)
    error = await failure(world.pulled())
    assert (error.type, error.next_retry_delay) == ("Unavailable", timedelta(seconds=3))


async def test_shopify_wrong_token_is_refused(sandbox: str) -> None:
    world = World(sandbox, "shopify", "sh-token")
    world.account = world.account.model_copy(update={"secrets": {"access_token": "stale"}})
    error = await failure(world.pulled())
    assert (error.type, error.details[0]) == ("Refused", "401")


async def test_own_site_sends_orders_and_receives_shipments(sandbox: str) -> None:
    world = World(sandbox, "own", "site")
    number = world.sell(("A001", 2), ("B007", 1), custom={"gift": True}, urgent=True)
    messages = await _received(world, number, copies=2)
    receipts = [world.adapter.receive(headers, body) for headers, body in messages]
    assert len({receipt.fact_key for receipt in receipts}) == 1
    assert receipts[0].priority == URGENT
    order = world.adapter.parse(messages[0][1], receipts[0].topic)
    assert order is not None
    assert order.custom == {"gift": True}
    world.change(number, cancelled=True)
    ((headers, body),) = await _received(world, number)
    assert world.adapter.receive(headers, body).fact_key != receipts[0].fact_key
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(order))
    assert [(each["carrier"], each["lines"]) for each in world.shipments] == [("sf", {"1": 2, "2": 1})]
    world.account = world.account.model_copy(update={"secrets": {"secret": "guess"}})
    with pytest.raises(Unauthentic):
        world.adapter.receive(headers, body)
    assert (await failure(world.adapter.confirm_shipment(shipment(order)))).type == "Refused"


async def test_till_sends_its_key_and_receives_no_shipments(sandbox: str) -> None:
    world = World(sandbox, "pos", "tills")
    number = world.sell(store="SH-01", terminal="T2")
    ((headers, body),) = await _received(world, number, api_key="hd_test")
    assert headers["authorization"] == "Bearer hd_test"
    order = world.adapter.parse(body, world.adapter.receive(headers, body).topic)
    assert order is not None
    assert (order.channel_order_no, order.payable) == (number, True)
    await world.adapter.confirm_shipment(shipment(order))
    assert world.shipments == []


async def test_authentic_garbage_is_an_order_with_its_field_named(sandbox: str) -> None:
    for source, field in (("shopify", "line_items"), ("own", "lines"), ("pos", "lines")):
        world = World(sandbox, source, f"{source}-garbage")
        ((headers, body),) = await _received(world, world.sell(), garbage=True)
        receipt = world.adapter.receive(headers, body)
        order = world.adapter.parse(body, receipt.topic)
        assert isinstance(order, ChannelOrder)
        assert field in order.odd
        assert json.loads(body)
