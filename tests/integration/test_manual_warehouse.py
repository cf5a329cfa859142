"""Orders shipped by people: from admission to the doorstep through the API and the command line alone."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from activities.accounts.api_keys import create_key
from activities.fulfillment import manual_warehouse
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from models.api_keys import Scope
from models.intake import IntegrationType
from models.manual_warehouse import Act
from tests.api import open_account, until
from tests.integration.shelves import Merchant


async def test_order_is_shipped_by_people_and_delivered(shelves: Merchant) -> None:
    hengdan = shelves.hengdan
    number = await shelves.sell(("A001", 2), ("A002", 1))
    waybill = await shelves.waybill(number)
    shown = await hengdan.ok("pick", "--warehouse", "SZ", "--lang", "zh-CN")
    assert waybill in shown
    assert "A001 × 2" in shown
    assert "Remaining: A001 × 2, A002 × 1" in await hengdan.refused("pick", waybill, "A003")
    assert "Remaining: A001 × 1, A002 × 1" in await hengdan.ok("pick", waybill, "A001")
    assert "Remaining: A001 × 1, A002 × 1" in await hengdan.refused("pick", waybill, "A001=2")
    assert "not completely picked" in await hengdan.refused("ship", waybill)
    assert "All is picked" in await hengdan.ok("pick", waybill, "--all")

    async def in_progress() -> bool:
        return bool((await shelves.parcel(number)).status == "in_progress")

    await until(in_progress)
    assert "Remaining: A001 × 2" in await hengdan.ok("pack", waybill, "A002")
    assert "not completely packed" in await hengdan.refused("ship", waybill)
    await hengdan.ok("pack", waybill, "A001=2")
    assert "no parcel" in await hengdan.refused("ship", waybill + "0")
    assert waybill in await hengdan.ok("ship", waybill, "--weight", "745")
    assert "already left: mei" in await hengdan.refused("ship", waybill)
    assert "already left" in await hengdan.refused("pick", waybill, "A001")
    await shelves.until_status(number, "shipped")
    assert str((await shelves.parcel(number)).weight_kg) == "0.745"
    journey = {"waybill_no": waybill, "kind": "delivered"}
    response = await shelves.twins.post("/sf/_control/journey", json=journey)
    assert response.is_success, response.text
    await shelves.until_status(number, "delivered", "completed")
    shipments = (await shelves.twins.get("/own/_control/shops/web/shipments")).json()
    assert [each["waybill_no"] for each in shipments if each["order_no"] == number] == [waybill]
    assert await shelves.pick_list() == []


async def test_cancelled_order_leaves_the_pick_list_and_cannot_be_shipped(shelves: Merchant) -> None:
    number = await shelves.sell(("A001", 1))
    waybill = await shelves.waybill(number)
    await shelves.hengdan.ok("pick", waybill, "A001")
    await shelves.hengdan.ok("orders", "cancel", number)
    assert await shelves.pick_list() == []
    for act in (("pick", waybill, "A001"), ("pack", waybill, "--all"), ("ship", waybill)):
        assert "put its goods back" in await shelves.hengdan.refused(*act)
    await shelves.until_status(number, "cancelled")


async def test_scan_and_cancellation_that_meet_agree(shelves: Merchant) -> None:
    numbers = [await shelves.sell(("A001", 1)) for _ in range(4)]
    headers = {"Authorization": f"Bearer {await create_key('gun', [Scope.WAREHOUSE])}"}
    staff = {"Authorization": f"Bearer {await create_key('ann', [Scope.STAFF])}"}
    for number in numbers:
        waybill = await shelves.waybill(number)
        shipped, cancelled = await asyncio.gather(
            shelves.api.post(f"/parcels/{waybill}/ship", json={}, headers=headers),
            shelves.api.post(f"/orders/order:own:web:{number}/cancel", json={}, headers=staff, timeout=60),
        )
        assert shipped.is_success != cancelled.is_success, (shipped.text, cancelled.text)
        await shelves.until_status(number, *(("shipped",) if shipped.is_success else ("cancelled",)))


async def test_repeated_scan_counts_once(shelves: Merchant) -> None:
    number = await shelves.sell(("A001", 2))
    waybill = await shelves.waybill(number)
    for _ in range(3):
        async with transaction() as connection:
            job = await manual_warehouse.scan(
                connection, waybill, Act.PICK, {"A001": 1}, request_id="once", actor="gun"
            )
        assert job.remaining(Act.PICK) == {"A001": 1}
    for _ in range(2):
        async with transaction() as connection:
            with pytest.raises(InvalidInput):
                await manual_warehouse.ship(connection, waybill, None, request_id="two", actor="gun")
    async with transaction() as connection:
        await manual_warehouse.scan(connection, waybill, Act.PICK, None, request_id="rest", actor="gun")
    for _ in range(2):
        async with transaction() as connection:
            await manual_warehouse.ship(connection, waybill, None, request_id="two", actor="gun")
    await shelves.until_status(number, "shipped")


async def test_system_changes_only_while_no_parcel_waits(shelves: Merchant) -> None:
    number = await shelves.sell(("A001", 1))
    assert "1 fulfillment orders" in await shelves.hengdan.refused("locations", "set", "SZ", "--system", "wms")
    await shelves.hengdan.ok("orders", "cancel", number)
    await shelves.until_status(number, "cancelled")
    changed = await shelves.hengdan.ok("locations", "set", "SZ", "--system", "wms")
    assert "hengdan accounts set warehouse wms SZ" in changed


async def test_dead_warehouse_system_is_an_exception_at_once_and_shipping_anyway_is_seen(shelves: Merchant) -> None:
    await open_account(IntegrationType.WAREHOUSE, "wms", "SZ", base_url="http://127.0.0.1:9", secret="s")
    await shelves.hengdan.ok("locations", "set", "SZ", "--system", "wms")
    number = await shelves.place(("A001", 1))
    order_id = f"order:own:web:{number}"

    async def kinds() -> set[str]:
        query = text("SELECT kind FROM exceptions WHERE order_id = :order AND closed_at IS NULL")
        async with transaction() as connection:
            return set(await connection.scalars(query, {"order": order_id}))

    async def unreachable() -> bool:
        return "warehouse_unreachable" in await kinds()

    await until(unreachable, 30)
    assert "SZ" in await shelves.hengdan.ok("orders", "show", number)
    async with transaction() as connection:
        await connection.execute(text("UPDATE fulfillments SET booked_at = booked_at - interval '1 hour'"))
    event = {"request_id": "e1", "fulfillment_id": f"{order_id}:F1", "kind": "shipped"}
    headers = {"Authorization": f"Bearer {await create_key('gun', [Scope.WAREHOUSE])}"}
    reported = await shelves.api.post(
        "/warehouses/SZ/events", json=event | {"at": datetime.now(UTC).isoformat()}, headers=headers
    )
    assert reported.status_code == 202

    async def unasked() -> bool:
        return "shipped_unasked" in await kinds()

    await until(unasked)
    await shelves.until_status(number, "shipped")


async def test_report_of_a_parcel_that_was_never_booked_is_an_exception_and_ships_nothing(shelves: Merchant) -> None:
    await open_account(IntegrationType.WAREHOUSE, "wms", "SZ", base_url="http://127.0.0.1:9", secret="s")
    await shelves.hengdan.ok("locations", "set", "SZ", "--system", "wms")
    async with transaction() as connection:
        await connection.execute(text("UPDATE warehouses SET sender = NULL WHERE code = 'SZ'"))
    number = await shelves.place(("A001", 1))
    await shelves.until_status(number, "on_hold")
    event = {"request_id": "e2", "fulfillment_id": f"order:own:web:{number}:F1", "kind": "shipped"}
    headers = {"Authorization": f"Bearer {await create_key('gun', [Scope.WAREHOUSE])}"}
    body = event | {"at": datetime.now(UTC).isoformat()}
    assert (await shelves.api.post("/warehouses/SZ/events", json=body, headers=headers)).status_code == 202

    async def unasked() -> bool:
        return "was never handed over" in await shelves.hengdan.ok("orders", "show", number)

    await until(unasked)
    assert (await shelves.parcel(number)).shipped_at is None
