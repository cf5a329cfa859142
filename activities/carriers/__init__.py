"""Carriers: one module per system, which holds its whole adapter.

The module named after its carrier defines ``adapter(account)``, which returns a ``Carrier``, an ``Aggregator`` or an
object that is both. Nothing is registered anywhere else.
"""

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from hashlib import md5, sha256
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import parse_qs

from pydantic import ValidationError
from temporalio.exceptions import ApplicationError

from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import Model, decode, unintelligible
from models.address import Addressee
from models.base import Value
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Offer, Scan, TrackingStatus, Waybill
from models.i18n import CATALOGUE
from models.intake import Account, Receipt


class PushAnswer(Value):
    """The response by which a carrier knows that its push arrived."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes


class Tracker(Protocol):
    """Tracks parcels."""

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        """Return the scans known now, in any order; an empty list if there are none. ``phone``: the last four digits of
        the recipient's phone, which some carriers require."""
        ...

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """Verify a push and return the key of its fact. Raise ``errors.Unauthentic``."""
        ...

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        """Return the acknowledgement of a committed push, in the format of the push."""
        ...

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """Return the scans of a push, in any order; ``Scans`` if there can be several. Raise
        ``errors.Unintelligible`` if no route can be read."""
        ...


@runtime_checkable
class Carrier(Tracker, Protocol):
    """Books parcels. Calls raise ``ApplicationError`` as described in ``activities.kit.errors``."""

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        """Return the carrier's offers; none if it makes no offers or does not serve the address."""
        ...

    async def book(self, booking: Booking) -> Waybill:
        """Book under ``booking.reference``; a repeated booking returns the first waybill."""
        ...

    async def find(self, reference: str) -> Waybill | None:
        """Return the waybill booked under our reference, if any."""
        ...

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Cancel the booking under our reference; a booking that is missing or already cancelled is no error.

        ``waybill_no`` is empty if no response to the booking was ever received.
        """
        ...

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Stop a parcel in transit and return it to the sender; repeating the request is no error. Raise ``refused`` if
        the carrier cannot."""
        ...


@runtime_checkable
class Aggregator(Tracker, Protocol):
    """Tracks the parcels of any carrier. Carriers are named as their modules here."""

    async def subscribe(self, waybill_no: str, carrier: str, phone: str, push_url: str) -> None:
        """Subscribe to pushes of each scan; subscribing again is no error. Raise ``refused`` for an unknown carrier."""
        ...

    async def candidate_carriers(self, number: str) -> Sequence[str]:
        """Return the carriers that a waybill number may belong to, the likeliest first; a carrier without a module here
        by the aggregator's own code."""
        ...


