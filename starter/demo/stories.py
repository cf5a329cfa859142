"""The stories the demo plays. Each acts from outside only, and ends where its last line says."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import cycle

from models.base import CHINA
from models.order import OrderStatus
from starter.demo.carriers import STORIES as CARRIER_STORIES
from starter.demo.channels import MAIN_SHOPS, SOURCES, WEB
from starter.demo.channels import STORIES as CHANNEL_STORIES
from starter.demo.world import Untold, World, demand
from starter.sandbox.accounts import Shop

SHORT_SKUS = ("A012", "C012", "D012", "E010", "F008")
"""Nothing of these lies anywhere until a story has it arrive, each for one order."""
ONLY_BEIJING, ONLY_CHENGDU = "F006", "F007"
"""Each lies in one warehouse alone: together they must be split."""
BUNDLE = "K001"
FENCED_SKUS = ("A009", "B010", "C011", "D008", "E007")
"""All there is of these is kept for the own site."""
FENCE = "SH@web"
"""The virtual warehouse that keeps them."""
DROP_SHIPPED = "F005"
"""Lies at the supplier alone."""
STORE = "LS"
"""A shop counter far away, that delivers nowhere else."""
STORE_SKUS = ("A008", "B011", "C009", "D003", "F002")
"""Lie at the store alone."""
WATCHED = "C006"
"""The own site is told how many of these it may sell."""
PRESALE = "P001"
AMISS_SKUS = ("A007", "B009", "C008", "D011", "E008")
"""What the warehouse at Shanghai will not find."""

GRACE, LATE = "grace", "late"
SHOPS = [
    *MAIN_SHOPS,
    Shop(channel="shopify", name="unpaid", settings={"policy": {"payment": 5, "reserve": "placed"}}),
    Shop(channel="own", name=GRACE, settings={"policy": {"grace": 10}}),
    Shop(channel="own", name=LATE, settings={"policy": {"movement": 4}}),
]
_COMMON = cycle(("A001", "A004", "B001", "B006", "C002", "C005", "D001", "D004", "E001", "E004", "F001", "F004"))
_short, _fenced, _amiss, _far = (cycle(skus) for skus in (SHORT_SKUS, FENCED_SKUS, AMISS_SKUS, STORE_SKUS))

Story = Callable[[World], Awaitable[OrderStatus]]


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
    demand({each["warehouse"] for each in parcels} == {"BJ", "CD"}, "not two parcels")
    return end


async def fenced_off(world: World) -> OrderStatus:
    """Others wait while the own site sells; what it gives back goes to who waits."""
    sku = next(_fenced)
    other = await world.place("shopify", "global", sku)
    await world.until(other, OrderStatus.AWAITING_STOCK)
    ours = await world.place("own", WEB, sku)
    await world.until(ours, OrderStatus.COMPLETED)
    await world.post("/stock/fence", {"warehouse": FENCE, "sku": sku, "quantity": -1})
    return await world.until(other, OrderStatus.COMPLETED)


async def drop_shipped(world: World) -> OrderStatus:
    sale = await world.place("own", WEB, DROP_SHIPPED)
    end = await world.until(sale, OrderStatus.COMPLETED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    demand(parcel["warehouse"] == "FAC", f"it left from {parcel['warehouse']}")
    return end


async def sold_ahead(world: World) -> OrderStatus:
    """It waits for its day, until the merchant says that it need not."""
    sale = await world.place("shopify", "global", PRESALE, price="399")
    await world.until(sale, OrderStatus.ALLOCATED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    demand(parcel["status"] == "scheduled", f"it is {parcel['status']}")
    status, answer = await world.ask(sale, "expedite")
    demand(status == 200, answer)
    return await world.until(sale, OrderStatus.COMPLETED)


async def offered_elsewhere(world: World) -> OrderStatus:
    """What one channel sells, the others are told of within seconds."""
    before = await world.offered(WEB, WATCHED)
    sale = await world.place("shopify", "global", WATCHED)
    await world.until(sale, OrderStatus.ALLOCATED, OrderStatus.SHIPPED, OrderStatus.DELIVERED, OrderStatus.COMPLETED)
    for _ in range(100):
        if (now := await world.offered(WEB, WATCHED)) < before:
            return await world.until(sale, OrderStatus.COMPLETED)
        await asyncio.sleep(0.2)
    raise Untold(f"the own site may still sell {now}")


async def transferred(world: World) -> OrderStatus:
    """What lies where nobody delivers from is moved to where somebody does; half of it comes later."""
    sku = next(_far)
    sale = await world.place("own", WEB, sku, quantity=2)
    await world.until(sale, OrderStatus.AWAITING_STOCK)
    due = (datetime.now(CHINA) + timedelta(days=3)).date().isoformat()
    asked = {"origin": STORE, "destination": "SH", "goods": {sku: 4}, "due": due, "reason": "sold out in Shanghai"}
    path = f"/transfers/{(await world.post('/transfers', asked))['id']}"
    await world.post(f"{path}/approve", {})
    await world.post(f"{path}/ship", {})
    await world.post(f"{path}/receive", {"goods": {sku: 1}})
    await world.post(f"{path}/receive", {"goods": {sku: 3}})
    transfer = await world.get(path)
    demand(transfer["status"] == "received", f"the transfer is {transfer['status']}")
    return await world.until(sale, OrderStatus.COMPLETED)


async def not_found(world: World) -> OrderStatus:
    """The warehouse does not find it: the books are put right, and another sends it."""
    sku = next(_amiss)
    sale = await world.sell("own", WEB, sku, recipient=world.somebody("上海市"))
    await world.reject(sale, "SH", sku)
    await world.deliver(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    sent = [each for each in (await world.order(sale))["fulfillments"] if each["status"] != "cancelled"]
    demand([each["warehouse"] for each in sent] != ["SH"], "it left from where it is not")
    left = next(each for each in await world.get("/stock", sku=sku, warehouse="SH"))
    demand(left["on_hand"] == 0, f"{left['on_hand']} are still in the books")
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
    status, answer = await world.ask(sale, "approve")
    demand(status == 200, answer)
    return await world.until(sale, OrderStatus.COMPLETED)


async def held_and_rejected(world: World) -> OrderStatus:
    sale = await world.place("own", WEB, next(_COMMON), buyer_message="先别发货，等我电话")
    await world.until(sale, OrderStatus.IN_REVIEW)
    status, answer = await world.ask(sale, "reject", reason="fraud")
    demand(status == 200, answer)
    return await world.until(sale, OrderStatus.REJECTED)


async def address_modified(world: World) -> OrderStatus:
    sale = await world.place("own", GRACE, next(_COMMON))
    await world.until(sale, OrderStatus.APPROVED)
    moved = sale.person | {"province": "广东省", "city": "深圳市", "district": "南山区"}
    await world.change(sale, recipient=moved)
    end = await world.until(sale, OrderStatus.COMPLETED)
    order = await world.order(sale)
    demand(order["recipient"]["city"] == "深圳市", "it went to the old address")
    demand("timeline.modify" in {each["what"] for each in order["timeline"]}, "no trace of it")
    return end


async def quantity_modified(world: World) -> OrderStatus:
    sale = await world.place("own", GRACE, "A002", quantity=3)
    await world.until(sale, OrderStatus.APPROVED)
    status, answer = await world.ask(sale, "modify", lines=[{"line_no": "1", "quantity": 2}])
    demand(status == 200, answer)
    end = await world.until(sale, OrderStatus.COMPLETED)
    parcels = (await world.order(sale))["fulfillments"]
    sent = sum(line["quantity"] for each in parcels if each["status"] == "delivered" for line in each["lines"])
    demand(sent == 2, f"{sent} were sent")
    return end


async def cancelled_in_time(world: World) -> OrderStatus:
    sale = await world.place("own", GRACE, next(_COMMON))
    await world.until(sale, OrderStatus.APPROVED)
    status, answer = await world.ask(sale, "cancel", reason="changed my mind")
    demand(status == 200, answer)
    return await world.until(sale, OrderStatus.CANCELLED)


async def cancel_refused(world: World) -> OrderStatus:
    sale = await world.sell("own", WEB, next(_COMMON))
    await world.journey(sale, kind="silent")
    await world.deliver(sale)
    await world.until(sale, OrderStatus.SHIPPED)
    status, answer = await world.ask(sale, "cancel", reason="too late")
    demand(status == 409 and answer["reason"] == "refused.cancel", answer)
    demand("note" in answer["supported_actions"], answer)
    await world.travel(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def short_then_arrived(world: World) -> OrderStatus:
    sku = next(_short)
    sale = await world.place("own", WEB, sku, quantity=2)
    await world.until(sale, OrderStatus.AWAITING_STOCK)
    await world.receive("CD", sku, 2)
    return await world.until(sale, OrderStatus.COMPLETED)


async def thrice_at_once(world: World) -> OrderStatus:
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


async def carrier_silent_after_booking(world: World) -> OrderStatus:
    return await _faulty(world, "timeout_after", seconds=11)


async def pushes_in_disorder(world: World) -> OrderStatus:
    sale = await world.sell("own", WEB, next(_COMMON))
    await world.journey(sale, copies=3, shuffle=True)
    await world.deliver(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    await asyncio.sleep(1)
    scans = (await world.order(sale))["fulfillments"][0]["scans"]
    demand(len({(each["at"], each["text"]) for each in scans}) == len(scans), "a scan was kept twice")
    return end


async def late(world: World) -> OrderStatus:
    sale = await world.sell("own", LATE, next(_COMMON))
    await world.journey(sale, kind="silent")
    await world.deliver(sale)
    await world.wrong(sale, "no_movement")
    await world.travel(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def refused_by_buyer(world: World) -> OrderStatus:
    sale = await world.sell("own", WEB, next(_COMMON))
    await world.journey(sale, kind="refused")
    await world.deliver(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    ledger = await world.get("/stock/ledger", order_id=sale.order_id)
    demand("returned" in {each["kind"] for each in ledger["items"]}, "it did not come back to the stock")
    return end


STORIES: dict[str, tuple[Story, OrderStatus]] = {
    "bundle": (bundle, OrderStatus.COMPLETED),
    "split": (split, OrderStatus.COMPLETED),
    "fenced_off": (fenced_off, OrderStatus.COMPLETED),
    "drop_shipped": (drop_shipped, OrderStatus.COMPLETED),
    "sold_ahead": (sold_ahead, OrderStatus.COMPLETED),
    "transferred": (transferred, OrderStatus.COMPLETED),
    "offered_elsewhere": (offered_elsewhere, OrderStatus.COMPLETED),
    "not_found": (not_found, OrderStatus.COMPLETED),
    "unpaid_then_paid": (unpaid_then_paid, OrderStatus.COMPLETED),
    "unpaid_then_expired": (unpaid_then_expired, OrderStatus.CANCELLED),
    "held_and_approved": (held_and_approved, OrderStatus.COMPLETED),
    "held_and_rejected": (held_and_rejected, OrderStatus.REJECTED),
    "address_modified": (address_modified, OrderStatus.COMPLETED),
    "quantity_modified": (quantity_modified, OrderStatus.COMPLETED),
    "cancelled_in_time": (cancelled_in_time, OrderStatus.CANCELLED),
    "cancel_refused": (cancel_refused, OrderStatus.COMPLETED),
    "short_then_arrived": (short_then_arrived, OrderStatus.COMPLETED),
    "thrice_at_once": (thrice_at_once, OrderStatus.COMPLETED),
    "carrier_500": (carrier_500, OrderStatus.COMPLETED),
    "carrier_429": (carrier_429, OrderStatus.COMPLETED),
    "carrier_silent_after_booking": (carrier_silent_after_booking, OrderStatus.COMPLETED),
    "pushes_in_disorder": (pushes_in_disorder, OrderStatus.COMPLETED),
    "late": (late, OrderStatus.COMPLETED),
    "refused_by_buyer": (refused_by_buyer, OrderStatus.COMPLETED),
    **CHANNEL_STORIES,
    **CARRIER_STORIES,
}
"""Every story with the status it demands; ``clean`` fills up the rest."""
