"""Amazon: what an order and a notification tell, and the adapter against its twin over real HTTP."""

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
from tests.contract.test_channels_twins import failure, shipment
from tests.serving import served
from tests.shops import DAY, NOW, World
from tests.unit.payloads import amazon_notification, amazon_order

ACCOUNT = Account(
    integration=IntegrationType.CHANNEL,
    source="amazon",
    account="us",
    secrets={"notification_key": "key"},
    settings={"marketplace_id": "ATVPDKIKX0DER", "seller_id": "A3TH9S8BH6GOGM"},
)
_numbers = count()


def parse(told: dict[str, Any], topic: str = READ) -> ChannelOrder | Hint | None:
    return adapter(ACCOUNT).parse(json.dumps(told).encode(), topic)


def order(told: dict[str, Any]) -> ChannelOrder:
    parsed = parse(told)
    assert isinstance(parsed, ChannelOrder)
    return parsed


def test_an_order_to_be_shipped() -> None:
    told = order(amazon_order())
    assert told.order_id == "order:amazon:us:902-1845936-5435065"
    assert told.paid_at == told.placed_at == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert told.modified_at == datetime(2026, 11, 20, 9, 31, 7, tzinfo=UTC)
    assert (told.currency, told.total, told.freight) == ("USD", Decimal("46.60"), Decimal("7.00"))
    assert [(line.line_no, line.sku, line.quantity) for line in told.lines] == [
        ("05015851154158", "A001", 3),
        ("05015851154159", "B00551Q3CT", 1),
    ]
    assert [line.listing["asin"] for line in told.lines] == ["B00551Q3CS", "B00551Q3CT"]
    first = told.lines[0]
    assert first.unit_price * 3 - first.discount == Decimal("18.00")
    assert "total_mismatch" not in told.custom
    assert told.recipient == Recipient(
        name="Pat Doe",
        phone="+1 480-386-0930 ext. 73824",
        country="US",
        province="MI",
        city="Canton",
        street="1 Cross St. Apt 5",
        postcode="48817",
    )
    assert (told.buyer, told.buyer_message) == ("abc123@marketplace.amazon.com", "For you!")
    assert told.promised_by == datetime(2026, 11, 28, 7, 59, 59, tzinfo=UTC)
    assert told.custom["prime"] is True
    assert (told.origin.kind, told.origin.platform, told.origin.region) == (
        ChannelKind.MARKETPLACE,
        "amazon",
        "US MI Canton",
    )
    assert told.origin.intake is IntakePath.POLL
    assert (told.shipped, told.refunds) == (False, ())


def test_prices_may_hold_their_tax() -> None:
    told = amazon_order()
    assert order(told).tax > 0
    told["order"]["OrderTotal"]["Amount"] = "44.00"
    assert "total_mismatch" not in order(told).custom
    assert order(told).tax == 0
    told["order"]["OrderTotal"]["Amount"] = "43.00"
    assert Decimal(str(order(told).custom["total_mismatch"])) == 1


@pytest.mark.parametrize("status", ["Pending", "PendingAvailability"])
def test_what_is_not_authorised_is_no_order_yet(status: str) -> None:
    told = amazon_order()
    told["order"]["OrderStatus"] = status
    assert parse(told) is None


def test_what_amazon_sends_is_not_ours() -> None:
    told = amazon_order()
    told["order"]["FulfillmentChannel"] = "AFN"
    assert parse(told) is None


