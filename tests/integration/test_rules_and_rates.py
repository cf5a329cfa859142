"""Routing rules and rates, through the API and applied to real orders."""

from decimal import Decimal
from typing import Any

import httpx
import pytest

from activities.allocation import rules_and_rates
from activities.kit.database import transaction
from models.api_keys import Scope
from models.hold import HoldKind
from models.policy import Policy
from models.state import OrderState
from starter.sandbox.merchant import seed
from tests.api import bearer
from tests.integration.books import admitted, allocated, receive, sql
from tests.unit.orders import line

RULE = {"number": 10, "name": "no Shanghai", "action": {"do": "exclude", "locations": ["SH"]}}


@pytest.fixture(autouse=True)
async def stock(api: httpx.AsyncClient) -> None:
    api.headers.update(await bearer(Scope.STAFF))
    rules_and_rates.clear_cache()
    async with transaction() as connection:
        await seed(connection)
    for warehouse in ("SH", "GZ"):
        await receive(warehouse, "A001", 10)
        await receive(warehouse, "B006", 10)


async def put(api: httpx.AsyncClient, rule: dict[str, Any]) -> None:
    (await api.put(f"/plan/rules/{rule['number']}", json=rule)).raise_for_status()
    rules_and_rates.clear_cache()


def warehouses(state: OrderState) -> list[str]:
    return [each.warehouse for each in state.active]


async def test_rule_is_tried_before_it_applies(api: httpx.AsyncClient) -> None:
    request = {"lines": [{"sku": "A001"}], "province": "上海"}
    before = (await api.post("/plan/try", json=request)).json()
    assert [load["warehouse"] for load in before["plan"]["loads"]] == ["SH"]
    await put(api, RULE)
    after = (await api.post("/plan/try", json=request, headers={"Accept-Language": "zh-CN"})).json()
    assert [load["warehouse"] for load in after["plan"]["loads"]] == ["GZ"]
    assert [each["name"] for each in after["plan"]["rules"]] == ["no Shanghai"]
    assert "no Shanghai" in next(each["reason"] for each in after["reasons"] if each["warehouse"] == "SH")
    assert warehouses(await admitted("1")) == ["GZ"]
    known = (await api.post("/plan/try", json={"order_id": "order:own:web:1"})).json()
    assert [load["warehouse"] for load in known["plan"]["loads"]] == ["GZ"]
    assert (await api.delete("/plan/rules/10")).status_code == 204
    assert (await api.delete("/plan/rules/10")).status_code == 404
    rules_and_rates.clear_cache()
    assert warehouses(await admitted("2")) == ["SH"]


async def test_asking_rule_holds_the_order_until_approved(api: httpx.AsyncClient) -> None:
    big = [{"field": "quantity", "op": "gte", "value": 5}]
    await put(api, {"number": 1, "name": "big", "condition": big, "action": {"do": "ask", "reason": "a reseller?"}})
    assert warehouses(await admitted("1")) == ["SH"]
    held = await admitted("2", line(1, "A001", 5))
    assert (held.active, [(each.kind, each.reason) for each in held.holds]) == ([], [(HoldKind.REVIEW, "a reseller?")])
    held.holds = []
    await allocated(held)
    assert warehouses(held) == ["SH"]


async def test_rule_sets_the_queue_and_a_full_warehouse_is_skipped(
    api: httpx.AsyncClient,
) -> None:
    await put(api, {"number": 1, "name": "gifts", "shops": ["own:web"], "action": {"do": "queue", "name": "gifts"}})
    await sql("UPDATE warehouses SET capacity = 1 WHERE code = 'SH'")
    assert warehouses(await admitted("1")) == ["SH"]
    assert warehouses(await admitted("2")) == ["GZ"]
    assert [row.queue for row in await sql("SELECT queue FROM fulfillments ORDER BY id")] == ["gifts", "gifts"]


async def test_order_out_of_reach_raises_an_alert_and_waits(api: httpx.AsyncClient) -> None:
    await put(api, {"number": 1, "name": "whole", "action": {"do": "split", "split": "never"}})
    await sql("UPDATE warehouses SET areas = '[\"西藏\"]' WHERE code IN ('GZ', 'SH')")
    far = await admitted("1")
    assert (far.status, [each.kind for each in far.exceptions]) == ("awaiting_stock", ["out_of_reach"])
    await sql("UPDATE warehouses SET areas = '[]'")
    whole = await admitted("2", line(1, "A001", 15))
    assert (whole.status, [each.kind for each in whole.exceptions]) == ("awaiting_stock", ["out_of_reach"])
    short = await admitted("3", line(1, "A001", 25))
    assert (short.status, short.exceptions) == ("awaiting_stock", [])


async def test_lowest_freight_wins_if_the_objective_says_so(api: httpx.AsyncClient) -> None:
    table = [
        {"carrier": "sf", "origin": "上海", "first_price": "12", "further_price": "2"},
        {"carrier": "sf", "origin": "广东", "first_price": "10", "further_price": "4"},
    ]
    assert (await api.put("/plan/rates/sf", json=table)).json() == {"rates": 2}
    rules_and_rates.clear_cache()
    cheap = Policy(objective=("lowest_cost",))
    assert warehouses(await admitted("1", policy=cheap)) == ["GZ"]
    assert warehouses(await admitted("2", line(1, "B006", 1), policy=cheap)) == ["SH"]  # 2.65 kg: 16 against 18
    assert warehouses(await admitted("3", policy=Policy(objective=("nearest",)))) == ["SH"]
    request = {"lines": [{"sku": "B006"}], "province": "上海", "objective": ["lowest_cost"]}
    tried = (await api.post("/plan/try", json=request)).json()
    costs = {each["warehouse"]: Decimal(each["cost"]) for each in tried["reasons"] if each["cost"]}
    assert (costs["SH"], costs["GZ"]) == (Decimal(16), Decimal(18))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"condition": [{"field": "mood", "op": "eq", "value": "x"}]}, "condition.0.field"),
        ({"condition": [{"field": "total", "op": "gte", "value": "much"}]}, "condition.0.value"),
        ({"action": {"do": "explode"}}, "action"),
        ({"number": 11}, "number"),
    ],
)
async def test_invalid_rule_is_refused_by_name(api: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    answer = await api.put("/plan/rules/10", json=RULE | change)
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == [field]


async def test_invalid_trial_is_refused(api: httpx.AsyncClient) -> None:
    for request, status in (({}, 422), ({"order_id": "order:own:web:nobody"}, 404), ({"lines": [{"sku": "nix"}]}, 422)):
        assert (await api.post("/plan/try", json=request)).status_code == status
