"""The command line against the real API, with a worker."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs
from temporalio.client import Client

from activities.accounts.api_keys import create_key
from activities.allocation import rules_and_rates
from activities.kit.database import transaction
from activities.orders.review import rules
from activities.stock import operations
from models.api_keys import Scope
from models.intake import IntegrationType
from models.order import OrderRow
from models.settings import settings
from models.stock import LevelRow
from starter.sandbox import merchant
from tests.api import PHONE, SECRET, open_account, rows, sale, tell, until
from tests.commands import Commands
from workers.main import worker

UNPAID = {"paid_at": None, "pay_before": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
DEAR = {**UNPAID, "freight": "8000", "total": "8160.60"}
"""Held for review."""


@pytest.fixture
async def hengdan(
    temporal: Client, api: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Commands]:
    """Run the command line with Mei's staff key."""
    async with transaction() as connection:
        await merchant.seed(connection)
        await operations.receive(connection, "SH", "A001", 10, "first", "test")
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("mei", list(Scope)))
    settings.cache_clear()
    with capture_logs():  # the API shares standard output with the command here
        async with worker(temporal):
            yield Commands(capsys)


async def placed(api: httpx.AsyncClient, shop: str = "web", **changes: Any) -> str:
    """Place an order; return its channel order number once it has settled."""
    order = sale(**changes)
    assert (await tell(api, order, shop)).status_code == 202
    query = select(OrderRow.id).where(OrderRow.id == f"order:own:{shop}:{order['order_no']}")

    async def look() -> Any:
        async with transaction() as connection:
            return await connection.scalar(query)

    await until(look)
    return str(order["order_no"])


async def test_orders_are_listed_and_shown(hengdan: Commands, api: httpx.AsyncClient) -> None:
    dear = await placed(api, **DEAR)
    unpaid = await placed(api, **UNPAID)
    listed = await hengdan.ok("orders", "list")
    assert listed.index(f"order:own:web:{unpaid}") > 0
    assert "In review · Review" in next(line for line in listed.splitlines() if dear in line)
    assert "待付款" in await hengdan.ok("orders", "list", "--status", "awaiting_payment", "--lang", "zh-CN")
    shown = await hengdan.ok("orders", "show", dear)
    assert "Waiting for a person to approve or reject" in shown
    assert "Approve" in shown
    assert shown.index("● ") < shown.index("Received by webhook") < shown.index("Put on hold: Review")
    for personal in (PHONE, "李雷", "世纪大道"):
        assert personal not in listed + shown


async def test_next_page_is_shown_by_its_cursor(hengdan: Commands, api: httpx.AsyncClient) -> None:
    for _ in range(2):
        await placed(api, **UNPAID)
    first = await hengdan.ok("orders", "list", "--limit", "1")
    cursor = first.split("--cursor ")[1].strip()
    second = await hengdan.ok("orders", "list", "--limit", "1", "--cursor", cursor)
    assert first.count("order:own:web:") == second.count("order:own:web:") == 1
    assert first.splitlines()[-3] != second.splitlines()[-3]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d")
    assert "Nothing" in await hengdan.ok("orders", "list", "--from", tomorrow)


async def test_json_output_is_the_answer_of_the_api(hengdan: Commands, api: httpx.AsyncClient) -> None:
    number = await placed(api, **UNPAID)
    header = {"Authorization": f"Bearer {settings().api_key.get_secret_value()}"}  # type: ignore[union-attr]
    answer = (await api.get(f"/orders/order:own:web:{number}", headers=header)).text
    assert await hengdan.ok("orders", "show", number, "--json") == f"{answer}\n"


async def test_ambiguous_order_number_is_refused(hengdan: Commands, api: httpx.AsyncClient) -> None:
    await open_account(IntegrationType.CHANNEL, "own", "app", secret=SECRET)
    number = await placed(api, **UNPAID)
    await placed(api, "app", number=number, **UNPAID)
    message = await hengdan.refused("orders", "show", number)
    assert f"order:own:web:{number}" in message
    assert f"order:own:app:{number}" in message
    assert number in await hengdan.ok("orders", "show", f"order:own:app:{number}")
    for unknown in ("nosuch", "order:own:web:nosuch"):
        assert "nosuch" in await hengdan.refused("orders", "cancel", unknown)


