"""Parcels of one order collect exactly its total, and report each bundle once, when it is complete."""

import asyncio
import random
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from activities.fulfillment.fulfillment_orders import cash_to_collect, get_fulfillment_order, units_to_report
from activities.kit.database import transaction
from models.fulfillment import FulfillmentRow
from models.order import OrderRow
from models.vault import seal_row
from starter.sandbox import merchant
from tests.integration.parcels import NOW
from tests.unit.orders import an_order, line

pytestmark = pytest.mark.usefixtures("database")


async def an_order_in_parcels(
    number: str, total: Decimal, lines: list[tuple[str, int, str]], parcels: list[list[tuple[int, str, int]]]
) -> list[str]:
    """Save an order, given as SKU, quantity and price, with parcels, given as order line, SKU and quantity."""
    sold = an_order(
        number, *(line(at, sku, quantity, price=price) for at, (sku, quantity, price) in enumerate(lines, 1))
    )
    order = {
        "id": sold.order_id,
        "channel": "own",
        "shop": "web",
        "channel_order_no": number,
        "status": "allocated",
        "lines": [each.model_dump(mode="json") for each in sold.lines],
        "origin": sold.origin.model_dump(mode="json"),
        "custom": {},
        "recipient": sold.recipient,
        "currency": "CNY",
        "total": total,
        "placed_at": NOW,
        "updated_at": NOW,
        "holds": [],
    }
    rows = [
        {
            "id": f"{sold.order_id}:F{at}",
            "order_id": sold.order_id,
            "warehouse": "SH",
            "status": "open",
            "request_status": "unsubmitted",
            "lines": [{"line_no": str(no), "sku": sku, "quantity": quantity} for no, sku, quantity in parcel],
            "updated_at": NOW,
        }
        for at, parcel in enumerate(parcels, 1)
    ]
    async with transaction() as connection:
        if number == "1":
            await merchant.seed(connection)
        await connection.execute(insert(OrderRow).values(seal_row(OrderRow, order)))
        await connection.execute(insert(FulfillmentRow), rows)
    return [str(each["id"]) for each in rows]


async def collect(parcel: str) -> Decimal:
    async with transaction() as connection:
        return await cash_to_collect(connection, await get_fulfillment_order(connection, parcel))


async def report(parcel: str) -> dict[str, int]:
    async with transaction() as connection:
        return await units_to_report(connection, await get_fulfillment_order(connection, parcel))


async def cancel(parcel: str) -> None:
    async with transaction() as connection:
        mine = FulfillmentRow.id == parcel
        await connection.execute(update(FulfillmentRow).where(mine).values(status="cancelled"))  # type: ignore[arg-type]


async def test_cash_of_three_equal_parcels_adds_up_to_what_is_owed() -> None:
    parcels = await an_order_in_parcels(
        "1", Decimal("30.02"), [("A001", 3, "10.01")], [[(1, "A001", 1)] for _ in range(3)]
    )
    cash = [await collect(each) for each in parcels]
    assert sum(cash) == Decimal("30.02")
    assert max(cash) - min(cash) <= Decimal("0.01")
    assert [await collect(each) for each in parcels] == cash, "the same for each try"


async def test_cash_adds_up_for_any_split_order_of_booking_and_rebooking() -> None:
    draw = random.Random(7)
    for number in range(1, 26):
        lines = [("A001", draw.randint(1, 7), f"{draw.randint(1, 9999) / 100:.2f}") for _ in range(draw.randint(1, 3))]
        pieces = [(at, sku, 1) for at, (sku, quantity, _) in enumerate(lines, 1) for _ in range(quantity)]
        draw.shuffle(pieces)
        parcels: list[list[Any]] = [[] for _ in range(draw.randint(1, 5))]
        for piece in pieces:
            draw.choice(parcels).append(piece)
        parcels = [each for each in parcels if each]
        again = draw.randrange(len(parcels))
        total = Decimal(draw.randint(1, 99999)) / 100
        ids = await an_order_in_parcels(str(number), total, lines, [*parcels, parcels[again]])
        first, replacement = ids[:-1], ids[-1]
        draw.shuffle(first)
        await asyncio.gather(*(collect(each) for each in first))
        gone = next(each for each in ids if each.endswith(f":F{again + 1}"))
        await cancel(gone)
        await collect(replacement)
        async with transaction() as connection:
            alive = (FulfillmentRow.order_id == ids[0].rpartition(":")[0], FulfillmentRow.status != "cancelled")
            cash = list(await connection.scalars(select(FulfillmentRow.cash).where(*alive)))  # type: ignore[arg-type,call-overload]
        assert sum(cash) == total, (number, cash)
        assert all(each >= 0 for each in cash)


@pytest.mark.parametrize("turns", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_bundle_in_several_parcels_is_reported_once_with_the_parcel_that_completes_it(
    turns: tuple[int, ...],
) -> None:
    parcels = await an_order_in_parcels(
        "1",
        Decimal(30),
        [("K001", 3, "10"), ("A001", 1, "1")],
        [[(1, "B001", 4)], [(1, "B002", 3), (2, "A001", 1)], [(1, "B001", 2)]],
    )
    told = [await report(parcels[turn]) for turn in turns]
    assert sum(each.get("1", 0) for each in told) == 3
    assert sum(each.get("2", 0) for each in told) == 1
    assert told[0].get("1", 0) == 0, "the first parcel completes no bundle"
    assert [await report(parcels[turn]) for turn in turns] == told
    concurrently = await an_order_in_parcels(
        "2", Decimal(30), [("K001", 3, "10")], [[(1, "B001", 6)], [(1, "B002", 2)], [(1, "B002", 1)]]
    )
    assert sum(each["1"] for each in await asyncio.gather(*map(report, concurrently))) == 3
