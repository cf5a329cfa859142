"""Kdniao's wire format: signature, waybills, good and bad responses, pushes."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import carrier
from activities.carriers.kdniao import Kdniao, adapter, sign
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.exceptions import ExceptionKind
from models.fulfillment import Label, TrackingStatus, carrier_reference
from models.intake import Account, IntegrationType
from tests.contract.test_carriers_sf import a_booking, refusal
from tests.serving import served

RESPONSES: dict[str, Any] = {}
"""The responses of the gateway, by request type."""
REQUESTS: list[tuple[str, dict[str, str]]] = []
STEP = {"AcceptTime": "2020-11-28 14:32:37", "AcceptStation": "已签收,签收人:保安室 13700000000", "Remark": None}


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def interface(path: str, request: Request) -> Response:
        form = await request.form()
        REQUESTS.append((path, {name: str(value) for name, value in form.items()}))
        return Response(json.dumps(RESPONSES[str(form["RequestType"])]))

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


def account(url: str = "http://127.0.0.1:1", **settings: Any) -> Account:
    secrets = {"business_id": "1462056", "app_key": "KEY", "push_secret": "s3cret", "customer_name": "NETPOINT"}
    settings = {"courier": "yto", **settings}
    return Account(
        integration=IntegrationType.CARRIER,
        source="kdniao",
        account="main",
        base_url=url,
        secrets=secrets,
        settings=settings,
    )


def ours(url: str = "http://127.0.0.1:1", **settings: Any) -> Kdniao:
    return adapter(account(url, **settings))


def booked(**more: Any) -> dict[str, Any]:
    order = {"LogisticCode": "YT1", "MarkDestination": "320-061-00", "PackageName": "绍兴集包", "OriginName": None}
    return {"EBusinessID": "1462056", "Success": True, "ResultCode": "100", "Reason": "成功", "Order": order, **more}


def last_request() -> tuple[str, dict[str, Any]]:
    """Return the path and data of the last request after checking its signature."""
    path, form = REQUESTS[-1]
    assert form["DataSign"] == sign(form["RequestData"], "KEY")
    assert (form["EBusinessID"], form["DataType"]) == ("1462056", "2")
    return path, json.loads(form["RequestData"])


def test_signature_matches_a_published_example() -> None:
    """From the tests of kdniao-sdk."""
    data = '{"OrderCode":null,"ShipperCode":"SF","LogisticCode":"118650888018"}'
    assert sign(data, "00000000-0000-0000-0000-000000000000") == "YjQ4MmJlMjgzYjA0ZGY4ODUxYjgwMzc4MTY0YzY0MzU="


# Waybills


async def test_waybill_is_booked_with_the_courier_of_the_account(gateway: str) -> None:
    RESPONSES["1007"] = booked()
    booking = a_booking().model_copy(update={"cash_on_delivery": Decimal("12.50")})
    waybill = await carrier(account(gateway)).book(booking)
    assert (waybill.carrier, waybill.waybill_no, waybill.reference) == ("kdniao", "YT1", booking.reference)
    assert waybill.label == Label(route="320-061-00", hub="绍兴集包", courier="yto")
    path, data = last_request()
    assert path == "api/EOrderService"
    assert (data["ShipperCode"], data["OrderCode"], data["CustomerName"]) == ("YTO", booking.reference, "NETPOINT")
    assert data["Receiver"]["Mobile"] == booking.recipient.national_phone
    assert data["AddService"] == [{"Name": "COD", "Value": "12.50"}]


async def test_municipality_is_written_without_suffix_as_province(gateway: str) -> None:
    RESPONSES["1007"] = booked()
    changes = {"province": "北京市", "city": "北京市", "phone": "010-12345678"}
    recipient = a_booking().recipient.model_copy(update=changes)
    await ours(gateway).book(a_booking().model_copy(update={"recipient": recipient}))
    receiver = last_request()[1]["Receiver"]
    assert (receiver["ProvinceName"], receiver["CityName"]) == ("北京", "北京市")
    assert (receiver.get("Mobile"), receiver["Tel"]) == (None, "010-12345678")


async def test_long_reference_is_sent_as_a_short_stable_number(gateway: str) -> None:
    RESPONSES["1007"] = booked()
    RESPONSES["1147"] = {"Success": True, "ResultCode": "100"}
    reference = carrier_reference("taobao:shop:" + "1234567890" * 4 + ":F1")
    waybill = await ours(gateway).book(a_booking(reference))
    assert waybill.reference == reference
    order_no = last_request()[1]["OrderCode"]
    assert re.fullmatch(r"[a-z\d]{30}", order_no)
    await ours(gateway).cancel(reference, "YT1")
    _, data = last_request()
    assert (data["OrderCode"], data["ExpNo"], data["ShipperCode"]) == (order_no, "YT1", "YTO")


@pytest.mark.parametrize("success", [True, False])
async def test_repeated_booking_returns_the_first_waybill(gateway: str, success: bool) -> None:
    RESPONSES["1007"] = booked(Success=success, ResultCode="106", Reason="该订单号已下单成功")
    assert (await ours(gateway).book(a_booking())).waybill_no == "YT1"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ({"Success": False, "ResultCode": "101", "Reason": "13812345678"}, "Refused", "carrier.kdniao.101"),
        ({"Success": False, "Reason": "没有可用套餐"}, "Refused", "error.refused.unexplained?vendor=kdniao"),
        ({"Success": False, "ResultCode": "405"}, "Unavailable", "error.unavailable?vendor=kdniao&code=405"),
        ({"Success": True, "ResultCode": "100", "Order": None}, "Unavailable", None),
        ("<html>", "Unavailable", None),
        ({"Success": True, "Order": "?"}, "Unavailable", None),
    ],
)
async def test_refused_waybill_is_classified(gateway: str, answer: Any, kind: str, message: str | None) -> None:
    RESPONSES["1007"] = answer
    error = await refusal(ours(gateway).book(a_booking()))
    assert error.type == kind
    assert error.message == message or message is None
    assert "138" not in error.message


@pytest.mark.parametrize("courier", ["", "pigeon"])
async def test_unknown_courier_is_refused(courier: str) -> None:
    for act in (ours(courier=courier).book(a_booking()), ours(courier=courier).cancel("W1")):
        assert (await refusal(act)).message == "carrier.not_known"


@pytest.mark.parametrize("reason", ["订单不存在", "订单已取消"])
async def test_cancelling_twice_or_without_a_booking_is_no_error(gateway: str, reason: str) -> None:
    RESPONSES["1147"] = {"Success": False, "ResultCode": "105", "Reason": reason}
    await ours(gateway).cancel("W1")


async def test_cancelling_after_pickup_is_refused(gateway: str) -> None:
    RESPONSES["1147"] = {"Success": False, "ResultCode": "105", "Reason": "快件已揽收"}
    assert (await refusal(ours(gateway).cancel("W1", "YT1"))).details[0] == "105"


async def test_interception_and_offers_are_not_supported() -> None:
    assert (await refusal(ours().intercept("W1", "YT1"))).details[0] == "cannot_intercept"
    assert await ours().quote(a_booking()) == ()


# Tracking


@pytest.mark.parametrize(("monitor", "request_type"), [(False, "1008"), (True, "8008")])
async def test_subscription_uses_the_monitoring_setting(gateway: str, monitor: bool, request_type: str) -> None:
    RESPONSES[request_type] = {"Success": True}
    await ours(gateway, monitor=monitor).subscribe("SF1", "sf", "0000", "https://oms.example/push")
    path, data = last_request()
    assert (path, REQUESTS[-1][1]["RequestType"]) == ("api/dist", request_type)
    assert data == {"ShipperCode": "SF", "LogisticCode": "SF1", "CustomerName": "0000"}


async def test_phone_is_sent_for_sf_only(gateway: str) -> None:
    RESPONSES["1008"] = {"Success": True}
    await ours(gateway).subscribe("YT1", "yto", "0000", "")
    assert last_request()[1] == {"ShipperCode": "YTO", "LogisticCode": "YT1"}


async def test_refused_subscription_is_an_error_unless_it_is_a_repeat(gateway: str) -> None:
    RESPONSES["1008"] = {"Success": False, "Reason": "重复订阅"}
    await ours(gateway).subscribe("YT1", "yto", "", "")
    RESPONSES["1008"] = {"Success": False, "Reason": "没有可用套餐"}
    assert (
        await refusal(ours(gateway).subscribe("YT1", "yto", "", ""))
    ).message == "error.refused.unexplained?vendor=kdniao"


async def test_query_tries_each_candidate_carrier(gateway: str) -> None:
    RESPONSES["2002"] = {"Success": True, "Code": 100, "Shippers": [{"ShipperCode": "STO"}, {"ShipperCode": "DBL"}]}
    assert await ours(gateway).candidate_carriers("773") == ["sto", "DBL"]
    RESPONSES["1002"] = {"Success": False, "Reason": None, "State": "0", "Traces": []}
    REQUESTS.clear()
    assert await ours(gateway).track("773") == ()
    queried = [json.loads(form["RequestData"])["ShipperCode"] for _, form in REQUESTS if form["RequestType"] == "1002"]
    assert queried == ["STO", "DBL"]


async def test_refused_query_is_an_error(gateway: str) -> None:
    RESPONSES["2002"] = {"Success": True, "Shippers": [{"ShipperCode": "STO"}]}
    RESPONSES["1002"] = {"Success": False, "Reason": "没有可用套餐"}
    assert (await refusal(ours(gateway).track("773"))).type == "Refused"
    RESPONSES["2002"] = {"Success": False, "Code": 104}
    assert (await refusal(ours(gateway).track("773"))).message == "carrier.kdniao.104"


async def test_only_the_newest_step_has_a_code_without_monitoring(gateway: str) -> None:
    older = {"AcceptTime": "2020/11/28 08:00:00", "AcceptStation": "到达"}
    RESPONSES["2002"] = {"Success": True, "Shippers": [{"ShipperCode": "YTO"}]}
    RESPONSES["1002"] = {"Success": True, "LogisticCode": "YT1", "State": "3", "Traces": [older, STEP]}
    first, second = await ours(gateway).track("YT1")
    assert (first.status, first.code, first.at) == (None, "", datetime(2020, 11, 28, tzinfo=UTC))
    assert (second.status, second.code) == (TrackingStatus.DELIVERED, "3")
    assert "保安室" not in second.text
    assert "137" not in second.text


# Pushes


def push(*parcels: dict[str, Any], key: str = "KEY", request_type: str = "102", **more: Any) -> bytes:
    payload = {"EBusinessID": "1462056", "PushTime": "2020-11-28 14:40:00", "Count": "1", "Data": list(parcels), **more}
    data = json.dumps(payload, ensure_ascii=False)
    form = {"RequestData": data, "DataSign": sign(data, key), "RequestType": request_type}
    return urlencode(form).encode()


def parcel(**step: Any) -> dict[str, Any]:
    return {"ShipperCode": "YTO", "LogisticCode": "YT1", "Success": True, "State": "2", "Traces": [{**STEP, **step}]}


@pytest.mark.parametrize(
    ("code", "words", "status", "exception"),
    [
        ("10", "", TrackingStatus.LABEL_CREATED, None),
        ("401", "", TrackingStatus.LABEL_CREATED, ExceptionKind.NOT_PICKED_UP),
        ("1", "", TrackingStatus.PICKED_UP, None),
        ("204", "", TrackingStatus.IN_TRANSIT, None),
        ("403", "", TrackingStatus.IN_TRANSIT, ExceptionKind.NO_MOVEMENT),
        ("201", "", TrackingStatus.AT_DESTINATION, None),
        ("202", "", TrackingStatus.OUT_FOR_DELIVERY, None),
        ("211", "", TrackingStatus.READY_FOR_PICKUP, None),
        ("412", "", TrackingStatus.READY_FOR_PICKUP, ExceptionKind.STUCK),
        ("301", "", TrackingStatus.DELIVERED, None),
        ("3", "退回件已签收", TrackingStatus.RETURNED, None),
        ("404", "", TrackingStatus.REFUSED, None),
        ("405", "", TrackingStatus.DELIVERY_FAILED, None),
        ("420", "", TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS),
        ("4", "快件遗失", TrackingStatus.LOST, None),
        ("414", "", TrackingStatus.DAMAGED, None),
        ("413", "", TrackingStatus.RETURNING, None),
        ("406", "", TrackingStatus.RETURNED, None),
        ("604", "", TrackingStatus.HELD_IN_CUSTOMS, None),
        ("999", "", None, None),
    ],
)
def test_codes_map_to_statuses_and_unknown_codes_are_kept(
    code: str, words: str, status: TrackingStatus | None, exception: ExceptionKind | None
) -> None:
    (scan,) = ours().parse_push(push(parcel(Action=code, AcceptStation=words)), {})
    assert (scan.waybill_no, scan.code, scan.status, scan.exception) == ("YT1", code, status, exception)


def test_status_of_a_parcel_belongs_to_its_newest_step() -> None:
    newest_first = [STEP, {**STEP, "AcceptTime": "2020-11-28 08:00:00"}]
    pushed = {**parcel(), "StateEx": "311", "Traces": newest_first}
    newest, older = ours().parse_push(push(pushed, {**parcel(), "LogisticCode": "YT2", "Traces": None}), {})
    assert (newest.code, newest.status) == ("311", TrackingStatus.DELIVERED)
    assert (older.code, older.status) == ("", None)


@pytest.mark.parametrize("request_type", ["101", "102"])
def test_push_is_verified_by_secret_and_signature_with_or_without_padding(request_type: str) -> None:
    body = push(parcel(), request_type=request_type)
    receipt = ours().receive({}, body, "s3cret")
    assert receipt.topic == request_type
    ours().receive({}, body.replace(b"%3D", b""), "s3cret")
    for rejected, secret in (
        (body, "wrong"),
        (push(parcel(), key="OTHER"), "s3cret"),
        (b"", "s3cret"),
        (b"\xff", "s3cret"),
    ):
        with pytest.raises(Unauthentic):
            ours().receive({}, rejected, secret)


def test_push_is_acknowledged_in_the_required_format() -> None:
    body = ours().answer({}, push(parcel())).body.decode()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf'\{{"EBusinessID":"1462056","UpdateTime":"{time}","Success":true,"Reason":""\}}',
        body,
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (push(parcel(AcceptTime="?")), "Data[0].Traces[0].AcceptTime"),
        (push({**parcel(), "LogisticCode": ""}), "Data[0].LogisticCode"),
        (push(Data=None), "Data"),
        (b"x", "body"),
    ],
)
def test_malformed_push_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        ours().parse_push(body, {})
    assert caught.value.field == field
