"""Suning (苏宁易购) by its open platform.

Sources: why2lyj/suning-sdk (a copy of the official SDK: signature, suning.custom.order.query, .ordmodtime.query,
.order.get, .orderdelivery.add, .inventory.modify), the fields of orders and the error codes as merchants' systems in
public repositories read them. Not sourced: the status of unpaid orders (``00`` here), values of ``returnOrderFlag``
other than ``1``, a return under way; how limits are reported (an error whose code names a limit or a time-out is
temporary); carriers' codes (setting ``carrier_codes``). Its pushes by websocket are not built: orders are pulled.

``payAmount`` of a line may hold its freight: its price less the discounts ``vouchertotalMoney`` and
``coupontotalMoney`` shows whether it does. Kept raw: ``invoice`` (the title: personal; ``invoiceType`` becomes
``custom.invoice``),
``invoiceRecvFlag``, ``taxPayerNo``, and all fields that are not named here, such as ``buyerName`` and ``orderType``.

An order does not say when it last changed: the time of the response is used. Lines ship one by one. ``total`` is what
was paid for the lines and their freight. Access does not expire.

Account: ``base_url`` ``https://open.suning.com``; secrets ``app_key``, ``app_secret``. Listings: ``product_code``.
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, JsonValue
from temporalio.exceptions import ApplicationError

from activities.channels import (
    PulledOrder,
    StockOffer,
    StockRefusal,
    carrier_code,
    marketplace_origin,
    pulled_order,
    refusal_code,
    refused_one_by_one,
)
from activities.kit import http
from activities.kit.errors import Unauthentic, refused, unavailable
from activities.kit.lenient import decode_order, standard_order
from activities.kit.paging import sliced_rows
from activities.kit.payloads import (
    CHINA,
    ChinaTime,
    Code,
    Fee,
    Listed,
    Part,
    Price,
    Quantity,
    Text,
    drop_empty,
    format_china_time,
    price_per_unit,
    without_prefixes,
)
from activities.vendors.gateway import compact_json, documented_format
from models.accounts import CODES_OF_CARRIERS, AccountFields, secret
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState

ACCOUNT = AccountFields(
    console="suning",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        CODES_OF_CARRIERS,
    ),
    base_url="https://open.suning.com",
)

READ = "suning.custom.order.get"
"""The topic of an order that was read."""
_PARTLY_SHIPPED = "21"
_UNPAID, _CLOSED, _SHIPPED, _TO_SHIP = {"00"}, {"40"}, {"20", "30"}, {"10", _PARTLY_SHIPPED}
_STATUSES = _UNPAID | _CLOSED | _SHIPPED | _TO_SHIP
_COD = {"货到付款", "07"}
_SLICE = timedelta(days=1)
_PAGE = 50
_FACT_SECONDS = 60
"""The same content of an order within this time is the same fact. Shorter than the overlap of polls, so that a change
that was undone is still a new fact."""
_NO_RESULT = "biz.handler.data-get:no-result"
_TRANSIENT = re.compile(r"limit|frequen|timeout|busy|isp\.", re.IGNORECASE)


class _Line(BaseModel):
    orderLineNumber: Code
    orderLineStatus: Annotated[Text, Listed("", _STATUSES)] = ""
    productCode: Code
    itemCode: Text = ""
    productName: Text = ""
    saleNum: Quantity
    unitPrice: Price
    payAmount: Price
    """What the buyer pays for the line; with its freight where its discounts say so."""
    transportFee: Fee = Decimal(0)
    vouchertotalMoney: Fee = Decimal(0)
    coupontotalMoney: Fee = Decimal(0)
    returnOrderFlag: Annotated[Text, Listed("0", ("1",))] = "0"
    expressno: Text = ""

    @property
    def freight(self) -> Decimal:
        return max(self.transportFee, Decimal(0))

    @property
    def paid(self) -> Decimal:
        """What the buyer pays for the goods alone. ``payAmount`` holds the freight as well where only that explains the
        discounts, or the price."""
        price = self.unitPrice * self.saleNum
        discounts = self.vouchertotalMoney + self.coupontotalMoney
        with_freight = self.freight and (
            self.payAmount > price or (discounts and self.payAmount == price - discounts + self.freight)
        )
        return max(self.payAmount - self.freight, Decimal(0)) if with_freight else self.payAmount

    @property
    def state(self) -> RefundState | None:
        if self.orderLineStatus in _CLOSED:
            return RefundState.GRANTED
        return RefundState.ASKED if self.returnOrderFlag == "1" else None

    @property
    def line(self) -> OrderLine:
        """The discount is the difference between its price and what was paid."""
        unit = max(self.unitPrice, price_per_unit(self.paid, self.saleNum))
        return OrderLine.model_construct(
            line_no=self.orderLineNumber,
            sku=self.itemCode or self.productCode,
            listing={"product_code": self.productCode},
            title=self.productName,
            quantity=self.saleNum,
            unit_price=unit,
            discount=unit * self.saleNum - self.paid,
        )


class _Order(BaseModel):
    orderCode: Code
    orderTotalStatus: Annotated[Text, Listed("?", _STATUSES, required=True)]
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
    invoiceType: Text = ""
    invoice: Text = ""
    orderDetail: list[_Line]

    @property
    def recipient(self) -> Recipient:
        return Recipient.model_construct(
            name=self.customerName,
            phone=self.mobNum,
            province=self.provinceName,
            city=self.cityName,
            district=self.districtName,
            street=without_prefixes(self.customerAddress, self.provinceName, self.cityName, self.districtName),
            hidden="*" in self.customerName + self.mobNum + self.customerAddress,
        )

    @property
    def invoice_wish(self) -> str:
        """The kind of the invoice that the buyer asks for; its title names a person, and stays in the payload."""
        return self.invoiceType or ("1" if self.invoice else "")


class _Detail(BaseModel):
    order: _Order
    asked_at: AwareDatetime


def sign(secret: str, method: str, timestamp: str, app_key: str, version: str, body: bytes) -> str:
    """Return the ``signInfo`` of a call."""
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
        detail, odd = decode_order(_Detail, body, "order.orderCode")
        order = detail.order
        shipped = order.orderTotalStatus in _SHIPPED
        open_lines = [line for line in order.orderDetail if shipped or line.state is not RefundState.GRANTED]
        closed = order.orderTotalStatus in _CLOSED or not open_lines
        lines = order.orderDetail if closed else open_lines
        cash_on_delivery = order.payType in _COD
        paid = order.orderTotalStatus in _TO_SHIP | _SHIPPED and not cash_on_delivery
        freight = sum((line.freight for line in order.orderDetail), Decimal(0))
        custom: dict[str, JsonValue] = {
            "cancel_reason": "closed" if closed else "",
            "partly_shipped": order.orderTotalStatus == _PARTLY_SHIPPED,
            "encrypted": order.recipient.unreadable,
            "invoice": order.invoice_wish,
        }
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=order.orderCode,
            placed_at=order.orderSaleTime,
            modified_at=detail.asked_at,
            paid_at=order.orderSaleTime if paid else None,
            cancelled_at=detail.asked_at if closed else None,
            shipped=shipped,
            cash_on_delivery=cash_on_delivery,
            lines=tuple(line.line for line in lines),
            refunds=tuple(
                Refund.model_construct(
                    refund_no=f"{order.orderCode}:{line.orderLineNumber}",
                    state=line.state,
                    amount=line.paid,
                    line_no=line.orderLineNumber,
                    quantity=line.saleNum,
                )
                for line in order.orderDetail
                if line.state is not None
            ),
            freight=freight,
            total=sum((line.paid for line in lines), freight),
            recipient=order.recipient,
            buyer=order.userName,
            buyer_message=order.buyerOrdRemark,
            seller_memo=order.sellerOrdRemark,
            origin=marketplace_origin(self._account, order.recipient.region),
            custom=drop_empty(custom),
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield changed orders, a day at a time."""
        async for order in self._search("suning.custom.ordmodtime.query", since, until):
            yield _pulled(order)

    async def read(self, order_no: str) -> PulledOrder | None:
        body = await self._call("suning.custom.order.get", "orderGet", {"orderCode": order_no})
        order = body.get("orderGet")
        return _pulled(order) if isinstance(order, dict) else None

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for order in self._search("suning.custom.order.query", since, until):
            yield str(order["orderCode"])

    def _search(self, method: str, since: datetime, until: datetime) -> AsyncIterator[dict[str, Any]]:
        async def page(start: datetime, end: datetime, number: int) -> tuple[list[dict[str, Any]], int]:
            query = {
                "startTime": format_china_time(start),
                "endTime": format_china_time(end - timedelta(seconds=1)),
                "pageSize": str(_PAGE),
                "pageNo": str(number),
            }
            answer = await self._call(method, "orderQuery", query)
            return answer.get("orderQuery") or [], int((answer.get("sn_head") or {}).get("pageTotal") or 1)

        return sliced_rows(since, until, _SLICE, page)

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Call ``suning.custom.orderdelivery.add`` for the lines. A refusal is ignored where they already show a
        waybill."""
        lines = sorted({line.line_no for line in shipment.lines})
        products = await self._products(shipment.channel_order_no)
        parameters = {
            "orderCode": shipment.channel_order_no,
            "expressCompanyCode": carrier_code(self._account, {}, shipment.carrier, shipment.carrier.upper()),
            "expressNo": shipment.waybill_no,
            "deliveryTime": format_china_time(shipment.shipped_at),
            "sendDetail": {"productCode": [products.get(line_no, "") for line_no in lines]},
            "orderLineNumbers": {"orderLineNumber": lines},
        }
        try:
            await self._call("suning.custom.orderdelivery.add", "orderDelivery", parameters)
        except ApplicationError as error:
            if not (error.non_retryable and await self._are_shipped(shipment.channel_order_no, lines)):
                raise

    async def _lines(self, order_no: str) -> list[dict[str, Any]]:
        body = await self._call("suning.custom.order.get", "orderGet", {"orderCode": order_no})
        lines: list[dict[str, Any]] = (body.get("orderGet") or {}).get("orderDetail") or []
        return lines

    async def _products(self, order_no: str) -> dict[str, str]:
        return {str(line.get("orderLineNumber")): str(line.get("productCode")) for line in await self._lines(order_no)}

    async def _are_shipped(self, order_no: str, line_nos: Sequence[str]) -> bool:
        shipped = {str(line.get("orderLineNumber")) for line in await self._lines(order_no) if line.get("expressno")}
        return set(line_nos) <= shipped

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Call ``suning.custom.inventory.modify`` for one product at a time; the quantity replaces the former one."""
        return await refused_one_by_one(offered, self._set_stock)

    async def _set_stock(self, offered: StockOffer) -> str:
        parameters = {"productCode": offered.listing.get("product_code", ""), "destInvNum": str(offered.quantity)}
        if not parameters["productCode"]:
            return "product_code is missing"
        try:
            await self._call("suning.custom.inventory.modify", "inventory", parameters)
        except ApplicationError as error:
            if not (code := refusal_code(error)).startswith("biz."):
                raise
            return code
        return ""

    async def _call(self, method: str, node: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``sn_body`` with its ``sn_head``, empty where nothing was found. Raises ``ApplicationError``."""
        body = json.dumps({"sn_request": {"sn_body": {node: parameters}}}, ensure_ascii=False).encode()
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
        with documented_format(method):
            document = json.loads(response.content)["sn_responseContent"]
            error = document.get("sn_error")
            answer = {**(document.get("sn_body") or {}), "sn_head": document.get("sn_head") or {}}
            code = str(error["error_code"]) if error else ""
        if code == _NO_RESULT:
            return {}
        if code:
            reason = f"{method}: {code}"
            raise (
                unavailable("error.unavailable", vendor="suning", code=reason)
                if _TRANSIENT.search(code)
                else refused("error.refused", code, vendor="suning", code=reason)
            )
        return answer


def _pulled(order: dict[str, Any]) -> PulledOrder:
    """Return an order as read now."""
    now = datetime.now(UTC)
    digest = sha256(compact_json(order).encode()).hexdigest()[:32]
    fact = f"{order.get('orderCode')}:{digest}:{int(now.timestamp()) // _FACT_SECONDS}"
    return pulled_order(READ, fact, {"order": order, "asked_at": now.isoformat()})


def adapter(account: Account) -> Suning:
    return Suning(account)