async def test_items_are_mapped_to_skus(hengdan: Commands, api: httpx.AsyncClient) -> None:
    sold = [{"line_no": "a", "sku": "白T恤-L", "title": "白色纯棉T恤", "quantity": 2, "unit_price": "50"}]
    number = await placed(api, lines=sold)
    assert "own:web sells 白T恤-L" in await hengdan.ok("orders", "show", number)
    listed = await hengdan.ok("map", "unmapped", "--channel", "own")
    for expected in ("own:web", "白T恤-L", "A001 白色纯棉T恤"):
        assert expected in listed
    (first,) = json.loads(await hengdan.ok("map", "unmapped", "--json"))
    assert (first["orders"], first["pieces"], first["suggestions"][0]["sku"]) == (1, 2, "A001")
    assert "NONE" in await hengdan.refused("map", "set", "own", "白T恤-L", "NONE")
    assert "A001" in await hengdan.ok("map", "set", "own", "白T恤-L", "A001", "--shop", "web")

    async def going() -> bool:
        return "timeline.allocated" in await hengdan.ok("orders", "show", number, "--json")

    await until(going)
    assert "mei" in await hengdan.ok("map", "list", "--channel", "own", "--shop", "web")
    assert "白T恤-L" not in await hengdan.ok("map", "unmapped")
    await hengdan.ok("map", "drop", "own", "白T恤-L", "--shop", "web")
    assert "白T恤-L" in await hengdan.refused("map", "drop", "own", "白T恤-L", "--shop", "web")


async def test_commands_change_an_order(hengdan: Commands, api: httpx.AsyncClient) -> None:
    number = await placed(api, **DEAR)
    assert "Note" in await hengdan.ok("orders", "note", number, "call first")
    await hengdan.ok("orders", "expedite", number)
    assert "Awaiting payment" in await hengdan.ok("orders", "approve", number)
    assert "On hold" in await hengdan.ok("orders", "hold", number, "--reason", "fraud?")
    assert "Awaiting payment" in await hengdan.ok("orders", "release", number, "--kind", "staff")
    assert json.loads(await hengdan.ok("orders", "modify", number, "--line", "a=1", "--json"))["accepted"] is True
    assert "“Cancelled”" in await hengdan.ok("orders", "cancel", number, "--reason", "buyer")
    shown = await hengdan.ok("orders", "show", number)
    for act in ("Note: call first", "Made urgent", "Approved", "fraud?", "Holds lifted", "Cancelled: buyer"):
        assert "mei" in next(line for line in shown.splitlines() if act in line)
    assert "“Cancelled”" in await hengdan.refused("orders", "cancel", number)
    assert "已取消" in await hengdan.refused("orders", "modify", number, "--city", "北京市", "--lang", "zh-CN")


async def test_an_order_is_rejected(hengdan: Commands, api: httpx.AsyncClient) -> None:
    number = await placed(api, **DEAR)
    assert "Rejected" in await hengdan.ok("orders", "reject", number, "--reason", "fraud")


async def test_modify_keeps_other_fields_of_the_recipient(hengdan: Commands, api: httpx.AsyncClient) -> None:
    number = await placed(api, **UNPAID)

    async def recipient() -> Any:
        async with transaction() as connection:
            return await connection.scalar(select(OrderRow.recipient).where(OrderRow.channel_order_no == number))  # type: ignore[arg-type, call-overload]

    before = await recipient()
    await hengdan.ok("orders", "modify", number, "--phone", "13900139000", "--street", "世纪大道2号")
    changed = {"phone": "+8613900139000", "street": "世纪大道2号", "hidden": None}
    assert await recipient() == before.model_copy(update=changed)


async def test_invalid_input_names_its_field(hengdan: Commands, api: httpx.AsyncClient) -> None:
    number = await placed(api, **UNPAID)
    for words, expected in {
        ("orders", "list", "--status", "nosuch"): "status",
        ("orders", "list", "--cursor", "x"): "cursor",
        ("orders", "hold", number, "--kind", "nosuch"): "kind",
        ("orders", "modify", number, "--line", "zz=1"): "zz",
        ("stock", "receive", "SH", "A001", "0"): "quantity",
        ("stock", "adjust", "SH", "A001", "-11", "--reason", "lost"): "quantity",
        ("intake", "retry", "99"): "99",
        ("intake", "failed", "99"): "99",
    }.items():
        assert expected in await hengdan.refused(*words)


