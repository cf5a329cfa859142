"""``python -m tests.integration.buyers NAME COUNT``: buyers of one SKU, all at once, as one worker process serves them.

Every tenth order is urgent. Odd buyers were there before even ones, so that who was created first is not who was first.
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

from activities.orders import steps
from models.order import NORMAL, URGENT, ChannelOrder
from models.policy import Policy
from models.state import OrderState
from tests.unit.orders import an_order, line

HOT = "A001"
OPENED = datetime(2026, 11, 11, tzinfo=UTC)


def buyers(name: str, count: int) -> list[ChannelOrder]:
    """In the order in which they are to be served."""
    orders = [
        an_order(
            f"{name}-{number}",
            line(1, HOT, 1),
            placed_at=OPENED + timedelta(milliseconds=number if number % 2 else count + number),
            priority=URGENT if number % 10 == 0 else NORMAL,
        )
        for number in range(count)
    ]
    return sorted(orders, key=lambda order: (order.priority, order.placed_at))


async def buy(name: str, count: int) -> None:
    now = datetime.now(UTC)
    orders = sorted(buyers(name, count), key=lambda order: order.channel_order_no)
    await asyncio.gather(*(steps.admit(OrderState(order=order, policy=Policy()), now) for order in orders))


if __name__ == "__main__":
    asyncio.run(buy(sys.argv[1], int(sys.argv[2])))
