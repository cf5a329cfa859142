"""People are told, each once, in the words of their shop: over real SMTP and real HTTP."""

import hmac
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, time, timedelta
from socket import socket
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from aiosmtpd.controller import Controller
from fastapi import FastAPI, Request
from sqlalchemy import insert, select, update
from standardwebhooks import Webhook
from starlette.responses import JSONResponse, Response

from activities.accounts import accounts
from activities.fulfillment import exceptions
from activities.kit import http
from activities.kit.database import transaction
from activities.media import sms
from activities.notifications import delivery
from models.api_keys import Scope
from models.base import CHINA
from models.intake import AccountRow, IntegrationType, Secrets
from models.notifications import Medium, NotificationRow, Quiet, Template
from models.order import TimelineRow
from tests.api import bearer
from tests.integration.test_exceptions import a_parcel
from tests.serving import served


def free_port() -> int:
    with socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


pytestmark = pytest.mark.usefixtures("database")
NOW = datetime.now(UTC)
SECRET = "whsec_" + b64encode(b"0123456789abcdef0123456789abcdef").decode()
HEARD: list[tuple[str, dict[str, str], bytes]] = []
ANSWERS: list[Response] = []


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def hear(path: str, request: Request) -> Response:
        told = dict(request.headers) | {"query": str(request.query_params)}
        HEARD.append((path, told, await request.body()))
        return ANSWERS.pop(0) if ANSWERS else JSONResponse({"errcode": 0, "code": 0, "Code": "OK"})

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _afresh() -> AsyncIterator[None]:
    HEARD.clear()
    ANSWERS.clear()
    accounts.clear_cache()
    yield
    await http.close()


async def ours(medium: str, url: str, secrets: dict[str, str] | None = None, **settings: Any) -> None:
    async with transaction() as connection:
        row = {"integration": IntegrationType.MEDIA, "source": medium, "account": "main", "base_url": url}
        kept = {"secrets": Secrets(values=secrets or {}), "settings": {"lang": "en", **settings}}
        await connection.execute(insert(AccountRow).values(row | kept))
    await delivery.notify()


async def words(event: str, medium: str, body: str, **more: Any) -> None:
    told = {"event": event, "medium": medium, "body": body, "lang": "en", **more}
    async with transaction() as connection:
        await delivery.save_template(connection, Template.model_validate(told))


async def happened(what: str, number: str = "1", **detail: Any) -> str:
    """A line on the timeline of an order."""
    parcel = await a_parcel(number)
    order_id = parcel.rpartition(":")[0]
    line = {"order_id": order_id, "key": what, "at": datetime.now(UTC), "what": f"timeline.{what}", "actor": "hengdan"}
    async with transaction() as connection:
        await connection.execute(insert(TimelineRow).values(line | {"detail": detail}))
    return order_id


async def log() -> list[tuple[str, str]]:
    async with transaction() as connection:
        rows = (await connection.execute(select(NotificationRow).order_by(NotificationRow.id))).all()
    return [(row.state, row.outcome) for row in rows]


async def test_a_subscriber_is_told_once_signed_and_knows_a_repetition(outside: str) -> None:
    await ours("webhook", f"{outside}/hook", {"secret": SECRET})
    await words("shipped", "webhook", "Order {order_no} left with {carrier} {waybill_no}.")
    await happened("shipped", carrier="sf", waybill_no="SF1")
    for _ in range(3):
        await delivery.notify()
    ((path, headers, body),) = HEARD
    told = Webhook(SECRET).verify(body.decode(), headers)
    assert (path, told["type"], told["data"]["text"]) == ("hook", "shipped", "Order 1 left with sf SF1.")
    assert await log() == [("sent", "")]
    async with transaction() as connection:
        (kept,) = await connection.scalars(select(NotificationRow.id))
        assert await delivery.resend(connection, kept)
    await delivery.notify()
    assert [each[1]["webhook-id"] for each in HEARD] == [kept, kept]


async def test_what_could_not_be_sent_is_tried_again_later_and_given_up_in_the_end(outside: str) -> None:
    await ours("webhook", f"{outside}/hook", {"secret": SECRET})
    await words("shipped", "webhook", "x")
    await happened("shipped")
    ANSWERS.extend([Response(status_code=500), Response(status_code=410)])
    await delivery.notify()
    assert await log() == [("waiting", "Unavailable")] or (await log())[0][0] == "waiting"
    await delivery.notify()
    assert len(HEARD) == 1
    async with transaction() as connection:
        await connection.execute(update(NotificationRow).values(next_at=NOW))
    await delivery.notify()
    assert await log() == [("failed", "410")]


