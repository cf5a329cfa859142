"""Carriers and warehouse systems against their twins over real HTTP: each checks the other's signature."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from temporalio.exceptions import ApplicationError

from activities import http, warehouses
from activities.carriers import Carrier, carrier
from models.fulfillment import RequestStatus, Scan, TrackingStatus
from models.intake import Account, Lane
from starter.sandbox.app import create_app
from starter.sandbox.carriers import sf as sf_twin
from starter.sandbox.carriers import yto as yto_twin
from starter.sandbox.warehouse import SECRET
from tests.serving import served
from tests.unit.orders import RECIPIENT
from tests.unit.test_carriers_sf import a_booking, refusal

CARRIERS = {"sf": ("", sf_twin.SECRETS), "yto": ("/open", yto_twin.SECRETS)}
BOOK = {"sf": "EXP_RECE_CREATE_ORDER", "yto": "privacy_create_adapter"}
HANDS = httpx.Client(timeout=30)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


@pytest.fixture(params=CARRIERS)
def world(request: pytest.FixtureRequest, sandbox: str) -> "World":
    return World(sandbox, request.param)


class World:
    """One carrier's twin, and our account with it."""

    def __init__(self, url: str, name: str, **secrets: str) -> None:
        path, given = CARRIERS[name]
        self.name = name
        self.url = url
        secrets = {**given, "push_secret": "s3cret", **secrets}
        self.account = Account(
            lane=Lane.CARRIER, source=name, account="main", base_url=f"{url}/{name}{path}", secrets=secrets
        )

    @property
    def adapter(self) -> Carrier:
        return carrier(self.account)

    def post(self, path: str, body: Any) -> Any:
        response = HANDS.post(self.url + path, json=body)
        assert response.is_success, response.text
        return response.json()

    def fault(self, fault: str, match: str, **more: Any) -> None:
        self.post(
            "/_faults", {"system": self.name, "operation": BOOK[self.name], "fault": fault, "match": match, **more}
        )

    def booked(self, reference: str) -> list[dict[str, Any]]:
        bookings = HANDS.get(f"{self.url}/{self.name}/_control/bookings").json()
        return [each for each in bookings if each["reference"] == reference]


async def test_booking_again_answers_with_the_first_waybill(world: World) -> None:
    first = await world.adapter.book(a_booking("twice-1"))
    second = await world.adapter.book(a_booking("twice-1"))
    other = await world.adapter.book(a_booking("other-1"))
    assert first == second
    assert first.waybill_no != other.waybill_no
    (booking,) = world.booked("twice-1")
    assert booking["calls"] == 2
    assert first.label


async def test_a_wrong_signature_is_refused(sandbox: str) -> None:
    for name, secret, code in (("sf", "check_word", "A1006"), ("yto", "secret", "1003")):
        world = World(sandbox, name, **{secret: "wrong"})
        error = await refusal(world.adapter.book(a_booking("forged-1")))
        assert (error.type, error.details[0]) == ("Refused", code)
        assert world.booked("forged-1") == []


async def test_faults_are_to_be_tried_again_when_the_carrier_says(world: World) -> None:
    world.fault("500", "faulty-1")
    world.fault("429", "faulty-1", seconds=7)
    world.fault("garbage", "faulty-1")
    waits = []
    for _ in range(3):
        error = await refusal(world.adapter.book(a_booking("faulty-1")))
        assert error.type == "Unavailable"
        waits.append(error.next_retry_delay and error.next_retry_delay.total_seconds())
    assert waits == [None, 7, None]
    assert world.booked("faulty-1") == []
    assert (await world.adapter.book(a_booking("faulty-1"))).waybill_no


async def test_a_time_out_after_booking_leaves_one_booking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fault("timeout_after", "slow-01", seconds=1)
    impatient = httpx.AsyncClient(timeout=0.2)
    monkeypatch.setattr(http, "_client", impatient)
    assert (await refusal(world.adapter.book(a_booking("slow-01")))).type == "Unavailable"
    found = await world.adapter.find("slow-01")
    waybill = found or await world.adapter.book(a_booking("slow-01"))
    (booking,) = world.booked("slow-01")
    assert booking["waybill_no"] == waybill.waybill_no
    await impatient.aclose()


async def test_what_was_never_booked_is_not_found(world: World) -> None:
    assert await world.adapter.find("never-1") is None


