"""JD Logistics's wire format: signature, good and bad responses, pushed traces."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import md5
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import carrier
from activities.carriers.jdl import sign
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.exceptions import ExceptionKind
from models.fulfillment import Label, TrackingStatus
from models.intake import Account, IntegrationType
from tests.contract.test_carriers_sf import a_booking, refusal
from tests.serving import served
from tests.unit.orders import RECIPIENT

RESPONSES: dict[str, Any] = {}
"""The responses of the gateway, by interface."""
REQUESTS: list[tuple[str, Any]] = []


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/ecap/v1/orders/{interface:path}")
    async def orders(interface: str, request: Request) -> Response:
        REQUESTS.append((interface, await request.json()))
        return Response(RESPONSES.get(interface, json.dumps({"code": 9, "success": False, "msg": "订单不存在"})))

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _fresh() -> AsyncIterator[None]:
    RESPONSES.clear()
    REQUESTS.clear()
    yield
    await http.close()


def account(url: str = "http://127.0.0.1:1") -> Account:
    secrets = {"app_key": "key", "app_secret": "secret", "access_token": "token", "push_secret": "s3cret"}
    settings = {"customer_code": "010K1"}
    return Account(
        integration=IntegrationType.CARRIER,
        source="jdl",
        account="main",
        base_url=url,
        secrets=secrets,
        settings=settings,
    )


def respond(interface: str, data: Any = None, **more: Any) -> None:
    RESPONSES[interface] = json.dumps({"code": 0, "success": True, "msg": "成功", "data": data, **more})


def test_signature_digests_named_parts_between_two_secrets() -> None:
    """No example is public: the platform's demonstration code digests this text."""
    path, body, at = "/ecap/v1/orders/create", '[{"orderId":"中"}]', "2024-01-02 03:04:05"
    text = (
        'secretaccess_tokentokenapp_keykeymethod/ecap/v1/orders/createparam_json[{"orderId":"中"}]'
        "timestamp2024-01-02 03:04:05v2.0secret"
    )
    assert sign("secret", "token", "key", path, body, at) == md5(text.encode()).hexdigest()


async def test_booking_has_the_format_of_jdl(gateway: str) -> None:
    respond("create", {"orderCode": "ECO1", "waybillCode": "JDVA1", "needRetry": False})
    booking = a_booking().model_copy(update={"cash_on_delivery": Decimal("88.50")})
    waybill = await carrier(account(gateway)).book(booking)
    assert (waybill.waybill_no, waybill.carrier, waybill.label) == ("JDVA1", "jdl", Label(product="ed-m-0001"))
    ((interface, (message,)),) = REQUESTS
    assert (interface, message["orderId"], message["customerCode"]) == ("create", "W1-F1-abc", "010K1")
    assert message["receiverContact"] == {
        "name": "王小明",
        "mobile": "13812345678",
        "fullAddress": "上海上海市浦东新区世纪大道100号3栋502",
    }
    assert message["cargoes"] == [{"name": "A001*2", "quantity": 1, "weight": 1.2, "volume": 1200.0}]
    (added,) = message["productsReq"]["addedProducts"]
    assert added["productAttrs"] == {"shouldPayMoney": "88.50"}


async def test_existing_booking_is_returned_after_any_refusal(gateway: str) -> None:
    respond("create", success=False, code=4711, msg="某种说法")
    respond("status/get", {"waybillCode": "JDVA1", "status": 390})
    assert (await carrier(account(gateway)).book(a_booking())).waybill_no == "JDVA1"


async def test_cancelled_booking_is_not_found(gateway: str) -> None:
    respond("create", success=False, code=4711)
    respond("status/get", {"waybillCode": "JDVA1", "status": 690})
    ours = carrier(account(gateway))
    assert await ours.find("W1") is None
    assert (await refusal(ours.book(a_booking()))).details[0] == "4711"


async def test_refusal_holds_no_personal_data(gateway: str) -> None:
    respond("create", success=False, code=10003, msg=f"{RECIPIENT.phone} {RECIPIENT.name}")
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.details[0], error.message) == ("Refused", "10003", "error.refused?vendor=jdl&code=10003")


@pytest.mark.parametrize("words", ["系统繁忙,请稍后再试", "调用超时", "接口限流"])
async def test_busy_platform_is_retryable(gateway: str, words: str) -> None:
    respond("create", success=False, code=5, msg=words)
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


async def test_refusal_of_the_gateway_is_final(gateway: str) -> None:
    RESPONSES["create"] = json.dumps({"error_response": {"code": "19", "zh_desc": "无效access_token"}})
    RESPONSES["status/get"] = RESPONSES["create"]
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.details[0]) == ("Refused", "19")


