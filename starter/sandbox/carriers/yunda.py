"""Yunda's twin: electronic waybills and queries under one signature, pushes of one step each.

Account: ``base_url`` ``{sandbox}/yunda``; secrets ``SECRETS`` and your own ``push_secret``.
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
from starter.sandbox.parcels import Parcels, Route, china_time

SECRETS = {"app_key": "999999", "app_secret": "yd-S3cret", "partner_id": "529951", "password": "p"}
PATH = ""
SETTINGS: dict[str, Any] = {}
BOOK = "createBmOrder"

_TO_DELIVERY = (
    {"code": "GOT", "text": "【上海】已揽收", "place": "上海市"},
    {"code": "DEPARTURE", "text": "离开【上海分拨】", "place": "上海市"},
    {"code": "ARRIVAL", "text": "到达【杭州分拨】", "place": "杭州市"},
    {"code": "SENT", "text": "派件中,派件员:李四,电话:13700000000", "place": "杭州市"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "SIGNED", "text": "已签收", "place": "杭州市"}),
    "refused": (
        *_TO_DELIVERY,
        {"code": "REJECTION", "text": "客户拒收", "place": "杭州市"},
        {"code": "RETURN", "text": "快件退回中", "place": "杭州市"},
        {"code": "SIGNED", "text": "快件已退回寄件人", "place": "上海市"},
    ),
    "failed": (*_TO_DELIVERY, {"code": "SIGNFAIL", "text": "无人接听", "place": "杭州市"}),
    "wrong_address": (*_TO_DELIVERY, {"code": "ISSUE", "text": "地址不详", "place": "杭州市"}),
    "lost": (*_TO_DELIVERY[:3], {"code": "ISSUE", "text": "快件遗失", "place": "杭州市"}),
    "damaged": (*_TO_DELIVERY[:3], {"code": "ISSUE", "text": "快件破损", "place": "杭州市"}),
    "silent": (),
    "intercepted": (),
}


def _sign(body: str) -> str:
    return md5(f"{body}_{SECRETS['app_secret']}".encode(), usedforsecurity=False).hexdigest()


def _parcel(number: str, routes: Sequence[Route]) -> dict[str, Any]:
    steps = [
        {
            "time": china_time(route.at),
            "action": route.code,
            "city": route.place,
            "station_name": f"{route.place}公司",
            "description": route.text,
        }
        for route in routes
    ]
    return {"mailno": number, "status": "TRANSIT", "steps": steps}


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    body = json.dumps(_parcel(routes[0].waybill_no, routes), ensure_ascii=False)
    return {"Content-Type": "application/json", "sign": _sign(body)}, body.encode()


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("code") == "0000"


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: str(4_600_000_000_000 + n), journeys=JOURNEYS, size=1, render=_render, accepted=_accepted
)


class Refusal(Exception):
    """A code and its message."""


@router.post("/openapi-api/v1/accountOrder/{verb}")
async def order(verb: str, request: Request) -> Response:
    return await _respond(verb, request, _ORDERS.get(verb))


@router.post("/openapi/outer/logictis/{verb}")
async def logistics(verb: str, request: Request) -> Response:
    return await _respond(verb, request, _track if verb == "query" else None)


async def _respond(verb: str, request: Request, interface: Any) -> Response:
    body = (await request.body()).decode()

    async def work() -> Response:
        try:
            authentic = request.headers.get("app-key") == SECRETS["app_key"]
            if not (authentic and compare_digest(_sign(body), request.headers.get("sign", ""))):
                raise Refusal("1002", "签名错误")
            if interface is None:
                raise Refusal("1004", "接口不存在")
            data = interface(json.loads(body))
        except Refusal as refusal:
            code, message = refusal.args
            return JSONResponse({"result": False, "code": code, "message": message, "data": None})
        return JSONResponse({"result": True, "code": "0000", "message": "请求成功", "data": data})

    return await faults.play("yunda", verb, body, work)


def _create(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    (order,) = message["orders"]
    for role in ("sender", "receiver"):
        for part in ("name", "mobile", "province", "city", "address"):
            if not order[role].get(part):
                return [{"order_serial_no": order["order_serial_no"], "status": "s02", "msg": f"{part}不能为空"}]
    booking, _ = parcels.book(order["order_serial_no"], order["weight"], str(order.get("collection_value", "")))
    marks = json.dumps([[{"position": "310 A1-22 03", "package_wdjc": "杭州包"}]], ensure_ascii=False)
    booked = {"order_serial_no": booking.reference, "mail_no": booking.waybill_no, "pdf_info": marks, "status": "1"}
    return [booked]


def _cancel(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    (order,) = message["orders"]
    booking = parcels.bookings.get(order["order_serial_no"])
    error = "订单不存在" if booking is None else "订单已取消" if booking.cancelled else ""
    if booking is not None and booking.routes:
        error = "已揽收,不能取消"
    if error or booking is None:
        return [{"order_serial_no": order["order_serial_no"], "status": "s03", "msg": error}]
    booking.cancelled = True
    return [{"order_serial_no": booking.reference, "status": "1", "msg": ""}]


def _track(message: Mapping[str, Any]) -> dict[str, Any]:
    return _parcel(message["mailno"], parcels.routes(message["mailno"]))


_ORDERS = {"createBmOrder": _create, "cancelBmOrder": _cancel}
