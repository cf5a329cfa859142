"""Adapters push stock to their twins over real HTTP, in the channels' own formats and batches."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import count

import httpx
import pytest
from temporalio.exceptions import ApplicationError

from activities.channels import StockOffer, StockReceiver, StockRefusal, channel, stock_receiver
from activities.kit import http
from activities.vendors.top import fault
from starter.sandbox.app import create_app
from tests.serving import served
from tests.shops import World

SOURCES = ["own", "taobao", "shopify", "amazon", "woocommerce", "jd", "pdd", "douyin", "suning"]
CALL_EACH = {"amazon", "jd", "pdd", "suning"}
"""Channels that accept one SKU per call."""
WITHOUT_WAIT = {"jd", "pdd", "douyin"}
"""Channels that return no delay for a retry."""
_numbers = count()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


@pytest.fixture(params=SOURCES)
def world(sandbox: str, request: pytest.FixtureRequest) -> World:
    return World(sandbox, request.param, f"stock-{next(_numbers)}")


def offer(world: World, number: int, quantity: int, *, known: bool = True, item: int = 7) -> StockOffer:
    """Return an offer of a SKU; the shop does not sell it unless ``known``."""
    source = world.account.source
    mark = "" if known else "404"
    high = str(number if known else 9_000_000_000 + number)
    listing = {
        "own": {},
        "taobao": {"num_iid": str(item), "sku_id": f"{mark}{number}"},
        "shopify": {"inventory_item_id": f"gid://shopify/InventoryItem/{mark}{number}", "location_id": "1"},
        "amazon": {"seller_sku": f"{mark}{number}"},
        "woocommerce": {"product_id": str(item), "variation_id": f"{mark}{number}"},
        "jd": {"sku_id": high},
        "pdd": {"goods_id": str(item), "sku_id": high},
        "douyin": {"product_id": str(item), "sku_id": high},
        "suning": {"product_code": high},
    }[source]
    sku = str(number) if known or source != "own" else f"?{number}"
    return StockOffer(sku=sku, listing=listing, quantity=quantity)


async def push(world: World, *offered: StockOffer) -> list[StockRefusal]:
    return await stock_receiver(world.adapter).push_stock(offered)


async def failure(world: World, *offered: StockOffer) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        await push(world, *offered)
    return caught.value


def stock(world: World) -> dict[str, int]:
    levels: dict[str, int] = world.ok("GET", f"/{world.account.account}/stock")["stock"]
    return {item.rpartition(":")[2]: quantity for item, quantity in levels.items()}


def calls(world: World) -> int:
    return int(world.ok("GET", f"/{world.account.account}/stock")["pushes"])


async def test_quantities_are_set_and_not_added(world: World) -> None:
    for quantity in (5, 5, 3, 0):
        assert await push(world, offer(world, 1, quantity), offer(world, 2, 9)) == []
        assert stock(world) == {"1": quantity, "2": 9}
    assert calls(world) == (8 if world.account.source in CALL_EACH else 4)


async def test_refused_skus_are_named_and_the_rest_is_set(world: World) -> None:
    good = [offer(world, number, number) for number in range(1, 10)]
    bad = [offer(world, number, 1, known=False) for number in (11, 12)]
    refusals = await push(world, *good[:4], bad[0], *good[4:], bad[1])
    assert sorted(each.sku for each in refusals) == [each.sku for each in bad]
    assert all(each.reason for each in refusals)
    assert stock(world) == {str(number): number for number in range(1, 10)}


async def test_throttled_push_is_retried_later(world: World) -> None:
    world.fault("", "429", seconds=4)
    error = await failure(world, offer(world, 1, 5))
    assert error.type == "Unavailable"
    assert error.next_retry_delay == timedelta(seconds=4) or world.account.source in WITHOUT_WAIT
    assert stock(world) == {}
    assert await push(world, offer(world, 1, 5)) == []
    assert stock(world) == {"1": 5}


@pytest.mark.parametrize("fault_kind", ["500", "garbage"])
async def test_failed_push_is_retried(world: World, fault_kind: str) -> None:
    world.fault("", fault_kind)
    assert (await failure(world, offer(world, 1, 5))).type == "Unavailable"
    assert await push(world, offer(world, 1, 5)) == []


async def test_push_without_a_response_is_idempotent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fault("", "timeout_after", seconds=1)
    monkeypatch.setattr(http, "_client", httpx.AsyncClient(timeout=0.3))
    assert (await failure(world, offer(world, 1, 5))).type == "Unavailable"
    await http.close()
    assert await push(world, offer(world, 1, 5)) == []
    assert stock(world) == {"1": 5}


async def test_wrong_secrets_are_refused(world: World) -> None:
    secrets = {name: "guess" for name in world.account.secrets}
    world.account = world.account.model_copy(update={"secrets": secrets})
    assert (await failure(world, offer(world, 1, 5))).type in ("Refused", "Expired")
    assert stock(world) == {}


async def test_wrong_signature_fails_the_call_and_refuses_no_sku(sandbox: str) -> None:
    world = World(sandbox, "taobao", "stock-signature")
    world.account = world.account.model_copy(update={"secrets": world.account.secrets | {"app_secret": "guess"}})
    assert (await failure(world, offer(world, 1, 5), offer(world, 2, 5))).details[0] == "25"


@pytest.mark.parametrize(("source", "largest"), [("taobao", 20), ("shopify", 250), ("woocommerce", 100)])
async def test_batches_are_as_large_as_the_channel_allows(sandbox: str, source: str, largest: int) -> None:
    world = World(sandbox, source, f"{source}-stock-batches")
    numbers = range(1000, 1000 + largest * 2 + 1)
    assert await push(world, *(offer(world, number, number) for number in numbers)) == []
    assert stock(world) == {str(number): number for number in numbers}
    assert calls(world) == 3


async def test_taobao_groups_skus_by_item_and_sets_items_without_skus(sandbox: str) -> None:
    world = World(sandbox, "taobao", "stock-items")
    whole = [StockOffer(sku=f"W{item}", listing={"num_iid": item}, quantity=3) for item in ("81", "82")]
    assert await push(world, offer(world, 1, 1, item=7), offer(world, 2, 2, item=8), *whole) == []
    assert stock(world) == {"1": 1, "2": 2, "81": 3, "82": 3}
    assert calls(world) == 4


async def test_taobao_refuses_an_item_in_one_call(sandbox: str) -> None:
    world = World(sandbox, "taobao", "stock-no-item")
    refusals = await push(world, *(offer(world, number, 1, item=404) for number in range(1, 9)))
    assert {each.reason for each in refusals} == {"isv.item-not-exist:invalid-numIid-or-iid"}
    assert len(refusals) == 8
    assert calls(world) == 1


@pytest.mark.parametrize(
    ("source", "listing"),
    [
        ("taobao", {}),
        ("taobao", {"num_iid": "7", "sku_id": "1:9;2"}),
        ("shopify", {"inventory_item_id": "1"}),
        ("shopify", {"inventory_item_id": "gid://shopify/Product/1", "location_id": "1"}),
        ("woocommerce", {}),
        ("woocommerce", {"product_id": "7", "variation_id": "8/9"}),
    ],
)
async def test_invalid_ids_are_refused_and_the_rest_is_set(sandbox: str, source: str, listing: dict[str, str]) -> None:
    world = World(sandbox, source, f"stock-ids-{next(_numbers)}")
    odd = StockOffer(sku="odd", listing=listing, quantity=1)
    assert [each.sku for each in await push(world, odd, offer(world, 1, 5))] == ["odd"]
    assert stock(world) == {"1": 5}


@pytest.mark.parametrize(
    ("sub_code", "sub_msg", "final"),
    [
        ("isp.service-unavailable-tmall", "服务不可用", False),
        ("isv.item-quantity-sku-update-service-error", "库存中心服务正忙，请稍后再试", False),
        ("isv.item-quantity-sku-update-service-error", "请稍后再试, 编辑库存数不能低于预扣库存数！", True),
    ],
)
def test_taobao_refusal_is_passing_or_final(sub_code: str, sub_msg: str, final: bool) -> None:
    for code in (15, 50):
        error = {"code": code, "sub_code": sub_code, "sub_msg": sub_msg}
        assert fault("taobao.skus.quantity.update", error).non_retryable is final


async def test_woocommerce_groups_variations_by_product(sandbox: str) -> None:
    world = World(sandbox, "woocommerce", "stock-products")
    whole = [
        StockOffer(sku=f"W{number}", listing={"product_id": number}, quantity=3) for number in ("81", "82", "4041")
    ]
    refusals = await push(world, offer(world, 1, 1, item=7), offer(world, 2, 2, item=8), *whole)
    assert [(each.sku, each.reason) for each in refusals] == [("W4041", "woocommerce_rest_product_invalid_id")]
    assert stock(world) == {"1": 1, "2": 2, "81": 3, "82": 3}
    assert calls(world) == 3


async def test_shop_counter_takes_no_stock(sandbox: str) -> None:
    account = World(sandbox, "pos", "stock-till").account
    assert not isinstance(channel(account), StockReceiver)
    with pytest.raises(ApplicationError, match=r"error\.channel\.no_stock"):
        stock_receiver(channel(account))
