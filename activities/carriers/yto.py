"""YTO Express (圆通): JSON requests signed per interface, pushes of one status each.

Sources: open.yto.net.cn (privacy_create_adapter, korder_cancel_adapter, track_query_adapter and its worked example of
the signature), checked against public integrations. Status words (``infoContent``) by the document of
track_query_adapter as a public map has it (OLTS mappings/cn/yto.csv). The push (物流轨迹推送) is documented to
customers only: this module reads the ``UpdateInfo`` form that public receivers handle: fields ``logistics_interface``
(XML), ``data_digest`` = base64(md5(XML + secret)) and ``clientId``, acknowledged by a ``Response`` that names the
order. The fields of wanted_report_adapter (interception) are from general knowledge: no public document was available.

Account: ``base_url`` ``https://openapi.yto.net.cn:11443/open``; secrets ``client_id``, ``secret``, ``push_secret`` (the
end of the push URL); for an interface with its own credentials ``track_query_adapter.client_id`` and
``track_query_adapter.secret``; settings ``path_code`` (in the URL between version and client id), ``product`` (``PK``
ordinary, ``YZD`` on time).
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from time import time
from typing import Any
from xml.sax.saxutils import escape

from pydantic import BaseModel, ValidationError

from activities.carriers import (
    PushAnswer,
    authenticate,
    check_signature,
    compact_json,
    contains_any,
    form_fields,
    is_return,
    mask_personal_data,
    md5_base64,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import Unintelligible
from activities.kit.payloads import ChinaTime, Code, Text, decode_xml, unintelligible
from activities.vendors.gateway import documented_format
from models.accounts import PUSH_SECRET, AccountFields, secret, setting
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="yto",
    fields=(
        secret("client_id"),
        secret("secret", about="app_secret"),
        PUSH_SECRET,
        *(
            secret(f"{adapter}.{name}", required=False, about="yto_interface")
            for adapter in (
                "privacy_create_adapter",
                "korder_cancel_adapter",
                "track_query_adapter",
                "wanted_report_adapter",
            )
            for name in ("client_id", "secret")
        ),
        setting("path_code"),
        setting("product", about="yto_product"),
    ),
    base_url="https://openapi.yto.net.cn:11443/open",
)

NAME = "圆通速递"
LANG = "zh-CN"
"""Of its labels, whoever prints them."""
_VERSION = "v1"
_GOODS = 20
"""The most lines that YTO accepts; they only describe the goods."""
_CASH_ON_DELIVERY = 1
_INTERCEPTED = {"0", "200"}
_ALREADY_CANCELLED = ("不存在", "已取消")
_NO_RECORD = "1001"
"""A successful query of a number without scans."""

_STATUS: dict[str, TrackingStatus | None] = {
    "GOT": TrackingStatus.PICKED_UP,
    **dict.fromkeys(("ARRIVAL", "DEPARTURE", "AIRSEND", "AIRPICK", "FORWARDING"), TrackingStatus.IN_TRANSIT),
    "SENT_SCAN": TrackingStatus.OUT_FOR_DELIVERY,
    "INBOUND": TrackingStatus.READY_FOR_PICKUP,
    "SIGNED": TrackingStatus.DELIVERED,
    "FAILED": TrackingStatus.DELIVERY_FAILED,
    "TMS_RETURN": TrackingStatus.RETURNING,
}
_PUSH_FIELDS = ("logistics_interface", "data_digest")


class _Answer(BaseModel):
    mailNo: Text = ""
    shortAddress: Text = ""
    logisticsNo: Text = ""
    code: Text = ""
    reason: Text = ""


class _Step(BaseModel):
    waybill_No: Code
    upload_Time: ChinaTime
    infoContent: Text = ""
    processInfo: Text = ""
    city: Text = ""
    district: Text = ""

    @property
    def scan(self) -> Scan:
        place = self.city + self.district
        return _scan(self.waybill_No, self.infoContent, self.upload_Time, self.processInfo, place=place)


class _Update(BaseModel):
    mailNo: Code
    infoContent: Code
    acceptTime: ChinaTime
    remark: Text = ""
    name: Text = ""
    acceptAddress: Text = ""


def sign(param: str, method: str, version: str, secret: str) -> str:
    return md5_base64(param + method + version + secret)


def _scan(waybill_no: str, code: str, at: ChinaTime, text: str, signer: str = "", place: str = "") -> Scan:
    status = _STATUS.get(code)
    if status is TrackingStatus.DELIVERY_FAILED and "拒收" in text:
        status = TrackingStatus.REFUSED
    elif status is TrackingStatus.DELIVERED and (is_return(signer) or is_return(text)):
        status = TrackingStatus.RETURNED
    return Scan(
        waybill_no=waybill_no,
        scan_id=f"{code}:{at.isoformat()}",
        status=status,
        code=code,
        at=at,
        place=place,
        text=mask_personal_data(text, signer),
        unknown=bool(code) and code not in _STATUS,
    )


class YTO:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        """Book the parcel; YTO returns the first waybill for a repeated ``logisticsNo``."""
        param: dict[str, Any] = {"logisticsNo": booking.reference}
        for role, person in (("sender", booking.sender), ("recipient", booking.recipient)):
            param |= {
                f"{role}Name": person.name,
                f"{role}ProvinceName": person.province,
                f"{role}CityName": person.city,
                f"{role}CountyName": person.district,
                f"{role}Address": person.full_street,
                f"{role}Mobile": person.national_phone,
            }
        param["goods"] = [{"name": line.sku, "quantity": line.quantity} for line in booking.goods[:_GOODS]]
        param["weight"] = float(booking.weight_kg)
        param["productCode"] = self._account.settings.get("product", "PK")
        if booking.cash_on_delivery:
            param["increments"] = [{"type": _CASH_ON_DELIVERY, "amount": float(booking.cash_on_delivery)}]
        booked = await self._call("privacy_create_adapter", param)
        if not booked.mailNo:
            raise refusal("yto", booked.code)
        label = Label(route=booked.shortAddress)
        return Waybill(carrier=self._account.source, waybill_no=booked.mailNo, reference=booking.reference, label=label)

    async def find(self, reference: str) -> Waybill | None:
        """Return ``None``: YTO has no query by our reference, and booking again returns the first waybill."""
        return None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        answer = await self._call("korder_cancel_adapter", {"logisticsNo": reference, "cancelDesc": "订单取消"})
        if answer.logisticsNo != reference and not contains_any(answer.reason, _ALREADY_CANCELLED):
            raise refusal("yto", answer.code)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        answer = await self._call("wanted_report_adapter", {"waybillNo": waybill_no, "wantedDesc": "订单取消,请退回"})
        if answer.code not in _INTERCEPTED:
            raise refusal("yto", answer.code)

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        content = await self._request("track_query_adapter", {"NUMBER": waybill_no})
        if not content.lstrip().startswith(b"["):
            answer = read_response("yto", _Answer, content)
            if answer.code == _NO_RECORD:
                return ()
            raise refusal("yto", answer.code)
        with documented_format("yto"):
            scans = read_each(_Step, json.loads(content), "steps", lambda step: step.scan)
        return scans

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = form_fields(body, *_PUSH_FIELDS)
        expected = md5_base64(form["logistics_interface"] + self._account.secrets["secret"])
        check_signature("data_digest", expected, form["data_digest"])
        return Receipt(fact_key=sha256(body).hexdigest(), topic="status")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        try:
            order_no = decode_xml(form_fields(body, *_PUSH_FIELDS)["logistics_interface"]).findtext("txLogisticID", "")
        except Unintelligible:
            order_no = ""
        response = (
            "<Response><logisticProviderID>YTO</logisticProviderID>"
            f"<txLogisticID>{escape(order_no)}</txLogisticID><success>true</success></Response>"
        )
        return PushAnswer(content_type="application/xml", body=response.encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        root = decode_xml(form_fields(body, *_PUSH_FIELDS)["logistics_interface"])
        if root.findtext("infoType", "STATUS") != "STATUS":
            return ()
        try:
            update = _Update.model_validate({field.tag: field.text or "" for field in root})
        except ValidationError as error:
            raise unintelligible(error) from None
        return [
            _scan(
                update.mailNo,
                update.infoContent,
                update.acceptTime,
                update.remark,
                signer=update.name,
                place=update.acceptAddress,
            )
        ]

    async def _call(self, adapter: str, param: dict[str, Any]) -> _Answer:
        return read_response("yto", _Answer, await self._request(adapter, param))

    async def _request(self, adapter: str, param: dict[str, Any]) -> bytes:
        secrets = self._account.secrets
        client_id = secrets.get(f"{adapter}.client_id", secrets["client_id"])
        secret = secrets.get(f"{adapter}.secret", secrets["secret"])
        text = compact_json(param)
        request = {
            "timestamp": int(time() * 1000),
            "param": text,
            "sign": sign(text, adapter, _VERSION, secret),
            "format": "JSON",
        }
        path_code = self._account.settings.get("path_code", "std")
        response = await http.send(
            "POST",
            f"{self._account.base_url.rstrip('/')}/{adapter}/{_VERSION}/{path_code}/{client_id}",
            content=json.dumps(request, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json; charset=UTF-8"},
        )
        return response.content


def adapter(account: Account) -> YTO:
    return YTO(account)
