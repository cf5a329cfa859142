"""What holds for every channel, each against its twin over real HTTP."""

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
from models.fulfillment import Shipment, ShipmentLine
from models.order import ChannelOrder, RefundState
from starter.sandbox import channels
from starter.sandbox.app import create_app
from tests.serving import served
from tests.shops import BUYER, DAY, NOW, PERSON, World

EVERY = [each.name for each in iter_modules(channels.__path__)]
TOLD_ONLY = {"own", "app", "pos"}
"""They tell us, and cannot be asked."""
WHOLE = {"pdd", "jd"}
"""They know an order to be refunded, and shipped, as a whole only."""
OUR_CARRIERS = [each.name for each in iter_modules(carriers.__path__)]
ASKED = [name for name in EVERY if name not in TOLD_ONLY]
_shops = count(1)
_heard: list[tuple[dict[str, str], bytes]] = []


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(scope="module")
def door() -> Iterator[str]:
    """Hears webhooks."""
    app = FastAPI()

    @app.post("/webhook")
    async def hear(request: Request) -> Response:
        _heard.append((dict(request.headers), await request.body()))
        return Response(status_code=200)

    with served(app) as url:
        yield f"{url}/webhook"


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    _heard.clear()
    yield
    await http.close()


def a_shop(sandbox: str, channel: str) -> World:
    return World(sandbox, channel, f"{channel}-{next(_shops)}")


async def told(world: World, order_no: str, door: str) -> ChannelOrder:
    """The order as the channel now tells of it: asked, where it can be, and else by its webhook."""
    adapter = world.adapter
    if isinstance(adapter, OrderReader):
        pulled = await adapter.read(order_no)
        assert pulled is not None
        order = adapter.parse(pulled.body, pulled.receipt.topic)
    else:
        world.deliver(order_no, door)
        headers, body = _heard[-1]
        order = adapter.parse(body, adapter.receive(headers, body).topic)
    assert isinstance(order, ChannelOrder)
    return order


def shipment(order: ChannelOrder, waybill_no: str, *line_nos: str) -> Shipment:
    lines = tuple(
        ShipmentLine(line_no=line.line_no, sku=line.sku, quantity=line.quantity)
        for line in order.lines
        if not line_nos or line.line_no in line_nos
    )
    return Shipment(
        channel_order_no=order.channel_order_no,
        reference=f"{order.order_id}:{waybill_no}",
        carrier="sf",
        waybill_no=waybill_no,
        lines=lines,
        whole_order=not line_nos,
        shipped_at=datetime.now(UTC),
    )


