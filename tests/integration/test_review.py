"""Review rules, set through the API and applied to real orders."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from activities.catalogue import exchange_rates
from activities.kit.database import transaction
from activities.orders import steps
from activities.orders.review import rules
from activities.orders.steps import OrderTask
from models.api_keys import Scope
from models.hold import HoldKind
from models.intake import ChannelOrderRow
from models.order import OrderStatus
from models.policy import Policy
from models.state import OrderState
from models.vault import seal_row
from starter.sandbox.merchant import seed
from tests.api import bearer
from tests.integration.books import admitted, cancelled, now, receive, sql
from tests.unit.orders import RECIPIENT, an_order, line

SINCE = "2020-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
async def stock(api: httpx.AsyncClient) -> None:
    api.headers.update(await bearer(Scope.STAFF, name="mei"))
    rules.clear_cache()
    async with transaction() as connection:
        await seed(connection)
    for warehouse in ("SH", "GZ"):
        for sku in ("A001", "B006"):
            await receive(warehouse, sku, 10)


def rule(condition: str, *decisions: dict[str, Any], number: int = 10, **more: Any) -> dict[str, Any]:
    held = ({"do": "hold", "reason": "look at it"},)
    return {"number": number, "name": "ours", "condition": condition, "decisions": decisions or held} | more


async def put(api: httpx.AsyncClient, *given: dict[str, Any]) -> None:
    for each in given:
        answer = await api.put(f"/review/rules/{each['number']}", json=each)
        assert answer.status_code == 200, answer.text


async def held(number: str, *lines: Any, **changes: Any) -> list[str]:
    """Return the reasons of the holds of a new order."""
    return [each.reason for each in (await admitted(number, *lines, **changes)).holds]


async def view(api: httpx.AsyncClient, state: OrderState) -> Any:
    return (await api.get(f"/orders/{state.order.order_id}")).json()


async def save_documents(*states: OrderState) -> None:
    """Save the channel's documents of orders, as the dispatcher does."""
    async with transaction() as connection:
        for state in states:
            row = {"order_id": state.order.order_id, "modified_at": now(), "document": state.order}
            await connection.execute(insert(ChannelOrderRow).values(seal_row(ChannelOrderRow, row)))


async def test_a_hold_names_its_rule_and_facts(api: httpx.AsyncClient) -> None:
    await put(api, rule("order.total > 200 && lines.exists(l, l.quantity >= 5)"))
    clean = await admitted("1")
    assert (clean.status, clean.holds) == (OrderStatus.ALLOCATED, [])
    assert [each["what"] for each in (await view(api, clean))["timeline"]] == [
        "timeline.received",
        "timeline.allocated",
    ]
    dear = await admitted("2", line(1, "A001", 5, "60"))
    assert (dear.status, dear.active) == (OrderStatus.IN_REVIEW, [])
    shown = await view(api, dear)
    assert [(each["reason"], each["stage"], each["rule"]) for each in shown["holds"]] == [("look at it", "service", 10)]
    applied = next(each for each in shown["timeline"] if each["what"] == "timeline.review.applied")
    assert applied["detail"]["values"] == {"order.total": 300.0, "lines": [{"quantity": 5}]}
    assert "Rule 10 ours: hold service (" in applied["text"]


async def test_of_a_remark_only_the_matched_words_are_recorded(api: httpx.AsyncClient) -> None:
    await put(api, rule("['加急', '发票'].exists(w, remarks.buyer_message.contains(w))"))
    state = await admitted("1", buyer_message="请开发票，我叫王小明 13812345678")
    values = next(each["detail"] for each in (await view(api, state))["timeline"] if "review" in each["what"])["values"]
    assert values == {"remarks.buyer_message": ["发票"]}
    assert "王小明" not in str(await sql("SELECT detail FROM timeline"))


async def test_approval_overrides_later_rules_and_the_shops_limits(api: httpx.AsyncClient) -> None:
    approve = rule("'vip' in order.custom", {"do": "approve"}, {"do": "tag", "tags": ["VIP"]}, number=1)
    await put(api, approve, rule("order.total > 10"))
    assert await held("1", line(1, "A001", 1, "9000")) == ["look at it", "hold.review.amount"]
    state = await admitted("2", line(1, "A001", 1, "9000"), custom={"vip": True})
    assert (state.holds, state.order.tags) == ([], ("VIP",))
    assert [each["id"] for each in (await api.get("/orders", params={"tag": "VIP"})).json()["items"]] == [
        state.order.order_id
    ]


async def test_a_rejected_order_allocates_nothing(api: httpx.AsyncClient) -> None:
    await put(api, rule("order.total > 10", {"do": "reject", "reason": "not to us"}))
    state = await admitted("1")
    assert (state.status, state.active) == (OrderStatus.REJECTED, [])
    assert (await view(api, state))["status"] == "rejected"


