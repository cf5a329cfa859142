"""Warehouse systems against their twin over real HTTP: each checks the other's signature."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from temporalio.exceptions import ApplicationError

from activities.kit import http
from activities.warehouses import wms
from models.fulfillment import Label, RequestStatus, TrackingStatus
from models.intake import Account, IntegrationType
from starter.sandbox.app import create_app
from starter.sandbox.carriers import sf as sf_twin
from starter.sandbox.warehouse import SECRET
from tests.contract.test_carriers import PushReceiver, World
from tests.contract.test_carriers_sf import a_booking, refusal
from tests.serving import served
from tests.unit.orders import RECIPIENT

CLIENT = httpx.Client(timeout=30)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


def warehouse(url: str, secret: str = SECRET) -> Account:
    return Account(
        integration=IntegrationType.WAREHOUSE,
        source="wms",
        account="SH",
        base_url=f"{url}/warehouse/SH",
        secrets={"secret": secret},
    )


def control(url: str, verb: str, **what: Any) -> int:
    """Send a control request to the twin and return the status of its response."""
    return CLIENT.post(f"{url}/warehouse/_control/{verb}", json=what).status_code


def a_submission(fulfillment_id: str, waybill_no: str = "SF1") -> wms.Submission:
    return wms.Submission(
        fulfillment_id=fulfillment_id,
        order_no="W1",
        carrier="sf",
        waybill_no=waybill_no,
        label=Label(),
        lines=a_booking().goods,
        recipient=RECIPIENT.masked(),
        priority=3,
    )


class EventReceiver:
    """Our API for the events of a warehouse: records them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.app = FastAPI()
        self.app.post("/warehouses/{code}/events", status_code=202)(self.receive)

    async def receive(self, code: str, request: Request) -> None:
        assert request.headers["authorization"] == "Bearer hd_key"
        self.events.extend(await request.json())

    async def wait_for(self, fulfillment_id: str, kind: str) -> list[str]:
        for _ in range(250):
            kinds = [each["kind"] for each in self.events if each["fulfillment_id"] == fulfillment_id]
            if kind in kinds:
                return kinds
            await asyncio.sleep(0.02)
        raise AssertionError(self.events)


@pytest.fixture
def receiver(sandbox: str) -> Iterator[EventReceiver]:
    receiver = EventReceiver()
    with served(receiver.app) as url:
        assert control(sandbox, "config", api_url=url, api_key="hd_key", delay=0.01) == 200
        yield receiver


async def test_warehouse_accepts_picks_and_ships_once(sandbox: str, receiver: EventReceiver) -> None:
    for _ in range(2):
        assert await wms.submit(warehouse(sandbox), a_submission("o:1:F1")) is RequestStatus.SUBMITTED
    assert await receiver.wait_for("o:1:F1", "shipped") == ["accepted", "picked", "shipped"]
    assert receiver.events[-1]["weight_kg"] == "0.8"
    recall = await wms.recall(warehouse(sandbox), "o:1:F1", "cancelled")
    assert (recall.accepted, recall.reason) == (False, "shipped")


async def test_held_order_can_be_recalled_and_is_never_shipped(sandbox: str, receiver: EventReceiver) -> None:
    control(sandbox, "hold", match=":held:")
    await wms.submit(warehouse(sandbox), a_submission("o:held:F1"))
    await wms.submit(warehouse(sandbox), a_submission("o:held:F2"))
    await receiver.wait_for("o:held:F1", "picked")
    await asyncio.sleep(0.1)
    assert (await wms.recall(warehouse(sandbox), "o:held:F1", "cancelled")).accepted
    assert control(sandbox, "ship", fulfillment_id="o:held:F1") == 409
    assert control(sandbox, "ship", fulfillment_id="o:held:F2") == 200
    assert "shipped" in await receiver.wait_for("o:held:F2", "shipped")
    assert "shipped" not in [each["kind"] for each in receiver.events if each["fulfillment_id"] == "o:held:F1"]


async def test_recall_overtakes_a_submission(sandbox: str) -> None:
    assert (await wms.recall(warehouse(sandbox), "o:late:F1", "cancelled")).accepted
    with pytest.raises(ApplicationError) as caught:
        await wms.submit(warehouse(sandbox), a_submission("o:late:F1"))
    assert (caught.value.type, caught.value.message) == ("Refused", "recalled")


async def test_warehouse_refuses_a_wrong_signature(sandbox: str) -> None:
    error = await refusal(wms.submit(warehouse(sandbox, "wrong"), a_submission("o:2:F1")))
    assert (error.type, error.details[0]) == ("Refused", "401")


async def test_shipping_starts_the_planned_journey(sandbox: str, receiver: EventReceiver) -> None:
    world = World(sandbox, "sf")
    pushes = PushReceiver(world)
    waybill = await world.adapter.book(a_booking("planned-1"))
    with served(pushes.app) as url:
        world.post("/sf/_control/config", {"push_url": f"{url}/push/s3cret", "journey": {"delay": 0.01}})
        world.post("/sf/_control/plans", {"match": "planned-1", "kind": "failed", "delay": 0.01})
        await wms.submit(warehouse(sandbox), a_submission("o:3:F1", waybill.waybill_no))
        scans = await pushes.wait_for(len(sf_twin.JOURNEYS["failed"]))
    assert scans[-1].status is TrackingStatus.DELIVERY_FAILED
