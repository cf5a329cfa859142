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

SAID: dict[str, Any] = {}
"""The responses of the gateway, by request type."""
HEARD: list[tuple[str, dict[str, str]]] = []
STEP = {"AcceptTime": "2020-11-28 14:32:37", "AcceptStation": "已签收,签收人:保安室 13700000000", "Remark": None}


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def interface(path: str, request: Request) -> Response:
        form = await request.form()
        HEARD.append((path, {name: str(value) for name, value in form.items()}))
        return Response(json.dumps(SAID[str(form["RequestType"])]))

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


def heard() -> tuple[str, dict[str, Any]]:
    """The path and the data of the last request; its signature holds."""
    path, form = HEARD[-1]
    assert form["DataSign"] == sign(form["RequestData"], "KEY")
    assert (form["EBusinessID"], form["DataType"]) == ("1462056", "2")
    return path, json.loads(form["RequestData"])


def test_the_signature_is_that_of_a_published_example() -> None:
    """From the tests of kdniao-sdk."""
    data = '{"OrderCode":null,"ShipperCode":"SF","LogisticCode":"118650888018"}'
    assert sign(data, "00000000-0000-0000-0000-000000000000") == "YjQ4MmJlMjgzYjA0ZGY4ODUxYjgwMzc4MTY0YzY0MzU="


# Waybills


async def test_the_courier_of_the_account_carries(gateway: str) -> None:
    SAID["1007"] = booked()
    booking = a_booking().model_copy(update={"cash_on_delivery": Decimal("12.50")})
    waybill = await carrier(account(gateway)).book(booking)
    assert (waybill.carrier, waybill.waybill_no, waybill.reference) == ("kdniao", "YT1", booking.reference)
    assert waybill.label == Label(route="320-061-00", hub="绍兴集包", courier="yto")
    path, data = heard()
    assert path == "api/EOrderService"
    assert (data["ShipperCode"], data["OrderCode"], data["CustomerName"]) == ("YTO", booking.reference, "NETPOINT")
    assert data["Receiver"]["Mobile"] == booking.recipient.national_phone
    assert data["AddService"] == [{"Name": "COD", "Value": "12.50"}]


async def test_municipality_is_written_without_suffix_as_province(gateway: str) -> None:
    SAID["1007"] = booked()
    told = {"province": "北京市", "city": "北京市", "phone": "010-12345678"}
    recipient = a_booking().recipient.model_copy(update=told)
    await ours(gateway).book(a_booking().model_copy(update={"recipient": recipient}))
    receiver = heard()[1]["Receiver"]
    assert (receiver["ProvinceName"], receiver["CityName"]) == ("北京", "北京市")
    assert (receiver.get("Mobile"), receiver["Tel"]) == (None, "010-12345678")


async def test_a_long_reference_is_told_by_a_number_that_is_short_and_always_the_same(gateway: str) -> None:
    SAID["1007"] = booked()
    SAID["1147"] = {"Success": True, "ResultCode": "100"}
    reference = carrier_reference("taobao:shop:" + "1234567890" * 4 + ":F1")
    waybill = await ours(gateway).book(a_booking(reference))
    assert waybill.reference == reference
    order_no = heard()[1]["OrderCode"]
    assert re.fullmatch(r"[a-z\d]{30}", order_no)
    await ours(gateway).cancel(reference, "YT1")
    _, data = heard()
    assert (data["OrderCode"], data["ExpNo"], data["ShipperCode"]) == (order_no, "YT1", "YTO")


@pytest.mark.parametrize("success", [True, False])
async def test_what_was_booked_before_is_the_first_waybill(gateway: str, success: bool) -> None:
    SAID["1007"] = booked(Success=success, ResultCode="106", Reason="该订单号已下单成功")
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
async def test_a_waybill_may_be_refused(gateway: str, answer: Any, kind: str, message: str | None) -> None:
    SAID["1007"] = answer
    error = await refusal(ours(gateway).book(a_booking()))
    assert error.type == kind
    assert error.message == message or message is None
    assert "138" not in error.message


@pytest.mark.parametrize("courier", ["", "pigeon"])
async def test_without_a_courier_that_it_knows_nothing_is_booked(courier: str) -> None:
    for act in (ours(courier=courier).book(a_booking()), ours(courier=courier).cancel("W1")):
        assert (await refusal(act)).message == "carrier.not_known"


@pytest.mark.parametrize("reason", ["订单不存在", "订单已取消"])
async def test_cancelling_twice_or_without_a_booking_is_no_error(gateway: str, reason: str) -> None:
    SAID["1147"] = {"Success": False, "ResultCode": "105", "Reason": reason}
    await ours(gateway).cancel("W1")


async def test_cancelling_after_pickup_is_refused(gateway: str) -> None:
    SAID["1147"] = {"Success": False, "ResultCode": "105", "Reason": "快件已揽收"}
    assert (await refusal(ours(gateway).cancel("W1", "YT1"))).details[0] == "105"


