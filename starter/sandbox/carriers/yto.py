"""YTO's twin: one signed path per interface, and pushes of one status each.

Account: ``base_url`` ``{sandbox}/yto/open``; secrets ``SECRETS`` and your own ``push_secret``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import md5
from hmac import compare_digest
from typing import Any
from urllib.parse import urlencode
from xml.sax.saxutils import escape

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Parcels, Route, china_time

SECRETS = {"client_id": "K21000119", "secret": "u2Z1F7Fh"}
PATH = "/open"
SETTINGS: dict[str, str] = {}
BOOK = "privacy_create_adapter"

_TO_DELIVERY = (
    {"code": "GOT", "text": "您的快件被【北京市大兴区】揽收", "place": "北京市"},
    {"code": "DEPARTURE", "text": "您的快件离开【北京转运中心】", "place": "北京市"},
    {"code": "ARRIVAL", "text": "您的快件已经到达【绍兴市上虞区】", "place": "绍兴市"},
    {"code": "SENT_SCAN", "text": "快件正在派件,派件人:李四,电话:13700000000", "place": "绍兴市"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "SIGNED", "text": "您的快件已签收", "place": "绍兴市", "signer": "本人"}),
    "refused": (
        *_TO_DELIVERY,
        {"code": "FAILED", "text": "收方客户拒收", "place": "绍兴市"},
        {"code": "TMS_RETURN", "text": "快件正在退回", "place": "绍兴市"},
        {"code": "SIGNED", "text": "快件已退回寄件方", "place": "北京市", "signer": "退件"},
    ),
    "failed": (*_TO_DELIVERY, {"code": "FAILED", "text": "无法联系收方客户", "place": "绍兴市"}),
    "silent": (),
    "intercepted": (
        {"code": "TMS_RETURN", "text": "快件正在退回", "place": "绍兴市"},
        {"code": "SIGNED", "text": "快件已退回寄件方", "place": "北京市", "signer": "退件"},
    ),
}


def _digest(text: str) -> str:
    return b64encode(md5(text.encode(), usedforsecurity=False).digest()).decode()


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    route = routes[0]
    fields = {
        "logisticProviderID": "YTO",
        "clientID": SECRETS["client_id"],
        "mailNo": route.waybill_no,
        "txLogisticID": route.reference,
        "infoType": "STATUS",
        "infoContent": route.code,
        "remark": route.text,
        "name": route.signer,
        "acceptTime": china_time(route.at),
        "acceptAddress": route.place,
    }
    xml = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    xml = f'<?xml version="1.0"?><UpdateInfo>{xml}</UpdateInfo>'
    form = {
        "logistics_interface": xml,
        "data_digest": _digest(xml + SECRETS["secret"]),
        "clientId": SECRETS["client_id"],
        "type": "online",
    }
    return {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}, urlencode(form).encode()


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and "<success>true</success>" in response.text


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: f"YT{2_819_000_000_000 + n}", journeys=JOURNEYS, size=1, render=_render, accepted=_accepted
)


class Refusal(Exception):
    pass


@router.post("/open/{adapter}/v1/{path_code}/{client_id}")
async def interface(adapter: str, client_id: str, request: Request) -> Response:
    body = await request.json()

    async def work() -> Response:
        try:
            expected = _digest(f"{body['param']}{adapter}v1{SECRETS['secret']}")
            if client_id != SECRETS["client_id"] or not compare_digest(expected, body["sign"]):
                raise Refusal(1003, "签名验证失败")
            if adapter not in _ADAPTERS:
                raise Refusal(1004, "接口不存在")
            return JSONResponse(_ADAPTERS[adapter](json.loads(body["param"])))
        except Refusal as refusal:
            return JSONResponse({"success": False, "code": refusal.args[0], "reason": refusal.args[1]})

    return await faults.play("yto", adapter, body.get("param", ""), work)


def _create(param: Mapping[str, Any]) -> dict[str, Any]:
    if len(param.get("logisticsNo", "")) < 7:
        raise Refusal(200010003, "logisticsNo不能为空; ")
    for role in ("sender", "recipient"):
        for part in ("Name", "ProvinceName", "CityName", "Address", "Mobile"):
            if not param.get(role + part):
                raise Refusal(200010003, f"{role}{part}不能为空; ")
    if len(param.get("goods", [])) > 20:
        raise Refusal(200010003, "goods超过20个; ")
    cash = next((str(each["amount"]) for each in param.get("increments", []) if each["type"] == 1), "")
    booking, _ = parcels.book(param["logisticsNo"], param.get("weight", 0), cash)
    return {"logisticsNo": booking.reference, "mailNo": booking.waybill_no, "shortAddress": "800-061-00-005"}


def _cancel(param: Mapping[str, Any]) -> dict[str, Any]:
    booking = parcels.bookings.get(param.get("logisticsNo", ""))
    if booking is None:
        raise Refusal(200010011, "订单不存在")
    if booking.cancelled:
        raise Refusal(200010012, "订单已取消")
    if booking.routes:
        raise Refusal(200010013, "快件已揽收,不能取消")
    booking.cancelled = True
    return {"logisticsNo": booking.reference}


def _track(param: Mapping[str, Any]) -> Any:
    number = param.get("NUMBER", "")
    if not parcels.routes(number):
        return {"map": {number: []}, "code": "1001", "success": "true", "message": "查询结果为空。"}
    return [
        {
            "waybill_No": each.waybill_no,
            "upload_Time": china_time(each.at),
            "infoContent": each.code,
            "processInfo": each.text,
            "city": each.place,
        }
        for each in parcels.routes(number)
    ]


def _intercept(param: Mapping[str, Any]) -> dict[str, Any]:
    if not (param.get("wantedDesc") and parcels.intercept(param.get("waybillNo", ""))):
        raise Refusal(200010014, "不能拦截")
    return {"code": "200", "reason": "success"}


_ADAPTERS = {
    "wanted_report_adapter": _intercept,
    "privacy_create_adapter": _create,
    "korder_cancel_adapter": _cancel,
    "track_query_adapter": _track,
}
