"""Douyin shop (抖店) by its open platform.

Sources: zsmhub/doudian-sdk (Apache-2.0: signing, pushes, and the fields of order.orderDetail, order.searchList,
order.batchDecrypt, order.logisticsAddMultiPack, sku.syncStockBatch), the platform's error codes as its SDKs list them.
Not sourced: how many items ``sku.syncStockBatch`` takes (50 here), a refund's own number within an order (the sku
order's number is used), codes of logistics companies beyond those below.

Amounts are in fen. ``total`` is the merchant's price: what the buyer pays and what the platform pays in addition.
Recipients come encrypted: those of orders to ship are decrypted when read. Pushes only name orders.

An order that the buyer picks up in a store (``receive_type`` of its items), or wants shipped later
(``appointment_ship_time``), is held. Kept raw, of an order:
``order_phase_list`` (the deposit and the rest: ``main_status`` shows what is paid), ``pre_sale_type``,
``earliest_receipt_time``, ``latest_receipt_time``, ``target_arrival_time`` and ``early_arrival``
(deliveries within the hour), ``accept_order_status``, ``promise_info``, ``packing_amount``, ``tax_amount``,
``post_insurance_amount``, ``promotion_detail`` and the other sums of promotions (``shop_cost_amount``,
``platform_cost_amount`` and ``promotion_pay_amount`` are read), ``modify_post_amount``, ``logistics_info``,
``seller_remark_stars``, ``user_id_info``, ``user_coordinate``, ``d_car_shop_biz_data``, the tags (``…_tag_ui``). Of an
item: ``given_product_type`` and ``master_sku_order_id_list`` (a gift is an item of price 0), ``bundle_sku_info``,
``sku_customization_info``, ``need_serial_number``, ``quality_check_info``, ``inventory_list``, ``store_info``,
``spec``, ``contract_info``, ``account_list``, ``card_voucher`` and ``writeoff_info`` (goods without a parcel).
``refund_status`` beside ``after_sale_status`` adds nothing. Without meaning here: ``shop_id``, ``shop_name``,
``order_level``, ``parent_order_id``, ``biz``, ``sub_b_type``, ``theme_type``, ``app_id``, ``c_biz``, ``page_id``,
``send_pay``, ``author_id``, ``room_id``, ``video_id``, ``cid``, ``channel_payment_no``, categories, pictures,
``is_comment``, ``finish_time``, ``ship_time`` and the times of receipt.

Account: ``base_url`` ``https://openapi-fxg.jinritemai.com``; secrets ``app_key``, ``app_secret``, ``access_token``,
``refresh_token``; settings ``carrier_codes``. Listings: ``product_id`` and ``sku_id``.
"""

import hmac
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities.channels import (
    Hint,
    PulledOrder,
    StockOffer,
    StockRefusal,
    carrier_code,
    marketplace_origin,
    oauth_secrets,
    order_fact_key,
    pulled_order,
    refusal_code,
    refused_by_halves,
)
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, expired, refused, unavailable
from activities.kit.lenient import decode_order, standard_order
from activities.kit.paging import page_count, sliced_rows
from activities.kit.payloads import (
    Code,
    Fen,
    Identifier,
    Integer,
    Listed,
    MaybeSeconds,
    Part,
    Quantity,
    Seconds,
    Text,
    decode,
    drop_empty,
)
from activities.vendors.gateway import compact_json, documented_format
from models.accounts import CODES_OF_CARRIERS, RENEWED, AccountFields, secret
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState

ACCOUNT = AccountFields(
    console="douyin",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        secret("access_token"),
        *RENEWED,
        CODES_OF_CARRIERS,
    ),
    base_url="https://openapi-fxg.jinritemai.com",
)