@pytest.mark.parametrize("status", ["Shipped", "InvoiceUnconfirmed"])
def test_an_order_that_has_left_still_tells(status: str) -> None:
    told = amazon_order()
    told["order"]["OrderStatus"] = status
    told["refunds"] = [
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
    parsed = order(told)
    assert parsed.shipped
    assert sum(line.quantity for line in parsed.lines) == 4
    (refund,) = parsed.refunds
    assert (refund.refund_no, refund.state, refund.amount) == ("OAI-1", RefundState.GRANTED, Decimal("6.40"))
    assert (refund.line_no, refund.quantity) == ("05015851154158", 1)


def test_a_buyer_who_wants_a_line_cancelled_asks_for_a_refund() -> None:
    told = amazon_order()
    wish = {"IsBuyerRequestedCancel": "true", "BuyerCancelReason": "Found cheaper somewhere else."}
    told["items"][1]["BuyerRequestedCancel"] = wish
    (refund,) = order(told).refunds
    assert (refund.state, refund.amount, refund.quantity) == (RefundState.ASKED, Decimal("19.00"), 1)
    assert (refund.line_no, refund.reason) == ("05015851154159", "Found cheaper somewhere else.")
    told["items"][1]["QuantityOrdered"] = 0
    granted = order(told)
    assert [line.line_no for line in granted.lines] == ["05015851154158"]
    assert (granted.refunds[0].refund_no, granted.refunds[0].state) == (refund.refund_no, RefundState.GRANTED)
    told["items"][1] |= {"QuantityOrdered": 1, "QuantityShipped": 1}
    assert order(told).refunds[0].state is RefundState.CLOSED


def test_a_cancelled_order_has_neither_prices_nor_quantities() -> None:
    told = amazon_order()
    told["order"] |= {"OrderStatus": "Canceled", "OrderTotal": None, "ShippingAddress": None, "MarketplaceId": "X"}
    for item in told["items"]:
        item["QuantityOrdered"] = 0
        for name in ("ItemPrice", "ShippingPrice", "ShippingDiscount", "PromotionDiscount", "BuyerInfo"):
            item.pop(name, None)
    parsed = order(told)
    assert parsed.cancelled_at == parsed.modified_at
    assert (parsed.total, parsed.currency, parsed.recipient) == (Decimal(0), "EUR", Recipient())
    assert (len(parsed.lines), parsed.custom["cancel_reason"]) == (2, "Canceled")


@pytest.mark.parametrize(
    ("change", "hold"),
    [
        ({"OrderStatus": "PartiallyShipped"}, "PartiallyShipped"),
        ({"IsISPU": True}, "IsISPU"),
        ({"HasRegulatedItems": True}, "HasRegulatedItems"),
        ({}, None),
    ],
)
def test_what_amazon_does_not_want_shipped_yet_is_held(change: dict[str, Any], hold: str | None) -> None:
    told = amazon_order()
    told["order"] |= change
    assert order(told).custom.get("channel_hold") == hold


def test_cash_on_delivery_and_haste() -> None:
    told = amazon_order()
    told["order"] |= {"PaymentMethod": "COD", "ShipmentServiceLevelCategory": "SameDay"}
    parsed = order(told)
    assert (parsed.paid_at, parsed.payable, parsed.priority) == (None, True, URGENT)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("order", "OrderStatus"), "Teleported", "order.OrderStatus"),
        (("order", "AmazonOrderId"), None, "order.AmazonOrderId"),
        (("order", "LastUpdateDate"), "yesterday", "order.LastUpdateDate"),
        (("order", "ShippingAddress", "CountryCode"), "USA", "order.ShippingAddress.CountryCode"),
        (("items", 0, "QuantityOrdered"), "many", "items[0].QuantityOrdered"),
        (("items",), [], "items"),
    ],
)
def test_a_fault_is_named_by_its_path(path: tuple[Any, ...], value: Any, field: str) -> None:
    told = amazon_order()
    place: Any = told
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(Unintelligible) as caught:
        parse(told)
    assert caught.value.field == field


def test_a_notification_names_the_order_to_read() -> None:
    body = json.dumps(amazon_notification()).encode()
    receipt = adapter(ACCOUNT).receive({"x-api-key": "key"}, body)
    assert receipt.topic == CHANGED
    assert receipt.fact_key == "notification:d0e9e693-c3ad-4373-979f-ed4ec98dd746"
    assert adapter(ACCOUNT).parse(body, receipt.topic) == Hint(order_nos=("903-8868176-2219830",))


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "guess"}, {"x-api-key": "ké"}])
def test_a_notification_without_our_key_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthentic):
        adapter(ACCOUNT).receive(headers, b"{}")


def test_without_a_key_of_ours_nobody_is_believed() -> None:
    with pytest.raises(Unauthentic):
        adapter(ACCOUNT.model_copy(update={"secrets": {}})).receive({"x-api-key": ""}, b"{}")


def test_notifications_that_are_not_ours_are_nothing() -> None:
    told = amazon_notification()
    change = told["Payload"]["OrderChangeNotification"]
    change["Summary"]["FulfillmentType"] = "AFN"
    assert parse(told, CHANGED) is None
    change["Summary"]["FulfillmentType"] = "MFN"
    change["SellerId"] = "SOMEBODY-ELSE"
    assert parse(told, CHANGED) is None
    assert parse({"NotificationType": "FEED_PROCESSING_FINISHED", "Payload": {}}, "FEED_PROCESSING_FINISHED") is None


def test_a_notification_nobody_understands_gets_a_receipt_all_the_same() -> None:
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
    ours = world.adapter
    assert isinstance(ours, Amazon)
    pulled = await ours.read(number)
    assert pulled is not None
    parsed = ours.parse(pulled.body, pulled.receipt.topic)
    assert isinstance(parsed, ChannelOrder)
    return parsed