_PHONE = re.compile(r"(?<![A-Za-z\d])(?:\+?\d[\d-]{6,}\d|1[3-9]\d \d{4} \d{4})")
_NOBODY = re.compile(
    "正在|已|将|会|为|的|是|请|在|按|凭|电话|联系|上门|今[日天]|本人|家[人门]|门[卫口]|前台|物业|同[事学]|邻居|保安|他人|用户|客户|代[收签]"
)
"""Begins what follows a role, or stands after 由, without being a name."""
_PLACE = re.compile("(?:[店站柜点部室处岗亭房]|超市|丰巢|菜鸟|兔喜|妈妈驿站|中心|公司|学校|酒业|便利|快递|小区|生活)$")
_LONGEST_NAME = 6
"""In Han characters without a separator; longer words in brackets are places."""
_HAN = rf"(?!{_NOBODY.pattern})[㐀-鿿𠀀-𪛟]{{1,4}}(?:[·•‧・.．][㐀-鿿]{{1,10}})*"
_LATIN = "[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ .'’-]{0,60}"
_ROLE = (
    "(?:签收|收件|收货|取件|派件|派送|揽收|揽件|代收|代签|寄件|发件|配送|投递|收派|送货|快递|联系|操作)(?:人员|人|员|小哥)"
    "|业务员|营业员|小哥|骑手|骑士|司机|站长|店长|经办人|收方|寄方"
)
_OPEN, _CLOSE = r"[【\[「『（(<《]", r"[】\]」』）)>》]"
_AFTER_ROLE = re.compile(
    rf"((?:{_ROLE})\s*(?:[:：]|是)\s*{_OPEN}?\s*)([^\s,，。;；:：、!！(（){_CLOSE[1:-1]}{_OPEN[1:-1]}]{{1,30}})"
)
"""派件人:李四 · 签收人是【张三】 · 快递员：卫十四."""
_NAMED = (
    # 业务员李小明(****)已揽收 · 快递员 王五 正在派件 · 配送员【赵六】
    rf"((?:{_ROLE})\s*{_OPEN}?\s*)({_HAN}|{_LATIN}?)"
    rf"(?=\s*(?:{_OPEN}|{_CLOSE}|[，,。;；!！\s]|已|正|将|为|来|上门|派|揽|收|送|取|$))",
    # 快件已由【李小明】签收 · 被 张三 代收
    rf"([由被经]\s*)({_HAN}|{_LATIN}?)(?=\s*(?:代?签|代?收|代?领|取|揽|派|进行))",
    rf"([由被经是]\s*{_OPEN}\s*)([^{_CLOSE[1:-1]}]{{1,60}})(?=\s*{_CLOSE}\s*(?:代?签|代?收|代?领|取|揽|派|进行))",
    # 揽收任务已分配给李小明（****）
    rf"((?:分配|指派|安排|派|交|转|下发)给\s*{_OPEN}?\s*(?:{_ROLE})?\s*)({_HAN}|{_LATIN}?)"
    rf"(?=\s*(?:{_OPEN}|{_CLOSE}|[，,。;；!！\s]|进行|处理|派|揽|送|取|$))",
    # 【常熟】 的王翔（****） 正在第1次派件
    rf"((?:^|[的给{_CLOSE[1:-1]}\s，,。;；、:：]))({_HAN})(?=\s*{_OPEN}\s*(?:联系|手机|电话|号码|[:：\s])*\*{{4}})",
)
"""The phrasings in which Chinese carriers name a person, as their published and captured traces have them: the words
before the name, then the name."""
_NAMED_IN_ENGLISH = (
    r"((?:signed|received|accepted|picked up)(?: for)? by\s*[:-]?\s*)"
    rf"(?!(?:the|our|an?|usps|ups|fedex|dhl|carrier|courier|customer|agent|post|local|partner)\b)({_LATIN})",
    rf"((?:signature|signer|signatory|recipient|left with|courier|driver)\s*[:：]\s*)({_LATIN})",
)
_NAMES = (
    *(re.compile(each, re.MULTILINE) for each in _NAMED),
    *(re.compile(each, re.IGNORECASE) for each in _NAMED_IN_ENGLISH),
)
_MASK = "***"


def mask_personal_data(text: str, *names: str) -> str:
    """Mask the phones and names in a carrier's text; ``names`` are those that its own fields hold."""
    text = _PHONE.sub("****", text)
    for name in sorted(names, key=len, reverse=True):
        if len(name) > 1 and _may_be_name(name):
            text = text.replace(name, _MASK)
    text = _AFTER_ROLE.sub(lambda found: found[0] if found[2].startswith("本人") else f"{found[1]}{_MASK}", text)
    for phrasing in _NAMES:
        text = phrasing.sub(lambda found: f"{found[1]}{_MASK}" if _may_be_name(found[2]) else found[0], text)
    return text


def _may_be_name(text: str) -> bool:
    if _NOBODY.match(text) or _PLACE.search(text) or text.startswith("*"):
        return False
    return len(text) <= _LONGEST_NAME or not re.fullmatch("[㐀-鿿0-9]+", text)


class Scans(list[Scan]):
    """The scans of a push or a trace. ``fault`` is the first route among them that could not be read."""

    fault: Unintelligible | None = None


def read_each(model: type[Model], items: Sequence[Any], path: str, scan: Callable[[Model], Scan | Scans]) -> Scans:
    """Read each route, or each parcel with its routes, on its own, so that an odd one loses no other.

    Raise ``Unintelligible`` if there is a fault and nothing could be read.
    """
    scans = Scans()
    for number, item in enumerate(items):
        fault: Unintelligible | None = None
        try:
            found = scan(model.model_validate(item))
        except ValidationError as error:
            fault = unintelligible(error)
        except Unintelligible as error:
            fault = error
        else:
            if isinstance(found, Scans):
                scans.extend(found)
                fault = found.fault
            else:
                scans.append(found)
        if fault is not None and scans.fault is None:
            fault.field = f"{path}[{number}].{fault.field}"
            scans.fault = fault
    if scans.fault is not None and not scans:
        raise scans.fault
    return scans


_LOST = re.compile("丢失|遗失")
_WRONG_ADDRESS = re.compile("地址(?:不详|不清|不全|错误|有误)")


def classify_problem(text: str) -> tuple[TrackingStatus, ExceptionKind | None]:
    """Return the status of a scan whose code only says that there is a problem, by the carrier's text."""
    if contains_any(text, ("拒收", "拒签")):
        return TrackingStatus.REFUSED, None
    if _LOST.search(text):
        return TrackingStatus.LOST, None
    if "破损" in text:
        return TrackingStatus.DAMAGED, None
    return TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS if _WRONG_ADDRESS.search(text) else None


