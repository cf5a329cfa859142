"""Pinduoduo's twin: the open API's router with its signatures, envelopes, error codes, paging and encryption.

Account: ``base_url`` ``{sandbox}/pdd``; secrets ``client_id``, ``client_secret``, ``access_token``, ``refresh_token``.
"""

import base64
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import md5
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Sale, Shipped, Shop, Shops, china_time

SECRETS: tuple[str, ...] = ("client_id", "client_secret", "access_token", "refresh_token")
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {"behind_seconds": "0"}

router = APIRouter()
shops = Shops(router, number=lambda sale, n: f"261123-{n:015}", expiring="access_token")
_REFUND = {"asked": 2, "granted": 4, "closed": 1}


class Refusal(Exception):
    def __init__(self, code: int, msg: str, sub_code: str = "") -> None:
        super().__init__(msg)
        self.code, self.msg, self.sub_code = code, msg, sub_code


def _time(moment: datetime | None) -> str | None:
    return china_time(moment) if moment else None


def _seal(text: str) -> str:
    return f"~{base64.b64encode(text.encode()).decode()}~0~" if text else ""


def _order(shop: Shop, sale: Sale) -> dict[str, Any]:
    person, sent = sale.recipient, shop.shipped(sale.order_no)
    refund = max((_REFUND[each.state] for each in sale.refunds.values()), default=1)
    lines = [line for line in sale.lines if line.quantity]
    return {
        "order_sn": sale.order_no,
        "order_status": int(sale.status) if sale.status else 2 if sent else 1 if sale.paid else 0,
        "refund_status": 4 if sale.cancelled else refund,
        "after_sales_status": 0,
        "confirm_status": 1 if sale.paid else 0,
        "group_status": 1,
        "risk_control_status": int(sale.custom.get("risk_control_status", 0)),
        "pay_amount": float(sale.total),
        "goods_amount": float(sale.total - sale.freight),
        "seller_discount": float(sum(line.discount for line in lines)),
        "platform_discount": 0,
        "postage": float(sale.freight),
        "receiver_name": _seal(person.get("name", "")),
        "receiver_phone": _seal(person.get("phone", "")),
        "receiver_address": _seal(person.get("street", "")),
        "receiver_name_mask": f"{person.get('name', '')[:1]}**",
        "receiver_phone_mask": "1**********",
        "receiver_address_mask": "****",
        "province": person.get("province"),
        "city": person.get("city"),
        "town": person.get("district"),
        "created_time": _time(sale.created),
        "pay_time": _time(sale.paid_at),
        "confirm_time": _time(sale.paid_at),
        "updated_at": _time(sale.modified),
        "remark": sale.seller_memo,
        "buyer_memo": sale.buyer_message,
        "tracking_number": sent[0].waybill_no if sent else "",
        "item_list": [
            {
                "goods_id": 5_500_000 + at,
                "sku_id": 6_600_000 + at,
                "outer_id": line.sku,
                "goods_name": line.title or line.sku,
                "goods_count": line.quantity,
                "goods_price": float(line.price),
            }
            for at, line in enumerate(lines)
        ],
    }


def _within(shop: Shop, query: dict[str, str], by: str, moment: Callable[[Sale], datetime | None]) -> list[Sale]:
    first, last = int(query[f"start_{by}"]), int(query[f"end_{by}"])
    found = [sale for sale in shop.sales.values() if (at := moment(sale)) and first <= at.timestamp() < last]
    return sorted(found, key=lambda sale: sale.order_no)


def _page(found: list[Any], query: dict[str, str]) -> list[Any]:
    page, size = int(query["page"]), int(query["page_size"])
    return found[(page - 1) * size : page * size]


