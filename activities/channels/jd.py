"""JD (京东) POP shops by JOS (宙斯).

Sources: the signing example of open.jd.com (listId 2643), XiBao/jos and pifeifei/jingdong-jos-api-sdk for methods and
fields (jingdong.pop.order.search, jingdong.pop.order.get, jingdong.pop.order.shipment,
jingdong.stock.write.updateSkuStock), open-oauth.jd.com/oauth2/refresh_token. The envelope is officially spelt
``…_responce``; any spelling is read. Not sourced: the gateway's codes for its limits (an unknown code is final, unless
its words speak of a time-out or a limit), the code of an order that is not there, carriers' numbers beyond SF and EMS:
those below are as merchants' tools list them, a seller's own list has all, and settings ``carrier_codes`` name others.
jingdong.asc.serviceAndRefund.view (doc 15040) as public SDKs and readers of it have it: status 13 is refunded, 14 is
failed, every other is still open; whether ``refoundAmount`` is in yuan is not told, and read so.

What coupons took off a line is found by its SKU in ``couponDetailList``. ``total`` is ``orderSellerPrice``: what the
merchant sells it for. While a buyer asks to cancel or for a refund before it left, the whole order is ``LOCKED``; what
is asked afterwards is read from JD's after-sales service, without whose permission ``custom.refunds_untold`` says so.
Recipients are plain for merchants' own apps and masked for others: what is masked stays so. An order is one shipment:
what leaves in a second parcel cannot be told.

Account: ``base_url`` ``https://api.jd.com``; secrets ``app_key``, ``app_secret``, ``access_token``, ``refresh_token``;
settings ``oauth_url`` (``https://open-oauth.jd.com``), ``carrier_codes``. Listings: ``sku_id``.
"""

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from hashlib import md5
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities.channels import PulledOrder, StockOffer, StockRefusal, oauth_secrets, order_fact_key
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, expired, refused, unavailable
from activities.kit.paging import last_page_first, page_count, time_slices
from activities.kit.payloads import (
    CHINA,
    ChinaTime,
    Code,
    Fee,
    MaybeChinaTime,
    Part,
    Price,
    Quantity,
    Text,
    decode,
    format_china_time,
    validating_order,
    with_total_mismatch,
)
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState
from models.origins import ChannelKind, IntakePath, Origin

READ = "jingdong.pop.order.get"
"""The topic of an order that was read."""
CARRIERS = {"yto": 463, "ems": 465, "sf": 467, "sto": 470, "yunda": 1327, "zto": 1499, "jd": 2087}
_FIELDS = (
    "orderId,parentOrderId,venderId,orderType,payType,orderTotalPrice,orderSellerPrice,orderPayment,freightPrice,"
    "sellerDiscount,orderState,orderStateRemark,orderStartTime,paymentConfirmTime,modified,venderRemark,orderRemark,"
    "flag,pin,open_id_buyer,consigneeInfo,itemInfoList,couponDetailList,waybill,logisticsId,sendpayMap,storeOrder"
)
_STATES = (
    "NOT_PAY,WAIT_SELLER_STOCK_OUT,WAIT_SELLER_DELIVERY,WAIT_GOODS_RECEIVE_CONFIRM,FINISHED_L,TRADE_CANCELED,LOCKED,"
    "POP_ORDER_PAUSE,PAUSE"
)
_UNPAID, _CLOSED = {"NOT_PAY"}, {"TRADE_CANCELED"}
_TO_SEND, _HELD = {"WAIT_SELLER_STOCK_OUT"}, {"LOCKED", "POP_ORDER_PAUSE", "PAUSE"}
_OVER = {"WAIT_SELLER_DELIVERY", "WAIT_GOODS_RECEIVE_CONFIRM", "FINISHED_L"}
_VIRTUAL = {"WAIT_SEND_CODE"}
_NOT_SENT = {"75"}
"""Order types that nobody ships: local services."""
_SLICE = timedelta(days=30)
_SERVICES = "jingdong.asc.serviceAndRefund.view"
_SERVICES_PAGE = 50
_WEEK = timedelta(days=7)
_SETTLING = timedelta(days=3)
"""How long after its approval the end of a refund is looked for."""
_SETTLED = {"13": RefundState.GRANTED, "14": RefundState.CLOSED}
_PAGE = 100
_EXPIRED = {"19"}
_PASSING = re.compile(r"限流|频|超时|稍后|繁忙|timeout|limit|busy", re.IGNORECASE)
_NO_ORDER = "10400001"


