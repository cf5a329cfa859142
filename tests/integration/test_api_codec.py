"""The codec server, called as by the Temporal UI and command line."""

from typing import Any

import httpx
import pytest
import structlog
from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import Payloads
from temporalio.client import Client

from activities.accounts.api_keys import revoke_key
from models.api_keys import Scope
from models.settings import settings
from starter.api import codec
from tests.api import bearer

CLEAR = {"street": "世纪大道1号"}


@pytest.fixture
async def sealed(temporal: Client) -> Any:
    return MessageToDict(Payloads(payloads=await temporal.data_converter.encode([CLEAR])))


def text(answer: httpx.Response) -> str:
    import base64

    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["payloads"][0]["data"]).decode()


async def test_key_decrypts_payloads_and_is_logged(api: httpx.AsyncClient, sealed: Any) -> None:
    staff = await bearer(Scope.STAFF, name="mei")
    with structlog.testing.capture_logs() as events:
        opened = await api.post("/codec/decode", json=sealed, headers={**staff, "X-Namespace": "default"})
    assert "世纪大道1号" in text(opened)
    assert {"event": "codec.decode", "actor": "mei", "payloads": 1, "log_level": "info"} in events
    again = await api.post("/codec/encode", content=opened.content, headers=staff)
    assert "世纪大道" not in again.text
    assert "世纪大道1号" in text(await api.post("/codec/decode", content=again.content, headers=staff))


async def test_decryption_needs_a_staff_key(api: httpx.AsyncClient, sealed: Any) -> None:
    for path in ("/codec/decode", "/codec/encode"):
        for headers in ({}, {"Authorization": "Bearer hd_guess"}):
            answer = await api.post(path, json=sealed, headers=headers)
            assert answer.status_code == 401
            assert "www-authenticate" in answer.headers
        for scope in (Scope.READ, Scope.POS):
            assert (await api.post(path, json=sealed, headers=await bearer(scope))).status_code == 403


async def test_login_gives_the_ui_a_cookie(api: httpx.AsyncClient, sealed: Any) -> None:
    page = await api.get("/codec/login", headers={"Accept-Language": "zh"})
    assert "<form" in page.text
    assert (await api.post("/codec/login", data={"key": "hd_guess"})).status_code == 401
    key = (await bearer(Scope.STAFF))["Authorization"].removeprefix("Bearer ")
    shown = await api.post("/codec/login", data={"key": key})
    assert shown.status_code == 303
    cookie = shown.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "世纪大道1号" in text(await api.post("/codec/decode", json=sealed))


async def test_only_the_ui_origin_is_allowed(api: httpx.AsyncClient) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-namespace"}
    (ours, *_) = settings().ui_origins
    allowed = await api.options("/codec/decode", headers={"Origin": ours, **preflight})
    assert allowed.headers["access-control-allow-origin"] == ours
    assert allowed.headers["access-control-allow-credentials"] == "true"
    denied = await api.options("/codec/decode", headers={"Origin": "https://elsewhere.example", **preflight})
    assert "access-control-allow-origin" not in denied.headers


@pytest.mark.parametrize(
    "body", [b"not json", b'{"payloads": [{"metadata": {"encoding": "YmluYXJ5L2VuY3J5cHRlZA=="}, "data": "AAAA"}]}']
)
async def test_invalid_payload_is_a_bad_request(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/codec/decode", content=body, headers=await bearer(Scope.STAFF))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


async def test_ui_of_up_reads_after_a_login(
    api: httpx.AsyncClient, sealed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HENGDAN_CODEC_TOKEN", "path")
    settings.cache_clear()
    codec._logins.clear()
    for path in ("/codec/ui/guess/decode", "/codec/ui/guess/encode"):
        assert (await api.post(path, json=sealed)).status_code == 404
    hint = text(await api.post("/codec/ui/path/decode", json=sealed))
    assert f"{api.base_url}/codec/login" in hint
    assert "世纪大道" not in hint
    assert (await api.post("/codec/ui/path/encode", json=sealed)).status_code == 401
    for scope in (Scope.READ, Scope.POS):
        key = (await bearer(scope))["Authorization"].removeprefix("Bearer ")
        assert (await api.post("/codec/login", data={"key": key})).status_code == 403
    assert "世纪大道" not in text(await api.post("/codec/ui/path/decode", json=sealed))
    key = (await bearer(Scope.STAFF, name="mei"))["Authorization"].removeprefix("Bearer ")
    await api.post("/codec/login", data={"key": key})
    with structlog.testing.capture_logs() as events:
        assert "世纪大道1号" in text(await api.post("/codec/ui/path/decode", json=sealed))
    assert {"event": "codec.decode", "actor": "mei", "payloads": 1, "log_level": "info"} in events
    codec._logins[key] = 0
    assert "世纪大道" not in text(await api.post("/codec/ui/path/decode", json=sealed))
    await api.post("/codec/login", data={"key": key})
    assert "世纪大道" in text(await api.post("/codec/ui/path/decode", json=sealed))
    assert await revoke_key("mei")
    assert "世纪大道" not in text(await api.post("/codec/ui/path/decode", json=sealed))
    monkeypatch.delenv("HENGDAN_CODEC_TOKEN")
    settings.cache_clear()
    assert (await api.post("/codec/ui/path/decode", json=sealed)).status_code == 404
