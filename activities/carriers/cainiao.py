"""Cainiao's electronic waybills (菜鸟电子面单): numbers of whichever courier by TOP, traces by LINK.

Sources: the generated SDKs of TOP (cainiao.waybill.ii.get, .query.by.tradecode, .cancel, .delivery) for names and
limits of fields; public clients of LINK (digest, CNTECH_LV_LOGISTICS_DETAIL_GET and its ``fullTraceDetail``); the list
of statuses of TMS_PRACTICE_TRACE_INFO, of which Cainiao says that new ones appear. Asked again for the same order and
package, Cainiao answers with the first number. Unverified: which of the two forms of traces a push takes (both are
read) and the answer it wants; the words for a status (``SIGN``) and LINK's error codes, from general knowledge; that a
number once cancelled is not found again. cainiao.waybill.ii.delivery, which turns a parcel round, is documented for
parcels held near their recipient (极效前置) only: for others it is to be expected that Cainiao refuses.

Account: ``base_url`` ``https://eco.taobao.com``; secrets ``app_key``, ``app_secret``, ``session`` as for Taobao,
``link_token`` (LINK's ``logistic_provider_id``), ``link_secret``, ``push_secret`` (the end of the push URL); settings
``courier`` (who carries, named as carriers are here), ``cp_code`` where Cainiao's code is not that name in capitals,
``template_url``, ``user_id`` (the seller's, a number), ``app_code`` (with LINK), ``link_url``
(``https://link.cainiao.com``) where LINK is elsewhere than ``base_url``.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from hashlib import md5, sha256
from hmac import compare_digest
from typing import Annotated, Any
from urllib.parse import parse_qs

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError
from temporalio.exceptions import ApplicationError

from activities.carriers import PushAnswer, authenticate, masked
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Model, Text, decode
from activities.vendors.top import Top
from models.address import Addressee
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt

_GOODS = 100
_ELSEWHERE = "OTHERS"
"""The goods were sold on a platform that Cainiao does not decrypt addresses of."""
_TURN_ROUND = "-1"
_PASSING = {"S06", "S07", "S08", "S09"}
_NOTHING = re.compile(r"暂无|不存在|没有")

_STATUS = {
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


def _listed(value: Any) -> Any:
    """TOP wraps a list in an object that names its kind; an empty one omits it."""
    return next(iter(value.values()), []) if isinstance(value, dict) else value or []


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value else value or {}


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


class _Answered(BaseModel):
    modules: Annotated[list[_Booked], BeforeValidator(_listed)] = []


class _Found(BaseModel):
    success: bool = False
    waybill_cloud_print_response: _Booked | None = None


class _Search(BaseModel):
    modules: Annotated[list[_Found], BeforeValidator(_listed)] = []


class _Trace(BaseModel):
    at: ChinaTime = Field(validation_alias=AliasChoices("time", "operateTime"))
    code: Text = Field("", validation_alias=AliasChoices("logisticsStatus", "status"))
    words: Text = Field("", validation_alias=AliasChoices("desc", "operateDescription"))
    place: Text = Field("", validation_alias=AliasChoices("areaName", "orgName", "city"))

    def scan(self, waybill_no: str) -> Scan:
        return Scan(
            waybill_no=waybill_no,
            scan_id=f"{self.code}:{self.at.isoformat()}",
            status=_STATUS.get(self.code),
            code=self.code,
            at=self.at,
            place=self.place,
            text=masked(self.words),
            exception=next((kind for said, kind in _PROBLEMS if said.search(self.words)), None),
        )


class _Traces(BaseModel):
    traces: Annotated[list[_Trace], BeforeValidator(lambda value: value or []), Field(max_length=500)] = Field(
        [], validation_alias=AliasChoices("fullTraceDetail", "operationDetails")
    )


class _Told(_Traces):
    success: bool = False
    errorCode: Text = ""
    errorMsg: Text = ""


class _Push(_Traces):
    mailNo: Code


def digest(interface: str, secret: str) -> str:
    """LINK's ``data_digest``."""
    return base64.b64encode(md5((interface + secret).encode(), usedforsecurity=False).digest()).decode()


