"""Cainiao's electronic waybills (菜鸟电子面单): waybill numbers of any courier by TOP, traces by LINK.

Sources: the generated SDKs of TOP (cainiao.waybill.ii.get, .query.by.tradecode, .cancel, .delivery) for names and
limits of fields; public clients of LINK (digest, CNTECH_LV_LOGISTICS_DETAIL_GET and its ``fullTraceDetail``); the list
of statuses of TMS_PRACTICE_TRACE_INFO, to which Cainiao says it will add. A repeated request for the same order and
package returns the first waybill number. Unverified: which of the two forms of traces a push takes (both are read) and
its acknowledgement; the names of statuses (``SIGN``) and LINK's error codes, from general knowledge; that a cancelled
number is not found again. cainiao.waybill.ii.delivery, which returns a parcel, is documented only for parcels held near
their recipient (极效前置): Cainiao may refuse others.

Account: ``base_url`` ``https://eco.taobao.com``; secrets ``app_key``, ``app_secret``, ``session`` as for Taobao,
``link_token`` (LINK's ``logistic_provider_id``), ``link_secret``, ``push_secret`` (the end of the push URL); settings
``courier`` (named as carriers are here), ``cp_code`` if Cainiao's code is not that name in capitals, ``template_url``,
``user_id`` (the seller's, a number), ``app_code`` (with LINK), ``link_url`` (``https://link.cainiao.com``) if LINK has
another address than ``base_url``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field
from temporalio.exceptions import ApplicationError

from activities.carriers import (
    PushAnswer,
    Scans,
    authenticate,
    check_signature,
    compact_json,
    form_fields,
    is_mobile,
    is_return,
    mask_personal_data,
    md5_base64,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Model, Text, decode
from activities.vendors.gateway import documented_format
from activities.vendors.top import Top
from models.accounts import PUSH_SECRET, RENEWED, AccountFields, secret, setting
from models.address import Addressee
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="cainiao",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        secret("session"),
        *RENEWED,
        secret("link_token"),
        secret("link_secret"),
        PUSH_SECRET,
        setting("courier", required=True),
        setting("cp_code"),
        setting("template_url"),
        setting("user_id", int | str),
        setting("app_code"),
        setting("link_url"),
        setting("sign_method", Literal["md5", "hmac", "hmac-sha256"]),
    ),
    base_url="https://eco.taobao.com",
)

LABEL_HOSTS = ("cainiao.com",)
LANG = "zh-CN"
"""Of its labels, whoever prints them."""
_GOODS = 100
_OTHER_CHANNEL = "OTHERS"
"""The goods were sold on a platform whose addresses Cainiao does not decrypt."""
_RETURN_TO_SENDER = "-1"
_TRANSIENT_CODES = {"S06", "S07", "S08", "S09"}
_NO_RECORD = re.compile(r"暂无|不存在|没有")

_STATUS: dict[str, TrackingStatus | None] = {
    "WAIT_ACCEPT": TrackingStatus.LABEL_CREATED,
    **dict.fromkeys(("00", "ACCEPT"), TrackingStatus.PICKED_UP),
    **dict.fromkeys(("01", "02", "13", "TRANSPORT"), TrackingStatus.IN_TRANSIT),
    "03": TrackingStatus.AT_DESTINATION,
    **dict.fromkeys(("04", "DELIVERING"), TrackingStatus.OUT_FOR_DELIVERY),
    "AGENT_SIGN": TrackingStatus.READY_FOR_PICKUP,
    **dict.fromkeys(("05", "FAILED"), TrackingStatus.DELIVERY_FAILED),
    **dict.fromkeys(("06", "REJECT"), TrackingStatus.REFUSED),
    **dict.fromkeys(("07", "SIGN"), TrackingStatus.DELIVERED),
    **dict.fromkeys(("08", "09", "10", "12"), TrackingStatus.RETURNING),
    "11": TrackingStatus.RETURNED,
}
_PROBLEMS = (
    (re.compile(r"丢失|遗失"), ExceptionKind.LOST),
    (re.compile(r"破损|损坏"), ExceptionKind.DAMAGED),
    (re.compile(r"地址(错误|有误|不详|不清)"), ExceptionKind.WRONG_ADDRESS),
)


def _unwrap_list(value: Any) -> Any:
    """Unwrap a list: TOP puts it in an object with one key, and omits an empty list."""
    return next(iter(value.values()), []) if isinstance(value, dict) else value or []


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value else value or {}


_PUSH_FIELDS = ("msg_type", "logistics_interface", "data_digest")


class _Place(BaseModel):
    name: Text = ""


class _Routing(BaseModel):
    routeCode: Text = ""
    sortation: _Place = _Place()
    consolidation: _Place = _Place()
    origin: _Place = _Place()


class _Contents(BaseModel):
    routingInfo: _Routing = _Routing()


class _PrintData(BaseModel):
    templateURL: Text = ""
    data: _Contents = _Contents()


class _Booked(BaseModel):
    waybill_code: Code
    print_data: Annotated[_PrintData, BeforeValidator(_parsed)] = _PrintData()


class _Waybills(BaseModel):
    modules: Annotated[list[_Booked], BeforeValidator(_unwrap_list)] = []


class _Found(BaseModel):
    success: bool = False
    waybill_cloud_print_response: _Booked | None = None


class _Search(BaseModel):
    modules: Annotated[list[_Found], BeforeValidator(_unwrap_list)] = []


class _Trace(BaseModel):
    at: ChinaTime = Field(validation_alias=AliasChoices("time", "operateTime"))
    code: Text = Field("", validation_alias=AliasChoices("logisticsStatus", "status"))
    text: Text = Field("", validation_alias=AliasChoices("desc", "operateDescription"))
    place: Text = Field("", validation_alias=AliasChoices("areaName", "orgName", "city"))

    def scan(self, waybill_no: str, carrier: str) -> Scan:
        status = _STATUS.get(self.code)
        if status is TrackingStatus.DELIVERED and is_return(self.text):
            status = TrackingStatus.RETURNED
        return Scan(
            waybill_no=waybill_no,
            scan_id=f"{self.code}:{self.at.isoformat()}",
            status=status,
            code=self.code,
            at=self.at,
            place=self.place,
            text=mask_personal_data(self.text),
            exception=next((kind for pattern, kind in _PROBLEMS if pattern.search(self.text)), None),
            carrier=carrier,
            unknown=bool(self.code) and self.code not in _STATUS,
        )


_Routes = Annotated[list[Any], BeforeValidator(lambda value: value or []), Field(max_length=500)]


class _Traces(BaseModel):
    cpCode: Text = ""
    fullTraceDetail: _Routes = []
    operationDetails: _Routes = []

    def scans(self, waybill_no: str, carrier: str) -> Scans:
        name = "fullTraceDetail" if self.fullTraceDetail else "operationDetails"
        routes = self.fullTraceDetail or self.operationDetails
        return read_each(_Trace, routes, name, lambda trace: trace.scan(waybill_no, carrier))


class _TraceAnswer(_Traces):
    success: bool = False
    errorCode: Text = ""
    errorMsg: Text = ""


class _Push(_Traces):
    mailNo: Code


def digest(interface: str, secret: str) -> str:
    """Return LINK's ``data_digest``."""
    return md5_base64(interface + secret)


