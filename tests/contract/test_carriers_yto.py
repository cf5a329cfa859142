"""YTO's wire format: signature, good and bad responses, pushes."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from hashlib import md5
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import carrier
from activities.carriers.yto import sign
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.fulfillment import FulfillmentLine, Label, TrackingStatus
from models.intake import Account, IntegrationType
from tests.contract.test_carriers_sf import a_booking, refusal
from tests.serving import served

RESPONSES: dict[str, Any] = {}
REQUESTS: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/open/{path:path}")
    async def interface(path: str, request: Request) -> Response:
        REQUESTS.append((path, await request.json()))
        return Response(RESPONSES["body"])

    with served(app) as url:
        yield f"{url}/open"


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


def account(url: str = "http://127.0.0.1:1", **secrets: str) -> Account:
    given = {"client_id": "K21000119", "secret": "u2Z1F7Fh", "push_secret": "s3cret", **secrets}
    settings = {"path_code": "av7bfQ"}
    return Account(
        integration=IntegrationType.CARRIER,
        source="yto",
        account="main",
        base_url=url,
        secrets=given,
        settings=settings,
    )


def respond(data: Any) -> None:
    RESPONSES["body"] = json.dumps(data)


def test_signature_matches_the_published_example() -> None:
    assert sign("opentest", "", "", "123456") == "YLstCNa3x8ijQx16e/jqOA=="


async def test_booking_is_signed_for_its_interface(gateway: str) -> None:
    respond({"logisticsNo": "W1-F1-abc", "mailNo": "YT2819000000001", "shortAddress": "800-061-00-005"})
    waybill = await carrier(account(gateway)).book(a_booking())
    assert (waybill.waybill_no, waybill.label) == ("YT2819000000001", Label(route="800-061-00-005"))
    path, request = REQUESTS[-1]
    assert path == "privacy_create_adapter/v1/av7bfQ/K21000119"
    assert request["sign"] == sign(request["param"], "privacy_create_adapter", "v1", "u2Z1F7Fh")
    assert json.loads(request["param"])["recipientMobile"] == a_booking().recipient.phone


async def test_interface_can_have_its_own_credentials(gateway: str) -> None:
    respond([])
    own = {"track_query_adapter.client_id": "TEST", "track_query_adapter.secret": "123456"}
    assert await carrier(account(gateway, **own)).track("YT1") == []
    path, request = REQUESTS[-1]
    assert path.endswith("/TEST")
    assert request["sign"] == sign('{"NUMBER":"YT1"}', "track_query_adapter", "v1", "123456")


async def test_long_list_of_goods_is_cut_to_the_limit(gateway: str) -> None:
    respond({"mailNo": "YT1"})
    goods = tuple(FulfillmentLine(line_no=str(n), sku=f"A{n:03}", quantity=1) for n in range(30))
    await carrier(account(gateway)).book(a_booking().model_copy(update={"goods": goods}))
    assert len(json.loads(REQUESTS[-1][1]["param"])["goods"]) == 20


async def test_refusal_is_final_and_holds_no_personal_data(gateway: str) -> None:
    respond({"success": False, "code": 200010003, "reason": "recipientMobile 13812345678 不正确"})
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.message) == ("Refused", "error.refused?vendor=yto&code=200010003")


@pytest.mark.parametrize("body", ["", "<html>", "7"])
async def test_malformed_response_is_retryable(gateway: str, body: str) -> None:
    RESPONSES["body"] = body
    for act in (carrier(account(gateway)).book(a_booking()), carrier(account(gateway)).track("YT1")):
        assert (await refusal(act)).type == "Unavailable"


@pytest.mark.parametrize("reason", ["订单不存在", "订单已取消"])
async def test_cancelling_twice_or_without_a_booking_is_no_error(gateway: str, reason: str) -> None:
    respond({"success": False, "code": 1, "reason": reason})
    await carrier(account(gateway)).cancel("W1")


async def test_cancelling_after_pickup_is_refused(gateway: str) -> None:
    respond({"success": False, "code": 7, "reason": "快件已揽收"})
    assert (await refusal(carrier(account(gateway)).cancel("W1"))).details[0] == "7"


async def test_unknown_number_has_no_scans(gateway: str) -> None:
    respond({"map": {"YT1": []}, "code": "1001", "success": "true", "message": "查询结果为空。"})
    assert not await carrier(account(gateway)).track("YT1")


async def test_each_step_of_a_parcel_is_a_scan(gateway: str) -> None:
    step = {
        "waybill_No": "YT2000000000000",
        "upload_Time": "2023-04-24 20:37:33",
        "infoContent": "GOT",
        "processInfo": "您的快件被【义乌市】揽收,揽收人: 张三 (13700000000)",
        "city": "金华市",
        "district": "义乌市",
        "weight": 0.68,
    }
    respond([step, {**step, "infoContent": "TMS_MYSTERY"}])
    first, second = await carrier(account(gateway)).track("YT2000000000000")
    assert (first.status, first.at) == (TrackingStatus.PICKED_UP, datetime(2023, 4, 24, 12, 37, 33, tzinfo=UTC))
    assert "张三" not in first.text
    assert "137" not in first.text
    assert (second.status, second.code) == (None, "TMS_MYSTERY")


# Pushes


def push(secret: str = "u2Z1F7Fh", **changes: str) -> bytes:
    fields = {
        "logisticProviderID": "YTO",
        "clientID": "K21000119",
        "mailNo": "YT2000000000000",
        "txLogisticID": "W1-F1-abc",
        "infoType": "STATUS",
        "infoContent": "GOT",
        "remark": "揽收",
        "name": "",
        "acceptTime": "2023-04-24 20:37:33",
        **changes,
    }
    xml = "<UpdateInfo>" + "".join(f"<{name}>{value}</{name}>" for name, value in fields.items()) + "</UpdateInfo>"
    digest = b64encode(md5((xml + secret).encode()).digest()).decode()
    return urlencode({"logistics_interface": xml, "data_digest": digest, "clientId": "K21000119"}).encode()


@pytest.mark.parametrize(
    ("code", "more", "status"),
    [
        ("GOT", {}, TrackingStatus.PICKED_UP),
        ("ARRIVAL", {}, TrackingStatus.IN_TRANSIT),
        ("FORWARDING", {}, TrackingStatus.IN_TRANSIT),
        ("SENT_SCAN", {}, TrackingStatus.OUT_FOR_DELIVERY),
        ("INBOUND", {}, TrackingStatus.READY_FOR_PICKUP),
        ("SIGNED", {"name": "本人"}, TrackingStatus.DELIVERED),
        ("SIGNED", {"name": "退件"}, TrackingStatus.RETURNED),
        ("FAILED", {"remark": "无人"}, TrackingStatus.DELIVERY_FAILED),
        ("FAILED", {"remark": "收方客户拒收"}, TrackingStatus.REFUSED),
        ("TMS_RETURN", {}, TrackingStatus.RETURNING),
        ("NOT_SEND", {}, None),
    ],
)
def test_codes_map_to_statuses_and_unknown_codes_are_kept(
    code: str, more: dict[str, str], status: TrackingStatus | None
) -> None:
    (scan,) = carrier(account()).parse_push(push(infoContent=code, **more), {})
    assert (scan.waybill_no, scan.status, scan.code) == ("YT2000000000000", status, code)
    assert scan.at == datetime(2023, 4, 24, 12, 37, 33, tzinfo=UTC)


def test_push_of_another_kind_yields_no_scan() -> None:
    assert carrier(account()).parse_push(push(infoType="WEIGHT"), {}) == ()


def test_acknowledgement_names_the_order_of_the_push() -> None:
    answer = carrier(account()).answer({}, push(txLogisticID="A&amp;B")).body.decode()
    assert "<txLogisticID>A&amp;B</txLogisticID><success>true</success>" in answer


def test_push_is_verified_by_secret_and_digest() -> None:
    ours = carrier(account())
    assert ours.receive({}, push(), "s3cret").fact_key
    for body, secret in ((push(), "wrong"), (push("other"), "s3cret"), (b"", "s3cret"), (b"\xff", "s3cret")):
        with pytest.raises(Unauthentic):
            ours.receive({}, body, secret)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (push(mailNo=""), "mailNo"),
        (push(acceptTime="?"), "acceptTime"),
        (push(infoContent=""), "infoContent"),
        (b"x", "body"),
    ],
)
def test_malformed_push_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        carrier(account()).parse_push(body, {})
    assert caught.value.field == field
