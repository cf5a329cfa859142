"""Kuaidi100 (快递100): tracks the parcels of any carrier. Forms as requests, signed pushes of the whole trace.

Sources: the official demos (kuaidi100-api on GitHub: query, subscription, autonumber), captured pushes, public
receivers of them (the meaning of ``status``, ``autoCheck``, the state codes 301 to 304 and 401, the responses of
autonumber). From general knowledge only: the other state codes of three and four digits, and the return codes of a
query. Not known: whether carriers other than SF and ZTO refuse a query without a phone.

A subscription ends by itself: a push with status ``shutdown`` (signed for) or ``abort`` (no record for 3 days, or no
change for 60) is its last. The topic of a push's receipt is this status: an aborted number may be subscribed to again
after half an hour, four times a month.

Account: ``base_url`` ``https://poll.kuaidi100.com`` (autonumber is at ``www`` instead of ``poll``); secrets
``customer``, ``key``, ``salt`` (ours: pushes are signed with it), ``push_secret`` (the end of the push URL); settings
``carrier_codes`` (codes of carriers that are not in ``CARRIERS``).
"""

from collections.abc import Mapping, Sequence
from hashlib import md5, sha256
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, TypeAdapter

from activities.carriers import (
    PushAnswer,
    authenticate,
    check_signature,
    classify_problem,
    compact_json,
    content_id,
    form_fields,
    is_return,
    mask_personal_data,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Text, decode
from activities.vendors.gateway import documented_format
from models.accounts import CODES_OF_CARRIERS, PUSH_SECRET, AccountFields, secret, setting
from models.exceptions import ExceptionKind
from models.fulfillment import Scan, TrackingStatus
from models.intake import Account, Receipt

ACCOUNT = AccountFields(
    console="kuaidi100",
    fields=(
        secret("customer"),
        secret("key", about="kuaidi100_key"),
        secret("salt"),
        PUSH_SECRET,
        CODES_OF_CARRIERS,
        setting("follow", list[str]),
        setting("push_url"),
    ),
    base_url="https://poll.kuaidi100.com",
)
LANG = "zh-CN"
"""Of its labels, whoever prints them."""

CARRIERS = {
    "sf": "shunfeng",
    "yto": "yuantong",
    "sto": "shentong",
    "zto": "zhongtong",
    "yunda": "yunda",
    "jdl": "jd",
    "ems": "ems",
}
_DETAILED = "4"
"""Requests the detailed code and the place of every step."""
_SUBSCRIBED = {"200", "501"}
"""Subscribed now, or already before."""

_STATUS: dict[str, TrackingStatus | None] = {
    **dict.fromkeys(("101", "102"), TrackingStatus.LABEL_CREATED),
    **dict.fromkeys(("1", "103"), TrackingStatus.PICKED_UP),
    **dict.fromkeys(("0", "7", "12", "1002", "1003", "201", "202", "208"), TrackingStatus.IN_TRANSIT),
    "1001": TrackingStatus.AT_DESTINATION,
    "5": TrackingStatus.OUT_FOR_DELIVERY,
    **dict.fromkeys(("205", "501"), TrackingStatus.READY_FOR_PICKUP),
    **dict.fromkeys(("3", "301", "302", "303", "304"), TrackingStatus.DELIVERED),
    **dict.fromkeys(("2", "204", "206", "207"), TrackingStatus.DELIVERY_FAILED),
    **dict.fromkeys(("14", "203"), TrackingStatus.REFUSED),
    "209": TrackingStatus.DAMAGED,
    "6": TrackingStatus.RETURNING,
    "4": TrackingStatus.RETURNED,
    **dict.fromkeys(("8", "10", "11", "13"), TrackingStatus.HELD_IN_CUSTOMS),
    **dict.fromkeys(("210", "401"), None),
}
"""By ``statusCode``; 210 and 401: the order was cancelled."""
_PROBLEMS = {
    "201": ExceptionKind.LATE,
    "202": ExceptionKind.NO_MOVEMENT,
    "205": ExceptionKind.STUCK,
    "208": ExceptionKind.STUCK,
}
_NAMES = {
    "在途": "0",
    "揽收": "1",
    "疑难": "2",
    "签收": "3",
    "退签": "4",
    "派件": "5",
    "退回": "6",
    "转投": "7",
    "清关": "8",
    "拒签": "14",
}
"""Codes by their names: accounts without detailed codes receive names only."""
_PUSH_FIELDS = ("param", "sign")


class _Step(BaseModel):
    at: ChinaTime = Field(validation_alias=AliasChoices("ftime", "time"))
    context: Text = ""
    status: Text = ""
    statusCode: Text = ""
    areaName: Text = ""

    def scan(self, waybill_no: str, carrier: str) -> Scan:
        code = self.statusCode or _NAMES.get(self.status, self.status)
        status, problem = _STATUS.get(code), _PROBLEMS.get(code)
        if status is TrackingStatus.DELIVERY_FAILED:
            status, problem = classify_problem(self.context)
        elif status is TrackingStatus.DELIVERED and is_return(self.context):
            status = TrackingStatus.RETURNED
        text = mask_personal_data(self.context)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.at, text),
            status=status,
            code=code,
            at=self.at,
            place=self.areaName,
            text=text,
            exception=problem,
            carrier=carrier,
            unknown=bool(code) and code not in _STATUS,
        )


