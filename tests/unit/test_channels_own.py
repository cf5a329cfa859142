"""The format of own sites and counters: signature and time, schema, identity of facts."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from time import time
from typing import Any

import jsonschema
import pytest

from activities.channels import own, pos
from activities.channels.own import OwnOrder
from activities.channels.pos import PosOrder
from activities.kit import signing
from activities.kit.errors import Unauthentic, Unintelligible
from models.intake import Account, IntegrationType
from models.order import NORMAL, URGENT
from models.origins import ChannelKind
from tests.unit.payloads import own_order, pos_order

SITE = own.adapter(
    Account(
        integration=IntegrationType.CHANNEL,
        source="own",
        account="site",
        secrets={"secret": "new", "secret_old": "old"},
    )
)
TILL = pos.adapter(Account(integration=IntegrationType.CHANNEL, source="pos", account="tills"))


def encoded(order: dict[str, Any]) -> bytes:
    return json.dumps(order, ensure_ascii=False).encode()


def headers(body: bytes, secret: str = "new", at: float | None = None) -> dict[str, str]:
    timestamp = str(int(time() if at is None else at))
    return {"hengdan-timestamp": timestamp, "hengdan-signature": signing.sign(secret, timestamp, body)}


def test_signature_matches_other_implementations() -> None:
    expected = "v1=91dff526ea91625b2c0961f314dff62fe9b019efa5f0994fae77116a93f588b3"
    assert signing.sign("test", "1700000000", b"{}") == expected


@pytest.mark.parametrize("secret", ["new", "old"])
def test_both_secrets_are_valid_during_rotation(secret: str) -> None:
    body = encoded(own_order())
    receipt = SITE.receive(headers(body, secret), body)
    assert (receipt.fact_key, receipt.priority) == ("evt_1", URGENT)


def test_one_matching_signature_is_enough() -> None:
    given = headers(b"{}")
    given["hengdan-signature"] = "v1=00 " + given["hengdan-signature"]
    assert SITE.receive(given, b"{}")


@pytest.mark.parametrize(
    "given",
    [
        headers(b"{}", "guess"),
        headers(b"{} "),
        headers(b"{}", ""),
        headers(b"{}", at=time() - 301),
        headers(b"{}", at=time() + 86_400),  # a parameter is made when tests are collected, long before they run
        {**headers(b"{}"), "hengdan-timestamp": "9" * 400},
        {**headers(b"{}"), "hengdan-timestamp": "soon"},
        {**headers(b"{}"), "hengdan-signature": "v1=é"},
        {},
    ],
)
def test_unsigned_altered_and_stale_messages_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(Unauthentic):
        SITE.receive(given, b"{}")


def test_cleansing_results_in_an_address_are_ignored() -> None:
    payload = own_order()
    payload["recipient"] |= {"confidence": "1", "division": "310115", "doubt": "none", "told": "nothing"}
    order = SITE.parse(encoded(payload), "order")
    assert order is not None
    assert (order.recipient.confidence, order.recipient.division, order.recipient.told) == (None, "", "")


def test_order_of_the_site_is_parsed() -> None:
    order = SITE.parse(encoded(own_order()), "order")
    assert order is not None
    assert order.order_id == "order:own:site:W10001"
    assert order.paid_at == datetime(2026, 11, 20, 4, 0, 5, tzinfo=UTC)
    assert order.promised_by == datetime(2026, 11, 23, 10, tzinfo=UTC)
    assert [(line.line_no, line.discount) for line in order.lines] == [("a", Decimal(10)), ("b", Decimal(0))]
    assert (order.priority, order.carrier, order.buyer_message) == (URGENT, "sf", "生日礼物")
    assert order.custom == {"gift_wrap": True, "engraving": {"font": "kai"}}
    assert (order.origin.kind, order.origin.campaign) == (ChannelKind.OWN_SITE, "double11")


def test_lines_without_numbers_are_numbered() -> None:
    payload = own_order()
    for line in payload["lines"]:
        line.pop("line_no")
    order = SITE.parse(encoded(payload), "order")
    assert order is not None
    assert [line.line_no for line in order.lines] == ["1", "2"]


def test_cancelled_and_unpaid() -> None:
    payload = own_order() | {"cancelled_at": "2026-11-20T13:00:00+08:00", "cancel_reason": "changed my mind"}
    del payload["paid_at"]
    order = SITE.parse(encoded(payload), "order")
    assert order is not None
    assert not order.payable
    assert (order.cancelled_at, order.custom["cancel_reason"]) == (
        datetime(2026, 11, 20, 5, tzinfo=UTC),
        "changed my mind",
    )


def test_total_mismatch_is_recorded() -> None:
    order = SITE.parse(encoded(own_order() | {"total": "168.00"}), "order")
    assert order is not None
    assert (order.total, order.custom["total_mismatch"]) == (Decimal("168.00"), "0.60")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lines": []}, "lines"),
        ({"lines": [{"sku": "A", "quantity": 0, "unit_price": "1"}]}, "lines"),
        ({"lines": [{"sku": "A", "quantity": 0.5, "unit_price": "1"}]}, "lines[0].quantity"),
        ({"recipient": {"country": "China"}}, "recipient.country"),
        ({"placed_at": "2026-11-20T12:00:00"}, "placed_at"),
        ({"paidat": "2026-11-20T12:00:00Z"}, "paidat"),
        ({"updated_at": "0001-01-01T00:00:00+08:00"}, "updated_at"),
    ],
)
def test_odd_field_is_named_in_the_order(change: dict[str, Any], field: str) -> None:
    order = SITE.parse(encoded(own_order() | change), "order")
    assert order is not None
    assert field in order.odd


def test_order_without_a_readable_number_is_refused() -> None:
    with pytest.raises(Unintelligible) as caught:
        SITE.parse(encoded(own_order() | {"order_no": "a b"}), "order")
    assert caught.value.field == "order_no"


def test_nul_characters_are_removed() -> None:
    order = SITE.parse(encoded(own_order() | {"custom": {"x": "a\x00b"}, "buyer_message": "\x00"}), "order")
    assert order is not None
    assert (order.custom["x"], order.buyer_message) == ("ab", "")


def test_published_schema_accepts_what_we_accept() -> None:
    for model, example in ((OwnOrder, own_order()), (PosOrder, pos_order())):
        schema = model.model_json_schema()
        jsonschema.validate(example, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(example | {"unheard_of": 1}, schema)


def test_counter_sale_is_paid_and_named_by_its_receipt() -> None:
    order = TILL.parse(encoded(pos_order()), "sale")
    assert order is not None
    assert order.order_id == "order:pos:tills:SH-01-T2-000317"
    assert order.payable
    assert (order.origin.kind, order.origin.shop) == (ChannelKind.STORE, "SH-01")
    assert (order.custom["terminal"], order.custom["receipt_no"]) == ("T2", "000317")


def test_replayed_counter_sale_is_the_same_fact() -> None:
    first = TILL.receive({}, encoded(pos_order()))
    replay = TILL.receive({}, encoded(pos_order() | {"custom": {"replayed": True}}))
    other = TILL.receive({}, encoded(pos_order() | {"terminal": "T3"}))
    cancelled = TILL.receive({}, encoded(pos_order() | {"cancelled_at": "2026-11-20T14:00:00+08:00"}))
    assert first.fact_key == replay.fact_key
    assert len({first.fact_key, other.fact_key, cancelled.fact_key}) == 3


def test_unreadable_message_gets_a_receipt() -> None:
    for body in (b"\xff", b"[]", b'{"event_id": 7}'):
        assert TILL.receive({}, body).priority == NORMAL
        assert SITE.receive(headers(body), body).fact_key
