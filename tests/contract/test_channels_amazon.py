"""Amazon: parsing orders and notifications, and the adapter against its twin over real HTTP."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import httpx
import pytest

from activities.channels import Hint, StockOffer, amazon
from activities.channels.amazon import CHANGED, READ, Amazon, adapter
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.address import Recipient
from models.intake import Account, IntegrationType
from models.order import URGENT, ChannelOrder, RefundState
from models.origins import ChannelKind, IntakePath
from starter.sandbox.app import create_app
from starter.sandbox.channels import amazon as twin
from tests.serving import served
from tests.shops import DAY, NOW, World, failure, shipment
from tests.unit.payloads import amazon_notification, amazon_order

ACCOUNT = Account(
    integration=IntegrationType.CHANNEL,
    source="amazon",
    account="us",
    secrets={"notification_key": "key"},
    settings={"marketplace_id": "ATVPDKIKX0DER", "seller_id": "A3TH9S8BH6GOGM"},
)
_numbers = count()


def parse(payload: dict[str, Any], topic: str = READ) -> ChannelOrder | Hint | None:
    return adapter(ACCOUNT).parse(json.dumps(payload).encode(), topic)


def order(payload: dict[str, Any]) -> ChannelOrder:
    parsed = parse(payload)
    assert isinstance(parsed, ChannelOrder)
    return parsed


def test_unshipped_order_is_parsed() -> None:
    parsed = order(amazon_order())
    assert parsed.order_id == "order:amazon:us:902-1845936-5435065"
    assert parsed.paid_at == parsed.placed_at == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert parsed.modified_at == datetime(2026, 11, 20, 9, 31, 7, tzinfo=UTC)
    assert (parsed.currency, parsed.total, parsed.freight) == ("USD", Decimal("46.60"), Decimal("7.00"))
    assert [(line.line_no, line.sku, line.quantity) for line in parsed.lines] == [
        ("05015851154158", "A001", 3),
        ("05015851154159", "B00551Q3CT", 1),
    ]
    assert [line.listing["asin"] for line in parsed.lines] == ["B00551Q3CS", "B00551Q3CT"]
    first = parsed.lines[0]
    assert first.unit_price * 3 - first.discount == Decimal("18.00")
    assert "total_mismatch" not in parsed.custom
    assert parsed.recipient == Recipient(
        name="Pat Doe",
        phone="+1 480-386-0930 ext. 73824",
        country="US",
        province="MI",
        city="Canton",
        street="1 Cross St. Apt 5",
        postcode="48817",
        hidden=False,
    )
    assert (parsed.buyer, parsed.buyer_message) == ("abc123@marketplace.amazon.com", "[Gift wrap: Classic] For you!")
    assert parsed.promised_by == datetime(2026, 11, 28, 7, 59, 59, tzinfo=UTC)
    assert parsed.custom["prime"] is True
    assert (parsed.origin.kind, parsed.origin.platform, parsed.origin.region) == (
        ChannelKind.MARKETPLACE,
        "amazon",
        "US MI Canton",
    )
    assert parsed.origin.intake is IntakePath.POLL
    assert (parsed.shipped, parsed.refunds) == (False, ())


def test_prices_may_include_tax() -> None:
    payload = amazon_order()
    assert order(payload).tax > 0
    payload["order"]["OrderTotal"]["Amount"] = "44.00"
    assert "total_mismatch" not in order(payload).custom
    assert order(payload).tax == 0
    payload["order"]["OrderTotal"]["Amount"] = "43.00"
    assert Decimal(str(order(payload).custom["total_mismatch"])) == 1


@pytest.mark.parametrize("status", ["Pending", "PendingAvailability"])
def test_pending_order_is_skipped(status: str) -> None:
    payload = amazon_order()
    payload["order"]["OrderStatus"] = status
    assert parse(payload) is None


def test_order_shipped_by_amazon_is_skipped() -> None:
    payload = amazon_order()
    payload["order"]["FulfillmentChannel"] = "AFN"
    assert parse(payload) is None


@pytest.mark.parametrize("status", ["Shipped", "InvoiceUnconfirmed"])
def test_shipped_order_keeps_its_lines_and_refunds(status: str) -> None:
    payload = amazon_order()
    payload["order"]["OrderStatus"] = status
    payload["refunds"] = [
        {
            "AmazonOrderId": "902-1845936-5435065",
            "ShipmentItemAdjustmentList": [
                {
                    "SellerSKU": "A001",
                    "OrderAdjustmentItemId": "OAI-1",
                    "QuantityShipped": 1,
                    "ItemChargeAdjustmentList": [
                        {"ChargeType": "Principal", "ChargeAmount": {"CurrencyCode": "USD", "CurrencyAmount": -6.67}},
                        {"ChargeType": "Tax", "ChargeAmount": {"CurrencyCode": "USD", "CurrencyAmount": -0.4}},
                    ],
                    "PromotionAdjustmentList": [
                        {"PromotionAmount": {"CurrencyCode": "USD", "CurrencyAmount": 0.67}},
                    ],
                }
            ],
        }
    ]
    parsed = order(payload)
    assert parsed.shipped
    assert sum(line.quantity for line in parsed.lines) == 4
    (refund,) = parsed.refunds
    assert (refund.refund_no, refund.state, refund.amount) == ("OAI-1", RefundState.GRANTED, Decimal("6.40"))
    assert (refund.line_no, refund.quantity) == ("05015851154158", 1)


def test_request_to_cancel_a_line_is_a_refund_request() -> None:
    payload = amazon_order()
    request = {"IsBuyerRequestedCancel": "true", "BuyerCancelReason": "Found cheaper somewhere else."}
    payload["items"][1]["BuyerRequestedCancel"] = request
    (refund,) = order(payload).refunds
    assert (refund.state, refund.amount, refund.quantity) == (RefundState.ASKED, Decimal("19.00"), 1)
    assert (refund.line_no, refund.reason) == ("05015851154159", "Found cheaper somewhere else.")
    payload["items"][1]["QuantityOrdered"] = 0
    granted = order(payload)
    assert [line.line_no for line in granted.lines] == ["05015851154158"]
    assert (granted.refunds[0].refund_no, granted.refunds[0].state) == (refund.refund_no, RefundState.GRANTED)
    payload["items"][1] |= {"QuantityOrdered": 1, "QuantityShipped": 1}
    assert order(payload).refunds[0].state is RefundState.CLOSED


def test_cancelled_order_without_prices_is_parsed() -> None:
    payload = amazon_order()
    payload["order"] |= {"OrderStatus": "Canceled", "OrderTotal": None, "ShippingAddress": None, "MarketplaceId": "X"}
    for item in payload["items"]:
        item["QuantityOrdered"] = 0
        for name in ("ItemPrice", "ShippingPrice", "ShippingDiscount", "PromotionDiscount", "BuyerInfo"):
            item.pop(name, None)
    parsed = order(payload)
    assert parsed.cancelled_at == parsed.modified_at
    assert (parsed.total, parsed.currency, parsed.recipient) == (Decimal(0), "EUR", Recipient())
    assert (len(parsed.lines), parsed.custom["cancel_reason"]) == (2, "Canceled")


@pytest.mark.parametrize(
    ("change", "hold"),
    [
        ({"IsISPU": True}, "IsISPU"),
        ({"HasRegulatedItems": True}, "HasRegulatedItems"),
        ({}, None),
    ],
)
def test_order_not_to_be_shipped_yet_is_held(change: dict[str, Any], hold: str | None) -> None:
    payload = amazon_order()
    payload["order"] |= change
    assert order(payload).custom.get("channel_hold") == hold


def test_cash_on_delivery_and_express_service() -> None:
    payload = amazon_order()
    payload["order"] |= {"PaymentMethod": "COD", "ShipmentServiceLevelCategory": "SameDay"}
    parsed = order(payload)
    assert (parsed.paid_at, parsed.payable, parsed.priority) == (None, True, URGENT)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("order", "OrderStatus"), "Teleported", "order.OrderStatus"),
        (("order", "LastUpdateDate"), "yesterday", "order.LastUpdateDate"),
        (("order", "ShippingAddress", "CountryCode"), "USA", "order.ShippingAddress.CountryCode"),
        (("items", 0, "QuantityOrdered"), "many", "items[0].QuantityOrdered"),
        (("items",), [], "lines"),
    ],
)
def test_odd_field_is_named_in_the_order(path: tuple[Any, ...], value: Any, field: str) -> None:
    payload = amazon_order()
    place: Any = payload
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert field in order(payload).odd


def test_order_without_a_readable_number_is_refused() -> None:
    payload = amazon_order()
    payload["order"]["AmazonOrderId"] = None
    with pytest.raises(Unintelligible) as caught:
        parse(payload)
    assert caught.value.field == "order.AmazonOrderId"


def test_notification_is_a_hint_to_read_the_order() -> None:
    body = json.dumps(amazon_notification()).encode()
    receipt = adapter(ACCOUNT).receive({"x-api-key": "key"}, body)
    assert receipt.topic == CHANGED
    assert receipt.fact_key == "notification:d0e9e693-c3ad-4373-979f-ed4ec98dd746"
    assert adapter(ACCOUNT).parse(body, receipt.topic) == Hint(order_nos=("903-8868176-2219830",))


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "guess"}, {"x-api-key": "ké"}])
def test_notification_without_our_key_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthentic):
        adapter(ACCOUNT).receive(headers, b"{}")


def test_account_without_a_key_refuses_every_notification() -> None:
    with pytest.raises(Unauthentic):
        adapter(ACCOUNT.model_copy(update={"secrets": {}})).receive({"x-api-key": ""}, b"{}")


def test_notification_for_others_is_ignored() -> None:
    payload = amazon_notification()
    change = payload["Payload"]["OrderChangeNotification"]
    change["Summary"]["FulfillmentType"] = "AFN"
    assert parse(payload, CHANGED) is None
    change["Summary"]["FulfillmentType"] = "MFN"
    change["SellerId"] = "SOMEBODY-ELSE"
    assert parse(payload, CHANGED) is None
    assert parse({"NotificationType": "FEED_PROCESSING_FINISHED", "Payload": {}}, "FEED_PROCESSING_FINISHED") is None


def test_unreadable_notification_gets_a_receipt() -> None:
    receipt = adapter(ACCOUNT).receive({"x-api-key": "key"}, b"\xff")
    with pytest.raises(Unintelligible):
        adapter(ACCOUNT).parse(b"\xff", receipt.topic)


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
    return World(sandbox, "amazon", f"az-{next(_numbers)}")


@pytest.fixture
def refunds_posted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refunds appear in the finances at once."""
    monkeypatch.setattr(amazon, "_POSTING_DELAY", timedelta(0))


