"""JD Logistics (京东物流) through its open platform LOP, solution ECAP: signed JSON out, traces pushed in.

Sources: the platform's demonstration code of the signature (md5-salt) and public integrations that keep its texts:
/ecap/v1/orders/create, cancel (one address for both cancelling and intercepting), status/get, trace/query, the fields
of a trace, and categories as its sandbox pushes them. Not public, and so unverified: the field ``status`` of status/get
and its look-up by ``customerOrderId`` (sourced for cancel only); the shape of a refusal by the gateway (read as JD's
other platform says it); the codes of refusals (words are read in their place); the answer that a push wants; the words
that tell a failed delivery, a return, a loss. From general knowledge: 代收货款 as product ``ed-a-0009``.

A merchant's number is unique: JDL refuses it the second time, so whatever it refuses is looked for first.

Account: ``base_url`` ``https://api.jdl.com``; secrets ``app_key``, ``app_secret``, ``access_token``, ``push_secret``
(the end of the push URL); settings ``customer_code``, ``product`` (by default ``ed-m-0001``, 特惠送).
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError
from temporalio.exceptions import ApplicationError

from activities.carriers import PushAnswer, authenticate, masked
from activities.kit import http
from activities.kit.errors import Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Integer, Model, Text, decode
from models.address import Addressee
from models.base import CHINA
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

NAME = "京东物流"
_B2C = 1
_MONTHLY = 3
_ELSEWHERE = "0030001"
"""The goods were sold on another platform than JD's."""
_CASH_ON_DELIVERY = "ed-a-0009"
_PICKED_UP, _CANCELLED = 420, 690
_CANCELLATION, _INTERCEPTION = 0, 1
_PASSING = re.compile(r"限流|频繁|超时|稍后|繁忙|系统异常")
_UNKNOWN = re.compile(r"不存在|未查询到|查询不到|暂无")
_AGAIN = re.compile(r"已取消|已拦截|重复")

_STATUS = {
    390: TrackingStatus.LABEL_CREATED,
    _PICKED_UP: TrackingStatus.PICKED_UP,
    430: TrackingStatus.IN_TRANSIT,
    440: TrackingStatus.OUT_FOR_DELIVERY,
    510: TrackingStatus.DELIVERED,
    530: TrackingStatus.REFUSED,
}
_FAILED = re.compile(r"再投|未妥投|配送失败|投递失败")
_BACK = re.compile(r"退回|退货|逆向")
_PROBLEMS = (
    (re.compile(r"丢失|遗失"), ExceptionKind.LOST),
    (re.compile(r"破损|损坏"), ExceptionKind.DAMAGED),
    (re.compile(r"地址(错误|有误|不详|不清)"), ExceptionKind.WRONG_ADDRESS),
)


class _Fault(BaseModel):
    code: Text = ""


class _Answer(BaseModel):
    code: Text = ""
    success: bool = False
    msg: Text = ""
    subMsg: Text = ""
    data: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = {}
    error_response: _Fault | None = None

    @property
    def words(self) -> str:
        return f"{self.msg} {self.subMsg}"


class _Order(BaseModel):
    waybillCode: Text = ""
    status: Integer = 0

    @property
    def cancelled(self) -> bool:
        return self.status == _CANCELLED


class _Cancelled(BaseModel):
    resultType: int = -1


class _Trace(BaseModel):
    operationTime: ChinaTime
    category: Integer = 0
    categoryName: Text = ""
    state: Text = ""
    operationTitle: Text = ""
    operationRemark: Text = ""
    operateSite: Text = ""

    @property
    def words(self) -> str:
        return self.operationRemark or self.operationTitle or self.categoryName

    @property
    def status(self) -> TrackingStatus | None:
        status = _STATUS.get(self.category)
        words = self.operationTitle + self.operationRemark
        if status in {TrackingStatus.IN_TRANSIT, TrackingStatus.OUT_FOR_DELIVERY} and _BACK.search(words):
            return TrackingStatus.RETURNING
        if status is TrackingStatus.OUT_FOR_DELIVERY and _FAILED.search(words):
            return TrackingStatus.DELIVERY_FAILED
        if status is TrackingStatus.DELIVERED and _BACK.search(words):
            return TrackingStatus.RETURNED
        return status

    def scan(self, waybill_no: str) -> Scan:
        words = self.operationTitle + self.operationRemark
        return Scan(
            waybill_no=waybill_no,
            scan_id=f"{self.category}:{self.state}:{self.operationTime.isoformat()}",
            status=self.status,
            code=f"{self.category}:{self.state}".rstrip(":"),
            at=self.operationTime,
            place=self.operateSite,
            text=masked(self.words),
            exception=next((kind for said, kind in _PROBLEMS if said.search(words)), None),
        )


class _Push(_Trace):
    waybillCode: Code


class _Tracked(BaseModel):
    traceDetails: Annotated[list[_Trace], BeforeValidator(lambda value: value or [])] = []


def sign(secret: str, access_token: str, app_key: str, path: str, body: str, timestamp: str) -> str:
    """LOP's md5-salt: named parts in this order between the secret twice, in small hex."""
    told = f"access_token{access_token}app_key{app_key}method{path}param_json{body}timestamp{timestamp}v2.0"
    return md5(f"{secret}{told}{secret}".encode(), usedforsecurity=False).hexdigest()


def _contact(person: Addressee) -> dict[str, str]:
    phone = person.national_phone
    return {
        "name": person.name,
        "mobile" if len(phone) == 11 and phone.startswith("1") else "phone": phone,
        "fullAddress": f"{person.province}{person.city}{person.district}{person.full_street}",
    }


