"""The API of orders and stock, with a worker."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from activities.kit.database import transaction
from activities.records import exceptions
from activities.stock import operations
from models.api_keys import Scope
from models.exceptions import ExceptionKind, NewException
from starter.sandbox import merchant
from tests.api import PHONE, bearer, open_door, sale, tell, until
from tests.integration.test_api_webhooks import problem
from workers.main import worker

UNPAID = {"paid_at": None, "pay_before": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
DEAR = {"freight": "8000", "total": "8160.60"}
"""Held for review."""


@pytest.fixture
async def working(temporal: Client) -> AsyncIterator[None]:
    async with transaction() as connection:
        await merchant.seed(connection)
        for sku in ("A001", "B007"):
            await operations.receive(connection, "SH", sku, 10, sku, "test")
    async with worker(temporal):
        yield


@pytest.fixture
async def staff(database: str) -> dict[str, str]:
    return await bearer(Scope.STAFF, name="mei")


async def placed(api: httpx.AsyncClient, staff: dict[str, str], **changes: Any) -> dict[str, Any]:
    """Place an order and return it once it has settled."""
    order = sale(**changes)
    assert (await tell(api, order)).status_code == 202
    path = f"/orders/order:own:web:{order['order_no']}"

    async def look() -> Any:
        answer = await api.get(path, headers=staff)
        return answer.json() if answer.status_code == 200 else None

    shown: dict[str, Any] = await until(look)
    return shown


async def ask(api: httpx.AsyncClient, order: Any, verb: str, headers: dict[str, str], **body: Any) -> httpx.Response:
    return await api.post(f"/orders/{order['id']}/{verb}", json=body, headers=headers)


@pytest.mark.usefixtures("working")
async def test_order_is_shown_with_a_masked_recipient(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    order = await placed(api, staff, **UNPAID)
    answer = await api.get(f"/orders/{order['id']}", headers=staff | {"Accept-Language": "zh-CN"})
    shown = answer.json()
    assert (shown["status"], shown["status_text"], shown["total"]) == ("awaiting_payment", "待付款", "168.60")
    assert shown["recipient"]["city"] == "上海市"
    assert shown["recipient"]["phone"] == "138****8000"
    assert shown["supported_actions"] == ["cancel", "expedite", "hold", "modify", "note"]
    assert [line["sku"] for line in shown["lines"]] == ["A001", "B007"]
    assert shown["timeline"]
    search = await bearer(Scope.STAFF, Scope.SEARCH)
    listed = await api.get("/orders", headers=search, params={"phone": f"+86 {PHONE}"})
    assert [each["id"] for each in listed.json()["items"]] == [order["id"]]
    for response in (answer, listed):
        for personal in (PHONE, "李雷", "世纪大道"):
            assert personal not in response.text
    assert (await api.get("/orders", headers=search, params={"phone": "13900139000"})).json()["items"] == []


@pytest.mark.usefixtures("working")
async def test_lists_are_filtered_and_paged(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    same_time = {"placed_at": "2026-11-20T12:00:00+08:00"}
    unpaid = [await placed(api, staff, **UNPAID, **same_time) for _ in range(3)]
    dear = await placed(api, staff, **DEAR, placed_at="2026-11-20T13:00:00+08:00")

    async def listed_ids(**params: Any) -> list[str]:
        ids: list[str] = []
        while True:
            page = (await api.get("/orders", headers=staff, params=params)).json()
            ids += [each["id"] for each in page["items"]]
            if page["next"] is None:
                return ids
            params["cursor"] = page["next"]

    newest_first = [dear["id"], *sorted((each["id"] for each in unpaid), reverse=True)]
    assert await listed_ids(limit=1) == newest_first
    assert await listed_ids(limit=2) == newest_first
    assert await listed_ids() == newest_first
    assert await listed_ids(status="awaiting_payment") == newest_first[1:]
    assert await listed_ids(hold="review") == [dear["id"]]
    assert await listed_ids(order_no=unpaid[0]["channel_order_no"]) == [unpaid[0]["id"]]
    assert await listed_ids(placed_from="2026-11-20T12:30:00+08:00") == [dear["id"]]
    assert await listed_ids(placed_to="2026-11-20T12:30:00+08:00", limit=2) == newest_first[1:]
    assert await listed_ids(channel="own", shop="web", limit=3) == newest_first
    assert await listed_ids(shop="other") == []
    counts = (await api.get("/orders/counts", headers=staff)).json()
    assert counts == {"awaiting_payment": 3, "in_review": 1}


@pytest.mark.usefixtures("working")
async def test_command_is_answered_and_its_actor_recorded(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    order = await placed(api, staff, **DEAR)
    assert (await ask(api, order, "note", staff, text="call first")).json()["accepted"] is True
    assert (await ask(api, order, "expedite", staff)).status_code == 200
    modified = await ask(api, order, "modify", staff, lines=[{"line_no": "b", "quantity": 0}], reason="buyer")
    assert modified.status_code == 200, modified.text
    assert (await ask(api, order, "hold", staff, reason="fraud?")).status_code == 200
    assert (await ask(api, order, "release", staff, kind="staff")).status_code == 200
    assert (await ask(api, order, "reject", staff, reason="fraud")).status_code == 200

    async def ended() -> Any:
        shown = (await api.get(f"/orders/{order['id']}", headers=staff)).json()
        return shown if shown["status"] == "rejected" else None

    shown = await until(ended)
    assert shown["priority"] == 1
    assert {entry["actor"] for entry in shown["timeline"]} >= {"mei"}
    assert shown["supported_actions"] == []
    for verb in ("cancel", "approve"):
        refused = problem(await ask(api, order, verb, staff | {"Accept-Language": "zh"}), 409)
        assert "已拒绝" in refused["detail"]
        assert refused["supported_actions"] == []


@pytest.mark.usefixtures("working")
async def test_refusal_has_reason_and_supported_actions(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    order = await placed(api, staff, **UNPAID)
    refused = problem(await ask(api, order, "approve", staff), 409)
    assert refused["reason"] == "refused.approve"
    assert refused["detail"] != "refused.approve"
    assert refused["supported_actions"] == ["cancel", "expedite", "hold", "modify", "note"]
    lines = problem(await ask(api, order, "modify", staff, lines=[{"line_no": "zz", "quantity": 1}]), 409)
    assert "zz" in lines["detail"]


@pytest.mark.usefixtures("working")
async def test_repeated_request_changes_nothing(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    order = await placed(api, staff, **UNPAID)
    key = staff | {"Idempotency-Key": "note-1"}
    answers = await asyncio.gather(*(ask(api, order, "note", key, text="once") for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3

    async def notes() -> Any:
        shown = (await api.get(f"/orders/{order['id']}", headers=staff)).json()
        return [entry for entry in shown["timeline"] if entry["what"] == "timeline.note"]

    assert len(await until(notes)) == 1


async def test_invalid_input_names_the_field_without_its_value(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    order = {"id": "order:own:web:none"}
    person = {"name": "李雷", "phone": PHONE, "country": f"x{PHONE}"}
    for verb, body, field in (
        ("modify", {"recipient": person}, "recipient.country"),
        ("modify", {"lines": [{"line_no": "a", "quantity": -1}]}, "lines.0.quantity"),
        ("note", {}, "text"),
        ("note", {"text": "x" * 3000}, "text"),
        ("hold", {"kind": "boredom"}, "kind"),
    ):
        answer = await ask(api, order, verb, staff, **body)
        body = problem(answer, 422)
        assert [each["field"] for each in body["errors"]] == [field]
        assert PHONE not in answer.text
        assert "李雷" not in answer.text
    nothing = problem(await ask(api, order, "modify", staff), 422)
    assert "at least one change" in nothing["detail"]
    for params in ({"status": "lost"}, {"limit": 0}, {"placed_from": "yesterday"}, {"cursor": "???"}):
        body = problem(await api.get("/orders", headers=staff, params=params), 422)
        assert [each["field"] for each in body["errors"]] == list(params)


async def test_scopes_are_enforced(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    reader, till = await bearer(Scope.READ), await bearer(Scope.POS)
    order = {"id": "order:own:web:none"}
    problem(await api.get("/orders"), 401)
    problem(await api.get("/orders", headers=till), 403)
    problem(await ask(api, order, "cancel", reader), 403)
    problem(await ask(api, order, "cancel", staff), 503)  # no worker runs
    problem(await api.get(f"/orders/{order['id']}", headers=reader), 404)
    problem(await api.get("/nowhere"), 404)
    problem(await api.delete("/orders", headers=staff), 405)
    described = (await api.get("/openapi.json")).json()
    opened = {"/health", "/ready"}
    for path, verbs in described["paths"].items():
        for verb, operation in verbs.items():
            foreign = ("webhook", "push", "/qimen", "/codec")
            if path in opened or any(each in path for each in foreign):
                continue
            assert operation["security"], path
            answer = await api.request(verb, path.replace("{row}", "1"), content=b"{}")
            assert answer.status_code == 401, (path, answer.text)


async def test_engine_down_or_without_a_worker_is_reported(
    database: str, temporal: Client, staff: dict[str, str], api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = sale(**UNPAID)
    await tell(api, payload)
    order = {"id": f"order:own:web:{payload['order_no']}"}

    async def running() -> bool:
        return (await ask(api, order, "cancel", staff)).status_code != 404

    await until(running)
    stranded = await ask(api, order, "cancel", staff)
    assert "No worker is running" in problem(stranded, 503)["detail"]
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    async with open_door() as cut_off:
        down = await ask(cut_off, order, "cancel", staff)
        problem(down, 503)
        assert int(down.headers["retry-after"]) > 0
        assert (await tell(cut_off, sale())).status_code == 202
        ready = await cut_off.get("/ready")
        assert (ready.status_code, ready.json()) == (
            200,
            {"database": "ok", "engine": "down", "workers": 0, "dispatcher": "ok", "intake": "ok"},
        )


@pytest.mark.usefixtures("working")
async def test_stock_is_received_adjusted_and_verified(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    keeper = await bearer(Scope.WAREHOUSE, name="keeper")
    goods = {"warehouse": "SH", "sku": "A002", "quantity": 5, "request_id": "r1"}
    problem(await api.post("/stock/receive", json=goods, headers=await bearer(Scope.READ)), 403)
    for _ in range(2):
        level = (await api.post("/stock/receive", json=goods, headers=keeper)).json()
        assert (level["on_hand"], level["available"]) == (5, 5)
    lost = {"warehouse": "SH", "sku": "A002", "quantity": -2, "reason": "broken"}
    problem(await api.post("/stock/adjust", json=lost, headers=keeper), 403)
    assert (await api.post("/stock/adjust", json=lost, headers=staff)).json()["on_hand"] == 3
    for wrong, field in (
        ({**goods, "quantity": 0}, "quantity"),
        ({**goods, "sku": "nothing", "request_id": "r2"}, "sku"),
        ({**goods, "warehouse": "XX", "request_id": "r3"}, "warehouse"),
    ):
        body = problem(await api.post("/stock/receive", json=wrong, headers=keeper), 422)
        assert [each["field"] for each in body["errors"]] == [field]
    problem(await api.post("/stock/adjust", json={**lost, "quantity": -9}, headers=staff), 422)
    (level,) = (await api.get("/stock", params={"sku": "A002", "warehouse": "SH"}, headers=staff)).json()
    assert level["on_hand"] == 3
    ledger, after = [], None
    while True:
        params = {"sku": "A002", "limit": 1} | ({"cursor": after} if after else {})
        page = (await api.get("/stock/ledger", params=params, headers=staff)).json()
        ledger += [(each["kind"], each["quantity"], each["actor"]) for each in page["items"]]
        if (after := page["next"]) is None:
            break
    assert ledger == [("adjusted", -2, "mei"), ("received", 5, "keeper")]
    assert (await api.get("/stock/verify", headers=staff)).json() == {"balanced": True, "drifts": []}


async def test_open_exceptions_are_listed_with_texts(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    created = sale()
    await tell(api, created)
    order_id = f"order:own:web:{created['order_no']}"
    new = NewException(key=f"{order_id}:lines_added", kind=ExceptionKind.LINES_ADDED, order_id=order_id, shop="own:web")
    async with transaction() as connection:
        await exceptions.open_all(connection, [new.model_copy(update={"detail": {"count": 1}})])

    async def listed() -> Any:
        return (await api.get("/exceptions", headers=staff)).json()

    (exception,) = await until(listed)
    assert (exception["kind"], exception["key"]) == ("lines_added", f"{order_id}:lines_added")
    assert "1" in exception["text"]
    assert (exception["order_id"], exception["shop"], exception["owner"]) == (order_id, "own:web", "service")


BARE = {"retry", "test", "rotate", "login", "approve", "discard", "dismiss", "run"}
"""Commands without a request body."""


async def test_openapi_is_complete(api: httpx.AsyncClient) -> None:
    assert "swagger" in (await api.get("/docs")).text
    described = (await api.get("/openapi.json")).json()
    for path, verbs in described["paths"].items():
        for verb, operation in verbs.items():
            assert operation["summary"], path
            assert operation["tags"], path
            assert "application/problem+json" in operation["responses"]["4XX"]["content"], path
            if verb == "post" and path.rpartition("/")[2] not in BARE and not path.startswith("/purchase-orders"):
                assert "requestBody" in operation, path
    assert "HTTPValidationError" not in described["components"]["schemas"]
    cancel = described["paths"]["/orders/{order_id}/cancel"]["post"]
    assert "actor" not in str(described["components"]["schemas"]["CancelBody"]["properties"])
    assert cancel["security"] == [{"API key": []}]


async def test_documentation_works_without_the_internet(api: httpx.AsyncClient) -> None:
    for page in ("/docs", "/redoc"):
        content = (await api.get(page)).text
        assets = re.findall(r'(?:src|href)="([^"]+)"', content)
        assert assets
        for asset in assets:
            assert asset.startswith("/"), asset
            assert (await api.get(asset)).status_code == 200, asset
