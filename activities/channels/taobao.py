"""Taobao and Tmall by TOP, the Taobao Open Platform.

Sources: open.taobao.com (signing, docId 101617; taobao.trades.sold.increment.get, taobao.trades.sold.get,
taobao.trade.fullinfo.get, taobao.logistics.offline.send, taobao.skus.quantity.update, taobao.item.quantity.update,
taobao.top.auth.token.refresh, taobao.top.oaid.decrypt), field names as in the generated SDKs. TOP sends no webhooks:
orders are pulled; its message service (TMC) is not read. The state of a refund is its line's ``refund_status``, its
number ``refund_id``, its amount the line's share of what was paid. Not sourced: the scenes of decryption; where setting
``decrypt_scene`` names one, recipients of orders to ship are decrypted, otherwise they stay masked.

An order that the buyer picks up in a store (``o2o_delivery``; ``shop_pick``, whose values are not sourced), or that TOP
bars from shipping (``is_sh_ship``, ``top_hold`` and its like), is held. Kept raw, where a shop asks for them:
``step_trade_status`` and ``step_paid_fee`` (that the status stays unpaid until the rest is paid is not sourced),
``est_con_time``, ``timing_promise``, ``promise_service``, ``delivery_time``, ``sign_time`` and the other times
promised, ``promotion_details`` (their sums are in the lines), ``coupon_fee``, ``service_orders``, ``order_tax_fee``,
``buyer_cod_fee``, ``service_tags``, ``rx_audit_status``, ``receiver_country``, ``invoice_…``, ``omni_…``, ``o2o_…`` and
``nr_…`` of stores, ``assembly``; of a line ``customization``, ``store_code``, ``zhengji_status``, ``bind_oids``,
``item_meal_name``, ``sku_properties_name``, ``logistics_company``. Without meaning here: ``num``, ``num_iid``,
``price``, ``title``, ``pic_path`` and ``adjust_fee`` of a trade (of several lines they say nothing), ``total_fee`` and
``discount_fee`` (sums), ``received_payment``, ``has_post_fee``, ``seller_rate``, ``buyer_rate``, ``has_yfx``,
``yfx_fee``, ``credit_card_fee``, ``buyer_memo`` and ``buyer_flag`` (for the buyer alone), ``consign_time``,
``snapshot_url``, ``timeout_action_time``, ``cid``.

Account: ``base_url`` up to ``/router/rest`` (``https://eco.taobao.com``); secrets ``app_key``, ``app_secret``,
``session``, ``refresh_token`` where the session is renewed; settings ``sign_method`` (``md5``, ``hmac``,
``hmac-sha256``), ``platform`` where the orders do not show ``tmall``, ``carrier_codes`` where TOP's code is not our
carrier's name in capitals, ``decrypt_scene``. Listings: ``num_iid`` of the item, and ``sku_id`` where it has SKUs.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, JsonValue
from temporalio.exceptions import ApplicationError

from activities.channels import (
    PulledOrder,
    StockOffer,
    StockRefusal,
    carrier_code,
    marketplace_origin,
    oauth_secrets,
    order_fact_key,
    refusal_code,
    refused_by_halves,
)
from activities.kit.errors import Unauthentic
from activities.kit.lenient import decode_order, standard_order
from activities.kit.paging import page_count, sliced_pages
from activities.kit.payloads import (
    ChinaTime,
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
    format_china_time,
)
from activities.vendors.top import Top
from models.accounts import CODES_OF_CARRIERS, RENEWED, AccountFields, secret, setting
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import NORMAL, URGENT, ChannelOrder, OrderLine, Refund, RefundState
from models.origins import Origin

ACCOUNT = AccountFields(
    console="taobao",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        secret("session"),
        *RENEWED,
        CODES_OF_CARRIERS,
        setting("sign_method", Literal["md5", "hmac", "hmac-sha256"]),
        setting("platform", Literal["taobao", "tmall"]),
        setting("decrypt_scene", int | str),
    ),
    base_url="https://eco.taobao.com",
)

_SLICE = timedelta(days=1)
_PAGE = 50
_CONCURRENT_READS = 4
"""TOP limits the calls of a second."""
_FIELDS = (
    "tid,status,type,payment,post_fee,created,modified,pay_time,end_time,receiver_name,receiver_state,receiver_city,"
    "receiver_district,receiver_town,receiver_address,receiver_zip,receiver_mobile,receiver_phone,oaid,buyer_nick,"
    "buyer_open_uid,buyer_message,seller_memo,seller_flag,trade_from,forbid_consign,top_hold,team_buy_hold,"
    "share_group_hold,ofp_hold,is_sh_ship,o2o_delivery,shop_pick,orders"
)

_UNPAID = {"TRADE_NO_CREATE_PAY", "WAIT_BUYER_PAY", "PAY_PENDING", "WAIT_PRE_AUTH_CONFIRM"}
_PAID = {"WAIT_SELLER_SEND_GOODS", "PAID_FORBID_CONSIGN", "SELLER_CONSIGNED_PART"}
_CLOSED = {"TRADE_CLOSED", "TRADE_CLOSED_BY_TAOBAO"}
_SHIPPED = {"WAIT_BUYER_CONFIRM_GOODS", "TRADE_BUYER_SIGNED", "TRADE_FINISHED"}
_STATUSES = _UNPAID | _PAID | _CLOSED | _SHIPPED
_HOLDING = {"PAID_FORBID_CONSIGN"}
"""Paid, but not to be shipped yet: an open group purchase, or a part that someone else shipped."""
_COD = {"cod", "b2c_cod", "super_market_cod_trade"}
_LARGEST_BATCH = 20
_ITEM_REFUSED = ("isv.item-not-exist", "isv.item-is-")
"""Codes that refuse the item with all of its SKUs."""
_REFUNDS = {
    "WAIT_SELLER_AGREE": RefundState.ASKED,
    "WAIT_BUYER_RETURN_GOODS": RefundState.ASKED,
    "WAIT_SELLER_CONFIRM_GOODS": RefundState.ASKED,
    "SUCCESS": RefundState.GRANTED,
    "CLOSED": RefundState.CLOSED,
    "SELLER_REFUSE_BUYER": RefundState.CLOSED,
    "WAIT_SELLER_CONSIGN_GOODS": RefundState.ASKED,
    "WAIT_BUYER_CONFIRM_EXCHANGE_SELLER_SEND_GOODS": RefundState.ASKED,
    "EXCHANGE_TRANSFORM_TO_REFUND": RefundState.ASKED,
}
"""By a line's ``refund_status``; the last three are steps of an exchange."""


