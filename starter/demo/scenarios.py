"""The scenarios of the demo. Each acts from outside only and returns the final status of its order."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import cycle

from models.base import CHINA
from models.order import OrderStatus
from starter.demo.carriers import SCENARIOS as CARRIER_SCENARIOS
from starter.demo.channels import MAIN_SHOPS, SOURCES, WEB
from starter.demo.channels import SCENARIOS as CHANNEL_SCENARIOS
from starter.demo.world import ScenarioFailed, World, expect
from starter.sandbox.accounts import Shop

SHORT_SKUS = ("A012", "C012", "D012", "E010", "F008")
"""SKUs without stock until a scenario receives goods, each for one order."""
ONLY_BEIJING, ONLY_CHENGDU = "F006", "F007"
"""SKUs in stock at one warehouse each: an order of both must be split."""
BUNDLE = "K001"
RESERVED_SKUS = ("A009", "B010", "C011", "D008", "E007")
"""SKUs whose stock is reserved for the own site."""
VIRTUAL_WAREHOUSE = "SH@web"
"""The virtual warehouse that holds them."""
DROP_SHIPPED = "F005"
"""A SKU in stock at the supplier only."""
STORE = "LS"
"""A remote store that delivers only to its own province."""
STORE_SKUS = ("A008", "B011", "C009", "D003", "F002")
"""SKUs in stock at the store only."""
SYNCED_SKU = "C006"
"""A SKU whose available stock is pushed to the own site."""
PRESALE = "P001"
MISSING_SKUS = ("A007", "B009", "C008", "D011", "E008")
"""SKUs that the Shanghai warehouse does not find."""

GRACE, LATE = "grace", "late"
SHOPS = [
    *MAIN_SHOPS,
    Shop(channel="shopify", name="unpaid", settings={"policy": {"payment": 5, "reserve": "placed"}}),
    Shop(channel="own", name=GRACE, settings={"policy": {"grace": 10}}),
    Shop(channel="own", name=LATE, settings={"policy": {"movement": 4}}),
]
_COMMON = cycle(("A001", "A004", "B001", "B006", "C002", "C005", "D001", "D004", "E001", "E004", "F001", "F004"))
_short, _reserved, _missing, _remote = (cycle(skus) for skus in (SHORT_SKUS, RESERVED_SKUS, MISSING_SKUS, STORE_SKUS))

Scenario = Callable[[World], Awaitable[OrderStatus]]


async def clean(world: World, source: int) -> OrderStatus:
    channel, shop = SOURCES[source % len(SOURCES)]
    sale = await world.place(channel, shop, next(_COMMON), custom={"gift_card": "恭喜"} if channel == "own" else {})
    return await world.until(sale, OrderStatus.COMPLETED)


async def bundle(world: World) -> OrderStatus:
    sale = await world.place("shopify", "global", BUNDLE, price="289")
    return await world.until(sale, OrderStatus.COMPLETED)


async def split(world: World) -> OrderStatus:
    sale = await world.place("own", WEB, ONLY_BEIJING, ONLY_CHENGDU)
    end = await world.until(sale, OrderStatus.COMPLETED)
    parcels = (await world.order(sale))["fulfillments"]
    expect({each["warehouse"] for each in parcels} == {"BJ", "CD"}, "not split over both warehouses")
    return end


async def reserved_for_own_site(world: World) -> OrderStatus:
    """Other channels wait while the own site sells; released stock is allocated to the waiting order."""
    sku = next(_reserved)
    other = await world.place("shopify", "global", sku)
    await world.until(other, OrderStatus.AWAITING_STOCK)
    ours = await world.place("own", WEB, sku)
    await world.until(ours, OrderStatus.COMPLETED)
    await world.post("/stock/fence", {"warehouse": VIRTUAL_WAREHOUSE, "sku": sku, "quantity": -1})
    return await world.until(other, OrderStatus.COMPLETED)


async def drop_shipped(world: World) -> OrderStatus:
    sale = await world.place("own", WEB, DROP_SHIPPED)
    end = await world.until(sale, OrderStatus.COMPLETED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    expect(parcel["warehouse"] == "FAC", f"shipped from {parcel['warehouse']}")
    return end


async def presale(world: World) -> OrderStatus:
    """The fulfillment order is scheduled for its presale date, until the merchant expedites it."""
    sale = await world.place("shopify", "global", PRESALE, price="399")
    await world.until(sale, OrderStatus.ALLOCATED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    expect(parcel["status"] == "scheduled", f"the fulfillment order is {parcel['status']}")
    status, response = await world.request(sale, "expedite")
    expect(status == 200, response)
    return await world.until(sale, OrderStatus.COMPLETED)


async def stock_synced(world: World) -> OrderStatus:
    """A sale on one channel reduces the stock of another within seconds."""
    before = await world.pushed_stock(WEB, SYNCED_SKU)
    sale = await world.place("shopify", "global", SYNCED_SKU)
    await world.until(sale, OrderStatus.ALLOCATED, OrderStatus.SHIPPED, OrderStatus.DELIVERED, OrderStatus.COMPLETED)
    for _ in range(100):
        if (now := await world.pushed_stock(WEB, SYNCED_SKU)) < before:
            return await world.until(sale, OrderStatus.COMPLETED)
        await asyncio.sleep(0.2)
    raise ScenarioFailed(f"the own site still shows {now}")


async def transferred(world: World) -> OrderStatus:
    """Stock of the remote store is transferred to Shanghai in two deliveries."""
    sku = next(_remote)
    sale = await world.place("own", WEB, sku, quantity=2)
    await world.until(sale, OrderStatus.AWAITING_STOCK)
    due = (datetime.now(CHINA) + timedelta(days=3)).date().isoformat()
    body = {"origin": STORE, "destination": "SH", "goods": {sku: 4}, "due": due, "reason": "sold out in Shanghai"}
    path = f"/transfers/{(await world.post('/transfers', body))['id']}"
    await world.post(f"{path}/approve", {})
    await world.post(f"{path}/ship", {})
    await world.post(f"{path}/receive", {"goods": {sku: 1}})
    await world.post(f"{path}/receive", {"goods": {sku: 3}})
    transfer = await world.get(path)
    expect(transfer["status"] == "received", f"the transfer is {transfer['status']}")
    return await world.until(sale, OrderStatus.COMPLETED)


async def missing_at_warehouse(world: World) -> OrderStatus:
    """The warehouse does not find the goods: its stock is corrected, and another warehouse ships."""
    sku = next(_missing)
    sale = await world.sell("own", WEB, sku, recipient=world.recipient_in("上海市"))
    await world.reject(sale, "SH", sku)
    await world.deliver(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    sent = [each for each in (await world.order(sale))["fulfillments"] if each["status"] != "cancelled"]
    expect([each["warehouse"] for each in sent] != ["SH"], "the warehouse without stock shipped")
    level = next(each for each in await world.get("/stock", sku=sku, warehouse="SH"))
    expect(level["on_hand"] == 0, f"{level['on_hand']} are still on hand")
    return end


async def unpaid_then_paid(world: World) -> OrderStatus:
    sale = await world.place("shopify", "global", next(_COMMON), paid=False)
    await world.until(sale, OrderStatus.AWAITING_PAYMENT)
    await world.change(sale, paid=True)
    return await world.until(sale, OrderStatus.COMPLETED)


async def unpaid_then_expired(world: World) -> OrderStatus:
    sale = await world.place("shopify", "unpaid", next(_COMMON), paid=False)
    return await world.until(sale, OrderStatus.CANCELLED)


async def held_and_approved(world: World) -> OrderStatus:
    sale = await world.place("own", WEB, "D009", price="9800")
    await world.until(sale, OrderStatus.IN_REVIEW)
    status, response = await world.request(sale, "approve")
    expect(status == 200, response)
    return await world.until(sale, OrderStatus.COMPLETED)


async def held_and_rejected(world: World) -> OrderStatus:
    sale = await world.place("own", WEB, next(_COMMON), buyer_message="先别发货，等我电话")
    await world.until(sale, OrderStatus.IN_REVIEW)
    status, response = await world.request(sale, "reject", reason="fraud")
    expect(status == 200, response)
    return await world.until(sale, OrderStatus.REJECTED)


async def address_modified(world: World) -> OrderStatus:
    sale = await world.place("own", GRACE, next(_COMMON))
    await world.until(sale, OrderStatus.APPROVED)
    moved = sale.person | {"province": "广东省", "city": "深圳市", "district": "南山区"}
    await world.change(sale, recipient=moved)
    end = await world.until(sale, OrderStatus.COMPLETED)
    order = await world.order(sale)
    expect(order["recipient"]["city"] == "深圳市", "the address is still the old one")
    expect("timeline.modify" in {each["what"] for each in order["timeline"]}, "the timeline does not show the change")
    return end


async def quantity_modified(world: World) -> OrderStatus:
    sale = await world.place("own", GRACE, "A002", quantity=3)
    await world.until(sale, OrderStatus.APPROVED)
    status, response = await world.request(sale, "modify", lines=[{"line_no": "1", "quantity": 2}])
    expect(status == 200, response)
    end = await world.until(sale, OrderStatus.COMPLETED)
    parcels = (await world.order(sale))["fulfillments"]
    sent = sum(line["quantity"] for each in parcels if each["status"] == "delivered" for line in each["lines"])
    expect(sent == 2, f"{sent} were sent")
    return end


async def cancelled_in_time(world: World) -> OrderStatus:
    sale = await world.place("own", GRACE, next(_COMMON))
    await world.until(sale, OrderStatus.APPROVED)
    status, response = await world.request(sale, "cancel", reason="changed my mind")
    expect(status == 200, response)
    return await world.until(sale, OrderStatus.CANCELLED)


async def cancel_refused(world: World) -> OrderStatus:
    sale = await world.sell("own", WEB, next(_COMMON))
    await world.plan_journey(sale, kind="silent")
    await world.deliver(sale)
    await world.until(sale, OrderStatus.SHIPPED)
    status, response = await world.request(sale, "cancel", reason="too late")
    expect(status == 409 and response["reason"] == "refused.cancel", response)
    expect("note" in response["supported_actions"], response)
    await world.travel(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def restocked(world: World) -> OrderStatus:
    sku = next(_short)
    sale = await world.place("own", WEB, sku, quantity=2)
    await world.until(sale, OrderStatus.AWAITING_STOCK)
    await world.receive("CD", sku, 2)
    return await world.until(sale, OrderStatus.COMPLETED)


async def duplicate_webhooks(world: World) -> OrderStatus:
    sale = await world.sell("shopify", "global", next(_COMMON))
    await world.deliver(sale, copies=3)
    return await world.until(sale, OrderStatus.COMPLETED)


async def _faulty(world: World, fault: str, **more: float) -> OrderStatus:
    sale = await world.sell("own", WEB, next(_COMMON))
    await world.fault(sale, fault, **more)
    await world.deliver(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def carrier_500(world: World) -> OrderStatus:
    return await _faulty(world, "500", times=2)


async def carrier_429(world: World) -> OrderStatus:
    return await _faulty(world, "429", seconds=2)


async def carrier_timeout_after_booking(world: World) -> OrderStatus:
    return await _faulty(world, "timeout_after", seconds=11)


async def pushes_out_of_order(world: World) -> OrderStatus:
    sale = await world.sell("own", WEB, next(_COMMON))
    await world.plan_journey(sale, copies=3, shuffle=True)
    await world.deliver(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    await asyncio.sleep(1)
    scans = (await world.order(sale))["fulfillments"][0]["scans"]
    expect(len({(each["at"], each["text"]) for each in scans}) == len(scans), "a scan was stored twice")
    return end


async def late(world: World) -> OrderStatus:
    sale = await world.sell("own", LATE, next(_COMMON))
    await world.plan_journey(sale, kind="silent")
    await world.deliver(sale)
    await world.until_exception(sale, "no_movement")
    await world.travel(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def refused_by_buyer(world: World) -> OrderStatus:
    sale = await world.sell("own", WEB, next(_COMMON))
    await world.plan_journey(sale, kind="refused")
    await world.deliver(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    ledger = await world.get("/stock/ledger", order_id=sale.order_id)
    expect("returned" in {each["kind"] for each in ledger["items"]}, "the goods were not returned to stock")
    return end


SCENARIOS: dict[str, tuple[Scenario, OrderStatus]] = {
    "bundle": (bundle, OrderStatus.COMPLETED),
    "split": (split, OrderStatus.COMPLETED),
    "reserved_for_own_site": (reserved_for_own_site, OrderStatus.COMPLETED),
    "drop_shipped": (drop_shipped, OrderStatus.COMPLETED),
    "presale": (presale, OrderStatus.COMPLETED),
    "transferred": (transferred, OrderStatus.COMPLETED),
    "stock_synced": (stock_synced, OrderStatus.COMPLETED),
    "missing_at_warehouse": (missing_at_warehouse, OrderStatus.COMPLETED),
    "unpaid_then_paid": (unpaid_then_paid, OrderStatus.COMPLETED),
    "unpaid_then_expired": (unpaid_then_expired, OrderStatus.CANCELLED),
    "held_and_approved": (held_and_approved, OrderStatus.COMPLETED),
    "held_and_rejected": (held_and_rejected, OrderStatus.REJECTED),
    "address_modified": (address_modified, OrderStatus.COMPLETED),
    "quantity_modified": (quantity_modified, OrderStatus.COMPLETED),
    "cancelled_in_time": (cancelled_in_time, OrderStatus.CANCELLED),
    "cancel_refused": (cancel_refused, OrderStatus.COMPLETED),
    "restocked": (restocked, OrderStatus.COMPLETED),
    "duplicate_webhooks": (duplicate_webhooks, OrderStatus.COMPLETED),
    "carrier_500": (carrier_500, OrderStatus.COMPLETED),
    "carrier_429": (carrier_429, OrderStatus.COMPLETED),
    "carrier_timeout_after_booking": (carrier_timeout_after_booking, OrderStatus.COMPLETED),
    "pushes_out_of_order": (pushes_out_of_order, OrderStatus.COMPLETED),
    "late": (late, OrderStatus.COMPLETED),
    "refused_by_buyer": (refused_by_buyer, OrderStatus.COMPLETED),
    **CHANNEL_SCENARIOS,
    **CARRIER_SCENARIOS,
}
"""Every scenario with its expected final status; ``clean`` orders make up the rest."""
