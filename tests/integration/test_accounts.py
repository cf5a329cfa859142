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


ELSEWHERE: dict[str, dict[str, Any]] = {
    "host": {"base_url": "https://shop.example.org"},
    "host behind a user": {"base_url": "https://shop.example.com@example.org"},
    "port": {"base_url": "https://shop.example.com:8443"},
    "scheme": {"base_url": "http://shop.example.com"},
    "setting": {"settings": {"oauth_url": "https://example.org/token"}},
    "one secret of two": {"base_url": "https://example.org", "secrets": {"secret": "new"}},
}


async def test_stored_secrets_do_not_follow_an_account_to_a_new_host(api: httpx.AsyncClient) -> None:
    for name, change in ELSEWHERE.items():
        assert (await api.put(f"/accounts/carrier/sf/{name.replace(' ', '-')}", json=SHOP)).status_code == 200
        path = f"/accounts/carrier/sf/{name.replace(' ', '-')}"
        refused = await api.put(path, json=change)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "secrets"), name
        assert "hush" not in refused.text
        moved = await api.put(path, json=change | {"secrets": {"secret": "new", "token": ""}})
        assert (moved.status_code, moved.json()["secrets"]) == (200, ["secret"])


async def test_another_path_at_the_same_host_keeps_the_secrets(api: httpx.AsyncClient) -> None:
    await api.put("/accounts/channel/own/web", json=SHOP)
    moved = await api.put("/accounts/channel/own/web", json={"base_url": "https://shop.example.com:443/v2"})
    assert (moved.status_code, moved.json()["secrets"]) == (200, ["secret", "token"])


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
