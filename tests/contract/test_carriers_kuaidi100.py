"""Kuaidi100's wire format: signatures, good and bad responses, pushes."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import Aggregator, carrier, tracker
from activities.carriers.kuaidi100 import sign
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.exceptions import ExceptionKind
from models.fulfillment import TrackingStatus
from models.intake import Account, IntegrationType
from starter.sandbox.app import create_app
from starter.sandbox.carriers import kuaidi100 as twin
from tests.contract.test_carriers_sf import refusal
from tests.serving import served

RESPONSES: dict[str, Any] = {}
"""The responses of the gateway, by path."""
REQUESTS: list[tuple[str, dict[str, str]]] = []
STEP = {
    "time": "2020-11-28 14:32:37",
    "ftime": "2020-11-28 14:32:37",
    "context": "【深圳市】您的快件已签收,签收人：保安室,如有疑问请电联快递员：刘东【13700000000】。",
    "status": "签收",
    "areaCode": "CN440306005000",
    "areaName": "广东,深圳市,宝安区,沙井",
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def interface(path: str, request: Request) -> Response:
        form = await request.form()
        REQUESTS.append((path, {name: str(value) for name, value in form.items()}))
        return Response(json.dumps(RESPONSES[path]))

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


def account(url: str = "http://127.0.0.1:1", **settings: Any) -> Account:
    secrets = {"customer": "CUSTOMER", "key": "KEY", "salt": "SALT", "push_secret": "s3cret"}
    return Account(
        integration=IntegrationType.CARRIER,
        source="kuaidi100",
        account="main",
        base_url=url,
        secrets=secrets,
        settings=settings,
    )


def ours(url: str = "http://127.0.0.1:1", **settings: Any) -> Aggregator:
    aggregator = tracker(account(url, **settings))
    assert isinstance(aggregator, Aggregator)
    return aggregator


def test_signature_matches_the_official_demos() -> None:
    """Computed with the demos, because no example is published."""
    param = '{"com":"yuantong","num":"YT6186594166532"}'
    assert sign(param, "KEY", "CUSTOMER") == "1BC4EEA196CD92A5A1E0765CA8B57B05"


async def test_booking_is_not_supported() -> None:
    with pytest.raises(Exception, match="does_not_book"):
        carrier(account())


async def test_subscription_has_the_company_salt_and_push_url(gateway: str) -> None:
    RESPONSES["poll"] = {"result": True, "returnCode": "200", "message": "提交成功"}
    await ours(gateway).subscribe("YT1", "yto", "0000", "https://oms.example/push")
    path, form = REQUESTS[-1]
    assert (path, form["schema"]) == ("poll", "json")
    parameters = json.loads(form["param"])
    assert (parameters["company"], parameters["number"], parameters["key"]) == ("yuantong", "YT1", "KEY")
    assert parameters["parameters"]["callbackurl"] == "https://oms.example/push"
    assert (parameters["parameters"]["salt"], parameters["parameters"]["phone"]) == ("SALT", "0000")


async def test_settings_can_add_a_company(gateway: str) -> None:
    RESPONSES["poll"] = {"result": True, "returnCode": "200"}
    added = ours(gateway, carrier_codes={"debang": "debangkuaidi"})
    await added.subscribe("DPK1", "debang", "", "https://oms.example/push")
    assert json.loads(REQUESTS[-1][1]["param"])["company"] == "debangkuaidi"
    RESPONSES["autonumber/auto"] = [{"comCode": "debangkuaidi", "lengthPre": 4}]
    assert await added.candidate_carriers("DPK1") == ["debang"]


@pytest.mark.parametrize(("code", "kind"), [("500", "Unavailable"), ("600", "Refused"), ("700", "Refused")])
async def test_refused_subscription_is_classified(gateway: str, code: str, kind: str) -> None:
    RESPONSES["poll"] = {"result": False, "returnCode": code, "message": "13812345678"}
    error = await refusal(ours(gateway).subscribe("YT1", "yto", "", "https://oms.example/push"))
    assert error.type == kind
    assert code in error.message
    assert "138" not in error.message


async def test_query_tries_each_candidate_carrier(gateway: str) -> None:
    RESPONSES["autonumber/auto"] = [{"comCode": "shentong"}, {"comCode": "zhongtong"}]
    RESPONSES["poll/query.do"] = {"result": False, "returnCode": "500", "message": "查询无结果"}
    REQUESTS.clear()
    assert await ours(gateway).track("77300", "0000") == ()
    queries = [form for path, form in REQUESTS if path == "poll/query.do"]
    assert [json.loads(form["param"])["com"] for form in queries] == ["shentong", "zhongtong"]
    assert queries[0]["sign"] == sign(queries[0]["param"], "KEY", "CUSTOMER")
    assert queries[0]["customer"] == "CUSTOMER"


@pytest.mark.parametrize(
    ("code", "kind"),
    [("408", "Refused"), ("501", "Unavailable"), ("502", "Unavailable"), ("503", "Refused"), ("", "Refused")],
)
async def test_refused_query_is_classified(gateway: str, code: str, kind: str) -> None:
    RESPONSES["autonumber/auto"] = [{"comCode": "shunfeng"}]
    RESPONSES["poll/query.do"] = {"result": False, "returnCode": code, "message": "13812345678"}
    assert (await refusal(ours(gateway).track("SF1"))).type == kind


async def test_invalid_number_has_no_carrier(gateway: str) -> None:
    RESPONSES["autonumber/auto"] = {"result": False, "returnCode": "201", "message": "单号不合规"}
    assert await ours(gateway).candidate_carriers("?") == []
    RESPONSES["autonumber/auto"] = {"result": False, "returnCode": "601", "message": "key过期"}
    assert (await refusal(ours(gateway).candidate_carriers("?"))).message == "carrier.kuaidi100.601"


@pytest.mark.parametrize("body", ["<html>", 7, [{"nothing": 1}]])
async def test_malformed_response_is_retryable(gateway: str, body: Any) -> None:
    RESPONSES["autonumber/auto"] = body
    assert (await refusal(ours(gateway).track("YT1"))).type == "Unavailable"


# Pushes


def push(*steps: dict[str, Any], salt: str = "SALT", **more: Any) -> bytes:
    result = {"message": "ok", "nu": "4310508235533", "ischeck": "1", "com": "yunda", "state": "3", "data": list(steps)}
    payload = {"status": "polling", "message": "变化", "comOld": "", "comNew": "", "lastResult": result, **more}
    param = json.dumps(payload, ensure_ascii=False)
    return urlencode({"sign": sign(param, salt), "param": param}).encode()


def test_captured_step_becomes_a_scan() -> None:
    (scan,) = ours().parse_push(push(STEP), {})
    assert (scan.waybill_no, scan.status, scan.code) == ("4310508235533", TrackingStatus.DELIVERED, "3")
    assert scan.at == datetime(2020, 11, 28, 6, 32, 37, tzinfo=UTC)
    assert scan.place == "广东,深圳市,宝安区,沙井"
    for personal in ("137", "保安室", "刘东"):
        assert personal not in scan.text


@pytest.mark.parametrize(
    ("code", "words", "status", "exception"),
    [
        ("101", "", TrackingStatus.LABEL_CREATED, None),
        ("103", "", TrackingStatus.PICKED_UP, None),
        ("1002", "", TrackingStatus.IN_TRANSIT, None),
        ("1001", "", TrackingStatus.AT_DESTINATION, None),
        ("5", "", TrackingStatus.OUT_FOR_DELIVERY, None),
        ("501", "", TrackingStatus.READY_FOR_PICKUP, None),
        ("205", "", TrackingStatus.READY_FOR_PICKUP, ExceptionKind.STUCK),
        ("304", "", TrackingStatus.DELIVERED, None),
        ("3", "退回件已签收", TrackingStatus.RETURNED, None),
        ("201", "", TrackingStatus.IN_TRANSIT, ExceptionKind.LATE),
        ("202", "", TrackingStatus.IN_TRANSIT, ExceptionKind.NO_MOVEMENT),
        ("204", "收件人地址不详", TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS),
        ("2", "快件丢失", TrackingStatus.LOST, None),
        ("2", "外包装破损", TrackingStatus.DAMAGED, None),
        ("2", "收件人拒收", TrackingStatus.REFUSED, None),
        ("2", "", TrackingStatus.DELIVERY_FAILED, None),
        ("203", "", TrackingStatus.REFUSED, None),
        ("14", "", TrackingStatus.REFUSED, None),
        ("6", "", TrackingStatus.RETURNING, None),
        ("4", "", TrackingStatus.RETURNED, None),
        ("13", "", TrackingStatus.HELD_IN_CUSTOMS, None),
        ("12", "", TrackingStatus.IN_TRANSIT, None),
        ("599", "", None, None),
    ],
)
def test_codes_map_to_statuses_and_unknown_codes_are_kept(
    code: str, words: str, status: TrackingStatus | None, exception: ExceptionKind | None
) -> None:
    (scan,) = ours().parse_push(push({**STEP, "statusCode": code, "status": "?", "context": words}), {})
    assert (scan.code, scan.status, scan.exception) == (code, status, exception)


def test_step_with_a_changed_code_is_the_same_scan() -> None:
    (first,) = ours().parse_push(push({**STEP, "statusCode": "3"}), {})
    (again,) = ours().parse_push(push({**STEP, "statusCode": "301"}), {})
    (other,) = ours().parse_push(push({**STEP, "context": "另一条"}), {})
    assert first.scan_id == again.scan_id != other.scan_id


def test_parcel_sent_abroad_has_two_traces() -> None:
    abroad = {"nu": "OTHER", "data": [{**STEP, "context": "Delivered"}]}
    scans = ours().parse_push(push(STEP, destResult=abroad), {})
    assert [scan.waybill_no for scan in scans] == ["4310508235533"] * 2


@pytest.mark.parametrize("status", ["shutdown", "abort", "updateall", "polling"])
def test_topic_is_the_status_of_the_subscription(status: str) -> None:
    assert ours().receive({}, push(STEP, status=status), "s3cret").topic == status


@pytest.mark.parametrize("result", [None, "", {}, {"nu": "1", "data": None}])
def test_aborted_subscription_without_a_trace_yields_no_scan(result: Any) -> None:
    body = push(status="abort", message="3天查询无记录", lastResult=result)
    assert ours().receive({}, body, "s3cret").topic == "abort"
    assert ours().parse_push(body, {}) == ()


def test_push_is_verified_by_secret_and_signature() -> None:
    assert ours().receive({}, push(STEP), "s3cret").fact_key
    for body, secret in ((push(STEP), "wrong"), (push(STEP, salt="OTHER"), "s3cret"), (b"", "s3cret")):
        with pytest.raises(Unauthentic):
            ours().receive({}, body, secret)


def test_push_is_acknowledged_in_the_required_format() -> None:
    body = ours().answer({}, push(STEP)).body.decode()
    assert body == '{"result":true,"returnCode":"200","message":"成功"}'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (push({**STEP, "ftime": "?"}), "lastResult.data[0].ftime"),
        (push(STEP, lastResult={"data": [STEP]}), "lastResult.nu"),
        (b"x", "body"),
    ],
)
def test_malformed_push_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        ours().parse_push(body, {})
    assert caught.value.field == field


async def test_aborted_subscription_can_be_repeated() -> None:
    """The twin aborts a subscription and accepts the next one as the first."""
    bodies: list[bytes] = []
    app = FastAPI()

    @app.post("/push")
    async def receive(request: Request) -> Response:
        bodies.append(await request.body())
        return Response(ours().answer({}, b"").body)

    with served(create_app()) as url, served(app) as push_server:
        secrets = {**twin.SECRETS, "push_secret": "s3cret"}
        followed = tracker(account(f"{url}/kuaidi100").model_copy(update={"secrets": secrets}))
        assert isinstance(followed, Aggregator)

        async def abort() -> int:
            parameters = {"url": f"{push_server}/push", "waybill_no": "YT900"}
            async with httpx.AsyncClient() as client:
                return (await client.post(f"{url}/kuaidi100/_control/abort", json=parameters)).status_code

        await followed.subscribe("YT900", "yto", "", f"{push_server}/push")
        assert [await abort(), await abort()] == [200, 404]
        (body,) = bodies
        assert followed.receive({}, body, "s3cret").topic == "abort"
        assert followed.parse_push(body, {}) == ()
        await followed.subscribe("YT900", "yto", "", f"{push_server}/push")
        assert await abort() == 200
