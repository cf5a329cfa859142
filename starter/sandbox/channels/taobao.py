"""Taobao's twin: TOP's gateway with its signatures, envelopes, field lists, paging and fault codes.

Account: ``base_url`` ``{sandbox}/taobao``; secrets ``app_key``, ``app_secret``, ``session``, ``refresh_token``.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import md5
from hmac import compare_digest, digest
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.shops import CHINA, Sale, Shipped, Shop, Shops, china_time

SECRETS: tuple[str, ...] = ("app_key", "app_secret", "session", "refresh_token")
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {}

router = APIRouter()
shops = Shops(router, number=lambda sale, n: str(4_100_000_000_000_000_000 + n * 100), expiring="session")


class Refusal(Exception):
    def __init__(self, code: int, msg: str, sub_code: str = "", sub_msg: str = "") -> None:
        super().__init__(msg)
        self.body = {"code": code, "msg": msg, "sub_code": sub_code, "sub_msg": sub_msg, "request_id": "sandbox"}


@router.post("/router/rest")
async def gateway(request: Request) -> Response:
    params = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    method = params.get("method", "")
    text = f"{params.get('tid', '')} {params.get('session', '')}"
    operation = "stock" if method.endswith(".quantity.update") else method

    async def work() -> Response:
        try:
            shop = _authenticated(params)
            if method not in _METHODS:
                raise Refusal(22, "Invalid Method")
            answer = _METHODS[method](shop, params)
        except Refusal as refusal:
            return JSONResponse({"error_response": refusal.body})
        return JSONResponse({f"{method.removeprefix('taobao.').replace('.', '_')}_response": answer})

    return await faults.play("taobao", operation, text, work, _banned)


def _banned(seconds: int) -> Response:
    ban = f"This ban will last for {seconds} more seconds"
    error = Refusal(7, "App Call Limited", "accesscontrol.limited-by-api-access-count", ban)
    return JSONResponse({"error_response": error.body})


def _authenticated(params: Mapping[str, str]) -> Shop:
    refreshing = params.get("method") == "taobao.top.auth.token.refresh"
    if not refreshing and "session" not in params:
        raise Refusal(26, "Missing Session")
    name = "refresh_token" if refreshing else "session"
    shop = shops.find(**{name: params.get(name)})
    if shop is None or (not refreshing and params["session"] in shops.expired):
        raise Refusal(27, "Invalid Session")
    if params.get("app_key") != shop.secrets["app_key"]:
        raise Refusal(29, "Invalid App Key")
    text = "".join(key + value for key, value in sorted(params.items()) if key != "sign").encode()
    secret = shop.secrets["app_secret"].encode()
    expected = {
        "md5": lambda: md5(secret + text + secret, usedforsecurity=False).hexdigest(),
        "hmac": lambda: digest(secret, text, "md5").hex(),
        "hmac-sha256": lambda: digest(secret, text, "sha256").hex(),
    }.get(params.get("sign_method", ""))
    if expected is None or not compare_digest(expected().upper(), params.get("sign", "")):
        raise Refusal(25, "Invalid Signature")
    try:
        moment = datetime.strptime(params.get("timestamp", ""), "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA)
    except ValueError:
        raise Refusal(31, "Invalid Timestamp") from None
    if abs(datetime.now(CHINA) - moment) > timedelta(minutes=10):
        raise Refusal(31, "Invalid Timestamp")
    return shop


def _status(shop: Shop, sale: Sale) -> str:
    if sale.status:
        return sale.status
    whole = [each for each in sale.refunds.values() if not each.sku and each.state == "granted"]
    if sale.cancelled or (whole and not shop.shipped(sale.order_no)):
        return "TRADE_CLOSED" if sale.paid else "TRADE_CLOSED_BY_TAOBAO"
    sent = {oid for each in shop.shipped(sale.order_no) for oid in each.lines}
    if len(sent) == len(sale.lines):
        return "WAIT_BUYER_CONFIRM_GOODS"
    if sent:
        return "SELLER_CONSIGNED_PART"
    return "WAIT_SELLER_SEND_GOODS" if sale.paid or sale.cash_on_delivery else "WAIT_BUYER_PAY"


def _oid(sale: Sale, at: int) -> str:
    """Return the number of a line; the only line of a trade has the number of the trade."""
    return sale.order_no if len(sale.lines) == 1 else str(int(sale.order_no) + 1 + at)


_REFUNDS = {"asked": "WAIT_SELLER_AGREE", "granted": "SUCCESS", "closed": "CLOSED"}


def trade(shop: Shop, sale: Sale) -> dict[str, Any]:
    """Return a sale as ``taobao.trade.fullinfo.get`` does, without empty fields."""
    status = _status(shop, sale)
    sent = {oid: each for each in shop.shipped(sale.order_no) for oid in each.lines}
    orders = []
    for at, line in enumerate(sale.lines):
        oid = _oid(sale, at)
        refund = next((each for each in sale.refunds.values() if each.sku in ("", line.sku)), None)
        refund_status = _REFUNDS[refund.state] if refund else "SUCCESS" if status == "TRADE_CLOSED" else "NO_REFUND"
        order = {
            "oid": int(oid),
            "num": line.quantity,
            "num_iid": 600_000_000_000 + at,
            "outer_sku_id": line.sku,
            "title": line.title or line.sku,
            "price": f"{line.price:.2f}",
            "payment": f"{line.price * line.quantity - line.discount:.2f}",
            "discount_fee": f"{line.discount:.2f}",
            "adjust_fee": "0.00",
            "divide_order_fee": f"{line.price * line.quantity - line.discount:.2f}",
            "refund_status": refund_status,
            "refund_id": refund.refund_no if refund else None,
            "status": "WAIT_BUYER_CONFIRM_GOODS" if oid in sent else status,
            "seller_type": "C",
        }
        if oid in sent:
            order |= {"invoice_no": sent[oid].waybill_no, "logistics_company": sent[oid].carrier}
        orders.append(order)
    person = sale.recipient
    whole = {
        "tid": int(sale.order_no),
        "status": status,
        "type": "cod" if sale.cash_on_delivery else "fixed",
        "payment": f"{sale.total:.2f}",
        "post_fee": f"{sale.freight:.2f}",
        "created": china_time(sale.created),
        "modified": china_time(sale.modified),
        "pay_time": china_time(sale.paid_at) if sale.paid_at else None,
        "end_time": china_time(sale.cancelled_at) if sale.cancelled_at else None,
        "receiver_name": person.get("name"),
        "receiver_state": person.get("province"),
        "receiver_city": person.get("city"),
        "receiver_district": person.get("district"),
        "receiver_address": person.get("street"),
        "receiver_zip": person.get("postcode"),
        "receiver_mobile": person.get("phone"),
        "oaid": md5(repr(person).encode(), usedforsecurity=False).hexdigest(),
        "buyer_nick": "t***1",
        "buyer_open_uid": f"AAH{sale.order_no}",
        "buyer_message": sale.buyer_message,
        "seller_memo": sale.seller_memo,
        "seller_flag": 1 if sale.urgent else 0,
        "trade_from": "WAP,WAP",
        "orders": {"order": orders},
    }
    return {key: value for key, value in whole.items() if value not in (None, "")}


def _increment(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    return _window(shop, params, "modified")


def _sold(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    return _window(shop, params, "created")


def _window(shop: Shop, params: Mapping[str, str], by: str) -> dict[str, Any]:
    start, end = (params.get(name, "") for name in (f"start_{by}", f"end_{by}"))
    try:
        span = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    except ValueError:
        raise Refusal(15, "Remote service error", "isv.invalid-parameter") from None
    if span > timedelta(days=1):
        raise Refusal(15, "Remote service error", "isv.invalid-parameter:modified-time-span")
    size, number = int(params.get("page_size", "40")), int(params.get("page_no", "1"))
    if not 1 <= size <= 100:
        raise Refusal(15, "Remote service error", "isv.invalid-parameter:page_size")
    changed = (sale for sale in shop.sales.values() if start <= china_time(getattr(sale, by)) <= end)
    found = sorted(changed, key=lambda sale: str(getattr(sale, by).astimezone(CHINA)), reverse=True)
    page = found[(number - 1) * size : number * size]
    trades = [_fields(trade(shop, sale), params) for sale in page]
    answer: dict[str, Any] = {"trades": {"trade": trades} if trades else {}, "request_id": "sandbox"}
    if params.get("use_has_next") == "true":
        return answer | {"has_next": len(found) > number * size}
    return answer | {"total_results": len(found)}


def _fullinfo(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    return {"trade": _fields(trade(shop, _sale(shop, params)), params), "request_id": "sandbox"}


def _sale(shop: Shop, params: Mapping[str, str]) -> Sale:
    sale = shop.sales.get(params.get("tid", ""))
    if sale is None:
        raise Refusal(15, "Remote service error", "isv.trade-not-exist", "交易订单不存在")
    return sale


def _fields(whole: dict[str, Any], params: Mapping[str, str]) -> dict[str, Any]:
    if not (fields := set(params.get("fields", "").split(",")) - {""}):
        raise Refusal(40, "Missing Required Arguments:fields")
    return {key: value for key, value in whole.items() if key in fields}


def _send(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    def refused(sub: str, why: str) -> Refusal:
        return Refusal(15, "Remote service error", f"isv.logistics-offline-service-error:{sub}", why)

    sale = shop.sales.get(params.get("tid", ""))
    if sale is None:
        raise refused("B01", "订单不存在")
    if not params.get("out_sid"):
        raise refused("B59", "运单号不能为空")
    if not params.get("company_code"):
        raise refused("B56", "物流公司不存在")
    oids = {_oid(sale, at): line.quantity for at, line in enumerate(sale.lines)}
    part = [oid for oid in params.get("sub_tid", "").split(",") if oid]
    if (params.get("is_split") == "1") != bool(part):
        raise refused("CD22", "拆单发货参数错误")
    if unknown := set(part) - set(oids):
        raise refused("CD24", f"子订单不存在 {len(unknown)}")
    status = _status(shop, sale)
    sent = {oid for each in shop.shipped(sale.order_no) for oid in each.lines}
    shipping = part or list(oids)
    if status == "WAIT_BUYER_CONFIRM_GOODS" or sent & set(shipping):
        raise refused("B04", "订单已发货")
    if status not in ("WAIT_SELLER_SEND_GOODS", "SELLER_CONSIGNED_PART"):
        raise refused("B02", "订单状态不允许发货")
    shop.shipments.append(
        Shipped(
            order_no=sale.order_no,
            carrier=params["company_code"],
            waybill_no=params["out_sid"],
            lines={oid: oids[oid] for oid in shipping},
        )
    )
    sale.modified = datetime.now(CHINA)
    return {"shipping": {"is_success": True}}


def _refresh(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    fresh = shop.renew("session", "refresh_token")
    token = {"access_token": fresh["session"], "refresh_token": fresh["refresh_token"], "expires_in": 86400}
    return {"token_result": json.dumps(token), "request_id": "sandbox"}


def _decrypt(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    """Return recipients as they are: the sandbox masks nothing."""
    receivers = []
    for each in json.loads(params["query_list"]):
        person = shop.sales[each["tid"]].recipient
        receivers.append(
            {
                "oaid": each["oaid"],
                "tid": each["tid"],
                "name": person.get("name"),
                "mobile": person.get("phone"),
                "address_detail": person.get("street"),
            }
        )
    return {"receiver_list": {"receiver": receivers}, "request_id": "sandbox"}


def _unknown(number: str) -> bool:
    """Whether the shop does not sell an item or SKU: those that begin with 404."""
    return number.startswith("404")


def _item_quantity(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    return _set(shop, params, {params.get("num_iid", ""): params.get("quantity", "")})


def _skus_quantity(shop: Shop, params: Mapping[str, str]) -> dict[str, Any]:
    pairs = [pair.partition(":") for pair in params.get("skuid_quantities", "").split(";")]
    return _set(shop, params, {sku_id: quantity for sku_id, _, quantity in pairs})


def _set(shop: Shop, params: Mapping[str, str], quantities: Mapping[str, str]) -> dict[str, Any]:
    """Set all quantities or none."""
    shop.pushes += 1
    if not params.get("num_iid"):
        raise Refusal(40, "Missing Required Arguments:num_iid")
    if _unknown(params["num_iid"]):
        raise Refusal(15, "Remote service error", "isv.item-not-exist:invalid-numIid-or-iid", "商品id对应的商品不存在")
    if len(quantities) > 20 or params.get("type", "1") != "1" or not all(q.isdecimal() for q in quantities.values()):
        raise Refusal(15, "Remote service error", "isv.invalid-parameter", "非法参数")
    if any(_unknown(number) for number in quantities):
        raise Refusal(15, "Remote service error", "isv.item-quantity-sku-update-service-error", "没有找到SKUID")
    shop.stock |= {number: int(quantity) for number, quantity in quantities.items()}
    now = china_time(datetime.now(CHINA))
    skus = [{"sku_id": int(number), "quantity": shop.stock[number], "modified": now} for number in quantities]
    return {"item": {"num_iid": int(params["num_iid"]), "modified": now, "skus": {"sku": skus}}}


_METHODS = {
    "taobao.top.auth.token.refresh": _refresh,
    "taobao.top.oaid.decrypt": _decrypt,
    "taobao.trades.sold.get": _sold,
    "taobao.trades.sold.increment.get": _increment,
    "taobao.trade.fullinfo.get": _fullinfo,
    "taobao.logistics.offline.send": _send,
    "taobao.item.quantity.update": _item_quantity,
    "taobao.skus.quantity.update": _skus_quantity,
}