async def test_staff_hear_of_exceptions_in_their_chats_each_signed_its_way(outside: str) -> None:
    await ours("dingtalk", f"{outside}/ding", {"access_token": "t", "secret": "SEC1"})
    await ours("wecom", f"{outside}/wecom", {"key": "k"})
    await ours("feishu", f"{outside}/feishu", {"secret": "fs"})
    for medium in ("dingtalk", "wecom", "feishu"):
        await words("exception.opened", medium, "{fulfillment} of {order_no}: {kind}, {owner}", subject="Exception")
    await a_parcel(scanned_at=NOW, scan_status="lost")
    await exceptions.watch_exceptions()
    await delivery.notify()
    await delivery.notify()
    heard = {path: (headers, json.loads(body)) for path, headers, body in HEARD}
    assert set(heard) == {"ding", "wecom", "feishu"}
    assert len(HEARD) == 3
    query = dict(parse_qsl(heard["ding"][0]["query"]))
    expected = hmac.digest(b"SEC1", f"{query['timestamp']}\nSEC1".encode(), "sha256")
    assert (query["access_token"], query["sign"]) == ("t", b64encode(expected).decode())
    assert heard["wecom"][1]["markdown"]["content"] == "**Exception**\nF1 of 1: lost, logistics"
    assert heard["feishu"][1]["sign"]


async def test_email_reaches_a_real_server(outside: str) -> None:
    class Handler:
        mails: list[Any] = []

        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            self.mails.append(envelope)
            return "250 OK"

    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        url = f"smtp://127.0.0.1:{controller.port}"
        await ours("email", url, sender="shop@example.com", to="ops@example.com")
        await words("tracking.lost", "email", "包裹 {waybill_no} 丢失", subject="异常 {order_no}")
        await happened("tracking.lost", waybill_no="SF1")
        await delivery.notify()
    finally:
        controller.stop()
    (mail,) = Handler.mails
    assert (mail.mail_from, mail.rcpt_tos) == ("shop@example.com", ["ops@example.com"])
    assert await log() == [("sent", "")]


async def test_a_server_that_is_away_is_tried_again() -> None:
    await ours("email", f"smtp://127.0.0.1:{free_port()}", sender="a@example.com", to="b@example.com")
    await words("shipped", "email", "x", subject="y")
    await happened("shipped")
    await delivery.notify()
    assert (await log())[0][0] == "waiting"


async def test_a_buyer_is_told_by_text_unless_he_wants_none(outside: str) -> None:
    await ours("sms", f"{outside}/sms", {"access_key_id": "id", "access_key_secret": "key"}, to="13900139000")
    await words("shipped", "sms", '{"waybill":"{waybill_no}"}', subject="SMS_1")
    await happened("shipped", waybill_no="SF1")
    await delivery.notify()
    ((_, _, body),) = HEARD
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    signature = form.pop("Signature")
    assert signature == sms.sign(form, "key")
    assert (form["PhoneNumbers"], form["TemplateParam"]) == ("13900139000", '{"waybill":"SF1"}')
    async with transaction() as connection:
        await delivery.opt_out(connection, "13900139000", "mei")
    await happened("shipped", "2")
    await delivery.notify()
    assert len(HEARD) == 1
    assert sorted(await log()) == [("sent", ""), ("skipped", "opted_out")]


def test_the_signature_of_aliyun_is_that_of_its_published_example() -> None:
    params = {
        "TimeStamp": "2016-02-23T12:46:24Z",
        "Format": "XML",
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "Version": "2014-05-26",
        "SignatureVersion": "1.0",
    }
    params["Timestamp"] = params.pop("TimeStamp")
    assert sms.sign(params, "testsecret", "GET") == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


async def test_the_shops_own_words_count_before_those_for_all(outside: str) -> None:
    await ours("wecom", f"{outside}/wecom", {"key": "k"})
    await words("shipped", "wecom", "all")
    await words("shipped", "wecom", "own", shop="own:web")
    await words("shipped", "wecom", "other", shop="own:else")
    await happened("shipped")
    await delivery.notify()
    assert [json.loads(body)["markdown"]["content"] for _, _, body in HEARD] == ["own"]