class _Order(BaseModel):
    """A line: TOP calls it an order, and the order a trade."""

    oid: Identifier
    num: Quantity
    num_iid: Text = ""
    sku_id: Text = ""
    outer_sku_id: Text = ""
    outer_iid: Text = ""
    title: Text = ""
    price: Price
    discount_fee: Fee = Decimal(0)
    part_mjz_discount: Fee = Decimal(0)
    adjust_fee: Fee = Decimal(0)
    status: Annotated[Text, Listed("", _STATUSES)] = ""
    refund_status: Annotated[Text, Listed("NO_REFUND", _REFUNDS)] = "NO_REFUND"
    refund_id: Text = ""
    divide_order_fee: Fee = Decimal(0)
    """The line's share of what was paid for the trade."""
    seller_type: Text = ""
    invoice_no: Text = ""

    @property
    def is_cancelled(self) -> bool:
        return self.status in _CLOSED or self.refund_status == "SUCCESS"

    @property
    def listing(self) -> dict[str, str]:
        ids = {"num_iid": self.num_iid, "sku_id": self.sku_id}
        return {name: number for name, number in ids.items() if number}

    @property
    def sku(self) -> str:
        """The merchant's code of the SKU or the item, or TOP's own ids."""
        return self.outer_sku_id or self.outer_iid or ":".join(self.listing.values()) or str(self.oid)

    @property
    def refund(self) -> Refund | None:
        state = _REFUNDS.get(self.refund_status)
        if state is None:
            return None
        return Refund.model_construct(
            refund_no=self.refund_id or str(self.oid),
            state=state,
            amount=max(self.divide_order_fee, Decimal(0)),
            line_no=str(self.oid),
            quantity=self.num,
        )

    @property
    def line(self) -> OrderLine:
        return OrderLine.model_construct(
            line_no=str(self.oid),
            sku=self.sku,
            listing=self.listing,
            title=self.title,
            quantity=self.num,
            unit_price=self.price,
            discount=max(self.discount_fee + self.part_mjz_discount - self.adjust_fee, Decimal(0)),
        )


class _Orders(BaseModel):
    order: list[_Order]


