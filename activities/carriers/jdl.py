"""JD Logistics (京东物流) by its open platform LOP, solution ECAP: signed JSON requests, pushed traces.

Sources: the platform's sample code of the signature (md5-salt) and public integrations that quote its documents:
/ecap/v1/orders/create, cancel (cancels or intercepts), status/get, trace/query, the fields of a trace; ``category`` as
its sandbox pushes it and, with ``state``, by JDL's tables of order states and nodes (open.jdl.com access guide 267 and
442) as a public map has them (OLTS mappings/cn/jdl.csv). Not public, and therefore unverified: the field ``status`` of
status/get and its query by ``customerOrderId`` (sourced for cancel only); the shape of a refusal by the gateway (read
as on JD's other platform); the codes of refusals (their texts are read instead); the acknowledgement of a push; the
texts of a failed delivery, a return, a loss. From general knowledge: 代收货款 as product ``ed-a-0009``.

A merchant's order number is unique: JDL refuses to book it again, so a refused booking is queried first.

Account: ``base_url`` ``https://api.jdl.com``; secrets ``app_key``, ``app_secret``, ``access_token``, ``push_secret``
(the end of the push URL); settings ``customer_code``, ``product`` (by default ``ed-m-0001``, 特惠送).
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator
from temporalio.exceptions import ApplicationError

from activities.carriers import (
    PushAnswer,
    authenticate,
    compact_json,
    is_mobile,
    mask_personal_data,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Integer, Model, Text, decode
from activities.vendors.gateway import documented_format
from models.accounts import PUSH_SECRET, AccountFields, secret, setting
from models.address import Addressee
from models.base import CHINA
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="jdl",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        secret("access_token"),
        PUSH_SECRET,
        setting("customer_code", required=True),
        setting("product", about="jdl_product"),
    ),
    base_url="https://api.jdl.com",
)

NAME = "京东物流"
LANG = "zh-CN"
"""Of its labels, whoever prints them."""
_B2C = 1
_MONTHLY = 3
_OTHER_CHANNEL = "0030001"
"""The goods were sold on a platform other than JD's."""
_CASH_ON_DELIVERY = "ed-a-0009"
_PICKED_UP, _CANCELLED = 420, 690
_CANCELLATION, _INTERCEPTION = 0, 1
_TRANSIENT = re.compile(r"限流|频繁|超时|稍后|繁忙|系统异常")
_NOT_FOUND = re.compile(r"不存在|未查询到|查询不到|暂无")
_ALREADY_DONE = re.compile(r"已取消|已拦截|重复")

