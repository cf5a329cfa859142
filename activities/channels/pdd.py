"""Pinduoduo (拼多多) by its open API.

Sources: the signing example of doc 8EC06C399636041E, the generated SDKs for the fields of
pdd.order.number.list.increment.get, pdd.order.information.get, pdd.order.list.get, pdd.open.decrypt.batch,
pdd.logistics.online.send, pdd.goods.quantity.update and pdd.pop.auth.token.refresh (lywzx/pdd-node-sdk,
niltor/open-pdd-net-sdk). Not sourced: a whole order as it really comes, a refund's own number within an order (the
order's number is used), numbers of carriers: those below are as merchants' tools list them, pdd.logistics.companies.get
lists all, and setting ``carrier_codes`` adds others. Its pushes by websocket are not built: orders are pulled.

Recipients come encrypted. Outside of Pinduoduo's own cloud they may be decrypted once in ten seconds and a hundred
times a day: setting ``decrypt`` (default true) says whether to. An order holds one item and the gifts in ``gift_list``,
is refunded as a whole, and is one shipment: a second parcel cannot be reported. ``total`` is the merchant's price: the
platform's own discounts are not taken off.

``service_fee_detail`` are services that the buyer paid for: one that names 顺丰 requires SF, as does ``free_sf``; their
fees are part of the freight where only they make the parts add up. ``order_change_amount`` is what the merchant took
off afterwards. ``pre_sale_time`` is the time to ship a presale by. Orders to be picked up in a store
(``self_contained``), or of which only the deposit is paid (``step_order_info``), are held. Kept raw: ``address``,
``receive_time``, ``inner_transaction_id`` (customs), ``card_info_list``, ``home_delivery_type``, ``yyps_date`` and
``yyps_time`` (a day that the buyer chose), ``order_depot_info``, ``country``, ``after_sales_status`` (its
outcome is ``refund_status``). Without meaning here:
``is_lucky_flag`` (drawn orders are not listed), ``discount_amount`` and ``goods_amount`` (sums), ``pay_no``,
``logistics_id``, ``tracking_number``, ``shipping_time``, ids of regions and categories, ``goods_img``,
``stock_out_handle_status``, and the promises of service such as ``return_freight_payer``.

Account: ``base_url`` ``https://gw-api.pinduoduo.com``; secrets ``client_id``, ``client_secret``, ``access_token``,
``refresh_token``; setting ``behind_seconds`` (180): the list of changes is complete up to so long ago. Listings:
``goods_id`` and ``sku_id``.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, JsonValue, NonNegativeFloat
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
from activities.kit.paging import page_count, sliced_rows
from activities.kit.payloads import (
    CHINA,
    ChinaTime,
    Code,
    Fee,
    Identifier,
    Integer,
    Listed,
    MaybeChinaTime,
    Part,
    Price,
    Quantity,
    Text,
    drop_empty,
)
from activities.vendors.gateway import documented_format, md5_sign
from models.accounts import CODES_OF_CARRIERS, RENEWED, AccountFields, secret, setting
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState

ACCOUNT = AccountFields(
    console="pdd",
    fields=(
        secret("client_id"),
        secret("client_secret"),
        secret("access_token"),
        *RENEWED,
        CODES_OF_CARRIERS,
        setting("behind_seconds", NonNegativeFloat),
        setting("decrypt", bool),
    ),
    base_url="https://gw-api.pinduoduo.com",
)

READ = "pdd.order.information.get"
"""The topic of an order that was read."""
CARRIER_CODES = {"sto": "1", "sf": "44", "yto": "85", "zto": "115", "ems": "118", "jdl": "120", "yunda": "121"}
_SLICE = timedelta(minutes=30)
_BEHIND_SECONDS = 180
_DAY = timedelta(hours=24)
_PAGE = 100
_TO_SHIP, _SHIPPED, _RECEIVED = 1, 2, 3
"""Order statuses."""
_EXPIRED = {10019, 10035}
_LIMITED = {52101, 70031, 70032, 70033}
_TRANSIENT = {50000, 50001, 52102, 52103}
_REFUNDS = {2: RefundState.ASKED, 3: RefundState.ASKED, 4: RefundState.GRANTED}
_NO_ORDER = "50001:order_not_found"


_CHANGING = frozenset({"receiver_name", "receiver_phone", "receiver_address", "address", "inner_transaction_id"})
"""Fields whose cipher text differs from call to call."""


def _is_cipher(text: str) -> bool:
    """Whether a text is cipher text: between two of the same mark, a key version before the last."""
    return re.fullmatch(r"([~@$#]).+\1\d+\1{1,2}", text, re.DOTALL) is not None


class _Item(BaseModel):
    goods_id: Identifier
    sku_id: Identifier
    outer_id: Text = ""
    outer_goods_id: Text = ""
    goods_name: Text = ""
    goods_spec: Text = ""
    goods_count: Quantity
    goods_price: Price

    def line(self, line_no: str) -> OrderLine:
        ids = {"goods_id": str(self.goods_id), "sku_id": str(self.sku_id)}
        return OrderLine.model_construct(
            line_no=line_no,
            sku=self.outer_id or self.outer_goods_id or ":".join(ids.values()),
            listing=ids,
            title=f"{self.goods_name} {self.goods_spec}".strip(),
            quantity=self.goods_count,
            unit_price=self.goods_price,
        )


class _Gift(_Item):
    """Goods that the merchant gives with the order."""

    goods_id: Integer = 0
    sku_id: Integer = 0
    goods_price: Fee = Decimal(0)

    def line(self, line_no: str) -> OrderLine:
        return super().line(line_no).model_copy(update={"unit_price": Decimal(0)})


class _Deposit(BaseModel):
    step_trade_status: Annotated[int, Listed(0, (1, 2))] = 0
    """0: nothing is paid, 1: the deposit, 2: all."""


class _Service(BaseModel):
    service_name: Text = ""
    service_fee: Fee = Decimal(0)


class _Order(BaseModel):
    order_sn: Code
    order_status: Annotated[int, Listed(0, (_TO_SHIP, _SHIPPED, _RECEIVED), required=True)]
    refund_status: Annotated[int, Listed(1, _REFUNDS)] = 1
    confirm_status: Annotated[int, Listed(0, (1, 2))] = 1
    group_status: Annotated[int, Listed(0, (1, 2))] = 1
    risk_control_status: Annotated[int, Listed(1, (0,))] = 0
    pay_amount: Price
    goods_amount: Fee = Decimal(0)
    platform_discount: Fee = Decimal(0)
    seller_discount: Fee = Decimal(0)
    capital_free_discount: Fee = Decimal(0)
    postage: Fee = Decimal(0)
    pay_type: Text = ""
    receiver_name: Text = ""
    receiver_phone: Text = ""
    receiver_address: Text = ""
    receiver_name_mask: Part = ""
    receiver_phone_mask: Part = ""
    receiver_address_mask: Part = ""
    province: Part = ""
    city: Part = ""
    town: Part = ""
    created_time: ChinaTime
    confirm_time: MaybeChinaTime = None
    pay_time: MaybeChinaTime = None
    updated_at: ChinaTime
    last_ship_time: MaybeChinaTime = None
    remark: Text = ""
    """The merchant's."""
    buyer_memo: Text = ""
    open_id: Text = ""
    item_list: list[_Item]
    gift_list: Annotated[list[_Gift], BeforeValidator(lambda value: value or [])] = []
    service_fee_detail: Annotated[list[_Service], BeforeValidator(lambda value: value or [])] = []
    order_change_amount: Fee = Decimal(0)
    """What the merchant took off after the order was placed."""
    invoice_status: Integer = 0
    pre_sale_time: MaybeChinaTime = None
    free_sf: Integer = 0
    self_contained: Integer = 0
    step_order_info: _Deposit | None = None

    @property
    def lines(self) -> list[OrderLine]:
        sold = [item.line(str(number)) for number, item in enumerate(self.item_list, 1)]
        return sold + [gift.line(f"g{number}") for number, gift in enumerate(self.gift_list, 1)]

    @property
    def service_fees(self) -> Decimal:
        return sum((each.service_fee for each in self.service_fee_detail), Decimal(0))

    @property
    def carrier(self) -> str | None:
        """SF Express where the buyer paid extra for it, or was promised it."""
        named = any("顺丰" in each.service_name for each in self.service_fee_detail)
        return "sf" if named or self.free_sf == 1 else None

    @property
    def ciphers(self) -> list[str]:
        """The encrypted parts of the recipient, of an order that is to be shipped."""
        if self.order_status != _TO_SHIP:
            return []
        parts = (self.receiver_name, self.receiver_phone, self.receiver_address)
        return [each for each in parts if _is_cipher(each)]

    @property
    def hold(self) -> str:
        """Why the platform does not want it shipped yet; empty where it does."""
        if self.risk_control_status == 1:
            return "risk_control"
        if self.self_contained == 1:
            return "pick_up"
        if self.step_order_info is not None and self.step_order_info.step_trade_status < 2:
            return "deposit"
        return "" if self.group_status == 1 and self.confirm_status == 1 else "group_open"