class _Trade(BaseModel):
    tid: Identifier
    status: Annotated[Text, Listed("?", _STATUSES, required=True)]
    type: Text = ""
    payment: Price
    post_fee: Fee = Decimal(0)
    created: ChinaTime
    modified: ChinaTime
    pay_time: MaybeChinaTime = None
    end_time: MaybeChinaTime = None
    receiver_name: Part = ""
    receiver_state: Part = ""
    receiver_city: Part = ""
    receiver_district: Part = ""
    receiver_town: Part = ""
    receiver_address: Part = ""
    receiver_zip: Part = ""
    receiver_mobile: Part = ""
    receiver_phone: Part = ""
    oaid: Text = ""
    buyer_nick: Text = ""
    buyer_open_uid: Text = ""
    buyer_message: Text = ""
    seller_memo: Text = ""
    seller_flag: Integer = 0
    trade_from: Text = ""
    forbid_consign: Integer = 0
    top_hold: Integer = 0
    team_buy_hold: Integer = 0
    share_group_hold: Integer = 0
    ofp_hold: Integer = 0
    is_sh_ship: bool | None = False
    """Whether TOP bars it from shipping."""
    o2o_delivery: Text = ""
    """``inshop``: the buyer picks it up."""
    shop_pick: Text = ""
    orders: _Orders

    @property
    def hold(self) -> str:
        """Why the platform does not want it shipped yet; empty where it does."""
        if self.status in _HOLDING:
            return self.status
        if self.is_sh_ship:
            return "is_sh_ship"
        if self.o2o_delivery == "inshop" or self.shop_pick not in ("", "0", "false"):
            return "pick_up"
        flags = ("forbid_consign", "top_hold", "team_buy_hold", "share_group_hold", "ofp_hold")
        return next((flag for flag in flags if getattr(self, flag) == 1), "")

    @property
    def recipient(self) -> Recipient:
        return Recipient.model_construct(
            name=self.receiver_name,
            phone=self.receiver_mobile or self.receiver_phone,
            province=self.receiver_state,
            city=self.receiver_city or self.receiver_district,
            district=self.receiver_district if self.receiver_city else "",
            town=self.receiver_town,
            street=self.receiver_address,
            postcode=self.receiver_zip,
            hidden="*" in self.receiver_name + self.receiver_mobile + self.receiver_phone + self.receiver_address,
        )


class _Receiver(BaseModel):
    name: Part = ""
    mobile: Part = ""
    phone: Part = ""
    address_detail: Part = ""


class _Receivers(BaseModel):
    receiver: list[_Receiver] = []


class _Fullinfo(BaseModel):
    class Body(BaseModel):
        trade: _Trade

    class Decrypted(BaseModel):
        receiver_list: _Receivers = _Receivers()

    trade_fullinfo_get_response: Body
    top_oaid_decrypt_response: Decrypted | None = None

    @property
    def recipient(self) -> Recipient:
        masked = self.trade_fullinfo_get_response.trade.recipient
        plain = self.top_oaid_decrypt_response
        if plain is None or not plain.receiver_list.receiver:
            return masked
        receiver = plain.receiver_list.receiver[0]
        clear = {
            "name": receiver.name,
            "phone": receiver.mobile or receiver.phone,
            "street": receiver.address_detail,
        }
        shown = masked.model_copy(update={key: value for key, value in clear.items() if value})
        return shown.model_copy(update={"hidden": "*" in shown.name + shown.phone + shown.street})


def _priority(seller_flag: object, seller_memo: str) -> int:
    """Return urgent for the seller's red flag, or a memo that says so."""
    return URGENT if seller_flag == 1 or "加急" in seller_memo else NORMAL


