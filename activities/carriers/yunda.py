"""Yunda Express (韵达): JSON requests and pushes under one signature.

Sources: public clients of openapi.yundaex.com (paths, headers, the signature, electronic waybills, subscriptions and
queries; the vendor's spelling is ``logictis``). Words of ``action`` by Yunda's document of the query as a public map
has it (OLTS mappings/cn/yunda.csv). From general knowledge only: the fields of a created order beyond its serial
number; the format of a push, read here as the ``data`` of a query with the same signature in its headers; that a
repeated serial number returns the first waybill. No interface for interception was found.

Account: ``base_url`` ``https://openapi.yundaex.com``; secrets ``app_key``, ``app_secret``, ``partner_id``, ``password``
(of the electronic waybill), ``push_secret`` (the end of the push URL).
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import md5, sha256
from time import time
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from activities.carriers import (
    PushAnswer,
    Scans,
    authenticate,
    cannot_intercept,
    check_signature,
    classify_problem,
    compact_json,
    contact,
    contains_any,
    content_id,
    is_return,
    mask_personal_data,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import unavailable
from activities.kit.payloads import ChinaTime, Code, Text, decode
from activities.vendors.gateway import documented_format
from models.accounts import PUSH_SECRET, AccountFields, secret
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="yunda",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        secret("partner_id", required=False),
        secret("password", required=False),
        PUSH_SECRET,
    ),
    base_url="https://openapi.yundaex.com",
)

NAME = "韵达速递"
LANG = "zh-CN"
"""Of its labels, whoever prints them."""
_STATUS: dict[str, TrackingStatus | None] = {
    **dict.fromkeys(("ACCEPT", "GOT"), TrackingStatus.PICKED_UP),
    **dict.fromkeys(("ARRIVAL", "DEPARTURE", "TRANSFER", "CLEARANCE_FINISH"), TrackingStatus.IN_TRANSIT),
    **dict.fromkeys(("OVERSEA_IN", "OVERSEA_OUT", "OVERSEA_ARRIVAL", "OVERSEA_DEPARTURE"), TrackingStatus.IN_TRANSIT),
    **dict.fromkeys(("CLEARANCE_START", "CLEARANCE_FAIL"), TrackingStatus.HELD_IN_CUSTOMS),
    **dict.fromkeys(("SENT", "OUTBOUND"), TrackingStatus.OUT_FOR_DELIVERY),
    "INBOUND": TrackingStatus.READY_FOR_PICKUP,
    "SIGNED": TrackingStatus.DELIVERED,
    **dict.fromkeys(("SIGNFAIL", "ISSUE"), TrackingStatus.DELIVERY_FAILED),
    "REJECTION": TrackingStatus.REFUSED,
    "RETURN": TrackingStatus.RETURNING,
    "OTHER": None,
}
"""ACCEPT: scanned at pick-up; OUTBOUND: taken out of a station by the courier."""
_TRANSIENT_CODES = {"9001", "9002", "sys_busy"}
_ALREADY_CANCELLED = ("不存在", "已取消", "已作废")


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
        if status is TrackingStatus.DELIVERY_FAILED:
            status, exception = classify_problem(self.description)
        elif status is TrackingStatus.DELIVERED and is_return(self.description):
            status = TrackingStatus.RETURNED
        text = mask_personal_data(self.description)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.time, f"{self.action}{text}"),
            status=status,
            code=self.action,
            at=self.time,
            place=self.city or self.station_name,
            text=text,
            exception=exception,
            unknown=bool(self.action) and self.action not in _STATUS,
        )


class _Parcel(BaseModel):
    mailno: Code
    steps: Annotated[list[Any], BeforeValidator(lambda value: value or []), Field(max_length=500)] = []

    def scans(self, waybill_no: str) -> Scans:
        return read_each(_Step, self.steps, "steps", lambda step: step.scan(waybill_no))


def sign(body: str, secret: str) -> str:
    return md5(f"{body}_{secret}".encode(), usedforsecurity=False).hexdigest()


class Yunda:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        order: dict[str, Any] = {
            "order_serial_no": booking.reference,
            "khddh": booking.reference,
            "sender": contact(booking.sender, district="county"),
            "receiver": contact(booking.recipient, district="county"),
            "items": [{"name": line.sku, "number": line.quantity} for line in booking.goods],
            "weight": float(booking.weight_kg),
        }
        if booking.cash_on_delivery:
            order["collection_value"] = float(booking.cash_on_delivery)
        booked = await self._order("createBmOrder", order)
        if not booked.mail_no:
            raise refusal("yunda", booked.status)
        return Waybill(
            carrier=self._account.source,
            waybill_no=booked.mail_no,
            reference=booking.reference,
            label=_label(booked.pdf_info),
        )

    async def find(self, reference: str) -> Waybill | None:
        """Return ``None``: booking again returns the first waybill."""
        return None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        response = await self._order("cancelBmOrder", {"order_serial_no": reference, "mailno": waybill_no})
        if response.status != "1" and not contains_any(response.msg, _ALREADY_CANCELLED):
            raise refusal("yunda", response.status)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Always refuse: no interface for it is known."""
        raise cannot_intercept()

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        answer = await self._call("/openapi/outer/logictis/query", {"mailno": waybill_no})
        if answer.data is None:
            return ()
        with documented_format("yunda"):
            scans = _Parcel.model_validate(answer.data).scans(waybill_no)
        return scans

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        expected = sign(body.decode(errors="replace"), self._account.secrets["app_secret"])
        check_signature("sign", expected, headers.get("sign", ""))
        return Receipt(fact_key=sha256(body).hexdigest(), topic="steps")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"result":true,"code":"0000","message":"success"}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        parcel = decode(_Parcel, body)
        return parcel.scans(parcel.mailno)

    async def _order(self, verb: str, order: Mapping[str, Any]) -> _Booked:
        secrets = self._account.secrets
        parameters = {
            "appid": secrets["app_key"],
            "partner_id": secrets.get("partner_id", ""),
            "secret": secrets.get("password", ""),
            "orders": [order],
        }
        answer = await self._call(f"/openapi-api/v1/accountOrder/{verb}", parameters)
        if not answer.result:
            raise refusal("yunda", answer.code)
        with documented_format("yunda"):
            booked = _Booked.model_validate((answer.data or [{}])[0])
        return booked

    async def _call(self, path: str, parameters: Mapping[str, Any]) -> _Answer:
        body = compact_json(parameters)
        headers = {
            "app-key": self._account.secrets["app_key"],
            "req-time": str(int(time() * 1000)),
            "sign": sign(body, self._account.secrets["app_secret"]),
            "Content-Type": "application/json",
        }
        url = f"{self._account.base_url.rstrip('/')}{path}"
        response = await http.send("POST", url, content=body.encode(), headers=headers)
        answer = read_response("yunda", _Answer, response.content)
        if answer.code in _TRANSIENT_CODES:
            raise unavailable("error.unavailable", vendor="yunda", code=answer.code)
        return answer


def _label(pdf_info: str) -> Label:
    """Return the label of ``pdf_info``: JSON, an object in two lists, which holds the sorting codes."""
    try:
        codes = json.loads(pdf_info)[0][0]
        return Label(route=str(codes.get("position") or ""), hub=str(codes.get("package_wdjc") or ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return Label()


def adapter(account: Account) -> Yunda:
    return Yunda(account)