READ = "order.orderDetail"
"""The topic of an order that was read."""
CARRIER_CODES = {
    "sf": "shunfeng",
    "yto": "yuantong",
    "sto": "shentong",
    "zto": "zhongtong",
    "yunda": "yunda",
    "jdl": "jd",
    "ems": "ems",
}
_SLICE = timedelta(days=1)
_PAGE = 100
_LARGEST_BATCH = 50
_UNPAID, _CLOSED, _SHIPPED = {1, 103}, {4, 21}, {3, 5, 22, 39}
_PAID_NOT_READY, _PARTLY_SHIPPED = 105, 101
"""Paid, but not to be shipped yet."""
_TO_SHIP = {2, _PARTLY_SHIPPED, _PAID_NOT_READY}
_STATUSES = _UNPAID | _CLOSED | _SHIPPED | _TO_SHIP
_REFUND_ASKED, _REFUND_GRANTED, _REFUND_CLOSED = {3, 6, 7, 8, 11, 13, 14}, {12, 51, 53}, {27, 28, 29}
"""After-sale statuses."""
_VIRTUAL = {2, 4, 5}
_EXPIRED = {"isv.access-token-expired", "isv.access-token-no-existed"}
_TRANSIENT = {20000, 20001, 90000}
_LIMITED = 60000
_NO_ORDER = "isv.business-failed:4"
"""How ``order.orderDetail`` reports an order that does not exist. Not sourced."""


_CHANGING = frozenset({"encrypt_post_tel", "encrypt_post_receiver", "encrypt_detail"})
"""Fields whose cipher text differs from call to call."""


class _Name(BaseModel):
    name: Part = ""


class _Address(BaseModel):
    province: _Name = _Name()
    city: _Name = _Name()
    town: _Name = _Name()
    """The district."""
    street: _Name = _Name()
    """The town."""
    detail: Part = ""
    encrypt_detail: Text = ""


class _AfterSale(BaseModel):
    after_sale_status: Annotated[int, Listed(0, _REFUND_ASKED | _REFUND_GRANTED | _REFUND_CLOSED)] = 0


class _Line(BaseModel):
    order_id: Code
    product_id: Identifier
    sku_id: Identifier
    code: Text = ""
    out_sku_id: Text = ""
    product_name: Text = ""
    item_num: Quantity
    origin_amount: Fen
    modify_amount: Fen = Decimal(0)
    shop_cost_amount: Fen = Decimal(0)
    pay_amount: Fen = Decimal(0)
    order_status: Annotated[int, Listed(0, _STATUSES)] = 0
    goods_type: Integer = 0
    receive_type: Integer = 0
    """2: the buyer picks it up."""
    after_sale_info: _AfterSale | None = None

    @property
    def listing(self) -> dict[str, str]:
        return {"product_id": str(self.product_id), "sku_id": str(self.sku_id)}

    @property
    def state(self) -> RefundState | None:
        status = self.after_sale_info.after_sale_status if self.after_sale_info else 0
        if status in _REFUND_GRANTED:
            return RefundState.GRANTED
        if status in _REFUND_CLOSED:
            return RefundState.CLOSED
        return RefundState.ASKED if status in _REFUND_ASKED else None

    @property
    def line(self) -> OrderLine:
        return OrderLine.model_construct(
            line_no=self.order_id,
            sku=self.code or self.out_sku_id or f"{self.product_id}:{self.sku_id}",
            listing=self.listing,
            title=self.product_name,
            quantity=self.item_num,
            unit_price=self.origin_amount,
            discount=max(self.shop_cost_amount - self.modify_amount, Decimal(0)),
        )

    @property
    def net(self) -> Decimal:
        return self.origin_amount * self.item_num - self.line.discount


class _Order(BaseModel):
    order_id: Code
    order_status: Annotated[int, Listed(-1, _STATUSES, required=True)]
    main_status: Annotated[int, Listed(0, _STATUSES)] = 0
    """The finer status of the whole order."""
    order_type: Integer = 0
    pay_type: Integer = -1
    create_time: Seconds
    update_time: Seconds
    pay_time: MaybeSeconds = None
    order_expire_time: Integer = 0
    exp_ship_time: MaybeSeconds = None
    appointment_ship_time: MaybeSeconds = None
    """The day on which the buyer wants it shipped (预约发货时间)."""
    pay_amount: Fen
    platform_cost_amount: Fen = Decimal(0)
    promotion_pay_amount: Fen = Decimal(0)
    post_amount: Fen = Decimal(0)
    buyer_words: Text = ""
    seller_words: Text = ""
    seller_remark_stars: Integer = 0
    cancel_reason: Text = ""
    open_id: Text = ""
    doudian_open_id: Text = ""
    b_type_desc: Text = ""
    encrypt_post_tel: Text = ""
    encrypt_post_receiver: Text = ""
    mask_post_tel: Text = ""
    mask_post_receiver: Text = ""
    post_addr: _Address = _Address()
    mask_post_addr: _Address = _Address()
    sku_order_list: list[_Line]

    @property
    def status(self) -> int:
        """``main_status`` where it says more: refunded before (21) or after shipping (22) or receipt (39), shipped
        in part (101), or paid in part (103)."""
        return self.main_status if self.main_status in {21, 22, 39, _PARTLY_SHIPPED, 103} else self.order_status

    @property
    def hold(self) -> str:
        """Why it must not be shipped as it is; empty where it may be."""
        if self.status == _PAID_NOT_READY:
            return "paid_not_ready"
        if self.appointment_ship_time and self.appointment_ship_time > self.update_time:
            return "appointment_ship_time"
        return "pick_up" if any(line.receive_type == 2 for line in self.sku_order_list) else ""

    @property
    def merchant_total(self) -> Decimal:
        """What the buyer and the platform pay."""
        return self.pay_amount + self.platform_cost_amount + self.promotion_pay_amount

    @property
    def ciphers(self) -> list[str]:
        """The encrypted parts of the recipient, of an order that is to be shipped."""
        parts = (self.encrypt_post_receiver, self.encrypt_post_tel, self.post_addr.encrypt_detail)
        return [each for each in parts if each] if self.status in _TO_SHIP else []