class _Decrypted(BaseModel):
    encrypted_data: Text = ""
    decrypted_data: Text = ""


class _Detail(BaseModel):
    order_info: _Order
    data_decrypt_list: list[_Decrypted] = []

    @property
    def recipient(self) -> Recipient:
        """The decrypted recipient; parts that were not decrypted stay masked."""
        order = self.order_info
        plain = {each.encrypted_data: each.decrypted_data for each in self.data_decrypt_list}

        def text(cipher: str, mask: str) -> str:
            return plain.get(cipher) or ((mask or "****") if _is_cipher(cipher) else cipher) or mask

        name = text(order.receiver_name, order.receiver_name_mask)
        phone = text(order.receiver_phone, order.receiver_phone_mask)
        street = text(order.receiver_address, order.receiver_address_mask)
        return Recipient.model_construct(
            name=name,
            phone=phone,
            province=order.province,
            city=order.city,
            district=order.town,
            street=street,
            hidden="*" in name + phone + street,
        )


def sign(params: Mapping[str, str], secret: str) -> str:
    """Sign the parameters that are not empty."""
    return md5_sign({key: value for key, value in params.items() if value}, secret)


def fault(method: str, error: Mapping[str, Any]) -> ApplicationError:
    """Return the error for an ``error_response``."""
    code, sub_code = error.get("error_code"), str(error.get("sub_code") or "")
    reason = f"{method}: {code} {sub_code}".rstrip()
    if code in _EXPIRED:
        return expired("pdd")
    if code in _LIMITED:
        return unavailable("error.unavailable", 10.0, vendor="pdd", code=reason)
    if sub_code == "order_not_found":
        return refused("error.refused", _NO_ORDER, vendor="pdd", code=reason)
    return (
        unavailable("error.unavailable", vendor="pdd", code=reason)
        if code in _TRANSIENT
        else refused("error.refused", sub_code or str(code), vendor="pdd", code=reason)
    )


