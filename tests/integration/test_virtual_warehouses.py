"""Stock in every state on a real database: virtual, reserved, substituted, presale, counted, damaged, expected."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from activities.catalogue import locations
from activities.catalogue.locations import Location
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.orders import steps
from activities.stock import operations, stocktakes
from models.fulfillment import FulfillmentStatus, Shortfall, ShortfallKind
from models.origins import ChannelKind, IntakePath, Origin
from models.policy import Policy
from models.stock import Audience, Level, LocationKind, MovementKind, Shortage
from starter.sandbox.merchant import seed
from tests.integration.books import (
    admitted,
    allocated,
    cancelled,
    drifts,
    level,
    notified_orders,
    now,
    receive,
    shipped,
    sql,
)
from tests.unit.orders import line

PLACED = Policy(reserve="placed")
SWAPS = Policy(substitute=True)
CAMPAIGN = Origin(kind=ChannelKind.OWN_SITE, platform="own", shop="web", campaign="618", intake=IntakePath.WEBHOOK)


@pytest.fixture(autouse=True)
async def catalogue(database: str) -> None:
    async with transaction() as connection:
        await seed(connection)


async def virtual(share: str = "0", **audience: object) -> None:
    """Save SH@618, a virtual warehouse of SH."""
    async with transaction() as connection:
        await locations.save(
            connection,
            Location(
                code="SH@618",
                name="618",
                kind=LocationKind.VIRTUAL,
                parent="SH",
                share=Decimal(share),
                audience=Audience.model_validate(audience),
            ),
        )


async def move_to_virtual(quantity: int, request_id: str = "f1") -> Level:
    async with transaction() as connection:
        return await operations.move_to_virtual(connection, "SH@618", "A001", quantity, request_id, "tester")


async def count(counts: dict[str, int], request_id: str = "c1") -> stocktakes.Stocktake:
    async with transaction() as connection:
        return await stocktakes.save_count(connection, "SH", counts, request_id, "tester")


async def approve(stocktake_id: str) -> None:
    async with transaction() as connection:
        await stocktakes.approve(connection, stocktake_id, "boss")


# Virtual warehouses


async def test_virtual_stock_is_for_its_audience_only() -> None:
    await receive("SH", "A001", 10)
    await virtual(campaigns=["618"])
    assert (await move_to_virtual(8)).on_hand == 8
    assert (await move_to_virtual(8)).on_hand == 8  # the same request again
    common = await admitted("1", line(1, "A001", 3))
    assert common.shortages == [Shortage(sku="A001", quantity=1)]
    fans = await admitted("2", line(1, "A001", 9), origin=CAMPAIGN)
    (parcel,) = fans.active
    assert (parcel.warehouse, [(each.quantity, each.stock) for each in parcel.lines]) == (
        "SH",
        [(8, "SH@618"), (1, None)],
    )
    await shipped(fans, parcel)
    assert [await level("SH", "A001"), await level("SH@618", "A001")] == [(1, 0, 1), (0, 0, 0)]
    assert await drifts() == []


async def test_receipts_are_shared_and_returned_share_notifies_other_orders() -> None:
    await virtual("0.3", shops=["own:vip"])
    await receive("SH", "A001", 10, "r1")
    await receive("SH", "A001", 10, "r1")
    assert [await level("SH", "A001"), await level("SH@618", "A001")] == [(7, 0, 7), (3, 0, 3)]
    await admitted("1", line(1, "A001", 9))
    vip = await admitted("2", line(1, "A001", 2), shop="vip")
    assert vip.active[0].lines[0].stock == "SH@618"
    await move_to_virtual(-1, "back")
    assert await notified_orders() == []
    await receive("SH", "A001", 1, "r2")
    assert await notified_orders() == ["1"]


async def test_urgent_orders_use_their_virtual_warehouse() -> None:
    await receive("SH", "A001", 5)
    await virtual(priority=1)
    await move_to_virtual(5)
    assert (await admitted("1")).shortages
    assert not (await admitted("2", priority=1)).shortages


async def test_virtual_warehouse_gives_back_only_available_stock() -> None:
    await receive("SH", "A001", 5)
    await virtual(campaigns=["618"])
    await move_to_virtual(3)
    await admitted("1", line(1, "A001", 2), origin=CAMPAIGN)
    with pytest.raises(InvalidInput, match="Available"):
        await move_to_virtual(-2, "back")
    with pytest.raises(InvalidInput, match="virtual warehouse"):
        await receive("SH@618", "A001", 1)


async def test_cancelled_order_returns_stock_to_its_virtual_warehouse() -> None:
    await receive("SH", "A001", 5)
    await virtual(campaigns=["618"])
    await move_to_virtual(3)
    fans = await admitted("1", line(1, "A001", 4), origin=CAMPAIGN)
    await cancelled(fans)
    assert [await level("SH", "A001"), await level("SH@618", "A001")] == [(2, 0, 2), (3, 0, 3)]
    assert await drifts() == []


# Unpaid orders


async def test_unpaid_order_reserves_stock_until_paid_or_ended() -> None:
    await receive("SH", "A001", 5)
    unpaid = await admitted("1", line(1, "A001", 4), policy=PLACED, paid_at=None)
    assert unpaid.reserved_until is not None
    assert unpaid.fulfillments == []
    assert (await admitted("2", line(1, "A001", 2))).shortages
    unpaid.order = unpaid.order.model_copy(update={"paid_at": now()})
    await allocated(unpaid)
    await allocated(unpaid)
    assert [each.warehouse for each in unpaid.active] == ["SH"]
    assert await level("SH", "A001") == (5, 4, 1)
    assert await sql("SELECT * FROM reservations") == []
    assert await drifts() == []


async def test_released_reservation_notifies_waiting_orders() -> None:
    await receive("SH", "A001", 5)
    unpaid = await admitted("1", line(1, "A001", 4), policy=PLACED, paid_at=None)
    await admitted("2", line(1, "A001", 2))
    await cancelled(unpaid)
    assert await notified_orders() == ["2"]
    assert await level("SH", "A001") == (5, 0, 5)
    await cancelled(unpaid)
    assert await drifts() == []


async def test_nothing_is_reserved_if_the_policy_reserves_on_payment() -> None:
    await receive("SH", "A001", 5)
    assert (await admitted("1", paid_at=None)).reserved_until is None
    assert (await level("SH", "A001"))[2] == 5


async def test_modified_unpaid_order_reserves_its_new_lines() -> None:
    await receive("SH", "A001", 5)
    unpaid = await admitted("1", line(1, "A001", 4), policy=PLACED, paid_at=None)
    await admitted("2", line(1, "A001", 3))
    unpaid.order = unpaid.order.with_quantities({"1": 1})
    unpaid.revision += 1
    assert (await steps.review_modified_order(unpaid, now())).reserved
    assert (await level("SH", "A001"))[2] == 4
    assert await notified_orders() == ["2"]
    assert await drifts() == []


# Substitutes


async def test_missing_sku_is_substituted_if_the_shop_allows_it() -> None:
    await sql("INSERT INTO substitutes VALUES ('A001', 'A003', 20), ('A001', 'A002', 10)")
    await receive("SH", "A002", 3)
    assert (await admitted("1", line(1, "A001", 2))).shortages
    swapped = await admitted("2", line(1, "A001", 2), policy=SWAPS)
    assert [(each.sku, each.instead_of) for each in swapped.active[0].lines] == [("A002", "A001")]
    await allocated(swapped)
    assert len(swapped.active) == 1
    waits = await admitted("3", line(1, "A001", 2), policy=SWAPS)
    assert waits.shortages == [Shortage(sku="A001", quantity=2)]
    await receive("GZ", "A003", 2)
    assert await notified_orders() == ["3"]
    await allocated(waits)
    assert [(each.warehouse, each.lines[0].sku) for each in waits.active] == [("GZ", "A003")]


# Presale


async def test_presale_is_allocated_now_and_leaves_on_its_day() -> None:
    day = (datetime.now(UTC) + timedelta(days=30)).date()
    await sql("UPDATE skus SET presale_on = :day WHERE sku = 'P001'", day=day)
    await receive("SH", "P001", 1)
    await receive("SH", "A001", 5)
    both = (line(1, "P001", 2), line(2, "A001"))
    together = await admitted("1", *both)
    (parcel,) = together.active
    assert parcel.status is FulfillmentStatus.SCHEDULED
    assert parcel.ship_from == datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=8)
    assert together.deadline == parcel.ship_from
    apart = await admitted("2", *both, policy=Policy(ship_in_part=True))
    assert sorted((each.status, [part.sku for part in each.lines]) for each in apart.active) == [
        ("open", ["A001"]),
        ("scheduled", ["P001"]),
    ]
    assert (await sql("SELECT status FROM fulfillments WHERE ship_from IS NOT NULL")) == [("scheduled",)] * 2


# Quarantine


async def test_quarantined_goods_are_unavailable_until_restored_or_scrapped() -> None:
    await receive("SH", "A001", 5)

    async def graded(kind: MovementKind, quantity: int) -> Level:
        async with transaction() as connection:
            return await operations.grade(connection, kind, "SH", "A001", quantity, "wet", f"{kind}", "tester")

    assert (await graded(MovementKind.QUARANTINED, 4)).available == 1
    assert (await admitted("1", line(1, "A001", 2))).shortages
    assert (await graded(MovementKind.SCRAPPED, 1)).on_hand == 4
    assert (await graded(MovementKind.RESTORED, 3)).available == 4
    assert await notified_orders() == ["1"]
    with pytest.raises(InvalidInput, match="Unavailable"):
        async with transaction() as connection:
            await operations.grade(connection, MovementKind.SCRAPPED, "SH", "A001", 1, "wet", "more", "tester")
    assert await drifts() == []


# Stocktakes


async def test_count_is_entered_once_when_approved() -> None:
    await receive("SH", "A001", 10)
    await virtual(campaigns=["618"])
    await move_to_virtual(4)
    stocktake = await count({"A001": 8, "A002": 3})
    assert [(each.sku, each.difference) for each in stocktake.lines] == [("A001", -2), ("A002", 3)]
    await receive("SH", "A001", 1)
    assert (await level("SH", "A001"))[0] == 7
    await approve(stocktake.id)
    await approve(stocktake.id)
    assert (await level("SH", "A001"))[0] == 5
    assert (await level("SH", "A002"))[0] == 3
    assert await drifts() == []
    with pytest.raises(InvalidInput, match="already approved"):
        async with transaction() as connection:
            await stocktakes.discard(connection, stocktake.id, "boss")


async def test_count_lowers_safety_stock_and_is_refused_below_allocated() -> None:
    await receive("SH", "A001", 10)
    async with transaction() as connection:
        await operations.set_safety_stock(connection, "SH", "A001", 4)
    await admitted("1", line(1, "A001", 3))
    stocktake = await count({"A001": 8})
    for _ in range(2):
        await approve(stocktake.id)
        assert await level("SH", "A001") == (8, 3, 1)
    await approve((await count({"A001": 5}, "c0")).id)
    assert await level("SH", "A001") == (5, 3, 0)
    with pytest.raises(InvalidInput, match="Available"):
        await approve((await count({"A001": 2}, "c2")).id)


@pytest.mark.parametrize(("counts", "field"), [({}, "counts"), ({"A001": -1}, "counts"), ({"no such": 1}, "counts")])
async def test_invalid_count_is_refused(counts: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        await count(counts)
    assert error.value.field == field


async def test_repeated_rejection_does_not_write_off_later_receipts() -> None:
    await receive("SH", "A001", 10)
    order = await admitted("1", line(1, "A001", 4))
    (parcel,) = order.active
    parcel.status = FulfillmentStatus.CANCELLED
    parcel.shortfalls = (Shortfall(sku="A001", kind=ShortfallKind.NOT_FOUND),)
    order.revision += 1
    await steps.reject(order.snapshot(now()), parcel)
    assert await level("SH", "A001") == (0, 0, 0)
    await receive("SH", "A001", 3)
    await steps.reject(order.snapshot(now()), parcel)
    assert await level("SH", "A001") == (3, 0, 3)
    assert await drifts() == []


# Suppliers


async def supplier() -> None:
    async with transaction() as connection:
        await locations.save(
            connection, Location(code="FAC", name="Factory", kind=LocationKind.SUPPLIER, province="浙江省", rank=900)
        )


async def feed(quantity: int, request_id: str) -> None:
    async with transaction() as connection:
        await operations.sync_supplier_stock(connection, "FAC", {"A001": quantity}, request_id, "factory")


async def test_supplier_feed_sets_what_it_can_still_ship() -> None:
    await supplier()
    await feed(5, "1")
    await feed(5, "1")
    order = await admitted("1", line(1, "A001", 2))
    assert [each.warehouse for each in order.active] == ["FAC"]
    assert await level("FAC", "A001") == (5, 2, 3)
    await feed(7, "2")
    assert await level("FAC", "A001") == (9, 2, 7)
    await feed(0, "3")
    assert await level("FAC", "A001") == (2, 2, 0)
    assert await drifts() == []
    with pytest.raises(InvalidInput, match="not a supplier"):
        async with transaction() as connection:
            await operations.sync_supplier_stock(connection, "SH", {"A001": 1}, "4", "x")


async def test_stock_outside_the_delivery_area_does_not_notify() -> None:
    async with transaction() as connection:
        store = Location(code="LS", name="Lhasa", kind=LocationKind.STORE, province="西藏", areas=("西藏",))
        await locations.save(connection, store)
    await admitted("1", line(1, "A001", 2))
    await receive("LS", "A001", 5)
    assert await notified_orders() == []
    await receive("GZ", "A001", 2)
    assert await notified_orders() == ["1"]


# Promises by date


async def test_promises_grow_on_the_day_a_receipt_is_due() -> None:
    today, later = date(2026, 3, 1), date(2026, 3, 9)
    await receive("SH", "A001", 5)
    async with transaction() as connection:
        await operations.announce_receipts(connection, "asn:1", "SH", {"A001": 7}, later)
        await operations.announce_receipts(connection, "asn:2", "GZ", {"A001": 1}, date(2026, 2, 1))
        promised = await operations.promises(connection, "A001", today)
    assert [(each.warehouse, each.day, each.quantity) for each in promised] == [
        ("GZ", today, 1),
        ("SH", today, 5),
        ("SH", later, 12),
    ]
    async with transaction() as connection:
        await operations.announce_receipts(connection, "asn:1", "SH", {"A001": 2}, later)
        assert (await operations.promises(connection, "A001", today))[-1].quantity == 7
