"""The transfers API and commands, with a worker behind them."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from temporalio.client import Client

from activities.accounts.api_keys import create_key
from activities.kit.database import transaction
from activities.stock import operations
from models.api_keys import Scope
from models.base import CHINA
from models.settings import settings
from starter.sandbox import merchant
from tests.api import bearer, sale, tell, until
from tests.commands import Commands
from tests.integration.books import sql
from tests.integration.test_api_webhooks import problem
from workers.main import worker

DUE = (datetime.now(CHINA) + timedelta(days=3)).date().isoformat()


@pytest.fixture
async def working(temporal: Client) -> AsyncIterator[None]:
    async with transaction() as connection:
        await merchant.seed(connection)
        for warehouse in ("SH", "GZ"):
            await operations.receive(connection, warehouse, "A001", 10, warehouse, "test")
    async with worker(temporal):
        yield


@pytest.fixture
async def staff(database: str) -> dict[str, str]:
    return await bearer(Scope.STAFF, Scope.WAREHOUSE, name="mei")


async def create(api: httpx.AsyncClient, staff: dict[str, str], quantity: int = 6, **changes: Any) -> dict[str, Any]:
    body = {"origin": "SH", "destination": "GZ", "goods": {"A001": quantity}, "due": DUE} | changes
    answer = await api.post("/transfers", json=body, headers=staff)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def ask(api: httpx.AsyncClient, created: Any, verb: str, staff: dict[str, str], **body: Any) -> httpx.Response:
    return await api.post(f"/transfers/{created['id']}/{verb}", json=body, headers=staff)


async def on_hand(api: httpx.AsyncClient, staff: dict[str, str]) -> dict[str, int]:
    assert (await api.get("/stock/verify", headers=staff)).json()["balanced"]
    levels = (await api.get("/stock?sku=A001", headers=staff)).json()
    return {each["warehouse"]: each["on_hand"] for each in levels}


@pytest.mark.usefixtures("working")
async def test_transfer_is_created_shipped_and_received(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    created = await create(api, staff, request_id="D1", reason="for the holidays")
    assert (created["id"], created["status"], created["status_text"]) == ("transfer:D1", "draft", "Draft")
    assert created["supported_actions"] == ["approve", "cancel"]
    assert (await create(api, staff, request_id="D1"))["proposed_at"] == created["proposed_at"]
    for verb, body in (("approve", {}), ("ship", {}), ("receive", {"goods": {"A001": 2}}), ("receive", {})):
        answer = await ask(api, created, verb, staff, **body)
        assert (answer.status_code, answer.json()["accepted"]) == (200, True), answer.text
    assert await on_hand(api, staff) == {"SH": 4, "GZ": 16}
    shown = (await api.get("/transfers/transfer:D1", headers=staff)).json()
    assert (shown["status"], shown["approved_by"], shown["supported_actions"]) == ("received", "mei", [])
    assert [each["text"] for each in shown["timeline"]] == [
        "Transfer approved, its goods set aside",
        "Left: A001 × 6",
        "Received: A001 × 2",
        "Received: A001 × 4",
    ]
    assert [each["id"] for each in (await api.get("/transfers?status=received", headers=staff)).json()] == [
        created["id"]
    ]
    assert (await api.get("/transfers?status=draft", headers=staff)).json() == []
    over = problem(await ask(api, created, "cancel", {**staff, "Accept-Language": "zh-CN"}), 409)
    assert over["detail"] == "调拨单状态为“已入库”，不能取消"


@pytest.mark.usefixtures("working")
async def test_invalid_transfer_is_refused_with_its_field(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    body = {"origin": "SH", "destination": "GZ", "goods": {"A001": 1}, "due": DUE}
    for changes, field in (
        ({"destination": "SH"}, "destination"),
        ({"origin": "MOON"}, "origin"),
        ({"goods": {"NONE": 1}}, "sku"),
        ({"goods": {}}, "goods"),
        ({"goods": {"A001": 0}}, "goods.A001"),
        ({"due": "2020-01-01"}, "due"),
        ({"request_id": "a/b"}, "request_id"),
    ):
        refusal = problem(await api.post("/transfers", json=body | changes, headers=staff), 422)
        assert refusal["errors"][0]["field"] == field
    problem(await api.get("/transfers/transfer:none", headers=staff), 404)
    problem(await api.post("/transfers/transfer:none/ship", headers=staff), 404)
    problem(await api.post("/transfers", json=body, headers=await bearer(Scope.READ)), 403)
    await create(api, staff, request_id="D2")
    problem(await api.post("/transfers", json=body | {"request_id": "D2"}, headers=staff), 409)


@pytest.mark.usefixtures("working")
async def test_refusal_lists_supported_actions(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    created = await create(api, staff, 11)
    refusal = problem(await ask(api, created, "approve", staff), 409)
    assert refusal["detail"] == "SH does not have the goods: A001: 10 / 11"
    assert refusal["supported_actions"] == ["approve", "cancel"]
    sent = await create(api, staff)
    await ask(api, sent, "approve", staff)
    await ask(api, sent, "ship", staff)
    refusal = problem(await ask(api, sent, "cancel", staff), 409)
    assert refusal["detail"] == "The goods have left: say whether they return or are written off"
    assert (await ask(api, sent, "cancel", staff, how="write_off", reason="stolen")).status_code == 200
    assert await on_hand(api, staff) == {"SH": 4, "GZ": 10}


@pytest.mark.usefixtures("working")
async def test_small_transfer_needs_no_approval(
    api: httpx.AsyncClient, staff: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HENGDAN_TRANSFER_UNITS", "5")
    settings.cache_clear()
    assert (await create(api, staff, 5))["status"] == "ready"
    assert (await create(api, staff, 6))["status"] == "draft"


@pytest.mark.usefixtures("working")
async def test_transfers_are_proposed_to_restore_safety_stock(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    assert (await api.get("/transfers/proposals", headers=staff)).json() == []
    for warehouse, quantity in (("SH", 2), ("GZ", 8)):
        body = {"warehouse": warehouse, "sku": "A001", "quantity": quantity}
        assert (await api.post("/stock/safety", json=body, headers=staff)).status_code == 200
    (proposed,) = (await api.get("/transfers/proposals", headers=staff)).json()
    assert proposed == {
        "origin": "SH",
        "destination": "GZ",
        "sku": "A001",
        "quantity": 6,
        "waiting": 0,
        "available": 2,
        "incoming": 0,
        "safety_stock": 8,
        "spare": 6,
        "why": "GZ has 2 and 0 under way, keeps a safety stock of 8, and orders wait for 0; SH can spare 6",
    }
    elsewhere = {"destination": "BJ"}
    assert (await api.post("/transfers/proposals/accept", json=elsewhere, headers=staff)).json() == []
    (begun,) = (await api.post("/transfers/proposals/accept", json={}, headers=staff)).json()
    assert (begun["origin"], begun["destination"], begun["lines"][0]["quantity"]) == ("SH", "GZ", 6)
    assert begun["reason"] == f"A001: {proposed['why']}"
    assert (await api.get("/transfers/proposals", headers=staff)).json() == []
    assert (await ask(api, begun, "approve", staff)).status_code == 200
    assert (await api.get("/transfers/proposals", headers=staff)).json() == []


@pytest.mark.usefixtures("working")
async def test_waited_for_goods_are_proposed_to_the_nearest_location(
    api: httpx.AsyncClient, staff: dict[str, str]
) -> None:
    order = sale(lines=[{**sale()["lines"][0], "sku": "A001", "quantity": 30}])
    assert (await tell(api, order)).status_code == 202

    async def look() -> Any:
        return (await api.get("/transfers/proposals", headers=staff)).json()

    (proposed,) = await until(look)
    shown = (await api.get(f"/orders/order:own:web:{order['order_no']}", headers=staff)).json()
    assert shown["status"] == "awaiting_stock"
    assert (proposed["destination"], proposed["waiting"], proposed["quantity"]) == ("SH", 30, 10)
    await sql("UPDATE orders SET recipient = decode('00', 'hex')")
    (proposed,) = await look()  # a recipient whose seal is broken stops no proposal
    assert (proposed["waiting"], proposed["quantity"]) == (30, 10)


@pytest.mark.usefixtures("working")
async def test_command_line(
    api: httpx.AsyncClient,
    staff: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("li", list(Scope)))
    settings.cache_clear()
    hengdan = Commands(capsys)
    with capture_logs():  # the API shares standard output with the command here
        assert "Nothing" in await hengdan.ok("transfers", "propose")
        created = await hengdan.ok("transfers", "create", "SH", "GZ", "A001=3", "--reason", "for the fair")
        (number,) = re.findall(r"\d{6}-\w{6}", created)
        assert "Draft" in created
        assert "Ready to leave" in await hengdan.ok("transfers", "approve", number)
        assert "在途" in await hengdan.ok("transfers", "ship", number, "--lang", "zh-CN")
        assert "Partially received" in await hengdan.ok("transfers", "receive", number, "A001=1")
        assert "return or are written off" in await hengdan.refused("transfers", "cancel", number)
        ended = await hengdan.ok("transfers", "cancel", number, "--how", "write_off", "--reason", "lost")
        assert "Received" in ended
        assert number in await hengdan.ok("transfers", "list", "--status", "received")
        assert "A001 is not SKU=QUANTITY" in await hengdan.refused("transfers", "create", "SH", "GZ", "A001")
        assert "--how" in await hengdan.refused("transfers", "cancel", number, "--how", "burn")
        low = {"warehouse": "GZ", "sku": "A001", "quantity": 6}
        assert (await api.post("/stock/safety", json=low, headers=staff)).status_code == 200
        assert "SH → GZ" in await hengdan.ok("transfers", "propose")
        assert "Draft" in await hengdan.ok("transfers", "propose", "--accept")
    assert await on_hand(api, staff) == {"SH": 7, "GZ": 11}
