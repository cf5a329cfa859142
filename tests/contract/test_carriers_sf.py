"""SF's wire format: digest, good and bad responses, pushes in every variant."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from temporalio.exceptions import ApplicationError

from activities.carriers import carrier, mask_personal_data
from activities.carriers.sf import digest
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.fulfillment import Booking, FulfillmentLine, Label, TrackingStatus, carrier_reference
from models.intake import Account, IntegrationType
from tests.serving import served
from tests.unit.orders import RECIPIENT

RESPONSES: dict[str, Any] = {}
"""The responses of the gateway, by service."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/std/service")
    async def service() -> Response:
        return Response(RESPONSES["body"])

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


def account(url: str = "http://127.0.0.1:1") -> Account:
    secrets = {"partner_id": "HD", "check_word": "word", "push_secret": "s3cret"}
    return Account(integration=IntegrationType.CARRIER, source="sf", account="main", base_url=url, secrets=secrets)


def a_booking(reference: str = "W1-F1-abc") -> Booking:
    goods = (FulfillmentLine(line_no="1", sku="A001", quantity=2),)
    return Booking(reference=reference, sender=RECIPIENT, recipient=RECIPIENT, goods=goods, weight_kg=Decimal("1.2"))


def respond(data: Any, code: str = "A1000") -> None:
    RESPONSES["body"] = json.dumps({"apiResultCode": code, "apiErrorMsg": "", "apiResultData": data})


def booked(**more: Any) -> dict[str, Any]:
    data = {"orderId": "W1", "filterResult": 2, "waybillNoInfoList": [{"waybillType": 1, "waybillNo": "SF1"}], **more}
    return {"success": True, "errorCode": "S0000", "msgData": data}


async def refusal(act: Any) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        await act
    return caught.value


@pytest.mark.parametrize(
    ("message", "timestamp", "check_word", "expected"),
    [
        (
            '{"language":"zh-CN","orderId":"QIAO-20200618-004"}',
            "12312334453453",
            "fjcg5PGKaNpPSHFAZ4QsCOkV71R3zVci",
            "IIKJtuLVzoFTu4kHI8M8vA==",
        ),
        ("中 *~+", "1", "test", "enEGxDrktGqdJiLR3VtTkA=="),
    ],
)
def test_digest_matches_the_published_vectors(message: str, timestamp: str, check_word: str, expected: str) -> None:
    assert digest(message, timestamp, check_word) == expected


@pytest.mark.parametrize("nested", [json.dumps, lambda data: data])
async def test_nested_response_is_read_as_text_or_object(gateway: str, nested: Any) -> None:
    outcome = booked(routeLabelInfo=[{"code": "1000", "routeLabelData": {"destRouteLabel": "571WB", "proCode": None}}])
    respond(nested(outcome))
    waybill = await carrier(account(gateway)).book(a_booking())
    assert waybill.waybill_no == "SF1"
    assert waybill.label == Label(route="571WB")


async def test_mother_number_is_the_waybill(gateway: str) -> None:
    numbers = [{"waybillType": 2, "waybillNo": "SF2"}, {"waybillType": 1, "waybillNo": "SF1"}]
    respond(booked(waybillNoInfoList=numbers))
    assert (await carrier(account(gateway)).book(a_booking())).waybill_no == "SF1"


@pytest.mark.parametrize("code", ["A1005", "A1009", "A1099"])
async def test_busy_platform_is_retryable(gateway: str, code: str) -> None:
    respond("", code)
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.non_retryable) == ("Unavailable", False)


@pytest.mark.parametrize("code", ["A1001", "A1003", "A1004", "A1006"])
async def test_refusal_of_the_platform_is_final(gateway: str, code: str) -> None:
    respond("", code)
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.non_retryable, error.details[0]) == ("Refused", True, code)


@pytest.mark.parametrize("code", ["8114", "1014", "20035", "8256"])
async def test_refusal_of_the_service_is_final_and_holds_no_personal_data(gateway: str, code: str) -> None:
    respond(json.dumps({"success": False, "errorCode": code, "errorMsg": f"{RECIPIENT.phone} {RECIPIENT.name}"}))
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.details[0], error.message) == ("Refused", code, f"carrier.sf.{code}")


async def test_system_error_behind_the_platform_is_retryable(gateway: str) -> None:
    respond({"success": False, "errorCode": "S0003", "errorMsg": "系统发生数据错误或运行时异常"})
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


async def test_unserved_address_is_refused(gateway: str) -> None:
    respond(booked(filterResult=3))
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).message == "carrier.sf.not_served"


async def test_address_under_review_is_retryable(gateway: str) -> None:
    respond(booked(filterResult=1, waybillNoInfoList=[]))
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert error.type == "Unavailable"
    assert error.next_retry_delay is not None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "[]",
        '{"apiResultCode":"A1000","apiResultData":"{"}',
        '{"apiResultCode":"A1000","apiResultData":{"success":true,"msgData":{"waybillNoInfoList":7}}}',
    ],
)
async def test_malformed_response_is_retryable(gateway: str, body: str) -> None:
    RESPONSES["body"] = body
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


@pytest.mark.parametrize("code", ["8037", "8018", "8024"])
async def test_cancelling_twice_or_without_a_booking_is_no_error(gateway: str, code: str) -> None:
    respond({"success": False, "errorCode": code})
    await carrier(account(gateway)).cancel("W1")


async def test_cancelling_after_pickup_is_refused(gateway: str) -> None:
    respond({"success": False, "errorCode": "8252"})
    assert (await refusal(carrier(account(gateway)).cancel("W1"))).details[0] == "8252"


# Pushes

