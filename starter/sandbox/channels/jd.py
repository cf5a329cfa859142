"""JD's twin: JOS's router with its signatures, misspelt envelopes, error codes and paging, and its token endpoint.

Account: ``base_url`` ``{sandbox}/jd``, the same as setting ``oauth_url``; secrets ``app_key``, ``app_secret``,
``access_token``, ``refresh_token``.
"""

import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import md5
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Sale, Shipped, Shop, Shops, china_time

SECRETS: tuple[str, ...] = ("app_key", "app_secret", "access_token", "refresh_token")
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {"oauth_url": "{url}"}

router = APIRouter()
shops = Shops(router, number=lambda sale, n: str(310_000_000_000 + n), expiring="access_token")
_FIRST_UNKNOWN_SKU = 9_000_000_000
"""SKUs from this number on do not exist."""


def _time(moment: datetime | None) -> str:
    return china_time(moment) if moment else "0001-01-01 00:00:00"


def _state(shop: Shop, sale: Sale) -> str:
    if sale.status:
        return sale.status
    whole = [each for each in sale.refunds.values() if not each.sku]
    sent = bool(shop.shipped(sale.order_no))
    if sale.cancelled or (any(each.state == "granted" for each in whole) and not sent):
        return "TRADE_CANCELED"
    if sent:
        return "WAIT_GOODS_RECEIVE_CONFIRM"
    if any(each.state == "asked" for each in sale.refunds.values()):
        return "LOCKED"
    return "WAIT_SELLER_STOCK_OUT" if sale.paid or sale.cash_on_delivery else "NOT_PAY"


def _order(shop: Shop, sale: Sale) -> dict[str, Any]:
    person = sale.recipient
    province, city, county = (person.get(name, "") for name in ("province", "city", "district"))
    lines = [(at, line) for at, line in enumerate(sale.lines) if line.quantity]
    return {
        "orderId": sale.order_no,
        "orderType": "22",
        "payType": "1-货到付款" if sale.cash_on_delivery else "4-在线支付",
        "orderTotalPrice": f"{sale.total:.2f}",
        "orderSellerPrice": f"{sale.total - sale.freight:.2f}",
        "orderPayment": f"{sale.total:.2f}",
        "freightPrice": f"{sale.freight:.2f}",
        "orderState": _state(shop, sale),
        "orderStateRemark": "用户取消" if sale.cancelled else "",
        "orderStartTime": _time(sale.created),
        "paymentConfirmTime": _time(sale.paid_at),
        "modified": _time(sale.modified),
        "venderRemark": sale.seller_memo,
        "orderRemark": sale.buyer_message,
        "open_id_buyer": "buyer",
        "consigneeInfo": {
            "fullname": person.get("name", ""),
            "mobile": person.get("phone", ""),
            "telephone": "",
            "fullAddress": f"{province}{city}{county}{person.get('street', '')}",
            "province": province,
            "city": city,
            "county": county,
            "town": "",
        },
        "itemInfoList": [
            {
                "skuId": str(100_000 + at),
                "outerSkuId": line.sku,
                "wareId": str(50_000 + at),
                "skuName": line.title or line.sku,
                "jdPrice": f"{line.price:.2f}",
                "itemTotal": str(line.quantity),
            }
            for at, line in lines
        ],
        "couponDetailList": [
            {"skuId": str(100_000 + at), "couponType": "20-套装优惠", "couponPrice": f"{line.discount:.2f}"}
            for at, line in lines
            if line.discount
        ],
        "waybill": "|".join(each.waybill_no for each in shop.shipped(sale.order_no)),
    }


