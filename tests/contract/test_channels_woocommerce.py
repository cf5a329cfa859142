"""WooCommerce: signature and ping, what orders and refunds tell, and the adapter against its twin over real HTTP."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import httpx
import pytest

from activities.channels import Hint
from activities.channels.woocommerce import READ, WooCommerce, adapter, sign
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.address import Recipient
from models.intake import Account, IntegrationType
from models.order import ChannelOrder, RefundState
from models.origins import ChannelKind, IntakePath
from starter.sandbox.app import create_app
from starter.sandbox.channels import woocommerce as twin
from tests.contract.test_channels_twins import _received, failure, shipment
from tests.serving import served
from tests.shops import DAY, NOW, World
from tests.unit.payloads import woocommerce_order, woocommerce_read

ACCOUNT = Account(
    integration=IntegrationType.CHANNEL,
    source="woocommerce",
    account="site",
    secrets={"webhook_secret": "new", "webhook_secret_old": "old"},
    settings={"statuses": {"packing": "processing"}},
)
_shops = count()


def parse(told: dict[str, Any], topic: str = "order.updated") -> ChannelOrder | Hint | None:
    return adapter(ACCOUNT).parse(json.dumps(told).encode(), topic)


def order(told: dict[str, Any], topic: str = "order.updated") -> ChannelOrder:
    parsed = parse(told, topic)
    assert isinstance(parsed, ChannelOrder)
    return parsed


def headers(body: bytes, secret: str, topic: str = "order.updated") -> dict[str, str]:
    return {"x-wc-webhook-signature": sign(secret, body), "x-wc-webhook-topic": topic}


def test_signature_is_that_of_the_same_scheme_elsewhere() -> None:
    assert sign("test", b"{}") == "X1hjuYBa1OZulUomD5yrPy6VcYeY3sC7SKZVGViT0Q4="
    assert sign("hush", b'"my secret message"') == "hMTq0K2x7oyOjoBwGYeTj5oxfnaVYXzbanUG9aajpKI="


@pytest.mark.parametrize("secret", ["new", "old"])
def test_both_secrets_hold_while_they_are_rotated(secret: str) -> None:
    body = json.dumps(woocommerce_order()).encode()
    first = adapter(ACCOUNT).receive(headers(body, secret) | {"x-wc-webhook-delivery-id": "1"}, body)
    again = adapter(ACCOUNT).receive(headers(body, secret) | {"x-wc-webhook-delivery-id": "2"}, body)
    assert first.topic == "order.updated"
    assert first.fact_key == again.fact_key


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (headers(b"{}", "guess"), b"{}"),
        (headers(b"{}", "new"), b"{} "),
        (headers(b"", "new"), b""),
        ({}, b"{}"),
        ({}, b"webhook_id=1&x=2"),
        ({"x-wc-webhook-signature": "é"}, b"webhook_id=1"),
    ],
)
def test_unsigned_and_altered_messages_are_refused(given: dict[str, str], body: bytes) -> None:
    with pytest.raises(Unauthentic):
        adapter(ACCOUNT).receive(given, body)


def test_the_ping_of_a_new_webhook_is_one_fact_and_nothing_to_do() -> None:
    receipts = [adapter(ACCOUNT).receive({}, body) for body in (b"webhook_id=42", b"webhook_id=43\n")]
    assert len({receipt.fact_key for receipt in receipts}) == 1
    assert adapter(ACCOUNT).parse(b"webhook_id=42", receipts[0].topic) is None


def test_a_paid_order() -> None:
    told = order(woocommerce_order())
    assert (told.order_id, told.custom["order_number"]) == ("order:woocommerce:site:727", "W-1727")
    assert told.placed_at == datetime(2026, 11, 20, 19, 28, 2, tzinfo=UTC)
    assert told.modified_at == datetime(2026, 11, 20, 19, 30, 8, tzinfo=UTC)
    assert told.paid_at == datetime(2026, 11, 20, 19, 29, tzinfo=UTC)
    assert (told.total, told.freight, told.discount) == (Decimal("27.35"), Decimal("11.00"), Decimal("4.00"))
    assert [(line.line_no, line.sku, line.quantity, line.title) for line in told.lines] == [
        ("315", "93:0", 3, "Woo Single #1"),
        ("316", "Bar3", 1, "Ship Your Idea – Color: Black"),
    ]
    assert [line.listing for line in told.lines] == [{"product_id": "93"}, {"product_id": "22", "variation_id": "23"}]
    assert told.lines[0].unit_price * 3 - told.lines[0].discount == Decimal("7.00")
    assert "total_mismatch" not in told.custom
    assert told.recipient == Recipient(
        name="John Doe",
        phone="(555) 555-5555",
        country="US",
        province="CA",
        city="San Francisco",
        street="969 Market Floor 2",
        postcode="94103",
    )
    assert (told.buyer, told.buyer_message) == ("26", "Ring twice")
    assert (told.origin.kind, told.origin.campaign, told.origin.intake) == (
        ChannelKind.OWN_SITE,
        "autumn",
        IntakePath.WEBHOOK,
    )


def test_a_chinese_address_is_as_written_in_china() -> None:
    told = woocommerce_order()
    told["shipping"] |= {"first_name": "梅梅", "last_name": "韩", "country": "CN", "state": "CN12", "city": "杭州市"}
    recipient = order(told).recipient
    assert (recipient.name, recipient.province) == ("韩梅梅", "浙江")


def test_without_a_shipping_address_it_goes_to_who_pays() -> None:
    told = woocommerce_order()
    told["shipping"] = dict.fromkeys(told["shipping"], "")
    assert order(told).recipient.street == "969 Market Floor 2"
    told["billing"] = None
    assert order(told).recipient == Recipient()


@pytest.mark.parametrize(
    ("status", "paid", "cancelled", "shipped"),
    [
        ("pending", False, False, False),
        ("failed", False, False, False),
        ("on-hold", False, False, False),
        ("processing", True, False, False),
        ("packing", True, False, False),
        ("completed", True, False, True),
        ("refunded", True, True, False),
        ("cancelled", False, True, False),
        ("trash", False, True, False),
    ],
)
def test_statuses(status: str, paid: bool, cancelled: bool, shipped: bool) -> None:
    told = order(woocommerce_order() | {"status": status, "date_paid_gmt": None})
    assert (told.payable, told.cancelled_at is not None, told.shipped) == (paid, cancelled, shipped)
    assert ("cancel_reason" in told.custom) is cancelled


def test_what_was_refunded_after_it_left_was_not_cancelled() -> None:
    told = woocommerce_read()
    told["order"] |= {"status": "refunded", "date_completed_gmt": "2026-11-21T08:00:00"}
    parsed = order(told, READ)
    assert (parsed.shipped, parsed.cancelled_at) == (True, None)
    assert [line.quantity for line in parsed.lines] == [3, 1]
    assert len(parsed.refunds) == 2


@pytest.mark.parametrize(
    ("change", "hold"),
    [
        ({"status": "on-hold"}, "on-hold"),
        ({"shipping_lines": [{"method_id": "local_pickup", "method_title": "Pickup"}]}, "local_pickup"),
        ({}, None),
    ],
)
def test_what_is_not_to_be_shipped_is_held(change: dict[str, Any], hold: str | None) -> None:
    assert order(woocommerce_order() | change).custom.get("channel_hold") == hold


def test_cash_on_delivery_is_payable_and_not_paid() -> None:
    told = order(woocommerce_order() | {"payment_method": "cod", "date_paid_gmt": None})
    assert (told.paid_at, told.payable) == (None, True)


@pytest.mark.parametrize("status", ["checkout-draft", "auto-draft"])
def test_a_checkout_that_is_not_over_is_no_order(status: str) -> None:
    assert parse(woocommerce_order() | {"status": status}) is None


def test_a_webhook_that_names_a_refund_has_the_order_read() -> None:
    told = woocommerce_order() | {"refunds": [{"id": 726, "total": "-5.00"}]}
    assert parse(told) == Hint(order_nos=("727",))
    assert parse({"id": 727}, "order.deleted") == Hint(order_nos=("727",))
    assert parse({"id": 1}, "product.updated") is None


def test_refunds_before_shipping_leave_less_to_ship() -> None:
    told = order(woocommerce_read(), READ)
    assert [(line.line_no, line.quantity) for line in told.lines] == [("315", 2), ("316", 1)]
    assert (told.total, told.tax) == (Decimal("22.35"), Decimal("1.20"))
    assert "total_mismatch" not in told.custom
    assert [(each.refund_no, each.state, each.amount, each.quantity, each.reason) for each in told.refunds] == [
        ("726:315", RefundState.GRANTED, Decimal("2.48"), 1, "Too many"),
        ("726", RefundState.GRANTED, Decimal("2.52"), 0, "Too many"),
    ]
    assert told.origin.intake is IntakePath.POLL


def test_all_of_it_refunded_is_cancelled() -> None:
    told = woocommerce_read()
    told["order"]["line_items"] = told["order"]["line_items"][:1]
    told["refunds"][0]["line_items"][0]["quantity"] = -3
    parsed = order(told, READ)
    assert parsed.cancelled_at == parsed.modified_at
    assert [line.quantity for line in parsed.lines] == [3]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": "teleported"}, "status"),
        ({"id": "?"}, "id"),
        ({"date_modified_gmt": None}, "date_modified_gmt"),
        ({"currency": "dollars"}, "currency"),
        ({"line_items": [{"id": 1, "quantity": 0.5, "subtotal": "1", "total": "1"}]}, "line_items[0].quantity"),
        ({"shipping": {"country": "USA"}}, "shipping.country"),
    ],
)
def test_a_fault_is_named_by_its_path(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        parse(woocommerce_order() | change)
    assert caught.value.field == field


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


@pytest.fixture
def world(sandbox: str) -> World:
    return World(sandbox, "woocommerce", f"wc-{next(_shops)}")


def ours(world: World) -> WooCommerce:
    found = world.adapter
    assert isinstance(found, WooCommerce)
    return found


async def read(world: World, number: str) -> ChannelOrder:
    pulled = await ours(world).read(number)
    assert pulled is not None
    parsed = world.adapter.parse(pulled.body, pulled.receipt.topic)
    assert isinstance(parsed, ChannelOrder)
    return parsed


async def test_misses_nothing_though_rows_move_while_it_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "_LARGEST_PAGE", 3)
    sold = {world.sell(created=NOW - timedelta(minutes=n)) for n in range(5, 16)}
    seen: set[str] = set()
    moved = ""
    async for pulled in world.adapter.pull(NOW - DAY, datetime.now(UTC) - timedelta(seconds=1)):
        parsed = world.adapter.parse(pulled.body, pulled.receipt.topic)
        assert isinstance(parsed, ChannelOrder)
        seen.add(parsed.channel_order_no)
        if not moved:
            moved = min(sold - seen, key=int)
            world.change(moved, buyer_message="changed while you read")
    assert seen | {moved} == sold


async def test_a_change_is_a_new_fact_once(world: World) -> None:
    number = world.sell(paid=False, created=NOW - timedelta(hours=1))
    keys = [pulled.receipt.fact_key for pulled in [await ours(world).read(number) for _ in range(2)] if pulled]
    world.change(number, paid=True)
    changed = await ours(world).read(number)
    assert changed is not None
    assert keys[0] == keys[1] != changed.receipt.fact_key


async def test_numbers_and_reading(world: World) -> None:
    within = {world.sell(created=NOW - timedelta(hours=n)) for n in (1, 2)}
    world.sell(created=NOW - 3 * DAY)
    world.sell(status="checkout-draft")
    assert {number async for number in ours(world).numbers(NOW - DAY, NOW)} == within
    assert await ours(world).read("999999") is None
    assert await ours(world).read("../products") is None


async def test_delivers_what_was_sold_and_what_became_of_it(world: World) -> None:
    number = world.sell(("A001", 2), buyer_message="轻放")
    got = await _received(world, number, copies=2)
    receipts = [world.adapter.receive(headers, body) for headers, body in got]
    assert len({receipt.fact_key for receipt in receipts}) == 1
    parsed = world.adapter.parse(got[0][1], receipts[0].topic)
    assert isinstance(parsed, ChannelOrder)
    assert (parsed.channel_order_no, parsed.buyer_message, parsed.payable) == (number, "轻放", True)
    with pytest.raises(Unauthentic):
        world.adapter.receive(got[0][0], got[0][1] + b" ")
    ((headers, body),) = await _received(world, number, topic="ping")
    assert world.adapter.parse(body, world.adapter.receive(headers, body).topic) is None
    world.change(number, status="trash")
    ((headers, body),) = await _received(world, number, topic="order.deleted")
    hint = world.adapter.parse(body, world.adapter.receive(headers, body).topic)
    assert hint == Hint(order_nos=(number,))
    assert (await read(world, number)).cancelled_at


async def test_refunds_are_read_line_by_line(world: World) -> None:
    number = world.sell(("A001", 2), ("B007", 1))
    world.refund(number, "r1", sku="A001", state="granted", quantity=1, amount="20.00", reason="Too many")
    ((headers, body),) = await _received(world, number)
    hint = world.adapter.parse(body, world.adapter.receive(headers, body).topic)
    assert isinstance(hint, Hint)
    told = await read(world, hint.order_nos[0])
    assert [(line.sku, line.quantity) for line in told.lines] == [("A001", 1), ("B007", 1)]
    assert (told.total, told.refunds[0].reason) == (Decimal("40.00"), "Too many")
    assert "total_mismatch" not in told.custom
    world.refund(number, "r2", state="granted", amount="40.00")
    assert (await read(world, number)).cancelled_at


async def test_is_told_of_parcels_each_once_and_completed_with_the_last(world: World) -> None:
    number = world.sell(("A001", 2), ("B007", 2))
    told = await read(world, number)
    world.refund(number, "r1", sku="B007", state="granted", quantity=1, amount="20.00")
    first, second = (line.line_no for line in told.lines)
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(told, "SF1", first, A001=1))
    assert not (await read(world, number)).shipped
    await world.adapter.confirm_shipment(shipment(told, "SF2", first, A001=1))
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(told, "SF3", second, B007=1))
    assert [(each["carrier"], each["waybill_no"], each["lines"]) for each in world.shipments] == [
        ("SF Express", "SF1", {first: 1}),
        ("SF Express", "SF2", {first: 1}),
        ("SF Express", "SF3", {second: 1}),
    ]
    assert (await read(world, number)).shipped
    notes = twin._notes[f"{world.account.account}/{number}"]
    assert [each["customer_note"] for each in notes] == [True] * 3
    assert all(waybill in each["note"] for waybill, each in zip(("SF1", "SF2", "SF3"), notes, strict=True))
    meta = twin._meta[f"{world.account.account}/{number}"]["_wc_shipment_tracking_items"]
    assert [each["tracking_number"] for each in meta] == ["SF1", "SF2", "SF3"]


@pytest.mark.parametrize("operation", ["update", "note"])
async def test_a_confirmation_whose_answer_was_lost_is_made_whole(
    world: World, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = world.sell()
    told = await read(world, number)
    await http.close()
    monkeypatch.setattr(http, "_client", httpx.AsyncClient(timeout=0.3))
    world.fault(operation, "timeout_after", seconds=1, match=world.account.account)
    assert (await failure(world.adapter.confirm_shipment(shipment(told)))).type == "Unavailable"
    await http.close()
    await world.adapter.confirm_shipment(shipment(told))
    assert [each["waybill_no"] for each in world.shipments] == ["SF1234567890"]
    assert (await read(world, number)).shipped
    assert len(twin._notes[f"{world.account.account}/{number}"]) == 1


async def test_an_order_that_is_over_is_not_shipped(world: World) -> None:
    number = world.sell()
    told = await read(world, number)
    world.change(number, cancelled=True)
    error = await failure(world.adapter.confirm_shipment(shipment(told)))
    assert (error.type, error.details[0]) == ("Refused", "cancelled")
    stranger = told.model_copy(update={"channel_order_no": "1"})
    assert (await failure(world.adapter.confirm_shipment(shipment(stranger)))).details[0] == "not_found"


@pytest.mark.parametrize("operation", ["orders", "refunds"])
@pytest.mark.parametrize(("fault", "wait"), [("500", None), ("429", 17), ("garbage", None)])
async def test_in_trouble_it_is_tried_again(world: World, operation: str, fault: str, wait: int | None) -> None:
    number = world.sell()
    world.refund(number, "r1", sku="A001", state="granted", amount="1.00")
    world.fault(operation, fault, seconds=17, match=world.account.account)
    until = datetime.now(UTC) + timedelta(seconds=5)
    error = await failure(world.pulled(until=until))
    assert error.type == "Unavailable"
    assert (error.next_retry_delay and error.next_retry_delay.total_seconds()) == wait
    assert len(await world.pulled(until=until)) == 1


async def test_keys_that_are_wrong_are_refused(world: World) -> None:
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | {"consumer_key": "guess"}})
    error = await failure(world.pulled())
    assert (error.type, error.details[0]) == ("Refused", "woocommerce_rest_cannot_view")


async def test_garbage_is_authentic_and_names_its_field(world: World) -> None:
    ((headers, body),) = await _received(world, world.sell(), garbage=True)
    receipt = world.adapter.receive(headers, body)
    with pytest.raises(Unintelligible, match=r"^line_items: "):
        world.adapter.parse(body, receipt.topic)