class Pinduoduo:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = account.secrets

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        raise Unauthentic("Pinduoduo sends no webhooks: its orders are pulled")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        detail, odd = decode_order(_Detail, body, "order_info.order_sn")
        order = detail.order_info
        shipped = order.order_status in (_SHIPPED, _RECEIVED)
        state = _REFUNDS.get(order.refund_status)
        closed = state is RefundState.GRANTED and not shipped
        paid = order.pay_time or order.confirm_time
        if paid is None and order.order_status in (_TO_SHIP, _SHIPPED, _RECEIVED):
            paid = order.updated_at
        custom: dict[str, JsonValue] = {
            "channel_hold": order.hold if paid else "",
            "cancel_reason": "refunded" if closed else "",
            "encrypted": bool(order.ciphers) and detail.recipient.unreadable,
            "pre_sale_time": order.pre_sale_time.isoformat() if order.pre_sale_time else "",
            "invoice": order.invoice_status == 1,
            "services": " ".join(each.service_name for each in order.service_fee_detail),
        }
        lines = tuple(order.lines)
        total = order.pay_amount + max(order.platform_discount, Decimal(0))
        discount = order.seller_discount + order.capital_free_discount + order.order_change_amount
        freight = max(order.postage, Decimal(0))
        if sum((line.net for line in lines), freight) - discount != total:
            freight += max(order.service_fees, Decimal(0))
        refunds = (
            ()
            if state is None
            else (Refund.model_construct(refund_no=order.order_sn, state=state, amount=order.pay_amount),)
        )
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=order.order_sn,
            placed_at=order.created_time,
            modified_at=order.updated_at,
            paid_at=paid,
            cancelled_at=order.updated_at if closed else None,
            shipped=shipped,
            lines=lines,
            refunds=refunds,
            freight=freight,
            discount=max(discount, Decimal(0)),
            total=total,
            recipient=detail.recipient,
            buyer=order.open_id,
            buyer_message=order.buyer_memo,
            seller_memo=order.remark,
            carrier=order.carrier,
            promised_by=order.last_ship_time or order.pre_sale_time,
            origin=marketplace_origin(self._account, detail.recipient.region),
            custom=drop_empty(custom),
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield changed orders, half an hour at a time."""
        behind = timedelta(seconds=float(self._account.settings.get("behind_seconds", _BEHIND_SECONDS)))
        until = min(until, datetime.now(UTC) - behind)
        orders = self._search(
            "pdd.order.number.list.increment.get", "order_sn_list", "updated_at", since, until, _SLICE
        )
        async for order in orders:
            if (pulled := await self.read(str(order["order_sn"]))) is not None:
                yield pulled

    async def read(self, order_no: str) -> PulledOrder | None:
        try:
            answer = await self._call(READ, {"order_sn": order_no})
        except ApplicationError as error:
            if refusal_code(error) == _NO_ORDER:
                return None
            raise
        return await self._decrypted(answer["order_info"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        """Yield numbers by the time of confirmation: paid, and the group complete. A day at a time."""
        async for order in self._search("pdd.order.list.get", "order_list", "confirm_at", since, until, _DAY):
            yield str(order["order_sn"])

    def _search(
        self, method: str, name: str, by: str, since: datetime, until: datetime, longest: timedelta
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the rows that the response holds under ``name``, ``by`` one of the order's times."""

        async def page(start: datetime, end: datetime, number: int) -> tuple[list[Mapping[str, Any]], int]:
            query = {
                f"start_{by}": _seconds(start),
                f"end_{by}": _seconds(end),
                "is_lucky_flag": "0",
                "order_status": "5",
                "refund_status": "5",
                "page": str(number),
                "page_size": str(_PAGE),
            }
            answer = await self._call(method, query)
            return answer.get(name) or [], page_count(answer.get("total_count"), _PAGE)

        return sliced_rows(since, until, longest, page)

    async def _decrypted(self, order: dict[str, Any]) -> PulledOrder:
        """Return an order, its recipient decrypted where it is to be shipped."""
        detail: dict[str, Any] = {"order_info": order, "data_decrypt_list": []}
        try:
            ciphers = _Order.model_validate(order).ciphers if self._account.settings.get("decrypt", True) else []
        except ValueError:
            ciphers = []
        if ciphers:
            queries = [{"data_tag": str(order["order_sn"]), "encrypted_data": each} for each in ciphers]
            answer = await self._call("pdd.open.decrypt.batch", {"data_list": json.dumps(queries)})
            detail["data_decrypt_list"] = answer.get("data_decrypt_list") or []
        return pulled_order(
            READ, order_fact_key(order.get("order_sn"), order.get("updated_at"), order, _CHANGING), detail
        )

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Call ``pdd.logistics.online.send``. A refusal is ignored where the order already shipped: Pinduoduo takes
        one shipment an order."""
        parameters = {
            "order_sn": shipment.channel_order_no,
            "logistics_id": carrier_code(self._account, CARRIER_CODES, shipment.carrier),
            "tracking_number": shipment.waybill_no,
        }
        try:
            await self._call("pdd.logistics.online.send", parameters)
        except ApplicationError as error:
            if not (error.non_retryable and await self._is_shipped(shipment.channel_order_no)):
                raise

    async def _is_shipped(self, order_no: str) -> bool:
        answer = await self._call(READ, {"order_sn": order_no})
        return bool(answer["order_info"].get("tracking_number"))

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Call ``pdd.goods.quantity.update`` for one SKU at a time; ``update_type`` 1 sets the quantity."""
        return await refused_one_by_one(offered, self._set_stock)

    async def _set_stock(self, offered: StockOffer) -> str:
        ids = {name: offered.listing.get(name, "") for name in ("goods_id", "sku_id")}
        if not all(re.fullmatch(r"\d{1,19}", part) for part in ids.values()):
            return "goods_id and sku_id must be numbers"
        try:
            parameters = {**ids, "quantity": str(offered.quantity), "update_type": "1"}
            await self._call("pdd.goods.quantity.update", parameters)
        except ApplicationError as error:
            if not (code := refusal_code(error)).startswith("goods"):
                raise
            return code
        return ""

    async def renew(self) -> Mapping[str, str]:
        parameters = {"refresh_token": self._secrets.get("refresh_token", "")}
        return oauth_secrets(await self._call("pdd.pop.auth.token.refresh", parameters, token=False))

    async def _call(self, method: str, business: Mapping[str, str], *, token: bool = True) -> dict[str, Any]:
        """Return the content of the response's envelope. Raises ``ApplicationError``: errors come with status 200."""
        params = {
            "type": method,
            "client_id": self._secrets["client_id"],
            "timestamp": _seconds(datetime.now(UTC)),
            "data_type": "JSON",
            "version": "V1",
            **business,
        }
        if token:
            params["access_token"] = self._secrets["access_token"]
        params["sign"] = sign(params, self._secrets["client_secret"])
        response = await http.send("POST", f"{self._account.base_url.rstrip('/')}/api/router", data=params)
        with documented_format(method):
            document = json.loads(response.content)
            if "error_response" in document:
                raise fault(method, document["error_response"])
            (answer,) = document.values()
            if not isinstance(answer, dict):
                raise TypeError
        return answer


def _seconds(moment: datetime) -> str:
    return str(int(moment.astimezone(CHINA).timestamp()))


def adapter(account: Account) -> Pinduoduo:
    return Pinduoduo(account)