async def test_a_rule_sets_priority_carrier_warehouse_and_gift(api: httpx.AsyncClient) -> None:
    chosen = [
        {"do": "priority", "priority": 1},
        {"do": "carrier", "carrier": "yto"},
        {"do": "warehouse", "locations": ["GZ"]},
        {"do": "gift", "sku": "B006"},
    ]
    await put(api, rule("order.quantity >= 2", *chosen))
    state = await admitted("1", line(1, "A001", 2))
    (parcel,) = state.active
    assert (parcel.warehouse, [(each.line_no, each.sku) for each in parcel.lines]) == (
        "GZ",
        [("1", "A001"), ("gift:10", "B006")],
    )
    assert (state.order.priority, state.order.carrier, state.order.total) == (1, "yto", Decimal(100))
    row = (await sql("SELECT priority, carrier, lines, sites FROM orders"))[0]
    assert (row.priority, row.carrier, len(row.lines), row.sites["locations"]) == (1, "yto", 2, ["GZ"])


async def test_the_plan_names_the_only_allowed_warehouse(api: httpx.AsyncClient) -> None:
    await put(api, rule("order.total > 0", {"do": "warehouse", "locations": ["BJ"], "only": True}))
    state = await admitted("1")
    assert (state.active, [each.sku for each in state.shortages]) == ([], ["A001"])
    plan = (await view(api, state))["plan"]
    assert {each["warehouse"]: each["reason"] for each in plan["candidates"]}["SH"] == "plan.limited"


async def test_a_delay_extends_the_grace_period(api: httpx.AsyncClient) -> None:
    await put(api, rule("order.total > 10", {"do": "delay", "minutes": 30}))
    state = await admitted("1")
    assert (state.status, state.active) == (OrderStatus.APPROVED, [])
    assert state.grace_until is not None
    assert timedelta(minutes=29) < state.grace_until - datetime.now(UTC) <= timedelta(minutes=30)
    longer = await admitted("2", policy=Policy(grace=3600))
    assert longer.grace_until is not None
    assert longer.grace_until - datetime.now(UTC) > timedelta(minutes=59)


async def test_a_failing_rule_holds_the_order_and_is_named(api: httpx.AsyncClient) -> None:
    await put(api, rule("has(order.custom.age) && order.custom.age > 17"))
    assert await held("1") == []
    state = await admitted("2", custom={"age": "grown up"})
    assert [(each.kind, each.reason, each.rule) for each in state.holds] == [
        (HoldKind.REVIEW, "hold.review.rule_failed", 10)
    ]
    assert "could not be answered" in str((await view(api, state))["timeline"])


async def test_simultaneous_orders_are_counted_in_the_order_placed(api: httpx.AsyncClient) -> None:
    await put(api, rule("buyer.orders_24h >= 3"))
    orders = [an_order(str(number), buyer="u1", placed_at=now() - timedelta(minutes=number)) for number in range(5)]
    asked = [
        OrderTask(state=OrderState(order=each, policy=Policy(), revision=1), at=now(), new=True) for each in orders
    ]
    async with transaction() as connection:
        answers = await steps.process_tasks(connection, asked)
    assert [bool(answer.holds) for answer in answers] == [True, True, False, False, False]


async def test_velocity_counts_the_buyers_earlier_orders(api: httpx.AsyncClient) -> None:
    await put(api, rule("buyer.known && buyer.orders_24h >= 2"))
    assert await held("1", buyer="u1") == []
    assert await held("2", buyer="u1") == []
    assert await held("other", buyer="u2") == []
    assert await held("3", buyer="u1") == ["look at it"]
    assert await held("past", buyer="u1", placed_at=now() - timedelta(days=2)) == []
    assert await held("nobody") == []


async def test_history_counts_spending_cancellations_and_first_orders(api: httpx.AsyncClient) -> None:
    first = await admitted("1", line(1, "A001", 2), buyer="u1")
    await cancelled(await admitted("2", line(1, "A001", 3), buyer="u1"))
    await put(api, rule("!buyer.first_order && buyer.spent_30d == 100.0 && buyer.cancelled_30d == 1"))
    assert first.holds == []
    assert await held("3", buyer="u1") == ["look at it"]
    assert await held("4", buyer="u9") == []


async def test_accounts_are_counted_by_phone_and_by_address(api: httpx.AsyncClient) -> None:
    await put(api, rule("buyer.accounts_at_recipient >= 3"))
    elsewhere = RECIPIENT.model_copy(update={"phone": "13900000001"})
    assert await held("1", buyer="u1") == []
    assert await held("2", buyer="u1") == []
    assert await held("3", buyer="u2", recipient=elsewhere) == []
    assert await held("4", buyer="u3", recipient=elsewhere) == ["look at it"]
    far = elsewhere.model_copy(update={"phone": "13900000002", "street": "长乐路1号"})
    assert await held("5", buyer="u4", recipient=far) == []