async def read(world: World, number: str) -> ChannelOrder:
    channel = world.adapter
    assert isinstance(channel, Amazon)
    pulled = await channel.read(number)
    assert pulled is not None
    parsed = channel.parse(pulled.body, pulled.receipt.topic)
    assert isinstance(parsed, ChannelOrder)
    return parsed


async def test_orders_are_pulled_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "_LARGEST_PAGE", 2)
    sold = {world.sell(("A001", 2), ("B007", 1), ("C1", 1), created=NOW - timedelta(hours=n)) for n in range(1, 6)}
    world.sell(paid=False)
    world.sell(custom={"FulfillmentChannel": "AFN"})
    orders = await world.pulled()
    assert {each.channel_order_no for each in orders} == sold
    for each in orders:
        assert [line.quantity for line in each.lines] == [2, 1, 1]
        assert (each.recipient.name, each.recipient.phone) == ("韩梅梅", "13900139000")
        assert "total_mismatch" not in each.custom


async def test_most_recent_orders_are_left_to_the_next_pull(world: World) -> None:
    world.account.settings.pop("behind_seconds")
    world.sell(created=datetime.now(UTC) - timedelta(seconds=30))
    assert await world.pulled(until=datetime.now(UTC) + timedelta(seconds=5)) == []
    assert await world.pulled(since=datetime.now(UTC), until=datetime.now(UTC)) == []