class _Consignee(BaseModel):
    fullname: Part = ""
    mobile: Part = ""
    telephone: Part = ""
    fullAddress: Part = ""
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
    itemTotal: Annotated[Quantity, BeforeValidator(int)]


class _Coupon(BaseModel):
    skuId: Text = ""
    couponPrice: Fee = Decimal(0)


Coupons = Annotated[list[_Coupon], BeforeValidator(lambda value: value or [])]


class _Order(BaseModel):
    orderId: Code
    orderType: Text = ""
    payType: Text = ""
    orderSellerPrice: Price
    freightPrice: Fee = Decimal(0)
    orderState: Code
    orderStateRemark: Text = ""
    orderStartTime: ChinaTime
    paymentConfirmTime: MaybeChinaTime = None
    modified: ChinaTime
    venderRemark: Text = ""
    orderRemark: Text = ""
    pin: Text = ""
    open_id_buyer: Text = ""
    consigneeInfo: _Consignee = _Consignee()
    itemInfoList: Annotated[list[_Item], Field(min_length=1, max_length=200)]
    couponDetailList: Coupons = []
    waybill: Text = ""

    @property
    def recipient(self) -> Recipient:
        person = self.consigneeInfo
        street = person.fullAddress
        for part in (person.province, person.city, person.county):
            street = street.removeprefix(part)
        return Recipient(
            name=person.fullname,
            phone=person.mobile or person.telephone,
            province=person.province,
            city=person.city,
            district=person.county,
            street=street if street.startswith(person.town) else f"{person.town}{street}"[:200],
        )

    @property
    def lines(self) -> list[OrderLine]:
        """Of one SKU there is one line; what coupons took off it is its discount, others are the order's."""
        off: dict[str, Decimal] = defaultdict(Decimal)
        for each in self.couponDetailList:
            off[each.skuId] += each.couponPrice
        return [
            OrderLine(
                line_no=item.skuId,
                sku=(item.outerSkuId or item.skuId)[:64],
                listing={"sku_id": item.skuId},
                title=item.skuName,
                quantity=item.itemTotal,
                unit_price=item.jdPrice,
                discount=max(off[item.skuId], Decimal(0)),
            )
            for item in self.itemInfoList
        ]

    @property
    def discount(self) -> Decimal:
        known = {item.skuId for item in self.itemInfoList}
        others = (each.couponPrice for each in self.couponDetailList if each.skuId not in known)
        return max(sum(others, Decimal(0)), Decimal(0))


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
        return Refund(
            refund_no=(bill.serviceId or self.afsRefundId or bill.orderId)[:64],
            state=_SETTLED.get(self.status, RefundState.ASKED),
            amount=max(self.refoundAmount, Decimal(0)),
        )


class _Detail(BaseModel):
    orderInfo: _Order
    services: Annotated[list[_Service] | None, Field(max_length=200)] = []
    """``None``: we may not see them."""


def sign(params: Mapping[str, str], secret: str) -> str:
    """Keys and values in the order of the keys, between the secret; capital hex."""
    text = "".join(f"{key}{value}" for key, value in sorted(params.items()) if key != "sign")
    return md5(f"{secret}{text}{secret}".encode(), usedforsecurity=False).hexdigest().upper()


def fault(method: str, code: str, said: str = "") -> ApplicationError:
    """What a refusal means: of the gateway by its ``code``, of a service by its words."""
    if code in _EXPIRED:
        return expired(f"{method}: {code}")
    return unavailable(f"{method}: {code}") if _PASSING.search(said) else refused(f"{method}: {code}", code)


