"""Douyin shop's twin: the open platform's calls with their signatures, codes and encryption, and its pushes.

Account: ``base_url`` ``{sandbox}/douyin``; secrets ``app_key``, ``app_secret``, ``access_token``, ``refresh_token``.
"""

import base64
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from hashlib import md5
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Delivery, Sale, Shipped, Shop, Shops

SECRETS: tuple[str, ...] = ("app_key", "app_secret", "access_token", "refresh_token")
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {}

router = APIRouter()
_idempotent: set[str] = set()
_AFTER_SALE = {"asked": 6, "granted": 51, "closed": 27}


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    tag = delivery.topic or ("106" if sale.cancelled else "101" if sale.paid else "100")
    data = {
        "p_id": int(sale.order_no),
        "s_ids": [int(sale.order_no)],
        "shop_id": 1,
        "order_status": _status(shop, sale),
    }
    messages = [{"tag": tag, "msg_id": str(uuid4().int % 10**19), "data": json.dumps(data)}]
    body = json.dumps({"messages": "?"} if delivery.garbage else messages).encode()
    digest = md5(shop.secrets["app_key"].encode() + body + shop.secrets["app_secret"].encode(), usedforsecurity=False)
    headers = {"event-sign": digest.hexdigest(), "app-id": shop.secrets["app_key"]}
    return {"Content-Type": "application/json", **headers}, body


shops = Shops(
    router, number=lambda sale, n: str(4_900_000_000_000_000_000 + n * 1000), webhook=_webhook, expiring="access_token"
)


def _status(shop: Shop, sale: Sale) -> int:
    if sale.status:
        return int(sale.status)
    if sale.cancelled:
        return 4
    if not sale.paid:
        return 1
    sent: dict[str, int] = {}
    for each in shop.shipped(sale.order_no):
        for line_no, quantity in each.lines.items():
            sent[line_no] = sent.get(line_no, 0) + quantity
    if not sent:
        return 2
    ordered = {_line_no(sale, at): line.quantity for at, line in enumerate(sale.lines)}
    return 3 if all(sent.get(line_no, 0) >= quantity for line_no, quantity in ordered.items()) else 101


def _line_no(sale: Sale, at: int) -> str:
    """Return the number of a line; the first has the number of the order."""
    return str(int(sale.order_no) + at)


def _fen(amount: Any) -> int:
    return int(amount * 100)


def _seal(text: str) -> str:
    return f"#{base64.b64encode(text.encode()).decode()}#1##"


def _order(shop: Shop, sale: Sale) -> dict[str, Any]:
    person = sale.recipient
    lines = []
    for at, line in enumerate(sale.lines):
        refund = next((each for each in sale.refunds.values() if each.sku in ("", line.sku)), None)
        if line.quantity == 0:
            continue
        lines.append(
            {
                "order_id": _line_no(sale, at),
                "parent_order_id": sale.order_no,
                "order_status": _status(shop, sale),
                "product_id": 3_600_000_000 + at,
                "sku_id": 1_700_000_000 + at,
                "code": line.sku,
                "product_name": line.title or line.sku,
                "item_num": line.quantity,
                "origin_amount": _fen(line.price),
                "shop_cost_amount": _fen(line.discount),
                "pay_amount": _fen(line.price * line.quantity - line.discount),
                "goods_type": 0,
                "after_sale_info": {"after_sale_status": _AFTER_SALE[refund.state] if refund else 0},
            }
        )
    return {
        "order_id": sale.order_no,
        "order_status": _status(shop, sale),
        "order_type": 0,
        "pay_type": 0 if sale.cash_on_delivery else 2,
        "create_time": int(sale.created.timestamp()),
        "update_time": int(sale.modified.timestamp()),
        "pay_time": int(sale.paid_at.timestamp()) if sale.paid_at else 0,
        "pay_amount": _fen(sale.total),
        "post_amount": _fen(sale.freight),
        "buyer_words": sale.buyer_message,
        "seller_words": sale.seller_memo,
        "cancel_reason": "不想要了" if sale.cancelled else "",
        "doudian_open_id": "1@#buyer",
        "b_type_desc": "抖音",
        "encrypt_post_receiver": _seal(person.get("name", "")),
        "encrypt_post_tel": _seal(person.get("phone", "")),
        "mask_post_receiver": f"{person.get('name', '')[:1]}**",
        "mask_post_tel": f"{person.get('phone', '')[:3]}****{person.get('phone', '')[-4:]}",
        "post_addr": {
            "province": {"name": person.get("province", ""), "id": "1"},
            "city": {"name": person.get("city", ""), "id": "2"},
            "town": {"name": person.get("district", ""), "id": "3"},
            "street": {"name": "", "id": "4"},
            "encrypt_detail": _seal(person.get("street", "")),
        },
        "mask_post_addr": {"detail": "****"},
        "sku_order_list": lines,
        "logistics_info": [
            {"tracking_no": each.waybill_no, "company": each.carrier, "ship_time": int(each.at.timestamp())}
            for each in shop.shipped(sale.order_no)
        ],
    }


