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

SAID: dict[str, str] = {}
"""What is answered, by method of TOP or type of LINK's message."""
HEARD: list[dict[str, str]] = []


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def gateways(request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        HEARD.append(form)
        return Response(SAID[form.get("method") or form["msg_type"]])

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _fresh() -> AsyncIterator[None]:
    SAID.clear()
    HEARD.clear()
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


def said(interface: str, **answer: Any) -> None:
    method = f"cainiao.waybill.ii.{interface}"
    SAID[method] = json.dumps({f"{method.replace('.', '_')}_response": answer})


def failed(interface: str, **error: Any) -> None:
    SAID[f"cainiao.waybill.ii.{interface}"] = json.dumps({"error_response": {"code": 15, **error}})


def number(**more: Any) -> dict[str, Any]:
    return {"modules": {"waybill_cloud_print_response": [{"waybill_code": "777", "object_id": "W1", **more}]}}


PRINT_DATA = {
    "data": {
        "recipient": {"name": "王小明"},
        "routingInfo": {"routeCode": "380D-56-04", "consolidation": {"name": "杭州集包"}, "origin": {"name": None}},
    },
    "templateURL": "http://cloudprint/t",
}


def test_the_digest_is_that_of_the_recomputed_vector() -> None:
    """Computed from the algorithm as public clients write it: LINK publishes no worked example."""
    assert digest("{}", "test") == "AaXi3Mi6H+jX60o7h//pNw=="


async def test_a_number_is_asked_for_the_courier_of_the_account(gateway: str) -> None:
    said("get", **number(print_data=json.dumps(PRINT_DATA)))
    booking = a_booking().model_copy(update={"cash_on_delivery": Decimal("88.50")})
    waybill = await carrier(account(gateway)).book(booking)
    assert (waybill.carrier, waybill.waybill_no) == ("cainiao", "777")
    assert waybill.label == Label(route="380D-56-04", hub="杭州集包", url="http://cloudprint/t", courier="sto")
    asked = json.loads(HEARD[0]["param_waybill_cloud_print_apply_new_request"])
    (order,) = asked["trade_order_info_dtos"]
    assert (asked["cp_code"], order["object_id"], order["user_id"]) == ("STO", "W1-F1-abc", "12")
    assert order["order_info"] == {"order_channels_type": "OTHERS", "trade_order_list": ["W1-F1-abc"]}
    assert (order["package_info"]["id"], order["package_info"]["weight"]) == ("W1_F1_abc", 1200)
    assert order["recipient"]["mobile"] == "13812345678"
    assert order["recipient"]["address"]["detail"] == "世纪大道100号3栋502"
    assert json.loads(order["logistics_services"]) == {"SVC-COD": {"value": "88.50"}}


async def test_a_code_that_is_not_the_couriers_name_is_a_setting(gateway: str) -> None:
    said("get", **number())
    waybill = await carrier(account(gateway, courier="jdl", cp_code="LE04284890")).book(a_booking())
    assert waybill.label == Label(courier="jdl")
    assert json.loads(HEARD[0]["param_waybill_cloud_print_apply_new_request"])["cp_code"] == "LE04284890"


async def test_a_number_may_come_in_a_bare_list_or_not_at_all(gateway: str) -> None:
    said("get", modules=[{"waybill_code": "777"}])
    assert (await carrier(account(gateway)).book(a_booking())).waybill_no == "777"
    said("get", modules={})
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


async def test_refusal_holds_no_personal_data(gateway: str) -> None:
    failed("get", sub_code="isv.address-invalid", sub_msg=f"{RECIPIENT.phone} {RECIPIENT.name}")
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.details[0]) == ("Refused", "isv.address-invalid")
    assert error.message == "error.refused?vendor=cainiao&code=isv.address-invalid"


async def test_busy_platform_is_retryable_after_its_delay(gateway: str) -> None:
    failed("get", sub_code="isp.remote-service-timeout")
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"
    failed("get", code=7, sub_msg="This ban will last for 9 more seconds")
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert error.next_retry_delay is not None
    assert error.next_retry_delay.total_seconds() == 9


@pytest.mark.parametrize("modules", [7, {"waybill_cloud_print_response": [{"print_data": "{"}]}, [{}]])
async def test_malformed_response_is_retryable(gateway: str, modules: Any) -> None:
    said("get", modules=modules)
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


def searched(*found: dict[str, Any]) -> None:
    said("query.by.tradecode", modules={"waybill_cloud_print_with_result_desc_response": list(found)})


async def test_a_number_lost_on_its_way_is_found_by_our_reference(gateway: str) -> None:
    ours = carrier(account(gateway))
    searched({"success": False, "error_code": "NOT_EXIST"})
    assert await ours.find("W1") is None
    searched({"success": True, "waybill_cloud_print_response": {"waybill_code": "777"}})
    found = await ours.find("W1")
    assert found is not None
    assert (found.waybill_no, found.reference) == ("777", "W1")
    assert json.loads(HEARD[-1]["param_list"]) == [{"biz_sub_code": "W1", "object_id": "W1"}]


async def test_a_cancellation_denied_is_an_error_only_while_the_number_is_there(gateway: str) -> None:
    ours = carrier(account(gateway))
    said("cancel", cancel_result=False)
    searched({"success": False})
    await ours.cancel("W1", "777")
    searched({"success": True, "waybill_cloud_print_response": {"waybill_code": "777"}})
    assert (await refusal(ours.cancel("W1", "777"))).message == "carrier.cainiao.not_cancelled"
    said("cancel", cancel_result=True)
    await ours.cancel("W1")
    assert (HEARD[-1]["cp_code"], HEARD[-1]["waybill_code"]) == ("STO", "777")


# Traces

PULL = "CNTECH_LV_LOGISTICS_DETAIL_GET"


async def test_traces_are_asked_of_link(gateway: str) -> None:
    steps = [{"time": "2024-05-01 10:00:00", "desc": "已揽收", "logisticsStatus": "ACCEPT", "areaName": "上海"}]
    SAID[PULL] = json.dumps({"success": True, "fullTraceDetail": steps})
    (scan,) = await carrier(account(gateway)).track("777", "1234")
    assert (scan.waybill_no, scan.status, scan.place) == ("777", TrackingStatus.PICKED_UP, "上海")
    (form,) = HEARD
    assert form["data_digest"] == digest(form["logistics_interface"], "test")
    asked = {"appCode": "hd", "cpCode": "STO", "mailNo": "777", "receiverPhone": "1234"}
    assert json.loads(form["logistics_interface"]) == {"arg0": asked}


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
async def test_what_link_says_without_traces(gateway: str, answer: Any, expected: str | None) -> None:
    SAID[PULL] = json.dumps(answer)
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


def test_a_push_reads_as_a_scan_without_phones_and_names() -> None:
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
