"""Kuaidi100 (快递100): follows the parcels of any carrier. Forms out, and signed pushes of the whole trace in.

Sources: the official demos (kuaidi100-api on GitHub: query, subscription, autonumber), captured pushes, public
receivers of them (the meaning of ``status``, ``autoCheck``, the state codes 301 to 304 and 401, the answers of
autonumber). From general knowledge only: the other state codes of three and four digits, and the return codes of a
query. Not known: whether a query without a phone is refused for others than SF and ZTO.

A subscription ends by itself: a push with status ``shutdown`` (signed for) or ``abort`` (no record for 3 days, or no
change for 60) is its last. The topic of a push's receipt is this status: an aborted number may be subscribed to again
after half an hour, four times a month.

Account: ``base_url`` ``https://poll.kuaidi100.com`` (autonumber is asked at ``www`` instead of ``poll``); secrets
``customer``, ``key``, ``salt`` (ours: pushes are signed with it), ``push_secret`` (the end of the push URL); settings
``carrier_codes``: its codes of carriers that are not in ``CARRIERS``.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import md5, sha256
from hmac import compare_digest
from typing import Annotated, Any
from urllib.parse import parse_qs

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from activities.carriers import PushAnswer, authenticate, content_id, masked, trouble
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import ChinaTime, Code, Model, Text, decode
from models.exceptions import ExceptionKind
from models.fulfillment import Scan, TrackingStatus
from models.intake import Account, Receipt

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
"""Each step of a trace with its detailed code and its place."""
_SUBSCRIBED = {"200", "501"}
"""It is now, or was already."""

_STATUS = {
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
}
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
"""Codes by their names, which alone are told to accounts without the detailed ones."""


class _Step(BaseModel):
    at: ChinaTime = Field(validation_alias=AliasChoices("ftime", "time"))
    context: Text = ""
    status: Text = ""
    statusCode: Text = ""
    areaName: Text = ""

    def scan(self, waybill_no: str) -> Scan:
        code = self.statusCode or _NAMES.get(self.status, self.status)
        status, problem = _STATUS.get(code), _PROBLEMS.get(code)
        if status is TrackingStatus.DELIVERY_FAILED:
            status, problem = trouble(self.context)
        elif status is TrackingStatus.DELIVERED and "退回" in self.context:
            status = TrackingStatus.RETURNED
        text = masked(self.context)
        return Scan(
            waybill_no=waybill_no,
            scan_id=content_id(self.at, text),
            status=status,
            code=code,
            at=self.at,
            place=self.areaName,
            text=text,
            exception=problem,
        )


class _Trace(BaseModel):
    nu: Text = ""
    data: Annotated[list[_Step], BeforeValidator(lambda value: value or []), Field(max_length=500)] = []


class _Answer(_Trace):
    """What a query finds or a subscription says; ``returnCode`` where it went wrong, and with a subscription always."""

    result: bool = True
    returnCode: Text = ""


MaybeTrace = Annotated[_Trace | None, BeforeValidator(lambda value: value or None)]


class _Push(BaseModel):
    lastResult: MaybeTrace = None
    destResult: MaybeTrace = None
    """The part in the country of destination, of a parcel that goes abroad."""


class _Head(BaseModel):
    status: Text = ""


class _Guess(BaseModel):
    comCode: Code


_Guesses = TypeAdapter(list[_Guess])


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
        answer = _read(_Answer, await self._post("poll", schema="json", param=_text(param)))
        if answer.returnCode == "500":
            raise unavailable("kuaidi100: 500")
        if answer.returnCode not in _SUBSCRIBED:
            raise _refusal(answer.returnCode)

    async def recognise(self, number: str) -> Sequence[str]:
        ours = {code: carrier for carrier, code in self._codes.items()}
        return [ours.get(code, code) for code in await self._guesses(number)]

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """What it knows of the number with the likeliest carrier that knows it: a query must name one."""
        for code in await self._guesses(waybill_no):
            if found := await self._query(code, waybill_no, phone):
                return found
        return ()

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        form = _form(body)
        expected = sign(form["param"], self._account.secrets["salt"])
        if not compare_digest(expected.encode(), form["sign"].upper().encode()):
            raise Unauthentic("sign: does not match")
        try:
            topic = decode(_Head, form["param"].encode()).status
        except Unintelligible:
            topic = ""
        return Receipt(fact_key=sha256(body).hexdigest(), topic=topic or "trace")

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body='{"result":true,"returnCode":"200","message":"成功"}'.encode())

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """The whole trace so far; of a subscription that was aborted maybe nothing."""
        push = decode(_Push, _form(body)["param"].encode())
        traces = [trace for trace in (push.lastResult, push.destResult) if trace and trace.data]
        if not traces:
            return ()
        waybill_no = push.lastResult.nu if push.lastResult else ""
        if not waybill_no:
            raise Unintelligible("lastResult.nu", "expected the number of the parcel")
        return [step.scan(waybill_no) for trace in traces for step in trace.data]

    async def _query(self, code: str, waybill_no: str, phone: str) -> Sequence[Scan]:
        secrets = self._account.secrets
        param = _text({"com": code, "num": waybill_no, "phone": phone, "resultv2": _DETAILED, "order": "desc"})
        signed = sign(param, secrets["key"], secrets["customer"])
        answer = _read(
            _Answer, await self._post("poll/query.do", customer=secrets["customer"], param=param, sign=signed)
        )
        match answer.returnCode:
            case "" if answer.result:
                return [step.scan(waybill_no) for step in answer.data]
            case "500":
                return ()
            case "501" | "502":
                raise unavailable(f"kuaidi100: {answer.returnCode}")
            case fault:
                raise _refusal(fault)

    async def _guesses(self, number: str) -> Sequence[str]:
        """Its own codes of the carriers whose number it may be, the likeliest first."""
        content = await self._post("autonumber/auto", host="www", num=number, key=self._account.secrets["key"])
        if content.lstrip().startswith(b"["):
            try:
                return [each.comCode for each in _Guesses.validate_json(content)]
            except ValidationError:
                raise unavailable("kuaidi100: the answer is not in the format") from None
        answer = _read(_Answer, content)
        if answer.returnCode == "201":
            return ()
        raise _refusal(answer.returnCode)

    async def _post(self, path: str, host: str = "poll", **form: str) -> bytes:
        base = self._account.base_url.rstrip("/").replace("://poll.", f"://{host}.", 1)
        return (await http.send("POST", f"{base}/{path}", data=form)).content


def _text(param: dict[str, Any]) -> str:
    return json.dumps(param, ensure_ascii=False, separators=(",", ":"))


def _read(model: type[Model], content: bytes) -> Model:
    try:
        return decode(model, content)
    except Unintelligible:
        raise unavailable("kuaidi100: the answer is not in the format") from None


def _refusal(code: str) -> Exception:
    return refused(f"carrier.kuaidi100.{code or 'refused'}", code)


def _form(body: bytes) -> dict[str, str]:
    """The two fields that matter. What is not a form is empty: neither authentic nor intelligible."""
    fields = parse_qs(body.decode(errors="replace"))
    return {name: fields.get(name, [""])[0] for name in ("param", "sign")}


def adapter(account: Account) -> Kuaidi100:
    return Kuaidi100(account)
