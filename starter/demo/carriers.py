"""Scenarios of carriers: each one delivers a parcel; every kind of exception opens and closes."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

from models.carrier_selection import CarrierTerms
from models.exceptions import POLICIES, ExceptionKind, ExceptionPolicy
from models.order import OrderStatus
from starter.demo.world import Sale, World, expect
from starter.sandbox.accounts import BOOKING

WEB = "web"
_SKU = "A005"
AGGREGATOR, TRACKED_CARRIER = "kuaidi100", "yunda"
"""The aggregator, and the carrier whose parcels it tracks."""
_HEAVY = "F001"
TERMS = CarrierTerms(carrier="cainiao", max_kg=Decimal(3))
"""One heavy item is within its limit, two are not."""
_SECONDS = {
    ExceptionKind.NOT_ACCEPTED: 5,
    ExceptionKind.NOT_PICKED_UP: 5,
    ExceptionKind.NO_MOVEMENT: 60,
    ExceptionKind.STUCK: 60,
}
POLICIES_OF_DEMO: tuple[ExceptionPolicy, ...] = tuple(
    POLICIES[kind].model_copy(update={"after": seconds}) for kind, seconds in _SECONDS.items()
)
"""Exceptions that open after seconds instead of days: a scan from before the booking would not count."""


async def delivered_by(world: World, carrier: str) -> OrderStatus:
    """The buyer demands this carrier; it books once and delivers."""
    sale = await world.place("own", WEB, _SKU, custom={"carrier": carrier})
    end = await world.until(sale, OrderStatus.COMPLETED)
    (parcel,) = (await world.order(sale))["fulfillments"]
    expect(parcel["carrier"] == carrier, f"the carrier is {parcel['carrier']}")
    return end


async def tracked_by_aggregator(world: World) -> OrderStatus:
    """The carrier sends no scans; an aggregator tracks the parcel until delivery."""
    sale = await _shipped_by(world, TRACKED_CARRIER)
    (parcel,) = (await world.order(sale))["fulfillments"]
    await world.until_subscribed(AGGREGATOR, parcel["waybill_no"])
    await world.travel(sale, by=AGGREGATOR)
    return await world.until(sale, OrderStatus.COMPLETED)


async def _shipped_by(world: World, carrier: str, kind: str = "silent") -> Sale:
    """Place an order and wait until it is shipped by this carrier, on a journey of this kind."""
    sale = await world.sell("own", WEB, _SKU, custom={"carrier": carrier})
    await world.plan_journey(sale, carrier, kind=kind)
    await world.deliver(sale)
    await world.until(sale, OrderStatus.SHIPPED, OrderStatus.COMPLETED)
    return sale


async def _deliver_and_close(world: World, sale: Sale, kind: str) -> OrderStatus:
    """Deliver the parcel after all: the exception closes by itself."""
    await world.travel(sale)
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.until_exception(sale, kind, closed=True)
    return end


async def opened_by_scan(world: World, kind: str, carrier: str, journey: str) -> OrderStatus:
    sale = await _shipped_by(world, carrier, journey)
    await world.until_exception(sale, kind)
    return await _deliver_and_close(world, sale, kind)


async def not_accepted(world: World) -> OrderStatus:
    """The warehouse does not accept the fulfillment order: rebooking recalls it, and another warehouse ships."""
    sale = await world.sell("own", WEB, _SKU)
    await world.hold_at_warehouse(sale, "F1", unaccepted=True)
    await world.deliver(sale)
    await world.until_exception(sale, "not_accepted")
    await world.apply_remedy(sale, "not_accepted", "rebook")
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.until_exception(sale, "not_accepted", closed=True)
    return end


async def booking_failed(world: World) -> OrderStatus:
    """The goods are too heavy for the demanded carrier, until the buyer reduces the quantity."""
    sale = await world.place("own", WEB, _HEAVY, quantity=2, custom={"carrier": TERMS.carrier})
    await world.until_exception(sale, "booking_failed")
    status, response = await world.request(sale, "modify", lines=[{"line_no": "1", "quantity": 1}])
    expect(status == 200, response)
    status, response = await world.request(sale, "release")
    expect(status == 200, response)
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.until_exception(sale, "booking_failed", closed=True)
    return end


async def not_picked_up(world: World) -> OrderStatus:
    sale = await _shipped_by(world, "yto")
    await world.until_exception(sale, "not_picked_up")
    return await _deliver_and_close(world, sale, "not_picked_up")


async def no_movement(world: World) -> OrderStatus:
    sale = await _shipped_by(world, "sto")
    await world.push_scans(sale, ("收件", "上海市", 9), ("发件", "上海市", 8))
    await world.until_exception(sale, "no_movement")
    return await _deliver_and_close(world, sale, "no_movement")


async def stuck(world: World) -> OrderStatus:
    """The parcel is scanned repeatedly, always at the same place."""
    sale = await _shipped_by(world, "sto")
    await world.push_scans(sale, ("收件", "上海市", 9), ("发件", "上海市", 8), ("发件", "上海市", 1))
    await world.until_exception(sale, "stuck")
    return await _deliver_and_close(world, sale, "stuck")


async def late(world: World) -> OrderStatus:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    sale = await world.sell("own", WEB, _SKU, custom={"carrier": "zto", "promised_by": yesterday})
    await world.plan_journey(sale, "zto", kind="silent")
    await world.deliver(sale)
    await world.until_exception(sale, "late")
    await world.until(sale, OrderStatus.SHIPPED)
    return await _deliver_and_close(world, sale, "late")


async def refused(world: World) -> OrderStatus:
    """The buyer refuses the parcel; it returns, and a refund becomes due."""
    sale = await _shipped_by(world, "sto")
    await world.push_scans(sale, ("收件", "上海市", 3), ("问题件", "杭州市", 2), reason="客户拒收")
    await world.until_exception(sale, "refused")
    await world.apply_remedy(sale, "refused", "refund")
    await world.push_scans(sale, ("签收", "上海市", 0), signer="退件签收")
    end = await world.until(sale, OrderStatus.COMPLETED)
    await world.until_exception(sale, "refused", closed=True)
    expect(await world.get("/settlements", order_id=sale.order_id, kind="refund"), "no refund is due")
    return end


async def returned(world: World) -> OrderStatus:
    """The parcel returns undelivered, and is reissued."""
    sale = await _shipped_by(world, "sto")
    await world.push_scans(sale, ("收件", "上海市", 3), ("签收", "上海市", 0), signer="退件签收")
    await world.until_exception(sale, "returned")
    await world.apply_remedy(sale, "returned", "reissue")
    await world.until_reissued(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


async def lost(world: World) -> OrderStatus:
    """A claim against the carrier opens by itself; the lost goods are reissued."""
    sale = await _shipped_by(world, "sto", "lost")
    await world.until_exception(sale, "lost", remedy="claim")
    expect(await world.get("/settlements", order_id=sale.order_id, kind="claim"), "no claim is open")
    await world.apply_remedy(sale, "lost", "reissue")
    await world.until_reissued(sale)
    return await world.until(sale, OrderStatus.COMPLETED)


_EXCEPTIONS: dict[str, Callable[[World], Awaitable[OrderStatus]]] = {
    "not_accepted": not_accepted,
    "booking_failed": booking_failed,
    "not_picked_up": not_picked_up,
    "no_movement": no_movement,
    "stuck": stuck,
    "late": late,
    "delivery_failed": partial(opened_by_scan, kind="delivery_failed", carrier="jdl", journey="failed"),
    "wrong_address": partial(opened_by_scan, kind="wrong_address", carrier="yunda", journey="wrong_address"),
    "refused": refused,
    "returned": returned,
    "lost": lost,
    "damaged": partial(opened_by_scan, kind="damaged", carrier="zto", journey="damaged"),
}
SCENARIOS: dict[str, tuple[Callable[[World], Awaitable[OrderStatus]], OrderStatus]] = {
    **{f"by_{name}": (partial(delivered_by, carrier=name), OrderStatus.COMPLETED) for name in BOOKING},
    f"by_{AGGREGATOR}": (tracked_by_aggregator, OrderStatus.COMPLETED),
    **{f"exception_{kind}": (scenario, OrderStatus.COMPLETED) for kind, scenario in _EXCEPTIONS.items()},
}
