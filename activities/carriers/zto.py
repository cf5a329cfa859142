"""ZTO Express (中通): JSON with a digest out, forms with one in.

Sources: ZTO-Express/zopsdk-java (the digest, headers), ZTO's error table and sandbox pushes as public documents quote
them (zto.open.createOrder, zto.open.cancelPreOrder, zto.merchant.waybill.track.query, ``action`` words of pushes). From
general knowledge only: thirdcenter.createIntercept and its ``destinationType`` 2 (back to the sender); the words of
problem and return scans; that an order number that is known is answered with the first waybill, or refused in words
such as ``重复``; the answer of zto.open.getOrderInfo. Pushes repeat and come out of order.

Account: ``base_url`` ``https://japi.zto.com``; secrets ``app_key``, ``app_secret``, ``account_id``,
``account_password`` (of the electronic waybill), ``push_secret`` (the end of the push URL).
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import md5, sha256
from hmac import compare_digest
from typing import Annotated, Any
from urllib.parse import parse_qs

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError

from activities.carriers import PushAnswer, authenticate, content_id, masked, trouble
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import CHINA, ChinaTime, Code, Text, decode
from models.address import Addressee
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

NAME = "中通快递"
_STATUS = {
    **dict.fromkeys(("GOT", "收件"), TrackingStatus.PICKED_UP),
    **dict.fromkeys(("DEPARTURE", "ARRIVAL", "发件", "到件", "转单"), TrackingStatus.IN_TRANSIT),
    **dict.fromkeys(("DISPATCH", "派件"), TrackingStatus.OUT_FOR_DELIVERY),
    **dict.fromkeys(("INBOUND", "HANDOVERSCAN_SIGNED"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("SIGNED", "DEPARTURE_SIGNED", "签收"), TrackingStatus.DELIVERED),
    **dict.fromkeys(("RETURN", "退件"), TrackingStatus.RETURNING),
    "RETURN_SIGNED": TrackingStatus.RETURNED,
}
_PROBLEM = {"PROBLEM", "问题件"}
_FINE = {"0000", "SYS000", "S000"}
_TRANSIENT = {"S200", "S202", "S203", "S206", "S221"}
_LATER = {"S206": 3600.0, "S221": 5.0}
_BACK_TO_SENDER = "2"
_KNOWN, _GONE = ("重复", "已存在"), ("不存在", "已取消", "已撤销")


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
    def fine(self) -> bool:
        return self.status and self.statusCode in _FINE

    def says(self, words: Sequence[str]) -> bool:
        return any(word in self.message for word in words)


def _millis(value: Any) -> Any:
    """Queries tell times in milliseconds."""
    return datetime.fromtimestamp(value / 1000, CHINA) if isinstance(value, int) else value


class _Step(BaseModel):
    scanDate: Annotated[ChinaTime, BeforeValidator(_millis)]
    scanType: Text = ""
    desc: Text = ""
    scanSite: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = {}
    signMan: Text = ""


class _Push(BaseModel):
    billCode: Code
    action: Text = ""
    actionTime: ChinaTime
    facilityName: Text = ""
    city: Text = ""
    desc: Text = ""
    expressSigner: Text = ""


_Steps = TypeAdapter(list[_Step])


def digest(body: str, secret: str) -> str:
    return b64encode(md5((body + secret).encode(), usedforsecurity=False).digest()).decode()


def _scan(waybill_no: str, code: str, at: datetime, words: str, place: str, signer: str) -> Scan:
    status, exception = _STATUS.get(code), None
    if code in _PROBLEM:
        status, exception = trouble(words)
    elif status is TrackingStatus.DELIVERED and (signer.startswith("退") or "退回" in words):
        status = TrackingStatus.RETURNED
    text = masked(words)
    return Scan(
        waybill_no=waybill_no,
        scan_id=content_id(at, f"{code}{place}"),
        status=status,
        code=code,
        at=at,
        place=place,
        text=text,
        exception=exception,
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
        asked: dict[str, Any] = {
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
            asked["orderVasList"] = [{"vasType": "COD", "vasAmount": int(booking.cash_on_delivery * 100)}]
        answer = await self._ask("zto.open.createOrder", asked)
        if not answer.fine:
            found = await self.find(booking.reference) if answer.says(_KNOWN) else None
            if found is None:
                raise _refusal(answer)
            return found
        waybill = self._waybill(booking.reference, answer.result)
        if waybill is None:
            raise unavailable("zto: taken, but without a number yet")
        return waybill

    async def find(self, reference: str) -> Waybill | None:
        answer = await self._ask("zto.open.getOrderInfo", {"type": 0, "orderCode": reference})
        told = answer.result[0] if isinstance(answer.result, list) and answer.result else None
        return self._waybill(reference, told) if answer.fine and told else None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Of a plain electronic waybill nothing need be cancelled: unused, it expires."""
        asked = {"cancelType": "1", "orderCode": reference} | ({"billCode": waybill_no} if waybill_no else {})
        answer = await self._ask("zto.open.cancelPreOrder", asked)
        if not answer.fine and not answer.says(_GONE):
            raise _refusal(answer)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        asked = {"billCode": waybill_no, "requestId": reference, "destinationType": _BACK_TO_SENDER}
        answer = await self._ask("thirdcenter.createIntercept", asked)
        if not answer.fine and not answer.says(_KNOWN):
            raise _refusal(answer)

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        answer = await self._ask("zto.merchant.waybill.track.query", {"billCode": waybill_no, "mobilePhone": phone})
        if not answer.fine:
            raise _refusal(answer)
        try:
            steps = _Steps.validate_python(answer.result or [])
        except ValidationError:
            raise unavailable("zto: the answer is not in the format") from None
        return [
            _scan(
                waybill_no, step.scanType, step.scanDate, step.desc, str(step.scanSite.get("city") or ""), step.signMan
            )
            for step in steps
        ]

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = _form(body)
        expected = digest(form["data"], self._account.secrets["app_secret"])
        if not compare_digest(expected.encode(), form["data_digest"].encode()):
            raise Unauthentic("data_digest: does not match")
        return Receipt(fact_key=sha256(form["data"].encode()).hexdigest(), topic=form["msg_type"] or "Traces")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body='{"message":"调用成功","result":"success","status":true,"statusCode":"0"}'.encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, _form(body)["data"].encode())
        place = push.city or push.facilityName
        return [_scan(push.billCode, push.action, push.actionTime, push.desc, place, push.expressSigner)]

    def _waybill(self, reference: str, told: Any) -> Waybill | None:
        try:
            booked = _Booked.model_validate(told or {})
        except ValidationError:
            raise unavailable("zto: the answer is not in the format") from None
        if not booked.billCode:
            return None
        label = Label(route=booked.bigMarkInfo.mark, hub=booked.bigMarkInfo.bagAddr)
        return Waybill(carrier=self._account.source, waybill_no=booked.billCode, reference=reference, label=label)

    async def _ask(self, api: str, asked: Mapping[str, Any]) -> _Answer:
        body = json.dumps(asked, ensure_ascii=False, separators=(",", ":"))
        headers = {
            "x-appKey": self._account.secrets["app_key"],
            "x-dataDigest": digest(body, self._account.secrets["app_secret"]),
            "Content-Type": "application/json; charset=UTF-8",
        }
        url = f"{self._account.base_url.rstrip('/')}/{api}"
        response = await http.send("POST", url, content=body.encode(), headers=headers)
        try:
            answer = decode(_Answer, response.content)
        except Unintelligible:
            raise unavailable("zto: the answer is not in the format") from None
        if answer.statusCode in _TRANSIENT:
            raise unavailable(f"zto: {answer.statusCode}", _LATER.get(answer.statusCode))
        return answer


def _refusal(answer: _Answer) -> Exception:
    """ZTO's words may repeat what was sent: its code alone is told."""
    return refused(f"carrier.zto.{answer.statusCode or 'refused'}", answer.statusCode)


def _form(body: bytes) -> dict[str, str]:
    """The fields that matter. What is not a form is empty: neither authentic nor intelligible."""
    fields = parse_qs(body.decode(errors="replace"))
    return {name: fields.get(name, [""])[0] for name in ("data", "data_digest", "msg_type")}


def adapter(account: Account) -> ZTO:
    return ZTO(account)
