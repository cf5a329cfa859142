"""What shops call our SKUs, and the orders that wait until somebody says so."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from activities import mapping, stock_sync
from activities.database import transaction
from activities.order import row
from models.access import Scope
from models.intake import InboxRow, Lane
from models.listing import Mapping
from models.order import ChannelOrder, OrderRow
from starter.catalogue import seed
from tests.doors import bearer
from tests.unit.orders import an_order, line

IDS = {"num_iid": "61", "sku_id": "7"}


@pytest.fixture
async def staff(door: httpx.AsyncClient) -> dict[str, str]:
    async with transaction() as connection:
        await seed(connection)
    return await bearer(Scope.STAFF)


def of_taobao(number: str, sku: str, shop: str = "demo", **ids: str) -> ChannelOrder:
    return an_order(number, line(1, sku).model_copy(update={"listing": ids}), channel="taobao", shop=shop)


async def named(*orders: ChannelOrder) -> tuple[list[str], set[str]]:
    """The SKUs of the first lines as mapped, and what nobody knows."""
    async with transaction() as connection:
        mapped, unknown = await mapping.mapped(connection, orders)
    return [order.lines[0].sku for order in mapped], unknown


async def hold(*orders: ChannelOrder) -> None:
    """They are held for what nobody knows."""
    async with transaction() as connection:
        for order in orders:
            held = {**row(order, order.placed_at), "holds": [{"kind": "unknown_sku", "reason": "SKU"}]}
            await connection.execute(insert(OrderRow).values(held))


async def woken() -> set[str | None]:
    query = select(InboxRow.order_id).where(InboxRow.lane == Lane.STOCK, InboxRow.topic == mapping.MAPPED)
    async with transaction() as connection:
        return set(await connection.scalars(query))


async def test_a_code_of_the_catalogue_is_that_sku(staff: Any) -> None:
    assert await named(of_taobao("1", "A001")) == (["A001"], set())


async def test_a_spelling_that_can_mean_only_one_is_found_and_kept(staff: Any) -> None:
    assert await named(of_taobao("1", "ａ-001"), of_taobao("2", "b 001")) == (["A001", "B001"], set())
    async with transaction() as connection:
        kept = {(each.item, each.sku, each.match) for each in await mapping.every(connection)}
    assert kept == {("ａ-001", "A001", "spelling"), ("b 001", "B001", "spelling")}


async def test_a_listing_says_which_it_is(staff: Any) -> None:
    async with transaction() as connection:
        await stock_sync.keep(connection, "taobao", "demo", {"A002": IDS})
    assert await named(of_taobao("1", "61:7", **IDS)) == (["A002"], set())
    assert await named(of_taobao("1", "61:7", "other", **IDS)) == (["61:7"], {"61:7"})


async def test_a_person_says_otherwise_for_one_shop_or_for_all(door: httpx.AsyncClient, staff: Any) -> None:
    for shop, sku in (("", "A003"), ("demo", "K001")):
        told = {"mappings": [{"channel": "taobao", "shop": shop, "item": "A001", "sku": sku}]}
        assert (await door.put("/mappings", json=told, headers=staff)).json() == {"mappings": 1}
    found, unknown = await named(of_taobao("1", "A001"), of_taobao("2", "A001", "other"))
    assert (found, unknown) == (["K001", "A003"], set())
    kept = (await door.get("/mappings", params={"shop": "demo"}, headers=staff)).json()
    assert [(each["item"], each["sku"], each["match"]) for each in kept] == [("A001", "K001", "manual")]
    gone = {"channel": "taobao", "shop": "demo", "item": "A001"}
    assert (await door.delete("/mappings", params=gone, headers=staff)).status_code == 204
    assert (await door.delete("/mappings", params=gone, headers=staff)).status_code == 404
    assert (await named(of_taobao("1", "A001")))[0] == ["A003"]


async def test_what_the_channel_called_it_is_remembered(staff: Any) -> None:
    async with transaction() as connection:
        await mapping.keep(connection, [Mapping(channel="taobao", item="T-SHIRT", sku="A001")], "li")
        (order,), _ = await mapping.mapped(connection, [of_taobao("1", "T-SHIRT")])
        (again,), _ = await mapping.mapped(connection, [order])
    assert (order.lines[0].sku, order.lines[0].told) == ("A001", "T-SHIRT")
    assert again == order


async def test_a_sku_that_is_not_there_is_refused_by_the_field(door: httpx.AsyncClient, staff: Any) -> None:
    told = {"mappings": [{"channel": "taobao", "item": "x", "sku": "NONE"}]}
    answer = await door.put("/mappings", json=told, headers=staff)
    assert answer.status_code == 422
    assert "sku" in answer.text
    assert (await door.get("/mappings", headers=staff)).json() == []


async def test_what_orders_wait_for_is_listed_with_what_is_most_like_it(door: httpx.AsyncClient, staff: Any) -> None:
    await hold(*(of_taobao(str(number), "A001-NEW", **IDS) for number in range(3)), of_taobao("9", "其他"))
    first, second = (await door.get("/mappings/unmapped", params={"channel": "taobao"}, headers=staff)).json()
    assert (first["item"], first["ids"], first["orders"], first["pieces"]) == ("A001-NEW", "61:7", 3, 3)
    assert "A001" in {each["sku"] for each in first["suggestions"]}
    assert second["item"] == "其他"
    assert (await door.get("/mappings/unmapped", params={"channel": "jd"}, headers=staff)).json() == []


@pytest.mark.parametrize("item", ["WHITE-TEE", "61:7"])
async def test_all_that_wait_for_an_item_are_told_and_nobody_else(
    door: httpx.AsyncClient, staff: Any, item: str
) -> None:
    waiting = [of_taobao(str(number), "WHITE-TEE", **IDS) for number in range(50)]
    await hold(*waiting, of_taobao("99", "OTHER"))
    told = {"mappings": [{"channel": "taobao", "item": item, "sku": "A001"}]}
    assert (await door.put("/mappings", json=told, headers=staff)).status_code == 200
    assert await woken() == {order.order_id for order in waiting}


async def test_a_sku_that_enters_the_catalogue_wakes_who_waits_for_it(door: httpx.AsyncClient, staff: Any) -> None:
    await hold(of_taobao("1", "NEW-1"))
    sheet = b"sku,title,price,weight_kg\nNEW-1,New,10,0.1\n"
    answer = await door.post("/files/skus", content=sheet, headers=staff | {"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    assert await woken() == {"order:taobao:demo:1"}


@given(st.text(max_size=40))
def test_spelling_is_idempotent_and_ignores_what_surrounds_it(item: str) -> None:
    assert mapping.spelling(mapping.spelling(item)) == mapping.spelling(item)
    assert mapping.spelling(f" {item}-") == mapping.spelling(item)
