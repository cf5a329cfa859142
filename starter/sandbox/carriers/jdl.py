"""JD Logistics's twin: ECAP's interfaces behind LOP's signature, pushes of one trace each.

Account: ``base_url`` ``{sandbox}/jdl``; secrets ``SECRETS`` and your own ``push_secret``.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import md5
from hmac import compare_digest
from typing import Any

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Booking, Parcels, Route, china_time

SECRETS = {"app_key": "9af8c2d1e0", "app_secret": "b64de1f0a2c4", "access_token": "c7d1f5a98e"}
PATH = ""
SETTINGS = {"customer_code": "010K00001"}
BOOK = "create"

_TO_DELIVERY = (
    {"code": "420", "text": "您的快件已由【上海青浦营业部】揽收完成", "place": "上海市"},
    {"code": "430", "text": "您的快件在【上海分拣中心】分拣完成", "place": "上海市"},
    {"code": "430", "text": "您的快件已到达【杭州营业部】", "place": "杭州市"},
    {"code": "440", "text": "您的快件正在派送中,派件人:李四,电话:13700000000", "place": "杭州市"},
)
_RETURN = (
    {"code": "430", "text": "您的快件正在退回寄件方", "place": "杭州市"},
    {"code": "510", "text": "您的快件已退回寄件方并签收", "place": "上海市"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "510", "text": "您的快件已签收,感谢使用京东物流", "place": "杭州市"}),
    "refused": (*_TO_DELIVERY, {"code": "530", "text": "收件人拒收", "place": "杭州市"}, *_RETURN),
    "failed": (*_TO_DELIVERY, {"code": "440", "text": "无法联系收件人,快件再投", "place": "杭州市"}),
    "silent": (),
    "intercepted": _RETURN,
    "lost": (*_TO_DELIVERY[:2], {"code": "430", "text": "您的快件疑似丢失,正在查找", "place": "上海市"}),
    "damaged": (*_TO_DELIVERY[:2], {"code": "430", "text": "您的快件外包装破损", "place": "上海市"}),
    "wrong_address": (*_TO_DELIVERY, {"code": "440", "text": "地址不详,快件再投", "place": "杭州市"}),
}


def _trace(route: Route) -> dict[str, Any]:
    return {
        "waybillCode": route.waybill_no,
        "orderId": route.reference,
        "operationTime": china_time(route.at),
        "operationTitle": "",
        "operationRemark": route.text,
        "category": int(route.code),
        "state": route.id,
        "operateSite": route.place,
    }


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    body = json.dumps(_trace(routes[0]), ensure_ascii=False).encode()
    return {"Content-Type": "application/json;charset=UTF-8"}, body


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("success") is True


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: f"JDVA{5_000_000_000 + n}", journeys=JOURNEYS, size=1, render=_render, accepted=_accepted
)


class Refusal(Exception):
    pass


@router.post("/ecap/v1/orders/{interface:path}")
async def orders(interface: str, request: Request) -> Response:
    body = (await request.body()).decode()
    query = dict(request.query_params)

    async def work() -> Response:
        try:
            _authenticate(request.url.path.removeprefix("/jdl"), query, body)
        except Refusal as refusal:
            return JSONResponse({"error_response": {"code": refusal.args[0], "zh_desc": refusal.args[1]}})
        answer: dict[str, Any] = {"code": 0, "success": True, "msg": "成功", "mills": 12}
        try:
            (message,) = json.loads(body)
            if message.get("orderOrigin") != 1 or message.get("customerCode") != SETTINGS["customer_code"]:
                raise Refusal(10001, "客户编码不能为空")
            answer["data"] = _INTERFACES[interface](message)
        except Refusal as refusal:
            answer |= {"code": refusal.args[0], "success": False, "msg": refusal.args[1], "data": None}
        return JSONResponse(answer)

    return await faults.play("jdl", interface, body, work)


def _authenticate(path: str, query: Mapping[str, str], body: str) -> None:
    if query.get("app_key") != SECRETS["app_key"] or query.get("access_token") != SECRETS["access_token"]:
        raise Refusal("19", "无效access_token")
    parts = {**query, "method": path, "param_json": body}
    names = ("access_token", "app_key", "method", "param_json", "timestamp", "v")
    text = "".join(name + parts.get(name, "") for name in names)
    secret = SECRETS["app_secret"]
    expected = md5(f"{secret}{text}{secret}".encode(), usedforsecurity=False).hexdigest()
    if query.get("algorithm") != "md5-salt" or not compare_digest(expected, query.get("sign", "").lower()):
        raise Refusal("12", "无效签名")


def _create(message: Mapping[str, Any]) -> dict[str, Any]:
    for role in ("senderContact", "receiverContact"):
        contact = message.get(role, {})
        if not (contact.get("name") and (contact.get("mobile") or contact.get("phone"))):
            raise Refusal(10002, f"{role}不能为空")
        if not any(letter.isdigit() for letter in contact.get("fullAddress", "")):
            raise Refusal(10003, f"{role}.fullAddress无法解析")
    (cargo,) = message["cargoes"]
    if not (cargo["weight"] > 0 and cargo["volume"] > 0):
        raise Refusal(10004, "重量体积必须大于0")
    added = message["productsReq"].get("addedProducts", [])
    cash = next((each["productAttrs"]["shouldPayMoney"] for each in added if each["productCode"] == "ed-a-0009"), "")
    booking, new = parcels.book(message["orderId"], cargo["weight"], cash)
    if not new:
        raise Refusal(10005, "商家订单号已使用")
    return {"orderCode": f"ECO{booking.waybill_no[4:]}", "waybillCode": booking.waybill_no, "needRetry": False}


def _known(message: Mapping[str, Any]) -> Booking:
    booking = parcels.bookings.get(message.get("customerOrderId", ""))
    if booking is None:
        raise Refusal(10006, "订单不存在")
    return booking


def _status(message: Mapping[str, Any]) -> dict[str, Any]:
    booking = _known(message)
    category = 690 if booking.cancelled else int(booking.routes[-1].code) if booking.routes else 390
    return {"orderCode": f"ECO{booking.waybill_no[4:]}", "waybillCode": booking.waybill_no, "status": category}


def _cancel(message: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {each.waybill_no: each.reference for each in parcels.bookings.values()}
    booking = _known({"customerOrderId": numbers.get(message.get("waybillCode", "")), **message})
    if not (message.get("cancelReason") and message.get("cancelType") == 1):
        raise Refusal(10007, "取消原因不能为空")
    if booking.routes:
        result = 1 if parcels.intercept(booking.waybill_no) else 3
    else:
        result = 2 if booking.cancelled else 0
        booking.cancelled = True
    return {"waybillCode": booking.waybill_no, "resultType": result}


def _traced(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"traceDetails": [_trace(route) for route in parcels.routes(message.get("waybillCode", ""))]}


_INTERFACES = {"create": _create, "status/get": _status, "cancel": _cancel, "trace/query": _traced}
