"""STO Express (申通): one signed gateway both ways.

Sources: the push document of open.sto.cn (STO_TRACE_PLATFORM_PUSH) as public receivers quote it, scan types as public
maps have them, the gateway's form and digest as public clients send it. From general knowledge only: the fields of
OMS_EXPRESS_ORDER_CREATE and its answer (``bigWord``, ``packagePlace``), of GET_ORDERDISPATCH_INFO, of
EDI_MODIFY_ORDER_CANCEL and of STO_TRACE_QUERY_COMMON; that a repeated order is refused in words such as ``重复`` or
``已存在``. No interface that stops a parcel on its way was found.

Account: ``base_url`` ``https://cloudinter-linkgateway.sto.cn/gateway/link.do``; secrets ``app_key``, ``secret``,
``push_secret`` (the end of the push URL), ``site_code``, ``customer_name``, ``site_pwd``; settings ``code``
(``from_code`` where it is not the app key), ``month_code``.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import md5
from hmac import compare_digest
from typing import Annotated, Any
from urllib.parse import parse_qs

from pydantic import BaseModel, BeforeValidator, ValidationError

from activities.carriers import PushAnswer, authenticate, content_id, masked, trouble
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Text, decode
from models.address import Addressee
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

NAME = "申通快递"
_STATUS = {
    "收件": TrackingStatus.PICKED_UP,
    **dict.fromkeys(("发件", "到件", "转邮", "转同行"), TrackingStatus.IN_TRANSIT),
    **dict.fromkeys(("派件", "第三方代派", "快件取出"), TrackingStatus.OUT_FOR_DELIVERY),
    **dict.fromkeys(("柜机代收", "驿站代收"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("签收", "驿站出库"), TrackingStatus.DELIVERED),
    "退回件": TrackingStatus.RETURNING,
}
_PROBLEM = "问题件"
_TRANSIENT = {"S05", "S07", "SYSTEM_ERROR"}
_KNOWN = ("重复", "已存在")
_GONE = ("不存在", "已取消")


class _Booked(BaseModel):
    waybillNo: Text = ""
    bigWord: Text = ""
    packagePlace: Text = ""


class _Answer(BaseModel):
    success: Annotated[bool, BeforeValidator(lambda value: str(value).lower() == "true")] = False
    errorCode: Text = ""
    errorMsg: Text = ""
    data: Any = None


class _Trace(BaseModel):
    opTime: ChinaTime
    scanType: Text = ""
    memo: Text = ""
    issueName: Text = ""
    opOrgCityName: Text = ""
    opOrgName: Text = ""
    signoffPeople: Text = ""

    def scan(self, waybill_no: str) -> Scan:
        words = " ".join(part for part in (self.memo, self.issueName) if part)
        status, exception = _STATUS.get(self.scanType), None
        if self.scanType == _PROBLEM:
            status, exception = trouble(words)
        elif status is TrackingStatus.DELIVERED and ("退回" in words or self.signoffPeople.startswith("退")):
            status = TrackingStatus.RETURNED
        text = masked(words)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.opTime, f"{self.scanType}{text}"),
            status=status,
            code=self.scanType,
            at=self.opTime,
            place=self.opOrgCityName or self.opOrgName,
            text=text,
            exception=exception,
        )


class _Push(BaseModel):
    waybillNo: Code
    trace: _Trace


def digest(content: str, secret: str) -> str:
    return b64encode(md5((content + secret).encode(), usedforsecurity=False).digest()).decode()


def _contact(person: Addressee) -> dict[str, str]:
    return {
        "name": person.name,
        "mobile": person.national_phone,
        "province": person.province,
        "city": person.city,
        "area": person.district,
        "address": person.full_street,
    }


class STO:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        secrets = self._account.secrets
        content: dict[str, Any] = {
            "orderNo": booking.reference,
            "orderSource": self._code,
            "billType": "00",
            "orderType": "01",
            "sender": _contact(booking.sender),
            "receiver": _contact(booking.recipient),
            "cargo": {
                "goodsName": ", ".join(line.sku for line in booking.goods)[:100],
                "goodsCount": sum(line.quantity for line in booking.goods),
                "weight": float(booking.weight_kg),
            },
            "customer": {
                "siteCode": secrets.get("site_code", ""),
                "customerName": secrets.get("customer_name", ""),
                "sitePwd": secrets.get("site_pwd", ""),
                "monthCustomerCode": str(self._account.settings.get("month_code", "")),
            },
        }
        if booking.cash_on_delivery:
            content["codValue"] = str(booking.cash_on_delivery)
        answer = await self._ask("OMS_EXPRESS_ORDER_CREATE", "sto_oms", content)
        if not answer.success:
            found = await self.find(booking.reference) if _says(answer, _KNOWN) else None
            if found is None:
                raise _refusal(answer)
            return found
        waybill = self._waybill(booking.reference, answer)
        if waybill is None:
            raise unavailable("sto: taken, but without a number yet")
        return waybill

    async def find(self, reference: str) -> Waybill | None:
        answer = await self._ask("GET_ORDERDISPATCH_INFO", "sto_oms", {"orderId": reference})
        return self._waybill(reference, answer) if answer.success else None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        content = {"sourceOrderId": reference, "billCode": waybill_no, "orderType": "01"}
        answer = await self._ask("EDI_MODIFY_ORDER_CANCEL", "edi_modify_order", content)
        if not answer.success and not _says(answer, _GONE):
            raise _refusal(answer)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Refused always: no interface is known for it."""
        raise refused("carrier.cannot_intercept", "cannot_intercept")

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        content = {"order": "asc", "waybillNoList": [waybill_no]}
        answer = await self._ask("STO_TRACE_QUERY_COMMON", "sto_trace_query", content)
        if not answer.success:
            raise _refusal(answer)
        try:
            told = (answer.data or {}).get(waybill_no) or []
            return [_Trace.model_validate(each).scan(waybill_no) for each in told]
        except (ValidationError, AttributeError):
            raise unavailable("sto: the answer is not in the format") from None

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """STO names each push by ``outBizCode``: it sends one again whose answer came late."""
        authenticate(self._account, secret)
        form = _form(body)
        expected = digest(form["content"], self._account.secrets["secret"])
        if not compare_digest(expected.encode(), form["data_digest"].encode()):
            raise Unauthentic("data_digest: does not match")
        key = md5(form["content"].encode(), usedforsecurity=False).hexdigest()
        return Receipt(fact_key=key, topic="trace")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"success":"true","errorCode":"","errorMsg":""}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, _form(body)["content"].encode())
        return [push.trace.scan(push.waybillNo)]

    @property
    def _code(self) -> str:
        return str(self._account.settings.get("code", self._account.secrets["app_key"]))

    def _waybill(self, reference: str, answer: _Answer) -> Waybill | None:
        try:
            booked = _Booked.model_validate(answer.data or {})
        except ValidationError:
            raise unavailable("sto: the answer is not in the format") from None
        if not booked.waybillNo:
            return None
        label = Label(route=booked.bigWord, hub=booked.packagePlace)
        return Waybill(carrier=self._account.source, waybill_no=booked.waybillNo, reference=reference, label=label)

    async def _ask(self, api: str, to: str, content: Mapping[str, Any]) -> _Answer:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        form = {
            "content": text,
            "data_digest": digest(text, self._account.secrets["secret"]),
            "api_name": api,
            "from_appkey": self._account.secrets["app_key"],
            "from_code": self._code,
            "to_appkey": to,
            "to_code": to,
        }
        response = await http.send("POST", self._account.base_url, data=form)
        try:
            answer = decode(_Answer, response.content)
        except Unintelligible:
            raise unavailable("sto: the answer is not in the format") from None
        if answer.errorCode in _TRANSIENT:
            raise unavailable(f"sto: {answer.errorCode}")
        return answer


def _says(answer: _Answer, words: Sequence[str]) -> bool:
    return any(word in answer.errorMsg for word in words)


def _refusal(answer: _Answer) -> Exception:
    """STO's words may repeat what was sent: its code alone is told."""
    return refused(f"carrier.sto.{answer.errorCode or 'refused'}", answer.errorCode)


def _form(body: bytes) -> dict[str, str]:
    """The two fields that matter. What is not a form is empty: neither authentic nor intelligible."""
    fields = parse_qs(body.decode(errors="replace"))
    return {name: fields.get(name, [""])[0] for name in ("content", "data_digest")}


def adapter(account: Account) -> STO:
    return STO(account)
