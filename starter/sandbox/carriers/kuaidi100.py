"""Kuaidi100's twin: subscriptions, queries, and a signed push of the whole trace after each step.

It does not book: a subscription registers a number, and ``_control/journey`` moves that parcel. ``_control/abort`` ends
a subscription as Kuaidi100 does for a number without scans.

Account: ``base_url`` ``{sandbox}/kuaidi100``; secrets ``SECRETS`` and your own ``push_secret``.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import md5
from hmac import compare_digest
from typing import Any
from urllib.parse import urlencode

import httpx
from fastapi import APIRouter, HTTPException, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Parcels, Route, carriers_of, china_time
from starter.sandbox.shops import Strict

SECRETS = {"customer": "B1FC6B8F5D1A4F4E", "key": "fPkNQyHQ1186", "salt": "0123456789abcdef0123456789abcdef"}
PATH = ""
SETTINGS: dict[str, str] = {}

_COMPANIES = {
    "sf": "shunfeng",
    "yto": "yuantong",
    "sto": "shentong",
    "zto": "zhongtong",
    "yunda": "yunda",
    "jdl": "jd",
    "ems": "ems",
    "debang": "debangkuaidi",
}
_NEED_PHONE = {"shunfeng", "zhongtong"}
_NAMES = {
    "1": "揽收",
    "103": "已揽收",
    "1001": "到达派件城市",
    "1002": "干线",
    "2": "疑难",
    "203": "拒收",
    "204": "派件异常",
    "206": "无法联系",
    "209": "破损",
    "301": "本人签收",
    "4": "退签",
    "5": "派件",
    "6": "退回",
}
_SIGNED = {"3", "4"}

_TO_DELIVERY = (
    {"code": "103", "text": "【北京市】快件已被揽收,揽收员:王五", "place": "北京,北京市,大兴区"},
    {"code": "1002", "text": "【北京市】快件离开【北京转运中心】", "place": "北京,北京市"},
    {"code": "1001", "text": "【绍兴市】快件到达【绍兴转运中心】", "place": "浙江,绍兴市"},
    {"code": "5", "text": "【绍兴市】快件正在派件,快递员:李四【13700000000】", "place": "浙江,绍兴市,上虞区"},
)
_RETURN = {"code": "4", "text": "【北京市】退回的快件已签收", "place": "北京,北京市,大兴区"}
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "301", "text": "【绍兴市】快件已签收,签收人:本人", "place": "浙江,绍兴市"}),
    "refused": (
        *_TO_DELIVERY,
        {"code": "203", "text": "【绍兴市】收件人拒收", "place": "浙江,绍兴市"},
        {"code": "6", "text": "【绍兴市】快件退回中", "place": "浙江,绍兴市"},
        _RETURN,
    ),
    "failed": (*_TO_DELIVERY, {"code": "206", "text": "【绍兴市】无法联系收件人", "place": "浙江,绍兴市"}),
    "wrong_address": (*_TO_DELIVERY, {"code": "204", "text": "【绍兴市】收件人地址不详", "place": "浙江,绍兴市"}),
    "lost": (*_TO_DELIVERY[:2], {"code": "2", "text": "【绍兴市】快件遗失", "place": "浙江,绍兴市"}),
    "damaged": (*_TO_DELIVERY[:2], {"code": "209", "text": "【绍兴市】快件外包装破损", "place": "浙江,绍兴市"}),
    "silent": (),
    "intercepted": ({"code": "6", "text": "【北京市】快件已拦截,退回中", "place": "北京,北京市"}, _RETURN),
}

_subscriptions: dict[str, tuple[str, str]] = {}
"""Company and salt by number."""


def _sign(*parts: str) -> str:
    return md5("".join(parts).encode(), usedforsecurity=False).hexdigest().upper()


def _state(code: str) -> str:
    """Return the basic state of a detailed code."""
    return {3: code[:1], 4: "0"}.get(len(code), code)


def _trace(number: str, company: str) -> dict[str, Any]:
    """Return the trace of a number, newest step first."""
    routes = sorted(parcels.routes(number), key=lambda route: route.at, reverse=True)
    state = _state(routes[0].code) if routes else "0"
    steps = [
        {
            "time": (time := china_time(route.at)),
            "ftime": time,
            "context": route.text,
            "status": _NAMES.get(route.code, ""),
            "statusCode": route.code,
            "areaCode": None,
            "areaName": route.place,
        }
        for route in routes
    ]
    return {
        "message": "ok",
        "nu": number,
        "ischeck": "1" if state in _SIGNED else "0",
        "com": company,
        "status": "200",
        "state": state,
        "condition": "F00",
        "data": steps,
        "isLoop": False,
    }


def _push(number: str, status: str, message: str) -> tuple[Mapping[str, str], bytes]:
    company, salt = _subscriptions[number]
    push = {
        "status": status,
        "billstatus": "",
        "message": message,
        "autoCheck": "0",
        "comOld": "",
        "comNew": "",
        "lastResult": _trace(number, company),
    }
    param = json.dumps(push, ensure_ascii=False, separators=(",", ":"))
    form = urlencode({"sign": _sign(param, salt), "param": param})
    return {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}, form.encode()


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    signed = _state(routes[0].code) in _SIGNED
    return _push(routes[0].waybill_no, "shutdown" if signed else "polling", "签收" if signed else "变化")


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("result") is True


router = APIRouter()
parcels = Parcels(router, number=lambda n: f"KD{n:012}", journeys=JOURNEYS, size=1, render=_render, accepted=_accepted)


class Abort(Strict):
    url: str
    waybill_no: str


@router.post("/_control/abort")
async def abort(abort: Abort, request: Request) -> dict[str, int]:
    """End the subscription to a number without scans for three days; it may be subscribed to again."""
    if abort.waybill_no not in _subscriptions:
        raise HTTPException(404, f"no subscription to {abort.waybill_no}")
    headers, body = _push(abort.waybill_no, "abort", "3天查询无记录")
    del _subscriptions[abort.waybill_no]
    response = await request.app.state.http.post(abort.url, content=body, headers=headers)
    return {"status": response.status_code}


@router.post("/poll")
async def subscription(request: Request) -> Response:
    form = await request.form()
    param = str(form.get("param", ""))

    async def work() -> Response:
        body = json.loads(param)
        number, parameters = body.get("number", ""), body.get("parameters", {})
        if not compare_digest(body.get("key", ""), SECRETS["key"]):
            return _response("600", "您不是合法的订阅者")
        if body.get("company") not in _COMPANIES.values():
            return _response("700", "不支持的快递公司")
        if not (number and parameters.get("callbackurl")):
            return _response("400", "参数不完整")
        duplicate = number in _subscriptions
        _subscriptions[number] = body["company"], parameters.get("salt", "")
        parcels.follow(number, parameters["callbackurl"])
        return _response("501", "重复订阅") if duplicate else _response("200", "提交成功", result=True)

    return await faults.play("kuaidi100", "poll", param, work)


@router.post("/poll/query.do")
async def query(request: Request) -> Response:
    form = await request.form()
    param = str(form.get("param", ""))

    async def work() -> Response:
        body = json.loads(param)
        expected = _sign(param, SECRETS["key"], SECRETS["customer"])
        if not compare_digest(str(form.get("sign", "")), expected):
            return _response("503", "验证签名失败")
        company, number = body.get("com", ""), body.get("num", "")
        if company in _NEED_PHONE and not body.get("phone"):
            return _response("408", "验证码错误")
        if not parcels.routes(number) or company not in [_COMPANIES[name] for name in carriers_of(number)]:
            return _response("500", "查询无结果，请隔段时间再查")
        return JSONResponse(_trace(number, company))

    return await faults.play("kuaidi100", "query", param, work)


@router.post("/autonumber/auto")
async def autonumber(request: Request) -> Response:
    form = await request.form()
    number = str(form.get("num", ""))

    async def work() -> Response:
        if not compare_digest(str(form.get("key", "")), SECRETS["key"]):
            return _response("601", "key过期")
        return JSONResponse([{"lengthPre": len(number), "comCode": _COMPANIES[name]} for name in carriers_of(number)])

    return await faults.play("kuaidi100", "autonumber", number, work)


def _response(code: str, message: str, *, result: bool = False) -> Response:
    return JSONResponse({"result": result, "returnCode": code, "message": message})