async def test_the_blacklist_matches_without_personal_data(api: httpx.AsyncClient) -> None:
    await put(api, rule("risk.blacklisted"))
    blocked = {"kind": "phone", "value": "+86 138 1234 5678", "reason": "refused thrice"}
    entry = (await api.post("/review/blacklist", json=blocked)).json()
    assert (entry["hint"][-4:], entry["added_by"]) == ("5678", "mei")
    assert "13812345678" not in str(await sql("SELECT * FROM blacklist"))
    state = await admitted("1", buyer="u1")
    assert [each.reason for each in state.holds] == ["look at it"]
    assert (await api.delete(f"/review/blacklist/phone/{entry['id']}")).status_code == 204
    assert (await api.delete(f"/review/blacklist/phone/{entry['id']}")).status_code == 404
    assert await held("2", buyer="u1") == []
    for kind in ("buyer", "address"):
        given = {"kind": kind, "order_id": state.order.order_id}
        entry = (await api.post("/review/blacklist", json=given)).json()
        assert await held(f"{kind}1", buyer="u1") == ["look at it"]
        (await api.delete(f"/review/blacklist/{kind}/{entry['id']}")).raise_for_status()
    late = blocked | {"until": (now() - timedelta(hours=1)).isoformat()}
    (await api.post("/review/blacklist", json=late)).raise_for_status()
    assert await held("3", buyer="u1") == []


async def test_the_blacklist_takes_national_phones_of_a_country(api: httpx.AsyncClient) -> None:
    spellings = {
        "US": ("(415) 555-0100", "415.555.0100", "+1 415 555 0100"),
        "GB": ("020 7946 0018", "+442079460018"),
        "HK": ("2123 4567", "00852 2123 4567"),
    }
    for country, values in spellings.items():
        given = [{"kind": "phone", "value": value, "country": country} for value in values]
        entries = [(await api.post("/review/blacklist", json=each)).json()["id"] for each in given]
        assert len(set(entries)) == 1, country


@pytest.mark.parametrize(
    "invalid",
    [
        {"kind": "phone", "value": "138****5678"},
        {"kind": "phone"},
        {"kind": "buyer", "value": "u1"},
        {"kind": "face", "value": "x"},
    ],
)
async def test_the_blacklist_refuses_invalid_entries(api: httpx.AsyncClient, invalid: dict[str, str]) -> None:
    assert (await api.post("/review/blacklist", json=invalid)).status_code == 422


async def test_prices_and_stock_are_looked_up(api: httpx.AsyncClient) -> None:
    await put(
        api, rule("amounts.below_list > 0.9", number=1), rule("stock.short_skus.exists(s, s == 'A001')", number=2)
    )
    assert await held("1", line(1, "A001", 1, "0.01")) == ["look at it"]
    state = await admitted("2", line(1, "A001", 21, "200"))
    assert [each.rule for each in state.holds] == [2]


async def test_a_modified_order_is_reviewed_again(api: httpx.AsyncClient) -> None:
    big = rule("order.quantity >= 5", {"do": "hold", "reason": "many"}, {"do": "gift", "sku": "B006"}, number=1)
    await put(api, big)
    state = await admitted("1", line(1, "A001", 5))
    assert [each.line_no for each in state.order.lines] == ["1", "gift:1"]
    smaller = state.model_copy(update={"order": state.order.with_quantities({"1": 1})})
    revised = await steps.review_modified_order(smaller, now())
    assert (revised.holds, [each.line_no for each in revised.order.lines]) == ((), ["1"])
    again = await steps.review_modified_order(
        state.model_copy(update={"order": revised.order.with_quantities({"1": 9})}), now()
    )
    assert [each.reason for each in again.holds] == ["many"]
    assert [each.line_no for each in again.order.lines] == ["1"]


