"""Fields of channels' orders that decide what ships, how, and for how much."""

import json
from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pytest

from activities.channels import channel, douyin, jd, order_fact_key, pdd
from activities.intake.changes import changes, foreign_shipment, holds_for_foreign_shipment, newest
from activities.kit.payloads import person_name
from activities.orders import review
from models.address import Recipient
from models.hold import HoldKind
from models.intake import Account, IntegrationType
from models.order import ChannelOrder
from tests.unit import payloads


def parsed(source: str, topic: str, document: Any) -> ChannelOrder:
    account = Account(integration=IntegrationType.CHANNEL, source=source, account="shop")
    order = channel(account).parse(json.dumps(document).encode(), topic)
    assert isinstance(order, ChannelOrder)
    return order


def pinduoduo(**changed: Any) -> ChannelOrder:
    document = payloads.pdd_order()
    document["order_info"] |= changed
    return parsed("pdd", pdd.READ, document)


def jingdong(**changed: Any) -> ChannelOrder:
    document = payloads.jd_order()
    document["orderInfo"] |= changed
    return parsed("jd", jd.READ, document)


def shopify(**changed: Any) -> ChannelOrder:
    return parsed("shopify", "orders/updated", payloads.shopify_order() | changed)


def test_gift_service_and_price_change_of_pinduoduo_are_read() -> None:
    order = pinduoduo()
    assert [(line.line_no, line.sku, line.quantity, line.unit_price) for line in order.lines] == [
        ("1", "A001", 2, Decimal("59.00")),
        ("g1", "G001", 1, Decimal(0)),
    ]
    assert (order.carrier, order.discount, order.freight, order.total) == ("sf", 8, 15, 125)
    assert order.promised_by is not None
    assert order.odd == {}
    assert pinduoduo(service_fee_detail=None, pay_amount="113.00").carrier is None
    assert pinduoduo(service_fee_detail=None, pay_amount="113.00", free_sf=1).carrier == "sf"


@pytest.mark.parametrize(
    ("changed", "hold"),
    [({"self_contained": 1}, "pick_up"), ({"step_order_info": {"step_trade_status": 1}}, "deposit")],
)
def test_pinduoduo_order_not_to_be_shipped_is_held(changed: dict[str, Any], hold: str) -> None:
    assert pinduoduo(**changed).custom["channel_hold"] == hold


def test_only_the_sellers_discounts_reduce_an_order_of_jd() -> None:
    order = jingdong()
    assert (order.total, order.freight, order.goods, order.discount, order.odd) == (116, 8, 108, 0, {})
    assert jingdong(couponDetailList=[]).discount == 10
    assert order.custom["invoice"] == "发票类型:电子普通发票; 发票内容:商品明细"


def test_buyer_of_jd_pays_on_delivery_what_platform_coupons_leave() -> None:
    order = jingdong(payType="1-货到付款")
    assert (order.cash_on_delivery, order.total, order.odd) == (True, Decimal("111.00"), {})


def test_sku_bought_and_given_is_two_lines_whatever_their_order() -> None:
    items = payloads.jd_order()["orderInfo"]["itemInfoList"]
    for order in (jingdong(), jingdong(itemInfoList=items[::-1])):
        lines = {line.line_no: (line.quantity, line.unit_price) for line in order.lines}
        assert lines == {"100001": (2, Decimal("59.00")), "100001#2": (1, Decimal("0.00"))}
        assert order.odd == {}


def test_tips_and_gift_cards_of_shopify_are_part_of_the_total() -> None:
    card = deepcopy(payloads.shopify_order()["line_items"][1])
    card |= {"id": 7, "price": "50.00", "requires_shipping": False, "gift_card": True, "discount_allocations": []}
    items = [*payloads.shopify_order()["line_items"], card]
    total = {"total_price": "152.50", "current_total_price": "152.50"}
    order = shopify(line_items=items, total_tip_received="3.00", **total)
    assert (len(order.lines), order.freight, order.odd) == (2, Decimal("63.00"), {})


