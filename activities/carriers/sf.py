"""SF Express (顺丰) by its open platform 丰桥: signed forms as requests, unsigned pushes of routes.

Sources: open.sf-express.com (EXP_RECE_CREATE_ORDER, EXP_RECE_SEARCH_ORDER_RESP, EXP_RECE_UPDATE_ORDER,
EXP_RECE_SEARCH_ROUTES, RoutePushService, result codes). Codes of routes: ``opCode`` by SF's published table (support
article 734349) as public integrations quote it and as its sandbox and captured traces pair it with ``firstStatusCode``
and ``secondaryStatusCode``, SF's own classes, which pushes may lack; ``reasonCode`` by a public analysis of pushed
routes. The fields of EXP_RECE_QUERY_DELIVERTM (prices and times) and EXP_RECE_WANTED_INTERCEPT (interception and
return) are from general knowledge: no public document was available.

Account: ``base_url`` ``https://bspgw.sf-express.com``; secrets ``partner_id``, ``check_word``, ``push_secret`` (the end
of the push URL: SF does not sign pushes); settings ``monthly_card``, ``express_type`` (SF's product, by default 1).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from itertools import product
from time import time
from typing import Annotated, Any
from urllib.parse import parse_qs, quote_plus
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from activities.carriers import (
    PushAnswer,
    authenticate,
    compact_json,
    is_mobile,
    is_return,
    mask_personal_data,
    md5_base64,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Integer, Model, Text, decode, decode_xml, unintelligible
from activities.vendors.gateway import documented_format
from models.accounts import PUSH_SECRET, AccountFields, secret, setting
from models.address import Addressee
from models.base import CHINA
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt
from models.money import Money

ACCOUNT = AccountFields(
    console="sf",
    fields=(
        secret("partner_id", about="sf_partner_id"),
        secret("check_word"),
        PUSH_SECRET,
        setting("monthly_card", int | str),
        setting("express_type", int),
    ),
    base_url="https://bspgw.sf-express.com",
)

NAME = "顺丰速运"
LANG = "zh-CN"
"""Of its labels, whoever prints them."""
_TRANSIENT_CODES = {"A1005", "A1009", "A1099", "S0003"}
"""Throttled, unreachable, system error."""
_DUPLICATE = "8016"
_CANCELLED = "8037"
_NOT_FOUND = {"6150", "8013", "8018", "8024"}
_NOT_SERVED = 3
_RETURN = "2"
_BY_SENDER = "1"
_MAIN = 1

_STATUS: dict[str, TrackingStatus | None] = {
    "655": TrackingStatus.LABEL_CREATED,
    **dict.fromkeys(("43", "50", "54", "607"), TrackingStatus.PICKED_UP),
    **dict.fromkeys(
        ("30", "31", "36", "105", "302", "305", "310", "407", "501", "605", "634", "3036"), TrackingStatus.IN_TRANSIT
    ),
    "106": TrackingStatus.AT_DESTINATION,
    **dict.fromkeys(("17", "18", "620", "621"), TrackingStatus.HELD_IN_CUSTOMS),
    **dict.fromkeys(("44", "123", "204"), TrackingStatus.OUT_FOR_DELIVERY),
    **dict.fromkeys(("125", "130", "642", "678"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("33", "70"), TrackingStatus.DELIVERY_FAILED),
    "80": TrackingStatus.DELIVERED,
    **dict.fromkeys(("99", "631", "648"), TrackingStatus.RETURNING),
    **dict.fromkeys(("215", "660"), TrackingStatus.RETURNED),
    "8000": None,
}
"""By ``opCode``. 655: taken to a partner point, where SF has yet to collect it; 8000 follows the signature."""
_BY_SECONDARY_STATUS = {
    "101": TrackingStatus.PICKED_UP,
    **dict.fromkeys(("201", "205"), TrackingStatus.IN_TRANSIT),
    "204": TrackingStatus.HELD_IN_CUSTOMS,
    "301": TrackingStatus.OUT_FOR_DELIVERY,
    "401": TrackingStatus.DELIVERED,
    "701": TrackingStatus.LABEL_CREATED,
    "1301": TrackingStatus.DELIVERY_FAILED,
}
_BY_FIRST_STATUS = {
    "1": TrackingStatus.PICKED_UP,
    "2": TrackingStatus.IN_TRANSIT,
    "3": TrackingStatus.OUT_FOR_DELIVERY,
    "4": TrackingStatus.DELIVERED,
    "7": TrackingStatus.LABEL_CREATED,
    "11": TrackingStatus.READY_FOR_PICKUP,
    "13": TrackingStatus.DELIVERY_FAILED,
}
"""已揽收, 运送中, 派送中, 已签收, 待揽收, 待取件, 待再派."""
_BY_REASON = {
    ("8000", "6"): TrackingStatus.LOST,
    **dict.fromkeys(product(("33", "70"), ("83", "85")), TrackingStatus.READY_FOR_PICKUP),
}
"""By ``opCode`` and ``reasonCode``."""
_UNCERTAIN = {"605", "655"}
"""``opCode`` that are less certain than SF's own classes."""