async def test_a_message_lost_under_way_is_told_again_only_where_that_is_harmless(outside: str) -> None:
    await ours("webhook", f"{outside}/hook", {"secret": SECRET})
    await ours("sms", f"{outside}/sms", {"access_key_id": "id", "access_key_secret": "key"}, to="13900139000")
    await words("shipped", "webhook", "x")
    await words("shipped", "sms", "{}", subject="SMS_1")
    await happened("shipped")
    async with transaction() as connection:
        await delivery._make(connection)
        await connection.execute(update(NotificationRow).values(state="sending", next_at=NOW - timedelta(minutes=1)))
    await delivery.notify()
    assert [path for path, _, _ in HEARD] == ["hook"]
    assert sorted(await log()) == [("sent", ""), ("unknown", "lost")]


async def test_what_is_told_late_of_long_ago_is_told_still(outside: str) -> None:
    await happened("shipped", "0")
    await ours("wecom", f"{outside}/wecom", {"key": "k"})
    await words("shipped", "wecom", "{order_no}")
    order_id = await happened("shipped", "1")
    async with transaction() as connection:
        long_ago = update(TimelineRow).where(TimelineRow.order_id == order_id)  # type: ignore[arg-type]
        await connection.execute(long_ago.values(at=NOW - timedelta(days=3)))
    for _ in range(2):
        await delivery.notify()
    assert "1" in [json.loads(body)["markdown"]["content"] for _, _, body in HEARD]
    assert len({body for _, _, body in HEARD}) == len(HEARD)


async def test_one_account_that_is_wrong_keeps_no_other_waiting(outside: str) -> None:
    await ours("wecom", f"{outside}/wecom", {}, quiet="never")
    await ours("dingtalk", f"{outside}/ding", {})
    await ours("feishu", f"{outside}/feishu", {})
    for medium in ("wecom", "dingtalk", "feishu"):
        await words("shipped", medium, "x")
    await happened("shipped")
    await delivery.notify()
    assert [path for path, _, _ in HEARD] == ["feishu"]
    assert sorted(await log()) == [("failed", "KeyError"), ("sent", ""), ("waiting", "")]


async def test_what_is_under_way_is_not_sent_once_more(outside: str) -> None:
    await ours("webhook", f"{outside}/hook", {"secret": SECRET})
    await words("shipped", "webhook", "x")
    await happened("shipped")
    async with transaction() as connection:
        await delivery._make(connection)
        (waiting,) = await connection.scalars(select(NotificationRow.id))
        assert not await delivery.resend(connection, waiting)


def test_nobody_is_woken() -> None:
    quiet = Quiet(since=time(22), until=time(8))
    evening = datetime(2026, 11, 11, 23, tzinfo=CHINA)
    assert quiet.ends(evening).astimezone(CHINA) == datetime(2026, 11, 12, 8, tzinfo=CHINA)
    assert quiet.ends(datetime(2026, 11, 11, 3, tzinfo=CHINA)) == datetime(2026, 11, 11, 8, tzinfo=CHINA)
    noon = datetime(2026, 11, 11, 12, tzinfo=CHINA)
    assert quiet.ends(noon) == noon


async def test_words_are_kept_by_staff_and_name_only_facts(door: httpx.AsyncClient) -> None:
    staff = await bearer(Scope.STAFF)
    told = {"event": "shipped", "medium": Medium.SMS.value, "body": "{name}", "lang": "en"}
    answer = await door.put("/notifications/templates", json=told, headers=staff)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body")
    assert (await door.put("/notifications/templates", json=told | {"body": "hi"}, headers=staff)).status_code == 200
    kept = (await door.get("/notifications/templates", headers=staff)).json()
    assert [each["body"] for each in kept if each["medium"] == "sms"] == ["hi"]
    assert {each["medium"] for each in kept} == {"sms", "email", "webhook", "dingtalk", "wecom", "feishu"}
    path = "/notifications/templates?event=shipped&medium=sms&lang=en"
    assert (await door.delete(path, headers=staff)).status_code == 204
    assert (await door.delete(path, headers=staff)).status_code == 404
    assert (await door.get("/notifications", headers=staff)).json() == []
    assert (await door.post("/notifications/replay", json={"id": "none"}, headers=staff)).status_code == 404