async def _increment(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    if int(query["end_updated_at"]) - int(query["start_updated_at"]) > 1800:
        raise Refusal(20000, "时间间隔不得超过30分钟")
    found = _within(shop, query, "updated_at", lambda sale: sale.modified)
    return {"total_count": len(found), "order_sn_list": [_order(shop, sale) for sale in _page(found, query)]}


async def _list(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    found = _within(shop, query, "confirm_at", lambda sale: sale.paid_at)
    return {"total_count": len(found), "order_list": [_order(shop, sale) for sale in _page(found, query)]}


async def _information(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    sale = shop.sales.get(query["order_sn"])
    if sale is None:
        raise Refusal(50001, "订单不存在", "order_not_found")
    return {"order_info": _order(shop, sale)}


async def _decrypt(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    parts = json.loads(query["data_list"])
    return {
        "data_decrypt_list": [
            {**each, "decrypted_data": base64.b64decode(each["encrypted_data"].split("~")[1]).decode()}
            for each in parts
        ]
    }


async def _send(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    sale = shop.sales.get(query["order_sn"])
    if sale is None or shop.shipped(query["order_sn"]):
        raise Refusal(40000, "订单已发货", "order_sent")
    lines = {str(at): line.quantity for at, line in enumerate(sale.lines, 1)}
    sent = Shipped(
        order_no=sale.order_no, carrier=query["logistics_id"], waybill_no=query["tracking_number"], lines=lines
    )
    shop.shipments.append(sent)
    return {"is_success": True}


async def _stock(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    """SKUs from 9000000000 on do not exist."""
    shop.pushes += 1
    if int(query["sku_id"]) >= 9_000_000_000:
        raise Refusal(40000, "商品不存在", "goods_sku_not_exist")
    shop.stock[f"{query['goods_id']}:{query['sku_id']}"] = int(query["quantity"])
    return {"is_success": True}


async def _refresh(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    if query["refresh_token"] != shop.secrets["refresh_token"]:
        raise Refusal(10018, "refresh_token已过期")
    return {**shop.renew("access_token", "refresh_token"), "expires_in": 86400}


_METHODS: dict[str, tuple[str, Callable[[Shop, dict[str, str]], Awaitable[dict[str, Any]]]]] = {
    "pdd.order.number.list.increment.get": ("order_sn_increment_get_response", _increment),
    "pdd.order.list.get": ("order_list_get_response", _list),
    "pdd.order.information.get": ("order_info_get_response", _information),
    "pdd.open.decrypt.batch": ("open_decrypt_batch_response", _decrypt),
    "pdd.logistics.online.send": ("logistics_online_send_response", _send),
    "pdd.goods.quantity.update": ("goods_quantity_update_response", _stock),
    "pdd.pop.auth.token.refresh": ("pop_auth_token_refresh_response", _refresh),
}


def _error(code: int, msg: str, sub_code: str = "") -> JSONResponse:
    error = {"error_code": code, "error_msg": msg, "sub_code": sub_code, "sub_msg": msg, "request_id": token_hex(8)}
    return JSONResponse({"error_response": error})


@router.post("/api/router")
async def call(request: Request) -> Response:
    query = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    shop = shops.find(client_id=query.get("client_id"))
    if shop is None:
        return _error(10001, "client_id错误")
    secret = shop.secrets["client_secret"]
    text = "".join(f"{key}{value}" for key, value in sorted(query.items()) if key != "sign" and value)
    digest = md5(f"{secret}{text}{secret}".encode(), usedforsecurity=False).hexdigest().upper()
    if not hmac.compare_digest(digest, query.get("sign", "")):
        return _error(20004, "签名sign校验失败")
    method, token = query.get("type", ""), query.get("access_token")
    if method not in _METHODS:
        return _error(10002, "type不存在")
    if method != "pdd.pop.auth.token.refresh" and token in shops.expired:
        return _error(10019, "access_token已过期")
    if method != "pdd.pop.auth.token.refresh" and token != shop.secrets["access_token"]:
        return _error(10020, "access_token错误")
    name, handler = _METHODS[method]

    async def work() -> Response:
        try:
            return JSONResponse({name: await handler(shop, query)})
        except Refusal as refusal:
            return _error(refusal.code, refusal.msg, refusal.sub_code)

    return await faults.play("pdd", method, json.dumps(query), work, lambda seconds: _error(70031, "调用过于频繁"))
