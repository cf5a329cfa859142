"""Contract of every carrier that books, against its twin over real HTTP: each verifies the other's signature."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import Carrier, carrier
from activities.kit import http
from models.fulfillment import Label, Scan, TrackingStatus
from models.intake import Account, IntegrationType
from starter.sandbox.accounts import BOOKING
from starter.sandbox.app import create_app
from tests.contract.test_carriers_sf import a_booking, refusal
from tests.serving import served
from tests.unit.orders import RECIPIENT

CLIENT = httpx.Client(timeout=30)


class World:
    """The twin of a carrier, and our account with it."""

    def __init__(self, url: str, name: str, **secrets: str) -> None:
        self.twin = import_module(f"starter.sandbox.carriers.{name}")
        self.name = name
        self.url = url
        self.account = Account(
            integration=IntegrationType.CARRIER,
            source=name,
            account="main",
            base_url=f"{url}/{name}{self.twin.PATH}",
            secrets={**self.twin.SECRETS, "push_secret": "s3cret", **secrets},
            settings=self.twin.SETTINGS,
        )

    @property
    def adapter(self) -> Carrier:
        return carrier(self.account)

    def post(self, path: str, body: Any) -> Any:
        response = CLIENT.post(self.url + path, json=body)
        assert response.is_success, response.text
        return response.json()

    def fault(self, fault: str, match: str, **more: Any) -> None:
        self.post(
            "/_faults", {"system": self.name, "operation": self.twin.BOOK, "fault": fault, "match": match, **more}
        )

    def booked(self, reference: str) -> list[dict[str, Any]]:
        bookings = CLIENT.get(f"{self.url}/{self.name}/_control/bookings").json()
        return [each for each in bookings if each["reference"] == reference]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


@pytest.fixture(params=BOOKING)
def world(request: pytest.FixtureRequest, sandbox: str) -> World:
    return World(sandbox, request.param)


async def test_repeated_booking_returns_the_first_waybill(world: World) -> None:
    first = await world.adapter.book(a_booking("twice-1"))
    second = await world.adapter.book(a_booking("twice-1"))
    other = await world.adapter.book(a_booking("other-1"))
    assert first == second
    assert first.waybill_no != other.waybill_no
    (booking,) = world.booked("twice-1")
    assert booking["calls"] == 2
    assert first.label != Label()
    assert first.carrier == world.name


async def test_wrong_signature_is_refused(world: World) -> None:
    forger = World(world.url, world.name, **dict.fromkeys(world.twin.SECRETS, "wrong"))
    assert (await refusal(forger.adapter.book(a_booking("forged-1")))).type == "Refused"
    assert world.booked("forged-1") == []


async def test_faults_are_retryable_after_the_delay_of_the_carrier(world: World) -> None:
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


async def test_timeout_after_booking_leaves_one_booking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fault("timeout_after", "slow-01", seconds=1)
    impatient = httpx.AsyncClient(timeout=0.2)
    monkeypatch.setattr(http, "_client", impatient)
    assert (await refusal(world.adapter.book(a_booking("slow-01")))).type == "Unavailable"
    found = await world.adapter.find("slow-01")
    waybill = found or await world.adapter.book(a_booking("slow-01"))
    (booking,) = world.booked("slow-01")
    assert booking["waybill_no"] == waybill.waybill_no
    await impatient.aclose()


async def test_unknown_reference_is_not_found(world: World) -> None:
    assert await world.adapter.find("never-1") is None


async def test_cancelling_twice_or_without_a_booking_is_no_error(world: World) -> None:
    await world.adapter.cancel("nothing-1")
    waybill = await world.adapter.book(a_booking("gone-01"))
    await world.adapter.cancel("gone-01", waybill.waybill_no)
    await world.adapter.cancel("gone-01", waybill.waybill_no)
    (booking,) = world.booked("gone-01")
    assert booking["cancelled"]


async def test_incomplete_recipient_is_refused(world: World) -> None:
    nowhere = a_booking("nowhere-1").model_copy(update={"recipient": RECIPIENT.model_copy(update={"street": ""})})
    assert (await refusal(world.adapter.book(nowhere))).type == "Refused"


# Journeys


class PushReceiver:
    """Our side of a push: verifies, parses and acknowledges; can refuse a number of pushes first."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scans: list[Scan] = []
        self.deaf = 0
        self.app = FastAPI()
        self.app.post("/push/{secret}")(self.receive)

    async def receive(self, secret: str, request: Request) -> Response:
        if self.deaf:
            self.deaf -= 1
            return Response(status_code=503)
        body = await request.body()
        self.world.adapter.receive(request.headers, body, secret)
        self.scans.extend(self.world.adapter.parse_push(body, request.headers))
        answer = self.world.adapter.answer(request.headers, body)
        return Response(answer.body, answer.status, media_type=answer.content_type)

    async def wait_for(self, count: int) -> list[Scan]:
        for _ in range(250):
            if len(self.scans) >= count:
                break
            await asyncio.sleep(0.02)
        assert len(self.scans) == count
        return self.scans


