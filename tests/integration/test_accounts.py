"""Accounts are created, changed and deleted over HTTP; secrets are written, never returned."""

from typing import Any

import httpx
import pytest

from activities.accounts import accounts
from models.api_keys import Scope
from models.intake import IntegrationType
from tests.api import bearer

SHOP: dict[str, Any] = {
    "base_url": "https://shop.example.com",
    "secrets": {"secret": "hush-hush", "token": "t0ken"},
    "settings": {"policy": {"grace": 60}},
}


@pytest.fixture(autouse=True)
async def staff(api: httpx.AsyncClient) -> None:
    api.headers.update(await bearer(Scope.STAFF))


async def test_account_is_created_changed_and_deleted(api: httpx.AsyncClient) -> None:
    opened = await api.put("/accounts/channel/own/web", json=SHOP)
    assert opened.json()["secrets"] == ["secret", "token"]
    changed = await api.put("/accounts/channel/own/web", json={"secrets": {"secret": "new", "token": ""}})
    assert changed.json() == opened.json() | {"secrets": ["secret"]}
    held = await accounts.get_account(IntegrationType.CHANNEL, "own", "web")
    assert (held.secrets, held.settings["policy"]) == ({"secret": "new"}, {"grace": 60})
    listed = await api.get("/accounts", params={"integration": "channel"})
    assert listed.json() == [changed.json()]
    assert "hush" not in opened.text + listed.text
    assert (await api.delete("/accounts/channel/own/web")).status_code == 204
    assert (await api.delete("/accounts/channel/own/web")).status_code == 404


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        ("channel/pigeon/web", {}, "source"),
        ("stock/own/web", {}, "integration"),
        ("warehouse/own/SH", {}, "source"),
        ("carrier/sf/default", {"base_url": "sf.example.com"}, "base_url"),
    ],
)
async def test_invalid_account_is_refused(
    api: httpx.AsyncClient, path: str, change: dict[str, Any], field: str
) -> None:
    answer = await api.put(f"/accounts/{path}", json=SHOP | change)
    assert (answer.status_code, field in answer.text) == (422, True)


async def test_read_scope_sees_no_accounts(api: httpx.AsyncClient) -> None:
    assert (await api.get("/accounts", headers=await bearer(Scope.READ))).status_code == 403