def test_removed_and_refunded_freight_of_shopify_is_not_owed() -> None:
    removed = {"title": "Express", "price": "20.00", "is_removed": True}
    lines = [*payloads.shopify_order()["shipping_lines"], removed]
    assert (shopify(shipping_lines=lines).freight, shopify(shipping_lines=lines).odd) == (10, {})
    refund = {
        "id": 9,
        "refund_line_items": [],
        "order_adjustments": [{"kind": "shipping_refund", "amount": "-10.00"}],
        "transactions": [{"amount": "10.00", "kind": "refund", "status": "success"}],
    }
    order = shopify(refunds=[refund], financial_status="partially_refunded", current_total_price="89.50")
    assert (order.freight, order.total, order.odd) == (0, Decimal("89.50"), {})


def test_order_to_be_picked_up_is_held() -> None:
    lines = [{"title": "Main Street", "price": "10.00", "delivery_category": "local_pickup"}]
    assert shopify(shipping_lines=lines).custom["channel_hold"] == "pick_up"


@pytest.mark.parametrize(
    ("changed", "discount"),
    [
        ({"payAmount": "116.00", "vouchertotalMoney": "10.00"}, "10.00"),
        ({"payAmount": "108.00", "vouchertotalMoney": "10.00"}, "10.00"),
        ({"payAmount": "126.00", "vouchertotalMoney": "0"}, "0.00"),
        ({"payAmount": "118.00", "vouchertotalMoney": "0"}, "0.00"),
    ],
)
def test_line_of_suning_is_paid_with_its_freight_or_without(changed: dict[str, Any], discount: str) -> None:
    document = payloads.suning_order()
    document["order"]["orderDetail"][0] |= changed
    order = parsed("suning", "suning.custom.order.get", document)
    assert (order.lines[0].discount, order.freight) == (Decimal(discount), 8)
    assert order.total == 118 - Decimal(discount) + 8
    assert order.custom["invoice"] == "02"
    assert "王小明" not in json.dumps(order.custom, ensure_ascii=False)


def test_cipher_text_of_jd_is_never_shown() -> None:
    cipher = "AQAAAAEAAAAwbGxqZGRkZGRkZGRkZGRkZGRkZGRk" * 8
    person = {"fullname": cipher, "mobile": cipher, "fullAddress": cipher, "desen_fullname": "王**"}
    order = jingdong(consigneeInfo=person)
    assert order.recipient.unreadable
    assert cipher[:20] not in order.model_dump_json()
    assert (order.recipient.name, order.recipient.phone, order.odd) == ("王**", "****", {})


def test_undecrypted_recipient_of_pinduoduo_is_unreadable() -> None:
    document = payloads.pdd_order() | {"data_decrypt_list": []}
    document["order_info"] |= {"receiver_name_mask": "", "receiver_phone_mask": "", "receiver_address_mask": ""}
    order = parsed("pdd", pdd.READ, document)
    assert order.recipient.unreadable
    assert "AgAAAA" not in order.model_dump_json()


def test_asterisk_in_an_address_of_the_own_site_is_no_mask() -> None:
    document = payloads.own_order()
    document["recipient"]["street"] = "世纪大道1*2号"
    assert not parsed("own", "order", document).recipient.unreadable


@pytest.mark.parametrize(
    ("payload", "node", "fields", "changing"),
    [
        (payloads.pdd_order, "order_info", ("receiver_name", "receiver_phone"), pdd._CHANGING),
        (payloads.douyin_order, "shop_order_detail", ("encrypt_post_tel", "encrypt_post_receiver"), douyin._CHANGING),
        (payloads.jd_order, "orderInfo", (), jd._CHANGING),
    ],
)
def test_cipher_text_that_changes_between_calls_is_no_new_fact(
    payload: Callable[[], dict[str, Any]], node: str, fields: tuple[str, ...], changing: frozenset[str]
) -> None:
    first, again = payload()[node], payload()[node]
    again |= dict.fromkeys(fields, "~other~1~")
    if "post_addr" in again:
        again["post_addr"]["encrypt_detail"] = "other"
    if "consigneeInfo" in again:
        again["consigneeInfo"] |= {"fullname": "other", "fullAddress": "other"}
    key = order_fact_key("1", "now", first, changing)
    assert order_fact_key("1", "now", again, changing) == key
    assert order_fact_key("1", "now", again | {"remark": "changed"}, changing) != key