_STATUS: dict[int, TrackingStatus | None] = {
    **dict.fromkeys((100, 390), TrackingStatus.LABEL_CREATED),
    _PICKED_UP: TrackingStatus.PICKED_UP,
    430: TrackingStatus.IN_TRANSIT,
    440: TrackingStatus.OUT_FOR_DELIVERY,
    480: TrackingStatus.RETURNING,
    510: TrackingStatus.DELIVERED,
    530: TrackingStatus.REFUSED,
    **dict.fromkeys((403, 500, _CANCELLED, 700), None),
}
"""By ``category``: 100 accepted, 390 assigned, 403 held for control, 480 intercepted, 500 ended, 700 refunded."""
_BY_STATE = {
    **dict.fromkeys(("10033", "200050", "200075"), TrackingStatus.AT_DESTINATION),
    **dict.fromkeys(("200051", "200057"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("200003", "200023", "200031", "200069"), TrackingStatus.DELIVERY_FAILED),
    **dict.fromkeys(("10035", "200068"), TrackingStatus.REFUSED),
    **dict.fromkeys(("200033", "200060"), TrackingStatus.RETURNING),
    "200054": TrackingStatus.RETURNED,
    "200032": TrackingStatus.LOST,
    "10042": TrackingStatus.REFUSED,
}
"""By ``state``, where it says more than the category: arrived at the station; on its shelf; tried in vain; refused;
sent back; returned; destroyed; delivered in part, the rest refused."""
_FAILED = re.compile(r"再投|未妥投|配送失败|投递失败")
_RETURN = re.compile(r"退回|退货|逆向")
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
    def text(self) -> str:
        return f"{self.msg} {self.subMsg}"


class _Order(BaseModel):
    waybillCode: Text = ""
    status: Integer = 0

    @property
    def cancelled(self) -> bool:
        return self.status == _CANCELLED


class _Cancelled(BaseModel):
    resultType: int = -1


class _Categorised(BaseModel):
    category: Integer = 0


class _Trace(_Categorised):
    operationTime: ChinaTime
    categoryName: Text = ""
    state: Text = ""
    operationTitle: Text = ""
    operationRemark: Text = ""
    operateSite: Text = ""

    @property
    def text(self) -> str:
        return self.operationRemark or self.operationTitle or self.categoryName

    @property
    def status(self) -> TrackingStatus | None:
        if (status := _BY_STATE.get(self.state)) is not None:
            return status
        status = _STATUS.get(self.category)
        text = self.operationTitle + self.operationRemark
        if status in {TrackingStatus.IN_TRANSIT, TrackingStatus.OUT_FOR_DELIVERY} and _RETURN.search(text):
            return TrackingStatus.RETURNING
        if status is TrackingStatus.OUT_FOR_DELIVERY and _FAILED.search(text):
            return TrackingStatus.DELIVERY_FAILED
        if status is TrackingStatus.DELIVERED and _RETURN.search(text):
            return TrackingStatus.RETURNED
        return status

    def scan(self, waybill_no: str) -> Scan:
        text = self.operationTitle + self.operationRemark
        return Scan(
            waybill_no=waybill_no,
            scan_id=f"{self.category}:{self.state}:{self.operationTime.isoformat()}",
            status=self.status,
            code=f"{self.category}:{self.state}".rstrip(":"),
            at=self.operationTime,
            place=self.operateSite,
            text=mask_personal_data(self.text),
            exception=next((kind for pattern, kind in _PROBLEMS if pattern.search(text)), None),
            unknown=self.category not in _STATUS and self.state not in _BY_STATE,
        )


class _Push(_Trace):
    waybillCode: Code


class _Tracked(BaseModel):
    traceDetails: Annotated[list[Any], BeforeValidator(lambda value: value or [])] = []


def sign(secret: str, access_token: str, app_key: str, path: str, body: str, timestamp: str) -> str:
    """Return LOP's md5-salt signature: the named parts in this order, enclosed in the secret, in lower-case hex."""
    text = f"access_token{access_token}app_key{app_key}method{path}param_json{body}timestamp{timestamp}v2.0"
    return md5(f"{secret}{text}{secret}".encode(), usedforsecurity=False).hexdigest()


def _contact(person: Addressee) -> dict[str, str]:
    phone = person.national_phone
    return {
        "name": person.name,
        "mobile" if is_mobile(phone) else "phone": phone,
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
            "commonChannelInfo": {"channelCode": _OTHER_CHANNEL},
        }
        try:
            order = _data_of(_Order, await self._call("create", message))
        except ApplicationError as error:
            first = await self.find(booking.reference) if error.non_retryable else None
            if first is None:
                raise
            return first
        if not order.waybillCode:
            raise unavailable("error.under_review", 60, vendor="jdl")
        return self._waybill(booking.reference, order)

    async def find(self, reference: str) -> Waybill | None:
        order = await self._status(reference)
        return None if order is None or order.cancelled else self._waybill(reference, order)

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Refuse after pickup: JDL would return the parcel instead of cancelling."""
        if waybill_no and await self._picked_up(waybill_no):
            raise refused("carrier.jdl.picked_up", "picked_up")
        order = await self._status(reference)
        if order is None or not order.cancelled:
            await self._recall({"customerOrderId": reference}, _CANCELLATION)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Refuse before pickup: JDL would cancel the order instead of returning the parcel."""
        if not await self._picked_up(waybill_no):
            raise refused("carrier.jdl.not_picked_up", "not_picked_up")
        await self._recall({"waybillCode": waybill_no}, _INTERCEPTION)

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        with documented_format("jdl"):
            scans = read_each(
                _Trace, await self._traces(waybill_no), "traceDetails", lambda each: each.scan(waybill_no)
            )
        return scans

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
        """Return the order under our reference with its status; ``None`` if JDL has none."""
        answer = await self._call("status/get", {"customerOrderId": reference})
        order = _data_of(_Order, answer) if answer.success else _Order()
        return order if order.waybillCode else None

    async def _picked_up(self, waybill_no: str) -> bool:
        with documented_format("jdl"):
            categories = [_Categorised.model_validate(trace).category for trace in await self._traces(waybill_no)]
        return any(_PICKED_UP <= category < _CANCELLED for category in categories)

    async def _traces(self, waybill_no: str) -> list[Any]:
        answer = await self._call("trace/query", {"waybillCode": waybill_no})
        if not answer.success and _NOT_FOUND.search(answer.text):
            return []
        return _data_of(_Tracked, answer).traceDetails

    async def _recall(self, order: dict[str, str], expected: int) -> None:
        reason = {"cancelReason": "用户取消", "cancelReasonCode": "1", "cancelType": _B2C}
        answer = await self._call("cancel", {**order, **reason})
        if not answer.success and (_NOT_FOUND.search(answer.text) or _ALREADY_DONE.search(answer.text)):
            return
        result = _data_of(_Cancelled, answer).resultType
        if result != expected:
            if result in (_CANCELLATION, _INTERCEPTION):
                raise refused(f"carrier.jdl.resultType_{result}", str(result))
            raise refusal("jdl", str(result))

    async def _call(self, interface: str, message: dict[str, Any]) -> _Answer:
        """Return the response, success or failure. Raise ``ApplicationError`` if the platform refuses."""
        path = f"/ecap/v1/orders/{interface}"
        secrets = self._account.secrets
        customer = str(self._account.settings.get("customer_code", ""))
        body = compact_json([{"orderOrigin": _B2C, "customerCode": customer, **message}])
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
        answer = read_response("jdl", _Answer, response.content)
        if answer.error_response is not None:
            raise refusal("jdl", answer.error_response.code)
        if not answer.success and _TRANSIENT.search(answer.text):
            raise unavailable("error.unavailable", vendor="jdl", code=answer.code)
        return answer


def _data_of(model: type[Model], answer: _Answer) -> Model:
    """Return the data of a successful response. Raise ``refused`` or ``unavailable``."""
    if not answer.success:
        raise refusal("jdl", answer.code)
    with documented_format("jdl"):
        data = model.model_validate(answer.data)
    return data


def adapter(account: Account) -> JDL:
    return JDL(account)
