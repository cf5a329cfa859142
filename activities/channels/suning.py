"""Suning (苏宁易购) by its open platform.

Sources: why2lyj/suning-sdk (a copy of the official SDK: signature, suning.custom.order.query, .ordmodtime.query,
.order.get, .orderdelivery.add, .inventory.modify), the fields of orders and the error codes as merchants' systems in
public repositories read them. Not sourced: the status of unpaid orders (``00`` here), what ``returnOrderFlag`` says
beyond that a return is under way (``1``), how limits are told (an error whose code speaks of a limit or a time-out
passes), carriers' codes (settings ``carrier_codes``). Its pushes by websocket are not built: orders are pulled.

An order does not tell when it last changed: the moment we were answered stands for it. Lines are shipped one by one.
``total`` is what was paid for the lines and their freight. Access does not run out.

Account: ``base_url`` ``https://open.suning.com``; secrets ``app_key``, ``app_secret``. Listings: ``product_code``.
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from functools import partial
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities.channels import PulledOrder, StockOffer, StockRefusal
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.paging import last_page_first, time_slices
from activities.kit.payloads import (
    CHINA,
    ChinaTime,
    Code,
    Fee,
    Part,
    Price,
    Text,
    decode,
    format_china_time,
    validating_order,
    with_total_mismatch,
)
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import CENT, ChannelOrder, OrderLine, Refund, RefundState
from models.origins import ChannelKind, IntakePath, Origin

READ = "suning.custom.order.get"
"""The topic of an order that was read."""
_UNPAID, _CLOSED, _OVER, _TO_SEND = {"00"}, {"40"}, {"20", "30"}, {"10", "21"}
_COD = {"货到付款", "07"}
_SLICE = timedelta(days=1)
_PAGE = 50
_FACT_SECONDS = 60
"""The same words of an order within so long are the same fact: less than what polls read twice, so that what changed
and changed back is told all the same."""
_NOTHING = "biz.handler.data-get:no-result"
_PASSING = re.compile(r"limit|frequen|timeout|busy|isp\.", re.IGNORECASE)


class _Line(BaseModel):
    orderLineNumber: Code
    orderLineStatus: Text = ""
    productCode: Code
    itemCode: Text = ""
    productName: Text = ""
    saleNum: Annotated[Any, BeforeValidator(lambda value: str(value))]
    unitPrice: Price
    payAmount: Price
    transportFee: Fee = Decimal(0)
    returnOrderFlag: Text = ""
    expressno: Text = ""

    @property
    def pieces(self) -> int:
        return int(Decimal(self.saleNum))

    @property
    def state(self) -> RefundState | None:
        if self.orderLineStatus in _CLOSED:
            return RefundState.GRANTED
        return RefundState.ASKED if self.returnOrderFlag == "1" else None

    @property
    def line(self) -> OrderLine:
        """What was paid for it less than its price is its discount."""
        unit = max(self.unitPrice, (self.payAmount / self.pieces).quantize(CENT, ROUND_CEILING))
        return OrderLine(
            line_no=self.orderLineNumber,
            sku=(self.itemCode or self.productCode)[:64],
            listing={"product_code": self.productCode},
            title=self.productName,
            quantity=self.pieces,
            unit_price=unit,
            discount=unit * self.pieces - self.payAmount,
        )


class _Order(BaseModel):
    orderCode: Code
    orderTotalStatus: Code
    orderSaleTime: ChinaTime
    customerName: Part = ""
    mobNum: Part = ""
    customerAddress: Part = ""
    provinceName: Part = ""
    cityName: Part = ""
    districtName: Part = ""
    userName: Text = ""
    payType: Text = ""
    buyerOrdRemark: Text = ""
    sellerOrdRemark: Text = ""
    orderDetail: Annotated[list[_Line], Field(min_length=1, max_length=200)]

    @property
    def recipient(self) -> Recipient:
        street = self.customerAddress
        for part in (self.provinceName, self.cityName, self.districtName):
            street = street.removeprefix(part)
        return Recipient(
            name=self.customerName,
            phone=self.mobNum,
            province=self.provinceName,
            city=self.cityName,
            district=self.districtName,
            street=street,
        )


class _Detail(BaseModel):
    order: _Order
    asked_at: AwareDatetime


def sign(secret: str, method: str, timestamp: str, app_key: str, version: str, body: bytes) -> str:
    text = f"{secret}{method}{timestamp}{app_key}{version}".encode() + base64.b64encode(body)
    return md5(text, usedforsecurity=False).hexdigest()


class Suning:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = account.secrets

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        raise Unauthentic("Suning sends no webhooks: its orders are pulled")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        told = decode(_Detail, body)
        order = told.order
        for at, line in enumerate(order.orderDetail):
            if not re.fullmatch(r"[1-9]\d{0,4}(\.0+)?", line.saleNum):
                raise Unintelligible(f"order.orderDetail[{at}].saleNum", "not a number of pieces")
        if order.orderTotalStatus not in _UNPAID | _CLOSED | _OVER | _TO_SEND:
            raise Unintelligible("order.orderTotalStatus", "not an order status we know")
        shipped = order.orderTotalStatus in _OVER
        kept = [line for line in order.orderDetail if shipped or line.state is not RefundState.GRANTED]
        closed = order.orderTotalStatus in _CLOSED or not kept
        lines = order.orderDetail if closed else kept
        cash_on_delivery = order.payType in _COD
        paid = order.orderTotalStatus in _TO_SEND | _OVER and not cash_on_delivery
        freight = sum((line.transportFee for line in order.orderDetail), Decimal(0))
        custom: dict[str, JsonValue] = {
            "cancel_reason": "closed" if closed else "",
            "encrypted": order.recipient.unreadable,
        }
        with validating_order():
            standard = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=order.orderCode,
                placed_at=order.orderSaleTime,
                modified_at=told.asked_at,
                paid_at=order.orderSaleTime if paid else None,
                cancelled_at=told.asked_at if closed else None,
                shipped=shipped,
                cash_on_delivery=cash_on_delivery,
                lines=tuple(line.line for line in lines),
                refunds=tuple(
                    Refund(
                        refund_no=f"{order.orderCode}:{line.orderLineNumber}"[:64],
                        state=line.state,
                        amount=line.payAmount,
                        line_no=line.orderLineNumber,
                        quantity=line.pieces,
                    )
                    for line in order.orderDetail
                    if line.state is not None
                ),
                freight=max(freight, Decimal(0)),
                total=sum((line.payAmount for line in lines), max(freight, Decimal(0))),
                recipient=order.recipient,
                buyer=order.userName,
                buyer_message=order.buyerOrdRemark,
                seller_memo=order.sellerOrdRemark,
                origin=Origin(
                    kind=ChannelKind.MARKETPLACE,
                    platform="suning",
                    shop=self._account.account,
                    region=order.recipient.region,
                    intake=IntakePath.POLL,
                ),
                custom={key: value for key, value in custom.items() if value},
            )
        return with_total_mismatch(standard)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """A day at a time, pages from the last to the first: what changes meanwhile leaves the window."""
        async for order in self._pages("suning.custom.ordmodtime.query", since, until):
            yield _pulled(order)

    async def read(self, order_no: str) -> PulledOrder | None:
        body = await self._call("suning.custom.order.get", "orderGet", {"orderCode": order_no})
        order = body.get("orderGet")
        return _pulled(order) if isinstance(order, dict) else None

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for order in self._pages("suning.custom.order.query", since, until):
            yield str(order["orderCode"])

    async def _pages(self, method: str, since: datetime, until: datetime) -> AsyncIterator[dict[str, Any]]:
        for start, end in time_slices(since, until, _SLICE):
            window = {"startTime": format_china_time(start), "endTime": format_china_time(end - timedelta(seconds=1))}
            async for orders in last_page_first(partial(self._page, method, window)):
                for order in orders:
                    yield order

    async def _page(self, method: str, window: Mapping[str, str], number: int) -> tuple[list[dict[str, Any]], int]:
        found = await self._call(method, "orderQuery", {**window, "pageSize": str(_PAGE), "pageNo": str(number)})
        return found.get("orderQuery") or [], int((found.get("sn_head") or {}).get("pageTotal") or 1)

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """``suning.custom.orderdelivery.add`` for its lines; refused, it is fine where they already show a waybill."""
        codes = self._account.settings.get("carrier_codes", {})
        lines = sorted({line.line_no for line in shipment.lines})
        products = await self._products(shipment.channel_order_no)
        asked = {
            "orderCode": shipment.channel_order_no,
            "expressCompanyCode": str(codes.get(shipment.carrier, shipment.carrier.upper())),
            "expressNo": shipment.waybill_no,
            "deliveryTime": format_china_time(shipment.shipped_at),
            "sendDetail": {"productCode": [products.get(line_no, "") for line_no in lines]},
            "orderLineNumbers": {"orderLineNumber": lines},
        }
        try:
            await self._call("suning.custom.orderdelivery.add", "orderDelivery", asked)
        except ApplicationError as error:
            if not (error.non_retryable and await self._shows(shipment.channel_order_no, lines)):
                raise

    async def _lines(self, order_no: str) -> list[dict[str, Any]]:
        body = await self._call("suning.custom.order.get", "orderGet", {"orderCode": order_no})
        lines: list[dict[str, Any]] = (body.get("orderGet") or {}).get("orderDetail") or []
        return lines

    async def _products(self, order_no: str) -> dict[str, str]:
        return {str(line.get("orderLineNumber")): str(line.get("productCode")) for line in await self._lines(order_no)}

    async def _shows(self, order_no: str, line_nos: Sequence[str]) -> bool:
        sent = {str(line.get("orderLineNumber")) for line in await self._lines(order_no) if line.get("expressno")}
        return set(line_nos) <= sent

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """``suning.custom.inventory.modify``, one product a call; the number given replaces the one there."""
        refusals: list[StockRefusal] = []
        for each in offered:
            asked = {"productCode": each.listing.get("product_code", ""), "destInvNum": str(each.quantity)}
            if not asked["productCode"]:
                refusals.append(StockRefusal(sku=each.sku, reason="product_code is missing"))
                continue
            try:
                await self._call("suning.custom.inventory.modify", "inventory", asked)
            except ApplicationError as error:
                if not error.non_retryable or not str(error.details[0]).startswith("biz."):
                    raise
                refusals.append(StockRefusal(sku=each.sku, reason=str(error.details[0])))
        return refusals

    async def _call(self, method: str, node: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """``sn_body`` with its ``sn_head``; nothing found is an empty one. Raises ``ApplicationError``."""
        body = json.dumps({"sn_request": {"sn_body": {node: asked}}}, ensure_ascii=False).encode()
        key, version, timestamp = self._secrets["app_key"], "v1.2", format_china_time(datetime.now(CHINA))
        headers = {
            "Content-Type": "application/json",
            "AppMethod": method,
            "AppRequestTime": timestamp,
            "Format": "json",
            "AppKey": key,
            "VersionNo": version,
            "signInfo": sign(self._secrets["app_secret"], method, timestamp, key, version, body),
        }
        url = f"{self._account.base_url.rstrip('/')}/api/http/sopRequest"
        response = await http.send("POST", url, content=body, headers=headers)
        try:
            answer = json.loads(response.content)["sn_responseContent"]
            error = answer.get("sn_error")
            told = {**(answer.get("sn_body") or {}), "sn_head": answer.get("sn_head") or {}}
            code = str(error["error_code"]) if error else ""
        except (ValueError, TypeError, KeyError, AttributeError):
            raise unavailable(f"{method}: answered with what is not in the format") from None
        if code == _NOTHING:
            return {}
        if code:
            said = f"{method}: {code}"
            raise unavailable(said) if _PASSING.search(code) else refused(said, code)
        return told


def _pulled(order: dict[str, Any]) -> PulledOrder:
    now = datetime.now(UTC)
    said = json.dumps(order, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    digest = sha256(said.encode()).hexdigest()[:32]
    fact = f"{order.get('orderCode')}:{digest}:{int(now.timestamp()) // _FACT_SECONDS}"
    body = json.dumps({"order": order, "asked_at": now.isoformat()}, ensure_ascii=False).encode()
    return PulledOrder(receipt=Receipt(fact_key=fact[:200], topic=READ), body=body)


def adapter(account: Account) -> Suning:
    return Suning(account)
