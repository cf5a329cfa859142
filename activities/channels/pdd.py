"""Pinduoduo (拼多多) by its open API.

Sources: the signing example of doc 8EC06C399636041E, the generated SDKs for the fields of
pdd.order.number.list.increment.get, pdd.order.information.get, pdd.order.list.get, pdd.open.decrypt.batch,
pdd.logistics.online.send, pdd.goods.quantity.update and pdd.pop.auth.token.refresh (lywzx/pdd-node-sdk,
niltor/open-pdd-net-sdk). Not sourced: a whole order as it really comes, a refund's own number within an order (the
order's stands for it), numbers of carriers: those below are as merchants' tools list them, pdd.logistics.companies.get
gives all, and settings ``carrier_codes`` name others. Its pushes by websocket are not built: orders are pulled.

Recipients come encrypted. To decrypt them is allowed, outside of Pinduoduo's own cloud, once in ten seconds and a
hundred times a day: setting ``decrypt`` (default true) says whether to. An order is of one item, is refunded whole, and
is one shipment: what leaves in a second parcel cannot be told. ``total`` is what the merchant sells it for: the
platform's own discounts stay in.

Account: ``base_url`` ``https://gw-api.pinduoduo.com``; secrets ``client_id``, ``client_secret``, ``access_token``,
``refresh_token``; setting ``behind_seconds`` (180): the list of changes is complete up to so long ago. Listings:
``goods_id`` and ``sku_id``.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import md5
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue
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
    Identifier,
    Integer,
    MaybeChinaTime,
    Part,
    Price,
    Quantity,
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

READ = "pdd.order.information.get"
"""The topic of an order that was read."""
CARRIERS = {"sto": 1, "sf": 44, "yto": 85, "zto": 115, "ems": 118, "jd": 120, "yunda": 121}
_SLICE = timedelta(minutes=30)
_BEHIND = 180
_DAY = timedelta(hours=24)
_PAGE = 100
_TO_SEND, _SENT, _SIGNED = 1, 2, 3
_EXPIRED = {10019, 10035}
_LIMITED = {52101, 70031, 70032, 70033}
_PASSING = {50000, 50001, 52102, 52103}
_REFUNDS = {2: RefundState.ASKED, 3: RefundState.ASKED, 4: RefundState.GRANTED}
_NO_ORDER = "50001:order_not_found"


class _Item(BaseModel):
    goods_id: Identifier
    sku_id: Identifier
    outer_id: Text = ""
    outer_goods_id: Text = ""
    goods_name: Text = ""
    goods_spec: Text = ""
    goods_count: Quantity
    goods_price: Price

    def line(self, at: int) -> OrderLine:
        ids = {"goods_id": str(self.goods_id), "sku_id": str(self.sku_id)}
        return OrderLine(
            line_no=str(at),
            sku=(self.outer_id or self.outer_goods_id or ":".join(ids.values()))[:64],
            listing=ids,
            title=f"{self.goods_name} {self.goods_spec}".strip(),
            quantity=self.goods_count,
            unit_price=self.goods_price,
        )


class _Order(BaseModel):
    order_sn: Code
    order_status: int
    refund_status: Integer = 1
    after_sales_status: Integer = 0
    confirm_status: Integer = 1
    group_status: Integer = 1
    risk_control_status: Integer = 0
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
    item_list: Annotated[list[_Item], Field(min_length=1, max_length=200)]

    @property
    def ciphers(self) -> list[str]:
        told = (self.receiver_name, self.receiver_phone, self.receiver_address)
        return [each for each in told if each.startswith(("~", "@", "$", "#"))] if self.order_status == _TO_SEND else []

    @property
    def hold(self) -> str:
        """Why the platform does not want it sent; empty where it does."""
        if self.risk_control_status == 1:
            return "risk_control"
        return "" if self.group_status == 1 and self.confirm_status == 1 else "group_open"


class _Plain(BaseModel):
    encrypted_data: Text = ""
    decrypted_data: Text = ""


class _Detail(BaseModel):
    order_info: _Order
    data_decrypt_list: list[_Plain] = []

    @property
    def recipient(self) -> Recipient:
        """As decrypted; what was not stays masked."""
        order = self.order_info
        plain = {each.encrypted_data: each.decrypted_data for each in self.data_decrypt_list}

        def told(sealed: str, mask: str) -> str:
            return (plain.get(sealed) or (mask if sealed in order.ciphers else sealed) or mask)[:200]

        return Recipient(
            name=told(order.receiver_name, order.receiver_name_mask),
            phone=told(order.receiver_phone, order.receiver_phone_mask),
            province=order.province,
            city=order.city,
            district=order.town,
            street=told(order.receiver_address, order.receiver_address_mask),
        )


def sign(params: Mapping[str, str], secret: str) -> str:
    """Keys and values in the order of the keys, between the secret; capital hex. What is empty is left out."""
    text = "".join(f"{key}{value}" for key, value in sorted(params.items()) if key != "sign" and value)
    return md5(f"{secret}{text}{secret}".encode(), usedforsecurity=False).hexdigest().upper()


def fault(method: str, error: Mapping[str, Any]) -> ApplicationError:
    """What an ``error_response`` means."""
    code, sub_code = error.get("error_code"), str(error.get("sub_code") or "")
    said = f"{method}: {code} {sub_code}".rstrip()
    if code in _EXPIRED:
        return expired(said)
    if code in _LIMITED:
        return unavailable(said, 10.0)
    if sub_code == "order_not_found":
        return refused(said, _NO_ORDER)
    return unavailable(said) if code in _PASSING else refused(said, sub_code or str(code))


class Pinduoduo:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secrets = account.secrets

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        raise Unauthentic("Pinduoduo sends no webhooks: its orders are pulled")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        told = decode(_Detail, body)
        order = told.order_info
        if order.order_status not in (0, _TO_SEND, _SENT, _SIGNED):
            raise Unintelligible("order_info.order_status", "not an order status we know")
        shipped = order.order_status in (_SENT, _SIGNED)
        state = _REFUNDS.get(order.refund_status)
        closed = state is RefundState.GRANTED and not shipped
        paid = order.pay_time or order.confirm_time or (order.updated_at if order.order_status else None)
        custom: dict[str, JsonValue] = {
            "channel_hold": order.hold if paid else "",
            "cancel_reason": "refunded" if closed else "",
            "encrypted": bool(order.ciphers) and told.recipient.unreadable,
        }
        refunds = () if state is None else (Refund(refund_no=order.order_sn, state=state, amount=order.pay_amount),)
        with validating_order():
            standard = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=order.order_sn,
                placed_at=order.created_time,
                modified_at=order.updated_at,
                paid_at=paid,
                cancelled_at=order.updated_at if closed else None,
                shipped=shipped,
                lines=tuple(each.line(at) for at, each in enumerate(order.item_list, 1)),
                refunds=refunds,
                freight=max(order.postage, Decimal(0)),
                discount=max(order.seller_discount + order.capital_free_discount, Decimal(0)),
                total=order.pay_amount + max(order.platform_discount, Decimal(0)),
                recipient=told.recipient,
                buyer=order.open_id,
                buyer_message=order.buyer_memo,
                seller_memo=order.remark,
                promised_by=order.last_ship_time,
                origin=Origin(
                    kind=ChannelKind.MARKETPLACE,
                    platform="pdd",
                    shop=self._account.account,
                    region=told.recipient.region,
                    intake=IntakePath.POLL,
                ),
                custom={key: value for key, value in custom.items() if value},
            )
        return with_total_mismatch(standard)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Half an hour at a time, pages from the last to the first: what changes meanwhile leaves the window."""
        behind = timedelta(seconds=float(self._account.settings.get("behind_seconds", _BEHIND)))
        until = min(until, datetime.now(UTC) - behind)
        for start, end in time_slices(since, until, _SLICE):
            window = {"start_updated_at": _seconds(start), "end_updated_at": _seconds(end)}
            async for order in self._listed("pdd.order.number.list.increment.get", "order_sn_list", window):
                pulled = await self.read(str(order["order_sn"]))
                if pulled is not None:
                    yield pulled

    async def read(self, order_no: str) -> PulledOrder | None:
        try:
            answer = await self._call(READ, {"order_sn": order_no})
        except ApplicationError as error:
            if error.non_retryable and error.details[:1] == (_NO_ORDER,):
                return None
            raise
        return await self._whole(answer["order_info"])

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        """By when they were confirmed: paid, and their group complete. A day at a time."""
        for start, end in time_slices(since, until, _DAY):
            window = {"start_confirm_at": _seconds(start), "end_confirm_at": _seconds(end)}
            async for order in self._listed("pdd.order.list.get", "order_list", window):
                yield str(order["order_sn"])

    async def _listed(self, method: str, name: str, window: Mapping[str, str]) -> AsyncIterator[Mapping[str, Any]]:
        asked = {**window, "is_lucky_flag": "0", "order_status": "5", "refund_status": "5", "page_size": str(_PAGE)}

        async def page(number: int) -> tuple[list[Mapping[str, Any]], int]:
            found = await self._call(method, {**asked, "page": str(number)})
            return found.get(name) or [], page_count(found.get("total_count"), _PAGE)

        async for orders in last_page_first(page):
            for order in orders:
                yield order

    async def _whole(self, order: dict[str, Any]) -> PulledOrder:
        """An order with its recipient decrypted where it is to be sent."""
        detail: dict[str, Any] = {"order_info": order, "data_decrypt_list": []}
        try:
            ciphers = _Order.model_validate(order).ciphers if self._account.settings.get("decrypt", True) else []
        except ValueError:
            ciphers = []
        if ciphers:
            asked = [{"data_tag": str(order["order_sn"]), "encrypted_data": each} for each in ciphers]
            answer = await self._call("pdd.open.decrypt.batch", {"data_list": json.dumps(asked)})
            detail["data_decrypt_list"] = answer.get("data_decrypt_list") or []
        fact = order_fact_key(order.get("order_sn"), order.get("updated_at"), order)
        body = json.dumps(detail, ensure_ascii=False, separators=(",", ":")).encode()
        return PulledOrder(receipt=Receipt(fact_key=fact, topic=READ), body=body)

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """``pdd.logistics.online.send``, once an order: the first parcel is told, any other was told by it."""
        codes = {**CARRIERS, **self._account.settings.get("carrier_codes", {})}
        if shipment.carrier not in codes:
            raise refused(f"pdd: no number of carrier {shipment.carrier}: name it in carrier_codes", "carrier")
        try:
            told = {
                "order_sn": shipment.channel_order_no,
                "logistics_id": str(codes[shipment.carrier]),
                "tracking_number": shipment.waybill_no,
            }
            await self._call("pdd.logistics.online.send", told)
        except ApplicationError as error:
            if not (error.non_retryable and await self._shows(shipment)):
                raise

    async def _shows(self, shipment: Shipment) -> bool:
        """The order is sent, with this waybill or an earlier one."""
        answer = await self._call(READ, {"order_sn": shipment.channel_order_no})
        return bool(answer["order_info"].get("tracking_number"))

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """``pdd.goods.quantity.update``, one SKU a call, set (``update_type`` 1)."""
        refusals: list[StockRefusal] = []
        for each in offered:
            ids = {name: each.listing.get(name, "") for name in ("goods_id", "sku_id")}
            if not all(re.fullmatch(r"\d{1,19}", part) for part in ids.values()):
                refusals.append(StockRefusal(sku=each.sku, reason="goods_id and sku_id must be numbers"))
                continue
            try:
                told = {**ids, "quantity": str(each.quantity), "update_type": "1"}
                await self._call("pdd.goods.quantity.update", told)
            except ApplicationError as error:
                if not error.non_retryable or not str(error.details[0]).startswith("goods"):
                    raise
                refusals.append(StockRefusal(sku=each.sku, reason=str(error.details[0])))
        return refusals

    async def renew(self) -> Mapping[str, str]:
        given = {"refresh_token": self._secrets.get("refresh_token", "")}
        return oauth_secrets(await self._call("pdd.pop.auth.token.refresh", given, token=False))

    async def _call(self, method: str, business: Mapping[str, str], *, token: bool = True) -> dict[str, Any]:
        """What the answer envelops. Raises ``ApplicationError``: faults come with status 200."""
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
        try:
            answer = json.loads(response.content)
            if "error_response" in answer:
                raise fault(method, answer["error_response"])
            (told,) = answer.values()
            if not isinstance(told, dict):
                raise TypeError
        except (ValueError, TypeError, AttributeError):
            raise unavailable(f"{method}: answered with what is not in the format") from None
        return told


def _seconds(moment: datetime) -> str:
    return str(int(moment.astimezone(CHINA).timestamp()))


def adapter(account: Account) -> Pinduoduo:
    return Pinduoduo(account)
