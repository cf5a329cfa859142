"""STO Express (申通): one signed gateway in both directions.

Sources: the push document of open.sto.cn (STO_TRACE_PLATFORM_PUSH) as public receivers quote it, ``scanType`` (of
parcels at home and abroad) by STO's help centre as public maps have it (OLTS mappings/cn/sto.csv), the gateway's form
and digest as public clients send it. From general knowledge only: the fields of OMS_EXPRESS_ORDER_CREATE and its answer
(``bigWord``, ``packagePlace``), of GET_ORDERDISPATCH_INFO, of EDI_MODIFY_ORDER_CANCEL and of STO_TRACE_QUERY_COMMON;
that a repeated order is refused with a text such as ``重复`` or ``已存在``. No interface for interception was found.

Account: ``base_url`` ``https://cloudinter-linkgateway.sto.cn/gateway/link.do``; secrets ``app_key``, ``secret``,
``push_secret`` (the end of the push URL), ``site_code``, ``customer_name``, ``site_pwd``; settings ``code``
(``from_code`` where it is not the app key), ``month_code``.
"""

from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from activities.carriers import (
    PushAnswer,
    authenticate,
    cannot_intercept,
    check_signature,
    classify_problem,
    compact_json,
    contact,
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
from activities.kit.payloads import ChinaTime, Code, Text, decode
from activities.vendors.gateway import documented_format
from models.accounts import PUSH_SECRET, AccountFields, secret, setting
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="sto",
    fields=(
        secret("app_key"),
        secret("secret", about="app_secret"),
        PUSH_SECRET,
        secret("site_code", required=False),
        secret("customer_name", required=False),
        secret("site_pwd", required=False),
        setting("code"),
        setting("month_code", int | str),
    ),
    base_url="https://cloudinter-linkgateway.sto.cn/gateway/link.do",
)

NAME = "申通快递"
LANG = "zh-CN"
"""Of its labels, whoever prints them."""
_STATUS: dict[str, TrackingStatus | None] = {
    **dict.fromkeys(("收件", "PU_PICKUP_SUCCESS"), TrackingStatus.PICKED_UP),
    **dict.fromkeys(("发件", "到件", "转邮", "转同行"), TrackingStatus.IN_TRANSIT),
    **dict.fromkeys(
        ("MOT_TRANSIT", "SC_INBOUND_SUCCESS", "SC_ORDER_WEIGHT", "SC_ORDER_PACKET_SUCCESS", "SC_ORDER_PACKET_OUT"),
        TrackingStatus.IN_TRANSIT,
    ),
    **dict.fromkeys(("LH_DEPART", "LH_ARRIVE", "CC_START", "CC_IM_SUCCESS", "GOT"), TrackingStatus.IN_TRANSIT),
    **dict.fromkeys(("CC_IM_START", "CC_IM_FAILURE"), TrackingStatus.HELD_IN_CUSTOMS),
    **dict.fromkeys(("派件", "第三方代派", "快件取出"), TrackingStatus.OUT_FOR_DELIVERY),
    **dict.fromkeys(("柜机代收", "驿站代收", "驿站出库"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("签收", "客户签收"), TrackingStatus.DELIVERED),
    "问题件": TrackingStatus.DELIVERY_FAILED,
    "退回件": TrackingStatus.RETURNING,
    **dict.fromkeys(("改地址件", "SC_ORDER_PAY_SUCCESS"), None),
}
"""驿站出库 leaves open whether the buyer or a courier took the parcel; 签收 is the buyer's signature. GOT: handed over
after customs."""
_TRANSIENT_CODES = {"S05", "S07", "SYSTEM_ERROR"}
_DUPLICATE = ("重复", "已存在")
_ALREADY_CANCELLED = ("不存在", "已取消")
_PUSH_FIELDS = ("content", "data_digest")


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
    bizEmpName: Text = ""

    def scan(self, waybill_no: str) -> Scan:
        text = " ".join(part for part in (self.memo, self.issueName) if part)
        status, exception = _STATUS.get(self.scanType), None
        if status is TrackingStatus.DELIVERY_FAILED:
            status, exception = classify_problem(text)
        elif status is TrackingStatus.DELIVERED and (is_return(text) or is_return(self.signoffPeople)):
            status = TrackingStatus.RETURNED
        text = mask_personal_data(text, self.signoffPeople, self.bizEmpName)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.opTime, f"{self.scanType}{text}"),
            status=status,
            code=self.scanType,
            at=self.opTime,
            place=self.opOrgCityName or self.opOrgName,
            text=text,
            exception=exception,
            unknown=bool(self.scanType) and self.scanType not in _STATUS,
        )


