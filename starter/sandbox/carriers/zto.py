"""ZTO's twin: one path per interface, each with a digest of its body, and pushes of one action each.

Account: ``base_url`` ``{sandbox}/zto``; secrets ``SECRETS`` and your own ``push_secret``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import md5
from hmac import compare_digest
from typing import Any
from urllib.parse import urlencode

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Booking, Parcels, Route, china_time

SECRETS = {"app_key": "hd-zto", "app_secret": "z7oS3cret", "account_id": "test", "account_password": "ZTO123"}
PATH = ""
SETTINGS: dict[str, Any] = {}
BOOK = "zto.open.createOrder"

_TO_DELIVERY = (
    {"code": "GOT", "text": "【上海】已揽收,揽收员:王五", "place": "上海市"},
    {"code": "DEPARTURE", "text": "快件离开【上海】", "place": "上海市"},
    {"code": "ARRIVAL", "text": "快件到达【杭州中转】", "place": "杭州市"},
    {"code": "DISPATCH", "text": "正在派件,派件员:李四,电话:13700000000", "place": "杭州市"},
)
_RETURN = {"code": "RETURN_SIGNED", "text": "退件已签收", "place": "上海市"}
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "SIGNED", "text": "已签收", "place": "杭州市", "signer": "本人"}),
    "refused": (
        *_TO_DELIVERY,
        {"code": "PROBLEM", "text": "收件人拒收", "place": "杭州市"},
        {"code": "RETURN_SCAN", "text": "快件退回中", "place": "杭州市"},
        _RETURN,
    ),
    "failed": (*_TO_DELIVERY, {"code": "PROBLEM", "text": "无法联系收件人", "place": "杭州市"}),
    "wrong_address": (*_TO_DELIVERY, {"code": "PROBLEM", "text": "地址错误", "place": "杭州市"}),
    "lost": (*_TO_DELIVERY[:3], {"code": "PROBLEM", "text": "快件遗失", "place": "杭州市"}),
    "damaged": (*_TO_DELIVERY[:3], {"code": "PROBLEM", "text": "快件破损", "place": "杭州市"}),
    "silent": (),
    "intercepted": ({"code": "RETURN_SCAN", "text": "应寄件人要求退回", "place": "杭州市"}, _RETURN),
}


_SCAN_TYPES = {
    "GOT": "收件",
    "DEPARTURE": "发件",
    "ARRIVAL": "到件",
    "DISPATCH": "派件",
    "SIGNED": "签收",
    "PROBLEM": "问题件",
    "RETURN_SCAN": "退件",
    "RETURN_SIGNED": "退件完成",
    "INBOUND": "ARRIVAL",
    "DEPARTURE_SIGNED": "SIGNED",
}
"""How a query names the actions of pushes."""


def _digest(body: str) -> str:
    return b64encode(md5((body + SECRETS["app_secret"]).encode(), usedforsecurity=False).digest()).decode()


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    (route,) = routes
    data = {
        "billCode": route.waybill_no,
        "action": route.code,
        "actionTime": china_time(route.at),
        "facilityName": f"{route.place}网点",
        "city": route.place,
        "desc": route.text,
        "expressSigner": route.signer,
    }
    text = json.dumps(data, ensure_ascii=False)
    form = {"data": text, "data_digest": _digest(text), "msg_type": "Traces", "company_id": SECRETS["app_key"]}
    return {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}, urlencode(form).encode()


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("status") is True


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: str(75_400_000_000_000 + n), journeys=JOURNEYS, size=1, render=_render, accepted=_accepted
)


class Refusal(Exception):
    """A status code and its message."""


@router.post("/{api}")
async def interface(api: str, request: Request) -> Response:
    body = (await request.body()).decode()

    async def work() -> Response:
        try:
            authentic = request.headers.get("x-appkey") == SECRETS["app_key"]
            if not (authentic and compare_digest(_digest(body), request.headers.get("x-datadigest", ""))):
                raise Refusal("S211", "签名错误")
            if api not in _APIS:
                raise Refusal("S207", "接口不存在")
            result = _APIS[api](json.loads(body))
        except Refusal as refusal:
            code, message = refusal.args
            return JSONResponse({"status": False, "statusCode": code, "message": message, "result": None})
        return JSONResponse({"status": True, "statusCode": "SYS000", "message": "", "result": result})

    return await faults.play("zto", api, body, work)


def _create(message: Mapping[str, Any]) -> dict[str, Any]:
    account = message["accountInfo"]
    if (account["accountId"], account["accountPassword"]) != (SECRETS["account_id"], SECRETS["account_password"]):
        raise Refusal("E404", "电子面单账号错误")
    for role, group in (("sender", "senderInfo"), ("receiver", "receiveInfo")):
        for part in ("Name", "Mobile", "Province", "City", "Address"):
            if not message[group].get(role + part):
                raise Refusal("S208", f"{role}{part}不能为空")
    cash = next((str(each["vasAmount"] / 100) for each in message.get("orderVasList", [])), "")
    booking, new = parcels.book(message["partnerOrderCode"], message["summaryInfo"]["weight"], cash)
    if not new:
        raise Refusal("S001", "订单号重复")
    return _order(booking)


def _order(booking: Booking) -> dict[str, Any]:
    mark = {"mark": "杭州 571-22-03", "bagAddr": "杭州中转部"}
    return {"billCode": booking.waybill_no, "partnerOrderCode": booking.reference, "bigMarkInfo": mark}


def _find(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    booking = parcels.bookings.get(message["orderCode"])
    return [_order(booking)] if booking else []


def _cancel(message: Mapping[str, Any]) -> None:
    booking = parcels.bookings.get(message["orderCode"])
    if booking is None:
        raise Refusal("B404", "订单不存在")
    if booking.routes:
        raise Refusal("B405", "订单已揽收,不能取消")
    if booking.cancelled:
        raise Refusal("B406", "订单已取消")
    booking.cancelled = True


def _intercept(message: Mapping[str, Any]) -> None:
    if message.get("destinationType") != "2" or not parcels.intercept(message["billCode"]):
        raise Refusal("B407", "当前状态不可拦截")


def _track(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "scanDate": int(route.at.replace(microsecond=0).timestamp() * 1000),
            "scanType": _SCAN_TYPES.get(route.code, route.code),
            "desc": route.text,
            "scanSite": {"city": route.place},
            "signMan": route.signer,
        }
        for route in parcels.routes(message["billCode"])
    ]


_APIS = {
    "zto.open.createOrder": _create,
    "zto.open.getOrderInfo": _find,
    "zto.open.cancelPreOrder": _cancel,
    "thirdcenter.createIntercept": _intercept,
    "zto.merchant.waybill.track.query": _track,
}