@pytest.fixture
def receiver(world: World) -> Iterator[PushReceiver]:
    receiver = PushReceiver(world)
    with served(receiver.app) as url:
        world.post(f"/{world.name}/_control/config", {"push_url": f"{url}/push/s3cret", "journey": {"delay": 0.01}})
        yield receiver


async def test_journey_is_pushed_step_by_step_until_accepted(world: World, receiver: PushReceiver) -> None:
    waybill = await world.adapter.book(a_booking("journey-1"))
    receiver.deaf = 1
    world.post(f"/{world.name}/_control/journey", {"waybill_no": waybill.waybill_no, "delay": 0.01})
    steps = world.twin.JOURNEYS["delivered"]
    scans = await receiver.wait_for(len(steps))
    assert {scan.waybill_no for scan in scans} == {waybill.waybill_no}
    assert scans[0].status is TrackingStatus.PICKED_UP
    assert scans[-1].status is TrackingStatus.DELIVERED
    assert "137" not in json.dumps([scan.text for scan in scans])
    pulled = await world.adapter.track(waybill.waybill_no)
    assert [scan.status for scan in pulled] == [scan.status for scan in scans]
    error = await refusal(world.adapter.cancel("journey-1", waybill.waybill_no))
    assert error.type == "Refused"


async def test_duplicate_unordered_pushes_of_a_refused_parcel_give_each_scan_once(
    world: World, receiver: PushReceiver
) -> None:
    waybill = await world.adapter.book(a_booking("refused-1"))
    way = {"waybill_no": waybill.waybill_no, "kind": "refused", "copies": 2, "shuffle": True}
    world.post(f"/{world.name}/_control/journey", way)
    steps = world.twin.JOURNEYS["refused"]
    scans = await receiver.wait_for(2 * len(steps))
    once = {scan.scan_id: scan for scan in scans}
    assert len(once) == len(steps)
    in_order = [scan.status for scan in sorted(once.values(), key=lambda scan: scan.at)]
    assert in_order[-3:] == [TrackingStatus.REFUSED, TrackingStatus.RETURNING, TrackingStatus.RETURNED]


async def test_single_routes_are_pushed_unchanged(world: World) -> None:
    receiver = PushReceiver(world)
    waybill = await world.adapter.book(a_booking("single-1"))
    route = {"waybill_no": waybill.waybill_no, **world.twin.JOURNEYS["delivered"][0]}
    with served(receiver.app) as url:
        push = {"url": f"{url}/push/s3cret", "routes": [route], "copies": 3}
        answers = world.post(f"/{world.name}/_control/route", push)
    assert {status for status, _ in answers} == {200}
    assert [scan.status for scan in receiver.scans] == [TrackingStatus.PICKED_UP] * 3
    assert len({scan.scan_id for scan in receiver.scans}) == 1


async def test_intercepted_parcel_is_returned(world: World, receiver: PushReceiver) -> None:
    waybill = await world.adapter.book(a_booking("stopped-1"))
    error = await refusal(world.adapter.intercept("stopped-1", waybill.waybill_no))
    assert error.type == "Refused"
    if error.message == "carrier.cannot_intercept":
        return
    world.post(f"/{world.name}/_control/journey", {"waybill_no": waybill.waybill_no, "delay": 0.2})
    await receiver.wait_for(1)
    await world.adapter.intercept("stopped-1", waybill.waybill_no)
    await world.adapter.intercept("stopped-1", waybill.waybill_no)
    scans = await receiver.wait_for(1 + len(world.twin.JOURNEYS["intercepted"]))
    assert scans[-1].status is TrackingStatus.RETURNED


async def test_every_offer_has_a_price(world: World) -> None:
    assert all(offer.price.amount > 0 for offer in await world.adapter.quote(a_booking("offer-1")))
