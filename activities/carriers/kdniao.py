"""Kdniao (快递鸟): books with the courier named in the account, and follows the parcels of any. Signed forms both ways.

Sources: the official demos (1007, 1002, 1008, 2002, 8001, 8008 and the documents quoted in them), a captured push
(its ``DataSign`` came without padding), public clients (result code 106 with the first waybill; all of ``StateEx``).
From general knowledge only: the fields of 1147 and the words of its answers; that a subscription made twice is refused
in words such as ``重复``; that a query without a trace may say ``Success`` false; that ``CustomerName`` is asked for SF
alone. 1007 takes at most 30 characters of order number: a longer reference is told as a digest of it.

Pushes go where the account says in Kdniao's own console, never where a subscription asks. Each step of a trace has a
code of its own only for accounts with 在途监控 (8001, 8008, pushes 102); otherwise (1002, 1008, 101) the newest alone
has one, and the others none.

Account: ``base_url`` ``https://api.kdniao.com``; secrets ``business_id`` (EBusinessID), ``app_key``, ``push_secret``
(the end of the push URL), and where the courier gave them ``customer_name``, ``customer_pwd``, ``month_code``,
``send_site``; settings ``courier`` (as carriers are named here), ``pay_type`` (1 cash, 3 monthly), ``express_type``,
``monitor`` (whether 在途监控 is paid for), ``carrier_codes``: its codes of carriers that are not in ``CARRIERS``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import md5, sha256
from hmac import compare_digest
from typing import Annotated, Any
from urllib.parse import parse_qs

from pydantic import BaseModel, BeforeValidator, Field

from activities.carriers import PushAnswer, authenticate, content_id, masked, trouble
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Model, Text, decode
from models.address import Addressee
from models.base import CHINA
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

CARRIERS = {"sf": "SF", "yto": "YTO", "sto": "STO", "zto": "ZTO", "yunda": "YD", "jdl": "JD", "ems": "EMS"}

_WAYBILLS = "api/EOrderService"
_SUBSCRIPTIONS = "api/dist"
_QUERIES = "Ebusiness/EbusinessOrderHandle.aspx"
_OVER_THE_DAYS_LIMIT = "405"
_LONGEST_ORDER_NO = 30

_STATUS = {
    **dict.fromkeys(("10", "401"), TrackingStatus.LABEL_CREATED),
    "1": TrackingStatus.PICKED_UP,
    **dict.fromkeys(
        ("2", "204", "206", "402", "403", "417", "422", "5", "603"),
        TrackingStatus.IN_TRANSIT,
    ),
    **dict.fromkeys(("201", "205"), TrackingStatus.AT_DESTINATION),
    **dict.fromkeys(("202", "419"), TrackingStatus.OUT_FOR_DELIVERY),
    **dict.fromkeys(("211", "412"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("3", "301", "302", "304", "311"), TrackingStatus.DELIVERED),
    **dict.fromkeys(("4", "405", "416", "420", "421", "423"), TrackingStatus.DELIVERY_FAILED),
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


class _Recognised(_Answer):
    Shippers: Annotated[list[_Shipper], BeforeValidator(lambda value: value or [])] = []


class _Step(BaseModel):
    AcceptTime: Annotated[ChinaTime, BeforeValidator(lambda value: str(value).replace("/", "-"))]
    AcceptStation: Text = ""
    Remark: Text = ""
    Location: Text = ""
    Action: Text = ""

    def scan(self, waybill_no: str, code: str) -> Scan:
        """``code``: its own, or what is told of the parcel where it is the newest."""
        words = " ".join(part for part in (self.AcceptStation, self.Remark) if part)
        status, problem = _STATUS.get(code), _PROBLEMS.get(code)
        if status is TrackingStatus.DELIVERY_FAILED and problem is None:
            status, problem = trouble(words)
        elif status is TrackingStatus.DELIVERED and "退回" in words:
            status = TrackingStatus.RETURNED
        text = masked(words)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.AcceptTime, text),
            status=status,
            code=code,
            at=self.AcceptTime,
            place=self.Location,
            text=text,
            exception=problem,
        )


class _Parcel(_Answer):
    LogisticCode: Text = ""
    State: Text = ""
    StateEx: Text = ""
    Traces: Annotated[list[_Step], BeforeValidator(lambda value: value or []), Field(max_length=500)] = []

    def scans(self, waybill_no: str) -> list[Scan]:
        """Oldest first, as they are told."""
        newest = max(range(len(self.Traces)), key=lambda at: (self.Traces[at].AcceptTime, at), default=0)
        return [
            step.scan(waybill_no, step.Action or (self.StateEx or self.State if at == newest else ""))
            for at, step in enumerate(self.Traces)
        ]


class _PushedParcel(_Parcel):
    LogisticCode: Code


class _Push(BaseModel):
    Data: Annotated[list[_PushedParcel], Field(max_length=100)]


def sign(data: str, app_key: str) -> str:
    """``DataSign``: base64 of the MD5 in lower-case hexadecimal digits."""
    return b64encode(md5((data + app_key).encode(), usedforsecurity=False).hexdigest().encode()).decode()


def _order_no(reference: str) -> str:
    return reference if len(reference) <= _LONGEST_ORDER_NO else sha256(reference.encode()).hexdigest()[:30]


def _contact(person: Addressee) -> dict[str, str]:
    """Municipalities are told as provinces without their 市."""
    phone = person.national_phone
    return {
        "Name": person.name,
        "Mobile" if len(phone) == 11 and phone.startswith("1") else "Tel": phone,
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
        """An order number that was booked is answered with the first waybill."""
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
        booked = await self._ask(_Booked, _WAYBILLS, "1007", data)
        order = booked.Order
        if not order.LogisticCode:
            if booked.Success:
                raise unavailable("kdniao: taken, but without a number yet")
            raise _refusal(booked)
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
        """Nothing: Kdniao offers no look-up by our reference, and booking again finds what is booked."""
        return None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        data = {**self._courier, "OrderCode": _order_no(reference), "ExpNo": waybill_no}
        answer = await self._ask(_Answer, _WAYBILLS, "1147", data)
        done = any(words in answer.Reason for words in ("不存在", "已取消"))
        if not (answer.Success or done):
            raise _refusal(answer)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Refused always: Kdniao cannot."""
        raise refused("carrier.cannot_intercept", "cannot_intercept")

    async def subscribe(self, waybill_no: str, carrier: str, phone: str, push_url: str) -> None:
        data = self._parcel(self._code(carrier), waybill_no, phone)
        answer = await self._ask(_Answer, _SUBSCRIPTIONS, "8008" if self._monitor else "1008", data)
        if not answer.Success and "重复" not in answer.Reason:
            raise _refusal(answer)

    async def recognise(self, number: str) -> Sequence[str]:
        ours = {code: carrier for carrier, code in self._codes.items()}
        return [ours.get(code, code) for code in await self._guesses(number)]

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """What it knows of the number with the likeliest carrier that knows it: a query must name one."""
        for code in await self._guesses(waybill_no):
            data = self._parcel(code, waybill_no, phone)
            parcel = await self._ask(_Parcel, _QUERIES, "8001" if self._monitor else "1002", data)
            if parcel.Traces:
                return parcel.scans(waybill_no)
            if not parcel.Success and parcel.Reason and "轨迹" not in parcel.Reason:
                raise _refusal(parcel)
        return ()

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = _form(body)
        expected = sign(form["RequestData"], self._account.secrets["app_key"])
        if not compare_digest(expected.rstrip("=").encode(), form["DataSign"].rstrip("=").encode()):
            raise Unauthentic("DataSign: does not match")
        return Receipt(fact_key=sha256(body).hexdigest(), topic=form["RequestType"])

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        said = {
            "EBusinessID": self._account.secrets["business_id"],
            "UpdateTime": datetime.now(UTC).astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S"),
            "Success": True,
            "Reason": "",
        }
        return PushAnswer(body=_text(said).encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, _form(body)["RequestData"].encode())
        return [scan for parcel in push.Data for scan in parcel.scans(parcel.LogisticCode)]

    @property
    def _courier(self) -> dict[str, str]:
        """Who is to carry, and who we are to them. Refused where none is named."""
        secrets = self._account.secrets
        named = {
            "CustomerName": "customer_name",
            "CustomerPwd": "customer_pwd",
            "MonthCode": "month_code",
            "SendSite": "send_site",
        }
        known = {field: secrets[name] for field, name in named.items() if name in secrets}
        return {"ShipperCode": self._code(self._account.settings.get("courier", "")), **known}

    def _code(self, carrier: str) -> str:
        if carrier not in self._codes:
            raise refused("carrier.not_known", "not_known")
        return self._codes[carrier]

    def _parcel(self, code: str, waybill_no: str, phone: str) -> dict[str, str]:
        data = {"ShipperCode": code, "LogisticCode": waybill_no}
        return {**data, "CustomerName": phone} if code == CARRIERS["sf"] else data

    async def _guesses(self, number: str) -> Sequence[str]:
        """Its own codes of the carriers whose number it may be, the likeliest first."""
        answer = await self._ask(_Recognised, _QUERIES, "2002", {"LogisticCode": number})
        if not answer.Success and answer.code not in {"", "100"}:
            raise _refusal(answer)
        return [each.ShipperCode for each in answer.Shippers]

    async def _ask(self, model: type[Model], path: str, request_type: str, data: dict[str, Any]) -> Model:
        secrets = self._account.secrets
        text = _text(data)
        form = {
            "RequestData": text,
            "EBusinessID": secrets["business_id"],
            "RequestType": request_type,
            "DataSign": sign(text, secrets["app_key"]),
            "DataType": "2",
        }
        response = await http.send("POST", f"{self._account.base_url.rstrip('/')}/{path}", data=form)
        try:
            if decode(_Answer, response.content).code == _OVER_THE_DAYS_LIMIT:
                raise unavailable(f"kdniao: {_OVER_THE_DAYS_LIMIT}", 3600)
            return decode(model, response.content)
        except Unintelligible:
            raise unavailable("kdniao: the answer is not in the format") from None


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _refusal(answer: _Answer) -> Exception:
    """Kdniao's words may repeat what was sent: its code alone is told."""
    return refused(f"carrier.kdniao.{answer.code or 'refused'}", answer.code)


def _form(body: bytes) -> dict[str, str]:
    """The three fields that matter. What is not a form is empty: neither authentic nor intelligible."""
    fields = parse_qs(body.decode(errors="replace"))
    return {name: fields.get(name, [""])[0] for name in ("RequestData", "DataSign", "RequestType")}


def adapter(account: Account) -> Kdniao:
    return Kdniao(account)
