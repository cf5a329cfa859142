"""Notifications are sent once each, by the shop's templates, over real SMTP and HTTP."""

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
from activities.fulfillment.exceptions import watch_exceptions
from activities.kit import http
from activities.kit.database import transaction
from activities.media import sms
from activities.notifications import delivery, messages, templates
from activities.records import exceptions
from models.api_keys import Scope
from models.base import CHINA
from models.exceptions import ExceptionKind, NewException
from models.intake import AccountRow, IntegrationType, Secrets
from models.notifications import Medium, NotificationRow, QuietHours, Template
from models.order import TimelineRow
from models.vault import seal_row
from tests.api import bearer
from tests.integration.test_exceptions import a_parcel
from tests.serving import served


def free_port() -> int:
    with socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


pytestmark = pytest.mark.usefixtures("database")
NOW = datetime.now(UTC)
SECRET = "whsec_" + b64encode(b"0123456789abcdef0123456789abcdef").decode()
RECEIVED: list[tuple[str, dict[str, str], bytes]] = []
RESPONSES: list[Response] = []


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def receive(path: str, request: Request) -> Response:
        headers = dict(request.headers) | {"query": str(request.query_params)}
        RECEIVED.append((path, headers, await request.body()))
        return RESPONSES.pop(0) if RESPONSES else JSONResponse({"errcode": 0, "code": 0, "Code": "OK"})

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    RECEIVED.clear()
    RESPONSES.clear()
    accounts.clear_cache()
    yield
    await http.close()


async def add_account(medium: str, url: str, secrets: dict[str, str] | None = None, **settings: Any) -> None:
    async with transaction() as connection:
        row = {"integration": IntegrationType.MEDIA, "source": medium, "account": "main", "base_url": url}
        details = {"secrets": Secrets(values=secrets or {}), "settings": {"lang": "en", **settings}}
        await connection.execute(insert(AccountRow).values(seal_row(AccountRow, row | details)))
    await delivery.deliver()


async def add_template(event: str, medium: str, body: str, **more: Any) -> None:
    template = {"event": event, "medium": medium, "body": body, "lang": "en", **more}
    async with transaction() as connection:
        await templates.save_template(connection, Template.model_validate(template))


async def add_event(what: str, number: str = "1", **detail: Any) -> str:
    """Create an order with this entry on its timeline; return its id."""
    parcel = await a_parcel(number)
    order_id = parcel.rpartition(":")[0]
    entry = {"order_id": order_id, "key": what, "at": datetime.now(UTC), "what": f"timeline.{what}", "actor": "hengdan"}
    async with transaction() as connection:
        await connection.execute(insert(TimelineRow).values(entry | {"detail": detail}))
    return order_id


async def log() -> list[tuple[str, str]]:
    async with transaction() as connection:
        rows = (await connection.execute(select(NotificationRow).order_by(NotificationRow.id))).all()
    return [(row.state, row.outcome) for row in rows]


async def test_a_webhook_is_signed_sent_once_and_repeated_under_the_same_id(endpoint: str) -> None:
    await add_account("webhook", f"{endpoint}/hook", {"secret": SECRET})
    await add_template("shipped", "webhook", "Order {order_no} left with {carrier} {waybill_no}.")
    await add_event("shipped", carrier="sf", waybill_no="SF1")
    for _ in range(3):
        await delivery.deliver()
    ((path, headers, body),) = RECEIVED
    payload = Webhook(SECRET).verify(body.decode(), headers)
    assert (path, payload["type"], payload["data"]["text"]) == ("hook", "shipped", "Order 1 left with sf SF1.")
    assert await log() == [("sent", "")]
    async with transaction() as connection:
        (message_id,) = await connection.scalars(select(NotificationRow.id))
        assert await delivery.resend(connection, message_id)
    await delivery.deliver()
    assert [each[1]["webhook-id"] for each in RECEIVED] == [message_id, message_id]


async def test_a_failed_message_is_retried_later_and_then_fails(endpoint: str) -> None:
    await add_account("webhook", f"{endpoint}/hook", {"secret": SECRET})
    await add_template("shipped", "webhook", "x")
    await add_event("shipped")
    RESPONSES.extend([Response(status_code=500), Response(status_code=410)])
    await delivery.deliver()
    assert await log() == [("waiting", "Unavailable")] or (await log())[0][0] == "waiting"
    await delivery.deliver()
    assert len(RECEIVED) == 1
    async with transaction() as connection:
        await connection.execute(update(NotificationRow).values(next_at=NOW))
    await delivery.deliver()
    assert await log() == [("failed", "410")]


