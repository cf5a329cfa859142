"""The stories of the carriers: each carries a parcel to the door, each thing that goes wrong is seen, and closes."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

from models.carrier_selection import CarrierTerms
from models.exceptions import POLICIES, ExceptionKind, ExceptionPolicy
from models.order import OrderStatus
from starter.demo.world import Sale, World, demand
from starter.sandbox.accounts import BOOKING

WEB = "web"
_SKU = "A005"
AGGREGATOR, FOLLOWED = "kuaidi100", "yunda"
"""Who follows whose parcels."""
_HEAVY = "F001"
TERMS = CarrierTerms(carrier="cainiao", max_kg=Decimal(3))
"""It takes one heavy thing, not two."""
PATIENCE: tuple[ExceptionPolicy, ...] = tuple(
    POLICIES[kind].model_copy(update={"after": 5}) for kind in (ExceptionKind.NOT_ACCEPTED, ExceptionKind.NOT_PICKED_UP)
)
"""A day is too long for a demo."""


async def carried(world: World, carrier: str) -> OrderStatus:
    """The buyer wants this carrier; it books once, and carries."""
    sale = await world.place("own", WEB, _SKU, custom={"carrier": carrier})
    end = await world.until(sale, OrderStatus.COMPLETED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    demand(parcel["carrier"] == carrier, f"{parcel['carrier']} carried it")
    return end


async def followed(world: World) -> OrderStatus:
    """Its carrier tells nothing; an aggregator follows it to the door."""
    sale = await _shipped_by(world, FOLLOWED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    await world.followed(AGGREGATOR, parcel["waybill_no"])
    await world.travel(sale, by=AGGREGATOR)
    return await world.until(sale, OrderStatus.COMPLETED)


async def _shipped_by(world: World, carrier: str, kind: str = "silent") -> Sale:
    """An order that has left with this carrier, on a way of this kind."""
    sale = await world.sell("own", WEB, _SKU, custom={"carrier": carrier})
    await world.journey(sale, carrier, kind=kind)
    await world.deliver(sale)
    await world.until(sale, OrderStatus.SHIPPED, OrderStatus.COMPLETED)
    return sale


async def _goes_on(world: World, sale: Sale, kind: str) -> OrderStatus:
    """It arrives after all: what was wrong closes by itself."""
    await world.travel(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.wrong(sale, kind, closed=True)
    return end


async def seen_by_scan(world: World, kind: str, carrier: str, way: str) -> OrderStatus:
    sale = await _shipped_by(world, carrier, way)
    await world.wrong(sale, kind)
    return await _goes_on(world, sale, kind)


async def not_accepted(world: World) -> OrderStatus:
    """Its warehouse does not look at it: it is taken back, and another sends it."""
    sale = await world.sell("own", WEB, _SKU)
    await world.keep_in_warehouse(sale, "F1", unseen=True)
    await world.deliver(sale)
    await world.wrong(sale, "not_accepted")
    await world.remedy(sale, "not_accepted", "rebook")
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.wrong(sale, "not_accepted", closed=True)
    return end


async def booking_failed(world: World) -> OrderStatus:
    """Too heavy for the carrier that the buyer wants; he wants fewer."""
    sale = await world.place("own", WEB, _HEAVY, quantity=2, custom={"carrier": TERMS.carrier})
    await world.wrong(sale, "booking_failed")
    status, answer = await world.ask(sale, "modify", lines=[{"line_no": "1", "quantity": 1}])
    demand(status == 200, answer)
    status, answer = await world.ask(sale, "release")
    demand(status == 200, answer)
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.wrong(sale, "booking_failed", closed=True)
    return end


async def not_picked_up(world: World) -> OrderStatus:
    sale = await _shipped_by(world, "yto")
    await world.wrong(sale, "not_picked_up")
    return await _goes_on(world, sale, "not_picked_up")


async def no_movement(world: World) -> OrderStatus:
    sale = await _shipped_by(world, "sto")
    await world.scanned(sale, ("收件", "上海市", 80), ("发件", "上海市", 72))
    await world.wrong(sale, "no_movement")
    return await _goes_on(world, sale, "no_movement")


async def stuck(world: World) -> OrderStatus:
    """It is scanned again and again, always at the same place."""
    sale = await _shipped_by(world, "sto")
    await world.scanned(sale, ("收件", "上海市", 60), ("发件", "上海市", 50), ("发件", "上海市", 1))
    await world.wrong(sale, "stuck")
    return await _goes_on(world, sale, "stuck")


async def late(world: World) -> OrderStatus:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    sale = await world.sell("own", WEB, _SKU, custom={"carrier": "zto", "promised_by": yesterday})
    await world.journey(sale, "zto", kind="silent")
    await world.deliver(sale)
    await world.wrong(sale, "late")
    await world.until(sale, OrderStatus.SHIPPED)
    return await _goes_on(world, sale, "late")


async def refused(world: World) -> OrderStatus:
    """The buyer does not take it; it comes back, and he is to have his money."""
    sale = await _shipped_by(world, "sto")
    await world.scanned(sale, ("收件", "上海市", 3), ("问题件", "杭州市", 2), reason="客户拒收")
    await world.wrong(sale, "refused")
    await world.remedy(sale, "refused", "refund")
    await world.scanned(sale, ("签收", "上海市", 0), signer="退件签收")
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.wrong(sale, "refused", closed=True)
    demand(await world.get("/settlements", order_id=sale.order_id, kind="refund"), "no refund is due")
    return end


async def returned(world: World) -> OrderStatus:
    """It came back undelivered, and is sent once more."""
    sale = await _shipped_by(world, "sto")
    await world.scanned(sale, ("收件", "上海市", 3), ("签收", "上海市", 0), signer="退件签收")
    await world.wrong(sale, "returned")
    await world.remedy(sale, "returned", "reissue")
    await world.reissued(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def lost(world: World) -> OrderStatus:
    """A claim on the carrier is opened by itself; what was lost is sent once more."""
    sale = await _shipped_by(world, "sto", "lost")
    await world.wrong(sale, "lost")
    demand(await world.get("/settlements", order_id=sale.order_id, kind="claim"), "nothing is claimed")
    await world.remedy(sale, "lost", "reissue")
    await world.reissued(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


_WRONG: dict[str, Callable[[World], Awaitable[OrderStatus]]] = {
    "not_accepted": not_accepted,
    "booking_failed": booking_failed,
    "not_picked_up": not_picked_up,
    "no_movement": no_movement,
    "stuck": stuck,
    "late": late,
    "delivery_failed": partial(seen_by_scan, kind="delivery_failed", carrier="jdl", way="failed"),
    "wrong_address": partial(seen_by_scan, kind="wrong_address", carrier="yunda", way="wrong_address"),
    "refused": refused,
    "returned": returned,
    "lost": lost,
    "damaged": partial(seen_by_scan, kind="damaged", carrier="zto", way="damaged"),
}
STORIES: dict[str, tuple[Callable[[World], Awaitable[OrderStatus]], OrderStatus]] = {
    **{f"by_{name}": (partial(carried, carrier=name), OrderStatus.COMPLETED) for name in BOOKING},
    f"by_{AGGREGATOR}": (followed, OrderStatus.COMPLETED),
    **{f"wrong_{kind}": (story, OrderStatus.COMPLETED) for kind, story in _WRONG.items()},
}