class _Decrypted(BaseModel):
    cipher_text: Text = ""
    decrypt_text: Text = ""
    err_no: Integer = 0


class _Detail(BaseModel):
    shop_order_detail: _Order
    decrypt_infos: list[_Decrypted] = []

    @property
    def recipient(self) -> Recipient:
        """The decrypted recipient; parts that were not decrypted stay masked."""
        order, plain = self.shop_order_detail, {each.cipher_text: each.decrypt_text for each in self.decrypt_infos}
        address = order.post_addr if order.post_addr.province.name else order.mask_post_addr
        detail = plain.get(order.post_addr.encrypt_detail) or order.post_addr.detail or order.mask_post_addr.detail
        name = plain.get(order.encrypt_post_receiver) or order.mask_post_receiver
        phone = plain.get(order.encrypt_post_tel) or order.mask_post_tel
        return Recipient.model_construct(
            name=name,
            phone=phone,
            province=address.province.name,
            city=address.city.name,
            district=address.town.name,
            town=address.street.name,
            street=detail,
            hidden="*" in name + phone + detail,
        )


class _PushedOrder(BaseModel):
    p_id: Text = ""


class _Message(BaseModel):
    tag: Text = ""
    msg_id: Text = ""
    data: Text = ""


class _Push(BaseModel):
    messages: Annotated[list[_Message], Field(max_length=1000)]


def sign(app_key: str, secret: str, method: str, param_json: str, timestamp: str) -> str:
    """Return the signature of a call; ``param_json`` is compact JSON sorted by key."""
    text = f"{secret}app_key{app_key}method{method}param_json{param_json}timestamp{timestamp}v2{secret}"
    return hmac.digest(secret.encode(), text.encode(), "sha256").hex()


def event_sign(app_key: str, secret: str, body: bytes) -> str:
    """Return the signature of a push."""
    return md5(app_key.encode() + body + secret.encode(), usedforsecurity=False).hexdigest()


def fault(method: str, answer: Mapping[str, Any]) -> ApplicationError:
    """Return the error for a code other than 10000."""
    code, sub_code = answer.get("code"), str(answer.get("sub_code") or "")
    reason = f"{method}: {code} {sub_code}".rstrip()
    if sub_code in _EXPIRED:
        return expired("douyin")
    if code == _LIMITED:
        return unavailable("error.unavailable", 1.0, vendor="douyin", code=reason)
    return (
        unavailable("error.unavailable", vendor="douyin", code=reason)
        if code in _TRANSIENT
        else refused("error.refused", sub_code or str(code), vendor="douyin", code=reason)
    )


