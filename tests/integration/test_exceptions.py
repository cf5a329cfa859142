"""Parcel exceptions are opened once, escalated and remedied, and close when their cause is gone."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from activities.aftersales import settlements
from activities.fulfillment import carrier_selection, tracking
from activities.fulfillment.exceptions import apply_remedy, watch_exceptions
from activities.kit.database import transaction
from activities.records import exceptions, timeline
from models.api_keys import Scope
from models.exceptions import ExceptionKind, ExceptionPolicy, NewException, Remedy
from models.fulfillment import FulfillmentRow, Scan, TrackingStatus
from models.hold import Hold, HoldKind
from models.intake import InboxRow
from models.order import ChannelOrder, Entry, OrderRow
from tests.api import bearer
from tests.integration.parcels import a_parcel
from tests.unit.orders import an_order

pytestmark = pytest.mark.usefixtures("database")
NOW = datetime.now(UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def scan(number: str, status: TrackingStatus | None, at: datetime, **more: Any) -> Scan:
    return Scan(waybill_no=f"SF{number}", scan_id=f"{status}:{at.isoformat()}", status=status, code="1", at=at, **more)


async def save_scans(*scans: Scan) -> None:
    async with transaction() as connection:
        await tracking.save_scans(connection, {"sf": scans})


async def row(parcel: str) -> Any:
    async with transaction() as connection:
        return (await connection.execute(select(FulfillmentRow).where(FulfillmentRow.id == parcel))).one()


async def open_kinds(**equal: Any) -> list[str]:
    await watch_exceptions()
    return sorted(each.kind for each in await list_exceptions(**equal))


async def list_exceptions(**equal: Any) -> Sequence[Any]:
    async with transaction() as connection:
        return await exceptions.search(connection, **equal)


BOOKING = Hold(kind=HoldKind.BOOKING, reason="carrier.none", since=NOW).model_dump(mode="json")


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("not_accepted", {"status": "open", "request_status": "submitted", "opened_at": NOW - 3 * HOUR}),
        ("booking_failed", {"status": "open", "waybill_no": None, "carrier": None, "holds": [BOOKING]}),
        ("not_picked_up", {"shipped_at": NOW - 25 * HOUR}),
        ("no_movement", {"scanned_at": NOW - 3 * DAY, "scan_status": "in_transit"}),
        ("stuck", {"scanned_at": NOW - HOUR, "scan_place_at": NOW - 2 * DAY, "scan_status": "at_destination"}),
        ("late", {"promised_by": NOW - HOUR}),
        ("late", {"promised_by": NOW + DAY, "eta": NOW + 2 * DAY, "scanned_at": NOW}),
        ("delivery_failed", {"scanned_at": NOW, "scan_status": "delivery_failed"}),
        ("refused", {"scanned_at": NOW, "scan_status": "refused"}),
        ("returned", {"status": "closed", "scanned_at": NOW, "scan_status": "returned"}),
        ("lost", {"status": "closed", "scanned_at": NOW, "scan_status": "lost"}),
        ("damaged", {"scanned_at": NOW, "scan_status": "damaged"}),
        ("wrong_address", {"scanned_at": NOW, "scan_status": "in_transit", "scan_exception": "wrong_address"}),
    ],
)
async def test_each_kind_opens_once_with_its_owner_and_deadline(kind: str, facts: dict[str, Any]) -> None:
    await a_parcel(**facts)
    assert await open_kinds() == [kind]
    (first,) = await list_exceptions()
    assert (first.shop, first.warehouse, first.remedied_at is None) == (
        "own:web",
        "SH",
        kind not in ("lost", "damaged"),
    )
    assert first.due_at > first.opened_at
    assert (await watch_exceptions()).opened == 0
    (again,) = await list_exceptions()
    assert (again.opened_at, again.due_at) == (first.opened_at, first.due_at)


@pytest.mark.parametrize(
    "facts",
    [
        {"scanned_at": NOW - HOUR, "scan_status": "in_transit", "scan_place_at": NOW - HOUR},
        {"status": "delivered", "scanned_at": NOW - 9 * DAY, "scan_status": "delivered", "promised_by": NOW - DAY},
        {"status": "open", "request_status": "submitted", "opened_at": NOW - HOUR},
        {"status": "cancelled", "promised_by": NOW - DAY},
        {"promised_by": NOW + DAY, "eta": NOW, "scanned_at": NOW, "scan_status": "out_for_delivery"},
    ],
)
async def test_parcel_on_time_opens_no_exception(facts: dict[str, Any]) -> None:
    await a_parcel(**facts)
    assert await open_kinds() == []


async def test_exception_closes_with_its_cause_and_opens_again() -> None:
    parcel = await a_parcel(shipped_at=NOW - 30 * HOUR)
    assert await open_kinds() == ["not_picked_up"]
    await save_scans(scan("1", TrackingStatus.IN_TRANSIT, NOW - 3 * DAY, place="上海"))
    assert await open_kinds() == ["no_movement"]
    await save_scans(scan("1", TrackingStatus.OUT_FOR_DELIVERY, NOW, place="杭州"))
    assert await open_kinds() == []
    assert [(each.kind, each.closed_by) for each in await list_exceptions(closed=True, fulfillment_id=parcel)] == [
        ("not_picked_up", "hengdan"),
        ("no_movement", "hengdan"),
    ]
    async with transaction() as connection:
        silent = {"scanned_at": NOW - 3 * DAY, "scan_status": "in_transit"}
        await connection.execute(update(FulfillmentRow).values(silent))
    assert await open_kinds() == ["no_movement"]


async def test_closed_exception_opens_again_only_after_a_new_scan() -> None:
    await a_parcel(scanned_at=NOW - HOUR, scan_status="delivery_failed")
    assert await open_kinds() == ["delivery_failed"]
    (open_,) = await list_exceptions()
    async with transaction() as connection:
        await exceptions.close(connection, open_.key, "mei", "called the buyer")
    assert await open_kinds() == []
    await save_scans(scan("1", TrackingStatus.DELIVERY_FAILED, datetime.now(UTC)))
    assert await open_kinds() == ["delivery_failed"]


async def test_overdue_exception_escalates_once() -> None:
    await a_parcel(shipped_at=NOW - 30 * HOUR)
    await watch_exceptions()
    async with transaction() as connection:
        (open_,) = await exceptions.search(connection)
        past = exceptions._exceptions
        await connection.execute(update(past).values(due_at=NOW - HOUR))
    assert (await watch_exceptions()).escalated == 1
    assert (await watch_exceptions()).escalated == 0
    (now,) = await list_exceptions()
    assert (open_.owner, now.owner, now.escalated_at is not None) == ("logistics", "management", True)


async def test_policy_rebooks_automatically() -> None:
    parcel = await a_parcel(status="open", request_status="submitted", opened_at=NOW - HOUR)
    policy = ExceptionPolicy(kind=ExceptionKind.NOT_ACCEPTED, after=600, automatic=Remedy.REBOOK)
    async with transaction() as connection:
        await exceptions.save_policy(connection, policy)
    assert await open_kinds() == ["not_accepted"]
    await watch_exceptions()
    async with transaction() as connection:
        (message,) = (await connection.execute(select(InboxRow).where(InboxRow.topic == "replan"))).all()
    assert (message.order_id, parcel.encode() in message.raw.body) == (parcel.rpartition(":")[0], True)


async def test_parcel_is_listed_for_interception_until_it_is_intercepted() -> None:
    parcel = await a_parcel(scanned_at=NOW, scan_status="in_transit", scan_exception="wrong_address")
    policy = ExceptionPolicy(kind=ExceptionKind.WRONG_ADDRESS, automatic=Remedy.INTERCEPT)
    async with transaction() as connection:
        await exceptions.save_policy(connection, policy)
    for _ in range(2):
        assert (await watch_exceptions()).intercept == (parcel,)
    async with transaction() as connection:
        (open_,) = await exceptions.search(connection)
        await apply_remedy(connection, open_, Remedy.INTERCEPT, "mei")
    assert (await watch_exceptions()).intercept == ()


async def remedy_exception(remedy: Remedy) -> None:
    async with transaction() as connection:
        (open_,) = await exceptions.search(connection)
        await apply_remedy(connection, open_, remedy, "mei")


async def test_claim_and_refund_open_once_and_are_settled(api: httpx.AsyncClient) -> None:
    parcel = await a_parcel(status="closed", scanned_at=NOW, scan_status="lost")
    await watch_exceptions()
    staff, reader = await bearer(Scope.STAFF), await bearer(Scope.READ)
    (claim,) = (await api.get("/settlements?kind=claim", headers=reader)).json()
    total = an_order("1").total
    assert (claim["fulfillment_id"], claim["reason"], claim["state"]) == (parcel, "lost", "open")
    assert (Decimal(claim["amount"]), claim["carrier"], claim["waybill_no"]) == (total, "sf", "SF1")
    for _ in range(2):
        await remedy_exception(Remedy.REFUND)
    assert [each["kind"] for each in (await api.get("/settlements", headers=reader)).json()] == ["claim", "refund"]
    path = f"/settlements/{parcel}/claim"
    payment = {"state": "paid", "paid": "30", "reference": "SFC-1"}
    assert (await api.patch(path, json=payment, headers=reader)).status_code == 403
    settled = (await api.patch(path, json=payment, headers=staff)).json()
    assert (settled["state"], settled["reference"], Decimal(settled["amount"])) == ("paid", "SFC-1", total)
    assert (await api.patch(f"/settlements/{parcel}x/claim", json=payment, headers=staff)).status_code == 404
    granted = Entry(key="g", at=datetime.now(UTC), what="timeline.refund.granted", detail={"amount": "12.50"})
    async with transaction() as connection:
        lines = {"entries": timeline.entry_rows(parcel.rpartition(":")[0], [granted])}
        await connection.execute(timeline.INSERT_ENTRIES, lines)
    await watch_exceptions()
    assert (await api.get("/settlements", headers=reader)).json() == []
    (refund,) = (await api.get("/settlements?kind=refund&settled=true", headers=reader)).json()
    assert (refund["state"], Decimal(refund["paid"])) == ("paid", Decimal("12.5"))


async def test_unpaid_order_gets_no_refund() -> None:
    parcel = await a_parcel(scanned_at=NOW, scan_status="refused")
    async with transaction() as connection:
        await connection.execute(update(OrderRow).values(paid_at=None))
    await watch_exceptions()
    await remedy_exception(Remedy.REFUND)
    async with transaction() as connection:
        assert await settlements.search(connection, fulfillment_id=parcel) == []


async def test_damaged_order_is_reissued_once_free_of_charge() -> None:
    parcel = await a_parcel("77", scanned_at=NOW, scan_status="damaged")
    policy = ExceptionPolicy(kind=ExceptionKind.DAMAGED, automatic=Remedy.REISSUE)
    async with transaction() as connection:
        await exceptions.save_policy(connection, policy)
    await watch_exceptions()
    await remedy_exception(Remedy.REISSUE)
    async with transaction() as connection:
        (message,) = (await connection.execute(select(InboxRow).where(InboxRow.topic == "reissue"))).all()
    again = ChannelOrder.model_validate_json(message.raw.body)
    sold = an_order("77")
    assert (again.order_id, again.total, again.origin.intake) == (message.order_id, 0, "reissue")
    assert [(each.sku, each.quantity, each.gift) for each in again.lines] == [
        (each.sku, each.quantity, True) for each in sold.lines
    ]
    assert (again.recipient, again.custom["reissue_of"]) == (sold.recipient, parcel.rpartition(":")[0])


async def test_carrier_performance_is_measured_by_lane_and_sets_the_eta() -> None:
    there = {"status": "delivered", "scan_status": "delivered", "tracking": "delivered"}
    for number in range(1, 5):
        shipped = NOW - timedelta(days=10)
        late = {"promised_by": shipped + DAY} if number == 4 else {}
        await a_parcel(str(number), shipped_at=shipped, scanned_at=shipped + 2 * DAY, **there, **late)
    await a_parcel("5", status="closed", shipped_at=NOW - 9 * DAY, scanned_at=NOW - DAY, tracking="lost")
    await a_parcel("6")
    assert await carrier_selection.measure_performance() == 1
    async with transaction() as connection:
        (lane,) = await carrier_selection.list_lanes(connection)
    assert (lane.carrier, lane.origin, lane.destination) == ("sf", "上海", "浙江")
    assert (lane.parcels, lane.late, lane.lost, lane.days) == (5, 1, 1, 2)
    await save_scans(scan("6", TrackingStatus.IN_TRANSIT, NOW))
    on_its_way = await row("order:own:web:6:F1")
    assert on_its_way.eta == on_its_way.shipped_at + 2 * DAY


async def test_newest_scan_wins_in_any_order() -> None:
    parcel = await a_parcel()
    at = [NOW - timedelta(minutes=minutes) for minutes in (50, 40, 30, 20)]
    scans = [
        scan("1", TrackingStatus.PICKED_UP, at[0], place="上海"),
        scan("1", TrackingStatus.IN_TRANSIT, at[1], place="上海"),
        scan("1", TrackingStatus.DELIVERED, at[2], place="杭州"),
        scan("1", None, at[3], place="杭州"),
    ]
    for each in (scans[3], scans[1], scans[2], scans[0], *scans):
        await save_scans(each)
    late = await row(parcel)
    assert (late.scanned_at, late.scan_place) == (at[3], "杭州")
    await save_scans(*reversed(scans))
    assert (await row(parcel)).scan_status == "delivered"


async def test_newest_of_concurrent_scans_wins() -> None:
    statuses = (
        TrackingStatus.PICKED_UP,
        TrackingStatus.IN_TRANSIT,
        TrackingStatus.OUT_FOR_DELIVERY,
        TrackingStatus.REFUSED,
    )
    for number in range(10):
        parcel = await a_parcel(str(number))
        scans = [scan(str(number), status, NOW + minute * HOUR / 60) for minute, status in enumerate(statuses)]
        await asyncio.gather(*(save_scans(each) for each in reversed(scans)))
        assert (await row(parcel)).scan_status == "refused"


async def test_scans_of_several_parcels_are_kept_apart() -> None:
    one, other = await a_parcel("1"), await a_parcel("2")
    await save_scans(
        scan("1", TrackingStatus.PICKED_UP, NOW - 3 * DAY, place="上海"),
        scan("1", TrackingStatus.IN_TRANSIT, NOW - HOUR, place="上海"),
        scan("2", TrackingStatus.PICKED_UP, NOW - 2 * DAY, place="北京"),
        scan("2", TrackingStatus.IN_TRANSIT, NOW, place="杭州"),
    )
    assert ((await row(one)).scan_place_at, (await row(other)).scan_place_at) == (NOW - 3 * DAY, NOW)


async def test_most_advanced_of_simultaneous_scans_wins() -> None:
    parcel = await a_parcel()
    steps = (TrackingStatus.DELIVERY_FAILED, TrackingStatus.IN_TRANSIT, TrackingStatus.OUT_FOR_DELIVERY)
    for status in steps:
        await save_scans(scan("1", status, NOW, place="杭州"))
    assert (await row(parcel)).scan_status == "delivery_failed"


async def test_staff_list_count_remedy_and_close_exceptions(api: httpx.AsyncClient) -> None:
    parcel = await a_parcel(scanned_at=NOW - HOUR, scan_status="refused")
    await watch_exceptions()
    staff, reader = await bearer(Scope.STAFF), await bearer(Scope.READ)
    (seen,) = (await api.get("/exceptions?kind=refused&warehouse=SH", headers=reader)).json()
    assert (seen["text"], seen["suggested"]) == ("F1: the buyer refused SF1", ["tell_buyer", "refund"])
    (count,) = (await api.get("/exceptions/summary", headers=reader)).json()
    assert (count["kind"], count["text"], count["open"], count["overdue"]) == ("refused", "Refused", 1, 0)
    path = f"/exceptions/{parcel}:refused"
    assert (await api.post(f"{path}/close", json={"note": "ok"}, headers=reader)).status_code == 403
    remedied_exception = (await api.post(f"{path}/remedy", json={"remedy": "tell_buyer"}, headers=staff)).json()
    assert remedied_exception["remedy"] == "tell_buyer"
    assert (await api.post(f"{path}/owner", json={"owner": "mei"}, headers=staff)).json()["owner"] == "mei"
    assert (await api.post(f"{path}/close", json={"note": "settled"}, headers=staff)).json()["closed_by"]
    assert (await api.get("/exceptions", headers=reader)).json() == []
    assert (await api.post(f"/exceptions/{parcel}:lost/close", json={"note": "x"}, headers=staff)).status_code == 404
    wrong = {"kind": "lost", "automatic": "call_carrier"}
    answer = await api.put("/exceptions/policies/lost", json=wrong, headers=staff)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "automatic")


async def test_reported_and_detected_cause_is_one_exception() -> None:
    parcel = await a_parcel(scanned_at=NOW - HOUR, scan_status="in_transit")
    reported = NewException(
        key=f"{parcel}:delivery_failed", kind=ExceptionKind.DELIVERY_FAILED, fulfillment_id=parcel, cause_at=NOW
    )
    async with transaction() as connection:
        for _ in range(2):
            await exceptions.open_all(connection, [reported])
    assert await open_kinds() == ["delivery_failed"]
    await save_scans(scan("1", TrackingStatus.DELIVERY_FAILED, NOW))
    assert await open_kinds() == ["delivery_failed"]
    await save_scans(scan("1", TrackingStatus.OUT_FOR_DELIVERY, NOW + HOUR))
    assert await open_kinds() == []
    assert len(await list_exceptions(closed=True)) == 1