class Taobao:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._top = Top(account)

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        raise Unauthentic("Taobao sends no webhooks: its orders are pulled")

    def parse(self, body: bytes, topic: str) -> ChannelOrder:
        """Parse a ``trade_fullinfo_get_response``, which may come with its decrypted recipient."""
        fullinfo, odd = decode_order(_Fullinfo, body, "trade_fullinfo_get_response.trade.tid")
        trade = fullinfo.trade_fullinfo_get_response.trade
        shipped = trade.status in _SHIPPED
        closed = trade.status in _CLOSED
        cash_on_delivery = trade.type in _COD
        kept = [order for order in trade.orders.order if closed or shipped or not order.is_cancelled]
        if not kept:
            kept, closed = trade.orders.order, True
        cancelled_sum = sum((order.divide_order_fee for order in trade.orders.order if order not in kept), Decimal(0))
        paid_at = trade.pay_time
        if trade.status in _PAID | _SHIPPED and not cash_on_delivery:
            paid_at = trade.pay_time or trade.modified
        custom: dict[str, JsonValue] = {
            "oaid": trade.oaid,
            "channel_hold": trade.hold,
            "partly_shipped": trade.status == "SELLER_CONSIGNED_PART",
        }
        return standard_order(
            odd,
            channel=self._account.source,
            shop=self._account.account,
            channel_order_no=str(trade.tid),
            placed_at=trade.created,
            modified_at=trade.modified,
            paid_at=None if trade.status in _UNPAID else paid_at,
            cancelled_at=(trade.end_time or trade.modified) if closed else None,
            shipped=shipped,
            cash_on_delivery=cash_on_delivery,
            lines=tuple(order.line for order in kept),
            refunds=tuple(each for order in trade.orders.order if (each := order.refund) is not None),
            freight=max(trade.post_fee, Decimal(0)),
            total=max(trade.payment - cancelled_sum, Decimal(0)),
            recipient=fullinfo.recipient,
            buyer=trade.buyer_open_uid or trade.buyer_nick,
            buyer_message=trade.buyer_message,
            seller_memo=trade.seller_memo,
            priority=_priority(trade.seller_flag, trade.seller_memo),
            origin=self._origin(trade),
            custom=drop_empty(custom),
        )

    def _origin(self, trade: _Trade) -> Origin:
        tmall = any(order.seller_type == "B" for order in trade.orders.order)
        platform = str(self._account.settings.get("platform", "tmall" if tmall else "taobao"))
        region = f"{trade.receiver_state} {trade.receiver_city}".strip()
        return marketplace_origin(self._account, region, trade.trade_from, platform)

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[PulledOrder]:
        """Yield the trades that changed and still are as they were when the window ended."""
        gate = asyncio.Semaphore(_CONCURRENT_READS)
        async for tids in self._search("taobao.trades.sold.increment.get", "modified", since, until):
            for trade in await asyncio.gather(*(self._trade(tid, gate, until) for tid in tids)):
                if trade is not None:
                    yield trade

    async def read(self, order_no: str) -> PulledOrder | None:
        return await self._trade(order_no, asyncio.Semaphore(1)) if re.fullmatch(r"\d{1,19}", order_no) else None

    async def numbers(self, since: datetime, until: datetime) -> AsyncIterator[str]:
        async for tids in self._search("taobao.trades.sold.get", "created", since, until):
            for tid in tids:
                yield tid

    def _search(self, method: str, by: str, since: datetime, until: datetime) -> AsyncIterator[Sequence[str]]:
        """Yield the numbers of trades page by page, ``by`` the time ``created`` or ``modified``."""

        async def page(start: datetime, end: datetime, number: int) -> tuple[list[str], int]:
            window = {f"start_{by}": format_china_time(start), f"end_{by}": format_china_time(end)}
            answer, _ = await self._top.call(method, fields="tid", page_no=str(number), page_size=str(_PAGE), **window)
            trades = (answer.get("trades") or {}).get("trade") or []
            return [str(trade["tid"]) for trade in trades], page_count(answer.get("total_results"), _PAGE)

        return sliced_pages(since, until, _SLICE, page)

    async def _trade(self, tid: str, gate: asyncio.Semaphore, until: datetime | None = None) -> PulledOrder | None:
        """Return one trade; ``None`` where it does not exist, or changed after ``until``: the next pull reads it."""
        async with gate:
            try:
                answer, body = await self._top.call("taobao.trade.fullinfo.get", fields=_FIELDS, tid=tid)
            except ApplicationError as error:
                if refusal_code(error) == "isv.trade-not-exist":
                    return None
                raise
        trade = answer["trade"]
        modified = str(trade.get("modified"))
        if until is not None and modified >= format_china_time(until):
            return None
        scene = self._account.settings.get("decrypt_scene")
        if scene and trade.get("oaid") and trade.get("status") in _PAID:
            query = json.dumps([{"oaid": trade["oaid"], "tid": tid, "scene": str(scene)}])
            _, plain = await self._top.call("taobao.top.oaid.decrypt", query_list=query)
            body = json.dumps({**json.loads(body), **json.loads(plain)}, ensure_ascii=False).encode()
        receipt = Receipt(
            fact_key=order_fact_key(tid, modified, trade, {"oaid"}),
            topic="taobao.trade.fullinfo.get",
            priority=_priority(trade.get("seller_flag"), str(trade.get("seller_memo"))),
        )
        return PulledOrder(receipt=receipt, body=body)

    async def renew(self) -> Mapping[str, str]:
        """Call ``taobao.top.auth.token.refresh``, whose ``token_result`` is JSON within a string."""
        answer, _ = await self._top.call(
            "taobao.top.auth.token.refresh", refresh_token=self._account.secrets.get("refresh_token", "")
        )
        try:
            token = json.loads(answer["token_result"])
        except (KeyError, TypeError, ValueError):
            token = {}
        return oauth_secrets(token, "session")

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """Call ``taobao.logistics.offline.send``. A refusal is ignored where the trade already shows the shipment."""
        oids = sorted({line.line_no for line in shipment.lines})
        split = {} if shipment.whole_order else {"is_split": "1", "sub_tid": ",".join(oids)}
        try:
            await self._top.call(
                "taobao.logistics.offline.send",
                tid=shipment.channel_order_no,
                out_sid=shipment.waybill_no,
                company_code=carrier_code(self._account, {}, shipment.carrier, shipment.carrier.upper()),
                **split,
            )
        except ApplicationError as error:
            if not (error.non_retryable and await self._shows_shipment(shipment)):
                raise

    async def _shows_shipment(self, shipment: Shipment) -> bool:
        """Whether the trade shows the lines as shipped with this waybill, or with another where only part of a line
        ships."""
        answer, _ = await self._top.call(
            "taobao.trade.fullinfo.get", fields="tid,orders", tid=shipment.channel_order_no
        )
        orders = {str(order["oid"]): order for order in answer["trade"]["orders"]["order"]}
        return all(
            (order := orders.get(line.line_no)) is not None
            and (waybill_no := order.get("invoice_no"))
            and (waybill_no == shipment.waybill_no or line.quantity < order["num"])
            for line in shipment.lines
        )

    async def push_stock(self, offered: Sequence[StockOffer]) -> list[StockRefusal]:
        """Call ``taobao.skus.quantity.update`` for up to 20 SKUs of one item, ``taobao.item.quantity.update`` for an
        item without SKUs; ``type`` 1 sets the quantities."""
        refusals: list[StockRefusal] = []
        batches: dict[tuple[str, bool], list[StockOffer]] = defaultdict(list)
        for each in offered:
            num_iid, sku_id = each.listing.get("num_iid", ""), each.listing.get("sku_id")
            if all(re.fullmatch(r"[0-9]+", part) for part in (num_iid, sku_id or "0")):
                batches[num_iid, sku_id is not None].append(each)
            else:
                refusals.append(StockRefusal(sku=each.sku, reason="num_iid and sku_id must be numbers"))
        for (num_iid, by_sku), batch in batches.items():
            size = _LARGEST_BATCH if by_sku else 1
            for start in range(0, len(batch), size):
                refusals += await self._set_stock(num_iid, batch[start : start + size])
        return refusals

    async def _set_stock(self, num_iid: str, batch: Sequence[StockOffer]) -> list[StockRefusal]:
        """Set the quantities of one item. TOP refuses a call as a whole; after it refuses the item, stop."""
        item_reason = ""

        async def attempt(part: Sequence[StockOffer]) -> str:
            nonlocal item_reason
            if not item_reason:
                reason = await self._try_stock(num_iid, part)
                item_reason = reason if reason.startswith(_ITEM_REFUSED) else ""
                return reason
            return item_reason

        return await refused_by_halves(batch, attempt)

    async def _try_stock(self, num_iid: str, batch: Sequence[StockOffer]) -> str:
        """Make one call; return the reason where it is refused for good."""
        if "sku_id" in batch[0].listing:
            method = "taobao.skus.quantity.update"
            quantities = {"skuid_quantities": ";".join(f"{each.listing['sku_id']}:{each.quantity}" for each in batch)}
        else:
            method = "taobao.item.quantity.update"
            quantities = {"quantity": str(batch[0].quantity)}
        try:
            await self._top.call(method, num_iid=num_iid, type="1", **quantities)
        except ApplicationError as error:
            if not (code := refusal_code(error)).startswith("isv."):
                raise
            return code
        return ""


def adapter(account: Account) -> Taobao:
    return Taobao(account)