def _parsed(value: Any) -> Any:
    """Parse nested JSON: text according to SF's documents, sometimes already parsed."""
    return json.loads(value) if isinstance(value, str) and value else value or {}


class _Outcome(BaseModel):
    success: bool = False
    errorCode: Text = ""
    msgData: Annotated[dict[str, Any], BeforeValidator(_parsed)] = {}


class _Envelope(BaseModel):
    apiResultCode: Code
    apiResultData: Annotated[_Outcome, BeforeValidator(_parsed)] = _Outcome()


class _Number(BaseModel):
    waybillType: Integer = _MAIN
    waybillNo: Code


class _LabelData(BaseModel):
    destRouteLabel: Text = ""
    twoDimensionCode: Text = ""
    proCode: Text = ""


class _RouteLabel(BaseModel):
    routeLabelData: _LabelData = _LabelData()


class _Order(BaseModel):
    filterResult: Integer = 0
    originCode: Text = ""
    destCode: Text = ""
    waybillNoInfoList: Annotated[list[_Number], BeforeValidator(lambda value: value or [])] = []
    routeLabelInfo: Annotated[list[_RouteLabel], BeforeValidator(lambda value: value or [])] = []

    @property
    def waybill_no(self) -> str:
        return next((each.waybillNo for each in self.waybillNoInfoList if each.waybillType == _MAIN), "")

    @property
    def label(self) -> Label:
        data = self.routeLabelInfo[0].routeLabelData if self.routeLabelInfo else _LabelData()
        return Label(
            route=data.destRouteLabel,
            origin=self.originCode,
            destination=self.destCode,
            product=data.proCode,
            qr=data.twoDimensionCode,
        )


class _Fee(BaseModel):
    businessType: Code
    fee: Decimal | None = None
    deliverTime: Text = ""


class _Fees(BaseModel):
    deliverTmDto: Annotated[list[_Fee], BeforeValidator(lambda value: value or [])] = []


class _Route(BaseModel):
    acceptTime: ChinaTime
    acceptAddress: Text = ""
    remark: Text = ""
    reasonName: Text = ""
    opCode: Text = ""
    firstStatusCode: Text = ""
    secondaryStatusCode: Text = ""
    reasonCode: Text = ""

    @property
    def _classified(self) -> TrackingStatus | None:
        """The status by SF's own classes."""
        return _BY_SECONDARY_STATUS.get(self.secondaryStatusCode) or _BY_FIRST_STATUS.get(self.firstStatusCode)

    @property
    def unknown(self) -> bool:
        return bool(self.opCode) and self.opCode not in _STATUS and self._classified is None

    @property
    def status(self) -> TrackingStatus | None:
        """The status by ``opCode``, else by SF's classes; a signature only where the classes do not contradict it."""
        reason = _BY_REASON.get((self.opCode, self.reasonCode))
        known = _STATUS.get(self.opCode)
        signed_otherwise = known is TrackingStatus.DELIVERED and self._classified not in (None, known)
        uncertain = known is None or self.opCode in _UNCERTAIN or signed_otherwise
        status = reason or (self._classified if uncertain else None) or known
        if status is TrackingStatus.DELIVERY_FAILED and "拒收" in self.remark + self.reasonName:
            return TrackingStatus.REFUSED
        if status is TrackingStatus.DELIVERED and is_return(self.remark):
            return TrackingStatus.RETURNED
        return status

    @property
    def content_id(self) -> str:
        return f"{self.opCode}:{self.acceptTime.isoformat()}"

    def scan(self, waybill_no: str, scan_id: str) -> Scan:
        return Scan(
            waybill_no=waybill_no,
            scan_id=scan_id,
            status=self.status,
            code=self.opCode,
            at=self.acceptTime,
            place=self.acceptAddress,
            text=mask_personal_data(" ".join(part for part in (self.remark, self.reasonName) if part)),
            unknown=self.unknown,
        )


