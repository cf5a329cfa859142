"""Recipients and their addresses: the personal part of an order."""

import re
from decimal import Decimal
from functools import lru_cache
from typing import Annotated
from unicodedata import normalize

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from models.base import Neutral, Value
from models.i18n import InvalidValue

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]
LongText = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]
"""A part of an address as a channel states it: a longer one than carriers take is held, not cut."""
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2"), Neutral("ZZ")]
"""``ZZ``: unknown."""


_PHONE = re.compile(
    r"(?:tel:)?(\+?[\d\s().\-—/]+)(?:(?:;ext=|ext(?:ension|n)?\.?|[x#,\[]|转接?|分机号?)\s*:?\s*\d{1,8}]?)?", re.I
)


def is_phone(text: str) -> bool:
    """Whether somebody could dial a text: 7 to 20 digits in any spelling, with an extension or without."""
    found = _PHONE.fullmatch(normalize("NFKC", text.strip()))
    return found is not None and 7 <= sum(each.isdigit() for each in found[1]) <= 20


def _dialable(text: str) -> str:
    if text and not is_phone(text):
        raise InvalidValue("invalid.phone")
    return text


Phone = Annotated[Text, AfterValidator(_dialable)]
"""A phone as staff write it; empty: none. What channels send is never refused: cleansing judges it."""


_REGIONS = (
    ("北京", "天津", "河北", "山西", "内蒙"),
    ("辽宁", "吉林", "黑龙"),
    ("上海", "江苏", "浙江", "安徽", "福建", "江西", "山东", "台湾"),
    ("河南", "湖北", "湖南"),
    ("广东", "广西", "海南", "香港", "澳门"),
    ("重庆", "四川", "贵州", "云南", "西藏"),
    ("陕西", "甘肃", "青海", "宁夏", "新疆"),
)
"""Geographical regions of China. Two characters identify a province, with or without 省, 市 or 自治区."""


@lru_cache(4096)
def remoteness(province: str, other: str) -> int:
    """Return 0 in the same province, 1 in the same region, 2 elsewhere."""
    pair = {province[:2], other[:2]}
    return 0 if len(pair) == 1 else 1 if any(pair.issubset(region) for region in _REGIONS) else 2


ADDRESS = ("province", "city", "district", "town", "street")
_CHINESE = re.compile(r"(?:\+|00)86(\d+)|86(0\d{9,}|1[3-9]\d{9,})")
"""A Chinese number with its country code, without punctuation."""
_OWN_PREFIX = re.compile(r"0|1[3-9]\d{9}|[48]00\d{7}")
"""National numbers dialled without an added 0: those with a 0, mobile, 400 and 800 numbers."""


class Addressee(Value):
    """A person and address, as exchanged with channels and carriers."""

    name: LongText = ""
    phone: LongText = ""
    """After cleansing E.164, with an extension as in RFC 3966: ``+8613800000000;ext=1234``."""
    country: Country = "CN"
    province: LongText = ""
    city: LongText = ""
    district: LongText = ""
    town: LongText = ""
    street: LongText = ""
    postcode: LongText = ""

    @property
    def digits(self) -> str:
        """The phone for look-ups, equal for every spelling: digits only, without the Chinese country code."""
        number = re.sub(r"[^\d+]", "", normalize("NFKC", self.phone))
        chinese = _CHINESE.fullmatch(number)
        if chinese is None:
            return number.replace("+", "")
        national = chinese[1] or chinese[2]
        return national if _OWN_PREFIX.match(national) else f"0{national}"

    @property
    def national_phone(self) -> str:
        """The phone as dialled in China: ``13800000000``, ``0755-12345678``, with an extension after a hyphen."""
        number, _, extension = self.phone.partition(";ext=")
        digits = self.model_copy(update={"phone": number}).digits
        if number.startswith("+86") or re.fullmatch(r"1[3-9]\d{9}", number.replace(" ", "").replace("-", "")):
            number = re.sub(r"^(010|02\d|0\d{3})(?=\d{7,8}$)", r"\1-", digits)
        return f"{number}-{extension}" if extension else number or self.phone

    @property
    def full_street(self) -> str:
        """Town and street, for systems without a field for towns; once where the street begins with the town."""
        return self.street if self.town and self.street.startswith(self.town) else self.town + self.street

    @property
    def address(self) -> tuple[str, ...]:
        """The parts of the address, from the largest to the smallest."""
        return tuple(getattr(self, part) for part in ADDRESS)

    @property
    def region(self) -> str:
        """Country, province, city and district: coarse enough to show and to count by.

        A space separates the parts; a space within a part, as in New York, is a no-break space.
        """
        parts = (self.country, self.province, self.city, self.district)
        return " ".join("\N{NO-BREAK SPACE}".join(part.split()) for part in parts if part)


UNJUDGED: dict[str, object] = {"division": "", "confidence": None, "doubt": "", "told": ""}
"""The cleansing fields of an address not cleansed yet."""


class Recipient(Addressee):
    """A person and address with the result of cleansing; encrypted when stored, masked when shown."""

    division: str = ""
    """After cleansing the GB/T 2260 code of the district, or of the smallest division known; abroad ISO 3166-2."""
    confidence: Annotated[Decimal, Field(ge=0, le=1)] | None = None
    """The confidence of cleansing in the address, from 0 to 1; ``None`` if not cleansed yet."""
    doubt: str = ""
    """The message key of what lowers the confidence; empty if nothing does."""
    hidden: bool | None = None
    """Whether name, phone or street are masked or cipher text by the channel's own marks; ``None``: not judged."""
    told: str = ""
    """The channel's original address, if cleansing changed it."""

    @property
    def unreadable(self) -> bool:
        """Whether the channel masked or encrypted the recipient, as channels do for unpaid and completed orders.

        Where the channel's adapter did not judge that, an asterisk tells."""
        return "*" in self.name + self.phone + self.street if self.hidden is None else self.hidden

    def masked(self) -> "Recipient":
        """Return a copy with name, phone and street masked."""
        phone = self.national_phone
        return self.model_copy(
            update={
                "name": self.name[:1] + "*" * (len(self.name) > 1) * 2,
                "phone": f"{phone[:3]}****{phone[-4:]}" if len(phone) >= 11 else "****",
                "street": "****" if self.street else "",
                "told": "****" if self.told else "",
            }
        )


class ContactChange(Value):
    """The recipient before and after a modification, in clear: sealed when stored."""

    before: Recipient
    after: Recipient


class RecipientChange(Value):
    """Changes to a recipient; ``None`` leaves a field as it is."""

    model_config = ConfigDict(from_attributes=True)

    name: Text | None = None
    phone: Text | None = None
    country: Country | None = None
    province: Text | None = None
    city: Text | None = None
    district: Text | None = None
    town: Text | None = None
    street: Text | None = None
    postcode: Text | None = None

    def applied_to(self, recipient: Recipient) -> Recipient:
        """Return the changed recipient. A changed address must be cleansed again."""
        new = self.model_dump(exclude_none=True)
        cleansing = UNJUDGED if new.keys() & {"country", "postcode", *ADDRESS} else {}
        shown = {} if {"name", "phone", "street"} & new.keys() == set() else {"hidden": None}
        return recipient.model_copy(update=new | cleansing | shown)


class RecipientCorrection(RecipientChange):
    """Changes to a recipient by staff: a phone that nobody could dial is refused."""

    phone: Phone | None = None
