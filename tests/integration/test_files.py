"""Sheets through the real API: exports can be imported, and a file with an error changes nothing."""

from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, text

from activities.files.engine import SHEETS
from activities.kit.database import transaction
from activities.stock import ledger, operations
from models.api_keys import Scope
from models.stock import LocationKind, SkuRow, WarehouseRow
from starter.sandbox.merchant import seed
from tests.api import bearer, rows

Heads = dict[str, str]


@pytest.fixture
async def staff(api: httpx.AsyncClient) -> Heads:
    """The header of staff who may import, with a database that has rows of every kind."""
    async with transaction() as connection:
        await seed(connection)
        for warehouse, sku, quantity in (("SH", "A001", 10), ("SH", "A002", 5), ("GZ", "A001", 3)):
            await operations.receive(connection, warehouse, sku, quantity, f"{warehouse}{sku}", "test")
        await operations.set_safety_stock(connection, "SH", "A001", 2)
        for statement in (
            "INSERT INTO substitutes VALUES ('A001', 'A002', 10)",
            "INSERT INTO rates VALUES ('sf', '上海', '', 1, 12, 1, 2.5, 6000, 2, 0)",
            "INSERT INTO routing_rules VALUES (10, 'no far away', '[\"own:web\"]', '[]', true,"
            ' \'[{"field": "province", "op": "in", "value": ["西藏"]}]\','
            ' \'{"do": "exclude", "locations": ["SH"]}\')',
            "INSERT INTO listings VALUES ('taobao', 'demo', 'A001', '{\"num_iid\": \"61\"}', null, null, '')",
            "INSERT INTO mappings VALUES ('taobao', '', '61:7', 'A001', 'manual', 'li', '2026-11-20T00:00Z')",
            "INSERT INTO exchange_rates VALUES ('JPY', 'CNY', '2026-11-01', 0.048)",
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
    """Return the rows of all tables that sheets may change."""
    async with transaction() as connection:
        return {
            table: [tuple(row) for row in await connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))]
            for table in (
                "skus",
                "bundles",
                "warehouses",
                "stock_levels",
                "substitutes",
                "movements",
                "rates",
                "routing_rules",
                "listings",
                "mappings",
                "exchange_rates",
            )
        }


async def load(
    api: httpx.AsyncClient, staff: Heads, kind: str, sheet: str | bytes, lang: str = "en", **query: Any
) -> httpx.Response:
    content = sheet if isinstance(sheet, bytes) else sheet.encode()
    headers = staff | {"Content-Type": "text/csv", "Accept-Language": lang}
    return await api.post(f"/files/{kind}", content=content, params=query, headers=headers, timeout=90)


async def on_hand(warehouse: str, sku: str) -> int | None:
    query = text("SELECT on_hand FROM stock_levels WHERE warehouse = :warehouse AND sku = :sku")
    async with transaction() as connection:
        found: int | None = await connection.scalar(query, {"warehouse": warehouse, "sku": sku})
        assert await ledger.verify(connection) == []
    return found


@pytest.mark.parametrize("lang", ["en", "zh-CN"])
@pytest.mark.parametrize("format", ["csv", "xlsx"])
@pytest.mark.parametrize("kind", sorted(SHEETS))
async def test_export_is_imported_unchanged(
    api: httpx.AsyncClient, staff: Heads, kind: str, format: str, lang: str
) -> None:
    before = await everything()
    exported = await api.get(f"/files/{kind}", params={"format": format}, headers=staff | {"Accept-Language": lang})
    assert exported.status_code == 200
    assert f'"{kind}.{format}"' in exported.headers["content-disposition"]
    answer = await load(api, staff, kind, exported.content)
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert report["rows"] == report["applied"] > 0
    assert await everything() == before