class _PushedRoute(_Route):
    mailno: Code
    id: Text = ""

    @property
    def pushed(self) -> Scan:
        """The scan; a route without an id is known by its content, as a queried one."""
        return self.scan(self.mailno, self.id or self.content_id)


class _Body(BaseModel):
    WaybillRoute: Annotated[
        list[Any],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
        Field(max_length=100),
    ]


class _Push(BaseModel):
    Body: _Body


class _Routes(BaseModel):
    mailNo: Text = ""
    routes: Annotated[list[Any], BeforeValidator(lambda value: value or [])] = []


class _Tracked(BaseModel):
    routeResps: Annotated[list[_Routes], BeforeValidator(lambda value: value or [])] = []


def digest(message: str, timestamp: str, check_word: str) -> str:
    """Return ``msgDigest``: base64 of the MD5 of the three, URL-encoded as by Java's URLEncoder."""
    encoded = quote_plus(message + timestamp + check_word, safe="*").replace("~", "%7E")
    return md5_base64(encoded)


def _contact(kind: int, person: Addressee) -> dict[str, Any]:
    phone = person.national_phone
    return {
        "contactType": kind,
        "contact": person.name,
        "mobile" if is_mobile(phone) else "tel": phone,
        "country": person.country,
        "province": person.province,
        "city": person.city,
        "county": person.district,
        "address": person.full_street,
        "postCode": person.postcode,
    }


