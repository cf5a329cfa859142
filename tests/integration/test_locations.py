"""Locations by API, sheet and command: their senders, and what keeps them from shipping."""

from typing import Any, get_args

import httpx
import pytest
from sqlalchemy import text

from activities.accounts import declarations
from activities.accounts.accounts import save
from activities.catalogue import locations
from activities.kit.database import transaction
from models.api_keys import Scope
from models.intake import IntegrationType
from models.stock import LocationKind, WarehouseSystem
from starter.cli import locations as cli
from starter.sandbox import merchant
from tests.api import bearer, open_account

Heads = dict[str, str]
PLACE = {"code": "SZ", "name": "Suzhou", "province": "江苏省", "carrier": "sf"}
SENDER = {"name": "恒单苏州仓", "phone": "139 1234 5678", "city": "苏州市", "district": "吴中区", "street": "木渎镇1号"}


@pytest.fixture
async def staff(api: httpx.AsyncClient) -> Heads:
    return await bearer(Scope.STAFF)


async def put(api: httpx.AsyncClient, staff: Heads, **changes: Any) -> httpx.Response:
    return await api.put("/locations/SZ", json=PLACE | changes, headers=staff)


async def stored_sender() -> Any:
    async with transaction() as connection:
        return (await locations.senders(connection)).get("SZ")


async def test_new_location_names_what_keeps_it_from_shipping(api: httpx.AsyncClient, staff: Heads) -> None:
    created = (await put(api, staff)).json()
    sender, carrier = created["obstacles"]
    assert "hengdan locations set SZ --contact" in sender
    assert "hengdan accounts set carrier sf" in carrier
    await open_account(IntegrationType.CARRIER, "sf", "default", base_url="http://127.0.0.1:9", secret="s")
    ready = (await put(api, staff, sender=SENDER)).json()
    assert ready["obstacles"] == []
    chinese = await api.get("/locations", headers=staff | {"Accept-Language": "zh-CN"})
    assert chinese.json()[0]["obstacles"] == []


async def test_sender_is_cleansed_sealed_and_masked(api: httpx.AsyncClient, staff: Heads) -> None:
    answer = (await put(api, staff, sender=SENDER)).json()
    assert (answer["sender"]["name"], answer["sender"]["phone"], answer["sender"]["street"]) == (
        "恒**",
        "139****5678",
        "****",
    )
    sender = await stored_sender()
    assert (sender.phone, sender.province, sender.division) == ("+8613912345678", "江苏省", "320506")
    async with transaction() as connection:
        raw = await connection.scalar(text("SELECT sender FROM warehouses WHERE code = 'SZ'"))
    assert "恒单".encode() not in bytes(raw)
    kept = (await put(api, staff, rank=5)).json()
    assert kept["sender"] == answer["sender"]
    await put(api, staff, sender={"phone": "0512-66668888"})
    changed = await stored_sender()
    assert (changed.phone, changed.name, changed.street) == ("+8651266668888", sender.name, sender.street)


@pytest.mark.parametrize(
    ("part", "value", "field"),
    [
        ("phone", "abc", "sender.phone"),
        ("phone", "", "sender.phone"),
        ("phone", "139****5678", "sender"),
        ("name", "", "sender.name"),
        ("street", "", "sender.street"),
        ("city", "广州市", "sender"),
    ],
)
async def test_sender_that_no_label_can_bear_is_refused(
    api: httpx.AsyncClient, staff: Heads, part: str, value: str, field: str
) -> None:
    answer = await put(api, staff, sender=SENDER | {part: value})
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == [field]
    async with transaction() as connection:
        assert await locations.list_all(connection) == []


async def test_sheet_sets_senders_and_its_blank_cells_keep_them(api: httpx.AsyncClient, staff: Heads) -> None:
    heads = "编码,名称,省份,承运商,寄件人,电话,城市,区县,详细地址\n"
    row = "SZ,苏州,江苏省,sf,恒单苏州仓,{phone},苏州市,吴中区,木渎镇1号\n"

    async def load(sheet: str) -> httpx.Response:
        headers = staff | {"Content-Type": "text/csv"}
        return await api.post("/files/locations", content=sheet.encode(), headers=headers)

    refused = await load(heads + row.format(phone="12"))
    assert [(each["row"], each["field"]) for each in refused.json()["errors"]] == [(2, "phone")]
    assert (await load(heads + row.format(phone="13912345678"))).status_code == 200
    sender = await stored_sender()
    exported = await api.get("/files/locations", params={"format": "csv"}, headers=staff)
    assert "13912345678" not in exported.text
    assert (await load(exported.text)).status_code == 200
    assert await stored_sender() == sender
    assert sender.phone == "+8613912345678"


def test_command_offers_every_kind_and_system() -> None:
    assert get_args(cli.Kind) == tuple(LocationKind)
    assert get_args(cli.System) == tuple(WarehouseSystem)


async def test_setup_lists_what_is_missing_until_nothing_is(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    async def missing(lang: str = "en") -> list[str]:
        answer = await api.get("/setup", headers=staff | {"Accept-Language": lang})
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    found = await missing()
    assert all("hengdan " in each for each in found)
    assert [each.split(".")[0] for each in found if each.startswith("There")] == [
        "There are no SKUs",
        "There is no location",
    ]
    assert any("own/web, base_url" in each for each in found)
    assert any("还没有商品" in each for each in await missing("zh-CN"))
    async with transaction() as connection:
        await merchant.seed(connection)
        locations_seeded = await locations.list_all(connection)
        accounts = [(IntegrationType.CARRIER, each, "default") for each in ("sf", "yto")]
        accounts += [(IntegrationType.WAREHOUSE, "wms", each.code) for each in locations_seeded]
        for integration, source, account in accounts:
            needed = declarations.fields(integration, source)
            secrets = {each.name: "x" for each in needed if each.secret and each.required}
            await save(connection, integration, source, account, "https://wms.example", secrets, {})
        await save(connection, IntegrationType.CHANNEL, "own", "web", None, {}, {"notify": False})
    assert await missing() == []
