"""SF Express's twin: the gateway of 丰桥 with its digest and two-level results, and pushes of routes.

Account: ``base_url`` ``{sandbox}/sf``; secrets ``SECRETS`` and your own ``push_secret``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import md5
from hmac import compare_digest
from math import ceil
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Booking, Parcels, Route, china_time

SECRETS = {"partner_id": "HDSANDBOX", "check_word": "fjcg5PGKaNpPSHFAZ4QsCOkV71R3zVci"}
PATH = ""
"""The path of its interfaces, below the twin."""
SETTINGS: dict[str, str] = {}
BOOK = "EXP_RECE_CREATE_ORDER"
"""The operation that books, as named in faults."""

_TO_DELIVERY = (
    {"code": "50", "text": "顺丰速运 已收取快件", "place": "青浦区"},
    {"code": "30", "text": "快件在【华新营业点】完成分拣,准备发往 【上海集散中心】", "place": "上海市"},
    {"code": "36", "text": "快件离开 【上海集散中心】", "place": "上海市"},
    {"code": "31", "text": "快件到达 【杭州中转场】", "place": "杭州市"},
    {"code": "44", "text": "正在派送途中,请您准备签收(派件人:李四,电话:13700000000)", "place": "杭州市"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "80", "text": "已签收,感谢使用顺丰,期待再次为您服务", "place": "杭州市"}),
    "refused": (
        *_TO_DELIVERY,
        {"code": "70", "text": "派件不成功,收方客户拒收", "place": "杭州市", "reason": "拒收"},
        {"code": "99", "text": "应客户要求,快件正在退回中", "place": "杭州市"},
        {"code": "80", "text": "快件已退回寄件方并签收", "place": "青浦区"},
    ),
    "failed": (*_TO_DELIVERY, {"code": "70", "text": "派件不成功,无法联系收方客户", "place": "杭州市"}),
    "silent": (),
    "intercepted": (
        {"code": "99", "text": "应客户要求,快件正在退回中", "place": "上海市"},
        {"code": "80", "text": "快件已退回寄件方并签收", "place": "青浦区"},
    ),
}


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    pushed = [
        {
            "mailno": route.waybill_no,
            "acceptAddress": route.place,
            "reasonName": route.reason,
            "orderid": route.reference,
            "acceptTime": china_time(route.at),
            "remark": route.text,
            "opCode": route.code,
            "id": route.id,
            "reasonCode": "",
        }
        for route in routes
    ]
    body = json.dumps({"Body": {"WaybillRoute": pushed}}, ensure_ascii=False).encode()
    return {"Content-Type": "application/json;charset=UTF-8"}, body


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("return_code") == "0000"


router = APIRouter()
parcels = Parcels(
    router,
    number=lambda n: f"SF{7_444_400_000_000 + n}",
    journeys=JOURNEYS,
    size=10,
    render=_render,
    accepted=_accepted,
)


class PlatformRefusal(Exception):
    """A refusal of the platform."""


class Refusal(Exception):
    """A refusal of the service behind the platform."""


@router.post("/std/service")
async def service(request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    code = form.get("serviceCode", "")

    async def work() -> Response:
        try:
            _authenticate(form)
            if code not in _SERVICES:
                raise PlatformRefusal("A1004", "无对应服务权限")
            result = {"success": True, "errorCode": "S0000", "errorMsg": None}
            result["msgData"] = _SERVICES[code](json.loads(form["msgData"]))
        except PlatformRefusal as refusal:
            return _envelope(refusal.args[0], refusal.args[1], "")
        except Refusal as refusal:
            result = {"success": False, "errorCode": refusal.args[0], "errorMsg": refusal.args[1], "msgData": None}
        return _envelope("A1000", "", json.dumps(result, ensure_ascii=False))

    return await faults.play("sf", code, form.get("msgData", ""), work)


def _envelope(code: str, message: str, data: str) -> Response:
    return JSONResponse(
        {"apiResultCode": code, "apiErrorMsg": message, "apiResponseID": "00018A", "apiResultData": data}
    )


def _authenticate(form: Mapping[str, str]) -> None:
    for name in ("partnerID", "requestID", "serviceCode", "timestamp", "msgData"):
        if not form.get(name):
            raise PlatformRefusal("A1001", "必传参数不可为空")
    text = quote_plus(form["msgData"] + form["timestamp"] + SECRETS["check_word"], safe="*").replace("~", "%7E")
    expected = b64encode(md5(text.encode(), usedforsecurity=False).digest())
    authentic = form["partnerID"] == SECRETS["partner_id"]
    if not (authentic and compare_digest(expected, form.get("msgDigest", "").encode())):
        raise PlatformRefusal("A1006", "数字签名无效")


def _create(message: Mapping[str, Any]) -> dict[str, Any]:
    order_id = message.get("orderId", "")
    if not (order_id and len(order_id) <= 64 and message.get("cargoDetails") and message.get("expressTypeId")):
        raise Refusal("S0002", "必填参数为空")
    for contact in message["contactInfoList"]:
        receiver = contact["contactType"] == 2
        if not contact.get("address"):
            raise Refusal("1014" if receiver else "1010", "地址不能为空")
        if not contact.get("contact"):
            raise Refusal("1015" if receiver else "1011", "联系人不能为空")
        if not (contact.get("mobile") or contact.get("tel")):
            raise Refusal("1016" if receiver else "1012", "电话不能为空")
    cash = next((each["value"] for each in message.get("serviceList", []) if each["name"] == "COD"), "")
    booking, new = parcels.book(order_id, message.get("totalWeight", 0), cash)
    if not new:
        raise Refusal("8016", "重复下单")
    return _order(booking)


def _order(booking: Booking) -> dict[str, Any]:
    label = {
        "destRouteLabel": "571WB-BB-018",
        "twoDimensionCode": f"MMM={{'k1':'571W','k2':'571WB','k4':'T4','k5':'{booking.waybill_no}'}}",
        "proCode": "T4",
    }
    return {
        "orderId": booking.reference,
        "originCode": "021",
        "destCode": "571",
        "filterResult": 2,
        "waybillNoInfoList": [{"waybillType": 1, "waybillNo": booking.waybill_no}],
        "routeLabelInfo": [{"code": "1000", "routeLabelData": label, "message": "SF"}],
    }


def _known(message: Mapping[str, Any]) -> Booking:
    booking = parcels.bookings.get(message.get("orderId", ""))
    if booking is None:
        raise Refusal("8018", "未获取到订单信息")
    return booking


def _search(message: Mapping[str, Any]) -> dict[str, Any]:
    return _order(_known(message))


def _update(message: Mapping[str, Any]) -> dict[str, Any]:
    booking = _known(message)
    if booking.cancelled:
        raise Refusal("8037", "已消单")
    if booking.routes:
        raise Refusal("8252", "订单已确认")
    booking.cancelled = message.get("dealType") == 2
    numbers = [{"waybillType": 1, "waybillNo": booking.waybill_no}]
    return {"orderId": booking.reference, "waybillNoInfoList": numbers, "resStatus": 2}


def _track(message: Mapping[str, Any]) -> dict[str, Any]:
    if len(message["trackingNumber"]) > 10:
        raise Refusal("8003", "一次最多查询10个单号")
    return {
        "routeResps": [
            {
                "mailNo": waybill_no,
                "routes": [
                    {
                        "acceptTime": china_time(each.at),
                        "acceptAddress": each.place,
                        "remark": each.text,
                        "opCode": each.code,
                    }
                    for each in parcels.routes(waybill_no)
                ],
            }
            for waybill_no in message["trackingNumber"]
        ]
    }


def _intercept(message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("serviceCode") != "2" or not parcels.intercept(message.get("waybillNo", "")):
        raise Refusal("8252", "当前状态不能拦截")
    return {"waybillNo": message["waybillNo"]}


def _prices(message: Mapping[str, Any]) -> dict[str, Any]:
    if not (message["srcAddress"].get("province") and message["destAddress"].get("province")):
        raise Refusal("S0002", "地址不能为空")
    day = datetime.fromisoformat(message["consignedTime"]).date() + timedelta(days=2)
    fee = 20 + max(0, ceil(message["weight"]) - 1) * 8
    window = f"{day} 09:00:00,{day} 18:00:00"
    return {"deliverTmDto": [{"businessType": message["businessType"], "fee": fee, "deliverTime": window}]}


_SERVICES = {
    "EXP_RECE_QUERY_DELIVERTM": _prices,
    "EXP_RECE_WANTED_INTERCEPT": _intercept,
    "EXP_RECE_CREATE_ORDER": _create,
    "EXP_RECE_SEARCH_ORDER_RESP": _search,
    "EXP_RECE_UPDATE_ORDER": _update,
    "EXP_RECE_SEARCH_ROUTES": _track,
}
