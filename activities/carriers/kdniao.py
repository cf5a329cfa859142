"""Kdniao (快递鸟): books with the courier of the account and tracks the parcels of any. Signed forms both ways.

Sources: the official demos (1007, 1002, 1008, 2002, 8001, 8008 and the documents quoted in them), a captured push (its
``DataSign`` came without padding), public clients (result code 106 with the first waybill; all of ``StateEx``). From
general knowledge only: the fields of 1147 and the texts of its responses; that a subscription made twice is refused
with a text such as ``重复``; that a query without a trace may say ``Success`` false; that ``CustomerName`` is required
for SF only. An order number of 1007 has at most 30 characters: a longer reference is sent as its digest.

Pushes go to the URL set in Kdniao's console; a subscription cannot name one. Every step of a trace has its own code
only for accounts with 在途监控 (8001, 8008, pushes 102); otherwise (1002, 1008, 101) only the newest step has a code.

Account: ``base_url`` ``https://api.kdniao.com``; secrets ``business_id`` (EBusinessID), ``app_key``, ``push_secret``
(the end of the push URL), and those issued by the courier: ``customer_name``, ``customer_pwd``, ``month_code``,
``send_site``; settings ``courier`` (as carriers are named here), ``pay_type`` (1 cash, 3 monthly), ``express_type``,
``monitor`` (the account has 在途监控), ``carrier_codes`` (codes of carriers that are not in ``CARRIERS``).
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from activities.carriers import (
    PushAnswer,
    Scans,
    authenticate,
    cannot_intercept,
    check_signature,
    classify_problem,
    compact_json,
    contains_any,
    content_id,
    form_fields,
    is_mobile,
    is_return,
    mask_personal_data,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Model, Text, decode
from activities.vendors.gateway import documented_format
from models.accounts import CODES_OF_CARRIERS, PUSH_SECRET, AccountFields, secret, setting
from models.address import Addressee
from models.base import CHINA
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="kdniao",
    fields=(
        secret("business_id"),
        secret("app_key"),
        secret("customer_name", required=False),
        secret("customer_pwd", required=False),
        secret("month_code", required=False),
        secret("send_site", required=False),
        PUSH_SECRET,
        setting("courier"),
        setting("pay_type", int),
        setting("express_type", int | str),
        setting("monitor", bool),
        CODES_OF_CARRIERS,
        setting("follow", list[str]),
        setting("push_url"),
    ),
    base_url="https://api.kdniao.com",
)
LANG = "zh-CN"
"""Of its labels, whoever prints them."""

CARRIERS = {"sf": "SF", "yto": "YTO", "sto": "STO", "zto": "ZTO", "yunda": "YD", "jdl": "JD", "ems": "EMS"}

_WAYBILLS = "api/EOrderService"
_SUBSCRIPTIONS = "api/dist"
_QUERIES = "Ebusiness/EbusinessOrderHandle.aspx"
_ALREADY_CANCELLED = ("不存在", "已取消")
_DAILY_LIMIT = "405"
_MAX_ORDER_NO = 30

_STATUS: dict[str, TrackingStatus | None] = {
    "0": None,
    **dict.fromkeys(("10", "401"), TrackingStatus.LABEL_CREATED),
    "1": TrackingStatus.PICKED_UP,
    **dict.fromkeys(
        ("2", "204", "206", "402", "403", "417", "422", "5", "603"),
        TrackingStatus.IN_TRANSIT,
    ),
    **dict.fromkeys(("201", "205"), TrackingStatus.AT_DESTINATION),
    **dict.fromkeys(("202", "418", "419"), TrackingStatus.OUT_FOR_DELIVERY),
    **dict.fromkeys(("211", "412"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("3", "301", "302", "304", "311"), TrackingStatus.DELIVERED),
    **dict.fromkeys(("4", "405", "415", "416", "420", "421", "423"), TrackingStatus.DELIVERY_FAILED),
    "404": TrackingStatus.REFUSED,
    **dict.fromkeys(("407", "413"), TrackingStatus.RETURNING),
    "406": TrackingStatus.RETURNED,
    "414": TrackingStatus.DAMAGED,
    **dict.fromkeys(("6", "601", "602", "604"), TrackingStatus.HELD_IN_CUSTOMS),
}
_PROBLEMS = {
    "401": ExceptionKind.NOT_PICKED_UP,
    "402": ExceptionKind.LATE,
    "403": ExceptionKind.NO_MOVEMENT,
    "412": ExceptionKind.STUCK,
    "417": ExceptionKind.LATE,
    "420": ExceptionKind.WRONG_ADDRESS,
}
_PUSH_FIELDS = ("RequestData", "DataSign", "RequestType")


class _Answer(BaseModel):
    Success: bool = False
    ResultCode: Text = ""
    Code: Text = ""
    Reason: Text = ""

    @property
    def code(self) -> str:
        return self.ResultCode or self.Code


class _Order(BaseModel):
    LogisticCode: Text = ""
    MarkDestination: Text = ""
    PackageName: Text = ""
    OriginName: Text = ""
    DestinatioName: Text = ""


class _Booked(_Answer):
    Order: Annotated[_Order, BeforeValidator(lambda value: value or {})] = _Order()


class _Shipper(BaseModel):
    ShipperCode: Code


class _Candidates(_Answer):
    Shippers: Annotated[list[_Shipper], BeforeValidator(lambda value: value or [])] = []


_Time = Annotated[ChinaTime, BeforeValidator(lambda value: str(value).replace("/", "-"))]


class _Step(BaseModel):
    AcceptTime: _Time
    AcceptStation: Text = ""
    Remark: Text = ""
    Location: Text = ""
    Action: Text = ""

    def scan(self, waybill_no: str, code: str, carrier: str) -> Scan:
        """``code`` is the code of the step, or of the parcel for its newest step."""
        text = " ".join(part for part in (self.AcceptStation, self.Remark) if part)
        status, problem = _STATUS.get(code), _PROBLEMS.get(code)
        if status is TrackingStatus.DELIVERY_FAILED and problem is None:
            status, problem = classify_problem(text)
        elif status is TrackingStatus.DELIVERED and is_return(text):
            status = TrackingStatus.RETURNED
        text = mask_personal_data(text)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.AcceptTime, text),
            status=status,
            code=code,
            at=self.AcceptTime,
            place=self.Location,
            text=text,
            exception=problem,
            carrier=carrier,
            unknown=bool(code) and code not in _STATUS,
        )


class _Parcel(_Answer):
    ShipperCode: Text = ""
    LogisticCode: Text = ""
    State: Text = ""
    StateEx: Text = ""
    Traces: Annotated[list[Any], BeforeValidator(lambda value: value or []), Field(max_length=500)] = []

    def scans(self, waybill_no: str, carrier: str) -> Scans:
        """Return the scans in the order of the trace; without 在途监控 the newest takes the code of the parcel."""
        traces = list(self.Traces)
        newest = max(range(len(traces)), key=lambda at: (_moment(traces[at]), at), default=0)
        if traces and isinstance(step := traces[newest], dict):
            traces[newest] = {**step, "Action": step.get("Action") or self.StateEx or self.State}
        return read_each(_Step, traces, "Traces", lambda step: step.scan(waybill_no, step.Action, carrier))


class _Timed(BaseModel):
    AcceptTime: _Time


def _moment(step: Any) -> datetime:
    """Return the time of a step; the earliest of all if it has none."""
    try:
        return _Timed.model_validate(step).AcceptTime
    except ValidationError:
        return datetime.min.replace(tzinfo=UTC)


class _PushedParcel(_Parcel):
    LogisticCode: Code


class _Push(BaseModel):
    Data: Annotated[list[Any], Field(max_length=100)]


def sign(data: str, app_key: str) -> str:
    """Return ``DataSign``: base64 of the MD5 in lower-case hex."""
    return b64encode(md5((data + app_key).encode(), usedforsecurity=False).hexdigest().encode()).decode()


def _order_no(reference: str) -> str:
    return reference if len(reference) <= _MAX_ORDER_NO else sha256(reference.encode()).hexdigest()[:_MAX_ORDER_NO]


def _contact(person: Addressee) -> dict[str, str]:
    """Return a sender or recipient; as provinces, municipalities are written without 市."""
    phone = person.national_phone
    return {
        "Name": person.name,
        "Mobile" if is_mobile(phone) else "Tel": phone,
        "PostCode": person.postcode,
        "ProvinceName": person.province.removesuffix("市"),
        "CityName": person.city,
        "ExpAreaName": person.district,
        "Address": person.full_street,
    }


class Kdniao:
    def __init__(self, account: Account) -> None:
        self._account = account
        self._codes: dict[str, str] = {**CARRIERS, **account.settings.get("carrier_codes", {})}
        self._monitor = bool(account.settings.get("monitor"))

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        """Book the parcel; Kdniao returns the first waybill for a repeated order number."""
        data: dict[str, Any] = {
            **self._courier,
            "OrderCode": _order_no(booking.reference),
            "PayType": int(self._account.settings.get("pay_type", 1)),
            "ExpType": str(self._account.settings.get("express_type", 1)),
            "Sender": _contact(booking.sender),
            "Receiver": _contact(booking.recipient),
            "Commodity": [{"GoodsName": line.sku, "Goodsquantity": line.quantity} for line in booking.goods],
            "Weight": float(booking.weight_kg),
            "Quantity": 1,
            "IsReturnPrintTemplate": "0",
            "IsSubscribe": "1",
        }
        if booking.cash_on_delivery:
            data["AddService"] = [{"Name": "COD", "Value": str(booking.cash_on_delivery)}]
        booked = await self._call(_Booked, _WAYBILLS, "1007", data)
        order = booked.Order
        if not order.LogisticCode:
            if booked.Success:
                raise unavailable("error.no_waybill_yet", vendor="kdniao")
            raise refusal("kdniao", booked.code)
        return Waybill(
            carrier=self._account.source,
            waybill_no=order.LogisticCode,
            reference=booking.reference,
            label=Label(
                route=order.MarkDestination,
                hub=order.PackageName,
                origin=order.OriginName,
                destination=order.DestinatioName,
                courier=self._account.settings["courier"],
            ),
        )

    async def find(self, reference: str) -> Waybill | None:
        """Return ``None``: Kdniao has no query by our reference, and booking again returns the first waybill."""
        return None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        data = {**self._courier, "OrderCode": _order_no(reference), "ExpNo": waybill_no}
        answer = await self._call(_Answer, _WAYBILLS, "1147", data)
        if not answer.Success and not contains_any(answer.Reason, _ALREADY_CANCELLED):
            raise refusal("kdniao", answer.code)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Always refuse: Kdniao has no interface for it."""
        raise cannot_intercept()

    async def subscribe(self, waybill_no: str, carrier: str, phone: str, push_url: str) -> None:
        data = self._parcel(self._code(carrier), waybill_no, phone)
        answer = await self._call(_Answer, _SUBSCRIPTIONS, "8008" if self._monitor else "1008", data)
        if not answer.Success and "重复" not in answer.Reason:
            raise refusal("kdniao", answer.code)

    async def candidate_carriers(self, number: str) -> Sequence[str]:
        return [self._carrier(code) for code in await self._candidates(number)]

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """Query the candidate carriers, likeliest first, until one knows the number: a query must name a carrier."""
        for code in await self._candidates(waybill_no):
            data = self._parcel(code, waybill_no, phone)
            parcel = await self._call(_Parcel, _QUERIES, "8001" if self._monitor else "1002", data)
            if parcel.Traces:
                with documented_format("kdniao"):
                    scans = parcel.scans(waybill_no, self._carrier(code))
                return scans
            if not parcel.Success and parcel.Reason and "轨迹" not in parcel.Reason:
                raise refusal("kdniao", parcel.code)
        return ()

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = form_fields(body, *_PUSH_FIELDS)
        expected = sign(form["RequestData"], self._account.secrets["app_key"])
        check_signature("DataSign", expected.rstrip("="), form["DataSign"].rstrip("="))
        return Receipt(fact_key=sha256(body).hexdigest(), topic=form["RequestType"])

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        acknowledgement = {
            "EBusinessID": self._account.secrets["business_id"],
            "UpdateTime": datetime.now(UTC).astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S"),
            "Success": True,
            "Reason": "",
        }
        return PushAnswer(body=compact_json(acknowledgement).encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, form_fields(body, *_PUSH_FIELDS)["RequestData"].encode())
        return read_each(
            _PushedParcel,
            push.Data,
            "Data",
            lambda parcel: parcel.scans(parcel.LogisticCode, self._carrier(parcel.ShipperCode)),
        )

    @property
    def _courier(self) -> dict[str, str]:
        """Return the courier's code and our credentials with it. Raise ``refused`` for an unknown courier."""
        secrets = self._account.secrets
        fields = {
            "CustomerName": "customer_name",
            "CustomerPwd": "customer_pwd",
            "MonthCode": "month_code",
            "SendSite": "send_site",
        }
        credentials = {field: secrets[name] for field, name in fields.items() if name in secrets}
        return {"ShipperCode": self._code(self._account.settings.get("courier", "")), **credentials}

    def _code(self, carrier: str) -> str:
        if carrier not in self._codes:
            raise refused("carrier.not_known", "not_known")
        return self._codes[carrier]

    def _carrier(self, code: str) -> str:
        """Return the carrier with a code of Kdniao's; the code itself if there is none."""
        return next((carrier for carrier, each in self._codes.items() if each == code), code)

    def _parcel(self, code: str, waybill_no: str, phone: str) -> dict[str, str]:
        data = {"ShipperCode": code, "LogisticCode": waybill_no}
        return {**data, "CustomerName": phone} if code == CARRIERS["sf"] else data

    async def _candidates(self, number: str) -> Sequence[str]:
        """Return Kdniao's codes of the carriers that the number may belong to, the likeliest first."""
        answer = await self._call(_Candidates, _QUERIES, "2002", {"LogisticCode": number})
        if not answer.Success and answer.code not in {"", "100"}:
            raise refusal("kdniao", answer.code)
        return [each.ShipperCode for each in answer.Shippers]

    async def _call(self, model: type[Model], path: str, request_type: str, data: dict[str, Any]) -> Model:
        secrets = self._account.secrets
        text = compact_json(data)
        form = {
            "RequestData": text,
            "EBusinessID": secrets["business_id"],
            "RequestType": request_type,
            "DataSign": sign(text, secrets["app_key"]),
            "DataType": "2",
        }
        response = await http.send("POST", f"{self._account.base_url.rstrip('/')}/{path}", data=form)
        if read_response("kdniao", _Answer, response.content).code == _DAILY_LIMIT:
            raise unavailable("error.unavailable", 3600, vendor="kdniao", code=_DAILY_LIMIT)
        return read_response("kdniao", model, response.content)


def adapter(account: Account) -> Kdniao:
    return Kdniao(account)
