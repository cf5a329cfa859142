"""Yunda Express (韵达): JSON under one signature out, pushes in.

Sources: public clients of openapi.yundaex.com (paths, headers, the signature, electronic waybills, subscriptions and
queries; the vendor's spelling is ``logictis``), public maps of its action words. From general knowledge only: the
fields of a created order beyond its serial number; what a push looks like, read here as one query's ``data`` with
the same signature in its headers; that a serial number that is known is answered with the first waybill. No interface
that stops a parcel on its way was found.

Account: ``base_url`` ``https://openapi.yundaex.com``; secrets ``app_key``, ``app_secret``, ``partner_id``, ``password``
(of the electronic waybill), ``push_secret`` (the end of the push URL).
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import md5, sha256
from hmac import compare_digest
from time import time
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from activities.carriers import PushAnswer, authenticate, content_id, masked, trouble
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Text, decode
from models.address import Addressee
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

NAME = "韵达速递"
_STATUS = {
    "ACCEPT": TrackingStatus.LABEL_CREATED,
    "GOT": TrackingStatus.PICKED_UP,
    **dict.fromkeys(("ARRIVAL", "DEPARTURE", "TRANSFER", "OUTBOUND"), TrackingStatus.IN_TRANSIT),
    "SENT": TrackingStatus.OUT_FOR_DELIVERY,
    "INBOUND": TrackingStatus.READY_FOR_PICKUP,
    "SIGNED": TrackingStatus.DELIVERED,
    "SIGNFAIL": TrackingStatus.DELIVERY_FAILED,
    "REJECTION": TrackingStatus.REFUSED,
    "RETURN": TrackingStatus.RETURNING,
}
_TROUBLES = {"SIGNFAIL", "ISSUE"}
_BUSY = {"9001", "9002", "sys_busy"}
_GONE = ("不存在", "已取消", "已作废")


class _Booked(BaseModel):
    order_serial_no: Text = ""
    mail_no: Text = ""
    pdf_info: Text = ""
    status: Text = ""
    msg: Text = ""


class _Answer(BaseModel):
    result: Annotated[bool, BeforeValidator(lambda value: str(value).lower() == "true")] = False
    code: Text = ""
    message: Text = ""
    data: Any = None


class _Step(BaseModel):
    time: ChinaTime
    action: Text = ""
    station_name: Text = ""
    city: Text = ""
    description: Text = ""

    def scan(self, waybill_no: str) -> Scan:
        status, exception = _STATUS.get(self.action), None
        if self.action in _TROUBLES:
            status, exception = trouble(self.description)
        elif self.action.startswith("CLEARANCE"):
            status = TrackingStatus.HELD_IN_CUSTOMS
        elif self.action.startswith("OVERSEA"):
            status = TrackingStatus.IN_TRANSIT
        elif status is TrackingStatus.DELIVERED and "退回" in self.description:
            status = TrackingStatus.RETURNED
        text = masked(self.description)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.time, f"{self.action}{text}"),
            status=status,
            code=self.action,
            at=self.time,
            place=self.city or self.station_name,
            text=text,
            exception=exception,
        )


class _Parcel(BaseModel):
    mailno: Code
    steps: Annotated[list[_Step], BeforeValidator(lambda value: value or []), Field(max_length=500)] = []


def sign(body: str, secret: str) -> str:
    return md5(f"{body}_{secret}".encode(), usedforsecurity=False).hexdigest()


def _contact(person: Addressee) -> dict[str, str]:
    return {
        "name": person.name,
        "mobile": person.national_phone,
        "province": person.province,
        "city": person.city,
        "county": person.district,
        "address": person.full_street,
    }


class Yunda:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        order: dict[str, Any] = {
            "order_serial_no": booking.reference,
            "khddh": booking.reference,
            "sender": _contact(booking.sender),
            "receiver": _contact(booking.recipient),
            "items": [{"name": line.sku, "number": line.quantity} for line in booking.goods],
            "weight": float(booking.weight_kg),
        }
        if booking.cash_on_delivery:
            order["collection_value"] = float(booking.cash_on_delivery)
        booked = await self._order("createBmOrder", order)
        if not booked.mail_no:
            raise refused(f"carrier.yunda.{booked.status or 'refused'}", booked.status)
        return Waybill(
            carrier=self._account.source,
            waybill_no=booked.mail_no,
            reference=booking.reference,
            label=_label(booked.pdf_info),
        )

    async def find(self, reference: str) -> Waybill | None:
        """Nothing: booking again finds what is booked."""
        return None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        done = await self._order("cancelBmOrder", {"order_serial_no": reference, "mailno": waybill_no})
        if done.status != "1" and not any(word in done.msg for word in _GONE):
            raise refused(f"carrier.yunda.{done.status or 'refused'}", done.status)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Refused always: no interface is known for it."""
        raise refused("carrier.cannot_intercept", "cannot_intercept")

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        answer = await self._ask("/openapi/outer/logictis/query", {"mailno": waybill_no})
        if answer.data is None:
            return ()
        try:
            parcel = _Parcel.model_validate(answer.data)
        except ValidationError:
            raise unavailable("yunda: the answer is not in the format") from None
        return [step.scan(waybill_no) for step in parcel.steps]

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        expected = sign(body.decode(errors="replace"), self._account.secrets["app_secret"])
        if not compare_digest(expected.encode(), headers.get("sign", "").encode()):
            raise Unauthentic("sign: does not match")
        return Receipt(fact_key=sha256(body).hexdigest(), topic="steps")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"result":true,"code":"0000","message":"success"}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        parcel = decode(_Parcel, body)
        return [step.scan(parcel.mailno) for step in parcel.steps]

    async def _order(self, verb: str, order: Mapping[str, Any]) -> _Booked:
        secrets = self._account.secrets
        asked = {
            "appid": secrets["app_key"],
            "partner_id": secrets.get("partner_id", ""),
            "secret": secrets.get("password", ""),
            "orders": [order],
        }
        answer = await self._ask(f"/openapi-api/v1/accountOrder/{verb}", asked)
        if not answer.result:
            raise refused(f"carrier.yunda.{answer.code or 'refused'}", answer.code)
        try:
            return _Booked.model_validate((answer.data or [{}])[0])
        except (ValidationError, LookupError, TypeError):
            raise unavailable("yunda: the answer is not in the format") from None

    async def _ask(self, path: str, asked: Mapping[str, Any]) -> _Answer:
        body = json.dumps(asked, ensure_ascii=False, separators=(",", ":"))
        headers = {
            "app-key": self._account.secrets["app_key"],
            "req-time": str(int(time() * 1000)),
            "sign": sign(body, self._account.secrets["app_secret"]),
            "Content-Type": "application/json",
        }
        url = f"{self._account.base_url.rstrip('/')}{path}"
        response = await http.send("POST", url, content=body.encode(), headers=headers)
        try:
            answer = decode(_Answer, response.content)
        except Unintelligible:
            raise unavailable("yunda: the answer is not in the format") from None
        if answer.code in _BUSY:
            raise unavailable(f"yunda: {answer.code}")
        return answer


def _label(pdf_info: str) -> Label:
    """``pdf_info`` is JSON: a list in a list, whose object has the marks."""
    try:
        told = json.loads(pdf_info)[0][0]
        return Label(route=str(told.get("position") or ""), hub=str(told.get("package_wdjc") or ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return Label()


def adapter(account: Account) -> Yunda:
    return Yunda(account)
