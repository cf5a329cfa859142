"""A scan moves a parcel only if its carrier, or an aggregator that names it, reports it, and after the booking."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy import select
from temporalio.client import Client

from activities.carriers.zto import digest
from activities.fulfillment import tracking
from activities.kit.database import transaction
from activities.records import exceptions
from models.api_keys import Scope
from models.fulfillment import FulfillmentRow, Scan, ScanRow, TrackingStatus
from models.intake import InboxState, IntegrationType
from starter.dispatcher import take
from tests.api import SECRET, bearer, open_account
from tests.integration.parcels import DAY, HOUR, NOW, a_parcel
from tests.integration.test_dispatcher import add_fulfillment, rows, sale, signals, store, store_other

pytestmark = pytest.mark.usefixtures("database")

DIRECT = ("sf", "zto", "yto")
AGGREGATORS = ("kdniao", "kuaidi100", "cainiao")
PARCELS = ("sf", "zto", "cainiao:yto", "kdniao:sf", "easypost:")
"""The account that booked, and the courier that it booked with, if another."""


def a_scan(carrier: str = "", at: datetime = NOW, **more: Any) -> Scan:
    fields = {"waybill_no": "SF1", "scan_id": "1", "status": TrackingStatus.DELIVERED, "code": "80", **more}
    return Scan(**fields, at=at, carrier=carrier)


async def save(source: str, *scans: Scan) -> tracking.SavedScans:
    async with transaction() as connection:
        return await tracking.save_scans(connection, {source: scans})


async def scan_status(parcel: str) -> str | None:
    async with transaction() as connection:
        query = select(FulfillmentRow.scan_status).where(FulfillmentRow.id == parcel)  # type: ignore[call-overload]
        return (await connection.execute(query)).scalar_one()


async def open_exceptions(kind: str) -> Sequence[Any]:
    async with transaction() as connection:
        return await exceptions.search(connection, kind=kind)


@pytest.mark.parametrize("parcel", PARCELS)
async def test_only_the_carrier_of_a_parcel_or_an_aggregator_that_names_it_moves_it(parcel: str) -> None:
    booked_with, _, courier = parcel.partition(":")
    direct = [(source, "") for source in (*DIRECT, *AGGREGATORS, "easypost")]
    for number, (source, named) in enumerate([*direct, *product(AGGREGATORS, ("sf", "zto", "yto", "EMS"))]):
        moved = await a_parcel(str(number), carrier=booked_with, label={"courier": courier})
        saved = await save(source, a_scan(named, waybill_no=f"SF{number}"))
        by_its_carrier = (named or source) == (courier or booked_with)
        by_its_account = source == booked_with and not (named and courier)
        expected = by_its_carrier or by_its_account
        assert bool(saved.orders) is expected, (source, named)
        assert bool(saved.foreign) is not expected
        assert await scan_status(moved) == ("delivered" if expected else None), (source, named)
        assert len(await open_exceptions("foreign_scan")) == len(saved.foreign)
        async with transaction() as connection:
            for each in await open_exceptions("foreign_scan"):
                await exceptions.close(connection, each.key, "mei", "")
            (kept,) = await connection.execute(select(ScanRow).where(ScanRow.waybill_no == f"SF{number}"))  # type: ignore[arg-type]
        assert (kept.source, kept.fulfillment_id) == (source, moved if expected else None)


@pytest.mark.parametrize("bound", ["booked_at", "opened_at"])
async def test_scan_from_before_the_booking_is_kept_without_effect(bound: str) -> None:
    parcel = await a_parcel(**{"opened_at": NOW - 9 * DAY, bound: NOW - DAY})
    await save("sf", a_scan(at=NOW - DAY - HOUR))
    assert await scan_status(parcel) is None
    (opened,) = await open_exceptions("foreign_scan")
    assert opened.fulfillment_id == parcel
    await save("sf", a_scan(at=NOW - DAY - timedelta(minutes=5), scan_id="2", status=TrackingStatus.PICKED_UP))
    assert await scan_status(parcel) == "picked_up"


async def test_number_used_again_by_its_carrier_moves_the_later_parcel() -> None:
    old = await a_parcel("1", booked_at=NOW - 400 * DAY, status="delivered", scan_status="delivered")
    new = await a_parcel("2", booked_at=NOW - DAY, waybill_no="SF1")
    saved = await save("sf", a_scan(at=NOW - 399 * DAY), a_scan(scan_id="2", status=TrackingStatus.IN_TRANSIT))
    assert {key[2]: order for key, order in saved.orders.items()} == {"1": old[:-3], "2": new[:-3]}
    assert await scan_status(new) == "in_transit"


async def test_foreign_scan_does_not_take_the_place_of_the_real_one() -> None:
    parcel = await a_parcel()
    await save("zto", a_scan(status=TrackingStatus.LOST))
    await save("sf", a_scan(status=TrackingStatus.IN_TRANSIT))
    assert await scan_status(parcel) == "in_transit"


async def test_scan_that_arrived_before_the_waybill_was_recorded_counts_with_the_next_one() -> None:
    await save("sf", a_scan(status=TrackingStatus.LOST, at=NOW - HOUR))
    parcel = await a_parcel()
    await save("sf", a_scan(scan_id="2", status=TrackingStatus.IN_TRANSIT))
    assert await scan_status(parcel) == "lost"


async def test_push_of_another_carrier_delivers_nothing_and_is_seen(temporal: Client) -> None:
    await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
    await open_account(IntegrationType.CARRIER, "zto", "default", push_secret="s3cret", app_secret="z")
    order_id = await store(sale())
    await take(temporal)
    await add_fulfillment(order_id)
    data = json.dumps({"billCode": "SF1", "action": "SIGNED", "actionTime": "2026-11-20 10:00:00"})
    body = urlencode({"data": data, "data_digest": digest(data, "z"), "msg_type": "Traces"}).encode()
    await store_other(IntegrationType.CARRIER, "zto", "default", body)
    await take(temporal)
    (message,) = await rows(integration=IntegrationType.CARRIER)
    assert (message.state, message.reason) == (InboxState.DONE, "inbox.foreign_scan")
    assert await signals(temporal, order_id) == []
    assert await scan_status(f"{order_id}:1") is None
    (seen,) = await open_exceptions("foreign_scan")
    assert (seen.fulfillment_id, seen.detail["source"]) == (f"{order_id}:1", "zto")


async def test_odd_route_fails_its_message_but_the_others_count(temporal: Client) -> None:
    await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
    await open_account(IntegrationType.CARRIER, "sf", "default", push_secret="s3cret")
    order_id = await store(sale())
    await take(temporal)
    await add_fulfillment(order_id)
    signed = {"mailno": "SF1", "acceptTime": "2026-11-20 10:00:00", "opCode": "80"}
    body = {"Body": {"WaybillRoute": [{**signed, "acceptTime": "", "id": "1"}, signed]}}
    await store_other(IntegrationType.CARRIER, "sf", "default", json.dumps(body).encode())
    await take(temporal)
    (message,) = await rows(integration=IntegrationType.CARRIER)
    assert (message.state, message.field) == (InboxState.FAILED, "Body.WaybillRoute[0].acceptTime")
    assert [(name, request["status"]) for name, request in await signals(temporal, order_id)] == [
        ("tracking", "delivered")
    ]


async def test_unknown_code_is_kept_counted_and_opens_one_exception(api: httpx.AsyncClient) -> None:
    await a_parcel()
    long = "x" * 6000
    for number, code in enumerate(["999", "999", long]):
        scan = a_scan(scan_id=f"{number}{code}", status=None, code=code, unknown=True, text=f"seen {number}")
        await save("sf", scan, scan)
    headers = await bearer(Scope.READ)
    counted = (await api.get("/carriers/unknown-codes", headers=headers)).json()
    assert [(each["carrier"], each["code"], each["count"]) for each in counted] == [("sf", "999", 2), ("sf", long, 1)]
    opened = (await api.get("/exceptions?kind=unknown_code", headers=headers)).json()
    assert {each["detail"]["code"] for each in opened} == {"999", long}
    async with transaction() as connection:
        for each in opened:
            await exceptions.close(connection, each["key"], "mei", "harmless")
    await save("sf", a_scan(scan_id="later", status=None, code="999", unknown=True, at=datetime.now(UTC)))
    assert await open_exceptions("unknown_code") == []
