"""The stories of the carriers: each carries a parcel to the door, each thing that goes wrong is seen, and closes."""

from collections.abc import Awaitable, Callable
from functools import partial

from models.order import OrderStatus
from starter.demo.world import World, demand
from starter.sandbox.accounts import BOOKING

WEB = "web"
_SKU = "A005"


async def carried(world: World, carrier: str) -> OrderStatus:
    """The buyer wants this carrier; it books once, and carries."""
    sale = await world.place("own", WEB, _SKU, custom={"carrier": carrier})
    end = await world.until(sale, OrderStatus.COMPLETED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    demand(parcel["carrier"] == carrier, f"{parcel['carrier']} carried it")
    return end


async def gone_wrong(world: World, kind: str, carrier: str, way: str) -> OrderStatus:
    """It goes wrong on its way: an exception opens; where it goes well after all, it closes by itself."""
    sale = await world.sell("own", WEB, _SKU, custom={"carrier": carrier})
    await world.journey(sale, carrier, kind=way)
    await world.deliver(sale)
    await world.until(sale, OrderStatus.SHIPPED, OrderStatus.COMPLETED)
    await world.wrong(sale, kind)
    if way == "lost":
        return await world.until(sale, OrderStatus.COMPLETED)
    await world.travel(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.wrong(sale, kind, closed=True)
    return end


_WRONG = {
    "lost": ("sto", "lost"),
    "damaged": ("zto", "damaged"),
    "wrong_address": ("yunda", "wrong_address"),
    "delivery_failed": ("jdl", "failed"),
}
STORIES: dict[str, tuple[Callable[[World], Awaitable[OrderStatus]], OrderStatus]] = {
    **{f"by_{name}": (partial(carried, carrier=name), OrderStatus.COMPLETED) for name in BOOKING},
    **{
        f"wrong_{kind}": (partial(gone_wrong, kind=kind, carrier=carrier, way=way), OrderStatus.COMPLETED)
        for kind, (carrier, way) in _WRONG.items()
    },
}