def _contact(person: Addressee) -> dict[str, Any]:
    phone = person.national_phone
    return {
        "name": person.name,
        "mobile" if is_mobile(phone) else "phone": phone,
        "address": {
            "province": person.province,
            "city": person.city,
            "district": person.district,
            "town": person.town,
            "detail": person.street,
        },
    }


class Cainiao:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        return ()

    async def book(self, booking: Booking) -> Waybill:
        settings = self._account.settings
        package = {
            "id": booking.reference.replace("-", "_"),
            "items": [{"name": line.sku, "count": line.quantity} for line in booking.goods[:_GOODS]],
            "weight": int(booking.weight_kg * 1000),
            "goods_description": booking.goods[0].sku if booking.goods else "",
        }
        order: dict[str, Any] = {
            "object_id": booking.reference,
            "order_info": {"order_channels_type": _OTHER_CHANNEL, "trade_order_list": [booking.reference]},
            "package_info": package,
            "recipient": _contact(booking.recipient),
            "template_url": str(settings.get("template_url", "")),
            "user_id": str(settings.get("user_id", "")),
        }
        if booking.cash_on_delivery:
            order["logistics_services"] = json.dumps({"SVC-COD": {"value": str(booking.cash_on_delivery)}})
        parameters = {
            "cp_code": self._cp_code,
            "sender": _contact(booking.sender),
            "trade_order_info_dtos": [order],
            "need_encrypt": False,
        }
        answer = await self._call_top("get", param_waybill_cloud_print_apply_new_request=compact_json(parameters))
        modules = _parse(_Waybills, answer).modules
        if not modules:
            raise unavailable("error.no_waybill_yet", vendor="cainiao")
        return self._waybill(booking.reference, modules[0])

    async def find(self, reference: str) -> Waybill | None:
        parameters = [{"biz_sub_code": reference, "object_id": reference}]
        search = _parse(_Search, await self._call_top("query.by.tradecode", param_list=compact_json(parameters)))
        booked = (each.waybill_cloud_print_response for each in search.modules if each.success)
        return next((self._waybill(reference, each) for each in booked if each is not None), None)

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        if not waybill_no:
            found = await self.find(reference)
            if found is None:
                return
            waybill_no = found.waybill_no
        answer = await self._call_top("cancel", cp_code=self._cp_code, waybill_code=waybill_no)
        if answer.get("cancel_result") is not True and await self.find(reference) is not None:
            raise refused("carrier.cainiao.not_cancelled", "cancel_result")

    async def intercept(self, reference: str, waybill_no: str) -> None:
        await self._call_top(
            "delivery", cp_code=self._cp_code, waybill_code=waybill_no, delivery_action=_RETURN_TO_SENDER
        )

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        parameters = {"appCode": str(self._account.settings.get("app_code", "")), "cpCode": self._cp_code}
        interface = compact_json({"arg0": {**parameters, "mailNo": waybill_no, "receiverPhone": phone}})
        form = {
            "msg_type": "CNTECH_LV_LOGISTICS_DETAIL_GET",
            "to_code": "CNTECH_LV",
            "logistic_provider_id": self._account.secrets["link_token"],
            "data_digest": digest(interface, self._account.secrets["link_secret"]),
            "logistics_interface": interface,
        }
        url = str(self._account.settings.get("link_url") or self._account.base_url).rstrip("/")
        response = await http.send("POST", f"{url}/gateway/link.do", data=form)
        answer = read_response("cainiao", _TraceAnswer, response.content)
        if not answer.success:
            if answer.errorCode in _TRANSIENT_CODES:
                raise unavailable("error.unavailable", vendor="cainiao", code=answer.errorCode)
            if not _NO_RECORD.search(answer.errorMsg):
                raise refusal("cainiao", answer.errorCode)
        with documented_format("cainiao"):
            scans = answer.scans(waybill_no, self._carrier(answer.cpCode))
        return scans

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = form_fields(body, *_PUSH_FIELDS)
        expected = digest(form["logistics_interface"], self._account.secrets["link_secret"])
        check_signature("data_digest", expected, form["data_digest"])
        return Receipt(fact_key=sha256(form["logistics_interface"].encode()).hexdigest(), topic=form["msg_type"])

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"success":true,"errorCode":"","errorMsg":""}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, form_fields(body, *_PUSH_FIELDS)["logistics_interface"].encode())
        return push.scans(push.mailNo, self._carrier(push.cpCode))

    @property
    def _courier(self) -> str:
        return str(self._account.settings.get("courier", ""))

    def _carrier(self, cp_code: str) -> str:
        """Return the courier with a code of Cainiao's; empty if Cainiao names none."""
        return self._courier if cp_code == self._cp_code else cp_code.lower()

    @property
    def _cp_code(self) -> str:
        return str(self._account.settings.get("cp_code") or self._courier.upper())

    def _waybill(self, reference: str, booked: _Booked) -> Waybill:
        routing = booked.print_data.data.routingInfo
        label = Label(
            route=routing.routeCode or routing.sortation.name,
            hub=routing.consolidation.name,
            origin=routing.origin.name,
            url=booked.print_data.templateURL,
            courier=self._courier,
        )
        return Waybill(carrier=self._account.source, waybill_no=booked.waybill_code, reference=reference, label=label)

    async def _call_top(self, interface: str, **business: str) -> dict[str, Any]:
        try:
            answer, _ = await Top(self._account).call(f"cainiao.waybill.ii.{interface}", **business)
        except ApplicationError as error:
            if error.type != "Refused":
                raise
            code = str(next(iter(error.details), ""))
            raise refusal("cainiao", code) from None
        return answer


def _parse(model: type[Model], answer: dict[str, Any]) -> Model:
    with documented_format("cainiao"):
        parsed = model.model_validate(answer)
    return parsed


def adapter(account: Account) -> Cainiao:
    return Cainiao(account)
