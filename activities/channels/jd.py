"""JD (京东) POP shops by JOS (宙斯).

Sources: the signing example of open.jd.com (listId 2643), XiBao/jos and pifeifei/jingdong-jos-api-sdk for methods and
fields (jingdong.pop.order.search, jingdong.pop.order.get, jingdong.pop.order.shipment,
jingdong.stock.write.updateSkuStock), open-oauth.jd.com/oauth2/refresh_token. The envelope is officially spelt
``…_responce``; any spelling is read. Not sourced: the gateway's codes for its limits (an unknown code is final, unless
its text mentions a time-out or a limit), the code of an order that does not exist, carriers' numbers beyond SF and EMS:
those below are as merchants' tools list them, a seller's own list has all, and setting ``carrier_codes`` adds others.
jingdong.asc.serviceAndRefund.view (doc 15040) is read as public SDKs do: status 13 is refunded, 14 is failed, every
other is still open; the unit of ``refoundAmount`` is not documented and taken to be yuan.

Coupons are assigned to a line by its SKU in ``couponDetailList``; those that JD pays for (京豆, 京券, 手机红包, 礼品卡)
take nothing off. ``total`` is ``orderSellerPrice``, the merchant's price after its own discounts, and ``freightPrice``;
of cash on delivery ``orderPayment``. While a buyer requests a cancellation or refund before shipping, the whole order
is ``LOCKED``; later requests are read from JD's after-sales service, and ``custom.refunds_unknown`` marks orders whose
requests we may not see. Recipients are plain for merchants' own apps, and masked or cipher text for others: those are
held, shown by JD's own masks. JD takes one shipment an order: a second parcel cannot be reported.

Fields of an order that are kept raw: ``parentOrderId``, ``venderId``, ``orderTotalPrice`` (before discounts),
``balanceUsed`` (paid by balance), ``flag``, ``vatInfo`` and the title in ``invoiceInfo`` (personal; only the kind of
invoice becomes ``custom.invoice``), ``sendpayMap``, ``storeOrder``, ``deliveryType``. Without meaning here:
``dataVersion``, ``waybill``, ``logisticsId``, ``storeId``, ``returnOrder``, ``outBoundDate``, and of an item
``wareId``, ``productNo`` and ``giftPoint``. Gifts are items of price 0.

Account: ``base_url`` ``https://api.jd.com``; secrets ``app_key``, ``app_secret``, ``access_token``, ``refresh_token``;
settings ``oauth_url`` (``https://open-oauth.jd.com``), ``carrier_codes``. Listings: ``sku_id``.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, JsonValue
from temporalio.exceptions import ApplicationError

from activities.channels import (
    PulledOrder,
    StockOffer,
    StockRefusal,
    carrier_code,
    marketplace_origin,
    oauth_secrets,
    order_fact_key,
    pulled_order,
    refusal_code,
    refused_one_by_one,
)
from activities.kit import http
from activities.kit.errors import Unauthentic, expired, refused, unavailable
from activities.kit.lenient import decode_order, standard_order
from activities.kit.paging import last_page_first, page_count, sliced_rows, time_slices
from activities.kit.payloads import (
    CHINA,
    ChinaTime,
    Code,
    Fee,
    Listed,
    MaybeChinaTime,
    Part,
    Price,
    Quantity,
    Text,
    drop_empty,
    format_china_time,
    without_prefixes,
)
from activities.vendors.gateway import compact_json, documented_format, md5_sign
from models.accounts import CODES_OF_CARRIERS, RENEWED, AccountFields, secret, setting
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState

ACCOUNT = AccountFields(
    console="jd",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        secret("access_token"),
        *RENEWED,
        CODES_OF_CARRIERS,
        setting("oauth_url"),
    ),
    base_url="https://api.jd.com",
)

READ = "jingdong.pop.order.get"
"""The topic of an order that was read."""
CARRIER_CODES = {
    "yto": "463",
    "ems": "465",
    "sf": "467",
    "sto": "470",
    "yunda": "1327",
    "zto": "1499",
    "jdl": "2087",
}
_FIELDS = (
    "orderId,parentOrderId,venderId,orderType,payType,orderTotalPrice,orderSellerPrice,orderPayment,freightPrice,"
    "sellerDiscount,orderState,orderStateRemark,orderStartTime,paymentConfirmTime,modified,venderRemark,orderRemark,"
    "flag,pin,open_id_buyer,consigneeInfo,itemInfoList,couponDetailList,waybill,logisticsId,sendpayMap,storeOrder,invoiceInfo,vatInfo,balanceUsed"
)
_STATES = (
    "NOT_PAY,WAIT_SELLER_STOCK_OUT,WAIT_SELLER_DELIVERY,WAIT_GOODS_RECEIVE_CONFIRM,FINISHED_L,TRADE_CANCELED,LOCKED,"
    "POP_ORDER_PAUSE,PAUSE"
)
_UNPAID, _CLOSED = {"NOT_PAY"}, {"TRADE_CANCELED"}
_TO_SHIP, _HELD = {"WAIT_SELLER_STOCK_OUT"}, {"LOCKED", "POP_ORDER_PAUSE", "PAUSE"}
_SHIPPED = {"WAIT_SELLER_DELIVERY", "WAIT_GOODS_RECEIVE_CONFIRM", "FINISHED_L"}
_VIRTUAL = {"WAIT_SEND_CODE"}
_KNOWN = _UNPAID | _CLOSED | _TO_SHIP | _HELD | _SHIPPED | _VIRTUAL
_NOT_SHIPPED = {"75"}
"""Order types without shipping: local services."""
_PLATFORM_COUPONS = {"34", "39", "41", "52"}
"""Types of coupons that JD pays for: 手机红包, 京豆, 京券 and 礼品卡."""
_CIPHER = re.compile(r"[A-Za-z0-9+/=_\-~#$]{24,}")
"""How JD's cipher text looks: a long run of Base64, perhaps within marks."""
_CHANGING = frozenset({"fullname", "mobile", "telephone", "fullAddress", "pin"})
"""Fields whose cipher text differs from call to call."""
_SLICE = timedelta(days=30)
_AFTER_SALES = "jingdong.asc.serviceAndRefund.view"
_AFTER_SALES_PAGE = 50
_WEEK = timedelta(days=7)
_SETTLING = timedelta(days=3)
"""How long after its approval a refund may take to end."""
_REFUND_STATES = {"13": RefundState.GRANTED, "14": RefundState.CLOSED}
_PAGE = 100
_EXPIRED = {"19"}
_TRANSIENT = re.compile(r"限流|频|超时|稍后|繁忙|timeout|limit|busy", re.IGNORECASE)
_NO_ORDER = "10400001"