class Refusal(Exception):
    def __init__(self, code: int, sub_code: str) -> None:
        super().__init__(sub_code)
        self.code, self.sub_code = code, sub_code


def _error(code: int, sub_code: str) -> JSONResponse:
    return JSONResponse({"code": code, "msg": "", "sub_code": sub_code, "sub_msg": "", "log_id": uuid4().hex})


async def _search(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    by, moment = ("update_time", "modified") if "update_time_start" in query else ("create_time", "created")

    def at(sale: Sale) -> int:
        time: datetime = getattr(sale, moment)
        return int(time.timestamp())

    first, last = query[f"{by}_start"], query[f"{by}_end"]
    found = sorted((sale for sale in shop.sales.values() if first <= at(sale) <= last), key=at)
    page, size = query["page"], query["size"]
    shown = [_order(shop, sale) for sale in found[page * size : (page + 1) * size]]
    return {"total": len(found), "page": page, "size": size, "shop_order_list": shown}


async def _detail(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    sale = shop.sales.get(query["shop_order_id"])
    if sale is None:
        raise Refusal(50002, "isv.business-failed:4")
    return {"shop_order_detail": _order(shop, sale)}


async def _decrypt(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    return {
        "decrypt_infos": [
            {**each, "decrypt_text": base64.b64decode(each["cipher_text"].split("#")[1]).decode(), "err_no": 0}
            for each in query["cipher_infos"]
        ]
    }


async def _ship(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    if query["request_id"] in _idempotent:
        return {"pack_id": query["request_id"]}
    if query["order_id"] not in shop.sales:
        raise Refusal(50002, "isv.business-failed:4")
    for pack in query["pack_list"]:
        if any(each.waybill_no == pack["logistics_code"] for each in shop.shipped(query["order_id"])):
            raise Refusal(50002, "isv.business-failed:17")
        lines = {each["shipped_order_id"]: each["shipped_num"] for each in pack["shipped_order_info"]}
        shop.shipments.append(
            Shipped(
                order_no=query["order_id"],
                carrier=pack["company_code"],
                waybill_no=pack["logistics_code"],
                lines=lines,
            )
        )
    _idempotent.add(query["request_id"])
    return {"pack_id": query["request_id"]}


async def _stock(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    """Set all quantities or none; SKUs from 9000000000 on do not exist."""
    shop.pushes += 1
    if any(each["sku_id"] >= 9_000_000_000 for each in query["sku_sync_list"]):
        raise Refusal(50002, "isv.business-failed:2010001")
    for each in query["sku_sync_list"]:
        shop.stock[f"{query['product_id']}:{each['sku_id']}"] = each["stock_num"]
    return {}


async def _refresh(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    if query["refresh_token"] != shop.secrets["refresh_token"]:
        raise Refusal(50001, "dop.token-generate-failed:refresh-token-invalid")
    return {**shop.renew("access_token", "refresh_token"), "expires_in": 604800}


_METHODS: dict[str, Callable[[Shop, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "order.searchList": _search,
    "order.orderDetail": _detail,
    "order.batchDecrypt": _decrypt,
    "order.logisticsAddMultiPack": _ship,
    "sku.syncStockBatch": _stock,
    "token.refresh": _refresh,
}


@router.post("/{group}/{name}")
async def call(group: str, name: str, request: Request) -> Response:
    query, body = request.query_params, (await request.body()).decode()
    shop = shops.find(app_key=query.get("app_key"))
    method = query.get("method", "")
    if shop is None:
        return _error(30001, "isv.app-permissions-insufficient")
    secret = shop.secrets["app_secret"]
    text = f"{secret}app_key{query['app_key']}method{method}param_json{body}timestamp{query['timestamp']}v2{secret}"
    if not hmac.compare_digest(hmac.new(secret.encode(), text.encode(), "sha256").hexdigest(), query.get("sign", "")):
        return _error(40003, "isv.signature-invalid")
    if f"{group}.{name}" != method or method not in _METHODS:
        return _error(70000, "isp.unknown-method")
    token = query.get("access_token")
    if method != "token.refresh" and token in shops.expired:
        return _error(40003, "isv.access-token-expired")
    if method != "token.refresh" and token != shop.secrets["access_token"]:
        return _error(40003, "isv.access-token-invalid")

    async def work() -> Response:
        try:
            data = await _METHODS[method](shop, json.loads(body))
        except Refusal as refusal:
            return _error(refusal.code, refusal.sub_code)
        return JSONResponse({"code": 10000, "msg": "success", "sub_code": "", "log_id": uuid4().hex, "data": data})

    return await faults.play("douyin", method, body, work, lambda seconds: _error(60000, "isp.too-many-requests"))
