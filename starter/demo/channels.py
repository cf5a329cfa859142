"""The stories of the channels: what buyers and sellers do there after an order was placed, and what went astray.

Every channel that the sandbox plays has a shop, and every story its turn on several of them.
"""

import json
from itertools import cycle
from pkgutil import iter_modules

from models.order import OrderStatus
from starter.demo.world import Sale, World, demand
from starter.sandbox import channels
from starter.sandbox.accounts import Shop

WEB = "web"
_SHOPS = {"taobao": "flagship", "shopify": "global", "own": WEB, "pos": "counter"}
_SETTINGS: dict[str, dict[str, object]] = {"own": {"stock": {}}, "pos": {}, "app": {}}
SOURCES = tuple((each.name, _SHOPS.get(each.name, "main")) for each in iter_modules(channels.__path__))
"""Every channel, with its main shop."""
MAIN_SHOPS = [
    Shop(channel=name, name=shop, settings=_SETTINGS.get(name, {"poll_seconds": 3})) for name, shop in SOURCES
]
_SELLS = cycle(("A003", "A005", "B002", "B005", "C001", "C004", "D002", "D005", "E002", "E005", "F003"))
_OTHERS = [source for source in SOURCES if source[0] not in ("own", "app", "pos")]
_WISHES = [source for source in _OTHERS if source[0] not in ("shopify", "woocommerce")]
"""They tell of refunds that are only asked for."""
_GRANTED_ONLY = {"amazon", "woocommerce"}
"""Once an order left they tell of refunds that are granted alone."""
_refunding, _withdrawing = (cycle(_WISHES[at:] + _WISHES[:at]) for at in range(2))
_late = cycle([source for source in _OTHERS if source[0] != "shopify"])
_moving, _cancelling = (cycle(_OTHERS[at:] + _OTHERS[:at]) for at in range(2))
_remarking = cycle([source for source in _OTHERS if source[0] in ("taobao", "jd", "pdd", "douyin")])


async def _at_the_warehouse(world: World, source: tuple[str, str]) -> Sale:
    """An order that waits at its warehouse to be shipped."""
    sale = await world.sell(*source, next(_SELLS))
    await world.keep_in_warehouse(sale, "F1")
    await world.deliver(sale)
    await world.submitted(sale)
    return sale


async def refunded_in_time(world: World) -> OrderStatus:
    sale = await _at_the_warehouse(world, next(_refunding))
    await world.refund(sale, "asked")
    await world.until(sale, OrderStatus.ON_HOLD)
    await world.refund(sale, "granted")
    return await world.until(sale, OrderStatus.CANCELLED)


async def refund_withdrawn(world: World) -> OrderStatus:
    sale = await _at_the_warehouse(world, next(_withdrawing))
    await world.refund(sale, "asked")
    await world.until(sale, OrderStatus.ON_HOLD)
    await world.refund(sale, "closed")
    return await world.until(sale, OrderStatus.COMPLETED)


async def refunded_too_late(world: World) -> OrderStatus:
    """It has left: a person hears of it, and the parcel goes on."""
    sale = await world.sell(*next(_late), next(_SELLS))
    await world.journey(sale, kind="silent")
    await world.deliver(sale)
    await world.until(sale, OrderStatus.SHIPPED)
    await world.refund(sale, "granted" if sale.channel in _GRANTED_ONLY else "asked")
    await world.wrong(sale, "refund_after_shipping")
    await world.travel(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def moved_by_buyer(world: World) -> OrderStatus:
    sale = await _at_the_warehouse(world, next(_moving))
    await world.change(sale, recipient=sale.person | {"province": "广东省", "city": "深圳市", "district": "南山区"})
    end = await world.until(sale, OrderStatus.COMPLETED)
    demand((await world.order(sale))["recipient"]["city"] == "深圳市", "it went to the old address")
    return end


async def cancelled_by_buyer(world: World) -> OrderStatus:
    sale = await _at_the_warehouse(world, next(_cancelling))
    await world.change(sale, cancelled=True)
    return await world.until(sale, OrderStatus.CANCELLED)


async def remarked(world: World) -> OrderStatus:
    """The seller writes that it is to wait: it comes back from the warehouse until somebody lets it go."""
    sale = await _at_the_warehouse(world, next(_remarking))
    await world.change(sale, seller_memo="客户要求先别发")
    await world.until(sale, OrderStatus.IN_REVIEW)
    status, answer = await world.ask(sale, "approve")
    demand(status == 200, answer)
    return await world.until(sale, OrderStatus.COMPLETED)


async def garbled(world: World) -> OrderStatus:
    """What nobody understands is kept whole, corrected by a person, and read again."""
    sale = await world.sell("own", WEB, next(_SELLS))
    await world.deliver(sale, garbage=True)
    message = await world.failed(sale)
    told = json.loads(message["body"])
    told["lines"] = [{"sku": "A001", "quantity": 1, "unit_price": "59.00"}]
    await world.post(f"/intake/{message['id']}/retry", told)
    return await world.until(sale, OrderStatus.COMPLETED)


STORIES = {
    "refunded_in_time": (refunded_in_time, OrderStatus.CANCELLED),
    "refund_withdrawn": (refund_withdrawn, OrderStatus.COMPLETED),
    "refunded_too_late": (refunded_too_late, OrderStatus.COMPLETED),
    "moved_by_buyer": (moved_by_buyer, OrderStatus.COMPLETED),
    "cancelled_by_buyer": (cancelled_by_buyer, OrderStatus.CANCELLED),
    "remarked": (remarked, OrderStatus.COMPLETED),
    "garbled": (garbled, OrderStatus.COMPLETED),
}
"""Every story with the status it demands."""