async def test_pulls_what_was_sold_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_the_present_is_left_to_the_next_pull(world: World) -> None:
    world.account.settings.pop("behind_seconds")
    world.sell(created=datetime.now(UTC) - timedelta(seconds=30))
    assert await world.pulled(until=datetime.now(UTC) + timedelta(seconds=5)) == []
    assert await world.pulled(since=datetime.now(UTC), until=datetime.now(UTC)) == []


async def test_each_change_is_a_new_fact_once(world: World, refunds_posted_at_once: None) -> None:
    number = world.sell()
    ours = world.adapter
    assert isinstance(ours, Amazon)
    keys = []
    for _ in range(2):
        pulled = await ours.read(number)
        assert pulled is not None
        keys.append(pulled.receipt.fact_key)
    world.refund(number, "r1", sku="A001", state="asked", reason="Ordered by mistake")
    pulled = await ours.read(number)
    assert pulled is not None
    assert keys[0] == keys[1] != pulled.receipt.fact_key


async def test_a_notification_leads_to_the_order(world: World, sandbox: str) -> None:
    number = world.sell(("A001", 2), urgent=True, buyer_message="Happy birthday")
    headers, body = twin._webhook(
        twin.shops.shop(world.account.account), twin.shops.sale(world.account.account, number), twin.Delivery(url="")
    )
    receipt = world.adapter.receive({name.lower(): value for name, value in headers.items()}, body)
    hint = world.adapter.parse(body, receipt.topic)
    assert isinstance(hint, Hint)
    told = await read(world, hint.order_nos[0])
    assert (told.channel_order_no, told.buyer_message, told.priority) == (number, "Happy birthday", URGENT)


async def test_numbers_are_those_placed_in_the_window(world: World) -> None:
    within = {world.sell(created=NOW - timedelta(hours=n)) for n in (1, 2)}
    world.sell(created=NOW - 3 * DAY)
    world.sell(paid=False)
    ours = world.adapter
    assert isinstance(ours, Amazon)
    assert {number async for number in ours.numbers(NOW - DAY, NOW)} == within
    assert await ours.read("902-0000000-0000000") is None


async def test_is_told_of_parcels_each_once(world: World) -> None:
    number = world.sell(("A001", 2), ("B007", 1))
    told = await read(world, number)
    first, second = (line.line_no for line in told.lines)
    for _ in range(2):
        await world.adapter.confirm_shipment(shipment(told, "SF1", first, A001=1))
    assert (await read(world, number)).custom["channel_hold"] == "PartiallyShipped"
    await world.adapter.confirm_shipment(shipment(told, "SF2", first, A001=1))
    await world.adapter.confirm_shipment(shipment(told, "SF3", second))
    assert [(each["carrier"], each["waybill_no"], each["lines"]) for each in world.shipments] == [
        ("SF Express", "SF1", {first: 1}),
        ("SF Express", "SF2", {first: 1}),
        ("SF Express", "SF3", {second: 1}),
    ]
    assert (await read(world, number)).shipped
    error = await failure(world.adapter.confirm_shipment(shipment(told, "SF4")))
    assert (error.type, error.details[0], error.message) == ("Refused", "400", "amazon: InvalidInput")
    assert number not in str(error)


async def test_a_parcel_that_amazon_knows_by_another_number_is_fine(world: World) -> None:
    told = await read(world, world.sell())
    by_hand = shipment(told).model_copy(update={"reference": "seller central"})
    await world.adapter.confirm_shipment(by_hand)
    await world.adapter.confirm_shipment(shipment(told))
    assert len(world.shipments) == 1


async def test_carriers_without_a_code_go_by_name(world: World) -> None:
    told = await read(world, world.sell(("A001", 1), ("B007", 1)))
    first, second = (line.line_no for line in told.lines)
    await world.adapter.confirm_shipment(shipment(told, "YT1", first).model_copy(update={"carrier": "yto"}))
    settings = {**world.account.settings, "carrier_codes": {"yto": "YunExpress"}}
    world.account = world.account.model_copy(update={"settings": settings})
    await world.adapter.confirm_shipment(shipment(told, "YT2", second).model_copy(update={"carrier": "yto"}))
    assert [each["carrier"] for each in world.shipments] == ["YTO Express", "YunExpress"]


async def test_a_confirmation_whose_answer_was_lost_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await read(world, world.sell())
    await http.close()
    monkeypatch.setattr(http, "_client", httpx.AsyncClient(timeout=0.3))
    world.fault("confirmShipment", "timeout_after", seconds=1, match=told.channel_order_no)
    assert (await failure(world.adapter.confirm_shipment(shipment(told)))).type == "Unavailable"
    await http.close()
    await world.adapter.confirm_shipment(shipment(told))
    assert [each["waybill_no"] for each in world.shipments] == ["SF1234567890"]