class Jd:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = account.secrets

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        raise Unauthentic("JD sends no webhooks: its orders are pulled")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        detail = decode(_Detail, body.replace(b'"0001-01-01 00:00:00"', b'""'))
        order = detail.orderInfo
        if order.orderType in _NOT_SENT or order.orderState in _VIRTUAL:
            return None
        if order.orderState not in _UNPAID | _CLOSED | _TO_SEND | _HELD | _OVER:
            raise Unintelligible("orderInfo.orderState", "not an order state we know")
        closed, held = order.orderState in _CLOSED, order.orderState in _HELD
        cash_on_delivery = order.payType.startswith("1-")
        paid = order.orderState not in _UNPAID | _CLOSED and not cash_on_delivery
        asked = order.orderState == "LOCKED"
        wanted = Refund(refund_no=order.orderId, state=RefundState.ASKED, amount=order.orderSellerPrice)
        custom: dict[str, JsonValue] = {
            "channel_hold": order.orderState if held and not asked else "",
            "cancel_reason": order.orderStateRemark if closed else "",
            "encrypted": order.recipient.unreadable,
            "refunds_untold": detail.services is None,
        }
        with validating_order():
            standard = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=order.orderId,
                placed_at=order.orderStartTime,
                modified_at=order.modified,
                paid_at=(order.paymentConfirmTime or order.modified) if paid else None,
                cancelled_at=order.modified if closed else None,
                shipped=order.orderState in _OVER,
                cash_on_delivery=cash_on_delivery,
                lines=tuple(order.lines),
                refunds=(wanted,) if asked else tuple(each.refund for each in detail.services or ()),
                freight=max(order.freightPrice, Decimal(0)),
                discount=order.discount,
                total=order.orderSellerPrice,
                recipient=order.recipient,
                buyer=order.open_id_buyer or order.pin,
                buyer_message=order.orderRemark,
                seller_memo=order.venderRemark,
                origin=Origin(
                    kind=ChannelKind.MARKETPLACE,
                    platform="jd",
                    shop=self._account.account,
                    region=order.recipient.region,
                    intake=IntakePath.POLL,
                ),
                custom={key: value for key, value in custom.items() if value},
            )
        return with_total_mismatch(standard)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Pages from the last to the first, for rows leave the window, and move forward, while it is read; then orders
        of which a refund was asked for or decided."""
        told = set()
        async for order in self._search("0", since, until, _FIELDS):
            told.add(str(order.get("orderId")))
            yield await self._whole(order)
        async for order_no in self._disputed(since, until):
            if order_no not in told and (pulled := await self.read(order_no)) is not None:
                told.add(order_no)
                yield pulled

    async def read(self, order_no: str) -> PulledOrder | None:
        try:
            told = await self._call(READ, {"order_id": order_no, "optional_fields": _FIELDS})
        except ApplicationError as error:
            if error.non_retryable and error.details[:1] == (_NO_ORDER,):
                return None
            raise
        return await self._whole(_inner(told, "orderDetailInfo")["orderInfo"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for order in self._search("1", since, until, "orderId"):
            yield str(order["orderId"])

    async def _disputed(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        for name, first in (("apply", since), ("approve", since - _SETTLING)):
            for start, end in time_slices(first, until, _WEEK):
                window = {f"{name}TimeBegin": format_china_time(start), f"{name}TimeEnd": format_china_time(end)}
                for each in await self._services(window) or ():
                    if order_no := str((each.get("sameOrderServiceBill") or {}).get("orderId") or ""):
                        yield order_no

    async def _services(self, asked: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """What the after-sales service has of them; ``None`` where we may not see it."""

        async def page(number: int) -> tuple[list[dict[str, Any]], int]:
            paged = {"pageNumber": str(number), "pageSize": str(_SERVICES_PAGE)}
            found = _inner(await self._call(_SERVICES, {**asked, **paged}), "pageResult")
            return found.get("data") or [], page_count(found.get("totalCount"), _SERVICES_PAGE)

        try:
            return [each async for part in last_page_first(page) for each in part]
        except ApplicationError as error:
            if error.non_retryable:
                return None
            raise

    async def _whole(self, order: dict[str, Any]) -> PulledOrder:
        """An order, with what is asked for since it left."""
        services: list[dict[str, Any]] | None = []
        if order.get("orderState") in _OVER:
            services = await self._services({"orderId": str(order.get("orderId"))})
        told = {"orderInfo": order, "services": services}
        fact = order_fact_key(order.get("orderId"), order.get("modified"), [order, services or []])
        body = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        return PulledOrder(receipt=Receipt(fact_key=fact, topic=READ), body=body)

    async def _search(self, by: str, since: datetime, until: datetime, fields: str) -> AsyncIterator[dict[str, Any]]:
        """``by``: "1" when it was placed, "0" when it last changed."""
        for start, end in time_slices(since, until, _SLICE):
            asked = {
                "start_date": format_china_time(start),
                "end_date": format_china_time(end - timedelta(seconds=1)),
                "order_state": _STATES,
                "optional_fields": fields,
                "page_size": str(_PAGE),
                "sortType": "1",
                "dateType": by,
            }
            async for orders in last_page_first(partial(self._page, asked)):
                for order in orders:
                    yield order

    async def _page(self, asked: Mapping[str, str], number: int) -> tuple[list[dict[str, Any]], int]:
        told = await self._call("jingdong.pop.order.search", {**asked, "page": str(number)})
        found = _inner(told, "searchorderinfo_result")
        return found.get("orderInfoList") or [], page_count(found.get("orderTotal"), _PAGE)

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """``jingdong.pop.order.shipment``; where JD refuses, it is fine if the order already shows this waybill, or, as
        JD takes one shipment an order, any."""
        codes = {**CARRIERS, **self._account.settings.get("carrier_codes", {})}
        if shipment.carrier not in codes:
            raise refused(f"jd: no number of carrier {shipment.carrier}: name it in carrier_codes", "carrier")
        asked = {
            "orderId": shipment.channel_order_no,
            "logiCoprId": str(codes[shipment.carrier]),
            "logiNo": shipment.waybill_no,
        }
        try:
            await self._call("jingdong.pop.order.shipment", asked)
        except ApplicationError as error:
            if not (error.non_retryable and await self._shows(shipment)):
                raise

    async def _shows(self, shipment: Shipment) -> bool:
        told = await self._call(READ, {"order_id": shipment.channel_order_no, "optional_fields": "orderId,waybill"})
        return bool(_inner(told, "orderDetailInfo")["orderInfo"].get("waybill"))

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """``jingdong.stock.write.updateSkuStock``, one SKU a call; the number given replaces the one there."""
        refusals: list[StockRefusal] = []
        for each in offered:
            sku_id = each.listing.get("sku_id", "")
            if not re.fullmatch(r"\d{1,19}", sku_id):
                refusals.append(StockRefusal(sku=each.sku, reason="sku_id must be a number"))
                continue
            try:
                asked = {"skuId": sku_id, "stockNum": str(each.quantity), "storeId": "0"}
                await self._call("jingdong.stock.write.updateSkuStock", asked)
            except ApplicationError as error:
                if not error.non_retryable or len(str(error.details[0])) < 3:
                    raise
                refusals.append(StockRefusal(sku=each.sku, reason=str(error.details[0])))
        return refusals

    async def renew(self) -> Mapping[str, str]:
        """Access tokens last a year and less; the refresh token gives the next."""
        url = str(self._account.settings.get("oauth_url", "https://open-oauth.jd.com")).rstrip("/")
        asked = {
            "app_key": self._secrets["app_key"],
            "app_secret": self._secrets["app_secret"],
            "grant_type": "refresh_token",
            "refresh_token": self._secrets.get("refresh_token", ""),
        }
        response = await http.send("POST", f"{url}/oauth2/refresh_token", data=asked)
        told = http.document(response)
        if "access_token" not in told:
            raise refused(f"jd: {told.get('code')}: authorise anew", str(told.get("code")))
        return oauth_secrets(told)

    async def _call(self, method: str, business: Mapping[str, str]) -> dict[str, Any]:
        """What the answer envelops. Raises ``ApplicationError``: faults come with status 200."""
        params = {
            "method": method,
            "access_token": self._secrets["access_token"],
            "app_key": self._secrets["app_key"],
            "timestamp": format_china_time(datetime.now(CHINA)),
            "v": "2.0",
            "360buy_param_json": json.dumps(business, sort_keys=True, ensure_ascii=False, separators=(",", ":")),
        }
        params["sign"] = sign(params, self._secrets["app_secret"])
        response = await http.send("POST", f"{self._account.base_url.rstrip('/')}/routerjson", data=params)
        try:
            answer = json.loads(response.content)
            if "error_response" in answer:
                error = answer["error_response"]
                raise fault(method, str(error.get("code")), f"{error.get('zh_desc')} {error.get('en_desc')}")
            (told,) = answer.values()
            for inner in [told, *(each for each in told.values() if isinstance(each, dict))]:
                told_so = inner.get("apiResult") if isinstance(inner.get("apiResult"), dict) else inner
                if str(told_so.get("success", True)).lower() == "false":
                    code = told_so.get("numberCode") or told_so.get("englishErrCode") or "refused"
                    raise fault(method, str(code), str(told_so.get("chineseErrCode")))
        except (ValueError, TypeError, AttributeError):
            raise unavailable(f"{method}: answered with what is not in the format") from None
        return dict(told)


def _inner(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of an answer. Raises ``unavailable`` where it is missing."""
    found = told.get(name)
    if not isinstance(found, dict):
        raise unavailable(f"jd: the answer has no {name}")
    return found


def adapter(account: Account) -> Jd:
    return Jd(account)