class _Consignee(BaseModel):
    fullname: Part = ""
    mobile: Part = ""
    telephone: Part = ""
    fullAddress: Part = ""
    desen_fullname: Part = ""
    desen_mobile: Part = ""
    desen_telephone: Part = ""
    desen_fullAddress: Part = ""
    province: Part = ""
    city: Part = ""
    county: Part = ""
    town: Part = ""


class _Item(BaseModel):
    skuId: Code
    outerSkuId: Text = ""
    wareId: Text = ""
    skuName: Text = ""
    jdPrice: Price
    itemTotal: Quantity


class _Coupon(BaseModel):
    skuId: Text = ""
    couponType: Text = ""
    couponPrice: Fee = Decimal(0)

    @property
    def merchants(self) -> bool:
        """Whether the merchant grants it; the platform pays the merchant for all others."""
        return self.couponType.partition("-")[0] not in _PLATFORM_COUPONS


Coupons = Annotated[list[_Coupon], BeforeValidator(lambda value: value or [])]


class _Order(BaseModel):
    orderId: Code
    orderType: Text = ""
    payType: Text = ""
    orderSellerPrice: Price
    orderPayment: Annotated[Price | None, BeforeValidator(lambda value: value or None)] = None
    sellerDiscount: Fee = Decimal(0)
    freightPrice: Fee = Decimal(0)
    orderState: Annotated[Text, Listed("?", _KNOWN, required=True)]
    orderStateRemark: Text = ""
    orderStartTime: ChinaTime
    paymentConfirmTime: MaybeChinaTime = None
    modified: ChinaTime
    venderRemark: Text = ""
    orderRemark: Text = ""
    pin: Text = ""
    open_id_buyer: Text = ""
    consigneeInfo: _Consignee = _Consignee()
    itemInfoList: list[_Item]
    couponDetailList: Coupons = []
    invoiceInfo: Text = ""

    @property
    def recipient(self) -> Recipient:
        """The recipient, by JD's own masks where it sends cipher text."""
        person = self.consigneeInfo
        name = _shown(person.fullname, person.desen_fullname)
        phone = _shown(person.mobile, person.desen_mobile) or _shown(person.telephone, person.desen_telephone)
        address = _shown(person.fullAddress, person.desen_fullAddress)
        return Recipient.model_construct(
            name=name,
            phone=phone,
            province=person.province,
            city=person.city,
            district=person.county,
            town=person.town,
            street=without_prefixes(address, person.province, person.city, person.county),
            hidden="*" in name + phone + address,
        )

    @property
    def lines(self) -> list[OrderLine]:
        """One line for each item, also where one SKU was bought and is a gift as well. The merchant's coupon for a SKU
        is the discount of its dearest line."""
        coupons: dict[str, Decimal] = defaultdict(Decimal)
        for each in self.couponDetailList:
            if each.merchants:
                coupons[each.skuId] += each.couponPrice
        lines = []
        seen: Counter[str] = Counter()
        for item in sorted(self.itemInfoList, key=lambda each: -each.jdPrice):
            seen[item.skuId] += 1
            count = seen[item.skuId]
            first = count == 1
            lines.append(
                OrderLine.model_construct(
                    line_no=item.skuId if first else f"{item.skuId}#{count}",
                    sku=item.outerSkuId or item.skuId,
                    listing={"sku_id": item.skuId},
                    title=item.skuName,
                    quantity=item.itemTotal,
                    unit_price=item.jdPrice,
                    discount=max(coupons[item.skuId], Decimal(0)) if first else Decimal(0),
                )
            )
        return lines

    @property
    def freight(self) -> Decimal:
        return max(self.freightPrice, Decimal(0))

    @property
    def total(self) -> Decimal:
        """What the merchant is owed: its price after its own discounts, and the freight beside it. Of cash on delivery,
        what the buyer still pays."""
        owed = self.orderSellerPrice + self.freight
        return min(self.orderPayment, owed) if self.cash_on_delivery and self.orderPayment is not None else owed

    @property
    def discount(self) -> Decimal:
        """The merchant's discounts beside those of the lines; of cash on delivery also what the platform pays."""
        on_lines = sum((line.discount for line in self.lines), Decimal(0))
        coupons = sum((each.couponPrice for each in self.couponDetailList if each.merchants), Decimal(0))
        paid_by_others = self.orderSellerPrice + self.freight - self.total
        return max(max(self.sellerDiscount, coupons) - on_lines, Decimal(0)) + paid_by_others

    @property
    def cash_on_delivery(self) -> bool:
        return self.payType.startswith("1-")

    @property
    def invoice(self) -> str:
        """The kind and content of the invoice that the buyer asks for, without its title, which names a person."""
        parts = (each.strip() for each in re.split(r"[;；]", self.invoiceInfo))
        return "; ".join(each for each in parts if each.startswith(("发票类型", "发票内容", "不需要")))


