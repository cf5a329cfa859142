"""An odd field holds the order instead of keeping it out: every field of every channel's order, in every odd way."""

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest

from activities import cleansing
from activities.channels import channel
from activities.kit.errors import Unintelligible
from activities.orders import review
from models.hold import HoldKind
from models.intake import Account, IntegrationType
from models.order import ChannelOrder, RefundState
from tests.unit import payloads

ORDERS: dict[str, tuple[str, Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "taobao": (
        "",
        payloads.taobao_fullinfo,
        ("trade_fullinfo_get_response", "trade_fullinfo_get_response.trade", "tid"),
    ),
    "shopify": ("orders/updated", payloads.shopify_order, ("id",)),
    "own": ("order", payloads.own_order, ("order_no",)),
    "app": ("order", payloads.own_order, ("order_no",)),
    "pos": ("sale", payloads.pos_order, ("store", "terminal", "receipt_no")),
    "amazon": ("orders/v0", payloads.amazon_order, ("order", "order.AmazonOrderId")),
    "woocommerce": ("orders", payloads.woocommerce_read, ("order", "order.id")),
    "jd": ("jingdong.pop.order.get", payloads.jd_order, ("orderInfo", "orderInfo.orderId")),
    "pdd": ("pdd.order.information.get", payloads.pdd_order, ("order_info", "order_info.order_sn")),
    "douyin": ("order.orderDetail", payloads.douyin_order, ("shop_order_detail", "shop_order_detail.order_id")),
    "suning": ("suning.custom.order.get", payloads.suning_order, ("order", "order.orderCode")),
}
"""The topic, the payload and the fields that identify the order, by channel."""
REMOVED = object()
ODD = (REMOVED, None, "x" * 271, "x" * 5000, -1, 0.5, "12.34567", 10**30, "NaN", [], {}, [None], "a\0\ud800b")
SKIPPED = {
    "orderType": "goods that are not shipped",
    "order_type": "goods that are not shipped",
    "goods_type": "goods that are not shipped",
    "requires_shipping": "goods that are not shipped",
    "FulfillmentChannel": "shipped by Amazon",
}


def fields(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Yield every (container, key, path) of a document."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        below = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
        yield value, key, below
        yield from fields(value[key], below)


def parsed(source: str, document: Any) -> ChannelOrder:
    account = Account(integration=IntegrationType.CHANNEL, source=source, account="shop")
    order = channel(account).parse(json.dumps(document).encode(), ORDERS[source][0])
    assert isinstance(order, ChannelOrder)
    return order


def reasons(order: ChannelOrder) -> dict[str, Any]:
    """The fields that the order is held for, with the reasons."""
    return {str(hold.params["field"]): hold.params["why"] for hold in review.content_holds(order, datetime.now(UTC))}


@pytest.mark.parametrize("source", ORDERS)
def test_real_order_is_not_odd(source: str) -> None:
    assert reasons(parsed(source, ORDERS[source][1]())) == {}


@pytest.mark.parametrize("source", ORDERS)
def test_order_with_any_odd_field_is_taken_in(source: str) -> None:
    _, payload, identity = ORDERS[source]
    spots = [path for _, _, path in fields(payload())]
    for number, path in enumerate(spots):
        if path in identity or path.endswith(identity[-1]) or path.rpartition(".")[2] in SKIPPED:
            continue
        for odd in ODD:
            document = payload()
            container, key, _ = next(islice(fields(document), number, None))
            if odd is REMOVED:
                del container[key]
            else:
                container[key] = deepcopy(odd)
            if path.endswith("line_items") and odd == []:
                continue  # an order of fees alone
            order = parsed(source, document)
            assert ChannelOrder.model_validate_json(order.model_dump_json()) == order, (path, odd)
            assert "\\u0000" not in order.model_dump_json()
            if odd is REMOVED or odd is None:
                cleansing.standardise(order)


@pytest.mark.parametrize("source", ORDERS)
def test_order_without_its_number_is_refused_with_the_field(source: str) -> None:
    _, payload, identity = ORDERS[source]
    for odd in (REMOVED, None, "", [], {}):
        document = payload()
        container: Any = document
        *above, last = identity[-1].split(".") if source != "taobao" else (*identity[1].split("."), "tid")
        for part in above:
            container = container[part]
        if odd is REMOVED:
            del container[last]
        else:
            container[last] = odd
        with pytest.raises(Unintelligible) as caught:
            parsed(source, document)
        assert caught.value.field.endswith(last)


@pytest.mark.parametrize(
    ("source", "path", "value", "field"),
    [
        ("own", ("recipient", "street"), "长" * 271, "recipient.street"),
        ("shopify", ("shipping_address", "country_code"), None, "shipping_address.country_code"),
        ("woocommerce", ("order", "line_items", 0, "quantity"), 0.5, "order.line_items[0].quantity"),
        ("suning", ("order", "orderSaleTime"), None, "order.orderSaleTime"),
        ("jd", ("orderInfo", "orderState"), "NEWLY_INVENTED", "orderInfo.orderState"),
        ("pdd", ("order_info", "pay_amount"), "999.00", "total"),
        ("own", ("total",), "168.00", "total"),
    ],
)
def test_hold_names_the_odd_field(source: str, path: tuple[Any, ...], value: Any, field: str) -> None:
    document = ORDERS[source][1]()
    container: Any = document
    for part in path[:-1]:
        container = container[part]
    container[path[-1]] = value
    order = parsed(source, document)
    assert field in reasons(order)
    assert {hold.kind for hold in review.content_holds(order, datetime.now(UTC))} == {HoldKind.CONTENT}


STATUS_NAMES = ("status", "state", "orderflag")
NOT_READ = {
    "receiver_state": "a province",
    "StateOrRegion": "a province",
    "line_items[0].fulfillment_status": "what a line still needs is counted",
    "line_items[1].fulfillment_status": "what a line still needs is counted",
    "shipping.state": "a province",
    "billing.state": "a province",
    "invoice_status": "whether the buyer requested an invoice, kept raw",
    "after_sale_info.refund_status": "after_sale_status is read",
    "order.billing.state": "a province",
}
OPTIONAL: dict[str, dict[str, Any]] = {
    "shopify": {
        "refunds": [
            {
                "id": 1,
                "refund_line_items": [{"line_item_id": 466157049, "quantity": 1, "subtotal": "5.00"}],
                "transactions": [{"kind": "refund", "amount": "5.00", "status": "success"}],
            }
        ]
    },
    "pdd": {"order_info": {"step_order_info": {"step_trade_status": 2}}},
    "douyin": {
        "shop_order_detail": {
            "main_status": 2,
            "sku_order_list": [{"after_sale_info": {"after_sale_status": 0, "refund_status": 0}}],
        }
    },
    "jd": {"services": [{"afsRefundId": 1, "status": "13", "refoundAmount": "5"}]},
}
"""Statuses that the payloads do not show."""


def with_optional(document: Any, more: Any) -> Any:
    """Return a payload completed by optional fields."""
    if isinstance(document, dict) and isinstance(more, dict):
        both = document.keys() | more.keys()
        return {key: with_optional(document.get(key, more.get(key)), more.get(key, document.get(key))) for key in both}
    if isinstance(document, list) and document and isinstance(more, list):
        return [with_optional(document[0], more[0]), *document[1:]]
    return more if document is None else document


@pytest.mark.parametrize("source", ORDERS)
@pytest.mark.parametrize("unknown", ["NEWLY_INVENTED", 8417, "8417", "x" * 300, True])
def test_unknown_status_is_named_and_holds_an_order_that_it_neither_pays_nor_ends(source: str, unknown: Any) -> None:
    """A walk over all fields that are named as a status."""
    _, payload, _ = ORDERS[source]
    complete = with_optional(payload(), OPTIONAL.get(source, {}))
    before = parsed(source, complete)
    for number, (_, key, path) in enumerate(list(fields(complete))):
        named = any(each in str(key).lower() for each in STATUS_NAMES)
        if not named or path.endswith(tuple(NOT_READ)) or path.startswith("services"):
            continue
        document = deepcopy(complete)
        container, key, _ = next(islice(fields(document), number, None))
        if isinstance(container[key], dict | list):
            continue
        container[key] = unknown
        order = parsed(source, document)
        why = [reason for field, reason in reasons(order).items() if field.rpartition(".")[2] == key]
        assert len(why) == 1, path
        assert re.match(r"invalid\.(order_)?status", why[0]), path
        assert isinstance(unknown, bool) or str(unknown)[:100] in why[0]
        assert (order.cancelled_at, order.shipped) == (None, False), path
        granted = {each.refund_no for each in order.refunds if each.state is RefundState.GRANTED}
        assert granted <= {each.refund_no for each in before.refunds}, path


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("taobao", ("trade_fullinfo_get_response", "trade", "status")),
        ("shopify", ("financial_status",)),
        ("amazon", ("order", "OrderStatus")),
        ("woocommerce", ("order", "status")),
        ("jd", ("orderInfo", "orderState")),
        ("pdd", ("order_info", "order_status")),
        ("douyin", ("shop_order_detail", "order_status")),
        ("suning", ("order", "orderTotalStatus")),
    ],
)
def test_unknown_order_status_alone_does_not_pay_an_order(source: str, path: tuple[str, ...]) -> None:
    document = ORDERS[source][1]()
    for container, key, _ in list(fields(document)):
        if key in ("pay_time", "confirm_time", "date_paid_gmt", "paymentConfirmTime"):
            container[key] = None
    container = document
    for part in path[:-1]:
        container = container[part]
    assert parsed(source, document).paid_at is not None
    container[path[-1]] = "8417"
    assert parsed(source, document).paid_at is None