@pytest.mark.parametrize("operation", ["orders", "orderItems", "restrictedDataToken"])
@pytest.mark.parametrize(("fault", "wait"), [("500", None), ("429", 17), ("garbage", None)])
async def test_in_trouble_it_is_tried_again(world: World, operation: str, fault: str, wait: int | None) -> None:
    world.sell()
    world.fault(operation, fault, seconds=17)
    error = await failure(world.pulled())
    assert error.type == "Unavailable"
    assert (error.next_retry_delay and error.next_retry_delay.total_seconds()) == wait
    assert len(await world.pulled()) == 1


async def test_refunds_before_and_after_shipping(world: World, refunds_posted_at_once: None) -> None:
    number = world.sell(("A001", 2), ("B007", 1))
    world.refund(number, "r1", sku="B007", state="asked", reason="Too late")
    told = await read(world, number)
    assert [(each.state, each.line_no) for each in told.refunds] == [(RefundState.ASKED, told.lines[1].line_no)]
    world.refund(number, "r1", sku="B007", state="granted")
    told = await read(world, number)
    assert [line.sku for line in told.lines] == ["A001"]
    assert "total_mismatch" not in told.custom
    await world.adapter.confirm_shipment(shipment(told))
    world.refund(number, "r2", sku="A001", state="granted", quantity=1, amount="20.00")
    after = datetime.now(UTC) + timedelta(seconds=5)
    latest = (await world.pulled(until=after))[-1]
    assert latest.shipped
    assert [(each.refund_no, each.amount, each.quantity) for each in latest.refunds if each.amount] == [
        ("r2", Decimal("20.00"), 1)
    ]


async def test_a_refund_alone_brings_its_order_back(
    world: World, refunds_posted_at_once: None, monkeypatch: Any
) -> None:
    number = world.sell()
    await world.adapter.confirm_shipment(shipment(await read(world, number)))
    since = datetime.now(UTC)
    world.refund(number, "r1", sku="A001", state="granted", amount="5.00")
    monkeypatch.setattr(twin, "head", lambda *told, head=twin.head: head(*told) | {"FulfillmentChannel": "MFN"})
    ours = world.adapter
    assert isinstance(ours, Amazon)
    found = [each async for each in ours._refunded_orders(since - DAY, datetime.now(UTC) + timedelta(0))]
    assert found == [number]


async def test_finances_we_may_not_see_are_no_reason_to_miss_an_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = world.sell()
    await world.adapter.confirm_shipment(shipment(await read(world, number)))

    def denied(*_: Any) -> Any:
        raise twin.Refusal(403, "Unauthorized", "Access to requested resource is denied.")

    monkeypatch.setattr(twin, "_events", denied)
    told = await read(world, number)
    assert (told.shipped, told.custom["refunds_unknown"]) == (True, True)


async def test_a_listing_that_is_not_in_order_is_refused_with_its_issue(world: World) -> None:
    ours = world.adapter
    assert isinstance(ours, Amazon)
    refusals = await ours.push_stock([StockOffer(sku=sku, listing={}, quantity=3) for sku in ("bad1", "A 1/2")])
    assert [(each.sku, each.reason) for each in refusals] == [("bad1", "90220")]


async def test_access_that_ran_out_is_said_to_have(world: World) -> None:
    world.sell()
    world.ok("POST", f"/{world.account.account}/expire")
    assert (await failure(world.pulled())).type == "Expired"
    ours = world.adapter
    assert isinstance(ours, Amazon)
    renewed = await ours.renew()
    assert datetime.fromisoformat(renewed["expires_at"]) > datetime.now(UTC) + timedelta(minutes=50)
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | dict(renewed)})
    assert len(await world.pulled()) == 1


async def test_a_shop_without_access_yet_asks_for_it(world: World) -> None:
    secrets = {name: value for name, value in world.account.secrets.items() if name != "access_token"}
    world.account = world.account.model_copy(update={"secrets": secrets})
    assert (await failure(world.pulled())).type == "Expired"


@pytest.mark.parametrize(("secret", "code"), [("refresh_token", "invalid_grant"), ("client_secret", "invalid_client")])
async def test_authorisation_that_was_withdrawn_is_refused(world: World, secret: str, code: str) -> None:
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | {secret: "stale"}})
    ours = world.adapter
    assert isinstance(ours, Amazon)
    error = await failure(ours.renew())
    assert (error.type, error.details[0]) == ("Refused", code)


async def test_calls_wait_for_the_rate_limit() -> None:
    limit = amazon._RateLimit(rate=50, burst=2)
    started = datetime.now(UTC)
    for _ in range(7):
        await limit.acquire()
    assert timedelta(seconds=0.09) < datetime.now(UTC) - started < timedelta(seconds=1)
