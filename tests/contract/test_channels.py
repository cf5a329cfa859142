"""Tests of every channel adapter against its twin over real HTTP."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from itertools import count
from pkgutil import iter_modules
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from temporalio.exceptions import ApplicationError

from activities import carriers
from activities.channels import CARRIER_NAMES, AccessRenewer, Hint, OrderReader, order_fact_key
from activities.kit import http
from activities.kit.errors import EXPIRED, Unauthentic, Unintelligible
from models.order import ChannelOrder, RefundState
from starter.sandbox import channels
from starter.sandbox.app import create_app
from tests.serving import served
from tests.shops import BUYER, DAY, NOW, PERSON, World, shipment

CHANNELS = [each.name for each in iter_modules(channels.__path__)]
PUSH_ONLY = {"own", "app", "pos"}
"""Channels that send their orders and cannot be queried."""
WHOLE_ORDER_ONLY = {"pdd", "jd"}
"""Channels that refund and ship only whole orders."""
OUR_CARRIERS = [each.name for each in iter_modules(carriers.__path__)]
READABLE = [name for name in CHANNELS if name not in PUSH_ONLY]
_shops = count(1)
_received: list[tuple[dict[str, str], bytes]] = []


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(scope="module")
def webhook_url() -> Iterator[str]:
    """Yield the URL of a server that records webhooks."""
    app = FastAPI()

    @app.post("/webhook")
    async def receive(request: Request) -> Response:
        _received.append((dict(request.headers), await request.body()))
        return Response(status_code=200)

    with served(app) as url:
        yield f"{url}/webhook"


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    _received.clear()
    yield
    await http.close()


def open_shop(sandbox: str, channel: str) -> World:
    return World(sandbox, channel, f"{channel}-{next(_shops)}")


async def read_order(world: World, order_no: str, webhook_url: str) -> ChannelOrder:
    """Return the order as the channel now has it: read where possible, otherwise by its webhook."""
    adapter = world.adapter
    if isinstance(adapter, OrderReader):
        pulled = await adapter.read(order_no)
        assert pulled is not None
        order = adapter.parse(pulled.body, pulled.receipt.topic)
    else:
        world.deliver(order_no, webhook_url)
        headers, body = _received[-1]
        order = adapter.parse(body, adapter.receive(headers, body).topic)
    assert isinstance(order, ChannelOrder)
    return order


@pytest.mark.parametrize("channel", CHANNELS)
async def test_order_is_parsed_as_sold(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    number = world.sell(("A001", 2), ("B007", 1), freight="8")
    order = await read_order(world, number, webhook_url)
    assert (order.channel, order.shop) == (channel, world.account.account)
    assert [(line.sku, line.quantity, line.unit_price) for line in order.lines] == [("A001", 2, 20), ("B007", 1, 20)]
    assert order.payable
    assert (order.total, order.freight) == (Decimal(68), Decimal(8))
    assert "total_mismatch" not in order.custom
    assert (order.cancelled_at, order.shipped, order.refunds) == (None, False, ())
    assert order.placed_at.tzinfo
    person = order.recipient
    assert (person.city, person.digits[-11:]) == ("杭州市", PERSON["phone"])
    assert PERSON["street"] in person.street
    assert order.origin.shop
    assert order.origin.platform


@pytest.mark.parametrize("channel", READABLE)
async def test_all_changed_orders_are_pulled_page_by_page(sandbox: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    created = NOW - timedelta(minutes=20)
    sold = {world.sell(created=created) for _ in range(103)}
    earlier = world.sell(created=NOW - 2 * DAY)
    until = NOW - timedelta(minutes=4)
    pulled = {order.channel_order_no for order in await world.pulled(created - timedelta(minutes=5), until)}
    assert pulled == sold
    adapter = world.adapter
    assert isinstance(adapter, OrderReader)
    listed = [number async for number in adapter.numbers(NOW - 3 * DAY, NOW)]
    assert set(listed) == {*sold, earlier}


@pytest.mark.parametrize("channel", READABLE)
async def test_a_change_is_a_new_fact_and_a_repeat_is_not(sandbox: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    number = world.sell(paid=False)
    adapter = world.adapter
    assert isinstance(adapter, OrderReader)

    async def key() -> str:
        pulled = await adapter.read(number)
        assert pulled is not None
        return pulled.receipt.fact_key

    before = await key()
    assert await key() == before
    world.change(number, paid=True)
    assert await key() != before
    assert await adapter.read("404404404404") is None


@pytest.mark.parametrize("channel", CHANNELS)
async def test_cancellation_is_parsed(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    number = world.sell()
    world.change(number, cancelled=True)
    assert (await read_order(world, number, webhook_url)).cancelled_at is not None


@pytest.mark.parametrize("channel", CHANNELS)
async def test_repeated_shipment_is_recorded_once(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    order = await read_order(world, world.sell(("A001", 2)), webhook_url)
    for _ in range(3):
        await world.adapter.confirm_shipment(shipment(order, "SF1000000000001"))
    if channel == "pos":
        assert world.shipments == []
        return
    (left,) = world.shipments
    assert (left["order_no"], left["waybill_no"]) == (order.channel_order_no, "SF1000000000001")
    if channel in READABLE:
        assert (await read_order(world, order.channel_order_no, webhook_url)).shipped


@pytest.mark.parametrize("channel", CHANNELS)
def test_carrier_codes_are_keyed_by_our_carriers(channel: str) -> None:
    codes = getattr(import_module(f"activities.channels.{channel}"), "CARRIER_CODES", {})
    assert set(codes) | set(CARRIER_NAMES) <= {*OUR_CARRIERS, "ems"}
    assert all(isinstance(code, str) for code in codes.values())


@pytest.mark.parametrize("channel", READABLE)
async def test_account_setting_overrides_a_carrier_code(sandbox: str, webhook_url: str, channel: str) -> None:
    world = World(sandbox, channel, f"{channel}-{next(_shops)}", carrier_codes={"sf": "777"})
    order = await read_order(world, world.sell(("A001", 2)), webhook_url)
    await world.adapter.confirm_shipment(shipment(order, "SF1000000000001"))
    assert [each["carrier"] for each in world.shipments] == ["777"]


@pytest.mark.parametrize("channel", ["jd", "pdd"])
async def test_carrier_without_a_code_is_refused(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    order = await read_order(world, world.sell(("A001", 2)), webhook_url)
    unknown = shipment(order, "X1").model_copy(update={"carrier": "unknown"})
    with pytest.raises(ApplicationError, match=r"error\.carrier_code") as caught:
        await world.adapter.confirm_shipment(unknown)
    assert caught.value.non_retryable
    await world.adapter.confirm_shipment(unknown.model_copy(update={"carrier": "jdl"}))


@pytest.mark.parametrize("channel", [name for name in CHANNELS if name not in ("pos", *WHOLE_ORDER_ONLY)])
async def test_two_parcels_are_confirmed_line_by_line(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    order = await read_order(world, world.sell(("A001", 2), ("B007", 1)), webhook_url)
    for number, line in enumerate(order.lines):
        await world.adapter.confirm_shipment(shipment(order, f"SF200000000000{number}", line.line_no))
    left = {each["waybill_no"]: each["lines"] for each in world.shipments}
    assert set(left) == {"SF2000000000000", "SF2000000000001"}
    assert not set(left["SF2000000000000"]) & set(left["SF2000000000001"])


@pytest.mark.parametrize("channel", READABLE)
@pytest.mark.parametrize("fault", ["500", "429", "garbage"])
async def test_passing_fault_is_retryable(sandbox: str, channel: str, fault: str) -> None:
    world = open_shop(sandbox, channel)
    world.sell(created=NOW - timedelta(minutes=5))
    world.fault("", fault, times=1, seconds=3)
    with pytest.raises(ApplicationError) as caught:
        await world.pulled(NOW - DAY, NOW)
    assert not caught.value.non_retryable
    assert len(await world.pulled(NOW - DAY, NOW)) == 1


@pytest.mark.parametrize("channel", READABLE)
async def test_wrong_secrets_are_refused(sandbox: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    world.sell(created=NOW - timedelta(minutes=5))
    world.account = world.account.model_copy(update={"secrets": dict.fromkeys(world.account.secrets, "0123456789ab")})
    with pytest.raises(ApplicationError) as caught:
        await world.pulled(NOW - DAY, NOW)
    assert caught.value.non_retryable or caught.value.type == EXPIRED


@pytest.mark.parametrize("channel", [name for name in READABLE if name not in WHOLE_ORDER_ONLY])
async def test_refund_granted_before_shipping_removes_the_line(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    number = world.sell(("A001", 2), ("B007", 1))
    world.refund(number, "9001", state="granted", sku="B007", quantity=1, amount="20.00")
    order = await read_order(world, number, webhook_url)
    assert [line.sku for line in order.lines] == ["A001"]
    (refund,) = order.refunds
    assert refund.state is RefundState.GRANTED
    assert refund.amount in (20, 0)
    assert order.total == 40
    assert order.cancelled_at is None


@pytest.mark.parametrize("channel", READABLE)
async def test_full_refund_before_shipping_cancels_the_order(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    number = world.sell(("A001", 1))
    world.refund(number, "9002", state="granted", amount="20.00")
    order = await read_order(world, number, webhook_url)
    assert order.cancelled_at is not None
    assert order.lines


@pytest.mark.parametrize("channel", ["taobao", "jd", "pdd", "douyin", "suning"])
async def test_refund_request_is_parsed_where_the_channel_has_it(sandbox: str, webhook_url: str, channel: str) -> None:
    if channel not in CHANNELS:
        pytest.skip("needs a sandbox twin of this channel")
    world = open_shop(sandbox, channel)
    number = world.sell(("A001", 1))
    world.refund(number, "9003", state="asked", amount="20.00")
    assert [each.state for each in (await read_order(world, number, webhook_url)).refunds] == [RefundState.ASKED]
    world.refund(number, "9003", state="closed", amount="20.00")
    states = [each.state for each in (await read_order(world, number, webhook_url)).refunds]
    assert RefundState.ASKED not in states


@pytest.mark.parametrize("channel", ["taobao", "jd", "pdd", "douyin", "suning", "amazon", "woocommerce"])
async def test_refund_after_shipping_is_parsed_and_pulled(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    order = await read_order(world, world.sell(("A001", 1), created=NOW - DAY), webhook_url)
    await world.adapter.confirm_shipment(shipment(order, "SF3000000000001"))
    world.refund(order.channel_order_no, "9004", state="granted", amount="20.00")
    later = await read_order(world, order.channel_order_no, webhook_url)
    assert later.cancelled_at is None
    assert [each.state for each in later.refunds] == [RefundState.GRANTED]
    await asyncio.sleep(1.1 if channel == "pdd" else 0)  # which does not list the current second
    assert len(await world.pulled(NOW - timedelta(minutes=5), datetime.now(UTC) + timedelta(seconds=2))) == 1


@pytest.mark.parametrize("channel", CHANNELS)
async def test_webhook_is_accepted_only_with_its_signature(sandbox: str, webhook_url: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    number = world.sell()
    response = BUYER.post(
        f"{world.control}/{world.account.account}/orders/{number}/deliver", json={"url": webhook_url, "copies": 1}
    )
    if response.status_code == 404:
        with pytest.raises(Unauthentic):
            world.adapter.receive({}, b"{}")
        return
    headers, body = _received[-1]
    receipt = world.adapter.receive(headers, body)
    assert receipt.fact_key
    parsed = world.adapter.parse(body, receipt.topic)
    assert isinstance(parsed, Hint) or (isinstance(parsed, ChannelOrder) and parsed.channel_order_no == number)
    if world.adapter.signed:
        with pytest.raises(Unauthentic):
            world.adapter.receive({}, body)
    if world.adapter.signed and channel != "amazon":  # which sends a key, not a signature
        for changed in (body + b" ", body.replace(b"1", b"2")):
            with pytest.raises(Unauthentic):
                world.adapter.receive(headers, changed)


@pytest.mark.parametrize("channel", CHANNELS)
def test_invalid_body_is_refused_with_its_field(sandbox: str, channel: str) -> None:
    adapter = open_shop(sandbox, channel).adapter
    for body in (b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"orders": 1}'):
        with contextlib.suppress(Unintelligible):
            assert not isinstance(adapter.parse(body, ""), ChannelOrder)


@pytest.mark.parametrize("channel", CHANNELS)
def test_adapter_docstring_names_its_sources(channel: str) -> None:
    module = import_module(f"activities.channels.{channel}")
    assert (inspect.getdoc(module) or "").strip()


@pytest.mark.parametrize("channel", READABLE)
async def test_expired_access_is_renewed(sandbox: str, channel: str) -> None:
    world = open_shop(sandbox, channel)
    world.sell(created=NOW - timedelta(minutes=5))
    if not isinstance(world.adapter, AccessRenewer):
        pytest.skip("its access does not run out")
    path = f"{world.control}/{world.account.account}/expire"
    assert BUYER.post(path).is_success
    with pytest.raises(ApplicationError) as caught:
        await world.pulled(NOW - DAY, NOW)
    assert caught.value.type == EXPIRED
    renewing: Any = world.adapter
    fresh = await renewing.renew()
    world.account = world.account.model_copy(update={"secrets": {**world.account.secrets, **fresh}})
    assert len(await world.pulled(NOW - DAY, NOW)) == 1


def test_fact_key_depends_on_time_and_content() -> None:
    first = order_fact_key("1", "2026-11-11 10:00:00", {"memo": "", "lines": [1]})
    assert first == order_fact_key("1", "2026-11-11 10:00:00", {"lines": [1], "memo": ""})
    assert first != order_fact_key("1", "2026-11-11 10:00:00", {"memo": "wait", "lines": [1]})