@pytest.mark.parametrize(
    ("first", "last", "whole"),
    [
        ("João", "Silva", "João Silva"),
        ("Łukasz", "Żak", "Łukasz Żak"),
        ("Иван", "Петров", "Иван Петров"),
        ("محمد", "علي", "محمد علي"),
        ("小明", "王", "王小明"),
        ("はなこ", "やまだ", "やまだはなこ"),
        ("철수", "김", "김철수"),
        ("David", "王", "David 王"),
        ("", "Smith", "Smith"),
    ],
)
def test_family_name_comes_first_in_east_asian_writing_alone(first: str, last: str, whole: str) -> None:
    assert person_name(first, last) == whole


def test_town_is_once_on_the_label() -> None:
    told = Recipient(town="平凉路街道", street="平凉路街道江浦路1号")
    assert told.full_street == "平凉路街道江浦路1号"
    assert Recipient(town="平凉路街道", street="江浦路1号").full_street == "平凉路街道江浦路1号"


def test_free_order_does_not_wait_for_payment() -> None:
    line = {"sku": "A001", "quantity": 1, "unit_price": "0.00"}
    free = payloads.own_order() | {"paid_at": None, "lines": [line], "freight": "0", "discount": "0", "total": "0.00"}
    assert parsed("own", "order", free).payable
    assert not parsed("own", "order", payloads.own_order() | {"paid_at": None}).payable


def test_unreadable_lines_of_a_later_version_change_nothing_but_hold() -> None:
    before = parsed("own", "order", payloads.own_order())
    later = parsed("own", "order", payloads.own_order() | {"lines": None, "updated_at": "2026-11-20T13:00:00+08:00"})
    signals = dict(changes(before, later, "f" * 300))
    assert signals.keys() == {"hold"}
    assert signals["hold"].kind is HoldKind.CONTENT  # type: ignore[attr-defined]
    known = newest(before, later)
    assert known.lines == before.lines
    good = parsed("own", "order", payloads.own_order() | {"updated_at": "2026-11-20T14:00:00+08:00"})
    assert [name for name, _ in changes(known, good, "g")] == ["release"]


def test_long_fact_keys_stay_apart_in_request_ids() -> None:
    before = parsed("own", "order", payloads.own_order())
    later = parsed("own", "order", payloads.own_order() | {"seller_memo": "加急"})
    ids = {dict(changes(before, later, "f" * 250 + end))["remark"].request_id for end in "12"}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        (["success"], "granted"),
        (["failure"], "closed"),
        (["error"], "closed"),
        (["pending"], "asked"),
        (["failure", "success"], "granted"),
        (["failure", "pending"], "asked"),
        ([], "granted"),
    ],
)
def test_refund_of_shopify_counts_by_the_status_of_its_transactions(statuses: list[str], state: str) -> None:
    transactions = [{"kind": "refund", "status": status, "amount": "5.00"} for status in statuses]
    (refund,) = shopify(refunds=[{"id": 1, "transactions": transactions}]).refunds
    assert refund.state == state


def test_refunded_units_of_shopify_do_not_ship_without_current_quantity() -> None:
    document = payloads.shopify_order()
    for item in document["line_items"]:
        item.pop("current_quantity", None)
    item = document["line_items"][0]
    whole = parsed("shopify", "orders/updated", document).lines[0].quantity
    document["refunds"] = [
        {"id": 1, "refund_line_items": [{"line_item_id": item["id"], "quantity": 1, "subtotal": "1"}]}
    ]
    rest = {line.line_no: line.quantity for line in parsed("shopify", "orders/updated", document).lines}
    assert rest.get(str(item["id"]), 0) == whole - 1


def test_shipped_and_refunded_order_of_shopify_stays_paid() -> None:
    order = shopify(financial_status="refunded", fulfillment_status="fulfilled")
    assert order.paid_at is not None
    assert order.cancelled_at is None


