"""Shopify: signature, financial statuses, edits and refunds, addresses."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from activities.channels import Hint
from activities.channels.shopify import adapter
from activities.kit.errors import Unauthentic, Unintelligible
from activities.kit.signing import sign_body
from models.address import Recipient
from models.intake import Account, IntegrationType
from models.order import URGENT, ChannelOrder
from models.origins import IntakePath
from tests.unit.payloads import shopify_order

ACCOUNT = Account(
    integration=IntegrationType.CHANNEL,
    source="shopify",
    account="tees",
    secrets={"client_secret": "new", "client_secret_old": "old", "access_token": "token"},
)


def parse(order: dict[str, Any], topic: str = "orders/create") -> ChannelOrder | None:
    return adapter(ACCOUNT).parse(json.dumps(order).encode(), topic)


def headers(body: bytes, secret: str, topic: str = "orders/create") -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return {"x-shopify-hmac-sha256": base64.b64encode(digest).decode(), "x-shopify-topic": topic}


def test_signature_matches_the_published_example() -> None:
    assert sign_body("hush", b'"my secret message"') == "hMTq0K2x7oyOjoBwGYeTj5oxfnaVYXzbanUG9aajpKI="


@pytest.mark.parametrize("secret", ["new", "old"])
def test_both_secrets_are_valid_during_rotation(secret: str) -> None:
    body = json.dumps(shopify_order()).replace("/", "\\/").encode()
    receipt = adapter(ACCOUNT).receive(headers(body, secret), body)
    assert (receipt.topic, receipt.priority) == ("orders/create", URGENT)


@pytest.mark.parametrize(
    ("body", "given"),
    [
        (b"{}", headers(b"{}", "guess")),
        (b"{} ", headers(b"{}", "new")),
        (b"", headers(b"", "new")),
        (b"{}", {}),
        (b"{}", {"x-shopify-hmac-sha256": "\xe9"}),
    ],
)
def test_message_without_a_valid_signature_is_refused(body: bytes, given: dict[str, str]) -> None:
    with pytest.raises(Unauthentic):
        adapter(ACCOUNT).receive(given, body)


def test_repeated_delivery_is_one_fact_and_each_topic_another() -> None:
    body = json.dumps(shopify_order()).encode()
    create = [adapter(ACCOUNT).receive(headers(body, "new") | {"x-shopify-webhook-id": str(n)}, body) for n in range(3)]
    paid = adapter(ACCOUNT).receive(headers(body, "new", "orders/paid"), body)
    assert len({receipt.fact_key for receipt in create}) == 1
    assert paid.fact_key != create[0].fact_key


def test_unreadable_authentic_body_gets_a_receipt() -> None:
    receipt = adapter(ACCOUNT).receive(headers(b"\xff{", "new"), b"\xff{")
    assert receipt.fact_key
    with pytest.raises(Unintelligible) as caught:
        adapter(ACCOUNT).parse(b"\xff{", receipt.topic)
    assert caught.value.field == "body"


def test_foreign_order_is_parsed() -> None:
    order = parse(shopify_order())
    assert order is not None
    assert order.channel_order_no == "820982911946154508"
    assert order.placed_at == datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
    assert order.payable
    assert [(line.line_no, line.sku, line.quantity, line.discount) for line in order.lines] == [
        ("866550311766439020", "A001", 4, Decimal("12.00")),
        ("866550311766439021", "B007", 1, Decimal("3.00")),
    ]
    assert (order.total, order.currency, order.freight, order.discount) == (Decimal("99.50"), "USD", 10, 0)
    assert order.tax == Decimal("4.50")
    assert order.recipient == Recipient(
        name="Pat Doe",
        phone="+12025550101",
        country="US",
        province="Kentucky",
        city="Louisville",
        street="92 Chestnut Street Apt 5",
        postcode="40202",
        hidden=False,
    )
    assert (order.origin.campaign, order.origin.intake) == ("autumn", IntakePath.WEBHOOK)
    assert order.custom == {"order_name": "#9999", "tags": "vip, Urgent"}
    assert order.priority == URGENT


@pytest.mark.parametrize(
    ("status", "payable", "cancelled"),
    [
        ("pending", False, False),
        ("authorized", False, False),
        ("partially_paid", False, False),
        ("paid", True, False),
        ("partially_refunded", True, False),
        ("refunded", False, True),
        ("voided", False, True),
    ],
)
def test_every_financial_status(status: str, payable: bool, cancelled: bool) -> None:
    order = parse({**shopify_order(), "financial_status": status})
    assert order is not None
    assert (order.payable, order.cancelled_at is not None) == (payable, cancelled)


def test_cancellation_has_its_reason() -> None:
    changes = {"cancelled_at": "2026-11-20T10:00:00-05:00", "cancel_reason": "customer"}
    order = parse({**shopify_order(), **changes}, "orders/cancelled")
    assert order is not None
    assert order.cancelled_at == datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
    assert order.custom["cancel_reason"] == "customer"


def test_cash_on_delivery_is_payable_while_pending() -> None:
    changes = {"financial_status": "pending", "payment_gateway_names": ["Cash on Delivery (COD)"]}
    order = parse({**shopify_order(), **changes})
    assert order is not None
    assert order.payable


def test_removed_quantities_reduce_line_and_discount() -> None:
    payload = shopify_order()
    payload["line_items"][0]["current_quantity"] = 1
    payload["line_items"][1]["current_quantity"] = 0
    order = parse(payload, "orders/updated")
    assert order is not None
    assert [(line.sku, line.quantity, line.discount) for line in order.lines] == [("A001", 1, Decimal("3.00"))]


def test_removing_all_lines_cancels_the_order() -> None:
    payload = shopify_order()
    for line in payload["line_items"]:
        line["current_quantity"] = 0
    order = parse(payload, "orders/updated")
    assert order is not None
    assert order.cancelled_at is not None


@pytest.mark.parametrize("status", ["fulfilled", "restocked"])
def test_shipped_status_is_parsed(status: str) -> None:
    order = parse({**shopify_order(), "fulfillment_status": status})
    assert order is not None
    assert order.shipped


def test_test_order_is_held() -> None:
    order = parse({**shopify_order(), "test": True})
    assert order is not None
    assert order.custom["channel_hold"] == "test"


def test_order_without_shipping_is_skipped() -> None:
    payload = shopify_order()
    for line in payload["line_items"]:
        line["requires_shipping"] = False
    assert parse(payload) is None
    assert parse(shopify_order(), "products/update") is None


def test_refund_webhook_is_a_hint() -> None:
    payload = json.dumps({"id": 1, "order_id": 820982911946154508, "refund_line_items": []}).encode()
    assert adapter(ACCOUNT).parse(payload, "refunds/create") == Hint(order_nos=("820982911946154508",))


def test_missing_address_is_an_empty_recipient() -> None:
    order = parse({**shopify_order(), "shipping_address": None})
    assert order is not None
    assert order.recipient == Recipient()


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("line_items", 0, "quantity"), "many", "line_items[0].quantity"),
        (("shipping_address", "country_code"), None, "shipping_address.country_code"),
        (("shipping_address", "city"), "x" * 2001, "shipping_address.city"),
        (("shipping_address", "city"), "x" * 201, "recipient.city"),
        (("total_price",), "-1", "total_price"),
        (("updated_at",), "2026-11-20T09:00:07", "updated_at"),
    ],
)
def test_odd_field_is_named_by_the_vendors_path(path: tuple[Any, ...], value: Any, field: str) -> None:
    payload = shopify_order()
    place: Any = payload
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    order = parse(payload)
    assert order is not None
    assert field in order.odd
    assert "x" * 201 not in str(order.odd)
