"""Replenishment on the real database: from what was sold to goods on the shelf."""

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from activities import inventory, replenishment
from activities.database import transaction
from activities.inventory import NotAllowed
from activities.replenishment import Placement, Progress
from models.base import CHINA
from models.purchase import Promotion, Terms
from models.stock import Move, MovementKind
from starter import catalogue
from tests.integration.books import drifts, level, receive, sql, woken

TODAY = datetime.now(CHINA).date()


@pytest.fixture
async def goods(database: str) -> None:
    async with transaction() as connection:
        await catalogue.seed(connection)


async def terms(**changes: Any) -> None:
    given = {"sku": "A001", "supplier": "Acme", "lead_days": 9, "review_days": 7, "service_level": 0.5}
    async with transaction() as connection:
        await replenishment.keep_terms(connection, Terms(**given | changes))


async def sold(
    warehouse: str, sku: str, per_day: Sequence[int], region: str = "CN 上海 上海市", *, left: bool = True
) -> None:
    """Orders of so many on each of the days until yesterday, shipped or still allocated."""
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
        await inventory.move(connection, moves)


async def suggest(*skus: str, today: date = TODAY) -> Progress:
    async with transaction() as connection:
        return await replenishment.suggest(connection, today, skus or ["A001"])


async def suggestions() -> list[Any]:
    async with transaction() as connection:
        return list(await replenishment.every(connection))


async def accepted(suggestion_id: str, quantity: int | None = None) -> Any:
    async with transaction() as connection:
        return await replenishment.accept(connection, suggestion_id, quantity, TODAY, "mei")


async def arrives(purchase_id: str, request_id: str, **goods: int) -> Any:
    async with transaction() as connection:
        return await replenishment.receive_purchase(connection, purchase_id, goods, request_id, "mei")


