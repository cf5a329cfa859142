"""Contract of every aggregator, against its twin over real HTTP: each verifies the other's signature."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import Aggregator, tracker
from activities.kit import http
from activities.kit.errors import Unauthentic
from models.fulfillment import Scan, TrackingStatus
from starter.sandbox.accounts import CARRIERS
from starter.sandbox.app import create_app
from tests.contract.test_carriers import World
from tests.contract.test_carriers_sf import refusal
from tests.serving import served

PHONE = "0000"
NUMBERS = {
    "SF1400000000000": "sf",
    "YT2819000000000": "yto",
    "773000000000000": "sto",
    "790000000000": "zto",
    "430000000000000": "yunda",
    "JDVA00000000000": "jdl",
    "1100000000000": "ems",
}
SERIAL = count(1)


class AggregatorWorld(World):
    @property
    def aggregator(self) -> Aggregator:
        aggregator = tracker(self.account)
        assert isinstance(aggregator, Aggregator)
        return aggregator


AGGREGATORS = [name for name in CARRIERS if isinstance(tracker(World("", name).account), Aggregator)]


class PushReceiver:
    """Our side of a push: verifies, parses and acknowledges; keeps the bodies, and each scan once."""

    def __init__(self, world: AggregatorWorld) -> None:
        self.world = world
        self.bodies: list[bytes] = []
        self.scans: dict[str, Scan] = {}
        self.url = ""

    async def receive(self, secret: str, request: Request) -> Response:
        body = await request.body()
        self.world.aggregator.receive(request.headers, body, secret)
        for scan in self.world.aggregator.parse_push(body, request.headers):
            assert self.scans.setdefault(scan.scan_id, scan) == scan
        self.bodies.append(body)
        answer = self.world.aggregator.answer(request.headers, body)
        return Response(answer.body, answer.status, media_type=answer.content_type)

    async def wait_for(self, scans: int, pushes: int = 1) -> list[Scan]:
        for _ in range(250):
            if len(self.scans) >= scans and len(self.bodies) >= pushes:
                break
            await asyncio.sleep(0.02)
        assert len(self.scans) == scans
        return sorted(self.scans.values(), key=lambda scan: scan.at)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


@pytest.fixture(params=AGGREGATORS)
def world(request: pytest.FixtureRequest, sandbox: str) -> AggregatorWorld:
    return AggregatorWorld(sandbox, request.param)


@pytest.fixture
def receiver(world: AggregatorWorld) -> Iterator[PushReceiver]:
    receiver, app = PushReceiver(world), FastAPI()
    app.post("/push/{secret}")(receiver.receive)
    with served(app) as url:
        receiver.url = f"{url}/push/s3cret"
        world.post(f"/{world.name}/_control/config", {"push_url": receiver.url})
        yield receiver


@pytest.fixture
def number() -> str:
    """Return the number of a parcel not used before."""
    return f"YT77{next(SERIAL):09}"


def travel(world: AggregatorWorld, number: str, **way: object) -> int:
    """Start the journey of a parcel and return its number of steps."""
    world.post(f"/{world.name}/_control/journey", {"waybill_no": number, "delay": 0.01, **way})
    return len(world.twin.JOURNEYS[way.get("kind", "delivered")])


async def test_subscribed_parcel_is_tracked_until_delivery(
    world: AggregatorWorld, receiver: PushReceiver, number: str
) -> None:
    await world.aggregator.subscribe(number, "yto", PHONE, receiver.url)
    scans = await receiver.wait_for(travel(world, number))
    assert {scan.waybill_no for scan in scans} == {number}
    assert {TrackingStatus.PICKED_UP, TrackingStatus.OUT_FOR_DELIVERY, TrackingStatus.DELIVERED} <= {
        scan.status for scan in scans
    }
    assert all(scan.status for scan in scans)
    words = json.dumps([scan.text for scan in scans], ensure_ascii=False)
    assert "137" not in words
    assert "李四" not in words


async def test_subscribing_again_is_no_error(world: AggregatorWorld, receiver: PushReceiver, number: str) -> None:
    for _ in range(2):
        await world.aggregator.subscribe(number, "yto", PHONE, receiver.url)
    (parcel,) = world.booked(number)
    assert parcel["followed"] == 2
    await receiver.wait_for(travel(world, number))


async def test_unknown_carrier_is_refused(world: AggregatorWorld, number: str) -> None:
    error = await refusal(world.aggregator.subscribe(number, "pigeon", PHONE, "http://127.0.0.1:1"))
    assert (error.type, error.message) == ("Refused", "carrier.not_known")
    assert world.booked(number) == []


async def test_wrong_signature_is_refused(world: AggregatorWorld, number: str) -> None:
    forger = AggregatorWorld(world.url, world.name, **dict.fromkeys(world.twin.SECRETS, "wrong"))
    for act in (
        forger.aggregator.subscribe(number, "yto", PHONE, "http://127.0.0.1:1"),
        forger.aggregator.candidate_carriers(number),
        forger.aggregator.track(number),
    ):
        assert (await refusal(act)).type == "Refused"
    assert world.booked(number) == []


@pytest.mark.parametrize(("number", "carrier"), NUMBERS.items())
async def test_number_identifies_its_carrier(world: AggregatorWorld, number: str, carrier: str) -> None:
    candidates = await world.aggregator.candidate_carriers(number)
    assert candidates[0] == carrier


async def test_unknown_number_has_no_carrier(world: AggregatorWorld) -> None:
    assert list(await world.aggregator.candidate_carriers("??")) == []
    assert list(await world.aggregator.track("??")) == []


async def test_carrier_without_a_module_keeps_the_code_of_the_aggregator(world: AggregatorWorld) -> None:
    (code,) = await world.aggregator.candidate_carriers("DPK36000000000")
    assert code not in CARRIERS


async def test_query_returns_the_pushed_scans(world: AggregatorWorld, receiver: PushReceiver, number: str) -> None:
    await world.aggregator.subscribe(number, "yto", PHONE, receiver.url)
    assert list(await world.aggregator.track(number, PHONE)) == []
    await receiver.wait_for(travel(world, number))
    pulled = await world.aggregator.track(number, PHONE)
    assert {scan.scan_id: scan for scan in pulled} == receiver.scans


async def test_duplicate_unordered_pushes_give_each_scan_once(
    world: AggregatorWorld, receiver: PushReceiver, number: str
) -> None:
    await world.aggregator.subscribe(number, "yto", PHONE, receiver.url)
    steps = travel(world, number, kind="refused", copies=2, shuffle=True)
    scans = await receiver.wait_for(steps)
    assert [scan.status for scan in scans][-3:] == [
        TrackingStatus.REFUSED,
        TrackingStatus.RETURNING,
        TrackingStatus.RETURNED,
    ]


async def test_push_with_a_foreign_signature_is_refused(
    world: AggregatorWorld, receiver: PushReceiver, number: str
) -> None:
    await world.aggregator.subscribe(number, "yto", PHONE, receiver.url)
    await receiver.wait_for(travel(world, number))
    body = receiver.bodies[-1]
    first, again = (world.aggregator.receive({}, body, "s3cret") for _ in range(2))
    assert first == again
    stranger = AggregatorWorld(world.url, world.name, **dict.fromkeys(world.twin.SECRETS, "wrong"))
    for ours, rejected, secret in (
        (stranger, body, "s3cret"),
        (world, body, "wrong"),
        (world, body.replace(number.encode(), b"YT1"), "s3cret"),
        (world, b"\xff", "s3cret"),
        (world, b"", "s3cret"),
    ):
        with pytest.raises(Unauthentic):
            ours.aggregator.receive({}, rejected, secret)


async def test_faults_are_retryable_after_the_delay_of_the_aggregator(world: AggregatorWorld, number: str) -> None:
    for fault, more in (("500", {}), ("429", {"seconds": 7}), ("garbage", {})):
        world.post("/_faults", {"system": world.name, "fault": fault, "match": number, **more})
    acts = (
        world.aggregator.subscribe(number, "yto", PHONE, "http://127.0.0.1:1"),
        world.aggregator.candidate_carriers(number),
        world.aggregator.track(number, PHONE),
    )
    errors = [await refusal(act) for act in acts]
    assert {error.type for error in errors} == {"Unavailable"}
    delays = [error.next_retry_delay and error.next_retry_delay.total_seconds() for error in errors]
    assert delays == [None, 7, None]
    assert world.booked(number) == []
    await world.aggregator.subscribe(number, "yto", PHONE, "http://127.0.0.1:1")