@pytest.mark.parametrize("kind", sorted(set(SHEETS) - {"levels", "safety"}))
async def test_import_restores_deleted_rows(api: httpx.AsyncClient, staff: Heads, kind: str) -> None:
    table = {"locations": "warehouses", "rules": "routing_rules"}.get(kind, kind)
    before = (await everything())[table]
    exported = await api.get(f"/files/{kind}", params={"format": "xlsx"}, headers=staff)
    async with transaction() as connection:
        await connection.execute(text(f"DELETE FROM {table}"))
    assert (await load(api, staff, kind, exported.content)).status_code == 200
    after = (await everything())[table]
    if kind == "locations":  # sheets do not contain the sender
        place = [row[0] for row in before].index("SH")
        assert [row[0] for row in after] == [row[0] for row in before]
        assert sum(a != b for a, b in zip(after[place], before[place], strict=True)) == 1
    elif kind == "mappings":  # the actor and time differ
        assert [row[:5] for row in after] == [row[:5] for row in before]
    else:
        assert after == before


async def test_count_is_entered_as_an_adjustment(api: httpx.AsyncClient, staff: Heads) -> None:
    sheet = '仓库,商品编码,实物\nSH,A001,7\nSH,A002,5\nCD,A005,"1,200"\n'
    for key in ("one", "one", "two"):
        answer = await load(api, staff | {"Idempotency-Key": key}, "levels", sheet, name="count.csv")
        assert answer.json() == {"rows": 3, "applied": 3, "errors": [], "more": 0}
    assert [await on_hand(*place) for place in (("SH", "A001"), ("SH", "A002"), ("CD", "A005"))] == [7, 5, 1200]
    ledger = (await api.get("/stock/ledger", headers=staff)).json()["items"]
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