async def test_exceptions_are_posted_to_each_chat_with_its_own_signature(endpoint: str) -> None:
    await add_account("dingtalk", f"{endpoint}/ding", {"access_token": "t", "secret": "SEC1"})
    await add_account("wecom", f"{endpoint}/wecom", {"key": "k"})
    await add_account("feishu", f"{endpoint}/feishu", {"secret": "fs"})
    for medium in ("dingtalk", "wecom", "feishu"):
        await add_template(
            "exception.opened", medium, "{fulfillment} of {order_no}: {kind}, {owner}", subject="Exception"
        )
    await a_parcel(scanned_at=NOW, scan_status="lost")
    await watch_exceptions()
    await delivery.deliver()
    await delivery.deliver()
    received = {path: (headers, json.loads(body)) for path, headers, body in RECEIVED}
    assert set(received) == {"ding", "wecom", "feishu"}
    assert len(RECEIVED) == 3
    query = dict(parse_qsl(received["ding"][0]["query"]))
    expected = hmac.digest(b"SEC1", f"{query['timestamp']}\nSEC1".encode(), "sha256")
    assert (query["access_token"], query["sign"]) == ("t", b64encode(expected).decode())
    assert received["wecom"][1]["markdown"]["content"] == "**Exception**\nF1 of 1: lost, logistics"
    assert received["feishu"][1]["sign"]


async def test_email_reaches_a_real_smtp_server(endpoint: str) -> None:
    class Handler:
        mails: list[Any] = []

        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            self.mails.append(envelope)
            return "250 OK"

    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        url = f"smtp://127.0.0.1:{controller.port}"
        await add_account("email", url, sender="shop@example.com", to="ops@example.com")
        await add_template("tracking.lost", "email", "包裹 {waybill_no} 丢失", subject="异常 {order_no}")
        await add_event("tracking.lost", waybill_no="SF1")
        await delivery.deliver()
    finally:
        controller.stop()
    (mail,) = Handler.mails
    assert (mail.mail_from, mail.rcpt_tos) == ("shop@example.com", ["ops@example.com"])
    assert await log() == [("sent", "")]


async def test_an_unreachable_smtp_server_is_retried() -> None:
    await add_account("email", f"smtp://127.0.0.1:{free_port()}", sender="a@example.com", to="b@example.com")
    await add_template("shipped", "email", "x", subject="y")
    await add_event("shipped")
    await delivery.deliver()
    assert (await log())[0][0] == "waiting"


async def test_a_buyer_gets_an_sms_until_opting_out(endpoint: str) -> None:
    await add_account("sms", f"{endpoint}/sms", {"access_key_id": "id", "access_key_secret": "key"}, to="13900139000")
    await add_template("shipped", "sms", '{"waybill":"{waybill_no}"}', subject="SMS_1")
    await add_event("shipped", waybill_no="SF1")
    await delivery.deliver()
    ((_, _, body),) = RECEIVED
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    signature = form.pop("Signature")
    assert signature == sms.sign(form, "key")
    assert (form["PhoneNumbers"], form["TemplateParam"]) == ("13900139000", '{"waybill":"SF1"}')
    async with transaction() as connection:
        await templates.opt_out(connection, "13900139000", "mei")
    await add_event("shipped", "2")
    await delivery.deliver()
    assert len(RECEIVED) == 1
    assert sorted(await log()) == [("sent", ""), ("skipped", "opted_out")]


def test_the_aliyun_signature_matches_its_published_example() -> None:
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


async def test_a_shops_own_template_precedes_the_general_one(endpoint: str) -> None:
    await add_account("wecom", f"{endpoint}/wecom", {"key": "k"})
    await add_template("shipped", "wecom", "all")
    await add_template("shipped", "wecom", "own", shop="own:web")
    await add_template("shipped", "wecom", "other", shop="own:else")
    await add_event("shipped")
    await delivery.deliver()
    assert [json.loads(body)["markdown"]["content"] for _, _, body in RECEIVED] == ["own"]


async def test_an_interrupted_message_is_sent_again_only_to_webhooks(endpoint: str) -> None:
    await add_account("webhook", f"{endpoint}/hook", {"secret": SECRET})
    await add_account("sms", f"{endpoint}/sms", {"access_key_id": "id", "access_key_secret": "key"}, to="13900139000")
    await add_template("shipped", "webhook", "x")
    await add_template("shipped", "sms", "{}", subject="SMS_1")
    await add_event("shipped")
    async with transaction() as connection:
        await messages.create_messages(connection)
        await connection.execute(update(NotificationRow).values(state="sending", next_at=NOW - timedelta(minutes=1)))
    await delivery.deliver()
    assert [path for path, _, _ in RECEIVED] == ["hook"]
    assert sorted(await log()) == [("sent", ""), ("unknown", "lost")]


