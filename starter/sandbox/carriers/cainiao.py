"""Cainiao's twin: waybill numbers by TOP with its signature, traces queried and pushed by LINK with its digest.

Account: ``base_url`` ``{sandbox}/cainiao``; secrets ``SECRETS`` and your own ``push_secret``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import md5
from hmac import compare_digest, digest
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Booking, Parcels, Route, china_time

SECRETS = {
    "app_key": "12129701",
    "app_secret": "69a1469a1469a1469a14a9bf269a14ab",
    "session": "6100e23738b5c8f3e4a1",
    "link_token": "8f2b5c1d0e9a4c7b",
    "link_secret": "Fq7H4r1k9aX2",
}
PATH = ""
SETTINGS = {
    "courier": "sto",
    "template_url": "http://cloudprint.cainiao.com/template/standard/301/170",
    "user_id": "2054718218",
    "app_code": "hengdan",
}
BOOK = "cainiao.waybill.ii.get"
COURIERS = {"STO", "YTO", "ZTO", "YUNDA", "SF", "EMS"}

_TO_DELIVERY = (
    {"code": "00", "text": "【上海青浦公司】已揽收", "place": "上海市"},
    {"code": "02", "text": "快件已从【上海转运中心】发出", "place": "上海市"},
    {"code": "03", "text": "快件已到达【杭州西湖公司】", "place": "杭州市"},
    {"code": "04", "text": "快件正在派送,派件员:李四,电话:13700000000", "place": "杭州市"},
)
_RETURN = (
    {"code": "08", "text": "快件正在退回", "place": "杭州市"},
    {"code": "11", "text": "快件已退回商家", "place": "上海市"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_DELIVERY, {"code": "07", "text": "快件已签收", "place": "杭州市"}),
    "refused": (*_TO_DELIVERY, {"code": "06", "text": "收件人拒收", "place": "杭州市"}, *_RETURN),
    "failed": (*_TO_DELIVERY, {"code": "05", "text": "无法联系收件人,快件滞留", "place": "杭州市"}),
    "silent": (),
    "intercepted": _RETURN,
    "lost": (*_TO_DELIVERY[:2], {"code": "02", "text": "快件疑似丢失,正在查找", "place": "上海市"}),
    "damaged": (*_TO_DELIVERY[:2], {"code": "02", "text": "快件外包装破损", "place": "上海市"}),
    "wrong_address": (*_TO_DELIVERY, {"code": "05", "text": "收件地址不详,快件滞留", "place": "杭州市"}),
}


def _link_digest(interface: str) -> str:
    text = (interface + SECRETS["link_secret"]).encode()
    return b64encode(md5(text, usedforsecurity=False).digest()).decode()


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    route = routes[0]
    step = {
        "operateTime": china_time(route.at),
        "orgName": route.place,
        "operateDescription": route.text,
        "status": route.code,
    }
    interface = json.dumps({"mailNo": route.waybill_no, "operationDetails": [step]}, ensure_ascii=False)
    form = {
        "msg_type": "TMS_PRACTICE_TRACE_INFO",
        "logistic_provider_id": SECRETS["link_token"],
        "data_digest": _link_digest(interface),
        "logistics_interface": interface,
    }
    return {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}, urlencode(form).encode()


def _accepted(response: httpx.Response) -> bool:
    return response.is_success and response.json().get("success") is True


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: f"77{7_174_000_000_000 + n}", journeys=JOURNEYS, size=1, render=_render, accepted=_accepted
)


class Refusal(Exception):
    """Code, message and, if a service refused, its sub code."""


@router.post("/router/rest")
async def top(request: Request) -> Response:
    params = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    method = params.get("method", "")

    async def work() -> Response:
        try:
            _authenticate(params)
            if method not in _METHODS:
                raise Refusal(22, "Invalid Method")
            return JSONResponse({f"{method.replace('.', '_')}_response": _METHODS[method](params)})
        except Refusal as refusal:
            error = dict(zip(("code", "msg", "sub_code"), refusal.args, strict=False))
            return JSONResponse({"error_response": error})

    return await faults.play("cainiao", method, json.dumps(params, ensure_ascii=False), work)


def _authenticate(params: Mapping[str, str]) -> None:
    if params.get("app_key") != SECRETS["app_key"]:
        raise Refusal(29, "Invalid App Key")
    text = "".join(key + value for key, value in sorted(params.items()) if key != "sign").encode()
    expected = digest(SECRETS["app_secret"].encode(), text, "sha256").hex().upper()
    if not compare_digest(expected, params.get("sign", "")):
        raise Refusal(25, "Invalid Signature")
    if params.get("session") != SECRETS["session"]:
        raise Refusal(27, "Invalid Session")


def _service_refusal(message: str, sub_code: str) -> Refusal:
    return Refusal(15, message, sub_code)


def _courier(code: str | None) -> str:
    if code not in COURIERS:
        raise _service_refusal("未开通该快递公司", "isv.cp-code-invalid")
    return code


def _printed(booking: Booking) -> dict[str, str]:
    routing = {
        "routeCode": "380D-56-04",
        "sortation": {"name": "杭州"},
        "consolidation": {"name": "杭州集包", "code": "571901"},
        "origin": {"name": "上海青浦", "code": "021A"},
    }
    contents = {"data": {"routingInfo": routing, "waybillCode": booking.waybill_no}, "signature": "MD:1"}
    print_data = {**contents, "templateURL": SETTINGS["template_url"]}
    return {"waybill_code": booking.waybill_no, "print_data": json.dumps(print_data, ensure_ascii=False)}


def _get(params: Mapping[str, str]) -> dict[str, Any]:
    parameters = json.loads(params["param_waybill_cloud_print_apply_new_request"])
    cp_code = _courier(parameters.get("cp_code"))
    printed = []
    for order in parameters["trade_order_info_dtos"]:
        for person in (parameters["sender"], order["recipient"]):
            if not (person.get("name") and (person.get("mobile") or person.get("phone"))):
                raise _service_refusal("姓名或电话不能为空", "isv.contact-invalid")
            if not (person["address"].get("province") and person["address"].get("detail")):
                raise _service_refusal("地址不能为空", "isv.address-invalid")
        package = order["package_info"]
        if not (package["id"].replace("_", "").isalnum() and order["template_url"] and order["user_id"]):
            raise _service_refusal("参数错误", "isv.param-invalid")
        services = json.loads(order.get("logistics_services") or "{}")
        (number,) = order["order_info"]["trade_order_list"]
        booking, _ = parcels.book(number, package["weight"] / 1000, services.get("SVC-COD", {}).get("value", ""))
        printed.append({"object_id": order["object_id"], "cp_code": cp_code, **_printed(booking)})
    return {"modules": {"waybill_cloud_print_response": printed}}


def _query(params: Mapping[str, str]) -> dict[str, Any]:
    found = []
    for each in json.loads(params["param_list"]):
        booking = parcels.bookings.get(each["biz_sub_code"])
        result: dict[str, Any] = {"object_id": each["object_id"]}
        if booking is None or booking.cancelled:
            result |= {"success": False, "error_code": "WAYBILL_NOT_EXIST", "error_message": "面单不存在"}
        else:
            result |= {"success": True, "waybill_cloud_print_response": _printed(booking)}
        found.append(result)
    return {"modules": {"waybill_cloud_print_with_result_desc_response": found}}


def _cancel(params: Mapping[str, str]) -> dict[str, Any]:
    _courier(params.get("cp_code"))
    booking = next((each for each in parcels.bookings.values() if each.waybill_no == params["waybill_code"]), None)
    if booking is None or booking.cancelled or booking.routes:
        return {"cancel_result": False}
    booking.cancelled = True
    return {"cancel_result": True}


def _delivery(params: Mapping[str, str]) -> dict[str, Any]:
    _courier(params.get("cp_code"))
    if params.get("delivery_action") != "-1" or not parcels.intercept(params.get("waybill_code", "")):
        raise _service_refusal("当前状态不能退回", "isv.delivery-status-invalid")
    return {"confirm_response": {"waybill_code": params["waybill_code"]}}


_METHODS = {
    "cainiao.waybill.ii.get": _get,
    "cainiao.waybill.ii.query.by.tradecode": _query,
    "cainiao.waybill.ii.cancel": _cancel,
    "cainiao.waybill.ii.delivery": _delivery,
}


@router.post("/gateway/link.do")
async def link(request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    interface = form.get("logistics_interface", "")

    async def work() -> Response:
        if not compare_digest(_link_digest(interface), form.get("data_digest", "")):
            return JSONResponse({"success": False, "errorCode": "S02", "errorMsg": "非法的数字签名"})
        query = json.loads(interface)["arg0"]
        if query.get("appCode") != SETTINGS["app_code"] or query.get("cpCode") not in COURIERS:
            return JSONResponse({"success": False, "errorCode": "S05", "errorMsg": "非法的通知内容"})
        steps = [
            {"time": china_time(each.at), "desc": each.text, "logisticsStatus": each.code, "areaName": each.place}
            for each in parcels.routes(query["mailNo"])
        ]
        return JSONResponse({"success": True, "mailNo": query["mailNo"], "fullTraceDetail": steps})

    return await faults.play("cainiao", form.get("msg_type", ""), interface, work)