@pytest.mark.parametrize(
    ("main_status", "cancelled", "shipped", "paid"),
    [(21, True, False, True), (22, False, True, True), (39, False, True, True), (103, False, False, False)],
)
def test_main_status_of_douyin_is_read(main_status: int, cancelled: bool, shipped: bool, paid: bool) -> None:
    document = payloads.douyin_order()
    node = document.get("data", document)
    node = node.get("shop_order_detail", node)
    node |= {"main_status": main_status, "order_status": 4}
    order = parsed("douyin", douyin.READ, document)
    assert (order.cancelled_at is not None, order.shipped, order.paid_at is not None) == (cancelled, shipped, paid)


def _amazon(status: str) -> ChannelOrder:
    document = payloads.amazon_order()
    document["order"]["OrderStatus"] = status
    return parsed("amazon", "orders/v0", document)


def _douyin(**changed: Any) -> ChannelOrder:
    document = payloads.douyin_order()
    document["shop_order_detail"] |= changed
    return parsed("douyin", douyin.READ, document)


def _suning(status: str) -> ChannelOrder:
    document = payloads.suning_order()
    document["order"]["orderTotalStatus"] = status
    return parsed("suning", "read", document)


def _taobao(status: str) -> ChannelOrder:
    return parsed("taobao", "", payloads.taobao_fullinfo(payloads.taobao_trade() | {"status": status}))


PARTLY_SHIPPED: dict[str, tuple[Callable[[], ChannelOrder], Callable[[], ChannelOrder]]] = {
    "amazon": (lambda: _amazon("Unshipped"), lambda: _amazon("PartiallyShipped")),
    "douyin": (_douyin, lambda: _douyin(order_status=101)),
    "douyin main status": (_douyin, lambda: _douyin(main_status=101)),
    "shopify": (shopify, lambda: shopify(fulfillment_status="partial")),
    "suning": (lambda: _suning("10"), lambda: _suning("21")),
    "taobao": (lambda: _taobao("WAIT_SELLER_SEND_GOODS"), lambda: _taobao("SELLER_CONSIGNED_PART")),
}


@pytest.mark.parametrize("source", PARTLY_SHIPPED)
def test_order_shipped_in_part_by_others_is_held_and_by_us_goes_on(source: str) -> None:
    whole, part = (order() for order in PARTLY_SHIPPED[source])
    held_for = "hold.channel.partly_shipped"
    assert review.channel_holds(whole, whole.placed_at) == []
    assert [hold.reason for hold in review.channel_holds(part, part.placed_at)] == [held_for]
    assert changes(whole, part, "fact") == []
    assert foreign_shipment(whole, part)
    for ours in ([], [False], [False, False]):
        ((name, request),) = holds_for_foreign_shipment(part, ours, "fact")
        assert (name, getattr(request, "reason", None)) == ("hold", held_for)
    assert holds_for_foreign_shipment(part, [True, False], "fact") == []
    shipped = part.model_copy(update={"shipped": True})
    assert foreign_shipment(part, shipped)
    assert holds_for_foreign_shipment(shipped, [True, True], "fact") == []
    assert len(holds_for_foreign_shipment(shipped, [True, False], "fact")) == 1


def test_order_of_douyin_is_held_until_the_day_that_the_buyer_chose() -> None:
    assert _douyin(appointment_ship_time=1795000000).custom["channel_hold"] == "appointment_ship_time"
    assert "channel_hold" not in {key for key, value in _douyin(appointment_ship_time=0).custom.items() if value}
    past = _douyin(appointment_ship_time=1795000000, update_time=1795000001)
    assert not past.custom.get("channel_hold")


def test_gift_wrap_of_amazon_is_read_by_those_who_pack() -> None:
    document = payloads.amazon_order()
    document["items"][0]["BuyerInfo"] = {"GiftWrapLevel": "Classic", "GiftMessageText": "Happy birthday"}
    assert parsed("amazon", "orders/v0", document).buyer_message == "[Gift wrap: Classic] Happy birthday"
