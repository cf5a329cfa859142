"""ZTO Express (中通): JSON requests and pushed forms, both with a digest.

Sources: ZTO-Express/zopsdk-java (the digest, headers), ZTO's error table and sandbox pushes as public documents quote
them (zto.open.createOrder, zto.open.cancelPreOrder, zto.merchant.waybill.track.query). Pushes and queries have two
vocabularies: ``action`` by the document of zto.merchant.waybill.track.subsrcibe, ``scanType`` (Chinese words, English
words for lockers and stations, numbers after a parcel went to another carrier) and ``returnType`` by the document of
zto.merchant.waybill.track.query, both as public integrations quote them (OLTS mappings/cn/zto.csv). From general
knowledge only: thirdcenter.createIntercept and its ``destinationType`` 2 (back to the sender); the texts of problem
scans; that a repeated order number returns the first waybill, or is refused with a text such as ``重复``; the response
of zto.open.getOrderInfo. Pushes repeat and arrive out of order.

Account: ``base_url`` ``https://japi.zto.com``; secrets ``app_key``, ``app_secret``, ``account_id``,
``account_password`` (of the electronic waybill), ``push_secret`` (the end of the push URL).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from activities.carriers import (
    PushAnswer,
    authenticate,
    check_signature,
    classify_problem,
    compact_json,
    contains_any,
    content_id,
    form_fields,
    is_return,
    mask_personal_data,
    md5_base64,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import unavailable
from activities.kit.payloads import CHINA, ChinaTime, Code, Text, decode
from activities.vendors.gateway import documented_format
from models.accounts import PUSH_SECRET, AccountFields, secret
from models.address import Addressee
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="zto",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        secret("account_id", required=False),
        secret("account_password", required=False),
        PUSH_SECRET,
    ),
    base_url="https://japi.zto.com",
)

NAME = "中通快递"
LANG = "zh-CN"
"""Of its labels, whoever prints them."""
_PUSHED: dict[str, TrackingStatus | None] = {
    "GOT": TrackingStatus.PICKED_UP,
    **dict.fromkeys(("DEPARTURE", "ARRIVAL"), TrackingStatus.IN_TRANSIT),
    "DISPATCH": TrackingStatus.OUT_FOR_DELIVERY,
    **dict.fromkeys(("INBOUND", "HANDOVERSCAN_SIGNED"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("SIGNED", "DEPARTURE_SIGNED"), TrackingStatus.DELIVERED),
    "PROBLEM": TrackingStatus.DELIVERY_FAILED,
    "RETURN_SCAN": TrackingStatus.RETURNING,
    "RETURN_SIGNED": TrackingStatus.RETURNED,
}
"""``action`` of pushes. HANDOVERSCAN_SIGNED: handed to a station; DEPARTURE_SIGNED: the buyer took it from there."""
_QUERIED: dict[str, TrackingStatus | None] = {
    **dict.fromkeys(("收件", "1"), TrackingStatus.PICKED_UP),
    **dict.fromkeys(("发件", "到件", "转单", "安检", "2", "3", "9"), TrackingStatus.IN_TRANSIT),
    **dict.fromkeys(("派件", "DELIVERY", "4", "45"), TrackingStatus.OUT_FOR_DELIVERY),
    **dict.fromkeys(("ARRIVAL", "7", "44"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("签收", "SIGNED", "5"), TrackingStatus.DELIVERED),
    **dict.fromkeys(("问题件", "DEPARTURE"), TrackingStatus.DELIVERY_FAILED),
    **dict.fromkeys(("退件", "8"), TrackingStatus.RETURNING),
    "退件完成": TrackingStatus.RETURNED,
    "事件": None,
}
"""``scanType`` of queries. ARRIVAL: put into a locker or station; SIGNED: taken out of it by the buyer; DEPARTURE: out
of it for another reason; 7, 44, 45: signed by, brought to and taken from a station."""
_NEW_ADDRESS = {"3", "6"}
"""``returnType`` of parcels that go to another address, not back."""
_SUCCESS = {"0000", "SYS000", "S000"}
_TRANSIENT_CODES = {"S200", "S202", "S203", "S206", "S221"}
_RETRY_SECONDS = {"S206": 3600.0, "S221": 5.0}
_BACK_TO_SENDER = "2"
_DUPLICATE = ("重复", "已存在")
_ALREADY_CANCELLED = ("不存在", "已取消", "已撤销")
_PUSH_FIELDS = ("data", "data_digest", "msg_type")


class _Mark(BaseModel):
    mark: Text = ""
    bagAddr: Text = ""


class _Booked(BaseModel):
    billCode: Text = ""
    bigMarkInfo: Annotated[_Mark, BeforeValidator(lambda value: value or {})] = _Mark()


class _Answer(BaseModel):
    status: Annotated[bool, BeforeValidator(lambda value: str(value).lower() == "true")] = False
    statusCode: Text = ""
    message: Text = ""
    result: Any = None

    @property
    def succeeded(self) -> bool:
        return self.status and self.statusCode in _SUCCESS


def _from_milliseconds(value: Any) -> Any:
    """Convert the times of queries, which are milliseconds since 1970."""
    return datetime.fromtimestamp(value / 1000, CHINA) if isinstance(value, int) else value


class _Step(BaseModel):
    scanDate: Annotated[ChinaTime, BeforeValidator(_from_milliseconds)]
    scanType: Text = ""
    desc: Text = ""
    scanSite: Annotated[dict[str, Any], BeforeValidator(lambda value: value if isinstance(value, dict) else {})] = {}
    signMan: Text = ""
    operateUser: Text = ""
    returnType: Text = ""

    def scan(self, waybill_no: str) -> Scan:
        place = str(self.scanSite.get("city") or "")
        return _scan(
            waybill_no,
            _QUERIED,
            self.scanType,
            self.scanDate,
            self.desc,
            place,
            self.signMan,
            self.returnType,
            self.operateUser,
        )


class _Push(BaseModel):
    billCode: Code
    action: Text = ""
    actionTime: ChinaTime
    facilityName: Text = ""
    city: Text = ""
    desc: Text = ""
    expressSigner: Text = ""
    courier: Text = ""
    returnType: Text = ""


def digest(body: str, secret: str) -> str:
    return md5_base64(body + secret)


def _scan(
    waybill_no: str,
    table: Mapping[str, TrackingStatus | None],
    code: str,
    at: datetime,
    text: str,
    place: str,
    signer: str,
    return_type: str,
    *names: str,
) -> Scan:
    status, exception = table.get(code), None
    if status is TrackingStatus.DELIVERY_FAILED:
        status, exception = classify_problem(text)
    elif status is TrackingStatus.DELIVERED and (is_return(signer) or is_return(text)):
        status = TrackingStatus.RETURNED
    elif status is TrackingStatus.RETURNING and return_type in _NEW_ADDRESS:
        status = TrackingStatus.IN_TRANSIT
    return Scan(
        waybill_no=waybill_no,
        scan_id=content_id(at, f"{code}{place}"),
        status=status,
        code=code,
        at=at,
        place=place,
        text=mask_personal_data(text, signer, *names),
        exception=exception,
        unknown=bool(code) and code not in table,
    )


def _contact(role: str, person: Addressee) -> dict[str, str]:
    return {
        f"{role}Name": person.name,
        f"{role}Mobile": person.national_phone,
        f"{role}Province": person.province,
        f"{role}City": person.city,
        f"{role}District": person.district,
        f"{role}Address": person.full_street,
    }


class ZTO:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        secrets = self._account.secrets
        parameters: dict[str, Any] = {
            "partnerType": "2",
            "orderType": "1",
            "partnerOrderCode": booking.reference,
            "accountInfo": {
                "accountId": secrets.get("account_id", ""),
                "accountPassword": secrets.get("account_password", ""),
                "type": 1,
            },
            "senderInfo": _contact("sender", booking.sender),
            "receiveInfo": _contact("receiver", booking.recipient),
            "orderItems": [{"name": line.sku, "quantity": line.quantity} for line in booking.goods],
            "summaryInfo": {"quantity": 1, "weight": float(booking.weight_kg)},
        }
        if booking.cash_on_delivery:
            parameters["orderVasList"] = [{"vasType": "COD", "vasAmount": int(booking.cash_on_delivery * 100)}]
        answer = await self._call("zto.open.createOrder", parameters)
        if not answer.succeeded:
            first = await self.find(booking.reference) if contains_any(answer.message, _DUPLICATE) else None
            if first is None:
                raise refusal("zto", answer.statusCode)
            return first
        waybill = self._waybill(booking.reference, answer.result)
        if waybill is None:
            raise unavailable("error.no_waybill_yet", vendor="zto")
        return waybill

    async def find(self, reference: str) -> Waybill | None:
        answer = await self._call("zto.open.getOrderInfo", {"type": 0, "orderCode": reference})
        orders = answer.result if answer.succeeded and isinstance(answer.result, list) else []
        return self._waybill(reference, orders[0]) if orders else None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Cancel the order; an unused electronic waybill expires by itself."""
        parameters = {"cancelType": "1", "orderCode": reference} | ({"billCode": waybill_no} if waybill_no else {})
        answer = await self._call("zto.open.cancelPreOrder", parameters)
        if not answer.succeeded and not contains_any(answer.message, _ALREADY_CANCELLED):
            raise refusal("zto", answer.statusCode)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        parameters = {"billCode": waybill_no, "requestId": reference, "destinationType": _BACK_TO_SENDER}
        answer = await self._call("thirdcenter.createIntercept", parameters)
        if not answer.succeeded and not contains_any(answer.message, _DUPLICATE):
            raise refusal("zto", answer.statusCode)

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        answer = await self._call("zto.merchant.waybill.track.query", {"billCode": waybill_no, "mobilePhone": phone})
        if not answer.succeeded:
            raise refusal("zto", answer.statusCode)
        with documented_format("zto"):
            steps = answer.result or []
            scans = read_each(_Step, list(steps), "result", lambda step: step.scan(waybill_no))
        return scans

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = form_fields(body, *_PUSH_FIELDS)
        expected = digest(form["data"], self._account.secrets["app_secret"])
        check_signature("data_digest", expected, form["data_digest"])
        return Receipt(fact_key=sha256(form["data"].encode()).hexdigest(), topic=form["msg_type"] or "Traces")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body='{"message":"调用成功","result":"success","status":true,"statusCode":"0"}'.encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, form_fields(body, *_PUSH_FIELDS)["data"].encode())
        place = push.city or push.facilityName
        return [
            _scan(
                push.billCode,
                _PUSHED,
                push.action,
                push.actionTime,
                push.desc,
                place,
                push.expressSigner,
                push.returnType,
                push.courier,
            )
        ]

    def _waybill(self, reference: str, order: Any) -> Waybill | None:
        with documented_format("zto"):
            booked = _Booked.model_validate(order or {})
        if not booked.billCode:
            return None
        label = Label(route=booked.bigMarkInfo.mark, hub=booked.bigMarkInfo.bagAddr)
        return Waybill(carrier=self._account.source, waybill_no=booked.billCode, reference=reference, label=label)

    async def _call(self, api: str, parameters: Mapping[str, Any]) -> _Answer:
        body = compact_json(parameters)
        headers = {
            "x-appKey": self._account.secrets["app_key"],
            "x-dataDigest": digest(body, self._account.secrets["app_secret"]),
            "Content-Type": "application/json; charset=UTF-8",
        }
        url = f"{self._account.base_url.rstrip('/')}/{api}"
        response = await http.send("POST", url, content=body.encode(), headers=headers)
        answer = read_response("zto", _Answer, response.content)
        if answer.statusCode in _TRANSIENT_CODES:
            delay = _RETRY_SECONDS.get(answer.statusCode)
            raise unavailable("error.unavailable", delay, vendor="zto", code=answer.statusCode)
        return answer


def adapter(account: Account) -> ZTO:
    return ZTO(account)