def is_return(text: str) -> bool:
    """Return whether a signature, by the carrier's text or the signer, is the sender's for a returned parcel."""
    return contains_any(text, ("退回", "退件")) or text.startswith("退")


def contains_any(text: str, words: Collection[str]) -> bool:
    """Return whether a carrier's text contains one of these words: for responses whose codes are not documented."""
    return any(word in text for word in words)


def content_id(at: datetime, text: str) -> str:
    """Return an id for a scan without one: its time and a digest of its masked text."""
    return f"{at.isoformat()}:{sha256(text.encode()).hexdigest()[:12]}"


def display_name(name: str) -> str:
    """Return the ``NAME`` of a carrier's module; its code in capitals if it has none."""
    try:
        return str(getattr(import_module(f"activities.carriers.{name}"), "NAME", name.upper()))
    except ModuleNotFoundError:
        return name.upper()


def label_language(name: str) -> str | None:
    """Return the ``LANG`` of a carrier's module, in which its couriers read labels; ``None`` if any will do."""
    try:
        return getattr(import_module(f"activities.carriers.{name}"), "LANG", None)
    except ModuleNotFoundError:
        return None


def label_hosts(name: str) -> Collection[str]:
    """Return the ``LABEL_HOSTS`` of a carrier's module: the hosts, with their subdomains, that serve its labels."""
    try:
        return tuple(getattr(import_module(f"activities.carriers.{name}"), "LABEL_HOSTS", ()))
    except ModuleNotFoundError:
        return ()


def contact(person: Addressee, *, district: str) -> dict[str, str]:
    """Return a sender or recipient as several carriers take it; they name the district differently."""
    return {
        "name": person.name,
        "mobile": person.national_phone,
        "province": person.province,
        "city": person.city,
        district: person.district,
        "address": person.full_street,
    }


def is_mobile(phone: str) -> bool:
    """Return whether a phone is a Chinese mobile number; several carriers take landlines in another field."""
    return len(phone) == 11 and phone.startswith("1")


def compact_json(value: Any) -> str:
    """Return JSON without spaces, keys in the given order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def md5_base64(text: str) -> str:
    """Return the MD5 digest of a text in base64: the signature of several carriers."""
    return b64encode(md5(text.encode(), usedforsecurity=False).digest()).decode()


def form_fields(body: bytes, *names: str) -> dict[str, str]:
    """Return these fields of a form; missing fields are empty, and so are all of a body that is not a form."""
    fields = parse_qs(body.decode(errors="replace"))
    return {name: fields.get(name, [""])[0] for name in names}


def read_response(source: str, model: type[Model], content: bytes) -> Model:
    """Decode a carrier's response. Raise ``unavailable`` if it is not in the documented format."""
    try:
        return decode(model, content)
    except Unintelligible:
        raise unavailable("error.malformed", vendor=source) from None


def refusal(source: str, code: str) -> ApplicationError:
    """Return the error for a refused request. It names the carrier's code only: its text may repeat what was sent."""
    published = f"carrier.{source}.{code}"
    if published in CATALOGUE["en"]:
        return refused(published, code)
    if not code:
        return refused("error.refused.unexplained", code, vendor=source)
    return refused("error.refused", code, vendor=source, code=code)


def cannot_intercept() -> ApplicationError:
    """Return the error of a carrier without an interface for interception."""
    return refused("carrier.cannot_intercept", "cannot_intercept")


def authenticate(account: Account, secret: str) -> None:
    """Check the secret at the end of a push's URL in constant time. Raise ``Unauthentic``."""
    expected = account.secrets.get("push_secret", "")
    if not (expected and hmac.compare_digest(expected.encode(), secret.encode())):
        raise Unauthentic("secret: does not match")


def check_signature(field: str, expected: str, given: str) -> None:
    """Compare a push's signature in constant time. Raise ``Unauthentic``, which names the field."""
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise Unauthentic(f"{field}: does not match")


def tracker(account: Account) -> Tracker:
    """Return the adapter of an account. Raise ``ModuleNotFoundError`` if there is none."""
    return cast(Tracker, import_module(f"activities.carriers.{account.source}").adapter(account))


def carrier(account: Account) -> Carrier:
    """Return the adapter of an account that books. Raise ``ApplicationError`` if it only tracks."""
    found = tracker(account)
    if not isinstance(found, Carrier):
        raise refused("carrier.does_not_book", "does_not_book")
    return found
