"""Tracking subscriptions with aggregators, polling of silent parcels, and interception."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, text, update
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.accounts import accounts
from activities.carriers import carrier
from activities.fulfillment import tracking
from activities.fulfillment.exceptions import intercept_parcel, watch_exceptions
from activities.kit.database import transaction
from activities.records import exceptions
from models.exceptions import ExceptionKind, ExceptionPolicy, Remedy
from models.fulfillment import FulfillmentRow, carrier_reference
from models.intake import AccountRow, InboxRow, IntegrationType, Secrets
from models.order import OrderRow
from models.vault import seal_row
from starter.sandbox.app import create_app
from starter.sandbox.carriers import kuaidi100, sf
from tests.contract.test_carriers_sf import a_booking
from tests.integration.parcels import DAY, HOUR, NOW, a_parcel
from tests.serving import served

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


async def open_account(url: str, twin: Any, **settings: Any) -> None:
    name = twin.__name__.rpartition(".")[2]
    row = {
        "integration": IntegrationType.CARRIER,
        "source": name,
        "account": "default",
        "base_url": f"{url}/{name}{twin.PATH}",
        "secrets": Secrets(values={**twin.SECRETS, "push_secret": "end"}),
        "settings": {**twin.SETTINGS, **settings},
    }
    async with transaction() as connection:
        await connection.execute(insert(AccountRow).values(seal_row(AccountRow, row)))
    accounts.clear_cache()


def followed(url: str) -> dict[str, Any]:
    bookings = httpx.get(f"{url}/kuaidi100/_control/bookings").json()
    return {each["waybill_no"]: each for each in bookings if each["followed"]}


async def test_parcel_is_subscribed_once_and_again_after_silence(sandbox: str) -> None:
    await open_account(sandbox, kuaidi100, follow=["yto"], push_url="https://oms.example.com/")
    for number, name in ((9001, "yto"), (9002, "sf"), (9003, "pigeon")):
        await a_parcel(str(number), carrier=name)
    follow = ActivityEnvironment().run
    assert await follow(tracking.subscribe_to_tracking) == 1
    assert await follow(tracking.subscribe_to_tracking) == 0
    subscribed = followed(sandbox)
    assert subscribed.keys() & {"SF9001", "SF9002", "SF9003"} == {"SF9001"}
    parcel = subscribed["SF9001"]
    assert parcel["push_url"] == "https://oms.example.com/carriers/kuaidi100/default/push/end"
    async with transaction() as connection:
        past = {"followed_at": NOW - 4 * DAY, "shipped_at": NOW - 5 * DAY, "scanned_at": NOW - HOUR}
        await connection.execute(update(FulfillmentRow).values(past))
    assert await follow(tracking.subscribe_to_tracking) == 0
    async with transaction() as connection:
        await connection.execute(update(FulfillmentRow).values(scanned_at=NOW - 4 * DAY))
    assert await follow(tracking.subscribe_to_tracking) == 1
    assert followed(sandbox)["SF9001"]["followed"] == 2


async def test_a_recipient_whose_seal_is_broken_stops_no_other_subscription(sandbox: str) -> None:
    await open_account(sandbox, kuaidi100, follow=["yto"], push_url="https://oms.example.com/")
    for number in (9011, 9012, 9013):
        await a_parcel(str(number), carrier="yto")
    broken = {"recipient": text("decode('00', 'hex')")}
    async with transaction() as connection:
        await connection.execute(update(OrderRow).where(OrderRow.channel_order_no == "9012").values(broken))  # type: ignore[arg-type]
    assert await ActivityEnvironment().run(tracking.subscribe_to_tracking) == 3
    assert followed(sandbox).keys() >= {"SF9011", "SF9012", "SF9013"}


async def test_incomplete_account_subscribes_nothing(sandbox: str) -> None:
    await open_account(sandbox, kuaidi100, follow=["yto"])
    await a_parcel("9003", carrier="yto")
    assert await ActivityEnvironment().run(tracking.subscribe_to_tracking) == 0


async def test_silent_parcel_is_polled_once(sandbox: str) -> None:
    await open_account(sandbox, sf)
    ours = await accounts.get_account(IntegrationType.CARRIER, "sf", "default")
    waybill = await carrier(ours).book(a_booking("silent-1"))
    await a_parcel("9101", waybill_no=waybill.waybill_no, shipped_at=NOW - 2 * HOUR)
    route = {"waybill_no": waybill.waybill_no, "code": "50", "text": "已收取快件", "place": "上海市"}
    nowhere = {"url": f"{sandbox}/health", "routes": [route]}
    async with httpx.AsyncClient() as client:
        await client.post(f"{sandbox}/sf/_control/route", json=nowhere)
    ask = ActivityEnvironment().run
    assert await ask(tracking.poll_stale_tracking) == 0
    async with transaction() as connection:
        await connection.execute(update(FulfillmentRow).values(shipped_at=NOW - 9 * HOUR))
    assert await ask(tracking.poll_stale_tracking) == 1
    assert await ask(tracking.poll_stale_tracking) == 0
    async with transaction() as connection:
        (message,) = (await connection.execute(select(InboxRow).where(InboxRow.topic == tracking.PULLED))).all()
    (scan,) = tracking.SCANS.validate_json(message.raw.body)
    assert (scan.waybill_no, scan.status) == (waybill.waybill_no, "picked_up")


async def test_interception_is_recorded_in_the_exception(sandbox: str) -> None:
    await open_account(sandbox, sf)
    ours = await accounts.get_account(IntegrationType.CARRIER, "sf", "default")
    parcel = "order:own:web:9201:F1"
    waybill = await carrier(ours).book(a_booking(carrier_reference(parcel)))
    wrong = {"scanned_at": NOW, "scan_status": "in_transit", "scan_exception": "wrong_address"}
    await a_parcel("9201", waybill_no=waybill.waybill_no, **wrong)
    async with transaction() as connection:
        policy = ExceptionPolicy(kind=ExceptionKind.WRONG_ADDRESS, automatic=Remedy.INTERCEPT)
        await exceptions.save_policy(connection, policy)
    (to_stop,) = (await watch_exceptions()).intercept
    with pytest.raises(ApplicationError):
        await intercept_parcel(to_stop)
    route = {"waybill_no": waybill.waybill_no, "code": "50", "text": "已收取快件", "place": "上海市"}
    async with httpx.AsyncClient() as client:
        await client.post(f"{sandbox}/sf/_control/route", json={"url": f"{sandbox}/health", "routes": [route]})
        await intercept_parcel(to_stop)
        booked = (await client.get(f"{sandbox}/sf/_control/bookings")).json()
    (stopped,) = [each for each in booked if each["waybill_no"] == waybill.waybill_no]
    assert stopped["intercepted"]
    async with transaction() as connection:
        (noted,) = await exceptions.search(connection)
    assert (noted.kind, noted.remedy, (await watch_exceptions()).intercept) == (
        "wrong_address",
        "intercept",
        (),
    )
