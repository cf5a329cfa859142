"""Sheets through the real API: what goes out comes back in, and of a bad one nothing does."""

from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text

from activities import inventory
from activities.database import transaction
from activities.imports import KINDS
from models.access import Scope
from models.stock import LocationKind, WarehouseRow
from starter.catalogue import seed
from tests.doors import bearer

Heads = dict[str, str]


@pytest.fixture
async def staff(door: httpx.AsyncClient) -> Heads:
    """The header of somebody who may import into a catalogue with something of everything."""
    async with transaction() as connection:
        await seed(connection)
        for warehouse, sku, quantity in (("SH", "A001", 10), ("SH", "A002", 5), ("GZ", "A001", 3)):
            await inventory.receive(connection, warehouse, sku, quantity, f"{warehouse}{sku}", "test")
        await inventory.set_safety_stock(connection, "SH", "A001", 2)
        for statement in (
            "INSERT INTO substitutes VALUES ('A001', 'A002', 10)",
            "UPDATE skus SET needs = '[\"cold_chain\"]', presale_on = '2026-12-01', title = '=1+1' WHERE sku = 'A003'",
            "UPDATE warehouses SET cutoff = '16:30', areas = '[\"上海市\", \"江苏省\"]', max_kg = 20 WHERE code = 'SH'",
        ):
            await connection.execute(text(statement))
        fence = WarehouseRow(
            code="SH-VIP",
            kind=LocationKind.VIRTUAL,
            parent="SH",
            audience={"shops": ["own:web"], "priority": 2},
            share=Decimal("0.25"),
            name="Fence",
            province="上海市",
            carrier="sf",
        )
        await connection.execute(insert(WarehouseRow).values(**fence.model_dump()))
    return await bearer(Scope.STAFF)


async def everything() -> dict[str, list[Any]]:
    """The tables that sheets may change."""
    async with transaction() as connection:
        return {
            table: [tuple(row) for row in await connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))]
            for table in ("skus", "bundles", "warehouses", "stock_levels", "substitutes", "movements")
        }


async def load(
    door: httpx.AsyncClient, staff: Heads, kind: str, sheet: str | bytes, lang: str = "en", **query: Any
) -> httpx.Response:
    content = sheet if isinstance(sheet, bytes) else sheet.encode()
    headers = staff | {"Content-Type": "text/csv", "Accept-Language": lang}
    return await door.post(f"/files/{kind}", content=content, params=query, headers=headers)


async def on_hand(warehouse: str, sku: str) -> int | None:
    query = text("SELECT on_hand FROM stock_levels WHERE warehouse = :warehouse AND sku = :sku")
    async with transaction() as connection:
        found: int | None = await connection.scalar(query, {"warehouse": warehouse, "sku": sku})
        assert await inventory.verify(connection) == []
    return found


@pytest.mark.parametrize("lang", ["en", "zh-CN"])
@pytest.mark.parametrize("format", ["csv", "xlsx"])
@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_what_is_exported_is_imported_unchanged(
    door: httpx.AsyncClient, staff: Heads, kind: str, format: str, lang: str
) -> None:
    before = await everything()
    exported = await door.get(f"/files/{kind}", params={"format": format}, headers=staff | {"Accept-Language": lang})
    assert exported.status_code == 200
    assert f'"{kind}.{format}"' in exported.headers["content-disposition"]
    answer = await load(door, staff, kind, exported.content)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["rows"] == told["applied"] > 0
    assert await everything() == before


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"levels", "safety"}))
async def test_what_was_deleted_comes_back(door: httpx.AsyncClient, staff: Heads, kind: str) -> None:
    table = {"locations": "warehouses"}.get(kind, kind)
    before = (await everything())[table]
    exported = await door.get(f"/files/{kind}", params={"format": "xlsx"}, headers=staff)
    async with transaction() as connection:
        await connection.execute(text(f"DELETE FROM {table}"))
    assert (await load(door, staff, kind, exported.content)).status_code == 200
    after = (await everything())[table]
    if kind == "locations":  # no sheet has the sender
        place = [row[0] for row in before].index("SH")
        assert [row[0] for row in after] == [row[0] for row in before]
        assert sum(a != b for a, b in zip(after[place], before[place], strict=True)) == 1
    else:
        assert after == before


async def test_a_count_becomes_the_level_by_the_ledger(door: httpx.AsyncClient, staff: Heads) -> None:
    sheet = '仓库,商品编码,实物\nSH,A001,7\nSH,A002,5\nCD,A005,"1,200"\n'
    for key in ("one", "one", "two"):
        answer = await load(door, staff | {"Idempotency-Key": key}, "levels", sheet, name="count.csv")
        assert answer.json() == {"rows": 3, "applied": 3, "errors": [], "more": 0}
    assert [await on_hand(*place) for place in (("SH", "A001"), ("SH", "A002"), ("CD", "A005"))] == [7, 5, 1200]
    ledger = (await door.get("/stock/ledger", headers=staff)).json()["items"]
    imported = [
        (each["sku"], each["quantity"], each["actor"]) for each in ledger if each["reason"] == "import count.csv"
    ]
    assert sorted(imported) == [("A001", -3, "staff"), ("A005", 1200, "staff")]


BAD = """sku,warehouse,on_hand
A001,SH,1
A002,SH,-1
NOSUCH,SH,1
A002,XX,1
K001,SH,1
A001,SH,2
A004,SH,many
,SH,1
A003,SH,4
"""


async def test_of_a_bad_file_nothing_is_applied(door: httpx.AsyncClient, staff: Heads) -> None:
    before = await everything()
    answer = await load(door, staff, "levels", BAD)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["rows"], told["applied"]) == (9, 0)
    assert [(each["row"], each["field"], each["value"], each["message"]) for each in told["errors"]] == [
        (2, "on_hand", "1", "Would leave -1 available: more is promised to orders or kept back"),
        (3, "on_hand", "-1", "At least 0"),
        (4, "sku", "NOSUCH", "Not in the catalogue"),
        (5, "warehouse", "XX", "No such location"),
        (6, "sku", "K001", "This is a bundle: its components hold the stock"),
        (7, "sku", "A001", "The same as row 2"),
        (8, "on_hand", "many", "Not a whole number"),
        (9, "sku", "", "Must not be empty"),
    ]
    assert await everything() == before
    chinese = (await load(door, staff, "levels", BAD, "zh-CN")).json()
    assert "8 处错误" in chinese["detail"]
    assert (chinese["errors"][2]["column"], chinese["errors"][2]["message"]) == ("商品编码", "商品目录中没有")


async def test_the_good_rows_are_applied_where_asked(door: httpx.AsyncClient, staff: Heads) -> None:
    checked = await load(door, staff, "levels", BAD, check=True, partial=True)
    assert (checked.status_code, checked.json()["applied"], len(checked.json()["errors"])) == (200, 0, 8)
    assert await on_hand("SH", "A003") is None
    answer = await load(door, staff, "levels", BAD, partial=True)
    assert (answer.status_code, answer.json()["applied"], len(answer.json()["errors"])) == (200, 1, 8)
    assert await on_hand("SH", "A003") == 4
    assert await on_hand("SH", "A001") == 10
