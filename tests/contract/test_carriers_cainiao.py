"""Cainiao's wire format: LINK's digest, numbers by TOP, good and bad responses, traces in both forms."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import carrier
from activities.carriers.cainiao import digest
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.exceptions import ExceptionKind
from models.fulfillment import Label, TrackingStatus
from models.intake import Account, IntegrationType
from tests.contract.test_carriers_sf import a_booking, refusal
from tests.serving import served
from tests.unit.orders import RECIPIENT

RESPONSES: dict[str, str] = {}
"""The responses of the gateway, by method of TOP or message type of LINK."""
REQUESTS: list[dict[str, str]] = []


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def gateways(request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        REQUESTS.append(form)
        return Response(RESPONSES[form.get("method") or form["msg_type"]])

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _fresh() -> AsyncIterator[None]:
    RESPONSES.clear()
    REQUESTS.clear()
    yield
    await http.close()


def account(url: str = "http://127.0.0.1:1", **settings: str) -> Account:
    names = ("app_key", "app_secret", "session", "link_token")
    secrets = {**{name: name for name in names}, "link_secret": "test", "push_secret": "s3cret"}
    settings = {"courier": "sto", "template_url": "http://cloudprint/t", "user_id": "12", "app_code": "hd", **settings}
    return Account(
        integration=IntegrationType.CARRIER,
        source="cainiao",
        account="main",
        base_url=url,
        secrets=secrets,
        settings=settings,
    )


def respond(interface: str, **answer: Any) -> None:
    method = f"cainiao.waybill.ii.{interface}"
    RESPONSES[method] = json.dumps({f"{method.replace('.', '_')}_response": answer})


def respond_error(interface: str, **error: Any) -> None:
    RESPONSES[f"cainiao.waybill.ii.{interface}"] = json.dumps({"error_response": {"code": 15, **error}})


def number(**more: Any) -> dict[str, Any]:
    return {"modules": {"waybill_cloud_print_response": [{"waybill_code": "777", "object_id": "W1", **more}]}}


PRINT_DATA = {
    "data": {
        "recipient": {"name": "王小明"},
        "routingInfo": {"routeCode": "380D-56-04", "consolidation": {"name": "杭州集包"}, "origin": {"name": None}},
    },
    "templateURL": "http://cloudprint/t",
}


def test_digest_matches_the_recomputed_vector() -> None:
    """Computed with the algorithm of public clients: LINK publishes no example."""
    assert digest("{}", "test") == "AaXi3Mi6H+jX60o7h//pNw=="


async def test_number_is_requested_for_the_courier_of_the_account(gateway: str) -> None:
    respond("get", **number(print_data=json.dumps(PRINT_DATA)))
    booking = a_booking().model_copy(update={"cash_on_delivery": Decimal("88.50")})
    waybill = await carrier(account(gateway)).book(booking)
    assert (waybill.carrier, waybill.waybill_no) == ("cainiao", "777")
    assert waybill.label == Label(route="380D-56-04", hub="杭州集包", url="http://cloudprint/t", courier="sto")
    query = json.loads(REQUESTS[0]["param_waybill_cloud_print_apply_new_request"])
    (order,) = query["trade_order_info_dtos"]
    assert (query["cp_code"], order["object_id"], order["user_id"]) == ("STO", "W1-F1-abc", "12")
    assert order["order_info"] == {"order_channels_type": "OTHERS", "trade_order_list": ["W1-F1-abc"]}
    assert (order["package_info"]["id"], order["package_info"]["weight"]) == ("W1_F1_abc", 1200)
    assert order["recipient"]["mobile"] == "13812345678"
    assert order["recipient"]["address"]["detail"] == "世纪大道100号3栋502"
    assert json.loads(order["logistics_services"]) == {"SVC-COD": {"value": "88.50"}}


async def test_setting_overrides_the_code_of_the_courier(gateway: str) -> None:
    respond("get", **number())
    waybill = await carrier(account(gateway, courier="jdl", cp_code="LE04284890")).book(a_booking())
    assert waybill.label == Label(courier="jdl")
    assert json.loads(REQUESTS[0]["param_waybill_cloud_print_apply_new_request"])["cp_code"] == "LE04284890"


async def test_bare_list_is_read_and_missing_number_is_an_error(gateway: str) -> None:
    respond("get", modules=[{"waybill_code": "777"}])
    assert (await carrier(account(gateway)).book(a_booking())).waybill_no == "777"
    respond("get", modules={})
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


async def test_refusal_holds_no_personal_data(gateway: str) -> None:
    respond_error("get", sub_code="isv.address-invalid", sub_msg=f"{RECIPIENT.phone} {RECIPIENT.name}")
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.details[0]) == ("Refused", "isv.address-invalid")
    assert error.message == "error.refused?vendor=cainiao&code=isv.address-invalid"


async def test_busy_platform_is_retryable_after_its_delay(gateway: str) -> None:
    respond_error("get", sub_code="isp.remote-service-timeout")
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"
    respond_error("get", code=7, sub_msg="This ban will last for 9 more seconds")
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert error.next_retry_delay is not None
    assert error.next_retry_delay.total_seconds() == 9


@pytest.mark.parametrize("modules", [7, {"waybill_cloud_print_response": [{"print_data": "{"}]}, [{}]])
async def test_malformed_response_is_retryable(gateway: str, modules: Any) -> None:
    respond("get", modules=modules)
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


def respond_to_search(*found: dict[str, Any]) -> None:
    respond("query.by.tradecode", modules={"waybill_cloud_print_with_result_desc_response": list(found)})


async def test_number_of_a_lost_response_is_found_by_reference(gateway: str) -> None:
    ours = carrier(account(gateway))
    respond_to_search({"success": False, "error_code": "NOT_EXIST"})
    assert await ours.find("W1") is None
    respond_to_search({"success": True, "waybill_cloud_print_response": {"waybill_code": "777"}})
    found = await ours.find("W1")
    assert found is not None
    assert (found.waybill_no, found.reference) == ("777", "W1")
    assert json.loads(REQUESTS[-1]["param_list"]) == [{"biz_sub_code": "W1", "object_id": "W1"}]


async def test_denied_cancellation_is_an_error_only_if_the_number_exists(gateway: str) -> None:
    ours = carrier(account(gateway))
    respond("cancel", cancel_result=False)
    respond_to_search({"success": False})
    await ours.cancel("W1", "777")
    respond_to_search({"success": True, "waybill_cloud_print_response": {"waybill_code": "777"}})
    assert (await refusal(ours.cancel("W1", "777"))).message == "carrier.cainiao.not_cancelled"
    respond("cancel", cancel_result=True)
    await ours.cancel("W1")
    assert (REQUESTS[-1]["cp_code"], REQUESTS[-1]["waybill_code"]) == ("STO", "777")


# Traces

PULL = "CNTECH_LV_LOGISTICS_DETAIL_GET"


async def test_traces_are_queried_from_link(gateway: str) -> None:
    steps = [{"time": "2024-05-01 10:00:00", "desc": "已揽收", "logisticsStatus": "ACCEPT", "areaName": "上海"}]
    RESPONSES[PULL] = json.dumps({"success": True, "fullTraceDetail": steps})
    (scan,) = await carrier(account(gateway)).track("777", "1234")
    assert (scan.waybill_no, scan.status, scan.place) == ("777", TrackingStatus.PICKED_UP, "上海")
    (form,) = REQUESTS
    assert form["data_digest"] == digest(form["logistics_interface"], "test")
    query = {"appCode": "hd", "cpCode": "STO", "mailNo": "777", "receiverPhone": "1234"}
    assert json.loads(form["logistics_interface"]) == {"arg0": query}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"success": True}, None),
        ({"success": True, "fullTraceDetail": None}, None),
        ({"success": False, "errorCode": "E1", "errorMsg": "暂无物流信息"}, None),
        ({"success": False, "errorCode": "S07", "errorMsg": "系统异常"}, "Unavailable"),
        ({"success": False, "errorCode": "S02", "errorMsg": "非法的数字签名"}, "Refused"),
        ([], "Unavailable"),
    ],
)
async def test_link_response_without_traces_is_classified(gateway: str, answer: Any, expected: str | None) -> None:
    RESPONSES[PULL] = json.dumps(answer)
    ours = carrier(account(gateway))
    if expected is None:
        assert await ours.track("777") == []
    else:
        assert (await refusal(ours.track("777"))).type == expected


STEP = {
    "operateTime": "2024-05-01 10:00:00",
    "orgName": "杭州西湖公司",
    "operateDescription": "派件员:李四,电话:13700000000",
    "status": "04",
}


def push(secret: str = "test", mail_no: str = "777", **more: Any) -> bytes:
    interface = json.dumps({"mailNo": mail_no, "operationDetails": [{**STEP, **more}]})
    form = {"msg_type": "TRACE", "logistics_interface": interface, "data_digest": digest(interface, secret)}
    return urlencode(form).encode()


def test_push_becomes_a_scan_without_phones_and_names() -> None:
    (scan,) = carrier(account()).parse_push(push(), {})
    assert (scan.waybill_no, scan.status, scan.place) == ("777", TrackingStatus.OUT_FOR_DELIVERY, "杭州西湖公司")
    assert scan.text == "派件员:***,电话:****"
    assert scan.at == datetime(2024, 5, 1, 2, tzinfo=UTC)


def test_traces_of_both_forms_are_the_same_scan() -> None:
    step = {"time": STEP["operateTime"], "desc": STEP["operateDescription"], "logisticsStatus": "04"}
    interface = json.dumps({"mailNo": "777", "fullTraceDetail": [{**step, "areaName": STEP["orgName"]}]})
    body = urlencode({"logistics_interface": interface}).encode()
    ours = carrier(account())
    assert ours.parse_push(body, {}) == ours.parse_push(push(), {})


@pytest.mark.parametrize(
    ("code", "words", "status", "problem"),
    [
        ("00", "", TrackingStatus.PICKED_UP, None),
        ("13", "", TrackingStatus.IN_TRANSIT, None),
        ("TRANSPORT", "包裹破损", TrackingStatus.IN_TRANSIT, ExceptionKind.DAMAGED),
        ("02", "快件遗失", TrackingStatus.IN_TRANSIT, ExceptionKind.LOST),
        ("03", "", TrackingStatus.AT_DESTINATION, None),
        ("AGENT_SIGN", "", TrackingStatus.READY_FOR_PICKUP, None),
        ("05", "地址错误", TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS),
        ("06", "", TrackingStatus.REFUSED, None),
        ("SIGN", "", TrackingStatus.DELIVERED, None),
        ("09", "", TrackingStatus.RETURNING, None),
        ("11", "", TrackingStatus.RETURNED, None),
        ("26", "", None, None),
        (None, "", None, None),
    ],
)
def test_codes_map_to_statuses_and_unknown_codes_are_kept(
    code: Any, words: str, status: TrackingStatus | None, problem: ExceptionKind | None
) -> None:
    (scan,) = carrier(account()).parse_push(push(status=code, operateDescription=words), {})
    assert (scan.status, scan.code, scan.exception) == (status, code or "", problem)


def test_push_is_verified_by_secret_and_digest() -> None:
    ours = carrier(account())
    assert ours.receive({}, push(), "s3cret") == ours.receive({}, push(), "s3cret")
    assert ours.answer({}, push()).body == b'{"success":true,"errorCode":"","errorMsg":""}'
    for body, secret in ((push(), "wrong"), (push("other"), "s3cret"), (b"", "s3cret"), (b"\xff", "s3cret")):
        with pytest.raises(Unauthentic):
            ours.receive({}, body, secret)


@pytest.mark.parametrize(
    ("body", "field"),
    [(push(mail_no=""), "mailNo"), (push(operateTime="?"), "operationDetails[0].operateTime"), (b"x", "body")],
)
def test_malformed_push_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        carrier(account()).parse_push(body, {})
    assert caught.value.field == field