async def test_cancelling_twice_or_nothing_is_no_error(world: World) -> None:
    await world.adapter.cancel("nothing-1")
    await world.adapter.book(a_booking("gone-01"))
    await world.adapter.cancel("gone-01")
    await world.adapter.cancel("gone-01")
    (booking,) = world.booked("gone-01")
    assert booking["cancelled"]


async def test_an_incomplete_recipient_is_refused(world: World) -> None:
    nowhere = a_booking("nowhere-1").model_copy(update={"recipient": RECIPIENT.model_copy(update={"street": ""})})
    assert (await refusal(world.adapter.book(nowhere))).type == "Refused"


# Journeys


class Ear:
    """Our side of a push: verifies, parses, acknowledges; may be told to be deaf for a while."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scans: list[Scan] = []
        self.deaf = 0
        self.app = FastAPI()
        self.app.post("/push/{secret}")(self.hear)

    async def hear(self, secret: str, request: Request) -> Response:
        if self.deaf:
            self.deaf -= 1
            return Response(status_code=503)
        body = await request.body()
        self.world.adapter.receive(request.headers, body, secret)
        self.scans.extend(self.world.adapter.parse_push(body, request.headers))
        answer = self.world.adapter.answer(request.headers, body)
        return Response(answer.body, answer.status, media_type=answer.content_type)

    async def until(self, count: int) -> list[Scan]:
        for _ in range(250):
            if len(self.scans) >= count:
                break
            await asyncio.sleep(0.02)
        assert len(self.scans) == count
        return self.scans


@pytest.fixture
def ear(world: World) -> Iterator[Ear]:
    ear = Ear(world)
    with served(ear.app) as url:
        world.post(f"/{world.name}/_control/config", {"push_url": f"{url}/push/s3cret", "way": {"delay": 0.01}})
        yield ear


async def test_a_journey_is_told_step_by_step_until_it_is_heard(world: World, ear: Ear) -> None:
    waybill = await world.adapter.book(a_booking("journey-1"))
    ear.deaf = 1
    world.post(f"/{world.name}/_control/journey", {"waybill_no": waybill.waybill_no, "delay": 0.01})
    steps = (yto_twin if world.name == "yto" else sf_twin).JOURNEYS["delivered"]
    scans = await ear.until(len(steps))
    assert {scan.waybill_no for scan in scans} == {waybill.waybill_no}
    assert scans[0].status is TrackingStatus.PICKED_UP
    assert scans[-1].status is TrackingStatus.DELIVERED
    assert "137" not in json.dumps([scan.text for scan in scans])
    pulled = await world.adapter.track(waybill.waybill_no)
    assert [scan.status for scan in pulled] == [scan.status for scan in scans]
    error = await refusal(world.adapter.cancel("journey-1"))
    assert error.type == "Refused"


async def test_a_refused_parcel_goes_back_told_twice_and_out_of_order(world: World, ear: Ear) -> None:
    waybill = await world.adapter.book(a_booking("refused-1"))
    way = {"waybill_no": waybill.waybill_no, "kind": "refused", "copies": 2, "shuffle": True}
    world.post(f"/{world.name}/_control/journey", way)
    steps = (yto_twin if world.name == "yto" else sf_twin).JOURNEYS["refused"]
    scans = await ear.until(2 * len(steps))
    once = {scan.scan_id: scan for scan in scans}
    assert len(once) == len(steps)
    in_order = [scan.status for scan in sorted(once.values(), key=lambda scan: scan.at)]
    assert in_order[-3:] == [TrackingStatus.REFUSED, TrackingStatus.RETURNING, TrackingStatus.RETURNED]


async def test_single_routes_are_pushed_as_told(world: World) -> None:
    ear = Ear(world)
    waybill = await world.adapter.book(a_booking("single-1"))
    route = {"waybill_no": waybill.waybill_no, "code": "SENT_SCAN" if world.name == "yto" else "44"}
    with served(ear.app) as url:
        push = {"url": f"{url}/push/s3cret", "routes": [route], "copies": 3}
        answers = world.post(f"/{world.name}/_control/route", push)
    assert {status for status, _ in answers} == {200}
    assert [scan.status for scan in ear.scans] == [TrackingStatus.OUT_FOR_DELIVERY] * 3
    assert len({scan.scan_id for scan in ear.scans}) == 1


# Warehouses


def warehouse(url: str, secret: str = SECRET) -> Account:
    return Account(
        lane=Lane.WAREHOUSE,
        source="wms",
        account="SH",
        base_url=f"{url}/warehouse/SH",
        secrets={"secret": secret},
    )


def told(url: str, verb: str, **what: Any) -> int:
    """The status with which the twin takes an order from the stage."""
    return HANDS.post(f"{url}/warehouse/_control/{verb}", json=what).status_code


def a_submission(fulfillment_id: str, waybill_no: str = "SF1") -> warehouses.Submission:
    return warehouses.Submission(
        fulfillment_id=fulfillment_id,
        order_no="W1",
        carrier="sf",
        waybill_no=waybill_no,
        label={},
        lines=a_booking().goods,
        recipient=RECIPIENT.masked(),
        priority=3,
    )


class Office:
    """Our side of a warehouse's events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.app = FastAPI()
        self.app.post("/warehouses/{code}/events", status_code=202)(self.hear)

    async def hear(self, code: str, request: Request) -> None:
        assert request.headers["authorization"] == "Bearer hd_key"
        self.events.extend(await request.json())

    async def until(self, fulfillment_id: str, kind: str) -> list[str]:
        for _ in range(250):
            kinds = [each["kind"] for each in self.events if each["fulfillment_id"] == fulfillment_id]
            if kind in kinds:
                return kinds
            await asyncio.sleep(0.02)
        raise AssertionError(self.events)