class _Bill(BaseModel):
    serviceId: Text = ""
    orderId: Text = ""


class _Service(BaseModel):
    afsRefundId: Text = ""
    status: Text = ""
    refoundAmount: Fee = Decimal(0)
    sameOrderServiceBill: _Bill = _Bill()

    @property
    def refund(self) -> Refund:
        bill = self.sameOrderServiceBill
        return Refund.model_construct(
            refund_no=bill.serviceId or self.afsRefundId or bill.orderId,
            state=_REFUND_STATES.get(self.status, RefundState.ASKED),
            amount=max(self.refoundAmount, Decimal(0)),
        )


class _Detail(BaseModel):
    orderInfo: _Order
    services: list[_Service] | None = []
    """``None``: we lack the permission to see them."""


def _shown(text: str, mask: str) -> str:
    """Return a text, or its mask where it is cipher text."""
    return (mask if "*" in mask else "****") if _CIPHER.fullmatch(text) else text


def fault(method: str, code: str, text: str = "") -> ApplicationError:
    """Return the error for a refusal: expired access by its ``code``, a temporary one by its text."""
    if code in _EXPIRED:
        return expired("jd")
    return (
        unavailable("error.unavailable", vendor="jd", code=f"{method} {code}")
        if _TRANSIENT.search(text)
        else refused("error.refused", code, vendor="jd", code=f"{method} {code}")
    )


