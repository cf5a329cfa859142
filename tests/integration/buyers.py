"""``python -m tests.integration.buyers NAME COUNT``: concurrent buyers of one SKU, served by one process.

Every tenth order is urgent. Odd numbers were placed before even ones, so the sequence differs from the numbers.
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
    """Return the orders in the sequence in which they must be served."""
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
