"""Taobao and Tmall by TOP, the Taobao Open Platform.

Sources: open.taobao.com (signing, docId 101617; taobao.trades.sold.increment.get, taobao.trade.fullinfo.get,
taobao.logistics.offline.send, taobao.skus.quantity.update, taobao.item.quantity.update), field names as in the
generated SDKs. TOP sends no webhooks: orders are pulled.

Account: ``base_url`` up to ``/router/rest`` (``https://eco.taobao.com``); secrets ``app_key``, ``app_secret``,
``session``; settings ``sign_method`` (``md5``, ``hmac``, ``hmac-sha256``), ``platform`` where ``tmall`` is not told by
the orders, ``carrier_codes`` where TOP's code is not our carrier's name in capitals. Listings: ``num_iid`` of the item,
and ``sku_id`` where the item has SKUs.
"""

import asyncio
import hmac
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import md5
from math import ceil
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities import http
from activities.channels import Offered, Pulled, Refused
from activities.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.payloads import (
    CHINA,
    ChinaTime,
    Code,
    Fee,
    Identifier,
    Integer,
    Part,
    Price,
    Quantity,
    Text,
    balanced,
    decode,
    standardising,
)
from models.address import Recipient
from models.fulfillment import Shipment
from models.intake import Account, Receipt
from models.order import NORMAL, URGENT, ChannelOrder, OrderLine
from models.origin import ChannelKind, IntakePath, Origin

_SLICE = timedelta(days=1)
_PAGE = 50
_AT_ONCE = 4
"""How many trades are read at the same time: TOP counts calls by the second."""
_FIELDS = (
    "tid,status,type,payment,post_fee,created,modified,pay_time,end_time,receiver_name,receiver_state,receiver_city,"
    "receiver_district,receiver_town,receiver_address,receiver_zip,receiver_mobile,receiver_phone,oaid,buyer_nick,"
    "buyer_open_uid,buyer_message,seller_memo,seller_flag,trade_from,forbid_consign,top_hold,team_buy_hold,"
    "share_group_hold,ofp_hold,orders"
)

_UNPAID = {"TRADE_NO_CREATE_PAY", "WAIT_BUYER_PAY", "PAY_PENDING", "WAIT_PRE_AUTH_CONFIRM"}
_PAID = {"WAIT_SELLER_SEND_GOODS", "PAID_FORBID_CONSIGN", "SELLER_CONSIGNED_PART"}
_CLOSED = {"TRADE_CLOSED", "TRADE_CLOSED_BY_TAOBAO"}
_OVER = {"WAIT_BUYER_CONFIRM_GOODS", "TRADE_BUYER_SIGNED", "TRADE_FINISHED"}
_HOLDING = {"PAID_FORBID_CONSIGN", "SELLER_CONSIGNED_PART"}
"""Paid, but not to be shipped as it is: a group purchase still open, or a part shipped by someone else."""
_COD = {"cod", "b2c_cod", "super_market_cod_trade"}
_TRANSIENT = ("B150", "S01")
_BUSY = re.compile(r"(稍后再试|超时|服务不可用)[！!。]?$")
"""How a ``sub_msg`` ends where an ``isv.*`` is theirs all the same."""
_SERVICES = {15, 50}
"""The codes of what the service behind the gateway refused, and not the gateway."""
_LARGEST_BATCH = 20
_ITEM = ("isv.item-not-exist", "isv.item-is-")
"""Refused for the item, whichever of its SKUs."""

MaybeTime = Annotated[ChinaTime | None, BeforeValidator(lambda value: value or None)]


class _Order(BaseModel):
    """One line: TOP calls it an order, and the whole a trade."""

    oid: Identifier
    num: Quantity
    outer_sku_id: Text = ""
    outer_iid: Text = ""
    title: Text = ""
    price: Price
    discount_fee: Fee = Decimal(0)
    part_mjz_discount: Fee = Decimal(0)
    adjust_fee: Fee = Decimal(0)
    status: Text = ""
    refund_status: Text = ""
    seller_type: Text = ""
    invoice_no: Text = ""

    @property
    def void(self) -> bool:
        return self.status in _CLOSED or self.refund_status == "SUCCESS"

    @property
    def sku(self) -> str:
        return self.outer_sku_id or self.outer_iid

    @property
    def line(self) -> OrderLine:
        return OrderLine(
            line_no=str(self.oid),
            sku=self.sku,
            title=self.title,
            quantity=self.num,
            unit_price=self.price,
            discount=max(self.discount_fee + self.part_mjz_discount - self.adjust_fee, Decimal(0)),
        )


