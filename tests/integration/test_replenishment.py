"""Replenishment on a real database: from demand history to received goods."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.accounts.api_keys import create_key
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.stock import ledger, operations, replenishment
from activities.stock.replenishment import LocationShare, Progress, StatusConflict
from models.api_keys import Scope
from models.base import CHINA
from models.replenishment import Promotion, Terms
from models.settings import settings
from models.stock import Move, MovementKind
from starter.sandbox import merchant
from tests.api import bearer
from tests.commands import Commands
from tests.integration.books import drifts, level, notified_orders, receive, sql
from tests.integration.test_api_webhooks import problem
from workers.main import worker
from workers.schedules import schedule_system

TODAY = datetime.now(CHINA).date()


@pytest.fixture
async def goods(database: str) -> None:
    async with transaction() as connection:
        await merchant.seed(connection)


async def save_terms(**changes: Any) -> None:
    given = {"sku": "A001", "supplier": "Acme", "lead_days": 9, "review_days": 7, "service_level": 0.5}
    async with transaction() as connection:
        await replenishment.save_terms(connection, Terms(**given | changes))


async def sold(
    warehouse: str, sku: str, per_day: Sequence[int], region: str = "CN 上海 上海市", *, left: bool = True
) -> None:
    """Enter orders of these quantities on each day until yesterday, shipped or still allocated."""
    await receive(warehouse, sku, sum(per_day))
    moves = []
    rows = []
    for back, quantity in enumerate(reversed(per_day), 1):
        if not quantity:
            continue
        id_ = f"order:own:web:{warehouse}-{sku}-{back}-{region.split()[1]}"
        at = datetime.combine(TODAY - timedelta(days=back), datetime.min.time(), CHINA)
        rows.append({"id": id_, "placed_at": at.isoformat(), "region": region})
        kinds = (MovementKind.ALLOCATED, MovementKind.SHIPPED) if left else (MovementKind.ALLOCATED,)
        moves += [
            Move(key=f"{id_}:{kind}", kind=kind, warehouse=warehouse, sku=sku, quantity=quantity, order_id=id_)
            for kind in kinds
        ]
    await sql(
        "INSERT INTO orders (id, channel, shop, channel_order_no, status, revision, priority, holds, lines, origin,"
        " custom, currency, total, phone_index, region, next_step, placed_at, updated_at)"
        " SELECT id, 'own', 'web', id, 'shipped', 1, 3, '[]', '[]', '{}', '{}', 'CNY', 0, '', region, '', placed_at,"
        " placed_at FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, placed_at timestamptz, region text)",
        rows=json.dumps(rows),
    )
    async with transaction() as connection:
        await ledger.move(connection, moves)


async def suggest(*skus: str, today: date = TODAY) -> Progress:
    async with transaction() as connection:
        return await replenishment.suggest(connection, today, skus or ["A001"])


async def suggestions() -> list[Any]:
    async with transaction() as connection:
        return list(await replenishment.list_suggestions(connection))


async def accept(suggestion_id: str, quantity: int | None = None) -> Any:
    async with transaction() as connection:
        return await replenishment.accept(connection, suggestion_id, quantity, TODAY, "mei")


async def receive_purchase(purchase_id: str, request_id: str, **goods: int) -> Any:
    async with transaction() as connection:
        return await replenishment.receive_purchase(connection, purchase_id, goods, request_id, "mei")


@pytest.mark.usefixtures("goods")
async def test_demand_is_suggested_ordered_and_received() -> None:
    await save_terms(pack_size=12)
    await sold("SH", "A001", [10] * 60)
    await sql(
        "INSERT INTO stock_waits (order_id, sku, quantity, priority, since, province, instead, claims)"
        " VALUES ('order:own:web:W1', 'A001', 5, 3, now(), '浙江', '[]', false)"
    )
    assert await suggest() == Progress(checked=1, suggested=1)
    (found,) = await suggestions()
    assert (found.warehouse, found.sku, found.status) == ("SH", "A001", "suggested")
    assert (found.reorder_point, found.quantity) == (90, 168), "160 for 16 days and 5 who wait, in packs of 12"
    assert (found.order_by, found.stock_out_on) == (TODAY, TODAY)
    figures = {name: found.detail[name] for name in ("demand", "per_day", "position", "waiting", "target", "supplier")}
    assert figures == {
        "demand": "smooth",
        "per_day": 10,
        "position": -5,
        "waiting": 5,
        "target": 160,
        "supplier": "Acme",
    }

    purchase = await accept(found.id)
    assert (purchase.id, purchase.due) == (f"po:{found.id}", TODAY + timedelta(days=9))
    assert await accept(found.id) == purchase
    (coming,) = await sql("SELECT source, warehouse, quantity FROM incoming")
    assert tuple(coming) == (purchase.id, "SH", 168)
    assert await suggest() == Progress(checked=1, suggested=0), "what is on its way is not bought again"

    part = await receive_purchase(purchase.id, "first", A001=100)
    assert (part.status, part.lines) == ("partially_received", [{"sku": "A001", "ordered": 168, "received": 100}])
    assert await receive_purchase(purchase.id, "first", A001=100) == part
    assert await level("SH", "A001") == (100, 0, 100)
    assert [row.quantity for row in await sql("SELECT quantity FROM incoming")] == [68]
    assert await notified_orders() == ["W1"]
    with pytest.raises(InvalidInput, match="between 1 and 68"):
        await receive_purchase(purchase.id, "too many", A001=69)
    assert (await receive_purchase(purchase.id, "second")).status == "received"
    assert (await receive_purchase(purchase.id, "second")).status == "received"
    assert await level("SH", "A001") == (168, 0, 168)
    assert await sql("SELECT * FROM incoming") == []
    with pytest.raises(StatusConflict, match="received"):
        await receive_purchase(purchase.id, "third")
    assert await drifts() == []


@pytest.mark.usefixtures("goods")
async def test_unchanged_suggestion_stays_open_and_a_new_one_supersedes_it() -> None:
    await save_terms()
    await sold("SH", "A001", [10] * 60)
    await suggest()
    before = await suggestions()
    await suggest()
    assert await suggestions() == before
    await receive("SH", "A001", 50)
    await suggest()
    by_status = {row.status: row for row in await suggestions()}
    assert by_status.keys() == {"superseded", "suggested"}
    assert (by_status["superseded"].id, by_status["suggested"].quantity) == (before[0].id, 110)
    await receive("SH", "A001", 500)
    assert await suggest() == Progress(checked=1)
    assert {row.status for row in await suggestions()} == {"superseded"}
    with pytest.raises(StatusConflict, match="superseded"):
        await accept(before[0].id)


@pytest.mark.usefixtures("goods")
async def test_dismissed_suggestion_stays_dismissed_and_cancelled_purchase_is_not_expected() -> None:
    await save_terms()
    await sold("SH", "A001", [10] * 60)
    await suggest()
    (found,) = await suggestions()
    for _ in range(2):
        async with transaction() as connection:
            row = await replenishment.dismiss(connection, found.id, "mei")
        assert row is not None
        assert (row.status, row.decided_by) == ("dismissed", "mei")
    with pytest.raises(StatusConflict):
        await accept(found.id)
    assert await accept("none") is None
    await suggest()
    (again,) = [row for row in await suggestions() if row.status == "suggested"]
    purchase = await accept(again.id, 40)
    assert purchase.lines == [{"sku": "A001", "ordered": 40, "received": 0}]
    for _ in range(2):
        async with transaction() as connection:
            cancelled = await replenishment.cancel_purchase(connection, purchase.id)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
    assert await sql("SELECT * FROM incoming") == []
    with pytest.raises(StatusConflict):
        await receive_purchase(purchase.id, "late")


@pytest.mark.usefixtures("goods")
async def test_location_terms_override_general_terms_and_promotions_do_not_count() -> None:
    await save_terms(supplier="Anyone")
    await save_terms(supplier="Local", warehouse="GZ", lead_days=2)
    await sold("SH", "A001", [10] * 50 + [500, 500] + [10] * 8)
    await sold("GZ", "A001", [10] * 60, "CN 广东 广州市")
    async with transaction() as connection:
        sale = Promotion(first=TODAY - timedelta(days=10), last=TODAY - timedelta(days=9))
        await replenishment.save_promotion(connection, sale)
    await suggest()
    found = {row.warehouse: row for row in await suggestions()}
    assert {place: row.detail["supplier"] for place, row in found.items()} == {"SH": "Anyone", "GZ": "Local"}
    assert {place: row.reorder_point for place, row in found.items()} == {"SH": 90, "GZ": 20}
    assert found["SH"].detail["masked_days"] == 2


@pytest.mark.usefixtures("goods")
async def test_virtual_warehouse_counts_with_its_parent() -> None:
    await save_terms()
    await sql(
        "INSERT INTO warehouses (code, kind, parent, audience, share, name, name_zh, province, rank, carrier, closed,"
        " lead_days, areas, abilities, handling) SELECT 'SH@618', 'virtual', 'SH', '{}', 0, '618', '', province, 1,"
        " carrier, false, 0, '[]', '[]', 0 FROM warehouses WHERE code = 'SH'"
    )
    await sold("SH", "A001", [10] * 60)
    await receive("SH", "A001", 40)
    async with transaction() as connection:
        await operations.move_to_virtual(connection, "SH@618", "A001", 30, "fence", "mei")
    await suggest()
    (found,) = await suggestions()
    assert (found.warehouse, found.detail["available"]) == ("SH", 40)


@pytest.mark.usefixtures("goods")
async def test_unshipped_allocations_count_as_demand() -> None:
    await save_terms()
    await sold("SH", "A001", [4] * 20, left=False)
    await suggest()
    (found,) = await suggestions()
    assert (found.detail["demand"], found.detail["per_day"], found.detail["history_days"]) == ("short", 4, 20)


@pytest.mark.usefixtures("goods")
async def test_placement_follows_buyers() -> None:
    await sold("SH", "A001", [3] * 10, "CN 浙江 杭州市")
    await sold("SH", "A001", [1] * 10, "CN 广东 深圳市")
    await receive("SH", "A001", 80)
    async with transaction() as connection:
        found = await replenishment.advise_placement(connection, 2, TODAY, "A001")
    assert found == [
        LocationShare(sku="A001", warehouse="GZ", demand=10, share=0.25, on_hand=0, share_now=0, difference=20),
        LocationShare(sku="A001", warehouse="SH", demand=30, share=0.75, on_hand=80, share_now=1, difference=-20),
    ]


@pytest.mark.usefixtures("goods")
async def test_terms_of_unknown_skus_and_locations_are_refused() -> None:
    for changes, field in (({"sku": "NONE"}, "sku"), ({"warehouse": "MOON"}, "warehouse")):
        with pytest.raises(InvalidInput) as refused:
            await save_terms(**changes)
        assert refused.value.field == field


@pytest.mark.usefixtures("goods")
async def test_run_pages_through_skus_and_a_retry_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replenishment, "PAGE", 1)
    for sku in ("A001", "A002", "B001"):
        await save_terms(sku=sku)
        await sold("SH", sku, [10] * 20)
    beats: list[Progress] = []
    environment = ActivityEnvironment()
    environment.on_heartbeat = beats.append
    done = Progress(after="B001", checked=3, suggested=3)
    assert await environment.run(replenishment.suggest_purchases, TODAY) == done
    assert [each.after for each in beats] == ["A001", "A002", "B001"]
    await sql("DELETE FROM replenishments")
    environment.info = replace(environment.info, heartbeat_details=[beats[1].model_dump()])
    assert await environment.run(replenishment.suggest_purchases, TODAY) == done
    assert [row.sku for row in await suggestions()] == ["B001"]


# API and command line


@pytest.fixture
async def staff(database: str) -> dict[str, str]:
    return await bearer(Scope.STAFF, Scope.WAREHOUSE, name="mei")


AGREED = {"sku": "A001", "supplier": "Acme", "lead_days": 9, "service_level": 0.5, "unit_cost": "2.50"}


@pytest.mark.usefixtures("goods")
async def test_http_api(temporal: Client, api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    assert (await api.get("/replenishments/run", headers=staff)).status_code == 404
    assert (await api.post("/purchase-terms", json=AGREED, headers=staff)).status_code == 200
    await sold("SH", "A001", [10] * 60)
    async with worker(temporal):
        for _ in range(2):
            ran = await api.post("/replenishments/run", headers=staff)
            assert (ran.status_code, ran.json()) == (
                200,
                {"after": "A001", "checked": 1, "suggested": 1, "running": False},
            )
        assert (await api.get("/replenishments/run", headers=staff)).json() == ran.json()
    chinese = {**staff, "Accept-Language": "zh-CN"}
    (found,) = (await api.get("/replenishments?status=suggested&sku=A001", headers=chinese)).json()
    assert (found["quantity"], found["cost"], found["status_text"]) == (160, "400.0000", "待处理")
    assert found["why"].startswith("平稳需求：日均 10.0，误差 0.0（AutoTheta，历史 60 天，剔除 0 天）")
    assert "{" not in found["why"]
    assert (await api.get("/replenishments?sku=B001", headers=staff)).json() == []

    at = f"/replenishments/{found['id']}"
    problem(await api.post(f"{at}/accept", headers=await bearer(Scope.READ)), 403)
    problem(await api.post(f"{at}/accept", json={"quantity": 0}, headers=staff), 422)
    problem(await api.post("/replenishments/none/accept", headers=staff), 404)
    purchase = (await api.post(f"{at}/accept", headers=staff)).json()
    assert (purchase["id"], purchase["status_text"], purchase["created_by"]) == (f"po:{found['id']}", "Ordered", "mei")
    assert (await api.post(f"{at}/accept", headers=staff)).json() == purchase
    closed = problem(await api.post(f"{at}/dismiss", headers=chinese), 409)
    assert closed["detail"] == "已处理过：已采纳"

    there = f"/purchase-orders/{purchase['id']}/receive"
    for _ in range(2):
        part = await api.post(there, json={"goods": {"A001": 60}}, headers={**staff, "Idempotency-Key": "one"})
        assert part.json()["lines"] == [{"sku": "A001", "ordered": 160, "received": 60}]
    over = problem(await api.post(there, json={"goods": {"A001": 101}}, headers=staff), 422)
    assert over["errors"][0]["field"] == "goods.A001"
    problem(await api.post("/purchase-orders/po:none/receive", headers=staff), 404)
    assert (await api.post(there, headers=staff)).json()["status"] == "received"
    problem(await api.post(there, headers=staff), 409)
    assert await level("SH", "A001") == (160, 0, 160)
    (shown,) = (await api.get("/purchase-orders?status=received", headers=staff)).json()
    assert shown["id"] == purchase["id"]
    (part_of,) = (await api.get("/replenishments/placement?weeks=4&sku=A001", headers=staff)).json()
    assert (part_of["warehouse"], part_of["share"]) == ("SH", 1)
    wrong = {"first": "2026-06-18", "last": "2026-06-17"}
    assert problem(await api.post("/promotions", json=wrong, headers=staff), 422)["errors"][0]["field"] == "last"


@pytest.mark.usefixtures("goods")
async def test_missing_forecast_extra_is_named(
    temporal: Client, api: httpx.AsyncClient, staff: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await save_terms()
    await sold("SH", "A001", [10] * 60)
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    async with worker(temporal):
        refusal = problem(await api.post("/replenishments/run", headers=staff), 409)
    assert "hengdan[forecast]" in refusal["detail"]
    assert await suggestions() == []


@pytest.mark.usefixtures("goods")
async def test_command_line(
    temporal: Client,
    api: httpx.AsyncClient,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("li", list(Scope)))
    settings.cache_clear()
    hengdan = Commands(capsys)
    await sold("SH", "A001", [10] * 60)
    with capture_logs():  # the API shares standard output with the command here
        assert "Nothing" in await hengdan.ok("replenish", "list")
        assert "Acme" in await hengdan.ok("replenish", "agree", "A001", "Acme", "9", "--service-level", "0.5")
        assert "A001" in await hengdan.ok("replenish", "terms")
        first, last = (f"{TODAY - timedelta(days=back)}" for back in (9, 8))
        await hengdan.ok("replenish", "promotion", first, last, "--sku", "A001")
        async with worker(temporal):
            assert "Checked 1; 1 to buy" in await hengdan.ok("replenish", "run")
        (found,) = json.loads(await hengdan.ok("replenish", "list", "--json"))
        assert found["detail"]["masked_days"] == 2
        assert "平稳需求" in await hengdan.ok("replenish", "list", "--lang", "zh-CN")
        assert "0/160" in await hengdan.ok("replenish", "accept", found["id"])
        assert "done with already: Accepted" in await hengdan.refused("replenish", "dismiss", found["id"])
        assert "60/160" in await hengdan.ok("replenish", "receive", found["id"], "A001=60")
        assert "Partially received" in await hengdan.ok("replenish", "orders")
        assert "Cancelled" in await hengdan.ok("replenish", "cancel", f"po:{found['id']}")
        assert "100%" in await hengdan.ok("replenish", "placement", "--weeks", "4")
        assert "A001 is not SKU=QUANTITY" in await hengdan.refused("replenish", "receive", found["id"], "A001")
    assert await level("SH", "A001") == (60, 0, 60)


async def test_runs_every_night(temporal: Client) -> None:
    await schedule_system(temporal)
    try:
        described = await temporal.get_schedule_handle("replenishment").describe()
        (when,) = described.schedule.spec.calendars
        assert (when.hour[0].start, described.schedule.spec.time_zone_name) == (2, "Asia/Shanghai")
        assert described.info.num_actions == 0, "not at once"
        assert described.schedule.policy.catchup_window == timedelta(days=1)
    finally:
        for name in ("replenishment", "thresholds"):
            await temporal.get_schedule_handle(name).delete()