async def test_key_must_be_known_and_have_the_scope(hengdan: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("reader", [Scope.READ]))
    settings.cache_clear()
    assert "A001" in await hengdan.ok("stock", "show", "A001")
    assert "warehouse" in await hengdan.refused("stock", "receive", "SH", "A001", "1")
    monkeypatch.setenv("HENGDAN_API_KEY", "hd_nobody")
    settings.cache_clear()
    assert "API key" in await hengdan.refused("stock", "show")


async def test_stock_is_received_adjusted_and_verified(hengdan: Commands, api: httpx.AsyncClient) -> None:
    assert "12" in await hengdan.ok("stock", "receive", "SH", "A001", "2")
    adjusted = await hengdan.ok("stock", "adjust", "SH", "A001", "-3", "--reason", "broken", "--json")
    assert json.loads(adjusted)["on_hand"] == 9
    assert "Available" in await hengdan.ok("stock", "show", "--warehouse", "SH")
    assert "sum of its ledger" in await hengdan.ok("stock", "verify")
    async with transaction() as connection:
        await connection.execute(update(LevelRow).values(on_hand=8))
    ran = await hengdan.run("stock", "verify")
    assert ran.status == 1
    assert "A001" in ran.out
    assert (await hengdan.run("stock", "verify", "--json")).status == 1


async def test_spreadsheets_are_imported_and_exported(hengdan: Commands, tmp_path: Path) -> None:
    book, sheet = tmp_path / "levels.xlsx", tmp_path / "levels.csv"
    assert "levels.xlsx" in await hengdan.ok("files", "export", "levels", str(book))
    assert "1" in await hengdan.ok("files", "import", "levels", str(book))
    sheet.write_text("warehouse,sku,on_hand\nSH,A001,4\nSH,A00X,5\n")
    for options, expected in (((), "nothing"), (("--check",), "Checked"), (("--partial",), "Imported 1 of 2")):
        ran = await hengdan.run("files", "import", "levels", str(sheet), *options)
        assert ran.status == 2
        assert "A00X" in next(line for line in ran.out.splitlines() if "Not in the catalogue" in line)
        assert expected in ran.out + ran.err
    refused = await hengdan.run("files", "import", "levels", str(sheet), "--json", "--lang", "zh-CN")
    assert json.loads(refused.out)["errors"][0]["message"] == "商品档案中没有"
    assert '"on_hand":4' in await hengdan.ok("stock", "show", "A001", "--json")
    assert "levels" in await hengdan.refused("files", "import", "nosuch", str(sheet))
    assert "xlsx" in await hengdan.refused("files", "export", "levels", str(tmp_path / "levels.pdf"))


