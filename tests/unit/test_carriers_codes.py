"""Codes of carriers: published vocabularies are known, unknown codes are kept and marked, odd routes lose no others."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import pytest

from activities.carriers import Scans, tracker, zto
from activities.kit.errors import Unintelligible
from models.fulfillment import Scan
from models.fulfillment import TrackingStatus as S
from models.intake import Account, IntegrationType

TIME = "2026-11-20 10:00:00"


def parse(source: str, *routes: Mapping[str, Any]) -> Sequence[Scan]:
    account = Account(integration=IntegrationType.CARRIER, source=source, account="1", base_url="", secrets={})
    return tracker(account).parse_push(PUSHES[source](routes), {})


def form(field: str, value: Any) -> bytes:
    return urlencode({field: json.dumps(value, ensure_ascii=False)}).encode()


PUSHES: dict[str, Any] = {
    "sf": lambda routes: json.dumps({"Body": {"WaybillRoute": list(routes)}}).encode(),
    "zto": lambda routes: form("data", routes[0]),
    "sto": lambda routes: form("content", {"waybillNo": "1", "trace": routes[0]}),
    "yto": lambda routes: urlencode(
        {"logistics_interface": f"<U>{''.join(f'<{k}>{v}</{k}>' for k, v in routes[0].items())}</U>"}
    ).encode(),
    "yunda": lambda routes: json.dumps({"mailno": "1", "steps": list(routes)}).encode(),
    "jdl": lambda routes: json.dumps(routes[0]).encode(),
    "cainiao": lambda routes: form("logistics_interface", {"mailNo": "1", "fullTraceDetail": list(routes)}),
    "kdniao": lambda routes: form(
        "RequestData", {"Data": [{"ShipperCode": "SF", "LogisticCode": "1", "Traces": list(routes)}]}
    ),
    "kuaidi100": lambda routes: form("param", {"lastResult": {"nu": "1", "com": "zhongtong", "data": list(routes)}}),
    "easypost": lambda routes: json.dumps(
        {
            "id": "evt_1",
            "description": "tracker.updated",
            "result": {"tracking_code": "1", "carrier": "UPSDAP", "tracking_details": list(routes)},
        }
    ).encode(),
}


def route(source: str, code: str, **more: Any) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = {
        "sf": {"mailno": "1", "id": f"id{code}", "acceptTime": TIME, "opCode": code},
        "zto": {"billCode": "1", "actionTime": TIME, "action": code},
        "sto": {"opTime": TIME, "scanType": code},
        "yto": {"mailNo": "1", "acceptTime": TIME, "infoContent": code},
        "yunda": {"time": TIME, "action": code},
        "jdl": {"waybillCode": "1", "operationTime": TIME, "category": code},
        "cainiao": {"time": TIME, "logisticsStatus": code},
        "kdniao": {"AcceptTime": TIME, "Action": code},
        "kuaidi100": {"ftime": TIME, "statusCode": code},
        "easypost": {"datetime": "2026-11-20T10:00:00Z", "status": code},
    }
    return {**fields[source], **more}


PUBLISHED = {
    "sf": {
        S.LABEL_CREATED: "655",
        S.PICKED_UP: "50 54",
        S.IN_TRANSIT: "30 31 36 105 310 302 305 634 407 501 605",
        S.AT_DESTINATION: "106",
        S.OUT_FOR_DELIVERY: "44 204",
        S.READY_FOR_PICKUP: "125 642",
        S.DELIVERED: "80",
        S.DELIVERY_FAILED: "70",
        S.RETURNING: "99 648",
        None: "8000",
    },
    "zto": {
        S.PICKED_UP: "GOT",
        S.IN_TRANSIT: "DEPARTURE ARRIVAL",
        S.OUT_FOR_DELIVERY: "DISPATCH",
        S.READY_FOR_PICKUP: "INBOUND HANDOVERSCAN_SIGNED",
        S.DELIVERED: "SIGNED DEPARTURE_SIGNED",
        S.DELIVERY_FAILED: "PROBLEM",
        S.RETURNING: "RETURN_SCAN",
        S.RETURNED: "RETURN_SIGNED",
    },
    "sto": {
        S.PICKED_UP: "收件 PU_PICKUP_SUCCESS",
        S.IN_TRANSIT: "发件 到件 转邮 转同行 MOT_TRANSIT LH_DEPART LH_ARRIVE CC_IM_SUCCESS GOT",
        S.OUT_FOR_DELIVERY: "派件 第三方代派 快件取出",
        S.READY_FOR_PICKUP: "柜机代收 驿站代收 驿站出库",
        S.DELIVERED: "签收",
        S.DELIVERY_FAILED: "问题件",
        S.RETURNING: "退回件",
        S.HELD_IN_CUSTOMS: "CC_IM_START CC_IM_FAILURE",
        None: "改地址件",
    },
    "yto": {
        S.PICKED_UP: "GOT",
        S.IN_TRANSIT: "ARRIVAL DEPARTURE AIRSEND AIRPICK FORWARDING",
        S.OUT_FOR_DELIVERY: "SENT_SCAN",
        S.READY_FOR_PICKUP: "INBOUND",
        S.DELIVERED: "SIGNED",
        S.DELIVERY_FAILED: "FAILED",
        S.RETURNING: "TMS_RETURN",
    },
    "yunda": {
        S.PICKED_UP: "ACCEPT GOT",
        S.IN_TRANSIT: "ARRIVAL DEPARTURE TRANSFER OVERSEA_IN OVERSEA_OUT OVERSEA_ARRIVAL OVERSEA_DEPARTURE "
        "CLEARANCE_FINISH",
        S.OUT_FOR_DELIVERY: "SENT OUTBOUND",
        S.READY_FOR_PICKUP: "INBOUND",
        S.DELIVERED: "SIGNED",
        S.DELIVERY_FAILED: "SIGNFAIL ISSUE",
        S.REFUSED: "REJECTION",
        S.RETURNING: "RETURN",
        S.HELD_IN_CUSTOMS: "CLEARANCE_START CLEARANCE_FAIL",
        None: "OTHER",
    },
    "jdl": {
        S.LABEL_CREATED: "100 390",
        S.PICKED_UP: "420",
        S.IN_TRANSIT: "430",
        S.OUT_FOR_DELIVERY: "440",
        S.RETURNING: "480",
        S.DELIVERED: "510",
        S.REFUSED: "530",
        None: "403 500 690 700",
    },
    "cainiao": {
        S.PICKED_UP: "00 ACCEPT",
        S.IN_TRANSIT: "01 02 13 TRANSPORT",
        S.AT_DESTINATION: "03",
        S.OUT_FOR_DELIVERY: "04 DELIVERING",
        S.READY_FOR_PICKUP: "AGENT_SIGN",
        S.DELIVERY_FAILED: "05",
        S.REFUSED: "06",
        S.DELIVERED: "07 SIGN",
        S.RETURNING: "08 09 10 12",
        S.RETURNED: "11",
    },
    "kdniao": {
        S.LABEL_CREATED: "10 401",
        S.PICKED_UP: "1",
        S.IN_TRANSIT: "2 204 206 402 403 417 422 5 603",
        S.AT_DESTINATION: "201 205",
        S.OUT_FOR_DELIVERY: "202 418 419",
        S.READY_FOR_PICKUP: "211 412",
        S.DELIVERED: "3 301 302 304 311",
        S.DELIVERY_FAILED: "4 405 415 416 420 421 423",
        S.REFUSED: "404",
        S.RETURNED: "406",
        S.RETURNING: "407 413",
        S.DAMAGED: "414",
        S.HELD_IN_CUSTOMS: "6 601 602 604",
        None: "0",
    },
    "kuaidi100": {
        S.LABEL_CREATED: "101 102",
        S.PICKED_UP: "1 103",
        S.IN_TRANSIT: "0 7 12 1002 1003 201 202 208",
        S.AT_DESTINATION: "1001",
        S.OUT_FOR_DELIVERY: "5",
        S.READY_FOR_PICKUP: "501 205",
        S.DELIVERED: "3 301 302 303 304",
        S.DELIVERY_FAILED: "2 204 206 207",
        S.REFUSED: "14 203",
        S.DAMAGED: "209",
        S.RETURNING: "6",
        S.RETURNED: "4",
        S.HELD_IN_CUSTOMS: "8 10 11 13",
        None: "210 401",
    },
    "easypost": {
        S.LABEL_CREATED: "pre_transit",
        S.IN_TRANSIT: "in_transit",
        S.OUT_FOR_DELIVERY: "out_for_delivery",
        S.READY_FOR_PICKUP: "available_for_pickup",
        S.DELIVERED: "delivered",
        S.RETURNING: "return_to_sender",
        S.DELIVERY_FAILED: "failure",
        None: "unknown cancelled error",
    },
}
"""The codes that each carrier publishes for its pushes."""


@pytest.mark.parametrize("source", PUBLISHED)
def test_published_codes_are_known(source: str) -> None:
    for status, codes in PUBLISHED[source].items():
        for code in codes.split():
            (scan,) = parse(source, route(source, code))
            assert (scan.status, scan.unknown) == (status, False), code
            assert scan.code.startswith(code.lstrip("0") if source == "jdl" else code)


@pytest.mark.parametrize("source", PUBLISHED)
def test_unknown_code_is_kept_as_it_came_and_marked(source: str) -> None:
    code = "98765" if source == "jdl" else "BRAND_NEW"
    (scan,) = parse(source, route(source, code))
    assert (scan.code, scan.status, scan.unknown) == (code, None, True)


@pytest.mark.parametrize("source", ["sf", "yunda", "cainiao", "kdniao", "kuaidi100", "easypost"])
@pytest.mark.parametrize("odd", [{"time": ""}, {"time": None}, {"time": "gestern"}, "text", None, 7])
def test_odd_route_loses_no_other_and_is_reported(source: str, odd: Any) -> None:
    code = next(iter(PUBLISHED[source].values())).split()[0]
    good = route(source, code)
    clock = next(name for name, value in good.items() if "10:00:00" in str(value))
    broken = {**good, clock: odd["time"]} if isinstance(odd, dict) else odd
    for routes in ([broken, good, good], [good, broken, good], [good, good, broken]):
        scans = parse(source, *routes)
        assert isinstance(scans, Scans)
        assert [scan.code for scan in scans] == [code, code]
        assert scans.fault is not None
        assert f"[{routes.index(broken)}]" in scans.fault.field
    with pytest.raises(Unintelligible):
        parse(source, broken)


def test_route_without_an_id_is_known_by_its_content() -> None:
    for missing in ({}, {"id": None}, {"id": ""}):
        fields = {name: value for name, value in route("sf", "50").items() if name != "id"} | missing
        (scan,), (again,) = parse("sf", fields), parse("sf", fields)
        assert scan == again
        assert scan.scan_id != parse("sf", {**fields, "opCode": "80"})[0].scan_id


@pytest.mark.parametrize(
    ("code", "more", "status", "unknown"),
    [
        ("655", {"firstStatusCode": "7", "secondaryStatusCode": "701"}, S.LABEL_CREATED, False),
        ("655", {"firstStatusCode": "11"}, S.READY_FOR_PICKUP, False),
        ("9001", {"firstStatusCode": "1"}, S.PICKED_UP, False),
        ("9001", {"firstStatusCode": 2}, S.IN_TRANSIT, False),
        ("9001", {"firstStatusCode": "3", "secondaryStatusCode": "301"}, S.OUT_FOR_DELIVERY, False),
        ("9001", {"secondaryStatusCode": "401"}, S.DELIVERED, False),
        ("9001", {"firstStatusCode": "13", "secondaryStatusCode": "1301"}, S.DELIVERY_FAILED, False),
        ("9001", {"firstStatusCode": "4", "remark": "退件签收"}, S.RETURNED, False),
        ("9001", {"firstStatusCode": "-", "secondaryStatusCode": "0"}, None, True),
        ("80", {"firstStatusCode": "3"}, S.OUT_FOR_DELIVERY, False),
        ("80", {"firstStatusCode": "4"}, S.DELIVERED, False),
        ("106", {"firstStatusCode": "2"}, S.AT_DESTINATION, False),
        ("605", {"secondaryStatusCode": "204"}, S.HELD_IN_CUSTOMS, False),
        ("8000", {"reasonCode": "6"}, S.LOST, False),
        ("70", {"reasonCode": "83"}, S.READY_FOR_PICKUP, False),
    ],
)
def test_sf_classes_stand_in_for_operation_codes(
    code: str, more: dict[str, Any], status: S | None, unknown: bool
) -> None:
    (scan,) = parse("sf", route("sf", code, **more))
    assert (scan.status, scan.unknown) == (status, unknown)


ZTO_QUERY = {
    S.PICKED_UP: "收件 1",
    S.IN_TRANSIT: "发件 到件 转单 安检 2 3 9",
    S.OUT_FOR_DELIVERY: "派件 DELIVERY 4 45",
    S.READY_FOR_PICKUP: "ARRIVAL 7 44",
    S.DELIVERED: "签收 SIGNED 5",
    S.DELIVERY_FAILED: "问题件 DEPARTURE",
    S.RETURNING: "退件 8",
    S.RETURNED: "退件完成",
    None: "事件",
}


def test_zto_query_has_a_vocabulary_of_its_own() -> None:
    def step(code: str, **more: Any) -> Scan:
        fields = {"scanDate": 1_763_600_000_000, "scanType": code, **more}
        return zto._Step.model_validate(fields).scan("1")

    for status, codes in ZTO_QUERY.items():
        for code in codes.split():
            assert (step(code).status, step(code).unknown) == (status, False), code
    assert step("GOT").unknown
    assert step("退件", returnType="3").status is S.IN_TRANSIT
    assert parse("zto", route("zto", "RETURN_SCAN", returnType="6"))[0].status is S.IN_TRANSIT
    assert step("签收", desc="李四 来取", signMan="李四", operateUser="王五").text == "*** 来取"


@pytest.mark.parametrize(
    ("category", "state", "status"),
    [
        (430, "200075", S.AT_DESTINATION),
        (440, "200051", S.READY_FOR_PICKUP),
        (510, "10042", S.REFUSED),
        (440, "200003", S.DELIVERY_FAILED),
        (510, "10034", S.DELIVERED),
        (430, "200076", S.IN_TRANSIT),
        (999, "200054", S.RETURNED),
    ],
)
def test_jdl_state_is_more_precise_than_its_category(category: int, state: str, status: S) -> None:
    (scan,) = parse("jdl", route("jdl", str(category), state=state))
    assert (scan.status, scan.unknown) == (status, False)


@pytest.mark.parametrize(("source", "carrier"), [("kdniao", "sf"), ("kuaidi100", "zto"), ("easypost", "ups")])
def test_aggregators_name_the_carrier(source: str, carrier: str) -> None:
    code = next(iter(PUBLISHED[source].values())).split()[0]
    assert parse(source, route(source, code))[0].carrier == carrier


@pytest.mark.parametrize(
    ("source", "code", "fields"),
    [
        ("zto", "SIGNED", {"expressSigner": "李小明", "desc": "李小明 取走了"}),
        ("zto", "DISPATCH", {"courier": "李小明", "desc": "今天李小明值班"}),
        ("sto", "签收", {"signoffPeople": "李小明", "memo": "李小明 取走了"}),
        ("sto", "派件", {"bizEmpName": "李小明", "memo": "今天李小明值班"}),
        ("yto", "SIGNED", {"name": "李小明", "remark": "李小明 取走了"}),
    ],
)
def test_names_in_fields_are_masked_in_the_text(source: str, code: str, fields: dict[str, str]) -> None:
    (scan,) = parse(source, route(source, code, **fields))
    assert "李小明" not in scan.text
    assert "***" in scan.text
