"""Accounts are created, changed and deleted over HTTP; secrets are written, never returned."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from activities.accounts import accounts
from activities.accounts.declarations import adapters, fields
from activities.channels import channel
from activities.kit.database import transaction
from models.api_keys import Scope
from models.fulfillment import Shipment
from models.intake import IntegrationType
from models.policy import Policy
from starter.sandbox.accounts import Shop, open_accounts
from starter.sandbox.app import create_app as create_sandbox
from tests.api import bearer
from tests.serving import served

SHOP: dict[str, Any] = {
    "base_url": "https://shop.example.com",
    "secrets": {"secret": "hush-hush", "secret_old": "t0ken"},
    "settings": {"policy": {"grace": 60}},
}


@pytest.fixture(autouse=True)
async def staff(api: httpx.AsyncClient) -> None:
    api.headers.update(await bearer(Scope.STAFF))


async def test_account_is_created_changed_and_deleted(api: httpx.AsyncClient) -> None:
    opened = await api.put("/accounts/channel/own/web", json=SHOP)
    assert opened.json()["secrets"] == ["secret", "secret_old"]
    changed = await api.put("/accounts/channel/own/web", json={"secrets": {"secret": "new", "secret_old": ""}})
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
    "setting": {"settings": {"courier": "sto", "link_url": "https://example.org/link"}},
    "one secret of three": {"base_url": "https://example.org", "secrets": {"app_key": "new"}},
}


SHIPMENT = Shipment(
    channel_order_no="1",
    reference="r",
    carrier="sf",
    waybill_no="w",
    lines=(),
    whole_order=True,
    shipped_at=datetime(2026, 1, 1, tzinfo=UTC),
)
UNPROVEN = {"own", "app", "pos", "amazon", "yunda"}
"""Called without the required secrets: by their address alone, by an access token that still counts, or unsigned."""
CAINIAO: dict[str, Any] = {
    "base_url": "https://shop.example.com",
    "secrets": dict.fromkeys(("app_key", "app_secret", "session", "link_token", "link_secret"), "hush-hush"),
    "settings": {"courier": "sto"},
}


async def test_stored_secrets_do_not_follow_an_account_to_a_new_host(api: httpx.AsyncClient) -> None:
    for name, change in ELSEWHERE.items():
        path = f"/accounts/carrier/cainiao/{name.replace(' ', '-')}"
        assert (await api.put(path, json=CAINIAO)).status_code == 200
        refused = await api.put(path, json=change)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "secrets"), name
        assert "hush" not in refused.text
        moved = await api.put(path, json=change | {"secrets": dict.fromkeys(CAINIAO["secrets"], "new")})
        assert moved.status_code == 200


async def test_another_path_at_the_same_host_keeps_the_secrets(api: httpx.AsyncClient) -> None:
    await api.put("/accounts/channel/own/web", json=SHOP)
    moved = await api.put("/accounts/channel/own/web", json={"base_url": "https://shop.example.com:443/v2"})
    assert (moved.status_code, moved.json()["secrets"]) == (200, ["secret", "secret_old"])


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


async def test_every_adapter_refuses_unknown_missing_and_odd_fields_by_name(api: httpx.AsyncClient) -> None:
    for integration, source in adapters():
        known = fields(integration, source)
        odd = {"secrets": {"app_kee": "x"}, "settings": {"polcy": {}, "no_such_setting": 1}, "base_url": "http://a.b"}
        answer = await api.put(f"/accounts/{integration}/{source}/one", json=odd)
        assert answer.status_code == 422, (integration, source)
        named = {each["field"] for each in answer.json()["errors"]}
        missing = {f"{'secrets' if each.secret else 'settings'}.{each.name}" for each in known if each.required}
        assert named == {"secrets.app_kee", "settings.polcy", "settings.no_such_setting", *missing}, source
        whole = {each.name: "x" for each in known if each.required and each.secret}
        given = {each.name: "x" for each in known if each.required and not each.secret}
        body = {"secrets": whole, "settings": given, "base_url": "http://a.b"}
        assert (await api.put(f"/accounts/{integration}/{source}/one", json=body)).status_code == 200, source


async def test_every_field_of_a_policy_is_checked(api: httpx.AsyncClient) -> None:
    for name in Policy.model_fields:
        settings = {"policy": {f"{name}x": 1, name: {"odd": 1}}}
        answer = await api.put("/accounts/channel/own/web", json=SHOP | {"settings": settings})
        messages = {each["field"]: each["message"] for each in answer.json()["errors"]}
        assert name in messages[f"settings.policy.{name}x"]
        assert any(each.startswith(f"settings.policy.{name}") and not each.endswith("x") for each in messages)


async def test_a_shop_that_cannot_be_notified_is_declared_as_such(api: httpx.AsyncClient) -> None:
    for source in ("own", "app"):
        silent = {"secrets": {"secret": "hush-hush"}}
        refused = await api.put(f"/accounts/channel/{source}/web2", json=silent)
        assert [each["field"] for each in refused.json()["errors"]] == ["base_url"]
        declared = silent | {"settings": {"notify": False}}
        assert (await api.put(f"/accounts/channel/{source}/web2", json=declared)).status_code == 200
        with_stock = silent | {"settings": {"notify": False, "stock": {}}}
        assert (await api.put(f"/accounts/channel/{source}/web2", json=with_stock)).status_code == 422
        await channel(await accounts.get_account(IntegrationType.CHANNEL, source, "web2")).confirm_shipment(SHIPMENT)


async def test_an_account_takes_the_address_of_its_vendor(api: httpx.AsyncClient) -> None:
    opened = await api.put("/accounts/carrier/sf/default", json={"secrets": {"partner_id": "x", "check_word": "y"}})
    assert opened.json()["base_url"] == "https://bspgw.sf-express.com"


async def test_every_adapter_describes_its_account_in_both_languages(api: httpx.AsyncClient) -> None:
    english, chinese = [
        (await api.get("/accounts/adapters", headers={"accept-language": lang})).json() for lang in ("en", "zh-CN")
    ]
    assert len(english) == len(adapters()) > 25
    for one, other in zip(english, chinese, strict=True):
        assert one["console"] != other["console"]
        texts = [(a["text"], b["text"]) for a, b in zip(one["fields"], other["fields"], strict=True)]
        assert all(a != b and not (a + b).startswith("account.") for a, b in texts)


async def test_one_call_shows_whether_an_account_works(api: httpx.AsyncClient) -> None:
    """Of every channel, carrier and warehouse system of the sandbox, with right secrets and with wrong ones."""
    sources = [source for integration, source in adapters() if integration is IntegrationType.CHANNEL]
    await api.delete("/accounts/channel/own/web")
    with served(create_sandbox()) as sandbox:
        async with transaction() as connection:
            await open_accounts(connection, sandbox, [Shop(channel=source, name="web2") for source in sources])
        accounts.clear_cache()
        wrong = {}
        opened = (await api.get("/accounts")).json()
        for each in opened:
            path = f"/accounts/{each['integration']}/{each['source']}/{each['account']}"
            if (works := await api.post(f"{path}/test")).status_code != 200:
                wrong[path] = works.text
        assert wrong == {}
        for each in opened:
            path = f"/accounts/{each['integration']}/{each['source']}/{each['account']}"
            needed = {f.name for f in fields(each["integration"], each["source"]) if f.secret and f.required}
            key = (IntegrationType(each["integration"]), each["source"], each["account"])
            async with transaction() as connection:
                await accounts.save(connection, *key, None, dict.fromkeys(needed, "wrong"), None)
            failed = await api.post(f"{path}/test")
            if failed.status_code not in (409, 502) and each["source"] not in UNPROVEN:
                wrong[path] = failed.text
        assert wrong == {}
