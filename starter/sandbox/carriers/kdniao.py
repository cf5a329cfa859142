"""Kdniao's twin: electronic waybills, queries, subscriptions, and pushes of several parcels each.

Its account has 在途监控: each step has its own code, and pushes are 102. A push holds the whole trace of a parcel with
a subscription, and only the new steps of a parcel booked here. ``DataSign`` has no padding, as in the captured push.
All couriers get numbers like those of STO.

Account: ``base_url`` ``{sandbox}/kdniao``; secrets ``SECRETS`` and your own ``push_secret``; settings
``SETTINGS``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import md5
from hmac import compare_digest
from typing import Any
from urllib.parse import urlencode

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Parcels, Route, carriers_of, china_time

SECRETS = {"business_id": "test1462056", "app_key": "954b344c-c8cd-494d-ad63-4968cb07f1e9"}
PATH = ""
SETTINGS: dict[str, Any] = {"courier": "sto", "monitor": True}
BOOK = "1007"

_SHIPPERS = {
    "sf": "SF",
    "yto": "YTO",
    "sto": "STO",
    "zto": "ZTO",
    "yunda": "YD",
    "jdl": "JD",
    "ems": "EMS",
    "debang": "DBL",
}

_TO_DELIVERY = (
    {"code": "1", "text": "【北京市】已揽收,揽收员:王五", "place": "北京市"},
    {"code": "204", "text": "【北京市】到达北京转运中心", "place": "北京市"},
    {"code": "201", "text": "【绍兴市】到达派件城市", "place": "绍兴市"},
    {"code": "202", "text": "【绍兴市】正在派件(派件人:李四,电话:13700000000)", "place": "绍兴市"},
)
_RETURN = {"code": "406", "text": "【北京市】退货已签收", "place": "北京市"}
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "301", "text": "【绍兴市】已签收,签收人:本人", "place": "绍兴市"}),
    "refused": (
        *_TO_DELIVERY,
        {"code": "404", "text": "【绍兴市】收件人拒收", "place": "绍兴市"},
        {"code": "407", "text": "【绍兴市】退货途中", "place": "绍兴市"},
        _RETURN,
    ),
    "failed": (*_TO_DELIVERY, {"code": "416", "text": "【绍兴市】无法联系收件人", "place": "绍兴市"}),
    "wrong_address": (*_TO_DELIVERY, {"code": "420", "text": "【绍兴市】收货地址不详细", "place": "绍兴市"}),
    "lost": (*_TO_DELIVERY[:2], {"code": "4", "text": "【绍兴市】快件遗失", "place": "绍兴市"}),
    "damaged": (*_TO_DELIVERY[:2], {"code": "414", "text": "【绍兴市】快件破损", "place": "绍兴市"}),
    "silent": (),
    "intercepted": ({"code": "413", "text": "【北京市】单号已拦截", "place": "北京市"}, _RETURN),
}


class Refusal(Exception):
    """A result code and its reason."""


def _sign(data: str) -> str:
    return b64encode(md5((data + SECRETS["app_key"]).encode(), usedforsecurity=False).hexdigest().encode()).decode()


def _traces(number: str, routes: Sequence[Route]) -> dict[str, Any]:
    """Return a parcel with its trace, oldest step first."""
    in_order = sorted(routes, key=lambda route: route.at)
    latest = in_order[-1].code if in_order else "0"
    return {
        "EBusinessID": SECRETS["business_id"],
        "LogisticCode": number,
        "Success": True,
        "Reason": "" if in_order else "暂无轨迹信息",
        "State": latest[:1],
        "StateEx": latest,
        "Traces": [
            {
                "AcceptTime": china_time(route.at),
                "AcceptStation": route.text,
                "Location": route.place,
                "Action": route.code,
                "Remark": "",
            }
            for route in in_order
        ],
    }


_shippers: dict[str, str] = {}
"""The courier of each parcel that was booked or subscribed to."""


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    numbers = dict.fromkeys(route.waybill_no for route in routes)
    pushed = [
        {
            "ShipperCode": _shippers.get(number, ""),
            **_traces(
                number,
                parcels.routes(number)
                if parcels.followed(number)
                else [route for route in routes if route.waybill_no == number],
            ),
        }
        for number in numbers
    ]
    push = {
        "EBusinessID": SECRETS["business_id"],
        "PushTime": china_time(datetime.now(UTC)),
        "Count": str(len(pushed)),
        "Data": pushed,
    }
    data = json.dumps(push, ensure_ascii=False)
    form = {"RequestData": data, "DataSign": _sign(data).rstrip("="), "RequestType": "102"}
    return {"Content-Type": "application/x-www-form-urlencoded;charset=utf-8"}, urlencode(form).encode()


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("Success") is True


router = APIRouter()
parcels = Parcels(
    router,
    number=lambda n: f"773{n + 28_190_000_000:012}",
    journeys=JOURNEYS,
    size=10,
    render=_render,
    accepted=_accepted,
)


@router.post("/api/EOrderService")
@router.post("/api/dist")
@router.post("/Ebusiness/EbusinessOrderHandle.aspx")
async def interface(request: Request) -> Response:
    form = await request.form()
    request_type, data = str(form.get("RequestType", "")), str(form.get("RequestData", ""))

    async def work() -> Response:
        answer: dict[str, Any] = {"EBusinessID": SECRETS["business_id"], "UpdateTime": china_time(datetime.now(UTC))}
        try:
            if form.get("EBusinessID") != SECRETS["business_id"]:
                raise Refusal("104", "用户问题")
            if not compare_digest(str(form.get("DataSign", "")), _sign(data)):
                raise Refusal("102", "DataSign错误")
            path, handle = _INTERFACES.get(request_type, ("", None))
            if handle is None or not request.url.path.endswith(path):
                raise Refusal("103", "RequestType错误")
            answer |= {"Success": True, "ResultCode": "100", "Reason": "", **handle(json.loads(data))}
        except Refusal as refusal:
            answer |= {"Success": False, "ResultCode": refusal.args[0], "Reason": refusal.args[1]}
        return JSONResponse(answer)

    return await faults.play("kdniao", request_type, data, work)


def _book(data: Mapping[str, Any]) -> dict[str, Any]:
    if data.get("ShipperCode") not in _SHIPPERS.values():
        raise Refusal("105", "快递公司不支持")
    if not 0 < len(data.get("OrderCode", "")) <= 30:
        raise Refusal("103", "OrderCode格式错误")
    for role in ("Sender", "Receiver"):
        person = data.get(role, {})
        for part in ("Name", "ProvinceName", "CityName", "ExpAreaName", "Address"):
            if not person.get(part):
                raise Refusal("101", f"{role}.{part}不能为空")
        if not (person.get("Mobile") or person.get("Tel")):
            raise Refusal("101", f"{role}.Mobile不能为空")
    cash = next((each["Value"] for each in data.get("AddService", []) if each["Name"] == "COD"), "")
    booking, new = parcels.book(data["OrderCode"], data.get("Weight", 0), cash)
    _shippers[booking.waybill_no] = data["ShipperCode"]
    order = {
        "OrderCode": booking.reference,
        "ShipperCode": data["ShipperCode"],
        "LogisticCode": booking.waybill_no,
        "MarkDestination": "320-061-00",
        "PackageName": "绍兴集包",
        "OriginName": "北京大兴",
        "DestinatioName": "绍兴上虞",
    }
    return {"Order": order} if new else {"ResultCode": "106", "Reason": "该订单号已下单成功", "Order": order}


def _cancel(data: Mapping[str, Any]) -> dict[str, Any]:
    booking = parcels.bookings.get(data.get("OrderCode", ""))
    if booking is None:
        raise Refusal("105", "订单不存在")
    if booking.cancelled:
        raise Refusal("105", "订单已取消")
    if booking.routes:
        raise Refusal("105", "快件已揽收,不能取消")
    booking.cancelled = True
    return {}


def _waybill_no(data: Mapping[str, Any]) -> str:
    """Return the waybill number of a request that names a courier."""
    number = str(data.get("LogisticCode", ""))
    if not number or data.get("ShipperCode") not in _SHIPPERS.values():
        raise Refusal("101", "缺少必要参数")
    return number


def _query(data: Mapping[str, Any]) -> dict[str, Any]:
    number = _waybill_no(data)
    matches = data["ShipperCode"] in [_SHIPPERS[carrier] for carrier in carriers_of(number)]
    return {"ShipperCode": data["ShipperCode"], **_traces(number, parcels.routes(number) if matches else [])}


def _plain_query(data: Mapping[str, Any]) -> dict[str, Any]:
    found = _query(data)
    plain = [{name: step[name] for name in ("AcceptTime", "AcceptStation", "Remark")} for step in found["Traces"]]
    return {**found, "StateEx": "", "Traces": plain}


def _subscribe(data: Mapping[str, Any]) -> dict[str, Any]:
    number = _waybill_no(data)
    _shippers[number] = data["ShipperCode"]
    parcels.follow(number)
    return {}


def _candidates(data: Mapping[str, Any]) -> dict[str, Any]:
    found = [_SHIPPERS[carrier] for carrier in carriers_of(str(data.get("LogisticCode", "")))]
    return {"Code": "100", "Shippers": [{"ShipperCode": code, "ShipperName": code} for code in found]}


_INTERFACES = {
    "1007": ("/api/EOrderService", _book),
    "1147": ("/api/EOrderService", _cancel),
    "1008": ("/api/dist", _subscribe),
    "8008": ("/api/dist", _subscribe),
    "1002": ("/EbusinessOrderHandle.aspx", _plain_query),
    "8001": ("/EbusinessOrderHandle.aspx", _query),
    "2002": ("/EbusinessOrderHandle.aspx", _candidates),
}