@pytest.mark.parametrize(
    ("source", "path", "value", "hold"),
    [
        ("douyin", ("shop_order_detail", "sku_order_list", 0, "receive_type"), 2, "pick_up"),
        ("douyin", ("shop_order_detail", "order_status"), 105, "paid_not_ready"),
        ("taobao", ("trade_fullinfo_get_response", "trade", "is_sh_ship"), True, "is_sh_ship"),
        ("taobao", ("trade_fullinfo_get_response", "trade", "o2o_delivery"), "inshop", "pick_up"),
        ("taobao", ("trade_fullinfo_get_response", "trade", "shop_pick"), "1", "pick_up"),
        ("pdd", ("order_info", "risk_control_status"), 2, "risk_control"),
    ],
)
def test_order_that_must_not_be_shipped_as_it_is_waits(
    source: str, path: tuple[Any, ...], value: Any, hold: str
) -> None:
    document = ORDERS[source][1]()
    container: Any = document
    for part in path[:-1]:
        container = container[part]
    container[path[-1]] = value
    assert parsed(source, document).custom["channel_hold"] == hold


def test_many_lines_stay_in_one_order() -> None:
    lines = [
        {"line_no": f"l{number}", "sku": "A001", "quantity": 1, "unit_price": "1.123456"} for number in range(2500)
    ]
    document = payloads.own_order() | {"lines": lines, "freight": "0", "discount": "0", "total": "2808.64"}
    order = parsed("own", document)
    assert (len(order.lines), order.odd, order.goods) == (2500, {}, Decimal("2808.640000"))