async def test_address_under_review_is_retryable(gateway: str) -> None:
    respond("create", {"orderCode": "ECO1", "needRetry": True})
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert error.type == "Unavailable"
    assert error.next_retry_delay is not None


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"success":true,"data":[1]}'])
async def test_malformed_response_is_retryable(gateway: str, body: str) -> None:
    RESPONSES["create"] = body
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


async def test_cancelling_after_pickup_is_refused(gateway: str) -> None:
    respond("trace/query", {"traceDetails": [{"operationTime": "2024-05-01 10:00:00", "category": 420}]})
    respond("cancel", {"resultType": 1})
    assert (await refusal(carrier(account(gateway)).cancel("W1", "JDVA1"))).details[0] == "picked_up"
    assert "cancel" not in dict(REQUESTS)


async def test_intercepting_before_pickup_is_refused(gateway: str) -> None:
    respond("trace/query", {"traceDetails": None})
    respond("cancel", {"resultType": 0})
    assert (await refusal(carrier(account(gateway)).intercept("W1", "JDVA1"))).details[0] == "not_picked_up"
    assert "cancel" not in dict(REQUESTS)


@pytest.mark.parametrize("result", [1, 2, 3])
async def test_cancellation_with_another_result_is_refused(gateway: str, result: int) -> None:
    respond("cancel", {"resultType": result})
    assert (await refusal(carrier(account(gateway)).cancel("W1"))).details[0] == str(result)


async def test_unknown_parcel_has_no_scans(gateway: str) -> None:
    assert await carrier(account(gateway)).track("JDVA1") == []


# Pushes

TRACE = {
    "waybillCode": "JDVA00000000001",
    "orderId": "W1",
    "operationTime": "2024-05-01 10:00:00",
    "operationTitle": "快件揽收",
    "operationRemark": "您的快件已揽收完成,揽收人员:李四",
    "category": 420,
    "categoryName": "已揽收",
    "state": "200001",
    "operateSite": "上海青浦营业部",
}


def push(**more: Any) -> bytes:
    return json.dumps({**TRACE, **more}).encode()


def scan(**more: Any) -> Any:
    (parsed,) = carrier(account()).parse_push(push(**more), {})
    return parsed


def test_push_becomes_a_scan_without_names() -> None:
    parsed = scan()
    assert (parsed.waybill_no, parsed.code, parsed.place) == ("JDVA00000000001", "420:200001", "上海青浦营业部")
    assert parsed.at == datetime(2024, 5, 1, 2, tzinfo=UTC)
    assert parsed.text == "您的快件已揽收完成,揽收人员:***"
    assert parsed.scan_id == scan().scan_id != scan(operationTime="2024-05-01 10:00:01").scan_id


@pytest.mark.parametrize(
    ("category", "words", "status", "problem"),
    [
        (390, "", TrackingStatus.LABEL_CREATED, None),
        (420, "", TrackingStatus.PICKED_UP, None),
        (430, "", TrackingStatus.IN_TRANSIT, None),
        ("440", "", TrackingStatus.OUT_FOR_DELIVERY, None),
        (440, "无法联系收件人,快件再投", TrackingStatus.DELIVERY_FAILED, None),
        (440, "地址不详,快件再投", TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS),
        (430, "快件疑似丢失", TrackingStatus.IN_TRANSIT, ExceptionKind.LOST),
        (430, "外包装破损", TrackingStatus.IN_TRANSIT, ExceptionKind.DAMAGED),
        (430, "快件正在退回", TrackingStatus.RETURNING, None),
        (510, "已签收", TrackingStatus.DELIVERED, None),
        (510, "已退回并签收", TrackingStatus.RETURNED, None),
        (530, "拒收", TrackingStatus.REFUSED, None),
        (690, "", None, None),
        (4711, "", None, None),
        (None, "", None, None),
    ],
)
def test_categories_map_to_statuses_and_unknown_ones_are_kept(
    category: Any, words: str, status: TrackingStatus | None, problem: ExceptionKind | None
) -> None:
    parsed = scan(category=category, operationRemark=words)
    assert (parsed.status, parsed.exception) == (status, problem)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (push(waybillCode=""), "waybillCode"),
        (push(operationTime="gestern"), "operationTime"),
        (push(operationTime=None), "operationTime"),
        (b"{", "body"),
        (b"\xff", "body"),
    ],
)
def test_malformed_push_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        carrier(account()).parse_push(body, {})
    assert caught.value.field == field


def test_push_is_verified_by_its_secret_and_acknowledged() -> None:
    ours = carrier(account())
    assert ours.receive({}, push(), "s3cret") == ours.receive({}, push(), "s3cret")
    assert ours.answer({}, push()).body.decode() == '{"code":0,"success":true,"msg":"成功"}'
    with pytest.raises(Unauthentic):
        ours.receive({}, push(), "wrong")
