"""Webhooks of channels, carriers and warehouses: authenticated and committed before they are acknowledged."""

import asyncio
import json
from typing import Any

import httpx
import psycopg
import pytest
import structlog
from psycopg.sql import SQL, Identifier
from temporalio.client import Client

from activities.kit import signing
from models.api_keys import Scope
from models.intake import InboxState, IntegrationType
from tests.api import PHONE, SECRET, bearer, open_account, rows, runs, sale, tell, until
from tests.unit.payloads import pos_order
from workers.embedded import Postgres


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"].startswith("urn:hengdan:problem:")
    return body


async def test_concurrent_deliveries_are_one_message_and_one_order(api: httpx.AsyncClient, temporal: Client) -> None:
    order = sale()
    answers = await asyncio.gather(*(tell(api, order) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert sorted(answer.json()["status"] for answer in answers) == ["accepted", "duplicate", "duplicate"]
    (row,) = await until(lambda: rows(state=InboxState.STARTED))
    assert len(await rows()) == 1
    assert await runs(temporal, row.order_id) == "RUNNING"


async def test_message_without_the_shops_signature_is_not_stored(api: httpx.AsyncClient) -> None:
    body = json.dumps(sale()).encode()
    stale = {"Hengdan-Timestamp": "1700000000", "Hengdan-Signature": signing.sign(SECRET, "1700000000", body)}
    for headers in ({}, signing.signed_headers("guess", body), stale, signing.signed_headers(SECRET, body + b" ")):
        problem(await api.post("/channels/own/web/webhook", content=body, headers=headers), 401)
    assert await rows() == []


@pytest.mark.parametrize("path", ["/channels/own/nobody/webhook", "/channels/nothing/web/webhook"])
async def test_unknown_shop_is_not_found(api: httpx.AsyncClient, path: str) -> None:
    body = problem(await api.post(path, content=b"{}", headers={"Accept-Language": "zh-CN,zh;q=0.9"}), 404)
    assert body["title"] == "未找到"


async def test_body_over_a_mebibyte_is_refused(api: httpx.AsyncClient) -> None:
    big = b"x" * (1024 * 1024 + 1)

    async def in_pieces() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    path = "/channels/own/web/webhook"
    problem(await api.post(path, content=big, headers=signing.signed_headers(SECRET, big)), 413)
    problem(await api.post(path, content=in_pieces(), headers=signing.signed_headers(SECRET, big)), 413)
    assert (await tell(api, big[:-1])).status_code == 202


async def test_pos_needs_a_key_with_its_scope(api: httpx.AsyncClient) -> None:
    await open_account(IntegrationType.CHANNEL, "pos", "counter")
    path = "/channels/pos/counter/webhook"
    unknown = await api.post(path, json=pos_order())
    problem(unknown, 401)
    assert unknown.headers["www-authenticate"] == "Bearer"
    problem(await api.post(path, json=pos_order(), headers={"Authorization": "Bearer hd_guess"}), 401)
    problem(await api.post(path, json=pos_order(), headers=await bearer(Scope.STAFF)), 403)
    assert await rows() == []
    till = await bearer(Scope.POS, name="till-7")
    assert (await api.post(path, json=pos_order(), headers=till)).status_code == 202
    (row,) = await rows()
    assert (row.source, row.account, row.actor) == ("pos", "counter", "till-7")


async def test_without_the_database_nothing_is_acknowledged(
    api: httpx.AsyncClient, database: str, postgres_server: Postgres
) -> None:
    assert (await tell(api, sale())).status_code == 202
    name = database.rpartition("/")[2]
    allow = SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(allow.format(Identifier(name), SQL("false")))
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        late = sale()
        try:
            for _ in range(2):
                answer = await tell(api, late)
                problem(answer, 503)
                assert int(answer.headers["retry-after"]) > 0
            ready = await api.get("/ready")
            assert (ready.status_code, ready.json()["database"]) == (503, "down")
            assert (await api.get("/health")).status_code == 200
        finally:
            admin.execute(allow.format(Identifier(name), SQL("true")))
    assert (await tell(api, late)).json() == {"status": "accepted"}

    async def both() -> bool:
        return [row.state for row in await rows()] == [InboxState.STARTED] * 2

    await until(both)


async def test_failed_message_is_acknowledged_listed_corrected_and_started(
    api: httpx.AsyncClient, temporal: Client
) -> None:
    wrong = sale()
    wrong["order_no"] = "a b"
    assert (await tell(api, wrong)).status_code == 202
    assert (await tell(api, b"\xff not json")).status_code == 202
    staff, reader = await bearer(Scope.STAFF), await bearer(Scope.READ)

    async def both() -> Any:
        listed = (await api.get("/intake/failed", headers=reader)).json()
        return listed if len(listed) == 2 else None

    first, second = await until(both)
    assert (first["source"], first["account"], first["field"]) == ("own", "web", "order_no")
    assert first["reason"]
    assert second["field"]
    assert (await api.get("/intake/summary", headers=reader)).json() == {"channel": {"failed": 2}}
    assert (await api.get("/intake/failed", headers=reader, params={"limit": 1, "cursor": first["id"]})).json() == [
        second
    ]
    problem(await api.get(f"/intake/{first['id']}/raw", headers=reader), 403)
    raw = (await api.get(f"/intake/{first['id']}/raw", headers=staff)).json()["body"]
    assert json.loads(raw) == wrong
    corrected = raw.replace('"a b"', '"W77"')
    answer = await api.post(f"/intake/{first['id']}/retry", headers=staff, content=corrected.encode())
    assert answer.json() == {"retried": 1}
    (row,) = await until(lambda: rows(state=InboxState.STARTED))
    assert await runs(temporal, row.order_id) == "RUNNING"
    assert (await api.post("/intake/retry", headers=staff)).json() == {"retried": 1}
    await until(lambda: rows(state=InboxState.FAILED, attempts=2))
    problem(await api.post(f"/intake/{first['id']}/retry", headers=staff), 404)
    problem(await api.post("/intake/retry", headers=reader), 403)


async def test_carrier_is_authenticated_by_path_and_answered_in_its_format(api: httpx.AsyncClient) -> None:
    await open_account(IntegrationType.CARRIER, "sf", "default", push_secret="s3cret")
    push = {
        "Body": {"WaybillRoute": [{"mailno": "SF1", "acceptTime": "2026-11-20 10:00:00", "opCode": "50", "id": "1"}]}
    }
    problem(await api.post("/carriers/sf/default/push/guess", json=push), 401)
    problem(await api.post("/carriers/nobody/default/push/s3cret", json=push), 404)
    answer = await api.post("/carriers/sf/default/push/s3cret", json=push)
    assert (answer.status_code, answer.json()["return_code"]) == (200, "0000")
    again = await api.post("/carriers/sf/default/push/s3cret", json=push)
    assert (again.status_code, again.json()["return_code"]) == (200, "0000")
    (row,) = await until(lambda: rows(state=InboxState.DONE))
    assert (row.integration, row.source, row.reason) == (IntegrationType.CARRIER, "sf", "inbox.no_waybill")


async def test_warehouse_reports_one_or_many_events_once(api: httpx.AsyncClient) -> None:
    await open_account(IntegrationType.WAREHOUSE, "wms", "SH", secret="x")
    event = {"request_id": "e1", "fulfillment_id": "order:own:web:1:1", "kind": "shipped", "at": "2026-11-20T10:00:00Z"}
    path = "/warehouses/SH/events"
    problem(await api.post(path, json=event), 401)
    problem(await api.post(path, json=event, headers=await bearer(Scope.READ)), 403)
    key = await bearer(Scope.WAREHOUSE, name="wms-sh")
    problem(await api.post("/warehouses/XX/events", json=event, headers=key), 404)
    assert (await api.post(path, json=event, headers=key)).json() == {"accepted": 1}
    many = await api.post(path, json=[event, event | {"request_id": "e2"}], headers=key)
    assert (many.status_code, many.json()) == (202, {"accepted": 1})
    bad = problem(await api.post(path, json=event | {"weight_kg": "heavy"}, headers=key), 422)
    assert any("weight_kg" in each["field"] for each in bad["errors"])

    async def failed() -> Any:
        found = await rows(state=InboxState.FAILED)
        return found if len(found) == 2 else None

    for row in await until(failed):
        assert (row.account, row.actor, row.field) == ("SH", "wms-sh", "fulfillment_id")


async def test_logs_hold_no_phone_key_or_push_secret(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    await open_account(IntegrationType.CARRIER, "sf", "default", push_secret="s3cret")
    staff = await bearer(Scope.STAFF)
    with structlog.testing.capture_logs() as events:
        broken = sale(order_no="a b")
        assert (await tell(api, broken)).status_code == 202
        await api.post("/channels/own/web/webhook", json=sale())
        await api.post("/carriers/sf/default/push/s3cret-guess", content=PHONE.encode())
        await api.get("/orders", params={"phone": PHONE, "limit": "many"}, headers=staff)
        person = {"recipient": {"name": "李雷", "phone": PHONE, "country": PHONE}}
        await api.post("/orders/order:own:web:1/modify", json=person, headers=staff)
        await until(lambda: rows(state=InboxState.FAILED))
    captured = capfd.readouterr()
    everything = f"{events}{caplog.text}{captured.out}{captured.err}"
    assert [event["route"] for event in events if event["event"] == "api.request"]
    for secret in (PHONE, "李雷", "s3cret", staff["Authorization"].removeprefix("Bearer ")):
        assert secret not in everything