async def test_file_with_errors_changes_nothing(api: httpx.AsyncClient, staff: Heads) -> None:
    before = await everything()
    answer = await load(api, staff, "levels", BAD)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    report = answer.json()
    assert (report["rows"], report["applied"]) == (9, 0)
    assert [(each["row"], each["field"], each["value"], each["message"]) for each in report["errors"]] == [
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
    chinese = (await load(api, staff, "levels", BAD, "zh-CN")).json()
    assert "8 处错误" in chinese["detail"]
    assert (chinese["errors"][2]["column"], chinese["errors"][2]["message"]) == ("商品编码", "商品档案中没有")


async def test_partial_import_applies_valid_rows(api: httpx.AsyncClient, staff: Heads) -> None:
    checked = await load(api, staff, "levels", BAD, check=True, partial=True)
    assert (checked.status_code, checked.json()["applied"], len(checked.json()["errors"])) == (200, 0, 8)
    assert await on_hand("SH", "A003") is None
    answer = await load(api, staff, "levels", BAD, partial=True)
    assert (answer.status_code, answer.json()["applied"], len(answer.json()["errors"])) == (200, 1, 8)
    assert await on_hand("SH", "A003") == 4
    assert await on_hand("SH", "A001") == 10


async def test_levels_below_allocated_are_refused(api: httpx.AsyncClient, staff: Heads) -> None:
    kept = await load(api, staff, "safety", "warehouse,sku,safety_stock\nSH,A001,11\nSH,A002,5\n", partial=True)
    assert [(each["row"], each["field"]) for each in kept.json()["errors"]] == [(2, "safety_stock")]
    assert kept.json()["applied"] == 1
    refused = await load(api, staff, "levels", "warehouse,sku,on_hand\nSH,A002,4\n")
    assert [(each["row"], each["field"]) for each in refused.json()["errors"]] == [(2, "on_hand")]
    assert await on_hand("SH", "A002") == 5


async def test_imported_count_notifies_waiting_orders(api: httpx.AsyncClient, staff: Heads) -> None:
    wait = (
        "INSERT INTO stock_waits (order_id, sku, quantity, priority, since, province, instead, claims)"
        " VALUES ('order:own:web:1', 'A002', 6, 3, now(), '上海', '[]', false)"
    )
    async with transaction() as connection:
        await connection.execute(text(wait))
    await load(api, staff, "levels", "warehouse,sku,on_hand\nSH,A002,5\n")
    assert await rows(topic="stock_arrived") == []
    await load(api, staff, "levels", "warehouse,sku,on_hand\nSH,A002,6\n")
    assert [row.order_id for row in await rows(topic="stock_arrived")] == ["order:own:web:1"]


async def test_omitted_columns_keep_their_values(api: httpx.AsyncClient, staff: Heads) -> None:
    changed = "sku,title,price,weight_kg\nA003,Linen,1.5,2\nZ001,New,3,4\n"
    assert (await load(api, staff, "skus", changed)).json()["applied"] == 2
    cleared = "sku,title,price,weight_kg,needs,oversell\nA001,Tee,1,1,,yes\n"
    assert (await load(api, staff, "skus", cleared)).json()["applied"] == 1
    async with transaction() as connection:
        after = {row.sku: row for row in await connection.execute(select(SkuRow))}
    assert (after["A003"].title, after["A003"].title_zh, after["A003"].needs) == ("Linen", "亚麻衬衫", ["cold_chain"])
    assert (after["Z001"].currency, after["A001"].oversell) == ("CNY", True)
    moved = await load(api, staff, "locations", "code,name,province,carrier\nSH,Shanghai 2,上海市,yto\n")
    assert moved.status_code == 200
    async with transaction() as connection:
        (shanghai,) = (await connection.execute(select(WarehouseRow).where(WarehouseRow.code == "SH"))).all()  # type: ignore[arg-type]
        oversold = (await connection.scalars(text("SELECT oversell FROM stock_levels WHERE sku = 'A001'"))).all()
    assert (shanghai.name, shanghai.carrier, shanghai.areas) == ("Shanghai 2", "yto", ["上海市", "江苏省"])
    assert shanghai.sender is not None
    assert oversold == [True, True]


async def test_oversell_stays_until_stock_covers_it(api: httpx.AsyncClient, staff: Heads) -> None:
    async with transaction() as connection:
        await connection.execute(text("UPDATE skus SET oversell = true WHERE sku = 'A001'"))
        await connection.execute(text("UPDATE stock_levels SET oversell = true WHERE sku = 'A001'"))
    heads = "sku,title,price,weight_kg,oversell\n"
    await load(api, staff, "safety", "warehouse,sku,safety_stock\nSH,A001,11\n")
    refused = await load(api, staff, "skus", f"{heads}A001,T,1,1,no\n")
    assert [(each["row"], each["field"]) for each in refused.json()["errors"]] == [(2, "oversell")]
    await load(api, staff, "safety", "warehouse,sku,safety_stock\nSH,A001,0\n")
    assert (await load(api, staff, "skus", f"{heads}A001,T,1,1,no\n")).status_code == 200


async def test_bundle_is_replaced_as_a_whole(api: httpx.AsyncClient, staff: Heads) -> None:
    def of(bundle: str, rows: list[Any]) -> list[Any]:
        return [row[1:] for row in rows if row[0] == bundle]

    sheet = "bundle,sku,quantity\nK001,B003,1\nK003,D005,0\nK003,D006,2\nK004,K001,1\nA002,B001,1\nB002,B001,1\n"
    report = (await load(api, staff, "bundles", sheet, partial=True)).json()
    assert [(each["row"], each["message"]) for each in report["errors"]] == [
        (3, "At least 1"),
        (4, "Another row that belongs to this one is wrong"),
        (5, "This is a bundle: its components hold the stock"),
        (6, "Has stock of its own, as a bundle must not"),
    ]
    after = (await everything())["bundles"]
    assert of("K001", after) == [("B003", 1)]
    assert of("K003", after) == [("D005", 1), ("D006", 1), ("D007", 1)]
    assert of("B002", after) == [("B001", 1)]
    nested = (await load(api, staff, "bundles", "bundle,sku,quantity\nB001,B004,1\n")).json()
    assert [each["message"] for each in nested["errors"]] == ["Is a component of another bundle"]


async def test_contradictions_of_the_catalogue_are_refused(api: httpx.AsyncClient, staff: Heads) -> None:
    for kind, sheet, expected in (
        ("substitutes", "sku,substitute\nA001,A001\nA001,NOSUCH\n", [(2, "substitute"), (3, "substitute")]),
        (
            "locations",
            "code,name,province,carrier,kind,parent\nV1,V,P,sf,virtual,V2\nV2,V,P,sf,virtual,SH\nV3,V,P,sf,store,SH\n"
            "V4,V,P,sf,virtual,V5\nV5,V,P,sf,warehouse,\nV6,V,P,sf,virtual,\n",
            [(2, "parent"), (4, "parent"), (7, "parent")],
        ),
    ):
        answer = await load(api, staff, kind, sheet)
        assert answer.status_code == 422
        assert [(each["row"], each["field"]) for each in answer.json()["errors"]] == expected


async def test_file_can_be_sent_as_a_form(api: httpx.AsyncClient, staff: Heads) -> None:
    sent = {"file": ("盘点.csv", "仓库,商品编码,实物\nSH,A002,6\n".encode("gb18030"), "text/csv")}
    answer = await api.post("/files/levels", files=sent, headers=staff)
    assert answer.json() == {"rows": 1, "applied": 1, "errors": [], "more": 0}
    ledger = (await api.get("/stock/ledger", params={"sku": "A002"}, headers=staff)).json()["items"]
    assert ledger[0]["reason"] == "import 盘点.csv"
    empty = await api.post("/files/levels", data={"a": "b"}, files={"x": ("", b"")}, headers=staff)
    assert empty.status_code == 422


async def test_unreadable_file_is_refused(api: httpx.AsyncClient, staff: Heads) -> None:
    assert (await load(api, staff, "nosuch", "a\n")).status_code == 404
    assert (await api.get("/files/nosuch", headers=staff)).status_code == 404
    assert (await load(api, staff, "levels", b"PK\x03\x04")).status_code == 422
    assert (await load(api, staff, "levels", b"x" * 11 * 1024**2)).status_code == 413
    broken = staff | {"Content-Type": "multipart/form-data"}
    assert (await api.post("/files/levels", content=b"x", headers=broken)).status_code == 422
    columns = (await load(api, staff, "levels", "sku,colour\nA001,red\n", partial=True)).json()
    assert [(each["row"], each["field"]) for each in columns["errors"]] == [
        (1, "colour"),
        (1, "warehouse"),
        (1, "on_hand"),
    ]
    assert (await load(api, await bearer(Scope.WAREHOUSE), "levels", "a\n")).status_code == 403
    assert (await api.get("/files/levels", headers=await bearer(Scope.READ))).status_code == 403


async def test_import_exceeds_the_parameter_limit(api: httpx.AsyncClient, staff: Heads) -> None:
    many = 66_000
    async with transaction() as connection:
        named = "INSERT INTO skus (sku, title, title_zh, price, currency, weight_kg, volume_cm3, needs, oversell)"
        series = f" SELECT 'M' || n, 'T', '', 1, 'CNY', 1, 0, '[]', false FROM generate_series(0, {many - 1}) n"
        await connection.execute(text(named + series))
    counts = "warehouse,sku,on_hand\n" + "".join(f"SH,M{each},1\n" for each in range(many))
    assert (await load(api, staff, "levels", counts)).json()["applied"] == many
    assert await on_hand("SH", f"M{many - 1}") == 1


async def test_code_that_differs_in_case_or_width_alone_is_refused_row_by_row(
    api: httpx.AsyncClient, staff: Heads
) -> None:
    for kind, known in (("skus", "A001"), ("locations", "SH")):
        definition = SHEETS[kind]
        required = [name for name, info in definition.line.model_fields.items() if info.is_required()]
        values = ",".join("1" for _ in required[1:])
        wide = "".join(chr(ord(each) + 0xFEE0) for each in known)
        rows = [known, known.lower(), wide, "Neu7", "neu7"]
        sheet = ",".join(required) + "\n" + "".join(f"{code},{values}\n" for code in rows)
        answer = await load(api, staff, kind, sheet, check=True)
        similar = [
            (each["row"], each["message"]) for each in answer.json()["errors"] if "Looks like" in each["message"]
        ]
        assert [row for row, _ in similar] == [3, 4, 6], answer.text
        assert known in similar[0][1]
        assert "Neu7" in similar[2][1]