async def test_each_change_is_a_new_fact_once(world: World, refunds_posted_at_once: None) -> None:
    number = world.sell()
    channel = world.adapter
    assert isinstance(channel, Amazon)
    keys = []
    for _ in range(2):
        pulled = await channel.read(number)
        assert pulled is not None
        keys.append(pulled.receipt.fact_key)
    world.refund(number, "r1", sku="A001", state="asked", reason="Ordered by mistake")
    pulled = await channel.read(number)
    assert pulled is not None
    assert keys[0] == keys[1] != pulled.receipt.fact_key


async def test_notification_leads_to_the_order(world: World, sandbox: str) -> None:
    number = world.sell(("A001", 2), urgent=True, buyer_message="Happy birthday")
    headers, body = twin._webhook(
        twin.shops.shop(world.account.account), twin.shops.sale(world.account.account, number), twin.Delivery(url="")
    )
    receipt = world.adapter.receive({name.lower(): value for name, value in headers.items()}, body)
    hint = world.adapter.parse(body, receipt.topic)
    assert isinstance(hint, Hint)
    parsed = await read(world, hint.order_nos[0])
    assert (parsed.channel_order_no, parsed.buyer_message, parsed.priority) == (number, "Happy birthday", URGENT)


async def test_numbers_are_those_placed_in_the_window(world: World) -> None:
    within = {world.sell(created=NOW - timedelta(hours=n)) for n in (1, 2)}
    world.sell(created=NOW - 3 * DAY)
    world.sell(paid=False)
    channel = world.adapter
    assert isinstance(channel, Amazon)
    assert {number async for number in channel.numbers(NOW - DAY, NOW)} == within
    assert await channel.read("902-0000000-0000000") is None


