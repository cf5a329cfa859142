"""STO's twin: one gateway that checks digests, and pushes of one scan each.

Account: ``base_url`` ``{sandbox}/sto/gateway/link.do``; secrets ``SECRETS`` and your own ``push_secret``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import md5
from hmac import compare_digest
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Parcels, Route, china_time

SECRETS = {"app_key": "HDSTO", "secret": "s7oS3cret"}
PATH = "/gateway/link.do"
SETTINGS: dict[str, Any] = {}
BOOK = "OMS_EXPRESS_ORDER_CREATE"

_TO_DELIVERY = (
    {"code": "收件", "text": "上海青浦公司-王五 已收件", "place": "上海市"},
    {"code": "发件", "text": "快件由上海转运中心发往杭州转运中心", "place": "上海市"},
    {"code": "到件", "text": "快件已到达杭州转运中心", "place": "杭州市"},
    {"code": "派件", "text": "正在派件,派件员:李四,电话:13700000000", "place": "杭州市"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "签收", "text": "已签收", "place": "杭州市", "signer": "本人"}),
    "refused": (
        *_TO_DELIVERY,
        {"code": "问题件", "text": "", "reason": "客户拒收", "place": "杭州市"},
        {"code": "退回件", "text": "快件退回", "place": "杭州市"},
        {"code": "签收", "text": "退回件已签收", "place": "上海市", "signer": "退件签收"},
    ),
    "failed": (*_TO_DELIVERY, {"code": "问题件", "reason": "电话无人接听", "place": "杭州市"}),
    "wrong_address": (*_TO_DELIVERY, {"code": "问题件", "reason": "地址不详", "place": "杭州市"}),
    "lost": (*_TO_DELIVERY[:3], {"code": "问题件", "reason": "快件遗失", "place": "杭州市"}),
    "damaged": (*_TO_DELIVERY[:3], {"code": "问题件", "reason": "快件破损", "place": "杭州市"}),
    "silent": (),
    "intercepted": (),
}


def _digest(content: str) -> str:
    return b64encode(md5((content + SECRETS["secret"]).encode(), usedforsecurity=False).digest()).decode()


def _trace(route: Route) -> dict[str, Any]:
    return {
        "outBizCode": route.id,
        "opOrgName": f"{route.place}公司",
        "opOrgCityName": route.place,
        "opTime": china_time(route.at),
        "scanType": route.code,
        "memo": route.text,
        "issueName": route.reason,
        "signoffPeople": route.signer,
    }


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    (route,) = routes
    push = {"waybillNo": route.waybill_no, "linkCode": route.reference, "trace": _trace(route)}
    content = json.dumps(push, ensure_ascii=False)
    form = {"content": content, "data_digest": _digest(content), "api_name": "STO_TRACE_PLATFORM_PUSH"}
    return {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}, urlencode(form).encode()


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("success") == "true"


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: str(777_031_000_000_000 + n), journeys=JOURNEYS, size=1, render=_render, accepted=_accepted
)


class Refusal(Exception):
    """An error code and its message."""


@router.post("/gateway/link.do")
async def gateway(request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    api = form.get("api_name", "")

    async def work() -> Response:
        try:
            authentic = form.get("from_appkey") == SECRETS["app_key"]
            if not (authentic and compare_digest(_digest(form["content"]), form.get("data_digest", ""))):
                raise Refusal("S02", "非法的数据签名")
            if api not in _APIS:
                raise Refusal("S01", "非法的接口")
            data = _APIS[api](json.loads(form["content"]))
        except Refusal as refusal:
            code, message = refusal.args
            return JSONResponse({"success": "false", "errorCode": code, "errorMsg": message, "data": None})
        return JSONResponse({"success": "true", "errorCode": None, "errorMsg": None, "data": data})

    return await faults.play("sto", api, form.get("content", ""), work)


def _create(message: Mapping[str, Any]) -> dict[str, Any]:
    for role in ("sender", "receiver"):
        for part in ("name", "mobile", "province", "city", "address"):
            if not message[role].get(part):
                raise Refusal("001", f"{role}.{part} 不能为空")
    booking, new = parcels.book(message["orderNo"], message["cargo"]["weight"], message.get("codValue", ""))
    if not new:
        raise Refusal("006", "订单号重复")
    return _order(booking)


def _order(booking: Any) -> dict[str, Any]:
    return {
        "orderNo": booking.reference,
        "waybillNo": booking.waybill_no,
        "bigWord": "310-A12-03",
        "packagePlace": "杭州转运",
    }


def _find(message: Mapping[str, Any]) -> dict[str, Any]:
    booking = parcels.bookings.get(message["orderId"])
    if booking is None:
        raise Refusal("404", "订单不存在")
    return _order(booking)


def _cancel(message: Mapping[str, Any]) -> None:
    booking = parcels.bookings.get(message["sourceOrderId"])
    if booking is None:
        raise Refusal("404", "订单不存在")
    if booking.cancelled:
        raise Refusal("405", "订单已取消")
    if booking.routes:
        raise Refusal("406", "快件已揽收")
    booking.cancelled = True


def _track(message: Mapping[str, Any]) -> dict[str, Any]:
    return {number: [_trace(route) for route in parcels.routes(number)] for number in message["waybillNoList"]}


_APIS = {
    "OMS_EXPRESS_ORDER_CREATE": _create,
    "GET_ORDERDISPATCH_INFO": _find,
    "EDI_MODIFY_ORDER_CANCEL": _cancel,
    "STO_TRACE_QUERY_COMMON": _track,
}