@pytest.mark.parametrize("channel", EVERY)
async def test_an_order_is_told_as_it_was_sold(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    number = world.sell(("A001", 2), ("B007", 1), freight="8")
    order = await told(world, number, door)
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


@pytest.mark.parametrize("channel", ASKED)
async def test_everything_that_changed_is_pulled_page_by_page(sandbox: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
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


@pytest.mark.parametrize("channel", ASKED)
async def test_a_change_is_a_new_fact_and_the_same_is_none(sandbox: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
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


@pytest.mark.parametrize("channel", EVERY)
async def test_a_cancellation_is_told(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    number = world.sell()
    world.change(number, cancelled=True)
    assert (await told(world, number, door)).cancelled_at is not None


@pytest.mark.parametrize("channel", EVERY)
async def test_what_left_is_told_once_however_often(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    order = await told(world, world.sell(("A001", 2)), door)
    for _ in range(3):
        await world.adapter.confirm_shipment(shipment(order, "SF1000000000001"))
    if channel == "pos":
        assert world.shipments == []
        return
    (left,) = world.shipments
    assert (left["order_no"], left["waybill_no"]) == (order.channel_order_no, "SF1000000000001")
    if channel in ASKED:
        assert (await told(world, order.channel_order_no, door)).shipped


@pytest.mark.parametrize("channel", EVERY)
def test_carrier_codes_are_keyed_by_our_carriers(channel: str) -> None:
    codes = getattr(import_module(f"activities.channels.{channel}"), "CARRIER_CODES", {})
    assert set(codes) | set(CARRIER_NAMES) <= {*OUR_CARRIERS, "ems"}
    assert all(isinstance(code, str) for code in codes.values())


@pytest.mark.parametrize("channel", ASKED)
async def test_account_setting_overrides_a_carrier_code(sandbox: str, door: str, channel: str) -> None:
    world = World(sandbox, channel, f"{channel}-{next(_shops)}", carrier_codes={"sf": "777"})
    order = await told(world, world.sell(("A001", 2)), door)
    await world.adapter.confirm_shipment(shipment(order, "SF1000000000001"))
    assert [each["carrier"] for each in world.shipments] == ["777"]


@pytest.mark.parametrize("channel", ["jd", "pdd"])
async def test_carrier_without_a_code_is_refused(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    order = await told(world, world.sell(("A001", 2)), door)
    unknown = shipment(order, "X1").model_copy(update={"carrier": "unknown"})
    with pytest.raises(ApplicationError, match="add it to setting carrier_codes") as caught:
        await world.adapter.confirm_shipment(unknown)
    assert caught.value.non_retryable
    await world.adapter.confirm_shipment(unknown.model_copy(update={"carrier": "jdl"}))


@pytest.mark.parametrize("channel", [name for name in EVERY if name not in ("pos", *WHOLE)])
async def test_an_order_that_leaves_in_two_parcels_is_told_line_by_line(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    order = await told(world, world.sell(("A001", 2), ("B007", 1)), door)
    for number, line in enumerate(order.lines):
        await world.adapter.confirm_shipment(shipment(order, f"SF200000000000{number}", line.line_no))
    left = {each["waybill_no"]: each["lines"] for each in world.shipments}
    assert set(left) == {"SF2000000000000", "SF2000000000001"}
    assert not set(left["SF2000000000000"]) & set(left["SF2000000000001"])


@pytest.mark.parametrize("channel", ASKED)
@pytest.mark.parametrize("fault", ["500", "429", "garbage"])
async def test_what_passes_is_worth_another_try(sandbox: str, channel: str, fault: str) -> None:
    world = a_shop(sandbox, channel)
    world.sell(created=NOW - timedelta(minutes=5))
    world.fault("", fault, times=1, seconds=3)
    with pytest.raises(ApplicationError) as caught:
        await world.pulled(NOW - DAY, NOW)
    assert not caught.value.non_retryable
    assert len(await world.pulled(NOW - DAY, NOW)) == 1


@pytest.mark.parametrize("channel", ASKED)
async def test_who_does_not_know_the_secrets_is_turned_away(sandbox: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    world.sell(created=NOW - timedelta(minutes=5))
    world.account = world.account.model_copy(update={"secrets": dict.fromkeys(world.account.secrets, "0123456789ab")})
    with pytest.raises(ApplicationError) as caught:
        await world.pulled(NOW - DAY, NOW)
    assert caught.value.non_retryable or caught.value.type == EXPIRED


@pytest.mark.parametrize("channel", [name for name in ASKED if name not in WHOLE])
async def test_a_refund_granted_before_it_left_takes_the_line_out(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    number = world.sell(("A001", 2), ("B007", 1))
    world.refund(number, "9001", state="granted", sku="B007", quantity=1, amount="20.00")
    order = await told(world, number, door)
    assert [line.sku for line in order.lines] == ["A001"]
    (refund,) = order.refunds
    assert refund.state is RefundState.GRANTED
    assert refund.amount in (20, 0)
    assert order.total == 40
    assert order.cancelled_at is None


@pytest.mark.parametrize("channel", ASKED)
async def test_a_refund_of_everything_before_it_left_cancels(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    number = world.sell(("A001", 1))
    world.refund(number, "9002", state="granted", amount="20.00")
    order = await told(world, number, door)
    assert order.cancelled_at is not None
    assert order.lines


@pytest.mark.parametrize("channel", ["taobao", "jd", "pdd", "douyin", "suning"])
async def test_a_refund_asked_for_is_told_where_the_channel_knows_of_it(sandbox: str, door: str, channel: str) -> None:
    if channel not in EVERY:
        pytest.skip("needs a sandbox twin of this channel")
    world = a_shop(sandbox, channel)
    number = world.sell(("A001", 1))
    world.refund(number, "9003", state="asked", amount="20.00")
    assert [each.state for each in (await told(world, number, door)).refunds] == [RefundState.ASKED]
    world.refund(number, "9003", state="closed", amount="20.00")
    states = [each.state for each in (await told(world, number, door)).refunds]
    assert RefundState.ASKED not in states


@pytest.mark.parametrize("channel", ["taobao", "jd", "pdd", "douyin", "suning", "amazon", "woocommerce"])
async def test_a_refund_after_it_left_is_told_and_pulled(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    order = await told(world, world.sell(("A001", 1), created=NOW - DAY), door)
    await world.adapter.confirm_shipment(shipment(order, "SF3000000000001"))
    world.refund(order.channel_order_no, "9004", state="granted", amount="20.00")
    later = await told(world, order.channel_order_no, door)
    assert later.cancelled_at is None
    assert [each.state for each in later.refunds] == [RefundState.GRANTED]
    await asyncio.sleep(1.1 if channel == "pdd" else 0)  # which lists nothing of the present second
    assert len(await world.pulled(NOW - timedelta(minutes=5), datetime.now(UTC) + timedelta(seconds=2))) == 1


@pytest.mark.parametrize("channel", EVERY)
async def test_a_webhook_is_believed_only_as_it_was_signed(sandbox: str, door: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
    number = world.sell()
    response = BUYER.post(
        f"{world.control}/{world.account.account}/orders/{number}/deliver", json={"url": door, "copies": 1}
    )
    if response.status_code == 404:
        with pytest.raises(Unauthentic):
            world.adapter.receive({}, b"{}")
        return
    headers, body = _heard[-1]
    receipt = world.adapter.receive(headers, body)
    assert receipt.fact_key
    found = world.adapter.parse(body, receipt.topic)
    assert isinstance(found, Hint) or (isinstance(found, ChannelOrder) and found.channel_order_no == number)
    if world.adapter.signed:
        with pytest.raises(Unauthentic):
            world.adapter.receive({}, body)
    if world.adapter.signed and channel != "amazon":  # which proves itself by a key, not by a signature
        for changed in (body + b" ", body.replace(b"1", b"2")):
            with pytest.raises(Unauthentic):
                world.adapter.receive(headers, changed)


@pytest.mark.parametrize("channel", EVERY)
def test_what_is_no_order_is_refused_by_the_field(sandbox: str, channel: str) -> None:
    adapter = a_shop(sandbox, channel).adapter
    for body in (b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"orders": 1}'):
        with contextlib.suppress(Unintelligible):
            assert not isinstance(adapter.parse(body, ""), ChannelOrder)


@pytest.mark.parametrize("channel", EVERY)
def test_its_docstring_names_its_sources(channel: str) -> None:
    module = import_module(f"activities.channels.{channel}")
    assert (inspect.getdoc(module) or "").strip()


@pytest.mark.parametrize("channel", ASKED)
async def test_access_that_ran_out_is_renewed(sandbox: str, channel: str) -> None:
    world = a_shop(sandbox, channel)
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


def test_two_changes_of_one_second_are_two_facts_and_one_read_twice_is_one() -> None:
    first = order_fact_key("1", "2026-11-11 10:00:00", {"memo": "", "lines": [1]})
    assert first == order_fact_key("1", "2026-11-11 10:00:00", {"lines": [1], "memo": ""})
    assert first != order_fact_key("1", "2026-11-11 10:00:00", {"memo": "wait", "lines": [1]})