async def test_interception_and_offers_are_not_supported() -> None:
    assert (await refusal(ours().intercept("W1", "YT1"))).details[0] == "cannot_intercept"
    assert await ours().quote(a_booking()) == ()


# Following


@pytest.mark.parametrize(("monitor", "request_type"), [(False, "1008"), (True, "8008")])
async def test_a_subscription_is_of_the_kind_that_is_paid_for(gateway: str, monitor: bool, request_type: str) -> None:
    SAID[request_type] = {"Success": True}
    await ours(gateway, monitor=monitor).subscribe("SF1", "sf", "0000", "https://oms.example/push")
    path, data = heard()
    assert (path, HEARD[-1][1]["RequestType"]) == ("api/dist", request_type)
    assert data == {"ShipperCode": "SF", "LogisticCode": "SF1", "CustomerName": "0000"}


async def test_phone_is_sent_for_sf_only(gateway: str) -> None:
    SAID["1008"] = {"Success": True}
    await ours(gateway).subscribe("YT1", "yto", "0000", "")
    assert heard()[1] == {"ShipperCode": "YTO", "LogisticCode": "YT1"}


async def test_a_subscription_may_be_refused_but_not_for_being_the_second(gateway: str) -> None:
    SAID["1008"] = {"Success": False, "Reason": "重复订阅"}
    await ours(gateway).subscribe("YT1", "yto", "", "")
    SAID["1008"] = {"Success": False, "Reason": "没有可用套餐"}
    assert (
        await refusal(ours(gateway).subscribe("YT1", "yto", "", ""))
    ).message == "error.refused.unexplained?vendor=kdniao"


async def test_a_query_asks_the_carriers_that_it_may_be_until_one_knows_it(gateway: str) -> None:
    SAID["2002"] = {"Success": True, "Code": 100, "Shippers": [{"ShipperCode": "STO"}, {"ShipperCode": "DBL"}]}
    assert await ours(gateway).candidate_carriers("773") == ["sto", "DBL"]
    SAID["1002"] = {"Success": False, "Reason": None, "State": "0", "Traces": []}
    HEARD.clear()
    assert await ours(gateway).track("773") == ()
    asked = [json.loads(form["RequestData"])["ShipperCode"] for _, form in HEARD if form["RequestType"] == "1002"]
    assert asked == ["STO", "DBL"]


async def test_a_query_may_be_refused(gateway: str) -> None:
    SAID["2002"] = {"Success": True, "Shippers": [{"ShipperCode": "STO"}]}
    SAID["1002"] = {"Success": False, "Reason": "没有可用套餐"}
    assert (await refusal(ours(gateway).track("773"))).type == "Refused"
    SAID["2002"] = {"Success": False, "Code": 104}
    assert (await refusal(ours(gateway).track("773"))).message == "carrier.kdniao.104"


async def test_without_monitoring_the_newest_step_alone_has_a_code(gateway: str) -> None:
    older = {"AcceptTime": "2020/11/28 08:00:00", "AcceptStation": "到达"}
    SAID["2002"] = {"Success": True, "Shippers": [{"ShipperCode": "YTO"}]}
    SAID["1002"] = {"Success": True, "LogisticCode": "YT1", "State": "3", "Traces": [older, STEP]}
    first, second = await ours(gateway).track("YT1")
    assert (first.status, first.code, first.at) == (None, "", datetime(2020, 11, 28, tzinfo=UTC))
    assert (second.status, second.code) == (TrackingStatus.DELIVERED, "3")
    assert "保安室" not in second.text
    assert "137" not in second.text


# Pushes


def push(*parcels: dict[str, Any], key: str = "KEY", request_type: str = "102", **more: Any) -> bytes:
    told = {"EBusinessID": "1462056", "PushTime": "2020-11-28 14:40:00", "Count": "1", "Data": list(parcels), **more}
    data = json.dumps(told, ensure_ascii=False)
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


def test_what_is_told_of_a_parcel_is_told_of_its_newest_step() -> None:
    newest_first = [STEP, {**STEP, "AcceptTime": "2020-11-28 08:00:00"}]
    told = {**parcel(), "StateEx": "311", "Traces": newest_first}
    newest, older = ours().parse_push(push(told, {**parcel(), "LogisticCode": "YT2", "Traces": None}), {})
    assert (newest.code, newest.status) == ("311", TrackingStatus.DELIVERED)
    assert (older.code, older.status) == ("", None)


@pytest.mark.parametrize("request_type", ["101", "102"])
def test_a_push_is_known_by_its_secret_and_its_signature_with_padding_or_without(request_type: str) -> None:
    body = push(parcel(), request_type=request_type)
    receipt = ours().receive({}, body, "s3cret")
    assert receipt.topic == request_type
    ours().receive({}, body.replace(b"%3D", b""), "s3cret")
    for told, secret in (
        (body, "wrong"),
        (push(parcel(), key="OTHER"), "s3cret"),
        (b"", "s3cret"),
        (b"\xff", "s3cret"),
    ):
        with pytest.raises(Unauthentic):
            ours().receive({}, told, secret)


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
