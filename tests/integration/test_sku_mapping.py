"""SKU mapping of channel items, and the orders held until an item is mapped."""

import asyncio
import re
import unicodedata
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, insert, select
from temporalio.client import Client

from activities.catalogue import sku_mapping
from activities.files import engine
from activities.kit import spreadsheets
from activities.kit.database import transaction
from activities.kit.sheets import ImportContext
from activities.orders.steps import order_row
from activities.stock import ledger, operations, stock_sync
from models.api_keys import Scope
from models.intake import InboxRow, IntegrationType
from models.listings import Mapping
from models.order import ChannelOrder, OrderRow, OrderStatus, TimelineRow
from models.stock import SkuRow
from starter import dispatcher
from starter.sandbox.merchant import seed
from tests.api import bearer, until
from tests.unit.orders import an_order, line
from workers.main import worker

IDS = {"num_iid": "61", "sku_id": "7"}


@pytest.fixture
async def staff(api: httpx.AsyncClient) -> dict[str, str]:
    async with transaction() as connection:
        await seed(connection)
    return await bearer(Scope.STAFF)


def taobao_order(number: str, sku: str, shop: str = "demo", **ids: str) -> ChannelOrder:
    return an_order(number, line(1, sku).model_copy(update={"listing": ids}), channel="taobao", shop=shop)


async def map_orders(*orders: ChannelOrder) -> tuple[list[str], set[str]]:
    """Return the mapped SKUs of the first lines, and the unmapped codes."""
    async with transaction() as connection:
        mapped, unknown = await sku_mapping.map_orders(connection, orders)
    return [order.lines[0].sku for order in mapped], unknown


async def insert_held(*orders: ChannelOrder, status: str = OrderStatus.ON_HOLD) -> None:
    """Insert the orders, held for unmapped items."""
    held_for = [{"kind": "unknown_sku", "reason": "SKU"}]
    async with transaction() as connection:
        for order in orders:
            held = {**order_row(order, order.placed_at), "holds": held_for, "status": status}
            await connection.execute(insert(OrderRow).values(held))


async def notified_orders() -> set[str | None]:
    query = select(InboxRow.order_id).where(
        InboxRow.integration == IntegrationType.INTERNAL, InboxRow.topic == sku_mapping.MAPPED
    )
    async with transaction() as connection:
        return set(await connection.scalars(query))


async def test_catalogue_code_maps_to_itself(staff: Any) -> None:
    assert await map_orders(taobao_order("1", "A001")) == (["A001"], set())


async def test_unambiguous_spelling_is_mapped_and_saved(staff: Any) -> None:
    assert await map_orders(taobao_order("1", "ａ-001"), taobao_order("2", "b 001")) == (["A001", "B001"], set())
    async with transaction() as connection:
        kept = {(each.item, each.sku, each.match) for each in await sku_mapping.list_all(connection)}
    assert kept == {("ａ-001", "A001", "spelling"), ("b 001", "B001", "spelling")}


async def test_listing_ids_map_to_the_listed_sku(staff: Any) -> None:
    async with transaction() as connection:
        await stock_sync.save_listings(connection, "taobao", "demo", {"A002": IDS})
    assert await map_orders(taobao_order("1", "61:7", **IDS)) == (["A002"], set())
    assert await map_orders(taobao_order("1", "61:7", "other", **IDS)) == (["61:7"], {"61:7"})
    assert await map_orders(taobao_order("2", "SALE", **IDS)) == (["A002"], set())
    assert await map_orders(taobao_order("3", "SALE", **IDS | {"sku_id": "8"})) == (["SALE"], {"SALE"})


@pytest.mark.parametrize("item", ["黑A001", "A0-01", "A0.01", "A001-L"])
async def test_similar_code_is_not_mapped(staff: Any, item: str) -> None:
    assert await map_orders(taobao_order("1", item)) == ([item], {item})


async def test_manual_mapping_overrides_catalogue_and_catalogue_overrides_guesses(staff: Any) -> None:
    assert await map_orders(taobao_order("1", "a 001")) == (["A001"], set())
    async with transaction() as connection:
        await connection.execute(insert(SkuRow).values(sku="a 001", title="Another", price=1, weight_kg=1))
    assert await map_orders(taobao_order("1", "a 001")) == (["a 001"], set())
    async with transaction() as connection:
        await sku_mapping.save(connection, [Mapping(channel="taobao", item="a 001", sku="A003")], "li")
    assert await map_orders(taobao_order("1", "a 001")) == (["A003"], set())


async def test_gift_keeps_its_sku_despite_a_mapping_of_the_same_code(staff: Any) -> None:
    async with transaction() as connection:
        await sku_mapping.save(connection, [Mapping(channel="taobao", item="A001", sku="A003")], "li")
        gift = line(2, "A001").model_copy(update={"gift": True})
        order = an_order("1", line(1, "A001"), gift, channel="taobao", shop="demo")
        (found,), unknown = await sku_mapping.map_orders(connection, [order])
    assert ([each.sku for each in found.lines], unknown) == (["A003", "A001"], set())


