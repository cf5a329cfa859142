"""JD Logistics' twin: signed JSON, one element a call, and unsigned pushes of one trace each.

Account: ``base_url`` ``{sandbox}/jdl``; secrets ``SECRETS`` and a ``push_secret`` of one's own.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta, timezone
from hashlib import md5
from hmac import compare_digest
from typing import Any

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Booking, Parcels, Route

SECRETS = {"app_key": "hd-jdl", "app_secret": "jdl-S3cret", "access_token": "token-1", "customer_code": "010K1"}
PATH = ""
SETTINGS: dict[str, Any] = {}
BOOK = "/ecap/v1/orders/create"
CHINA = timezone(timedelta(hours=8))

_TO_THE_DOOR = (
    {"code": "420", "text": "快递员已揽收", "place": "上海市"},
    {"code": "430", "text": "快件离开【上海分拣中心】", "place": "上海市"},
    {"code": "430", "text": "快件到达【杭州分拣中心】", "place": "杭州市"},
    {"code": "440", "text": "快递员:李四 电话:13700000000 正在派送", "place": "杭州市"},
)
_BACK = {"code": "550", "text": "退货已完成", "place": "上海市"}
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_THE_DOOR, {"code": "510", "text": "已签收", "place": "杭州市"}),
    "refused": (
        *_TO_THE_DOOR,
        {"code": "530", "text": "客户拒收", "place": "杭州市"},
        {"code": "540", "text": "退货中", "place": "杭州市"},
        _BACK,
    ),
    "failed": (*_TO_THE_DOOR, {"code": "520", "text": "联系不上客户,再投", "place": "杭州市"}),
    "wrong_address": (*_TO_THE_DOOR, {"code": "520", "text": "地址不详", "place": "杭州市"}),
    "lost": (*_TO_THE_DOOR[:3], {"code": "520", "text": "快件丢失", "place": "杭州市"}),
    "damaged": (*_TO_THE_DOOR[:3], {"code": "520", "text": "包装破损", "place": "杭州市"}),
    "silent": (),
    "intercepted": ({"code": "540", "text": "拦截成功,退货中", "place": "杭州市"}, _BACK),
}


def _trace(route: Route) -> dict[str, Any]:
    return {
        "waybillCode": route.waybill_no,
        "operationTime": route.at.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S"),
        "operationTitle": "",
        "operationRemark": route.text,
        "category": int(route.code),
        "routeCity": route.place,
    }


def _pushed(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    (route,) = routes
    body = {**_trace(route), "orderId": route.reference}
    return {"Content-Type": "application/json"}, json.dumps(body, ensure_ascii=False).encode()


def _taken(answer: httpx.Response) -> bool:
    return answer.is_success and answer.json().get("code") == 0


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: f"JDVA{10_000_000_000 + n}", journeys=JOURNEYS, size=1, render=_pushed, taken=_taken
)


class Refusal(Exception):
    """A code, and what it says."""


@router.post("/ecap/v1/orders/{verb:path}")
async def interface(verb: str, request: Request) -> Response:
    path, body, query = f"/ecap/v1/orders/{verb}", (await request.body()).decode(), request.query_params

    async def work() -> Response:
        try:
            secret, token, key = (SECRETS[name] for name in ("app_secret", "access_token", "app_key"))
            text = f"{secret}access_token{token}app_key{key}method{path}param_json{body}"
            text += f"timestamp{query.get('timestamp')}v2.0{secret}"
            expected = md5(text.encode(), usedforsecurity=False).hexdigest().upper()
            if not compare_digest(expected, query.get("sign", "")):
                raise Refusal("1403", "签名错误")
            if verb not in _VERBS:
                raise Refusal("1400", "接口不存在")
            data = _VERBS[verb](json.loads(body)[0])
        except Refusal as refusal:
            code, said = refusal.args
            return JSONResponse({"code": int(code), "msg": said, "data": None})
        return JSONResponse({"code": 0, "msg": "success", "data": data})

    return await faults.play("jdl", path, body, work)


def _checked(told: Mapping[str, Any]) -> None:
    for role in ("senderContact", "receiverContact"):
        person = told[role]
        if not (person["name"] and person["mobile"] and any(map(str.isdigit, person["fullAddress"]))):
            raise Refusal("1410", "联系人信息不全")


def _precheck(told: Mapping[str, Any]) -> dict[str, Any]:
    _checked(told)
    return {"totalFreightStandard": 14 + 4 * int(told["cargoes"][0]["weight"]), "promiseDay": 2}


def _create(told: Mapping[str, Any]) -> dict[str, Any]:
    _checked(told)
    added = told["productsReq"].get("addedProducts", [])
    cash = next((each["productAttrs"]["shouldPayMoney"] for each in added), "")
    booking, _ = parcels.book(told["orderId"], told["cargoes"][0]["weight"], cash)
    return _order(booking)


def _order(booking: Booking) -> dict[str, Any]:
    return {
        "orderId": booking.reference,
        "waybillCode": booking.waybill_no,
        "destinationSortCenterName": "杭州分拣中心",
        "destinationCrossCode": "12-A",
        "road": "06",
    }


def _known(told: Mapping[str, Any]) -> Booking:
    booking = parcels.bookings.get(told["orderId"])
    if booking is None:
        raise Refusal("1404", "订单不存在")
    return booking


def _find(told: Mapping[str, Any]) -> dict[str, Any]:
    return _order(_known(told))


def _cancel(told: Mapping[str, Any]) -> None:
    booking = _known(told)
    if booking.cancelled:
        raise Refusal("1405", "订单已取消")
    if booking.routes:
        raise Refusal("1406", "快件已揽收")
    booking.cancelled = True


def _intercept(told: Mapping[str, Any]) -> None:
    if not parcels.intercept(told["waybillCode"]):
        raise Refusal("1407", "当前状态不可拦截")


def _track(told: Mapping[str, Any]) -> dict[str, Any]:
    return {"traceDetails": [_trace(route) for route in parcels.routes(told["waybillCode"])]}


_VERBS = {
    "precheck": _precheck,
    "create": _create,
    "details/query": _find,
    "cancel": _cancel,
    "intercept": _intercept,
    "trace/query": _track,
}