class Refusal(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


async def _search(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    def at(sale: Sale) -> str:
        return _time(sale.created if query["dateType"] == "1" else sale.modified)

    states = query["order_state"].split(",")
    found = sorted(
        (sale for sale in shop.sales.values() if query["start_date"] <= at(sale) <= query["end_date"]), key=at
    )
    found = [sale for sale in found if _state(shop, sale) in states]
    page, size = int(query["page"]), int(query["page_size"])
    shown = [_order(shop, sale) for sale in found[(page - 1) * size : page * size]]
    result = {"apiResult": {"success": True}, "orderTotal": len(found), "orderInfoList": shown}
    return {"searchorderinfo_result": result}


async def _get(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    sale = shop.sales.get(query["order_id"])
    if sale is None:
        raise Refusal("10400001", "订单不存在")
    return {"orderDetailInfo": {"apiResult": {"success": True}, "orderInfo": _order(shop, sale)}}


async def _ship(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    sale = shop.sales.get(query["orderId"])
    if sale is None or shop.shipped(query["orderId"]):
        refused = {"success": "false", "numberCode": "10400002", "chineseErrCode": "订单状态不允许出库"}
        return {"sopjosshipment_result": refused}
    lines = {str(100_000 + at): line.quantity for at, line in enumerate(sale.lines)}
    shop.shipments.append(
        Shipped(order_no=sale.order_no, carrier=query["logiCoprId"], waybill_no=query["logiNo"], lines=lines)
    )
    return {"sopjosshipment_result": {"success": "true", "chineseErrCode": "成功"}}


async def _stock(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    shop.pushes += 1
    if int(query["skuId"]) >= _FIRST_UNKNOWN_SKU:
        raise Refusal("10500009", "sku不存在")
    shop.stock[query["skuId"]] = int(query["stockNum"])
    return {"code": "0"}


_SERVICE_STATUSES = {"asked": "2", "granted": "13", "closed": "14"}


async def _after_sales(shop: Shop, query: dict[str, str]) -> dict[str, Any]:
    """Requests since an order shipped; their times of request and approval are the order's last change."""
    by = next((name for name in ("apply", "approve") if f"{name}TimeBegin" in query), "")
    found = []
    for sale in shop.sales.values():
        if not shop.shipped(sale.order_no) or query.get("orderId", sale.order_no) != sale.order_no:
            continue
        if by and not query[f"{by}TimeBegin"] <= _time(sale.modified) <= query[f"{by}TimeEnd"]:
            continue
        found += [
            {
                "afsRefundId": each.refund_no,
                "status": _SERVICE_STATUSES[each.state],
                "refoundAmount": f"{each.amount:.2f}",
                "sameOrderServiceBill": {"serviceId": each.refund_no, "orderId": sale.order_no},
            }
            for each in sale.refunds.values()
        ]
    page, size = int(query["pageNumber"]), int(query["pageSize"])
    shown = found[(page - 1) * size : page * size]
    return {"pageResult": {"success": True, "totalCount": len(found), "data": shown}}


_METHODS: dict[str, Callable[[Shop, dict[str, str]], Awaitable[dict[str, Any]]]] = {
    "jingdong.pop.order.search": _search,
    "jingdong.pop.order.get": _get,
    "jingdong.pop.order.shipment": _ship,
    "jingdong.asc.serviceAndRefund.view": _after_sales,
    "jingdong.stock.write.updateSkuStock": _stock,
}


def _error(code: str, text: str) -> JSONResponse:
    return JSONResponse({"error_response": {"code": code, "zh_desc": text, "en_desc": ""}})


@router.post("/routerjson")
async def call(request: Request) -> Response:
    query = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    shop = shops.find(app_key=query.get("app_key"))
    if shop is None:
        return _error("11", "无效的app_key")
    secret = shop.secrets["app_secret"]
    text = "".join(f"{key}{value}" for key, value in sorted(query.items()) if key != "sign")
    digest = md5(f"{secret}{text}{secret}".encode(), usedforsecurity=False).hexdigest().upper()
    if not hmac.compare_digest(digest, query.get("sign", "")):
        return _error("12", "无效签名")
    method, token = query.get("method", ""), query.get("access_token", "")
    if method not in _METHODS:
        return _error("15", "无效方法")
    if token in shops.expired or token != shop.secrets["access_token"]:
        return _error("19", "token已过期或者不存在，请重新授权")
    business = json.loads(query["360buy_param_json"])

    async def work() -> Response:
        try:
            content = await _METHODS[method](shop, business)
        except Refusal as refusal:
            return _error(refusal.code, refusal.text)
        return JSONResponse({f"{method.replace('.', '_')}_responce": {"code": "0", **content}})

    return await faults.play("jd", method, json.dumps(business), work, lambda seconds: _error("21", "调用频率超过限流"))


@router.post("/oauth2/refresh_token")
async def refresh(request: Request) -> Response:
    query = dict(parse_qsl((await request.body()).decode()))
    shop = shops.find(app_key=query.get("app_key"))
    if shop is None or query.get("refresh_token") != shop.secrets["refresh_token"]:
        return JSONResponse({"code": "402", "msg": "refresh_token invalid"})
    tokens = shop.renew("access_token", "refresh_token")
    return JSONResponse({**tokens, "expires_in": 31_536_000, "token_type": "bearer"})