class SF:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        now = datetime.now(UTC).astimezone(CHINA)
        addresses = {
            side: {"province": person.province, "city": person.city, "district": person.district}
            for side, person in (("srcAddress", booking.sender), ("destAddress", booking.recipient))
        }
        outcome = await self._call(
            "EXP_RECE_QUERY_DELIVERTM",
            {
                "businessType": str(self._express_type),
                "weight": float(booking.weight_kg),
                "consignedTime": now.strftime("%Y-%m-%d %H:%M:%S"),
                "searchPrice": "1",
                **addresses,
            },
        )
        if not outcome.success:
            return ()
        fees = _parse(_Fees, outcome.msgData).deliverTmDto
        return [
            Offer(product=each.businessType, price=Money(amount=each.fee), days=_days(now, each.deliverTime))
            for each in fees
            if each.fee is not None
        ]

    async def book(self, booking: Booking) -> Waybill:
        message: dict[str, Any] = {
            "language": "zh-CN",
            "orderId": booking.reference,
            "cargoDetails": [{"name": line.sku, "count": line.quantity} for line in booking.goods],
            "contactInfoList": [_contact(1, booking.sender), _contact(2, booking.recipient)],
            "monthlyCard": self._monthly_card,
            "payMethod": 1,
            "expressTypeId": self._express_type,
            "parcelQty": 1,
            "totalWeight": float(booking.weight_kg),
            "isReturnRoutelabel": 1,
            "isGenWaybillNo": 1,
        }
        if booking.cash_on_delivery:
            collect = {"name": "COD", "value": str(booking.cash_on_delivery), "value1": self._monthly_card}
            message["serviceList"] = [collect]
        outcome = await self._call("EXP_RECE_CREATE_ORDER", message)
        if outcome.errorCode == _DUPLICATE:
            first = await self.find(booking.reference)
            if first is None:
                raise unavailable("error.no_waybill_yet", vendor="sf")
            return first
        return self._waybill(booking.reference, outcome)

    async def find(self, reference: str) -> Waybill | None:
        message = {"language": "zh-CN", "searchType": "1", "orderId": reference}
        outcome = await self._call("EXP_RECE_SEARCH_ORDER_RESP", message)
        return None if outcome.errorCode in _NOT_FOUND else self._waybill(reference, outcome)

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        outcome = await self._call("EXP_RECE_UPDATE_ORDER", {"orderId": reference, "dealType": 2})
        if outcome.errorCode not in {_CANCELLED, *_NOT_FOUND}:
            _data_of(outcome)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        message = {
            "waybillNo": waybill_no,
            "serviceCode": _RETURN,
            "role": _BY_SENDER,
            "payMode": "1",
            "monthlyCardNo": self._monthly_card,
        }
        _data_of(await self._call("EXP_RECE_WANTED_INTERCEPT", message))

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """Return the scans; none yet, or of a parcel that is not ours, is an empty list. Queried routes have no id."""
        message = {"language": "zh-CN", "trackingType": "1", "trackingNumber": [waybill_no], "methodType": "1"}
        if phone:
            message["checkPhoneNo"] = phone
        outcome = await self._call("EXP_RECE_SEARCH_ROUTES", message)
        tracked = _parse(_Tracked, _data_of(outcome))
        routes = [route for each in tracked.routeResps if each.mailNo == waybill_no for route in each.routes]
        with documented_format("sf"):
            scans = read_each(_Route, routes, "routes", lambda route: route.scan(waybill_no, route.content_id))
        return scans

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        return Receipt(fact_key=sha256(body).hexdigest(), topic="route")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        if _is_json(body):
            return PushAnswer(body='{"return_code":"0000","return_msg":"成功"}'.encode())
        return PushAnswer(
            content_type="application/xml", body=b'<Response service="RoutePushService"><Head>OK</Head></Response>'
        )

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """Parse JSON, or a form whose ``content`` is XML: the merchant chooses the format at SF."""
        push = decode(_Push, body) if _is_json(body) else _from_form(body)
        return read_each(_PushedRoute, push.Body.WaybillRoute, "Body.WaybillRoute", lambda route: route.pushed)

    @property
    def _express_type(self) -> int:
        return int(self._account.settings.get("express_type", 1))

    @property
    def _monthly_card(self) -> str:
        return str(self._account.settings.get("monthly_card", ""))

    def _waybill(self, reference: str, outcome: _Outcome) -> Waybill:
        order = _parse(_Order, _data_of(outcome))
        if order.filterResult == _NOT_SERVED:
            raise refused("carrier.sf.not_served", "filterResult=3")
        if not order.waybill_no:
            raise unavailable("error.under_review", 60, vendor="sf")
        return Waybill(
            carrier=self._account.source, waybill_no=order.waybill_no, reference=reference, label=order.label
        )

    async def _call(self, service: str, message: dict[str, Any]) -> _Outcome:
        """Return the outcome of the service, success or failure. Raise ``ApplicationError`` if the platform refuses."""
        text = compact_json(message)
        timestamp = str(int(time() * 1000))
        form = {
            "partnerID": self._account.secrets["partner_id"],
            "requestID": str(uuid4()),
            "serviceCode": service,
            "timestamp": timestamp,
            "msgData": text,
            "msgDigest": digest(text, timestamp, self._account.secrets["check_word"]),
        }
        response = await http.send("POST", f"{self._account.base_url.rstrip('/')}/std/service", data=form)
        envelope = read_response("sf", _Envelope, response.content)
        outcome = envelope.apiResultData
        for code in (envelope.apiResultCode, outcome.errorCode):
            if code in _TRANSIENT_CODES:
                raise unavailable("error.unavailable", vendor="sf", code=code)
        if envelope.apiResultCode != "A1000":
            raise refusal("sf", envelope.apiResultCode)
        return outcome


def _data_of(outcome: _Outcome) -> dict[str, Any]:
    if not outcome.success:
        raise refusal("sf", outcome.errorCode)
    return outcome.msgData


def _parse(model: type[Model], data: dict[str, Any]) -> Model:
    with documented_format("sf"):
        parsed = model.model_validate(data)
    return parsed


def _days(now: datetime, window: str) -> int | None:
    """Return the days to the end of a window such as ``2026-08-09 09:00:00,2026-08-09 18:00:00``, China time."""
    try:
        end = datetime.fromisoformat(window.rpartition(",")[2])
    except ValueError:
        return None
    return max(0, (end.date() - now.date()).days)


def _is_json(body: bytes) -> bool:
    return body.lstrip().startswith(b"{")


def _from_form(body: bytes) -> _Push:
    try:
        content = parse_qs(body.decode()).get("content", [""])[0]
    except ValueError:
        raise Unintelligible("content", "invalid.form") from None
    routes = [route.attrib for route in decode_xml(content).iter("WaybillRoute")]
    try:
        return _Push.model_validate({"Body": {"WaybillRoute": routes}})
    except ValidationError as error:
        raise unintelligible(error) from None


def adapter(account: Account) -> SF:
    return SF(account)