async def test_a_late_entry_with_an_old_time_is_still_sent(endpoint: str) -> None:
    await add_event("shipped", "0")
    await add_account("wecom", f"{endpoint}/wecom", {"key": "k"})
    await add_template("shipped", "wecom", "{order_no}")
    order_id = await add_event("shipped", "1")
    async with transaction() as connection:
        long_ago = update(TimelineRow).where(TimelineRow.order_id == order_id)  # type: ignore[arg-type]
        await connection.execute(long_ago.values(at=NOW - timedelta(days=3)))
    for _ in range(2):
        await delivery.deliver()
    assert "1" in [json.loads(body)["markdown"]["content"] for _, _, body in RECEIVED]
    assert len({body for _, _, body in RECEIVED}) == len(RECEIVED)


async def test_a_broken_account_does_not_delay_the_others(endpoint: str) -> None:
    await add_account("wecom", f"{endpoint}/wecom", {}, quiet="never")
    await add_account("dingtalk", f"{endpoint}/ding", {})
    await add_account("feishu", f"{endpoint}/feishu", {})
    for medium in ("wecom", "dingtalk", "feishu"):
        await add_template("shipped", medium, "x")
    await add_event("shipped")
    await delivery.deliver()
    assert [path for path, _, _ in RECEIVED] == ["feishu"]
    assert sorted(await log()) == [("failed", "KeyError"), ("sent", ""), ("waiting", "")]


async def test_a_message_in_progress_cannot_be_resent(endpoint: str) -> None:
    await add_account("webhook", f"{endpoint}/hook", {"secret": SECRET})
    await add_template("shipped", "webhook", "x")
    await add_event("shipped")
    async with transaction() as connection:
        await messages.create_messages(connection)
        (waiting,) = await connection.scalars(select(NotificationRow.id))
        assert not await delivery.resend(connection, waiting)


def test_quiet_hours_postpone_messages_to_their_end() -> None:
    quiet = QuietHours(since=time(22), until=time(8))
    evening = datetime(2026, 11, 11, 23, tzinfo=CHINA)
    assert quiet.next_allowed(evening).astimezone(CHINA) == datetime(2026, 11, 12, 8, tzinfo=CHINA)
    assert quiet.next_allowed(datetime(2026, 11, 11, 3, tzinfo=CHINA)) == datetime(2026, 11, 11, 8, tzinfo=CHINA)
    noon = datetime(2026, 11, 11, 12, tzinfo=CHINA)
    assert quiet.next_allowed(noon) == noon


async def test_staff_edit_templates_that_name_known_facts_only(api: httpx.AsyncClient) -> None:
    staff = await bearer(Scope.STAFF)
    template = {"event": "shipped", "medium": Medium.SMS.value, "body": "{name}", "lang": "en"}
    response = await api.put("/notifications/templates", json=template, headers=staff)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "body")
    changed = template | {"body": "hi"}
    assert (await api.put("/notifications/templates", json=changed, headers=staff)).status_code == 200
    saved = (await api.get("/notifications/templates", headers=staff)).json()
    assert [each["body"] for each in saved if each["medium"] == "sms"] == ["hi"]
    assert {each["medium"] for each in saved} == {"sms", "email", "webhook", "dingtalk", "wecom", "feishu"}
    path = "/notifications/templates?event=shipped&medium=sms&lang=en"
    assert (await api.delete(path, headers=staff)).status_code == 204
    assert (await api.delete(path, headers=staff)).status_code == 404
    assert (await api.get("/notifications", headers=staff)).json() == []
    assert (await api.post("/notifications/replay", json={"id": "none"}, headers=staff)).status_code == 404


async def test_exception_without_an_order_is_posted(endpoint: str) -> None:
    await add_account("feishu", f"{endpoint}/feishu", {"secret": "fs"})
    low = NewException(
        key="low_stock:GZ:A001",
        kind=ExceptionKind.LOW_STOCK,
        warehouse="GZ",
        detail={"sku": "A001", "available": 2, "below": 5},
    )
    async with transaction() as connection:
        await exceptions.open_all(connection, [low])
    await delivery.deliver()
    ((_, _, body),) = RECEIVED
    assert "Only 2 of A001 left at GZ, fewer than 5. Owner: purchasing." in body.decode()