class _Orders(BaseModel):
    order: Annotated[list[_Order], Field(min_length=1, max_length=200)]


class _Trade(BaseModel):
    tid: Identifier
    status: Code
    type: Text = ""
    payment: Price
    post_fee: Fee = Decimal(0)
    created: ChinaTime
    modified: ChinaTime
    pay_time: MaybeTime = None
    end_time: MaybeTime = None
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
    orders: _Orders

    @property
    def hold(self) -> str:
        """Why the platform does not want it shipped; empty where it does."""
        if self.status in _HOLDING:
            return self.status
        flags = ("forbid_consign", "top_hold", "team_buy_hold", "share_group_hold", "ofp_hold")
        return next((flag for flag in flags if getattr(self, flag) == 1), "")

    @property
    def recipient(self) -> Recipient:
        return Recipient(
            name=self.receiver_name,
            phone=self.receiver_mobile or self.receiver_phone,
            province=self.receiver_state,
            city=self.receiver_city or self.receiver_district,
            district=self.receiver_district if self.receiver_city else "",
            town=self.receiver_town,
            street=self.receiver_address,
            postcode=self.receiver_zip,
        )


class _Fullinfo(BaseModel):
    class Body(BaseModel):
        trade: _Trade

    trade_fullinfo_get_response: Body


def _priority(seller_flag: object, seller_memo: str) -> int:
    """The seller's red flag, or a memo that says urgent."""
    return URGENT if seller_flag == 1 or "加急" in seller_memo else NORMAL


def sign(params: Mapping[str, str], secret: str, method: str = "md5") -> str:
    """TOP's signature: keys and values in the order of the keys, digested with the secret; capital hex."""
    text = "".join(f"{key}{value}" for key, value in sorted(params.items()) if key != "sign").encode()
    key = secret.encode()
    if method == "md5":
        return md5(key + text + key, usedforsecurity=False).hexdigest().upper()
    return hmac.digest(key, text, "sha256" if method == "hmac-sha256" else "md5").hex().upper()


def _china(moment: datetime) -> str:
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")


class _Top:
    """Calls to TOP, and what its answers mean."""

    def __init__(self, account: Account) -> None:
        self._url = f"{account.base_url.rstrip('/')}/router/rest"
        self._secrets = account.secrets
        self._sign_method = str(account.settings.get("sign_method", "hmac-sha256"))

    async def call(self, method: str, **business: str) -> tuple[dict[str, Any], bytes]:
        """The decoded answer and its bytes. Raises ``ApplicationError``: TOP reports faults with status 200."""
        params = {
            "method": method,
            "app_key": self._secrets["app_key"],
            "session": self._secrets["session"],
            "timestamp": _china(datetime.now(CHINA)),
            "format": "json",
            "v": "2.0",
            "sign_method": self._sign_method,
            **business,
        }
        params["sign"] = sign(params, self._secrets["app_secret"], self._sign_method)
        response = await http.send("POST", self._url, data=params)
        try:
            answer = json.loads(response.content)
            if "error_response" in answer:
                raise fault(method, answer["error_response"])
            return answer[f"{method.removeprefix('taobao.').replace('.', '_')}_response"], response.content
        except (ValueError, TypeError, KeyError, AttributeError):
            raise unavailable(f"{method}: answered with what is no TOP response") from None


def fault(method: str, error: Mapping[str, Any]) -> ApplicationError:
    """What an ``error_response`` means: ``isv.*`` is our fault and final, ``isp.*`` theirs and passing.

    Refused by a service, its detail is the sub code; by the gateway, which does not know us, the gateway's own number.
    """
    code, sub_code, sub_msg = error.get("code"), str(error.get("sub_code") or ""), str(error.get("sub_msg") or "")
    said = f"{method}: {code} {sub_code}".rstrip()
    if code == 7:
        ban = re.search(r"last for (\d{1,6}) more second", sub_msg)
        return unavailable(said, float(ban[1]) if ban else None)
    if sub_code.startswith("isp.") or sub_code.endswith(_TRANSIENT) or _BUSY.search(sub_msg):
        return unavailable(said)
    if code in _SERVICES | {10} and not sub_code.startswith("isv."):
        return unavailable(said)
    return refused(said, sub_code if code in _SERVICES else str(code))