async def test_manual_mapping_applies_to_one_shop_or_all(api: httpx.AsyncClient, staff: Any) -> None:
    for shop, sku in (("", "A003"), ("demo", "K001")):
        body = {"mappings": [{"channel": "taobao", "shop": shop, "item": "A001", "sku": sku}]}
        assert (await api.put("/mappings", json=body, headers=staff)).json() == {"mappings": 1}
    found, unknown = await map_orders(taobao_order("1", "A001"), taobao_order("2", "A001", "other"))
    assert (found, unknown) == (["K001", "A003"], set())
    kept = (await api.get("/mappings", params={"shop": "demo"}, headers=staff)).json()
    assert [(each["item"], each["sku"], each["match"]) for each in kept] == [("A001", "K001", "manual")]
    gone = {"channel": "taobao", "shop": "demo", "item": "A001"}
    assert (await api.delete("/mappings", params=gone, headers=staff)).status_code == 204
    assert (await api.delete("/mappings", params=gone, headers=staff)).status_code == 404
    assert (await map_orders(taobao_order("1", "A001")))[0] == ["A003"]


async def test_mapped_line_keeps_the_channel_code(staff: Any) -> None:
    async with transaction() as connection:
        await sku_mapping.save(connection, [Mapping(channel="taobao", item="T-SHIRT", sku="A001")], "li")
        (order,), _ = await sku_mapping.map_orders(connection, [taobao_order("1", "T-SHIRT")])
        (again,), _ = await sku_mapping.map_orders(connection, [order])
    assert (order.lines[0].sku, order.lines[0].told) == ("A001", "T-SHIRT")
    assert again == order


async def test_mapping_to_an_unknown_sku_is_refused(api: httpx.AsyncClient, staff: Any) -> None:
    body = {"mappings": [{"channel": "taobao", "item": "x", "sku": "NONE"}]}
    answer = await api.put("/mappings", json=body, headers=staff)
    assert answer.status_code == 422
    assert "sku" in answer.text
    assert (await api.get("/mappings", headers=staff)).json() == []


async def test_unmapped_items_are_listed_with_suggestions(api: httpx.AsyncClient, staff: Any) -> None:
    await insert_held(*(taobao_order(str(number), "A001-NEW", **IDS) for number in range(3)), taobao_order("9", "其他"))
    first, second = (await api.get("/mappings/unmapped", params={"channel": "taobao"}, headers=staff)).json()
    assert (first["item"], first["ids"], first["orders"], first["pieces"]) == ("A001-NEW", "61:7", 3, 3)
    assert "A001" in {each["sku"] for each in first["suggestions"]}
    assert second["item"] == "其他"
    assert (await api.get("/mappings/unmapped", params={"channel": "jd"}, headers=staff)).json() == []


async def test_titles_in_either_language_yield_suggestions(staff: Any) -> None:
    titles = {"4711": "白色 纯棉T恤 男款 L", "4712": "Cast iron WOK 32 cm"}
    for item, title in titles.items():
        await insert_held(an_order(item, line(1, item).model_copy(update={"title": title})))
    async with transaction() as connection:
        found = {
            each.item: each.suggestions[0].sku for each in await sku_mapping.list_unmapped(connection, "own", None)
        }
    assert found == {"4711": "A001", "4712": "B006"}


async def test_ended_order_has_no_unmapped_items(api: httpx.AsyncClient, staff: Any) -> None:
    await insert_held(taobao_order("1", "WHITE-TEE"), status=OrderStatus.CANCELLED)
    assert (await api.get("/mappings/unmapped", headers=staff)).json() == []
    body = {"mappings": [{"channel": "taobao", "item": "WHITE-TEE", "sku": "A001"}]}
    assert (await api.put("/mappings", json=body, headers=staff)).status_code == 200
    assert await notified_orders() == set()


@pytest.mark.parametrize("item", ["WHITE-TEE", "61:7"])
async def test_mapping_notifies_exactly_the_orders_held_for_the_item(
    api: httpx.AsyncClient, staff: Any, item: str
) -> None:
    waiting = [taobao_order(str(number), "WHITE-TEE", **IDS) for number in range(50)]
    await insert_held(*waiting, taobao_order("99", "OTHER"), taobao_order("98", "WHITE-TEE", "other", **IDS))
    body = {"mappings": [{"channel": "taobao", "shop": "demo", "item": item, "sku": "A001"}]}
    assert (await api.put("/mappings", json=body, headers=staff)).status_code == 200
    assert await notified_orders() == {order.order_id for order in waiting}