@pytest.mark.usefixtures("goods")
async def test_from_what_was_sold_to_goods_on_the_shelf() -> None:
    await terms(pack_size=12)
    await sold("SH", "A001", [10] * 60)
    await sql(
        "INSERT INTO stock_waits (order_id, sku, quantity, priority, since, province, instead)"
        " VALUES ('order:own:web:W1', 'A001', 5, 3, now(), '浙江', '[]')"
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

    purchase = await accepted(found.id)
    assert (purchase.id, purchase.due) == (f"po:{found.id}", TODAY + timedelta(days=9))
    assert await accepted(found.id) == purchase
    (coming,) = await sql("SELECT source, warehouse, quantity FROM incoming")
    assert tuple(coming) == (purchase.id, "SH", 168)
    assert await suggest() == Progress(checked=1, suggested=0), "what is on its way is not bought again"

    part = await arrives(purchase.id, "first", A001=100)
    assert (part.status, part.lines) == ("partially_received", [{"sku": "A001", "ordered": 168, "received": 100}])
    assert await arrives(purchase.id, "first", A001=100) == part
    assert await level("SH", "A001") == (100, 0, 100)
    assert [row.quantity for row in await sql("SELECT quantity FROM incoming")] == [68]
    assert await woken() == ["W1"]
    with pytest.raises(NotAllowed, match="between 1 and 68"):
        await arrives(purchase.id, "too many", A001=69)
    assert (await arrives(purchase.id, "second")).status == "received"
    assert (await arrives(purchase.id, "second")).status == "received"
    assert await level("SH", "A001") == (168, 0, 168)
    assert await sql("SELECT * FROM incoming") == []
    with pytest.raises(NotAllowed, match="received already"):
        await arrives(purchase.id, "third")
    assert await drifts() == []


@pytest.mark.usefixtures("goods")
async def test_a_look_again_changes_nothing_and_a_new_one_takes_the_place_of_the_old() -> None:
    await terms()
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
    with pytest.raises(NotAllowed, match="superseded already"):
        await accepted(before[0].id)


@pytest.mark.usefixtures("goods")
async def test_dismissed_is_dismissed_and_cancelled_is_not_expected() -> None:
    await terms()
    await sold("SH", "A001", [10] * 60)
    await suggest()
    (found,) = await suggestions()
    for _ in range(2):
        async with transaction() as connection:
            row = await replenishment.dismiss(connection, found.id, "mei")
        assert row is not None
        assert (row.status, row.decided_by) == ("dismissed", "mei")
    with pytest.raises(NotAllowed):
        await accepted(found.id)
    assert await accepted("none") is None
    await suggest()
    (again,) = [row for row in await suggestions() if row.status == "suggested"]
    purchase = await accepted(again.id, 40)
    assert purchase.lines == [{"sku": "A001", "ordered": 40, "received": 0}]
    for _ in range(2):
        async with transaction() as connection:
            cancelled = await replenishment.cancel_purchase(connection, purchase.id)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
    assert await sql("SELECT * FROM incoming") == []
    with pytest.raises(NotAllowed):
        await arrives(purchase.id, "late")


@pytest.mark.usefixtures("goods")
async def test_terms_of_a_location_go_before_those_of_any_and_promotions_do_not_count() -> None:
    await terms(supplier="Anyone")
    await terms(supplier="Local", warehouse="GZ", lead_days=2)
    await sold("SH", "A001", [10] * 50 + [500, 500] + [10] * 8)
    await sold("GZ", "A001", [10] * 60, "CN 广东 广州市")
    async with transaction() as connection:
        sale = Promotion(first=TODAY - timedelta(days=10), last=TODAY - timedelta(days=9))
        await replenishment.keep_promotion(connection, sale)
    await suggest()
    found = {row.warehouse: row for row in await suggestions()}
    assert {place: row.detail["supplier"] for place, row in found.items()} == {"SH": "Anyone", "GZ": "Local"}
    assert {place: row.reorder_point for place, row in found.items()} == {"SH": 90, "GZ": 20}
    assert found["SH"].detail["masked_days"] == 2


@pytest.mark.usefixtures("goods")
async def test_a_virtual_warehouse_is_bought_for_with_its_parent() -> None:
    await terms()
    await sql(
        "INSERT INTO warehouses (code, kind, parent, audience, share, name, name_zh, province, rank, carrier, closed,"
        " lead_days, areas, abilities, handling) SELECT 'SH@618', 'virtual', 'SH', '{}', 0, '618', '', province, 1,"
        " carrier, false, 0, '[]', '[]', 0 FROM warehouses WHERE code = 'SH'"
    )
    await sold("SH", "A001", [10] * 60)
    await receive("SH", "A001", 40)
    async with transaction() as connection:
        await inventory.fence(connection, "SH@618", "A001", 30, "fence", "mei")
    await suggest()
    (found,) = await suggestions()
    assert (found.warehouse, found.detail["available"]) == ("SH", 40)


@pytest.mark.usefixtures("goods")
async def test_what_is_not_shipped_yet_was_wanted_too() -> None:
    await terms()
    await sold("SH", "A001", [4] * 20, left=False)
    await suggest()
    (found,) = await suggestions()
    assert (found.detail["demand"], found.detail["per_day"], found.detail["history_days"]) == ("short", 4, 20)


@pytest.mark.usefixtures("goods")
async def test_goods_had_better_be_where_their_buyers_are() -> None:
    await sold("SH", "A001", [3] * 10, "CN 浙江 杭州市")
    await sold("SH", "A001", [1] * 10, "CN 广东 深圳市")
    await receive("SH", "A001", 80)
    async with transaction() as connection:
        found = await replenishment.placement(connection, 2, TODAY, "A001")
    assert found == [
        Placement(sku="A001", warehouse="GZ", demand=10, share=0.25, on_hand=0, share_now=0, difference=20),
        Placement(sku="A001", warehouse="SH", demand=30, share=0.75, on_hand=80, share_now=1, difference=-20),
    ]


@pytest.mark.usefixtures("goods")
async def test_terms_of_what_is_not_there_are_refused() -> None:
    for changes, field in (({"sku": "NONE"}, "sku"), ({"warehouse": "MOON"}, "warehouse")):
        with pytest.raises(NotAllowed) as refused:
            await terms(**changes)
        assert refused.value.field == field