async def test_a_dry_run_reports_the_effect_and_changes_nothing(api: httpx.AsyncClient) -> None:
    states = [await admitted(str(number), line(1, "A001", 1, f"{number}00"), buyer="u1") for number in range(1, 6)]
    await save_documents(*states)
    before = await sql("SELECT id, status, holds, revision FROM orders ORDER BY id")
    asked = {"rule": rule("order.total >= 300 && buyer.orders_30d >= 1"), "since": SINCE}
    ran = (await api.post("/review/dry-run", json=asked)).json()
    assert (ran["total"], ran["orders"], ran["applied"], ran["decisions"]) == (5, 5, 3, {"hold": 3})
    assert ran["examples"][0] == {
        "order_id": states[2].order.order_id,
        "status": "allocated",
        "values": {"order.total": 300.0, "buyer.orders_30d": 2},
        "failure": "",
    }
    assert (ran["next"], ran["of_now"]) == (None, [])
    paged, cursor = 0, None
    for left in (5, 3, 1):
        page = (await api.post("/review/dry-run", json=asked | {"limit": 2, "cursor": cursor})).json()
        assert page["total"] == left
        paged, cursor = paged + page["applied"], page["next"]
    assert (paged, cursor) == (3, None)
    assert await sql("SELECT id, status, holds, revision FROM orders ORDER BY id") == before
    assert (await api.get("/review/rules")).json() == []
    other = asked | {"rule": rule("stock.all_available", shops=["taobao:x"])}
    ran = (await api.post("/review/dry-run", json=other)).json()
    assert (ran["total"], ran["of_now"]) == (0, ["stock"])
    assert (await api.post("/review/dry-run", json=asked | {"cursor": "?"})).status_code == 422


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"condition": "order.totl > 5"}, "condition"),
        ({"condition": "order.total"}, "condition"),
        ({"condition": "recipient.phone == '1'"}, "condition"),
        ({"condition": "lines.all(a, lines.all(b, lines.all(c, true)))"}, "condition"),
        ({"condition": "x" * 1001}, "condition"),
        ({"decisions": [{"do": "gift", "sku": "nope"}]}, "decisions"),
        ({"decisions": [{"do": "warehouse", "locations": ["nope"]}]}, "decisions"),
        ({"decisions": []}, "decisions"),
        ({"decisions": [{"do": "tag", "tags": ["a"]}, {"do": "tag", "tags": ["b"]}]}, "decisions"),
        ({"number": 11}, "number"),
    ],
)
async def test_an_invalid_rule_is_refused_with_its_field(
    api: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    answer = await api.put("/review/rules/10", json=rule("true") | changes)
    assert (answer.status_code, field in answer.json()["errors"][0]["field"]) == (422, True), answer.text


async def test_only_staff_change_rules(api: httpx.AsyncClient) -> None:
    reader = await bearer(Scope.READ)
    assert (await api.put("/review/rules/10", json=rule("true"), headers=reader)).status_code == 403
    assert (await api.post("/review/check", json={"condition": "order.paid"}, headers=reader)).json()["ok"]
    await put(api, rule("true"))
    assert (await api.delete("/review/rules/10")).status_code == 204
    assert (await api.delete("/review/rules/10")).status_code == 404


async def test_history_indexes_are_not_readable(api: httpx.AsyncClient) -> None:
    """History is compared by blind indexes."""
    await admitted("1", buyer="secret-account")
    assert "secret-account" not in str(await sql("SELECT buyer_index, place_index FROM orders"))
    assert an_order().recipient.street not in str(await sql("SELECT * FROM orders"))


async def test_an_amount_in_another_currency_waits_for_its_rate(api: httpx.AsyncClient) -> None:
    """JPY 6000 is no more than 5000 in the home currency, and without a rate nobody knows."""
    exchange_rates.clear_cache()
    yen = {"currency": "KRW", "buyer": "kim"}
    await put(api, rule("order.total > 400.0 || buyer.spent_30d > 250.0"))
    state = await admitted("1", line(1, "A001", 1, "6000"), **yen)
    assert {(each.reason, each.rule) for each in state.holds} == {
        ("hold.review.no_rate", 10),
        ("hold.review.no_rate", None),
    }
    assert "KRW" in str((await view(api, state))["holds"])
    content = "currency,base,day,rate\nKRW,CNY,2020-01-01,0.05\n"
    answer = await api.post("/files/exchange_rates", content=content, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    (told,) = await sql("SELECT order_id, topic FROM inbox WHERE integration = 'internal'")
    assert (told.order_id, told.topic) == (state.order.order_id, "mapped")
    revised = await steps.remap_and_review(state, now())
    assert [(each.reason, each.rule) for each in revised.holds] == []
    assert await held("2", line(1, "A001", 1, "6000"), **(yen | {"buyer": "lee"})) == []
    assert await held("3", line(1, "A001", 1, "9000"), **(yen | {"buyer": "lee"})) == ["look at it"]
    assert await held("4", line(1, "A001", 1, "1"), currency="CNY", buyer="kim") == ["look at it"]
    await sql("UPDATE exchange_rates SET rate = 1 WHERE currency = 'KRW'")
    exchange_rates.clear_cache()
    assert "hold.review.amount" in await held("5", line(1, "A001", 1, "6000"), **(yen | {"buyer": "park"}))