class _Trace(BaseModel):
    nu: Text = ""
    com: Text = ""
    data: Annotated[list[Any], BeforeValidator(lambda value: value or []), Field(max_length=500)] = []


class _Answer(_Trace):
    """The response to a query or subscription; ``returnCode`` is set on failure, for subscriptions always."""

    result: bool = True
    returnCode: Text = ""


MaybeTrace = Annotated[_Trace | None, BeforeValidator(lambda value: value or None)]


class _Push(BaseModel):
    lastResult: MaybeTrace = None
    destResult: MaybeTrace = None
    """The part in the country of destination, for a parcel sent abroad."""


class _Head(BaseModel):
    status: Text = ""


class _Candidate(BaseModel):
    comCode: Code


_Candidates = TypeAdapter(list[_Candidate])


def sign(*parts: str) -> str:
    return md5("".join(parts).encode(), usedforsecurity=False).hexdigest().upper()


class Kuaidi100:
    def __init__(self, account: Account) -> None:
        self._account = account
        self._codes: dict[str, str] = {**CARRIERS, **account.settings.get("carrier_codes", {})}

    async def subscribe(self, waybill_no: str, carrier: str, phone: str, push_url: str) -> None:
        if carrier not in self._codes:
            raise refused("carrier.not_known", "not_known")
        secrets = self._account.secrets
        parameters = {"callbackurl": push_url, "salt": secrets["salt"], "resultv2": _DETAILED, "phone": phone}
        param = {"company": self._codes[carrier], "number": waybill_no, "key": secrets["key"], "parameters": parameters}
        answer = read_response("kuaidi100", _Answer, await self._post("poll", schema="json", param=compact_json(param)))
        if answer.returnCode == "500":
            raise unavailable("error.unavailable", vendor="kuaidi100", code="500")
        if answer.returnCode not in _SUBSCRIBED:
            raise refusal("kuaidi100", answer.returnCode)

    async def candidate_carriers(self, number: str) -> Sequence[str]:
        return [self._carrier(code) for code in await self._candidates(number)]

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """Query the candidate carriers, likeliest first, until one knows the number: a query must name a carrier."""
        for code in await self._candidates(waybill_no):
            if scans := await self._query(code, waybill_no, phone):
                return scans
        return ()

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = form_fields(body, *_PUSH_FIELDS)
        expected = sign(form["param"], self._account.secrets["salt"])
        check_signature("sign", expected, form["sign"].upper())
        try:
            topic = decode(_Head, form["param"].encode()).status
        except Unintelligible:
            topic = ""
        return Receipt(fact_key=sha256(body).hexdigest(), topic=topic or "trace")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body='{"result":true,"returnCode":"200","message":"成功"}'.encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """Return the whole trace so far, which may be empty for an aborted subscription."""
        push = decode(_Push, form_fields(body, *_PUSH_FIELDS)["param"].encode())
        traces = [trace for trace in (push.lastResult, push.destResult) if trace and trace.data]
        if not traces:
            return ()
        waybill_no = push.lastResult.nu if push.lastResult else ""
        if not waybill_no:
            raise Unintelligible("lastResult.nu", "invalid.waybill.missing")
        carrier = self._carrier(push.lastResult.com if push.lastResult else "")
        steps = [step for trace in traces for step in trace.data]
        return read_each(_Step, steps, "lastResult.data", lambda step: step.scan(waybill_no, carrier))

    def _carrier(self, code: str) -> str:
        """Return the carrier with a code of Kuaidi100's; the code itself if there is none."""
        return next((carrier for carrier, each in self._codes.items() if each == code), code)

    async def _query(self, company: str, waybill_no: str, phone: str) -> Sequence[Scan]:
        secrets = self._account.secrets
        param = compact_json(
            {"com": company, "num": waybill_no, "phone": phone, "resultv2": _DETAILED, "order": "desc"}
        )
        signature = sign(param, secrets["key"], secrets["customer"])
        content = await self._post("poll/query.do", customer=secrets["customer"], param=param, sign=signature)
        answer = read_response("kuaidi100", _Answer, content)
        match answer.returnCode:
            case "" if answer.result:
                carrier = self._carrier(company)
                with documented_format("kuaidi100"):
                    scans = read_each(_Step, answer.data, "data", lambda step: step.scan(waybill_no, carrier))
                return scans
            case "500":
                return ()
            case "501" | "502":
                raise unavailable("error.unavailable", vendor="kuaidi100", code=answer.returnCode)
            case code:
                raise refusal("kuaidi100", code)

    async def _candidates(self, number: str) -> Sequence[str]:
        """Return Kuaidi100's codes of the carriers that the number may belong to, the likeliest first."""
        content = await self._post("autonumber/auto", host="www", num=number, key=self._account.secrets["key"])
        if content.lstrip().startswith(b"["):
            with documented_format("kuaidi100"):
                candidates = _Candidates.validate_json(content)
            return [each.comCode for each in candidates]
        answer = read_response("kuaidi100", _Answer, content)
        if answer.returnCode == "201":
            return ()
        raise refusal("kuaidi100", answer.returnCode)

    async def _post(self, path: str, host: str = "poll", **form: str) -> bytes:
        base = self._account.base_url.rstrip("/").replace("://poll.", f"://{host}.", 1)
        return (await http.send("POST", f"{base}/{path}", data=form)).content


def adapter(account: Account) -> Kuaidi100:
    return Kuaidi100(account)
