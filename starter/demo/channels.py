"""Scenarios of channels: changes by buyers and sellers after the order was placed, and messages that cannot be read.

Every channel of the sandbox has a shop; each scenario runs on several channels in turn.
"""

import json
from itertools import cycle
from pkgutil import iter_modules

from models.order import OrderStatus
from starter.demo.world import Sale, World, expect
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
_SKUS = cycle(("A003", "A005", "B002", "B005", "C001", "C004", "D002", "D005", "E002", "E005", "F003"))
_OTHERS = [source for source in SOURCES if source[0] not in ("own", "app", "pos")]
_WITH_REFUND_REQUESTS = [source for source in _OTHERS if source[0] not in ("shopify", "woocommerce")]
"""Channels that report requested refunds, not only granted ones."""
_GRANTED_ONLY_AFTER_SHIPPING = {"amazon", "woocommerce"}
"""Channels that report only granted refunds once the order is shipped."""
_refunds, _withdrawn_refunds = (cycle(_WITH_REFUND_REQUESTS[at:] + _WITH_REFUND_REQUESTS[:at]) for at in range(2))
_late_refunds = cycle([source for source in _OTHERS if source[0] != "shopify"])
_address_changes, _cancellations = (cycle(_OTHERS[at:] + _OTHERS[:at]) for at in range(2))
_memos = cycle([source for source in _OTHERS if source[0] in ("taobao", "jd", "pdd", "douyin")])


async def _held_at_warehouse(world: World, source: tuple[str, str]) -> Sale:
    """Place an order that its warehouse holds before shipping."""
    sale = await world.sell(*source, next(_SKUS))
    await world.hold_at_warehouse(sale, "F1")
    await world.deliver(sale)
    await world.until_submitted(sale)
    return sale


async def refund_before_shipping(world: World) -> OrderStatus:
    sale = await _held_at_warehouse(world, next(_refunds))
    await world.refund(sale, "asked")
    await world.until(sale, OrderStatus.ON_HOLD)
    await world.refund(sale, "granted")
    return await world.until(sale, OrderStatus.CANCELLED)


async def refund_withdrawn(world: World) -> OrderStatus:
    sale = await _held_at_warehouse(world, next(_withdrawn_refunds))
    await world.refund(sale, "asked")
    await world.until(sale, OrderStatus.ON_HOLD)
    await world.refund(sale, "closed")
    return await world.until(sale, OrderStatus.COMPLETED)


async def refund_after_shipping(world: World) -> OrderStatus:
    """An exception opens, and the parcel is delivered."""
    sale = await world.sell(*next(_late_refunds), next(_SKUS))
    await world.plan_journey(sale, kind="silent")
    await world.deliver(sale)
    await world.until(sale, OrderStatus.SHIPPED)
    await world.until_notified(sale)  # a channel accepts no shipment of what it has refunded
    await world.refund(sale, "granted" if sale.channel in _GRANTED_ONLY_AFTER_SHIPPING else "asked")
    await world.until_exception(sale, "refund_after_shipping")
    await world.travel(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def address_changed_on_channel(world: World) -> OrderStatus:
    sale = await _held_at_warehouse(world, next(_address_changes))
    await world.change(sale, recipient=sale.person | {"province": "广东省", "city": "深圳市", "district": "南山区"})
    end = await world.until(sale, OrderStatus.COMPLETED)
    expect((await world.order(sale))["recipient"]["city"] == "深圳市", "the address is still the old one")
    return end


async def cancelled_on_channel(world: World) -> OrderStatus:
    sale = await _held_at_warehouse(world, next(_cancellations))
    await world.change(sale, cancelled=True)
    return await world.until(sale, OrderStatus.CANCELLED)


async def seller_memo_holds(world: World) -> OrderStatus:
    """A seller memo asks to wait: the order is recalled from its warehouse until somebody approves it."""
    sale = await _held_at_warehouse(world, next(_memos))
    await world.change(sale, seller_memo="客户要求先别发")
    await world.until(sale, OrderStatus.IN_REVIEW)
    status, response = await world.request(sale, "approve")
    expect(status == 200, response)
    return await world.until(sale, OrderStatus.COMPLETED)


async def malformed_message(world: World) -> OrderStatus:
    """An order whose lines cannot be read is held, until the channel sends them again."""
    sale = await world.sell("own", WEB, next(_SKUS))
    await world.deliver(sale, malformed=True)
    await world.until(sale, OrderStatus.ON_HOLD)
    await world.change(sale, buyer_message="谢谢")
    return await world.until(sale, OrderStatus.COMPLETED)


async def poisoned_message(world: World) -> OrderStatus:
    """A message that names no order and cannot be stored as it is waits alone, until a person corrects it."""
    sale = await world.sell("own", WEB, next(_SKUS))
    await world.deliver(sale, poisoned=True)
    other = await world.place("own", WEB, next(_SKUS))
    await world.until(other, OrderStatus.COMPLETED)
    message = await world.failed_message(sale)
    body = json.loads(message["body"])
    body["order_no"] = sale.order_no
    del body["\0"]
    await world.post(f"/intake/{message['id']}/retry", body)
    return await world.until(sale, OrderStatus.COMPLETED)


SCENARIOS = {
    "refund_before_shipping": (refund_before_shipping, OrderStatus.CANCELLED),
    "refund_withdrawn": (refund_withdrawn, OrderStatus.COMPLETED),
    "refund_after_shipping": (refund_after_shipping, OrderStatus.COMPLETED),
    "address_changed_on_channel": (address_changed_on_channel, OrderStatus.COMPLETED),
    "cancelled_on_channel": (cancelled_on_channel, OrderStatus.CANCELLED),
    "seller_memo_holds": (seller_memo_holds, OrderStatus.COMPLETED),
    "malformed_message": (malformed_message, OrderStatus.COMPLETED),
    "poisoned_message": (poisoned_message, OrderStatus.COMPLETED),
}
"""Every scenario with its expected final status."""