class Jd:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = account.secrets

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        raise Unauthentic("JD sends no webhooks: its orders are pulled")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        detail, odd = decode_order(_Detail, body.replace(b'"0001-01-01 00:00:00"', b'""'), "orderInfo.orderId")
        order = detail.orderInfo
        if order.orderType in _NOT_SHIPPED or order.orderState in _VIRTUAL:
            return None
        closed, held = order.orderState in _CLOSED, order.orderState in _HELD
        cash_on_delivery = order.cash_on_delivery
        known = order.orderState in _TO_SHIP | _HELD | _SHIPPED
        paid = (known or order.paymentConfirmTime is not None) and not closed and not cash_on_delivery
        locked = order.orderState == "LOCKED"
        request = Refund.model_construct(
            refund_no=order.orderId, state=RefundState.ASKED, amount=order.orderSellerPrice
        )
        custom: dict[str, JsonValue] = {
            "channel_hold": order.orderState if held and not locked else "",
            "cancel_reason": order.orderStateRemark if closed else "",
            "encrypted": order.recipient.unreadable,
            "refunds_unknown": detail.services is None,
            "invoice": order.invoice,
        }
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=order.orderId,
            placed_at=order.orderStartTime,
            modified_at=order.modified,
            paid_at=(order.paymentConfirmTime or order.modified) if paid else None,
            cancelled_at=order.modified if closed else None,
            shipped=order.orderState in _SHIPPED,
            cash_on_delivery=cash_on_delivery,
            lines=tuple(order.lines),
            refunds=(request,) if locked else tuple(each.refund for each in detail.services or ()),
            freight=order.freight,
            discount=order.discount,
            total=order.total,
            recipient=order.recipient,
            buyer=order.open_id_buyer or order.pin,
            buyer_message=order.orderRemark,
            seller_memo=order.venderRemark,
            origin=marketplace_origin(self._account, order.recipient.region),
            custom=drop_empty(custom),
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield changed orders, then orders with a refund that was requested or decided."""
        seen = set()
        async for order in self._search("0", since, until, _FIELDS):
            seen.add(str(order.get("orderId")))
            yield await self._with_after_sales(order)
        async for order_no in self._with_refunds(since, until):
            if order_no not in seen and (pulled := await self.read(order_no)) is not None:
                seen.add(order_no)
                yield pulled

    async def read(self, order_no: str) -> PulledOrder | None:
        try:
            answer = await self._call(READ, {"order_id": order_no, "optional_fields": _FIELDS})
        except ApplicationError as error:
            if refusal_code(error) == _NO_ORDER:
                return None
            raise
        return await self._with_after_sales(_part(answer, "orderDetailInfo")["orderInfo"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for order in self._search("1", since, until, "orderId"):
            yield str(order["orderId"])

    async def _with_refunds(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        """Yield the numbers of orders with a refund requested or decided in the window."""
        for name, first in (("apply", since), ("approve", since - _SETTLING)):
            for start, end in time_slices(first, until, _WEEK):
                window = {f"{name}TimeBegin": format_china_time(start), f"{name}TimeEnd": format_china_time(end)}
                for each in await self._after_sales(window) or ():
                    if order_no := str((each.get("sameOrderServiceBill") or {}).get("orderId") or ""):
                        yield order_no

    async def _after_sales(self, query: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """Return the after-sales requests; ``None`` where we lack the permission."""

        async def page(number: int) -> tuple[list[dict[str, Any]], int]:
            paging = {"pageNumber": str(number), "pageSize": str(_AFTER_SALES_PAGE)}
            result = _part(await self._call(_AFTER_SALES, {**query, **paging}), "pageResult")
            return result.get("data") or [], page_count(result.get("totalCount"), _AFTER_SALES_PAGE)

        try:
            return [each async for rows in last_page_first(page) for each in rows]
        except ApplicationError as error:
            if error.non_retryable:
                return None
            raise

    async def _with_after_sales(self, order: dict[str, Any]) -> PulledOrder:
        """Return an order with the after-sales requests made since it shipped."""
        services: list[dict[str, Any]] | None = []
        if order.get("orderState") in _SHIPPED:
            services = await self._after_sales({"orderId": str(order.get("orderId"))})
        fact = order_fact_key(order.get("orderId"), order.get("modified"), [order, services or []], _CHANGING)
        return pulled_order(READ, fact, {"orderInfo": order, "services": services})

    def _search(self, by: str, since: datetime, until: datetime, fields: str) -> AsyncIterator[dict[str, Any]]:
        """Yield orders ``by`` the time they were placed ("1") or last changed ("0")."""

        async def page(start: datetime, end: datetime, number: int) -> tuple[list[dict[str, Any]], int]:
            query = {
                "start_date": format_china_time(start),
                "end_date": format_china_time(end - timedelta(seconds=1)),
                "order_state": _STATES,
                "optional_fields": fields,
                "page": str(number),
                "page_size": str(_PAGE),
                "sortType": "1",
                "dateType": by,
            }
            result = _part(await self._call("jingdong.pop.order.search", query), "searchorderinfo_result")
            return result.get("orderInfoList") or [], page_count(result.get("orderTotal"), _PAGE)

        return sliced_rows(since, until, _SLICE, page)

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Call ``jingdong.pop.order.shipment``. A refusal is ignored where the order already shows a waybill: JD
        takes one shipment an order."""
        parameters = {
            "orderId": shipment.channel_order_no,
            "logiCoprId": carrier_code(self._account, CARRIER_CODES, shipment.carrier),
            "logiNo": shipment.waybill_no,
        }
        try:
            await self._call("jingdong.pop.order.shipment", parameters)
        except ApplicationError as error:
            if not (error.non_retryable and await self._is_shipped(shipment.channel_order_no)):
                raise

    async def _is_shipped(self, order_no: str) -> bool:
        answer = await self._call(READ, {"order_id": order_no, "optional_fields": "orderId,waybill"})
        return bool(_part(answer, "orderDetailInfo")["orderInfo"].get("waybill"))

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Call ``jingdong.stock.write.updateSkuStock`` for one SKU at a time; the quantity replaces the former one."""
        return await refused_one_by_one(offered, self._set_stock)

    async def _set_stock(self, offered: StockOffer) -> str:
        """Set one quantity; return the reason of a refusal. Codes of two digits are the gateway's own."""
        sku_id = offered.listing.get("sku_id", "")
        if not re.fullmatch(r"\d{1,19}", sku_id):
            return "sku_id must be a number"
        parameters = {"skuId": sku_id, "stockNum": str(offered.quantity), "storeId": "0"}
        try:
            await self._call("jingdong.stock.write.updateSkuStock", parameters)
        except ApplicationError as error:
            if len(code := refusal_code(error)) < 3:
                raise
            return code
        return ""

    async def renew(self) -> Mapping[str, str]:
        """Exchange the refresh token for the next access token, which lasts up to a year."""
        url = str(self._account.settings.get("oauth_url", "https://open-oauth.jd.com")).rstrip("/")
        form = {
            "app_key": self._secrets["app_key"],
            "app_secret": self._secrets["app_secret"],
            "grant_type": "refresh_token",
            "refresh_token": self._secrets.get("refresh_token", ""),
        }
        response = await http.send("POST", f"{url}/oauth2/refresh_token", data=form)
        answer = http.json_object(response)
        if "access_token" not in answer:
            raise refused("error.authorisation", str(answer.get("code")), vendor="jd", code=answer.get("code"))
        return oauth_secrets(answer)

    async def _call(self, method: str, business: Mapping[str, str]) -> dict[str, Any]:
        """Return the content of the response's envelope. Raises ``ApplicationError``: errors come with status 200."""
        params = {
            "method": method,
            "access_token": self._secrets["access_token"],
            "app_key": self._secrets["app_key"],
            "timestamp": format_china_time(datetime.now(CHINA)),
            "v": "2.0",
            "360buy_param_json": compact_json(business),
        }
        params["sign"] = md5_sign(params, self._secrets["app_secret"])
        response = await http.send("POST", f"{self._account.base_url.rstrip('/')}/routerjson", data=params)
        with documented_format(method):
            document = json.loads(response.content)
            if "error_response" in document:
                error = document["error_response"]
                raise fault(method, str(error.get("code")), f"{error.get('zh_desc')} {error.get('en_desc')}")
            (answer,) = document.values()
            for part in [answer, *(each for each in answer.values() if isinstance(each, dict))]:
                result = part.get("apiResult") if isinstance(part.get("apiResult"), dict) else part
                if str(result.get("success", True)).lower() == "false":
                    code = result.get("numberCode") or result.get("englishErrCode") or "refused"
                    raise fault(method, str(code), str(result.get("chineseErrCode")))
        return dict(answer)


def _part(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a part of a response. Raises ``unavailable`` where it is missing."""
    part = answer.get(name)
    if not isinstance(part, dict):
        raise unavailable("error.empty", vendor="jd", name=name)
    return part


def adapter(account: Account) -> Jd:
    return Jd(account)
