"""Carrier rules and weights through the API."""

import json
from typing import Any

import httpx
import pytest

from models.api_keys import Scope
from tests.api import bearer

RULE: dict[str, Any] = {
    "number": 10,
    "name": "far",
    "condition": "parcel.destination == '西藏'",
    "decisions": [{"do": "exclude", "carriers": ["sto"]}],
}


@pytest.fixture(autouse=True)
async def staff(api: httpx.AsyncClient) -> None:
    api.headers.update(await bearer(Scope.STAFF))


async def test_rules_are_created_changed_and_deleted(api: httpx.AsyncClient) -> None:
    (await api.put("/carriers/rules/10", json=RULE)).raise_for_status()
    (await api.put("/carriers/rules/10", json=RULE | {"name": "very far"})).raise_for_status()
    (saved,) = (await api.get("/carriers/rules")).json()
    assert (saved["name"], saved["decisions"]) == ("very far", RULE["decisions"])
    tried = await api.post("/carriers/dry-run", json={"rule": RULE, "since": "2026-01-01T00:00:00Z"})
    assert tried.json()["parcels"] == 0
    assert (await api.delete("/carriers/rules/10")).status_code == 204
    assert (await api.delete("/carriers/rules/10")).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"condition": "order.total > 1.0"}, "condition"),
        ({"decisions": []}, "decisions"),
        ({"decisions": [{"do": "favour", "carriers": ["sf"], "by": "much"}]}, "by"),
        ({"number": 11}, "number"),
    ],
)
async def test_invalid_rule_is_refused_with_its_field(
    api: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    response = await api.put("/carriers/rules/10", json=RULE | change)
    assert response.status_code == 422
    assert field in json.dumps(response.json())


async def test_weights_are_set_by_shop_and_only_by_staff(api: httpx.AsyncClient) -> None:
    assert (await api.get("/carriers/weights")).json()[""]["late"] == "30"
    weights = {"own:web": {"late": "99"}}
    saved = (await api.put("/carriers/weights", json=weights)).json()
    assert (saved["own:web"]["late"], saved["own:web"]["lost"], saved[""]["late"]) == ("99", "200", "30")
    reader = await bearer(Scope.READ)
    assert (await api.put("/carriers/weights", json=weights, headers=reader)).status_code == 403
    assert (await api.put("/carriers/weights", json={"": {"late": -1}})).status_code == 422