@pytest.mark.parametrize("source", ["woocommerce", "shopify"])
def test_lines_without_quantity_are_dropped(source: str) -> None:
    document = ORDERS[source][1]()
    lines = (document["order"] if source == "woocommerce" else document)["line_items"]
    lines.append(deepcopy(lines[0]) | {"id": 999, "quantity": 0, "current_quantity": 0, "total": "0", "subtotal": "0"})
    lines[-1] |= {"discount_allocations": [], "total_tax": "0"}
    order = parsed(source, document)
    assert len(order.lines) == len(lines) - 1
    assert order.odd == {}


def test_codes_equal_in_their_first_64_characters_stay_apart() -> None:
    for source, path in {
        "taobao": ("trade_fullinfo_get_response", "trade", "orders", "order", 0, "outer_sku_id"),
        "shopify": ("line_items", 0, "sku"),
        "woocommerce": ("order", "line_items", 0, "sku"),
        "amazon": ("items", 0, "SellerSKU"),
        "own": ("lines", 0, "sku"),
        "jd": ("orderInfo", "itemInfoList", 0, "outerSkuId"),
        "pdd": ("order_info", "item_list", 0, "outer_id"),
        "douyin": ("shop_order_detail", "sku_order_list", 0, "code"),
        "suning": ("order", "orderDetail", 0, "itemCode"),
    }.items():
        found = set()
        for end in "12":
            document: Any = ORDERS[source][1]()
            container = document
            for part in path[:-1]:
                container = container[part]
            container[path[-1]] = "S" * 64 + end
            found |= {line.sku for line in parsed(source, document).lines if line.sku.startswith("SSS")}
        assert found == {"S" * 64 + "1", "S" * 64 + "2"}, source