@pytest.fixture
def office(sandbox: str) -> Iterator[Office]:
    office = Office()
    with served(office.app) as url:
        assert told(sandbox, "config", api_url=url, api_key="hd_key", delay=0.01) == 200
        yield office


async def test_a_warehouse_accepts_picks_and_ships_once(sandbox: str, office: Office) -> None:
    for _ in range(2):
        assert await warehouses.submit(warehouse(sandbox), a_submission("o:1:F1")) is RequestStatus.SUBMITTED
    assert await office.until("o:1:F1", "shipped") == ["accepted", "picked", "shipped"]
    assert office.events[-1]["weight_kg"] == "0.8"
    recall = await warehouses.recall(warehouse(sandbox), "o:1:F1", "cancelled")
    assert (recall.accepted, recall.reason) == (False, "shipped")


async def test_what_is_held_can_be_recalled_and_is_then_never_shipped(sandbox: str, office: Office) -> None:
    told(sandbox, "hold", match=":held:")
    await warehouses.submit(warehouse(sandbox), a_submission("o:held:F1"))
    await warehouses.submit(warehouse(sandbox), a_submission("o:held:F2"))
    await office.until("o:held:F1", "picked")
    await asyncio.sleep(0.1)
    assert (await warehouses.recall(warehouse(sandbox), "o:held:F1", "cancelled")).accepted
    assert told(sandbox, "ship", fulfillment_id="o:held:F1") == 409
    assert told(sandbox, "ship", fulfillment_id="o:held:F2") == 200
    assert "shipped" in await office.until("o:held:F2", "shipped")
    assert "shipped" not in [each["kind"] for each in office.events if each["fulfillment_id"] == "o:held:F1"]


async def test_a_recall_overtakes_a_submission(sandbox: str) -> None:
    assert (await warehouses.recall(warehouse(sandbox), "o:late:F1", "cancelled")).accepted
    with pytest.raises(ApplicationError) as caught:
        await warehouses.submit(warehouse(sandbox), a_submission("o:late:F1"))
    assert (caught.value.type, caught.value.message) == ("Refused", "recalled")


async def test_a_warehouse_refuses_a_wrong_signature(sandbox: str) -> None:
    error = await refusal(warehouses.submit(warehouse(sandbox, "wrong"), a_submission("o:2:F1")))
    assert (error.type, error.details[0]) == ("Refused", "401")


async def test_what_is_shipped_begins_its_journey_as_planned(sandbox: str, office: Office) -> None:
    world = World(sandbox, "sf")
    ear = Ear(world)
    waybill = await world.adapter.book(a_booking("planned-1"))
    with served(ear.app) as url:
        world.post("/sf/_control/config", {"push_url": f"{url}/push/s3cret", "way": {"delay": 0.01}})
        world.post("/sf/_control/plans", {"match": "planned-1", "kind": "failed", "delay": 0.01})
        await warehouses.submit(warehouse(sandbox), a_submission("o:3:F1", waybill.waybill_no))
        scans = await ear.until(len(sf_twin.JOURNEYS["failed"]))
    assert scans[-1].status is TrackingStatus.DELIVERY_FAILED
