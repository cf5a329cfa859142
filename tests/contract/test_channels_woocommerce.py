"""WooCommerce: signature and ping, parsing orders and refunds, and the adapter against its twin over real HTTP."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import httpx
import pytest

from activities.channels import Hint
from activities.channels.woocommerce import READ, WooCommerce, adapter
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from activities.kit.signing import sign_body
from models.address import Recipient
from models.intake import Account, IntegrationType
from models.order import ChannelOrder, RefundState
from models.origins import ChannelKind, IntakePath
from starter.sandbox.app import create_app
from starter.sandbox.channels import woocommerce as twin
from tests.contract.test_channels_twins import _received
from tests.serving import served
from tests.shops import DAY, NOW, World, failure, shipment
from tests.unit.payloads import woocommerce_order, woocommerce_read

ACCOUNT = Account(
    integration=IntegrationType.CHANNEL,
    source="woocommerce",
    account="site",
    secrets={"webhook_secret": "new", "webhook_secret_old": "old"},
    settings={"statuses": {"packing": "processing"}},
)
_shops = count()


def parse(payload: dict[str, Any], topic: str = "order.updated") -> ChannelOrder | Hint | None:
    return adapter(ACCOUNT).parse(json.dumps(payload).encode(), topic)


def order(payload: dict[str, Any], topic: str = "order.updated") -> ChannelOrder:
    parsed = parse(payload, topic)
    assert isinstance(parsed, ChannelOrder)
    return parsed


def headers(body: bytes, secret: str, topic: str = "order.updated") -> dict[str, str]:
    return {"x-wc-webhook-signature": sign_body(secret, body), "x-wc-webhook-topic": topic}


def test_signature_matches_other_implementations() -> None:
    assert sign_body("test", b"{}") == "X1hjuYBa1OZulUomD5yrPy6VcYeY3sC7SKZVGViT0Q4="
    assert sign_body("hush", b'"my secret message"') == "hMTq0K2x7oyOjoBwGYeTj5oxfnaVYXzbanUG9aajpKI="


@pytest.mark.parametrize("secret", ["new", "old"])
def test_both_secrets_are_valid_during_rotation(secret: str) -> None:
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


def test_ping_of_a_new_webhook_is_one_fact_without_an_order() -> None:
    receipts = [adapter(ACCOUNT).receive({}, body) for body in (b"webhook_id=42", b"webhook_id=43\n")]
    assert len({receipt.fact_key for receipt in receipts}) == 1
    assert adapter(ACCOUNT).parse(b"webhook_id=42", receipts[0].topic) is None


def test_paid_order_is_parsed() -> None:
    parsed = order(woocommerce_order())
    assert (parsed.order_id, parsed.custom["order_number"]) == ("order:woocommerce:site:727", "W-1727")
    assert parsed.placed_at == datetime(2026, 11, 20, 19, 28, 2, tzinfo=UTC)
    assert parsed.modified_at == datetime(2026, 11, 20, 19, 30, 8, tzinfo=UTC)
    assert parsed.paid_at == datetime(2026, 11, 20, 19, 29, tzinfo=UTC)
    assert (parsed.total, parsed.freight, parsed.discount) == (Decimal("27.35"), Decimal("11.00"), Decimal("4.00"))
    assert [(line.line_no, line.sku, line.quantity, line.title) for line in parsed.lines] == [
        ("315", "93:0", 3, "Woo Single #1"),
        ("316", "Bar3", 1, "Ship Your Idea – Color: Black"),
    ]
    assert [line.listing for line in parsed.lines] == [{"product_id": "93"}, {"product_id": "22", "variation_id": "23"}]
    assert parsed.lines[0].unit_price * 3 - parsed.lines[0].discount == Decimal("7.00")
    assert "total_mismatch" not in parsed.custom
    assert parsed.recipient == Recipient(
        name="John Doe",
        phone="(555) 555-5555",
        country="US",
        province="CA",
        city="San Francisco",
        street="969 Market Floor 2",
        postcode="94103",
        hidden=False,
    )
    assert (parsed.buyer, parsed.buyer_message) == ("26", "Ring twice")
    assert (parsed.origin.kind, parsed.origin.campaign, parsed.origin.intake) == (
        ChannelKind.OWN_SITE,
        "autumn",
        IntakePath.WEBHOOK,
    )


def test_chinese_address_is_written_as_in_china() -> None:
    payload = woocommerce_order()
    payload["shipping"] |= {"first_name": "梅梅", "last_name": "韩", "country": "CN", "state": "CN12", "city": "杭州市"}
    recipient = order(payload).recipient
    assert (recipient.name, recipient.province) == ("韩梅梅", "浙江")


def test_billing_address_replaces_a_missing_shipping_address() -> None:
    payload = woocommerce_order()
    payload["shipping"] = dict.fromkeys(payload["shipping"], "")
    assert order(payload).recipient.street == "969 Market Floor 2"
    payload["billing"] = None
    assert order(payload).recipient == Recipient()


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
    parsed = order(woocommerce_order() | {"status": status, "date_paid_gmt": None})
    assert (parsed.payable, parsed.cancelled_at is not None, parsed.shipped) == (paid, cancelled, shipped)
    assert ("cancel_reason" in parsed.custom) is cancelled


def test_refund_after_shipping_does_not_cancel() -> None:
    payload = woocommerce_read()
    payload["order"] |= {"status": "refunded", "date_completed_gmt": "2026-11-21T08:00:00"}
    parsed = order(payload, READ)
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
def test_order_not_to_be_shipped_is_held(change: dict[str, Any], hold: str | None) -> None:
    assert order(woocommerce_order() | change).custom.get("channel_hold") == hold


def test_cash_on_delivery_is_payable_and_not_paid() -> None:
    parsed = order(woocommerce_order() | {"payment_method": "cod", "date_paid_gmt": None})
    assert (parsed.paid_at, parsed.payable) == (None, True)


@pytest.mark.parametrize("status", ["checkout-draft", "auto-draft"])
def test_open_checkout_is_skipped(status: str) -> None:
    assert parse(woocommerce_order() | {"status": status}) is None


def test_webhook_with_a_refund_is_a_hint() -> None:
    payload = woocommerce_order() | {"refunds": [{"id": 726, "total": "-5.00"}]}
    assert parse(payload) == Hint(order_nos=("727",))
    assert parse({"id": 727}, "order.deleted") == Hint(order_nos=("727",))
    assert parse({"id": 1}, "product.updated") is None


def test_refunds_before_shipping_reduce_the_lines() -> None:
    parsed = order(woocommerce_read(), READ)
    assert [(line.line_no, line.quantity) for line in parsed.lines] == [("315", 2), ("316", 1)]
    assert (parsed.total, parsed.tax) == (Decimal("22.35"), Decimal("1.20"))
    assert "total_mismatch" not in parsed.custom
    assert [(each.refund_no, each.state, each.amount, each.quantity, each.reason) for each in parsed.refunds] == [
        ("726:315", RefundState.GRANTED, Decimal("2.48"), 1, "Too many"),
        ("726", RefundState.GRANTED, Decimal("2.52"), 0, "Too many"),
    ]
    assert parsed.origin.intake is IntakePath.POLL


def test_full_refund_cancels_the_order() -> None:
    payload = woocommerce_read()
    payload["order"]["line_items"] = payload["order"]["line_items"][:1]
    payload["refunds"][0]["line_items"][0]["quantity"] = -3
    parsed = order(payload, READ)
    assert parsed.cancelled_at == parsed.modified_at
    assert [line.quantity for line in parsed.lines] == [3]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": "teleported"}, "status"),
        ({"date_modified_gmt": None}, "date_modified_gmt"),
        ({"currency": "dollars"}, "currency"),
        ({"line_items": [{"id": 1, "quantity": 0.5, "subtotal": "1", "total": "1"}]}, "line_items[0].quantity"),
        ({"shipping": {"country": "USA"}}, "shipping.country"),
    ],
)
def test_odd_field_is_named_in_the_order(change: dict[str, Any], field: str) -> None:
    assert field in order(woocommerce_order() | change).odd


def test_order_without_a_readable_number_is_refused() -> None:
    with pytest.raises(Unintelligible) as caught:
        parse(woocommerce_order() | {"id": "?"})
    assert caught.value.field == "id"


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


def adapter_of(world: World) -> WooCommerce:
    channel = world.adapter
    assert isinstance(channel, WooCommerce)
    return channel


async def read(world: World, number: str) -> ChannelOrder:
    pulled = await adapter_of(world).read(number)
    assert pulled is not None
    parsed = world.adapter.parse(pulled.body, pulled.receipt.topic)
    assert isinstance(parsed, ChannelOrder)
    return parsed


async def test_pull_is_complete_while_rows_move(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_change_is_a_new_fact_once(world: World) -> None:
    number = world.sell(paid=False, created=NOW - timedelta(hours=1))
    keys = [pulled.receipt.fact_key for pulled in [await adapter_of(world).read(number) for _ in range(2)] if pulled]
    world.change(number, paid=True)
    changed = await adapter_of(world).read(number)
    assert changed is not None
    assert keys[0] == keys[1] != changed.receipt.fact_key


async def test_numbers_and_read(world: World) -> None:
    within = {world.sell(created=NOW - timedelta(hours=n)) for n in (1, 2)}
    world.sell(created=NOW - 3 * DAY)
    world.sell(status="checkout-draft")
    assert {number async for number in adapter_of(world).numbers(NOW - DAY, NOW)} == within
    assert await adapter_of(world).read("999999") is None
    assert await adapter_of(world).read("../products") is None


async def test_webhooks_carry_orders_pings_and_deletions(world: World) -> None:
    number = world.sell(("A001", 2), buyer_message="轻放")
    messages = await _received(world, number, copies=2)
    receipts = [world.adapter.receive(headers, body) for headers, body in messages]
    assert len({receipt.fact_key for receipt in receipts}) == 1
    parsed = world.adapter.parse(messages[0][1], receipts[0].topic)
    assert isinstance(parsed, ChannelOrder)
    assert (parsed.channel_order_no, parsed.buyer_message, parsed.payable) == (number, "轻放", True)
    with pytest.raises(Unauthentic):
        world.adapter.receive(messages[0][0], messages[0][1] + b" ")
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
    parsed = await read(world, hint.order_nos[0])
    assert [(line.sku, line.quantity) for line in parsed.lines] == [("A001", 1), ("B007", 1)]
    assert (parsed.total, parsed.refunds[0].reason) == (Decimal("40.00"), "Too many")
    assert "total_mismatch" not in parsed.custom
    world.refund(number, "r2", state="granted", amount="40.00")
    assert (await read(world, number)).cancelled_at


async def test_each_parcel_is_confirmed_once_and_the_last_completes_the_order(world: World) -> None:
    number = world.sell(("A001", 2), ("B007", 2))
    parsed = await read(world, number)
    world.refund(number, "r1", sku="B007", state="granted", quantity=1, amount="20.00")
    first, second = (line.line_no for line in parsed.lines)
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(parsed, "SF1", first, A001=1))
    assert not (await read(world, number)).shipped
    await world.adapter.confirm_shipment(shipment(parsed, "SF2", first, A001=1))
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(parsed, "SF3", second, B007=1))
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
async def test_confirmation_without_a_response_is_completed(
    world: World, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = world.sell()
    parsed = await read(world, number)
    await http.close()
    monkeypatch.setattr(http, "_client", httpx.AsyncClient(timeout=0.3))
    world.fault(operation, "timeout_after", seconds=1, match=world.account.account)
    assert (await failure(world.adapter.confirm_shipment(shipment(parsed)))).type == "Unavailable"
    await http.close()
    await world.adapter.confirm_shipment(shipment(parsed))
    assert [each["waybill_no"] for each in world.shipments] == ["SF1234567890"]
    assert (await read(world, number)).shipped
    assert len(twin._notes[f"{world.account.account}/{number}"]) == 1


async def test_closed_order_is_not_shipped(world: World) -> None:
    number = world.sell()
    parsed = await read(world, number)
    world.change(number, cancelled=True)
    error = await failure(world.adapter.confirm_shipment(shipment(parsed)))
    assert (error.type, error.details[0]) == ("Refused", "cancelled")
    stranger = parsed.model_copy(update={"channel_order_no": "1"})
    assert (await failure(world.adapter.confirm_shipment(shipment(stranger)))).details[0] == "not_found"


@pytest.mark.parametrize("operation", ["orders", "refunds"])
@pytest.mark.parametrize(("fault", "wait"), [("500", None), ("429", 17), ("garbage", None)])
async def test_passing_fault_is_retried(world: World, operation: str, fault: str, wait: int | None) -> None:
    number = world.sell()
    world.refund(number, "r1", sku="A001", state="granted", amount="1.00")
    world.fault(operation, fault, seconds=17, match=world.account.account)
    until = datetime.now(UTC) + timedelta(seconds=5)
    error = await failure(world.pulled(until=until))
    assert error.type == "Unavailable"
    assert (error.next_retry_delay and error.next_retry_delay.total_seconds()) == wait
    assert len(await world.pulled(until=until)) == 1


async def test_wrong_keys_are_refused(world: World) -> None:
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | {"consumer_key": "guess"}})
    error = await failure(world.pulled())
    assert (error.type, error.details[0]) == ("Refused", "woocommerce_rest_cannot_view")


async def test_authentic_garbage_is_an_order_with_its_field_named(world: World) -> None:
    ((headers, body),) = await _received(world, world.sell(), garbage=True)
    receipt = world.adapter.receive(headers, body)
    order = world.adapter.parse(body, receipt.topic)
    assert isinstance(order, ChannelOrder)
    assert "line_items" in order.odd
