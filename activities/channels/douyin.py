"""Douyin shop (抖店) by its open platform.

Sources: zsmhub/doudian-sdk (Apache-2.0: signing, pushes, and the fields of order.orderDetail, order.searchList,
order.batchDecrypt, order.logisticsAddMultiPack, sku.syncStockBatch), the platform's error codes as its SDKs list them.
Not sourced: how many items ``sku.syncStockBatch`` takes (50 here), a refund's own number within an order (the sku
order's stands for it), codes of logistics companies beyond those below.

Amounts are in fen. ``total`` is what the merchant sells it for: what the buyer pays, and what the platform pays for
them. Recipients come encrypted: those of orders to be sent are decrypted as they are read. Pushes only name orders.

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
    oauth_secrets,
    order_fact_key,
    refused_by_halves,
)
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, expired, refused, unavailable
from activities.kit.paging import last_page_first, page_count, time_slices
from activities.kit.payloads import (
    Code,
    Fen,
    Identifier,
    Integer,
    MaybeSeconds,
    Part,
    Quantity,
    Seconds,
    Text,
    decode,
    validating_order,
    with_total_mismatch,
)
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import ChannelOrder, OrderLine, Refund, RefundState
from models.origins import ChannelKind, IntakePath, Origin

READ = "order.orderDetail"
"""The topic of an order that was read."""
CARRIERS = {
    "sf": "shunfeng", "yto": "yuantong", "sto": "shentong", "zto": "zhongtong", "yunda": "yunda", "jd": "jd",
    "ems": "ems",
}  # fmt: skip
_SLICE = timedelta(days=1)
_PAGE = 100
_LARGEST_BATCH = 50
_UNPAID, _CLOSED, _OVER = {1, 103}, {4, 21}, {3, 5, 22, 39}
_WAITING = 105
"""Paid, but not to be sent yet."""
_TO_SEND = {2, 101, _WAITING}
_ASKED, _GRANTED, _TURNED_DOWN = {6, 7, 8, 11, 13, 14}, {12, 51, 53}, {27, 28, 29}
"""After-sale statuses."""
_VIRTUAL = {2, 4, 5}
_EXPIRED = {"isv.access-token-expired", "isv.access-token-no-existed"}
_PASSING = {20000, 20001, 90000}
_LIMITED = 60000


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
    after_sale_status: Integer = 0


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
    order_status: Integer = 0
    goods_type: Integer = 0
    after_sale_info: _AfterSale | None = None

    @property
    def listing(self) -> dict[str, str]:
        return {"product_id": str(self.product_id), "sku_id": str(self.sku_id)}

    @property
    def state(self) -> RefundState | None:
        status = self.after_sale_info.after_sale_status if self.after_sale_info else 0
        if status in _GRANTED:
            return RefundState.GRANTED
        if status in _TURNED_DOWN:
            return RefundState.CLOSED
        return RefundState.ASKED if status in _ASKED else None

    @property
    def line(self) -> OrderLine:
        return OrderLine(
            line_no=self.order_id,
            sku=(self.code or self.out_sku_id or f"{self.product_id}:{self.sku_id}")[:64],
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
    order_status: int
    order_type: Integer = 0
    pay_type: Integer = -1
    create_time: Seconds
    update_time: Seconds
    pay_time: MaybeSeconds = None
    order_expire_time: Integer = 0
    exp_ship_time: MaybeSeconds = None
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
    sku_order_list: Annotated[list[_Line], Field(min_length=1, max_length=200)]

    @property
    def worth(self) -> Decimal:
        return self.pay_amount + self.platform_cost_amount + self.promotion_pay_amount

    @property
    def ciphers(self) -> list[str]:
        told = (self.encrypt_post_receiver, self.encrypt_post_tel, self.post_addr.encrypt_detail)
        return [each for each in told if each] if self.order_status in _TO_SEND else []


class _Plain(BaseModel):
    cipher_text: Text = ""
    decrypt_text: Text = ""
    err_no: Integer = 0


class _Detail(BaseModel):
    shop_order_detail: _Order
    decrypt_infos: list[_Plain] = []

    @property
    def recipient(self) -> Recipient:
        """As decrypted; what was not stays masked."""
        order, plain = self.shop_order_detail, {each.cipher_text: each.decrypt_text for each in self.decrypt_infos}
        at = order.post_addr if order.post_addr.province.name else order.mask_post_addr
        detail = plain.get(order.post_addr.encrypt_detail) or order.post_addr.detail or order.mask_post_addr.detail
        return Recipient(
            name=(plain.get(order.encrypt_post_receiver) or order.mask_post_receiver)[:200],
            phone=(plain.get(order.encrypt_post_tel) or order.mask_post_tel)[:200],
            province=at.province.name,
            city=at.city.name,
            district=at.town.name,
            street=f"{at.street.name}{detail}"[:200],
        )


class _Told(BaseModel):
    p_id: Text = ""


class _Message(BaseModel):
    tag: Text = ""
    msg_id: Text = ""
    data: Text = ""


class _Push(BaseModel):
    messages: Annotated[list[_Message], Field(max_length=1000)]


def sign(app_key: str, secret: str, method: str, param_json: str, timestamp: str) -> str:
    """Of a call; ``param_json`` sorted by keys, without spaces."""
    text = f"{secret}app_key{app_key}method{method}param_json{param_json}timestamp{timestamp}v2{secret}"
    return hmac.digest(secret.encode(), text.encode(), "sha256").hex()


def event_sign(app_key: str, secret: str, body: bytes) -> str:
    """Of a push."""
    return md5(app_key.encode() + body + secret.encode(), usedforsecurity=False).hexdigest()


def fault(method: str, answer: Mapping[str, Any]) -> ApplicationError:
    """What an answer other than 10000 means."""
    code, sub_code = answer.get("code"), str(answer.get("sub_code") or "")
    said = f"{method}: {code} {sub_code}".rstrip()
    if sub_code in _EXPIRED:
        return expired(said)
    if code == _LIMITED:
        return unavailable(said, 1.0)
    return unavailable(said) if code in _PASSING else refused(said, sub_code or str(code))


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
            return _named(body)
        told = decode(_Detail, body)
        order = told.shop_order_detail
        if order.order_type in _VIRTUAL or all(line.goods_type == 1 for line in order.sku_order_list):
            return None
        if order.order_status not in _UNPAID | _CLOSED | _OVER | _TO_SEND:
            raise Unintelligible("shop_order_detail.order_status", "not an order status we know")
        lines = [line for line in order.sku_order_list if line.goods_type != 1]
        shipped = order.order_status in _OVER
        kept = [
            line
            for line in lines
            if shipped or (line.state is not RefundState.GRANTED and line.order_status not in _CLOSED)
        ]
        closed = order.order_status in _CLOSED or not kept
        lines = lines if closed else kept
        gone = sum((line.net for line in order.sku_order_list if line not in lines), Decimal(0))
        cash_on_delivery = order.pay_type == 0
        paid = order.order_status not in _UNPAID | {4} and not cash_on_delivery
        custom: dict[str, JsonValue] = {
            "channel_hold": "paid_not_ready" if order.order_status == _WAITING else "",
            "cancel_reason": order.cancel_reason if closed else "",
            "encrypted": bool(order.ciphers) and told.recipient.unreadable,
        }
        with validating_order():
            standard = ChannelOrder(
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
                    Refund(
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
                total=max(
                    order.pay_amount + order.platform_cost_amount + order.promotion_pay_amount - gone, Decimal(0)
                ),
                recipient=told.recipient,
                buyer=order.doudian_open_id or order.open_id,
                buyer_message=order.buyer_words,
                seller_memo=order.seller_words,
                promised_by=order.exp_ship_time,
                origin=Origin(
                    kind=ChannelKind.MARKETPLACE,
                    platform="douyin",
                    shop=self._account.account,
                    region=told.recipient.region,
                    campaign=order.b_type_desc,
                    intake=IntakePath.POLL,
                ),
                custom={key: value for key, value in custom.items() if value},
            )
        return with_total_mismatch(standard)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Pages from the last to the first, for rows leave the window, and move forward, while it is read."""
        async for order in self._search("update_time", since, until):
            yield await self._whole(order)

    async def read(self, order_no: str) -> PulledOrder | None:
        try:
            data = await self._call("order.orderDetail", {"shop_order_id": order_no})
        except ApplicationError as error:
            if error.non_retryable and error.details[:1] == (_NO_ORDER,):
                return None
            raise
        return await self._whole(data["shop_order_detail"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for order in self._search("create_time", since, until):
            yield str(order["order_id"])

    async def _search(self, by: str, since: datetime, until: datetime) -> AsyncIterator[dict[str, Any]]:
        for start, end in time_slices(since, until, _SLICE):
            window = {f"{by}_start": int(start.timestamp()), f"{by}_end": int(end.timestamp()) - 1}
            async for orders in last_page_first(partial(self._page, {**window, "order_by": by})):
                for order in orders:
                    yield order

    async def _page(self, asked: Mapping[str, Any], number: int) -> tuple[list[dict[str, Any]], int]:
        told = {**asked, "size": _PAGE, "order_asc": True, "page": number - 1}
        found = await self._call("order.searchList", told)
        return found.get("shop_order_list") or [], page_count(found.get("total"), _PAGE)

    async def _whole(self, order: dict[str, Any]) -> PulledOrder:
        """An order with its recipient decrypted where it is to be sent."""
        detail: dict[str, Any] = {"shop_order_detail": order, "decrypt_infos": []}
        try:
            ciphers = _Detail.model_validate(detail).shop_order_detail.ciphers
        except ValueError:
            ciphers = []
        if ciphers:
            asked = [{"auth_id": str(order["order_id"]), "cipher_text": each} for each in ciphers]
            data = await self._call("order.batchDecrypt", {"cipher_infos": asked})
            detail["decrypt_infos"] = data.get("decrypt_infos") or []
        fact = order_fact_key(order.get("order_id"), order.get("update_time"), order)
        body = json.dumps(detail, ensure_ascii=False, separators=(",", ":")).encode()
        return PulledOrder(receipt=Receipt(fact_key=fact, topic=READ), body=body)

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """``order.logisticsAddMultiPack``: the same ``request_id`` again answers as the first time."""
        codes = {**CARRIERS, **self._account.settings.get("carrier_codes", {})}
        quantities: dict[str, int] = defaultdict(int)
        for line in shipment.lines:
            quantities[line.line_no] += line.quantity
        pack = {
            "shipped_order_info": [
                {"shipped_order_id": line_no, "shipped_num": quantity} for line_no, quantity in quantities.items()
            ],
            "logistics_code": shipment.waybill_no,
            "company_code": str(codes.get(shipment.carrier, shipment.carrier)),
        }
        key = sha256(shipment.reference.encode()).hexdigest()[:32]
        asked = {"order_id": shipment.channel_order_no, "pack_list": [pack], "request_id": key}
        try:
            await self._call("order.logisticsAddMultiPack", asked)
        except ApplicationError as error:
            if not (error.non_retryable and await self._shows(shipment)):
                raise

    async def _shows(self, shipment: Shipment) -> bool:
        data = await self._call("order.orderDetail", {"shop_order_id": shipment.channel_order_no})
        sent = data["shop_order_detail"].get("logistics_info") or []
        return any(each.get("tracking_no") == shipment.waybill_no for each in sent)

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """``sku.syncStockBatch``, all SKUs of one product in a call; refused, it says not for which: halves tell."""
        refusals: list[StockRefusal] = []
        batches: dict[str, list[StockOffer]] = defaultdict(list)
        for each in offered:
            ids = (each.listing.get("product_id", ""), each.listing.get("sku_id", ""))
            if all(re.fullmatch(r"\d{1,19}", part) for part in ids):
                batches[ids[0]].append(each)
            else:
                refusals.append(StockRefusal(sku=each.sku, reason="product_id and sku_id must be numbers"))
        for product_id, batch in batches.items():
            for at in range(0, len(batch), _LARGEST_BATCH):
                refusals += await refused_by_halves(
                    batch[at : at + _LARGEST_BATCH], partial(self._set_stock, product_id)
                )
        return refusals

    async def _set_stock(self, product_id: str, batch: Sequence[StockOffer]) -> str:
        """One call; why it was refused for good."""
        wanted = [{"sku_id": int(each.listing["sku_id"]), "sku_type": 0, "stock_num": each.quantity} for each in batch]
        asked = {"product_id": int(product_id), "incremental": False, "sku_sync_list": wanted}
        try:
            await self._call("sku.syncStockBatch", asked)
        except ApplicationError as error:
            if error.non_retryable and str(error.details[0]).startswith("isv.business-failed"):
                return str(error.details[0])
            raise
        return ""

    async def renew(self) -> Mapping[str, str]:
        asked = {"grant_type": "refresh_token", "refresh_token": self._secrets.get("refresh_token", "")}
        return oauth_secrets(await self._call("token.refresh", asked, token=False))

    async def _call(self, method: str, params: Mapping[str, Any], *, token: bool = True) -> dict[str, Any]:
        """The ``data`` of the answer. Raises ``ApplicationError``: faults come with status 200."""
        param_json = json.dumps(params, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        key, secret, timestamp = (
            self._secrets["app_key"],
            self._secrets["app_secret"],
            str(int(datetime.now(UTC).timestamp())),
        )
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
        try:
            answer = json.loads(response.content)
            if answer["code"] != 10000:
                raise fault(method, answer)
            data: dict[str, Any] = answer.get("data") or {}
        except (ValueError, TypeError, KeyError):
            raise unavailable(f"{method}: answered with what is not in the format") from None
        return data


_NO_ORDER = "isv.business-failed:4"
"""Of ``order.orderDetail``. Not sourced."""


def _messages(body: bytes) -> list[_Message]:
    return decode(_Push, b'{"messages":' + body + b"}").messages


def _named(body: bytes) -> Hint | None:
    """The orders that a push is about; some pushes, such as those that try the connection, are about none."""
    numbers = []
    for each in _messages(body):
        try:
            told = decode(_Told, each.data.encode())
        except Unintelligible:
            continue
        if re.fullmatch(r"\d{1,64}", told.p_id):
            numbers.append(told.p_id)
    return Hint(order_nos=tuple(dict.fromkeys(numbers))) if numbers else None


def adapter(account: Account) -> Douyin:
    return Douyin(account)