class Douyin:
    signed = True
    acknowledgement: Mapping[str, JsonValue] = {"code": 0, "msg": "success"}

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = account.secrets

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        expected = event_sign(self._secrets.get("app_key", ""), self._secrets.get("app_secret", "") or "\0", body)
        if not hmac.compare_digest(expected.encode(), headers.get("event-sign", "").lower().encode()):
            raise Unauthentic("event-sign: does not match")
        try:
            ids = sorted(each.msg_id for each in _messages(body) if each.msg_id)
        except Unintelligible:
            ids = []
        return Receipt(fact_key=sha256(",".join(ids).encode() if ids else body).hexdigest(), topic="push")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | Hint | None:
        if topic != READ:
            return _hint(body)
        detail, odd = decode_order(_Detail, body, "shop_order_detail.order_id")
        order = detail.shop_order_detail
        if order.order_type in _VIRTUAL or (
            order.sku_order_list and all(line.goods_type == 1 for line in order.sku_order_list)
        ):
            return None
        lines = [line for line in order.sku_order_list if line.goods_type != 1]
        shipped = order.status in _SHIPPED
        kept = [
            line
            for line in lines
            if shipped or (line.state is not RefundState.GRANTED and line.order_status not in _CLOSED)
        ]
        closed = order.status in _CLOSED or not kept
        lines = lines if closed else kept
        cancelled_amount = sum((line.net for line in order.sku_order_list if line not in lines), Decimal(0))
        cash_on_delivery = order.pay_type == 0
        paid = order.status in _TO_SHIP | _SHIPPED | {21} and not cash_on_delivery
        custom: dict[str, JsonValue] = {
            "channel_hold": order.hold,
            "partly_shipped": order.status == _PARTLY_SHIPPED,
            "cancel_reason": order.cancel_reason if closed else "",
            "encrypted": bool(order.ciphers) and detail.recipient.unreadable,
        }
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=order.order_id,
            placed_at=order.create_time,
            modified_at=order.update_time,
            paid_at=(order.pay_time or order.update_time) if paid else None,
            cancelled_at=order.update_time if closed else None,
            shipped=shipped,
            cash_on_delivery=cash_on_delivery,
            lines=tuple(line.line for line in lines),
            refunds=tuple(
                Refund.model_construct(
                    refund_no=line.order_id,
                    state=line.state,
                    amount=line.pay_amount,
                    line_no=line.order_id,
                    quantity=line.item_num,
                )
                for line in order.sku_order_list
                if line.state is not None
            ),
            freight=max(order.post_amount, Decimal(0)),
            total=max(order.merchant_total - cancelled_amount, Decimal(0)),
            recipient=detail.recipient,
            buyer=order.doudian_open_id or order.open_id,
            buyer_message=order.buyer_words,
            seller_memo=order.seller_words,
            promised_by=order.exp_ship_time,
            origin=marketplace_origin(self._account, detail.recipient.region, order.b_type_desc),
            custom=drop_empty(custom),
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        async for order in self._search("update_time", since, until):
            yield await self._decrypted(order)

    async def read(self, order_no: str) -> PulledOrder | None:
        try:
            data = await self._call("order.orderDetail", {"shop_order_id": order_no})
        except ApplicationError as error:
            if refusal_code(error) == _NO_ORDER:
                return None
            raise
        return await self._decrypted(data["shop_order_detail"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for order in self._search("create_time", since, until):
            yield str(order["order_id"])

    def _search(self, by: str, since: datetime, until: datetime) -> AsyncIterator[dict[str, Any]]:
        """Yield orders ``by`` their ``create_time`` or ``update_time``."""

        async def page(start: datetime, end: datetime, number: int) -> tuple[list[dict[str, Any]], int]:
            query = {
                f"{by}_start": int(start.timestamp()),
                f"{by}_end": int(end.timestamp()) - 1,
                "order_by": by,
                "order_asc": True,
                "size": _PAGE,
                "page": number - 1,
            }
            data = await self._call("order.searchList", query)
            return data.get("shop_order_list") or [], page_count(data.get("total"), _PAGE)

        return sliced_rows(since, until, _SLICE, page)

    async def _decrypted(self, order: dict[str, Any]) -> PulledOrder:
        """Return an order, its recipient decrypted where it is to be shipped."""
        detail: dict[str, Any] = {"shop_order_detail": order, "decrypt_infos": []}
        try:
            ciphers = _Detail.model_validate(detail).shop_order_detail.ciphers
        except ValueError:
            ciphers = []
        if ciphers:
            queries = [{"auth_id": str(order["order_id"]), "cipher_text": each} for each in ciphers]
            data = await self._call("order.batchDecrypt", {"cipher_infos": queries})
            detail["decrypt_infos"] = data.get("decrypt_infos") or []
        return pulled_order(
            READ, order_fact_key(order.get("order_id"), order.get("update_time"), order, _CHANGING), detail
        )

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Call ``order.logisticsAddMultiPack``, idempotent by ``request_id``. A refusal is ignored where the order
        already shows the waybill."""
        quantities: dict[str, int] = defaultdict(int)
        for line in shipment.lines:
            quantities[line.line_no] += line.quantity
        pack = {
            "shipped_order_info": [
                {"shipped_order_id": line_no, "shipped_num": quantity} for line_no, quantity in quantities.items()
            ],
            "logistics_code": shipment.waybill_no,
            "company_code": carrier_code(self._account, CARRIER_CODES, shipment.carrier, shipment.carrier),
        }
        key = sha256(shipment.reference.encode()).hexdigest()[:32]
        parameters = {"order_id": shipment.channel_order_no, "pack_list": [pack], "request_id": key}
        try:
            await self._call("order.logisticsAddMultiPack", parameters)
        except ApplicationError as error:
            if not (error.non_retryable and await self._shows_waybill(shipment)):
                raise

    async def _shows_waybill(self, shipment: Shipment) -> bool:
        data = await self._call("order.orderDetail", {"shop_order_id": shipment.channel_order_no})
        packages = data["shop_order_detail"].get("logistics_info") or []
        return any(each.get("tracking_no") == shipment.waybill_no for each in packages)

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Call ``sku.syncStockBatch`` for up to 50 SKUs of one product; a refusal does not name the SKU."""
        refusals: list[StockRefusal] = []
        batches: dict[str, list[StockOffer]] = defaultdict(list)
        for each in offered:
            ids = (each.listing.get("product_id", ""), each.listing.get("sku_id", ""))
            if all(re.fullmatch(r"\d{1,19}", part) for part in ids):
                batches[ids[0]].append(each)
            else:
                refusals.append(StockRefusal(sku=each.sku, reason="product_id and sku_id must be numbers"))
        for product_id, batch in batches.items():
            for start in range(0, len(batch), _LARGEST_BATCH):
                refusals += await refused_by_halves(
                    batch[start : start + _LARGEST_BATCH], partial(self._set_stock, product_id)
                )
        return refusals

    async def _set_stock(self, product_id: str, batch: Sequence[StockOffer]) -> str:
        """Make one call; return the reason where it is refused for good."""
        levels = [{"sku_id": int(each.listing["sku_id"]), "sku_type": 0, "stock_num": each.quantity} for each in batch]
        parameters = {"product_id": int(product_id), "incremental": False, "sku_sync_list": levels}
        try:
            await self._call("sku.syncStockBatch", parameters)
        except ApplicationError as error:
            if not (code := refusal_code(error)).startswith("isv.business-failed"):
                raise
            return code
        return ""

    async def renew(self) -> Mapping[str, str]:
        parameters = {"grant_type": "refresh_token", "refresh_token": self._secrets.get("refresh_token", "")}
        return oauth_secrets(await self._call("token.refresh", parameters, token=False))

    async def _call(self, method: str, params: Mapping[str, Any], *, token: bool = True) -> dict[str, Any]:
        """Return the ``data`` of the response. Raises ``ApplicationError``: errors come with status 200."""
        param_json = compact_json(params)
        key, secret = self._secrets["app_key"], self._secrets["app_secret"]
        timestamp = str(int(datetime.now(UTC).timestamp()))
        query = {
            "app_key": key,
            "method": method,
            "timestamp": timestamp,
            "v": "2",
            "sign_method": "hmac-sha256",
            "sign": sign(key, secret, method, param_json, timestamp),
        }
        if token:
            query["access_token"] = self._secrets["access_token"]
        response = await http.send(
            "POST",
            f"{self._account.base_url.rstrip('/')}/{method.replace('.', '/')}",
            content=param_json.encode(),
            params=query,
            headers={"Content-Type": "application/json"},
        )
        with documented_format(method):
            answer = json.loads(response.content)
            if answer["code"] != 10000:
                raise fault(method, answer)
            data: dict[str, Any] = answer.get("data") or {}
        return data


def _messages(body: bytes) -> list[_Message]:
    return decode(_Push, b'{"messages":' + body + b"}").messages


def _hint(body: bytes) -> Hint | None:
    """Return the orders that a push names; some pushes, such as connection tests, name none."""
    numbers = []
    for each in _messages(body):
        try:
            pushed = decode(_PushedOrder, each.data.encode())
        except Unintelligible:
            continue
        if re.fullmatch(r"\d{1,64}", pushed.p_id):
            numbers.append(pushed.p_id)
    return Hint(order_nos=tuple(dict.fromkeys(numbers))) if numbers else None


def adapter(account: Account) -> Douyin:
    return Douyin(account)