class _Push(BaseModel):
    waybillNo: Code
    trace: _Trace


def digest(content: str, secret: str) -> str:
    return md5_base64(content + secret)


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
            "sender": contact(booking.sender, district="area"),
            "receiver": contact(booking.recipient, district="area"),
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
        answer = await self._call("OMS_EXPRESS_ORDER_CREATE", "sto_oms", content)
        if not answer.success:
            first = await self.find(booking.reference) if contains_any(answer.errorMsg, _DUPLICATE) else None
            if first is None:
                raise refusal("sto", answer.errorCode)
            return first
        waybill = self._waybill(booking.reference, answer)
        if waybill is None:
            raise unavailable("error.no_waybill_yet", vendor="sto")
        return waybill

    async def find(self, reference: str) -> Waybill | None:
        answer = await self._call("GET_ORDERDISPATCH_INFO", "sto_oms", {"orderId": reference})
        return self._waybill(reference, answer) if answer.success else None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        content = {"sourceOrderId": reference, "billCode": waybill_no, "orderType": "01"}
        answer = await self._call("EDI_MODIFY_ORDER_CANCEL", "edi_modify_order", content)
        if not answer.success and not contains_any(answer.errorMsg, _ALREADY_CANCELLED):
            raise refusal("sto", answer.errorCode)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Always refuse: no interface for it is known."""
        raise cannot_intercept()

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        content = {"order": "asc", "waybillNoList": [waybill_no]}
        answer = await self._call("STO_TRACE_QUERY_COMMON", "sto_trace_query", content)
        if not answer.success:
            raise refusal("sto", answer.errorCode)
        with documented_format("sto"):
            traces = list((answer.data or {}).get(waybill_no) or [])
            scans = read_each(_Trace, traces, waybill_no, lambda trace: trace.scan(waybill_no))
        return scans

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """``outBizCode`` identifies a push; STO repeats a push that was not acknowledged in time."""
        authenticate(self._account, secret)
        form = form_fields(body, *_PUSH_FIELDS)
        expected = digest(form["content"], self._account.secrets["secret"])
        check_signature("data_digest", expected, form["data_digest"])
        key = md5(form["content"].encode(), usedforsecurity=False).hexdigest()
        return Receipt(fact_key=key, topic="trace")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"success":"true","errorCode":"","errorMsg":""}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, form_fields(body, *_PUSH_FIELDS)["content"].encode())
        return [push.trace.scan(push.waybillNo)]

    @property
    def _code(self) -> str:
        return str(self._account.settings.get("code", self._account.secrets["app_key"]))

    def _waybill(self, reference: str, answer: _Answer) -> Waybill | None:
        with documented_format("sto"):
            booked = _Booked.model_validate(answer.data or {})
        if not booked.waybillNo:
            return None
        label = Label(route=booked.bigWord, hub=booked.packagePlace)
        return Waybill(carrier=self._account.source, waybill_no=booked.waybillNo, reference=reference, label=label)

    async def _call(self, api: str, to: str, content: Mapping[str, Any]) -> _Answer:
        text = compact_json(content)
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
        answer = read_response("sto", _Answer, response.content)
        if answer.errorCode in _TRANSIENT_CODES:
            raise unavailable("error.unavailable", vendor="sto", code=answer.errorCode)
        return answer


def adapter(account: Account) -> STO:
    return STO(account)
