"""Taobao: signatures against the published example, parsing of trades, classification of faults."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from activities.channels.taobao import adapter
from activities.kit.errors import Unauthentic, Unintelligible
from activities.orders import review
from activities.vendors.top import fault, sign
from models.hold import HoldKind
from models.intake import Account, IntegrationType
from models.order import NORMAL, URGENT, ChannelOrder
from models.origins import ChannelKind, IntakePath
from tests.unit.payloads import taobao_fullinfo, taobao_trade

ACCOUNT = Account(integration=IntegrationType.CHANNEL, source="taobao", account="flagship")
VECTOR = {
    "method": "taobao.item.seller.get",
    "app_key": "12345678",
    "session": "test",
    "timestamp": "2016-01-01 12:00:00",
    "format": "json",
    "v": "2.0",
    "fields": "num_iid,title,nick,price,num",
    "num_iid": "11223344",
}


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("md5", "66987CB115214E59E6EC978214934FB8"),  # published: open.taobao.com, docId 101617
        ("hmac", "D56D7858309C31B6251083A874D48273"),
        ("hmac-sha256", "04DB15AD0774D5CFCE2C837DE43E3FCEA9011ED74F3038FB6AB5F3C4CEA119E8"),
    ],
)
def test_signature_matches_the_published_example(method: str, signature: str) -> None:
    assert sign({**VECTOR, "sign_method": method}, "helloworld", method) == signature


def parse(trade: dict[str, Any]) -> ChannelOrder | None:
    return adapter(ACCOUNT).parse(json.dumps(taobao_fullinfo(trade)).encode(), "")


def test_trade_is_parsed() -> None:
    order = parse(taobao_trade())
    assert order is not None
    assert order.order_id == "order:taobao:flagship:4100000000000000117"
    assert order.placed_at == datetime(2026, 11, 10, 16, 0, 3, tzinfo=UTC)
    assert order.paid_at == datetime(2026, 11, 10, 16, 1, 29, tzinfo=UTC)
    assert [(line.line_no, line.sku, line.quantity) for line in order.lines] == [
        ("4100000000000000118", "A001", 2),
        ("4100000000000000119", "B007", 1),
    ]
    assert [line.discount for line in order.lines] == [Decimal("10.00"), Decimal("5.00")]
    assert (order.total, order.freight) == (Decimal("168.60"), Decimal("8.00"))
    assert order.recipient.phone == "*******5678"
    assert order.recipient.street == "粤海街道科技园路*号"
    assert order.custom == {"oaid": "1DhlKpLQ9Jnc8Yc2UfPV5Q"}
    assert (order.origin.kind, order.origin.platform) == (ChannelKind.MARKETPLACE, "tmall")
    assert (order.origin.region, order.origin.intake) == ("广东省 深圳市", IntakePath.POLL)
    assert order.priority == NORMAL


@pytest.mark.parametrize("status", ["TRADE_NO_CREATE_PAY", "WAIT_BUYER_PAY", "PAY_PENDING", "WAIT_PRE_AUTH_CONFIRM"])
def test_unpaid_statuses_are_not_payable_even_with_a_deposit(status: str) -> None:
    order = parse({**taobao_trade(), "status": status})
    assert order is not None
    assert not order.payable
    assert order.cancelled_at is None


@pytest.mark.parametrize("status", ["TRADE_CLOSED", "TRADE_CLOSED_BY_TAOBAO"])
def test_closed_statuses_cancel_the_order(status: str) -> None:
    order = parse({**taobao_trade(), "status": status, "end_time": "2026-11-11 00:10:00"})
    assert order is not None
    assert order.cancelled_at == datetime(2026, 11, 10, 16, 10, tzinfo=UTC)
    assert len(order.lines) == 2


def test_paid_but_not_to_be_shipped_is_held() -> None:
    order = parse({**taobao_trade(), "status": "PAID_FORBID_CONSIGN"})
    assert order is not None
    assert order.payable
    assert order.custom["channel_hold"] == "PAID_FORBID_CONSIGN"
    assert [hold.kind for hold in review.channel_holds(order, order.placed_at)] == [HoldKind.CHANNEL]


@pytest.mark.parametrize("status", ["WAIT_BUYER_CONFIRM_GOODS", "TRADE_BUYER_SIGNED", "TRADE_FINISHED"])
def test_shipped_trade_keeps_all_its_lines(status: str) -> None:
    order = parse({**taobao_trade(), "status": status})
    assert order is not None
    assert order.shipped
    assert len(order.lines) == len(taobao_trade()["orders"]["order"])


def test_unknown_status_is_named_in_the_order() -> None:
    order = parse({**taobao_trade(), "status": "TRADE_NEWLY_INVENTED"})
    assert order is not None
    assert set(order.odd) == {"trade_fullinfo_get_response.trade.status"}


def test_cash_on_delivery_is_payable_unpaid() -> None:
    order = parse({**taobao_trade(), "type": "cod", "pay_time": None})
    assert order is not None
    assert order.payable
    assert order.paid_at is None


def test_refunded_line_is_removed() -> None:
    trade = taobao_trade()
    trade["orders"]["order"][0]["refund_status"] = "SUCCESS"
    order = parse(trade)
    assert order is not None
    assert [line.sku for line in order.lines] == ["B007"]
    assert order.total == Decimal("60.60")
    assert [(each.state, each.amount) for each in order.refunds] == [("granted", Decimal("108.00"))]


def test_refund_of_all_lines_cancels_the_order() -> None:
    trade = taobao_trade()
    for order in trade["orders"]["order"]:
        order["status"] = "TRADE_CLOSED"
    parsed = parse(trade)
    assert parsed is not None
    assert parsed.cancelled_at is not None


@pytest.mark.parametrize("change", [{"seller_flag": 1}, {"seller_memo": "客户加急!"}])
def test_red_flag_or_memo_makes_the_order_urgent(change: dict[str, Any]) -> None:
    order = parse({**taobao_trade(), **change})
    assert order is not None
    assert order.priority == URGENT


def test_county_without_a_city_becomes_the_city() -> None:
    order = parse({**taobao_trade(), "receiver_city": None, "receiver_district": "济源市", "receiver_town": ""})
    assert order is not None
    assert (order.recipient.city, order.recipient.district) == ("济源市", "")


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("orders", "order", 1, "num"), 0.5, "orders.order[1].num"),
        (("orders", "order", 0, "price"), "free", "orders.order[0].price"),
        (("orders",), {}, "orders.order"),
        (("created",), "yesterday", "created"),
    ],
)
def test_odd_field_is_named_by_the_vendors_path(path: tuple[Any, ...], value: Any, field: str) -> None:
    trade = taobao_trade()
    place: Any = trade
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    order = parse(trade)
    assert order is not None
    assert f"trade_fullinfo_get_response.trade.{field}" in order.odd


def test_trade_without_a_readable_number_is_refused() -> None:
    with pytest.raises(Unintelligible) as caught:
        parse({**taobao_trade(), "tid": 4.1e18})
    assert caught.value.field == "trade_fullinfo_get_response.trade.tid"


def test_webhooks_are_refused() -> None:
    with pytest.raises(Unauthentic):
        adapter(ACCOUNT).receive({}, b"{}")


@pytest.mark.parametrize(
    ("error", "final", "wait"),
    [
        ({"code": 7, "sub_msg": "This ban will last for 17 more seconds"}, False, 17),
        ({"code": 7, "sub_code": "accesscontrol.limited-by-app-access-count"}, False, None),
        ({"code": 10}, False, None),
        ({"code": 15, "sub_code": "isp.top-remote-connection-timeout"}, False, None),
        ({"code": 15, "sub_code": "isv.logistics-offline-service-error:B150"}, False, None),
        ({"code": 15, "sub_code": "isv.logistics-offline-service-error:B60"}, True, None),
        ({"code": 25}, True, None),
        ({"code": 27, "sub_code": "invalid-sessionkey"}, True, None),
    ],
)
def test_fault_is_retryable_or_final(error: dict[str, Any], final: bool, wait: float | None) -> None:
    raised = fault("taobao.trade.fullinfo.get", error)
    assert raised.non_retryable is final
    assert (raised.next_retry_delay.total_seconds() if raised.next_retry_delay else None) == wait