async def test_failed_message_is_shown_corrected_and_retried(
    hengdan: Commands, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert "Nothing" in await hengdan.ok("intake", "failed")
    order = sale(**UNPAID)
    assert (await tell(api, order | {"order_no": "a b"})).status_code == 202

    async def failed() -> list[Any]:
        return [row for row in await rows() if row.state == "failed"]

    ((message, *_),) = await until(failed)
    listed = await hengdan.ok("intake", "failed")
    assert "own/web" in listed
    assert "order_no" in listed
    corrected = tmp_path / "corrected.json"
    raw = json.loads(await hengdan.ok("intake", "failed", str(message)))
    corrected.write_text(json.dumps(raw | {"order_no": order["order_no"]}))
    assert "1 " in await hengdan.ok("intake", "retry", str(message), "--body", str(corrected))

    async def received() -> Any:
        async with transaction() as connection:
            return await connection.scalar(select(OrderRow.id).where(OrderRow.channel_order_no == order["order_no"]))  # type: ignore[arg-type]

    await until(received)
    assert "0 " in await hengdan.ok("intake", "retry", "--all")


async def test_stock_in_every_state(hengdan: Commands, api: httpx.AsyncClient) -> None:
    async with transaction() as connection:
        await merchant.seed(connection)
    await hengdan.ok("stock", "receive", "SH", "A001", "10")
    assert "3" in await hengdan.ok("stock", "quarantine", "SH", "A001", "3", "--reason", "wet")
    await hengdan.ok("stock", "restore", "SH", "A001", "1", "--reason", "dry again")
    await hengdan.ok("stock", "scrap", "SH", "A001", "2", "--reason", "mould")
    await hengdan.ok("stock", "safety", "SH", "A001", "2")
    await hengdan.ok("stock", "expect", "asn:1", "SH", "2030-01-02", "A001=5")
    promised = await hengdan.ok("stock", "promise", "A001")
    assert "2030-01-02" in promised.splitlines()[-2]
    counted = json.loads(await hengdan.ok("stock", "count", "SH", "A001=7", "A002=1", "--json"))
    shown = await hengdan.ok("stock", "approve", counted["id"])
    assert "Approved" in shown
    assert "-1" in shown
    assert counted["id"] in await hengdan.ok("stock", "counts")
    level = json.loads(await hengdan.ok("stock", "show", "A001", "--json"))[0]
    assert (level["on_hand"], level["unavailable"], level["available"]) == (7, 0, 5)
    await hengdan.ok("stock", "threshold", "A001", "9")
    assert "SH" in await hengdan.ok("locations", "list", "--lang", "zh-CN")
    created = await hengdan.ok("locations", "set", "NJ", "--province", "江苏省", "--carrier", "sf")
    assert "hengdan locations set NJ --contact" in created
    sender = ("--contact", "恒单", "--city", "南京市", "--district", "玄武区", "--street", "北京东路1号")
    assert "phone" in await hengdan.refused("locations", "set", "NJ", *sender, "--phone", "abc")
    shown = await hengdan.ok("locations", "set", "NJ", *sender, "--phone", "13912345678", "--rank", "3", "--json")
    assert json.loads(shown)["sender"]["phone"] == "139****5678"
    kept = json.loads(await hengdan.ok("locations", "set", "NJ", "--name", "Nanjing", "--json"))
    assert (kept["rank"], kept["carrier"], kept["sender"]["city"]) == (3, "sf", "南京市")
    assert "A001" in await hengdan.refused("stock", "count", "SH", "A001")
    assert "supplier" in await hengdan.refused("stock", "feed", "SH", "A001=1")
    assert "virtual" in await hengdan.refused("stock", "fence", "SH", "A001", "-1")
    await hengdan.ok("stock", "verify")


async def test_plans_are_previewed_and_rules_set(hengdan: Commands, api: httpx.AsyncClient, tmp_path: Path) -> None:
    async with transaction() as connection:
        await merchant.seed(connection)
    await hengdan.ok("stock", "receive", "SH", "A001", "10")
    tried = await hengdan.ok("plan", "try", "A001=2", "--province", "上海")
    assert "A001 × 2" in tried.splitlines()[0]
    rule = tmp_path / "rule.json"
    rule.write_text(json.dumps({"number": 7, "name": "none", "action": {"do": "exclude", "locations": ["SH"]}}))
    assert "none" in await hengdan.ok("plan", "rule", str(rule))
    assert "exclude" in await hengdan.ok("plan", "rules")
    rules_and_rates.clear_cache()
    assert "Excluded by the rule none" in await hengdan.ok("plan", "try", "A001=2", "--province", "上海")
    await hengdan.ok("plan", "drop", "7")
    assert "7" in await hengdan.refused("plan", "drop", "7")
    rule.write_text("{}")
    assert "rule.json" in await hengdan.refused("plan", "rule", str(rule))
    assert "A001" in await hengdan.refused("plan", "try", "A001=x")
    assert "remaining" in await hengdan.ok("plan", "again", "SH", "--reason", "closing", "--close")
    assert "XX" in await hengdan.refused("plan", "again", "XX", "--reason", "closing")


async def test_review_rule_is_tried_and_applied(hengdan: Commands, api: httpx.AsyncClient, tmp_path: Path) -> None:
    rules.clear_cache()
    number = await placed(api, **UNPAID)
    file = tmp_path / "rule.json"
    held = {"do": "hold", "stage": "finance", "reason": "is it paid?"}
    rule = {
        "number": 5,
        "name": "unpaid",
        "condition": "!order.paid",
        "decisions": [held, {"do": "tag", "tags": ["U"]}],
    }
    file.write_text(json.dumps(rule))
    assert "order.paid" in await hengdan.ok("review", "check", "!order.paid")
    assert "no fact order.payed" in await hengdan.refused("review", "check", "!order.payed")
    tried = await hengdan.ok("review", "try", str(file), "--since", "2020-01-01")
    assert "The rule would have applied to 1 of 1 orders: hold 1, tag 1" in tried
    assert number in tried
    assert json.loads(await hengdan.ok("review", "try", str(file), "--since", "2020-01-01", "--json"))["applied"] == 1
    assert "unpaid" in await hengdan.ok("review", "rule", str(file))
    other = await placed(api, **UNPAID)
    shown = await hengdan.ok("orders", "show", other)
    assert "Rule 5 unpaid: hold finance, tag U (order.paid = false)" in shown
    assert "Review: finance" in shown
    assert other in await hengdan.ok("orders", "list", "--tag", "U")
    assert "客服" in await hengdan.refused("orders", "approve", other, "--stage", "service", "--lang", "zh-CN")
    assert "Awaiting payment" in await hengdan.ok("orders", "approve", other, "--stage", "finance")
    assert "unpaid" in await hengdan.ok("review", "rules")
    await hengdan.ok("review", "drop", "5")
    assert "Nothing" in await hengdan.ok("review", "rules")
    file.write_text("[]")
    assert "not a rule" in await hengdan.refused("review", "rule", str(file))


async def test_carrier_rules_and_penalties_are_set(hengdan: Commands, api: httpx.AsyncClient, tmp_path: Path) -> None:
    file = tmp_path / "rule.json"
    rule = {"number": 7, "name": "heavy", "condition": "parcel.weight_kg > 20.0"}
    file.write_text(json.dumps(rule | {"decisions": [{"do": "only", "carriers": ["jdl"]}]}))
    assert "0 of 0 parcels" in await hengdan.ok("carriers", "try", str(file), "--since", "2020-01-01")
    assert "jdl" in await hengdan.ok("carriers", "rule", str(file))
    assert "heavy" in await hengdan.ok("carriers", "rules")
    await hengdan.ok("carriers", "drop", "7")
    assert "no rule 7" in await hengdan.refused("carriers", "drop", "7")
    file.write_text(json.dumps({"own:web": {"late": "77"}}))
    assert "77" in await hengdan.ok("carriers", "weights", str(file))
    assert "own:web" in await hengdan.ok("carriers", "weights")
    file.write_text("{")
    assert "rule.json" in await hengdan.refused("carriers", "weights", str(file))
    for shown in ("list", "lanes"):
        await hengdan.ok("carriers", shown)


async def test_accounts_are_created_and_deleted(hengdan: Commands, api: httpx.AsyncClient, tmp_path: Path) -> None:
    file = tmp_path / "bot.json"
    file.write_text(json.dumps({"base_url": "https://bot.example.com", "secrets": {"access_token": "hush"}}))
    opened = await hengdan.ok("accounts", "set", "media", "dingtalk", "staff", str(file))
    assert "token" in opened
    assert "hush" not in opened + await hengdan.ok("accounts", "list")
    await hengdan.ok("accounts", "close", "media", "dingtalk", "staff")
    assert "dingtalk/staff" in await hengdan.refused("accounts", "close", "media", "dingtalk", "staff")


async def test_blacklist_entry_is_added_and_removed(hengdan: Commands, api: httpx.AsyncClient) -> None:
    number = await placed(api, **UNPAID)
    entry = json.loads(await hengdan.ok("review", "blacklist", "add", "phone", PHONE, "--reason", "refused", "--json"))
    await hengdan.ok("review", "blacklist", "add", "address", "--order", number, "--until", "2099-01-01")
    listed = await hengdan.ok("review", "blacklist", "list")
    assert "refused" in listed
    assert PHONE not in listed
    await hengdan.ok("review", "blacklist", "remove", "phone", entry["id"])
    assert "refused" not in await hengdan.ok("review", "blacklist", "list")
    assert "phone" in await hengdan.refused("review", "blacklist", "add", "phone", "12")