def _contact(person: Addressee) -> dict[str, Any]:
    phone = person.national_phone
    return {
        "name": person.name,
        "mobile" if len(phone) == 11 and phone.startswith("1") else "phone": phone,
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
            "order_info": {"order_channels_type": _ELSEWHERE, "trade_order_list": [booking.reference]},
            "package_info": package,
            "recipient": _contact(booking.recipient),
            "template_url": str(settings.get("template_url", "")),
            "user_id": str(settings.get("user_id", "")),
        }
        if booking.cash_on_delivery:
            order["logistics_services"] = json.dumps({"SVC-COD": {"value": str(booking.cash_on_delivery)}})
        asked = {
            "cp_code": self._cp_code,
            "sender": _contact(booking.sender),
            "trade_order_info_dtos": [order],
            "need_encrypt": False,
        }
        answer = await self._call("get", param_waybill_cloud_print_apply_new_request=_text(asked))
        modules = _understood(_Answered, answer).modules
        if not modules:
            raise unavailable("cainiao: no number among the answer")
        return self._waybill(booking.reference, modules[0])

    async def find(self, reference: str) -> Waybill | None:
        asked = [{"biz_sub_code": reference, "object_id": reference}]
        search = _understood(_Search, await self._call("query.by.tradecode", param_list=_text(asked)))
        booked = (each.waybill_cloud_print_response for each in search.modules if each.success)
        return next((self._waybill(reference, each) for each in booked if each is not None), None)

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        if not waybill_no:
            found = await self.find(reference)
            if found is None:
                return
            waybill_no = found.waybill_no
        answer = await self._call("cancel", cp_code=self._cp_code, waybill_code=waybill_no)
        if answer.get("cancel_result") is not True and await self.find(reference) is not None:
            raise refused("carrier.cainiao.not_cancelled", "cancel_result")

    async def intercept(self, reference: str, waybill_no: str) -> None:
        await self._call("delivery", cp_code=self._cp_code, waybill_code=waybill_no, delivery_action=_TURN_ROUND)

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        asked = {"appCode": str(self._account.settings.get("app_code", "")), "cpCode": self._cp_code}
        interface = _text({"arg0": {**asked, "mailNo": waybill_no, "receiverPhone": phone}})
        form = {
            "msg_type": "CNTECH_LV_LOGISTICS_DETAIL_GET",
            "to_code": "CNTECH_LV",
            "logistic_provider_id": self._account.secrets["link_token"],
            "data_digest": digest(interface, self._account.secrets["link_secret"]),
            "logistics_interface": interface,
        }
        url = str(self._account.settings.get("link_url") or self._account.base_url).rstrip("/")
        response = await http.send("POST", f"{url}/gateway/link.do", data=form)
        try:
            told = decode(_Told, response.content)
        except Unintelligible:
            raise unavailable("cainiao: the answer is not in the format") from None
        if not told.success:
            if told.errorCode in _PASSING:
                raise unavailable(f"cainiao: {told.errorCode}")
            if not _NOTHING.search(told.errorMsg):
                raise refused(f"carrier.cainiao.{told.errorCode or 'refused'}", told.errorCode)
        return [trace.scan(waybill_no) for trace in told.traces]

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = _form(body)
        expected = digest(form["logistics_interface"], self._account.secrets["link_secret"])
        if not compare_digest(expected.encode(), form["data_digest"].encode()):
            raise Unauthentic("data_digest: does not match")
        return Receipt(fact_key=sha256(form["logistics_interface"].encode()).hexdigest(), topic=form["msg_type"])

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"success":true,"errorCode":"","errorMsg":""}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        push = decode(_Push, _form(body)["logistics_interface"].encode())
        return [trace.scan(push.mailNo) for trace in push.traces]

    @property
    def _courier(self) -> str:
        return str(self._account.settings.get("courier", ""))

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

    async def _call(self, interface: str, **business: str) -> dict[str, Any]:
        try:
            answer, _ = await Top(self._account).call(f"cainiao.waybill.ii.{interface}", **business)
        except ApplicationError as error:
            if error.type != "Refused":
                raise
            code = str(next(iter(error.details), ""))
            raise refused(f"carrier.cainiao.{code or 'refused'}", code) from None
        return answer


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _understood(model: type[Model], answer: dict[str, Any]) -> Model:
    try:
        return model.model_validate(answer)
    except ValidationError:
        raise unavailable("cainiao: the answer is not in the format") from None


def _form(body: bytes) -> dict[str, str]:
    """The fields that matter. What is not a form is empty: neither authentic nor intelligible."""
    fields = parse_qs(body.decode(errors="replace"))
    return {name: fields.get(name, [""])[0] for name in ("msg_type", "logistics_interface", "data_digest")}


def adapter(account: Account) -> Cainiao:
    return Cainiao(account)