async def test_each_parcel_is_confirmed_once(world: World) -> None:
    number = world.sell(("A001", 2), ("B007", 1))
    parsed = await read(world, number)
    first, second = (line.line_no for line in parsed.lines)
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(parsed, "SF1", first, A001=1))
    assert (await read(world, number)).custom["partly_shipped"]
    await world.adapter.confirm_shipment(shipment(parsed, "SF2", first, A001=1))
    await world.adapter.confirm_shipment(shipment(parsed, "SF3", second))
    assert [(each["carrier"], each["waybill_no"], each["lines"]) for each in world.shipments] == [
        ("SF Express", "SF1", {first: 1}),
        ("SF Express", "SF2", {first: 1}),
        ("SF Express", "SF3", {second: 1}),
    ]
    assert (await read(world, number)).shipped
    error = await failure(world.adapter.confirm_shipment(shipment(parsed, "SF4")))
    assert (error.type, error.details[0], error.message) == (
        "Refused",
        "400",
        "error.refused?vendor=amazon&code=InvalidInput",
    )
    assert number not in str(error)


async def test_parcel_confirmed_under_another_number_is_accepted(world: World) -> None:
    parsed = await read(world, world.sell())
    by_hand = shipment(parsed).model_copy(update={"reference": "seller central"})
    await world.adapter.confirm_shipment(by_hand)
    await world.adapter.confirm_shipment(shipment(parsed))
    assert len(world.shipments) == 1


async def test_carrier_without_a_code_is_sent_by_name(world: World) -> None:
    parsed = await read(world, world.sell(("A001", 1), ("B007", 1)))
    first, second = (line.line_no for line in parsed.lines)
    await world.adapter.confirm_shipment(shipment(parsed, "YT1", first).model_copy(update={"carrier": "yto"}))
    settings = {**world.account.settings, "carrier_codes": {"yto": "YunExpress"}}
    world.account = world.account.model_copy(update={"settings": settings})
    await world.adapter.confirm_shipment(shipment(parsed, "YT2", second).model_copy(update={"carrier": "yto"}))
    assert [each["carrier"] for each in world.shipments] == ["YTO Express", "YunExpress"]


async def test_confirmation_without_a_response_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = await read(world, world.sell())
    await http.close()
    monkeypatch.setattr(http, "_client", httpx.AsyncClient(timeout=0.3))
    world.fault("confirmShipment", "timeout_after", seconds=1, match=parsed.channel_order_no)
    assert (await failure(world.adapter.confirm_shipment(shipment(parsed)))).type == "Unavailable"
    await http.close()
    await world.adapter.confirm_shipment(shipment(parsed))
    assert [each["waybill_no"] for each in world.shipments] == ["SF1234567890"]


@pytest.mark.parametrize("operation", ["orders", "orderItems", "restrictedDataToken"])
@pytest.mark.parametrize(("fault", "wait"), [("500", None), ("429", 17), ("garbage", None)])
async def test_passing_fault_is_retried(world: World, operation: str, fault: str, wait: int | None) -> None:
    world.sell()
    world.fault(operation, fault, seconds=17)
    error = await failure(world.pulled())
    assert error.type == "Unavailable"
    assert (error.next_retry_delay and error.next_retry_delay.total_seconds()) == wait
    assert len(await world.pulled()) == 1


