"""Stock under any sequence of acts, several connections at once: its invariants hold after every round.

Every act may be sent twice at the same moment. The model is plain arithmetic over what the acts answered.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from temporalio.exceptions import ApplicationError

from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.orders import steps
from activities.stock import ledger, operations
from models.fulfillment import Fulfillment, FulfillmentStatus, TrackingStatus
from models.policy import Policy
from models.state import OrderState
from starter.sandbox.merchant import seed
from tests.unit.orders import an_order, line

Result = TypeVar("Result")

_examples = count(1)

PLACES = st.sampled_from(["SH", "GZ", "CD"])
GOODS = st.sampled_from(["x", "y", "presale"])
ACTS = st.one_of(
    st.tuples(st.just("receive"), PLACES, GOODS, st.integers(1, 8)),
    st.tuples(st.just("adjust"), PLACES, GOODS, st.integers(-6, 6).filter(bool)),
    st.tuples(st.just("safety"), PLACES, GOODS, st.integers(0, 4)),
    st.tuples(st.just("sell"), st.lists(st.tuples(GOODS, st.integers(1, 4)), min_size=1, max_size=3), st.booleans()),
    st.tuples(st.just("plan"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("ship"), st.integers(0, 5)),
    st.tuples(st.just("return"), st.integers(0, 5)),
)
ROUNDS = st.lists(st.lists(st.tuples(ACTS, st.booleans()), min_size=1, max_size=6), min_size=1, max_size=6)


@dataclass
class World:
    """One merchant with SKUs of its own, so that examples share a database without interfering."""

    name: str
    on_hand: Counter[str] = field(default_factory=Counter)
    orders: list[OrderState] = field(default_factory=list)
    acts: int = 0
    busy: set[str] = field(default_factory=set)

    def sku(self, goods: str) -> str:
        return f"{self.name}-{goods}"

    def order(self, index: int) -> OrderState | None:
        """Return an order that no other act of the round uses: a workflow performs its steps one by one."""
        if not self.orders:
            return None
        state = self.orders[index % len(self.orders)]
        if state.order.order_id in self.busy:
            return None
        self.busy.add(state.order.order_id)
        state.revision += 1
        return state


async def retried(step: Callable[..., Awaitable[Result]], *args: Any) -> Result:
    """Run a step as Temporal does: until it succeeds, at most five times. PostgreSQL ends one side of a deadlock."""
    for _ in range(4):
        with suppress(ApplicationError, IntegrityError, OperationalError):
            return await step(*args)
    return await step(*args)


async def at_once(times: int, step: Callable[..., Awaitable[Result]], *args: Any) -> list[Result]:
    """Run the same step several times concurrently. Raise ``InvalidInput`` if all of them do."""
    answers = await asyncio.gather(*(retried(step, *args) for _ in range(times)), return_exceptions=True)
    for each in answers:
        if isinstance(each, BaseException) and not isinstance(each, InvalidInput):
            raise each
    good = [each for each in answers if not isinstance(each, BaseException)]
    if not good:
        raise InvalidInput("quantity", "refused")
    return good


async def act(world: World, given_: tuple[Any, ...], twice: bool) -> None:
    times = 2 if twice else 1
    world.acts += 1
    request_id = f"{world.name}:{world.acts}"
    now = datetime.now(UTC)
    match given_:
        case ("receive" | "adjust" as kind, warehouse, goods, quantity):
            sku = world.sku(goods)

            async def enter() -> None:
                async with transaction() as connection:
                    if kind == "receive":
                        await operations.receive(connection, warehouse, sku, quantity, request_id, "tester")
                    else:
                        await operations.adjust(connection, warehouse, sku, quantity, "count", request_id, "tester")

            with suppress(InvalidInput):
                await at_once(times, enter)
                world.on_hand[sku] += quantity
        case ("safety", warehouse, goods, quantity):

            async def keep_back() -> None:
                async with transaction() as connection:
                    await operations.set_safety_stock(connection, warehouse, world.sku(goods), quantity)

            with suppress(InvalidInput):
                await at_once(times, keep_back)
        case ("sell", ordered, in_part):
            lines = (line(number, world.sku(goods), quantity) for number, (goods, quantity) in enumerate(ordered, 1))
            order = an_order(request_id.replace(":", "-"), *lines)
            state = OrderState(order=order, policy=Policy(ship_in_part=in_part), revision=1)
            world.orders.append(state)
            world.busy.add(order.order_id)
            for admitted in await at_once(times, steps.admit, state.model_copy(deep=True), now):
                state.admit(admitted)
        case ("plan", index) if state := world.order(index):
            state.plan((await at_once(times, steps.allocate, state.model_copy(deep=True), now))[-1])
        case ("cancel", index) if state := world.order(index):
            for each in state.active:
                if not each.has_shipped:
                    each.status = FulfillmentStatus.CANCELLED
            await at_once(times, steps.settle, state.snapshot(now))
        case ("ship", index) if state := world.order(index):
            for each in state.active:
                if not each.has_shipped:
                    each.leave(now)
                    await at_once(times, steps.ship, state.snapshot(now), each)
                    world.on_hand.update(await shipped_unreceived(each))
                    world.on_hand.subtract(goods_of(each))
        case ("return", index) if state := world.order(index):
            for each in state.active:
                if each.has_shipped and not each.is_closed:
                    each.track(TrackingStatus.RETURNED, now)
                    await at_once(times, steps.restock, state.snapshot(now), each)
                    world.on_hand.update(goods_of(each))


async def shipped_unreceived(parcel: Fulfillment) -> Counter[str]:
    """Return the quantity shipped before it was received, which was entered as an adjustment."""
    query = text("SELECT sku, quantity FROM movements WHERE key = :key")
    async with transaction() as connection:
        rows = await connection.execute(query, {"key": f"{parcel.id}:found"})
        return Counter({row.sku: row.quantity for row in rows})


def goods_of(parcel: Fulfillment) -> Counter[str]:
    total = Counter[str]()
    for each in parcel.lines:
        total[each.sku] += each.quantity
    return total


async def check(world: World) -> None:
    async with transaction() as connection:
        assert await ledger.verify(connection) == []
        levels = await ledger.levels(connection, [world.sku(goods) for goods in ("x", "y", "presale")])
    for level in levels:
        assert level.on_hand >= 0
        assert level.allocated >= 0
        assert level.oversell or level.available >= 0
    on_hand, allocated = Counter[str](), Counter[str]()
    for level in levels:
        on_hand[level.sku] += level.on_hand
        allocated[level.sku] += level.allocated
    assert +on_hand == +world.on_hand
    open_ = Counter[str]()
    for state in world.orders:
        for each in state.active:
            if not each.has_shipped:
                open_ += goods_of(each)
    assert +allocated == open_


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROUNDS)
async def test_concurrent_acts_keep_levels_equal_to_the_ledger(database: str, rounds: list[Any]) -> None:
    world = World(f"M{next(_examples)}")
    async with transaction() as connection:
        await seed(connection)
        await connection.execute(
            text(
                "INSERT INTO skus (sku, title, title_zh, price, currency, weight_kg, volume_cm3, needs, oversell)"
                " VALUES (:x, '', '', 1, 'CNY', 1, 0, '[]', false), (:y, '', '', 1, 'CNY', 1, 0, '[]', false),"
                " (:presale, '', '', 1, 'CNY', 1, 0, '[]', true)"
            ),
            {goods: world.sku(goods) for goods in ("x", "y", "presale")},
        )
    for acts in rounds:
        world.busy.clear()
        await asyncio.gather(*(act(world, given_, twice) for given_, twice in acts))
        await check(world)
    for state in world.orders:
        world.busy.clear()
        state.revision += 1
        for each in state.active:
            if not each.has_shipped:
                each.status = FulfillmentStatus.CANCELLED
        await steps.settle(state.snapshot(datetime.now(UTC)))
    await check(world)