ROUTE = {
    "mailno": "SF7444400031887",
    "acceptAddress": "深圳市",
    "reasonName": "",
    "orderid": "202003225d33322239ddW1df5t3",
    "acceptTime": "2020-05-11 16:56:54",
    "remark": "顺丰速运 已收取快件",
    "opCode": "50",
    "id": "158918741444476",
    "reasonCode": "",
}


def push(*routes: dict[str, Any]) -> bytes:
    return json.dumps({"Body": {"WaybillRoute": list(routes)}}).encode()


def scans(body: bytes) -> Any:
    return carrier(account()).parse_push(body, {})


XML = (
    "<?xml version='1.0' encoding='UTF-8'?><Request service=\"RoutePushService\" lang=\"zh-CN\"><Body>"
    + "<WaybillRoute {} />".format(" ".join(f'{name}="{value}"' for name, value in ROUTE.items()))
    + "</Body></Request>"
)
VARIANTS = {
    "list": push(ROUTE),
    "single object": json.dumps({"Body": {"WaybillRoute": ROUTE}}).encode(),
    "form": f"content={quote(XML)}".encode(),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_a_push_gives_the_same_scans(variant: str) -> None:
    (scan,) = scans(VARIANTS[variant])
    assert (scan.waybill_no, scan.scan_id, scan.code) == ("SF7444400031887", "158918741444476", "50")
    assert scan.status is TrackingStatus.PICKED_UP
    assert scan.at == datetime(2020, 5, 11, 8, 56, 54, tzinfo=UTC)
    assert (scan.place, scan.text) == ("深圳市", "顺丰速运 已收取快件")


def test_push_is_acknowledged_in_its_own_format() -> None:
    ours = carrier(account())
    assert ours.answer({}, VARIANTS["list"]).body.decode() == '{"return_code":"0000","return_msg":"成功"}'
    answer = ours.answer({}, VARIANTS["form"])
    assert answer.body == b'<Response service="RoutePushService"><Head>OK</Head></Response>'


@pytest.mark.parametrize(
    ("code", "remark", "status"),
    [
        ("54", "已收取快件", TrackingStatus.PICKED_UP),
        ("30", "已装车", TrackingStatus.IN_TRANSIT),
        ("106", "航空落地", TrackingStatus.AT_DESTINATION),
        ("44", "派送途中", TrackingStatus.OUT_FOR_DELIVERY),
        ("125", "派件至丰巢", TrackingStatus.READY_FOR_PICKUP),
        ("70", "无法联系收方客户", TrackingStatus.DELIVERY_FAILED),
        ("70", "收方客户拒收", TrackingStatus.REFUSED),
        ("99", "应客户要求,快件正在转寄中", TrackingStatus.RETURNING),
        ("80", "已签收", TrackingStatus.DELIVERED),
        ("80", "快件已退回寄件方并签收", TrackingStatus.RETURNED),
        ("18", "海关扣件", TrackingStatus.HELD_IN_CUSTOMS),
        ("8000", "签收图", None),
        ("4711", "没见过", None),
    ],
)
def test_operation_codes_map_to_statuses_and_unknown_ones_are_kept(
    code: str, remark: str, status: TrackingStatus | None
) -> None:
    (scan,) = scans(push({**ROUTE, "opCode": code, "remark": remark}))
    assert (scan.status, scan.code) == (status, code)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (push({**ROUTE, "mailno": ""}), "Body.WaybillRoute[0].mailno"),
        (push({**ROUTE, "acceptTime": "gestern"}), "Body.WaybillRoute[0].acceptTime"),
        (b"{}", "Body"),
        (b"{", "body"),
        (b"\xff\xfe", "content"),
        (b"content=%3CRequest", "body"),
        (b"content=" + quote("<!DOCTYPE x [<!ENTITY a 'b'>]><Request/>").encode(), "body"),
    ],
)
def test_malformed_push_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        scans(body)
    assert caught.value.field == field


def test_push_is_verified_by_secret_only() -> None:
    ours = carrier(account())
    receipt = ours.receive({}, VARIANTS["list"], "s3cret")
    assert receipt.fact_key == ours.receive({}, VARIANTS["list"], "s3cret").fact_key
    assert receipt.fact_key != ours.receive({}, VARIANTS["form"], "s3cret").fact_key
    for wrong in ("", "s3cre", "s3cret ", "中"):
        with pytest.raises(Unauthentic):
            ours.receive({}, VARIANTS["list"], wrong)


def test_account_without_a_push_secret_refuses_pushes() -> None:
    unset = account().model_copy(update={"secrets": {}})
    with pytest.raises(Unauthentic):
        carrier(unset).receive({}, VARIANTS["list"], "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("派件人:李四,电话:13700000000", "派件人:***,电话:****"),
        ("签收人: 王小明。如有疑问", "签收人: ***。如有疑问"),
        ("投诉电话: 0575-89288222", "投诉电话: ****"),
        ("快件已退回,新单号为: SF7444400031887", "快件已退回,新单号为: SF7444400031887"),
    ],
)
def test_phones_and_names_in_texts_of_carriers_are_masked(text: str, expected: str) -> None:
    assert mask_personal_data(text) == expected


@pytest.mark.parametrize(
    "order_no", ["4100000000000000100", "S001-T1-000042", "W" * 64, "订单/一二三", "a_b.c", "中" * 64]
)
def test_reference_is_short_plain_stable_and_distinct(order_no: str) -> None:
    references = {carrier_reference(f"order:own:{shop}:{order_no}:F{n}") for shop in ("web", "app") for n in (1, 2, 10)}
    assert len(references) == 6
    for reference in references:
        assert 7 <= len(reference) <= 64
        assert reference.isascii()
        assert reference.replace("-", "").isalnum()
    assert carrier_reference("order:own:web:W0001:F1").startswith("W0001-F1-")