class Taobao:
    signed = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._top = _Top(account)

    def receive(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        raise Unauthentic("Taobao sends no webhooks: its orders are pulled")

    def parse(self, body: bytes, topic: str) -> ChannelOrder | None:
        """A ``trade_fullinfo_get_response``. ``None`` once the whole trade was shipped: nothing is left to handle."""
        trade = decode(_Fullinfo, body).trade_fullinfo_get_response.trade
        path = "trade_fullinfo_get_response.trade"
        if trade.status in _OVER:
            return None
        if trade.status not in _UNPAID | _PAID | _CLOSED:
            raise Unintelligible(f"{path}.status", "not a trade status we know")
        closed = trade.status in _CLOSED
        cash_on_delivery = trade.type in _COD
        sold = [(at, order) for at, order in enumerate(trade.orders.order) if closed or not order.void]
        if not sold:
            sold, closed = list(enumerate(trade.orders.order)), True
        for at, order in sold:
            if not order.sku:
                raise Unintelligible(f"{path}.orders.order[{at}].outer_sku_id", "the item has no merchant code")
        paid_at = trade.pay_time
        if trade.status in _PAID and not cash_on_delivery:
            paid_at = trade.pay_time or trade.modified
        custom: dict[str, JsonValue] = {"oaid": trade.oaid, "channel_hold": trade.hold}
        with standardising():
            standard = ChannelOrder(
                channel=self._account.source,
                shop=self._account.account,
                channel_order_no=str(trade.tid),
                placed_at=trade.created,
                modified_at=trade.modified,
                paid_at=None if trade.status in _UNPAID else paid_at,
                cancelled_at=(trade.end_time or trade.modified) if closed else None,
                cash_on_delivery=cash_on_delivery,
                lines=tuple(order.line for _, order in sold),
                freight=max(trade.post_fee, Decimal(0)),
                total=trade.payment,
                recipient=trade.recipient,
                buyer=trade.buyer_open_uid or trade.buyer_nick,
                buyer_message=trade.buyer_message,
                seller_memo=trade.seller_memo,
                priority=_priority(trade.seller_flag, trade.seller_memo),
                origin=self._origin(trade),
                custom={key: value for key, value in custom.items() if value},
            )
        return balanced(standard)

    def _origin(self, trade: _Trade) -> Origin:
        tmall = any(order.seller_type == "B" for order in trade.orders.order)
        return Origin(
            kind=ChannelKind.MARKETPLACE,
            platform=str(self._account.settings.get("platform", "tmall" if tmall else "taobao")),
            shop=self._account.account,
            region=f"{trade.receiver_state} {trade.receiver_city}".strip(),
            campaign=trade.trade_from,
            intake=IntakePath.POLL,
        )

    async def pull(self, since: datetime, until: datetime) -> AsyncIterator[Pulled]:
        """Pages from the last to the first, for rows leave the window, and move forward, while it is read."""
        gate = asyncio.Semaphore(_AT_ONCE)
        while since < until:
            end = min(since + _SLICE, until)
            first, total = await self._page(since, end, 1)
            for number in range(max(ceil(total / _PAGE), 1), 0, -1):
                tids = first if total <= _PAGE else (await self._page(since, end, number))[0]
                for trade in await asyncio.gather(*(self._trade(tid, until, gate) for tid in tids)):
                    if trade is not None:
                        yield trade
            since = end

    async def _page(self, since: datetime, until: datetime, number: int) -> tuple[Sequence[int], int]:
        answer, _ = await self._top.call(
            "taobao.trades.sold.increment.get",
            fields="tid",
            start_modified=_china(since),
            end_modified=_china(until),
            page_no=str(number),
            page_size=str(_PAGE),
        )
        trades = (answer.get("trades") or {}).get("trade") or []
        return [trade["tid"] for trade in trades], int(answer.get("total_results") or 0)

    async def _trade(self, tid: int, until: datetime, gate: asyncio.Semaphore) -> Pulled | None:
        """One trade as it stands; ``None`` where it is gone, or changed after the window: the next pull brings it."""
        async with gate:
            try:
                answer, body = await self._top.call("taobao.trade.fullinfo.get", fields=_FIELDS, tid=str(tid))
            except ApplicationError as error:
                if error.details[:1] == ("isv.trade-not-exist",):
                    return None
                raise
        trade = answer["trade"]
        modified = str(trade.get("modified"))
        if modified >= _china(until):
            return None
        receipt = Receipt(
            fact_key=f"{tid}:{modified}:{trade.get('status')}",
            topic="taobao.trade.fullinfo.get",
            priority=_priority(trade.get("seller_flag"), str(trade.get("seller_memo"))),
        )
        return Pulled(receipt=receipt, body=body)

    async def confirm_shipment(self, shipment: Shipment) -> None:
        """``taobao.logistics.offline.send``; whatever TOP refuses is fine where the trade already shows it."""
        codes = self._account.settings.get("carrier_codes", {})
        oids = sorted({line.line_no for line in shipment.lines})
        split = {} if shipment.whole_order else {"is_split": "1", "sub_tid": ",".join(oids)}
        try:
            await self._top.call(
                "taobao.logistics.offline.send",
                tid=shipment.channel_order_no,
                out_sid=shipment.waybill_no,
                company_code=str(codes.get(shipment.carrier, shipment.carrier.upper())),
                **split,
            )
        except ApplicationError as error:
            if not (error.non_retryable and await self._shows(shipment)):
                raise

    async def _shows(self, shipment: Shipment) -> bool:
        """The trade shows these lines as sent with this waybill, or, where a line left in parts, with another."""
        answer, _ = await self._top.call(
            "taobao.trade.fullinfo.get", fields="tid,orders", tid=shipment.channel_order_no
        )
        orders = {str(order["oid"]): order for order in answer["trade"]["orders"]["order"]}
        return all(
            (order := orders.get(line.line_no)) is not None
            and (sent := order.get("invoice_no"))
            and (sent == shipment.waybill_no or line.quantity < order["num"])
            for line in shipment.lines
        )

    async def push_stock(self, offered: Sequence[Offered]) -> list[Refused]:
        """By ``taobao.skus.quantity.update``, up to 20 SKUs of one item a call, and ``taobao.item.quantity.update`` for
        an item without SKUs; both set (``type`` 1)."""
        refusals: list[Refused] = []
        batches: dict[tuple[str, bool], list[Offered]] = defaultdict(list)
        for each in offered:
            num_iid, sku_id = each.listing.get("num_iid", ""), each.listing.get("sku_id")
            if all(re.fullmatch(r"[0-9]+", part) for part in (num_iid, sku_id or "0")):
                batches[num_iid, sku_id is not None].append(each)
            else:
                refusals.append(Refused(sku=each.sku, reason="num_iid and sku_id must be numbers"))
        for (num_iid, by_sku), batch in batches.items():
            size = _LARGEST_BATCH if by_sku else 1
            for at in range(0, len(batch), size):
                refusals += await self._set_stock(num_iid, batch[at : at + size])
        return refusals

    async def _set_stock(self, num_iid: str, batch: Sequence[Offered]) -> list[Refused]:
        """One call. TOP refuses it as a whole and does not say for which SKU: halves of it are tried to find out."""
        if "sku_id" in batch[0].listing:
            method = "taobao.skus.quantity.update"
            told = {"skuid_quantities": ";".join(f"{each.listing['sku_id']}:{each.quantity}" for each in batch)}
        else:
            method = "taobao.item.quantity.update"
            told = {"quantity": str(batch[0].quantity)}
        try:
            await self._top.call(method, num_iid=num_iid, type="1", **told)
        except ApplicationError as error:
            code = str(error.details[0]) if error.non_retryable else ""
            if not code.startswith("isv."):
                raise
            if len(batch) == 1 or code.startswith(_ITEM):
                return [Refused(sku=each.sku, reason=code) for each in batch]
            half = len(batch) // 2
            return [
                refusal for part in (batch[:half], batch[half:]) for refusal in await self._set_stock(num_iid, part)
            ]
        return []


def adapter(account: Account) -> Taobao:
    return Taobao(account)