class JDL:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        product: dict[str, Any] = {"productCode": self._product}
        if booking.cash_on_delivery:
            collect = {"shouldPayMoney": str(booking.cash_on_delivery)}
            product["addedProducts"] = [{"productCode": _CASH_ON_DELIVERY, "productAttrs": collect}]
        weight = max(round(float(booking.weight_kg), 2), 0.01)
        cargo = {
            "name": ",".join(f"{line.sku}*{line.quantity}" for line in booking.goods)[:200],
            "quantity": 1,
            "weight": weight,
            "volume": round(weight * 1000, 2),
        }
        message = {
            "orderId": booking.reference,
            "senderContact": _contact(booking.sender),
            "receiverContact": _contact(booking.recipient),
            "productsReq": product,
            "settleType": _MONTHLY,
            "cargoes": [cargo],
            "commonChannelInfo": {"channelCode": _ELSEWHERE},
        }
        try:
            order = _read(_Order, await self._ask("create", message))
        except ApplicationError as error:
            found = await self.find(booking.reference) if error.non_retryable else None
            if found is None:
                raise
            return found
        if not order.waybillCode:
            raise unavailable("jdl: a person there still decides whether the address is served", 60)
        return self._waybill(booking.reference, order)

    async def find(self, reference: str) -> Waybill | None:
        order = await self._status(reference)
        return None if order is None or order.cancelled else self._waybill(reference, order)

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Refused once it was picked up: JDL would not cancel then, but send it back."""
        if waybill_no and await self._left(waybill_no):
            raise refused("carrier.jdl.picked_up", "picked_up")
        order = await self._status(reference)
        if order is None or not order.cancelled:
            await self._recall_all({"customerOrderId": reference}, _CANCELLATION)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Refused before it was picked up: JDL would not send it back then, but cancel."""
        if not await self._left(waybill_no):
            raise refused("carrier.jdl.not_picked_up", "not_picked_up")
        await self._recall_all({"waybillCode": waybill_no}, _INTERCEPTION)

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        return [trace.scan(waybill_no) for trace in await self._traces(waybill_no)]

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        return Receipt(fact_key=sha256(body).hexdigest(), topic="trace")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body='{"code":0,"success":true,"msg":"成功"}'.encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, body)
        return [push.scan(push.waybillCode)]

    @property
    def _product(self) -> str:
        return str(self._account.settings.get("product", "ed-m-0001"))

    def _waybill(self, reference: str, order: _Order) -> Waybill:
        return Waybill(
            carrier=self._account.source,
            waybill_no=order.waybillCode,
            reference=reference,
            label=Label(product=self._product),
        )

    async def _status(self, reference: str) -> _Order | None:
        """How an order stands; ``None``: JDL has none to show under our reference."""
        answer = await self._ask("status/get", {"customerOrderId": reference})
        order = _read(_Order, answer) if answer.success else _Order()
        return order if order.waybillCode else None

    async def _left(self, waybill_no: str) -> bool:
        return any(_PICKED_UP <= trace.category < _CANCELLED for trace in await self._traces(waybill_no))

    async def _traces(self, waybill_no: str) -> list[_Trace]:
        answer = await self._ask("trace/query", {"waybillCode": waybill_no})
        if not answer.success and _UNKNOWN.search(answer.words):
            return []
        return _read(_Tracked, answer).traceDetails

    async def _recall_all(self, which: dict[str, str], expected: int) -> None:
        why = {"cancelReason": "用户取消", "cancelReasonCode": "1", "cancelType": _B2C}
        answer = await self._ask("cancel", {**which, **why})
        if not answer.success and (_UNKNOWN.search(answer.words) or _AGAIN.search(answer.words)):
            return
        result = _read(_Cancelled, answer).resultType
        if result != expected:
            raise refused(f"carrier.jdl.resultType_{result}", str(result))

    async def _ask(self, interface: str, message: dict[str, Any]) -> _Answer:
        """One call; its outcome, good or bad. Raises ``ApplicationError`` where the platform itself says no."""
        path = f"/ecap/v1/orders/{interface}"
        secrets = self._account.secrets
        told = {"orderOrigin": _B2C, "customerCode": str(self._account.settings.get("customer_code", "")), **message}
        body = json.dumps([told], ensure_ascii=False, separators=(",", ":"))
        timestamp = datetime.now(UTC).astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")
        app_key, access_token = secrets["app_key"], secrets["access_token"]
        response = await http.send(
            "POST",
            f"{self._account.base_url.rstrip('/')}{path}",
            content=body.encode(),
            params={
                "LOP-DN": "ECAP",
                "app_key": app_key,
                "access_token": access_token,
                "timestamp": timestamp,
                "v": "2.0",
                "sign": sign(secrets["app_secret"], access_token, app_key, path, body, timestamp),
                "algorithm": "md5-salt",
            },
            headers={"Content-Type": "application/json;charset=utf-8", "lop-tz": "8"},
        )
        try:
            answer = decode(_Answer, response.content)
        except Unintelligible:
            raise unavailable("jdl: the answer is not in the format") from None
        if answer.error_response is not None:
            raise refused(f"carrier.jdl.{answer.error_response.code}", answer.error_response.code)
        if not answer.success and _PASSING.search(answer.words):
            raise unavailable(f"jdl: {answer.code}")
        return answer


def _read(model: type[Model], answer: _Answer) -> Model:
    """What it holds. JDL's words may repeat what was sent: its code alone is told."""
    if not answer.success:
        raise refused(f"carrier.jdl.{answer.code or 'refused'}", answer.code)
    try:
        return model.model_validate(answer.data)
    except ValidationError:
        raise unavailable("jdl: the answer is not in the format") from None


def adapter(account: Account) -> JDL:
    return JDL(account)
