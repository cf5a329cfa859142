"""JD Logistics (京东物流): its open platform's signed JSON, and unsigned pushes.

Sources: the platform's demo code and sandbox pushes as public documents quote them (md5-salt signature, query
parameters, the push's fields and ``category`` numbers). From general knowledge only: the bodies of
/ecap/v1/orders/create, cancel, details, intercept, trace/query and precheck beyond their names, and their codes; that
an order of a known ``orderId`` is answered with the first waybill. Pushes carry no signature.

Account: ``base_url`` ``https://api.jdl.com``; secrets ``app_key``, ``app_secret``, ``access_token``, ``customer_code``,
``push_secret`` (the end of the push URL); setting ``product`` (``ed-m-0001``, 京东标快).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError

from activities import http
from activities.carriers import PushAnswer, authenticate, content_id, masked, trouble
from activities.errors import Unintelligible, refused, unavailable
from activities.payloads import CHINA, ChinaTime, Code, Model, Text, china, decode
from models.address import Addressee
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt
from models.money import Money

_STATUS = {
    "390": TrackingStatus.LABEL_CREATED,
    "420": TrackingStatus.PICKED_UP,
    "430": TrackingStatus.IN_TRANSIT,
    "440": TrackingStatus.OUT_FOR_DELIVERY,
    "450": TrackingStatus.READY_FOR_PICKUP,
    "510": TrackingStatus.DELIVERED,
    "530": TrackingStatus.REFUSED,
    "540": TrackingStatus.RETURNING,
    "550": TrackingStatus.RETURNED,
}
_PROBLEM = "520"
_FINE, _UNKNOWN, _CANCELLED = "0", "1404", "1405"
_BUSY = {"-1", "1429", "5000"}


class _Answer(BaseModel):
    code: Text = ""
    msg: Text = ""
    data: Any = None


class _Booked(BaseModel):
    waybillCode: Text = ""
    destinationSortCenterName: Text = ""
    destinationCrossCode: Text = ""
    road: Text = ""


class _Checked(BaseModel):
    totalFreightStandard: Decimal | None = None
    promiseDay: int | None = None


class _Trace(BaseModel):
    operationTime: ChinaTime
    operationTitle: Text = ""
    operationRemark: Text = ""
    category: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""
    operateSite: Text = ""
    routeCity: Text = ""

    def scan(self, waybill_no: str) -> Scan:
        words = " ".join(part for part in (self.operationTitle, self.operationRemark) if part)
        status, exception = _STATUS.get(self.category), None
        if self.category == _PROBLEM:
            status, exception = trouble(words)
        text = masked(words)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.operationTime, f"{self.category}{text}"),
            status=status,
            code=self.category,
            at=self.operationTime,
            place=self.routeCity or self.operateSite,
            text=text,
            exception=exception,
        )


class _Push(_Trace):
    waybillCode: Code


_Traces = TypeAdapter(list[_Trace])


def sign(secret: str, token: str, key: str, path: str, body: str, timestamp: str) -> str:
    """``md5-salt``: capital hexadecimal digits of the MD5 of all, each after its name, between the secret."""
    told = f"{secret}access_token{token}app_key{key}method{path}param_json{body}timestamp{timestamp}v2.0{secret}"
    return md5(told.encode(), usedforsecurity=False).hexdigest().upper()


def _contact(person: Addressee) -> dict[str, str]:
    return {
        "name": person.name,
        "mobile": person.national_phone,
        "fullAddress": f"{person.province}{person.city}{person.district}{person.full_street}",
    }


class JDL:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        answer = await self._ask("/ecap/v1/orders/precheck", self._order(booking))
        if answer.code != _FINE:
            return ()
        checked = _read(_Checked, answer.data)
        if checked.totalFreightStandard is None:
            return ()
        price = Money(amount=checked.totalFreightStandard)
        return [Offer(product=self._product, price=price, days=checked.promiseDay)]

    async def book(self, booking: Booking) -> Waybill:
        answer = await self._ask("/ecap/v1/orders/create", self._order(booking))
        if answer.code != _FINE:
            raise _refusal(answer)
        waybill = self._waybill(booking.reference, answer.data)
        if waybill is None:
            raise unavailable("jdl: taken, but without a number yet")
        return waybill

    async def find(self, reference: str) -> Waybill | None:
        answer = await self._ask("/ecap/v1/orders/details/query", self._of(reference))
        if answer.code not in (_FINE, _UNKNOWN):
            raise _refusal(answer)
        return self._waybill(reference, answer.data) if answer.code == _FINE else None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        asked = {**self._of(reference), "waybillCode": waybill_no, "cancelReason": "订单取消", "cancelReasonCode": "1"}
        answer = await self._ask("/ecap/v1/orders/cancel", asked)
        if answer.code not in (_FINE, _UNKNOWN, _CANCELLED):
            raise _refusal(answer)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        asked = {**self._of(reference), "waybillCode": waybill_no, "interceptReason": "订单取消,请退回"}
        answer = await self._ask("/ecap/v1/orders/intercept", asked)
        if answer.code != _FINE:
            raise _refusal(answer)

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        answer = await self._ask("/ecap/v1/orders/trace/query", {**self._of(""), "waybillCode": waybill_no})
        if answer.code == _UNKNOWN:
            return ()
        if answer.code != _FINE:
            raise _refusal(answer)
        try:
            traces = _Traces.validate_python((answer.data or {}).get("traceDetails") or [])
        except (ValidationError, AttributeError):
            raise unavailable("jdl: the answer is not in the format") from None
        return [trace.scan(waybill_no) for trace in traces]

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        return Receipt(fact_key=sha256(body).hexdigest(), topic="trace")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"code":0,"message":"success","success":true}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, body)
        return [push.scan(push.waybillCode)]

    @property
    def _product(self) -> str:
        return str(self._account.settings.get("product", "ed-m-0001"))

    def _of(self, reference: str) -> dict[str, Any]:
        told = {"orderOrigin": 1, "customerCode": self._account.secrets.get("customer_code", "")}
        return told | ({"orderId": reference} if reference else {})

    def _order(self, booking: Booking) -> dict[str, Any]:
        order: dict[str, Any] = {
            **self._of(booking.reference),
            "senderContact": _contact(booking.sender),
            "receiverContact": _contact(booking.recipient),
            "productsReq": {"productCode": self._product},
            "settleType": 3,
            "cargoes": [{"name": ", ".join(line.sku for line in booking.goods)[:50], "quantity": 1}],
        }
        order["cargoes"][0] |= {"weight": float(booking.weight_kg), "volume": 1}
        if booking.cash_on_delivery:
            cash = {"productCode": "ed-a-0009", "productAttrs": {"shouldPayMoney": str(booking.cash_on_delivery)}}
            order["productsReq"]["addedProducts"] = [cash]
        return order

    def _waybill(self, reference: str, data: Any) -> Waybill | None:
        booked = _read(_Booked, data)
        if not booked.waybillCode:
            return None
        label = Label(
            route=" ".join(part for part in (booked.destinationCrossCode, booked.road) if part),
            hub=booked.destinationSortCenterName,
            product=self._product,
        )
        return Waybill(carrier=self._account.source, waybill_no=booked.waybillCode, reference=reference, label=label)

    async def _ask(self, path: str, asked: Mapping[str, Any]) -> _Answer:
        secrets = self._account.secrets
        body = json.dumps([asked], ensure_ascii=False, separators=(",", ":"))
        timestamp = china(datetime.now(UTC).astimezone(CHINA))
        params = {
            "LOP-DN": "ECAP",
            "access_token": secrets["access_token"],
            "app_key": secrets["app_key"],
            "timestamp": timestamp,
            "v": "2.0",
            "sign": sign(secrets["app_secret"], secrets["access_token"], secrets["app_key"], path, body, timestamp),
            "algorithm": "md5-salt",
        }
        url = f"{self._account.base_url.rstrip('/')}{path}"
        headers = {"Content-Type": "application/json;charset=utf-8", "lop-tz": "8"}
        response = await http.send("POST", url, content=body.encode(), params=params, headers=headers)
        try:
            answer = decode(_Answer, response.content)
        except Unintelligible:
            raise unavailable("jdl: the answer is not in the format") from None
        if answer.code in _BUSY:
            raise unavailable(f"jdl: {answer.code}")
        return answer


def _read(model: type[Model], data: Any) -> Model:
    try:
        return model.model_validate(data or {})
    except ValidationError:
        raise unavailable("jdl: the answer is not in the format") from None


def _refusal(answer: _Answer) -> Exception:
    """JDL's words may repeat what was sent: its code alone is told."""
    return refused(f"carrier.jdl.{answer.code or 'refused'}", answer.code)


def adapter(account: Account) -> JDL:
    return JDL(account)
