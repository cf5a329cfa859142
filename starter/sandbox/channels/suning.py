"""Suning's twin: the open platform's one address with its signed headers, envelopes, error codes and paging.

Account: ``base_url`` ``{sandbox}/suning``; secrets ``app_key``, ``app_secret``.
"""

import base64
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import md5
from math import ceil
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import Sale, Shipped, Shop, Shops, china_time

SECRETS: tuple[str, ...] = ("app_key", "app_secret")
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {}

router = APIRouter()
shops = Shops(router, number=lambda sale, n: str(26_000_000_000 + n))


class Refusal(Exception):
    pass


def _sent(shop: Shop, sale: Sale) -> dict[str, str]:
    """Return the waybills by line."""
    return {line_no: each.waybill_no for each in shop.shipped(sale.order_no) for line_no in each.lines}


def _line_no(sale: Sale, at: int) -> str:
    return f"{sale.order_no}{at + 1:02}"


def _status(shop: Shop, sale: Sale) -> str:
    if sale.status:
        return sale.status
    whole = [each for each in sale.refunds.values() if not each.sku and each.state == "granted"]
    sent = _sent(shop, sale)
    if sale.cancelled or (whole and not sent):
        return "40"
    if not (sale.paid or sale.cash_on_delivery):
        return "00"
    if not sent:
        return "10"
    return "20" if len(sent) == len([line for line in sale.lines if line.quantity]) else "21"


def _order(shop: Shop, sale: Sale) -> dict[str, Any]:
    person, sent = sale.recipient, _sent(shop, sale)
    lines = []
    for at, line in enumerate(sale.lines):
        if not line.quantity:
            continue
        states = {each.state for each in sale.refunds.values() if each.sku in ("", line.sku)}
        line_no = _line_no(sale, at)
        lines.append(
            {
                "orderLineNumber": line_no,
                "orderLineStatus": "40" if "granted" in states else "20" if line_no in sent else "10",
                "productCode": str(120_000_000 + at),
                "itemCode": line.sku,
                "productName": line.title or line.sku,
                "saleNum": float(line.quantity),
                "unitPrice": float(line.price),
                "payAmount": float(line.price * line.quantity - line.discount),
                "transportFee": float(sale.freight) if at == 0 else 0.0,
                "returnOrderFlag": "1" if "asked" in states else "0",
                "expressno": sent.get(line_no, ""),
            }
        )
    province, city, district = (person.get(name, "") for name in ("province", "city", "district"))
    return {
        "orderCode": sale.order_no,
        "orderTotalStatus": _status(shop, sale),
        "orderSaleTime": china_time(sale.created),
        "customerName": person.get("name", ""),
        "mobNum": person.get("phone", ""),
        "provinceName": province,
        "cityName": city,
        "districtName": district,
        "customerAddress": f"{province}{city}{district}{person.get('street', '')}",
        "userName": "buyer",
        "payType": "货到付款" if sale.cash_on_delivery else "在线支付",
        "buyerOrdRemark": sale.buyer_message,
        "sellerOrdRemark": sale.seller_memo,
        "orderDetail": lines,
    }


async def _query(shop: Shop, query: dict[str, Any], moment: Callable[[Sale], datetime]) -> dict[str, Any]:
    first, last = query["startTime"], query["endTime"]
    found = sorted((sale for sale in shop.sales.values() if first <= china_time(moment(sale)) <= last), key=moment)
    if not found:
        raise Refusal("biz.handler.data-get:no-result")
    number, size = int(query["pageNo"]), int(query["pageSize"])
    shown = [_order(shop, sale) for sale in found[(number - 1) * size : number * size]]
    head = {"pageNo": number, "pageTotal": ceil(len(found) / size), "totalSize": len(found)}
    return {"sn_head": head, "sn_body": {"orderQuery": shown}}


async def _placed(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    return await _query(shop, query, lambda sale: sale.created)


async def _changed(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    return await _query(shop, query, lambda sale: sale.modified)


async def _get(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    sale = shop.sales.get(query["orderCode"])
    if sale is None:
        raise Refusal("biz.handler.data-get:no-result")
    return {"sn_body": {"orderGet": _order(shop, sale)}}


async def _deliver(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    sale = shop.sales.get(query["orderCode"])
    if sale is None:
        raise Refusal("biz.orderDelivery.ordercode-value:inexistence")
    lines = query["orderLineNumbers"]["orderLineNumber"]
    if set(lines) & set(_sent(shop, sale)):
        raise Refusal("biz.orderDelivery.order-status:error")
    quantities = {_line_no(sale, at): line.quantity for at, line in enumerate(sale.lines)}
    if not set(lines) <= set(quantities):
        raise Refusal("biz.custom.orderDelivery.invalid-biz:orderLineNumber")
    shop.shipments.append(
        Shipped(
            order_no=sale.order_no,
            carrier=query["expressCompanyCode"],
            waybill_no=query["expressNo"],
            lines={line_no: quantities[line_no] for line_no in lines},
        )
    )
    return {"sn_body": {"orderDelivery": {"result": "Y"}}}


async def _stock(shop: Shop, query: dict[str, Any]) -> dict[str, Any]:
    """Products from 900000000 on do not exist."""
    shop.pushes += 1
    if int(query["productCode"]) >= 900_000_000:
        raise Refusal("biz.custom.inventory.invalid-biz:productCode")
    shop.stock[query["productCode"]] = int(query["destInvNum"])
    return {"sn_body": {"inventory": {"result": "Y"}}}


_METHODS: dict[str, tuple[str, Callable[[Shop, dict[str, Any]], Awaitable[dict[str, Any]]]]] = {
    "suning.custom.order.query": ("orderQuery", _placed),
    "suning.custom.ordmodtime.query": ("orderQuery", _changed),
    "suning.custom.order.get": ("orderGet", _get),
    "suning.custom.orderdelivery.add": ("orderDelivery", _deliver),
    "suning.custom.inventory.modify": ("inventory", _stock),
}


def _error(code: str) -> JSONResponse:
    return JSONResponse({"sn_responseContent": {"sn_error": {"error_code": code, "error_msg": ""}}})


@router.post("/api/http/sopRequest")
async def call(request: Request) -> Response:
    headers, body = request.headers, await request.body()
    shop = shops.find(app_key=headers.get("appkey"))
    if shop is None:
        return _error("sys.check.header-param:forbidden")
    method, moment = headers.get("appmethod", ""), headers.get("apprequesttime", "")
    text = f"{shop.secrets['app_secret']}{method}{moment}{headers['appkey']}{headers.get('versionno')}".encode()
    digest = md5(text + base64.b64encode(body), usedforsecurity=False).hexdigest()
    if not hmac.compare_digest(digest, headers.get("signinfo", "")):
        return _error("sys.check.header-param:forbidden")
    if method not in _METHODS:
        return _error("sys.check.header-param:appmethod")
    node, handler = _METHODS[method]
    query = json.loads(body)["sn_request"]["sn_body"][node]

    async def work() -> Response:
        try:
            return JSONResponse({"sn_responseContent": await handler(shop, query)})
        except Refusal as refusal:
            return _error(str(refusal))

    return await faults.play("suning", method, json.dumps(query), work)