async def test_new_sku_notifies_orders_held_for_it(api: httpx.AsyncClient, staff: Any) -> None:
    await insert_held(taobao_order("1", "NEW-1"))
    sheet = b"sku,title,price,weight_kg\nNEW-1,New,10,0.1\n"
    answer = await api.post("/files/skus", content=sheet, headers=staff | {"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    assert await notified_orders() == {"order:taobao:demo:1"}


async def test_new_listing_notifies_orders_held_for_its_ids(staff: Any) -> None:
    await insert_held(taobao_order("1", "SALE", **IDS), taobao_order("2", "SALE", "other", **IDS))
    sheet = 'channel,shop,sku,listing\ntaobao,demo,A001,"{""num_iid"": ""61"", ""sku_id"": ""7""}"\n'
    parsed = engine.parse(engine.SHEETS["listings"], spreadsheets.read(sheet.encode()))
    context = ImportContext(request_id="l1", actor="li", file="")
    async with transaction() as connection:
        report = await engine.run_import(connection, parsed, context)
    assert report.applied == 1
    assert await notified_orders() == {"order:taobao:demo:1"}


async def test_mapping_sheet_reports_errors_by_row(api: httpx.AsyncClient, staff: Any) -> None:
    sheet = "channel,shop,item,sku\ntaobao,,白T恤,A001\ntaobao,demo,白T恤,NONE\nTao bao,,x,A001\ntaobao,,白T恤,A002\n"
    options = {"params": {"partial": True}, "headers": staff | {"Content-Type": "text/csv"}}
    answer = (await api.post("/files/mappings", content=sheet.encode(), **options)).json()
    assert [(each["row"], each["field"]) for each in answer["errors"]] == [(3, "sku"), (4, "channel"), (5, "item")]
    kept = (await api.get("/mappings", headers=staff)).json()
    assert [(each["shop"], each["item"], each["sku"]) for each in kept] == [("", "白T恤", "A001")]


async def test_concurrent_mapping_is_not_missed(staff: Any) -> None:
    """Mapping waits for orders that found an item unmapped and have not recorded it yet."""
    order = taobao_order("1", "WHITE-TEE")

    async def keep() -> None:
        async with transaction() as connection:
            await sku_mapping.save(connection, [Mapping(channel="taobao", item="WHITE-TEE", sku="A001")], "li")

    async with transaction() as connection:
        assert (await sku_mapping.map_orders(connection, [order]))[1] == {"WHITE-TEE"}
        keeping = asyncio.create_task(keep())
        await asyncio.sleep(0.2)
        held = {**order_row(order, order.placed_at), "holds": [{"kind": "unknown_sku", "reason": "SKU"}]}
        await connection.execute(insert(OrderRow).values(held))
        assert not keeping.done()
    await keeping
    assert await notified_orders() == {order.order_id}


async def test_one_mapping_resumes_fifty_orders(api: httpx.AsyncClient, temporal: Client, staff: Any) -> None:
    async with transaction() as connection:
        for part in ("B001", "B002"):
            await operations.receive(connection, "SH", part, 100, part, "test")
    orders = [an_order(f"M{number}", line(1, "茶具套装")) for number in range(50)]

    async def all_are(status: OrderStatus) -> bool:
        query = select(func.count()).select_from(OrderRow).where(OrderRow.status == status)  # type: ignore[arg-type]
        async with transaction() as connection:
            return await connection.scalar(query) == len(orders)

    async def allocated() -> bool:
        query = select(func.count()).select_from(TimelineRow).where(TimelineRow.what == "timeline.allocated")  # type: ignore[arg-type]
        async with transaction() as connection:
            return await connection.scalar(query) == len(orders)

    async with worker(temporal):
        await asyncio.gather(*(dispatcher.start_order(temporal, order) for order in orders))
        await until(lambda: all_are(OrderStatus.ON_HOLD))
        shown = (await api.get(f"/orders/{orders[0].order_id}", headers=staff | {"Accept-Language": "zh-CN"})).json()
        assert shown["holds"][0]["reason"] == "own:web 所售 茶具套装 不知是哪个 SKU，请建立映射"
        (first,) = (await api.get("/mappings/unmapped", headers=staff)).json()
        assert (first["orders"], first["suggestions"][0]["sku"]) == (50, "K001")
        body = {"mappings": [{"channel": "own", "item": "茶具套装", "sku": "K001"}]}
        assert (await api.put("/mappings", json=body, headers=staff)).status_code == 200
        await until(allocated)
    async with transaction() as connection:
        levels = {each.sku: each.allocated for each in await ledger.levels(connection, ["B001", "B002"])}
    assert levels == {"B001": 100, "B002": 50}


_CODES = st.text(st.sampled_from("aAzＺ09１４ -_－—款色"), max_size=12)


@given(_CODES)
def test_spelling_is_idempotent_and_ignores_surrounding_space(item: str) -> None:
    assert sku_mapping.spelling(sku_mapping.spelling(item)) == sku_mapping.spelling(item)
    assert sku_mapping.spelling(f" {item}-") == sku_mapping.spelling(item.lower()) == sku_mapping.spelling(item)


@given(_CODES, _CODES)
def test_equal_spellings_have_the_same_letters_and_numbers(one: str, other: str) -> None:
    def parts(item: str) -> list[str]:
        return re.findall(r"[0-9]+|[^0-9\s_\-—]", unicodedata.normalize("NFKC", item).upper())

    assert (sku_mapping.spelling(one) == sku_mapping.spelling(other)) == (parts(one) == parts(other))