async def test_refunds_before_and_after_shipping(world: World, refunds_posted_at_once: None) -> None:
    number = world.sell(("A001", 2), ("B007", 1))
    world.refund(number, "r1", sku="B007", state="asked", reason="Too late")
    parsed = await read(world, number)
    assert [(each.state, each.line_no) for each in parsed.refunds] == [(RefundState.ASKED, parsed.lines[1].line_no)]
    world.refund(number, "r1", sku="B007", state="granted")
    parsed = await read(world, number)
    assert [line.sku for line in parsed.lines] == ["A001"]
    assert "total_mismatch" not in parsed.custom
    await world.adapter.confirm_shipment(shipment(parsed))
    world.refund(number, "r2", sku="A001", state="granted", quantity=1, amount="20.00")
    after = datetime.now(UTC) + timedelta(seconds=5)
    latest = (await world.pulled(until=after))[-1]
    assert latest.shipped
    assert [(each.refund_no, each.amount, each.quantity) for each in latest.refunds if each.amount] == [
        ("r2", Decimal("20.00"), 1)
    ]


async def test_refund_alone_lists_its_order(world: World, refunds_posted_at_once: None, monkeypatch: Any) -> None:
    number = world.sell()
    await world.adapter.confirm_shipment(shipment(await read(world, number)))
    since = datetime.now(UTC)
    world.refund(number, "r1", sku="A001", state="granted", amount="5.00")
    monkeypatch.setattr(twin, "head", lambda *args, head=twin.head: head(*args) | {"FulfillmentChannel": "MFN"})
    channel = world.adapter
    assert isinstance(channel, Amazon)
    numbers = [each async for each in channel._refunded_orders(since - DAY, datetime.now(UTC) + timedelta(0))]
    assert numbers == [number]


async def test_order_is_read_without_access_to_finances(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    number = world.sell()
    await world.adapter.confirm_shipment(shipment(await read(world, number)))

    def denied(*_: Any) -> Any:
        raise twin.Refusal(403, "Unauthorized", "Access to requested resource is denied.")

    monkeypatch.setattr(twin, "_events", denied)
    parsed = await read(world, number)
    assert (parsed.shipped, parsed.custom["refunds_unknown"]) == (True, True)


async def test_invalid_listing_is_refused_with_its_issue(world: World) -> None:
    channel = world.adapter
    assert isinstance(channel, Amazon)
    refusals = await channel.push_stock([StockOffer(sku=sku, listing={}, quantity=3) for sku in ("bad1", "A 1/2")])
    assert [(each.sku, each.reason) for each in refusals] == [("bad1", "90220")]


async def test_expired_access_is_reported_and_renewed(world: World) -> None:
    world.sell()
    world.ok("POST", f"/{world.account.account}/expire")
    assert (await failure(world.pulled())).type == "Expired"
    channel = world.adapter
    assert isinstance(channel, Amazon)
    renewed = await channel.renew()
    assert datetime.fromisoformat(renewed["expires_at"]) > datetime.now(UTC) + timedelta(minutes=50)
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | dict(renewed)})
    assert len(await world.pulled()) == 1


async def test_shop_without_a_token_reports_expired_access(world: World) -> None:
    secrets = {name: value for name, value in world.account.secrets.items() if name != "access_token"}
    world.account = world.account.model_copy(update={"secrets": secrets})
    assert (await failure(world.pulled())).type == "Expired"


@pytest.mark.parametrize(("secret", "code"), [("refresh_token", "invalid_grant"), ("client_secret", "invalid_client")])
async def test_withdrawn_authorisation_is_refused(world: World, secret: str, code: str) -> None:
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | {secret: "stale"}})
    channel = world.adapter
    assert isinstance(channel, Amazon)
    error = await failure(channel.renew())
    assert (error.type, error.details[0]) == ("Refused", code)


async def test_calls_wait_for_the_rate_limit() -> None:
    limit = amazon._RateLimit(rate=50, burst=2)
    started = datetime.now(UTC)
    for _ in range(7):
        await limit.acquire()
    assert timedelta(seconds=0.09) < datetime.now(UTC) - started < timedelta(seconds=1)
