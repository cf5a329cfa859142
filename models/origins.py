"""Where an order was born, and how it came to us."""

import re
import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator

from models.base import Moment, Value


class ChannelKind(StrEnum):
    MARKETPLACE = "marketplace"
    OWN_SITE = "own_site"
    APP = "app"
    STORE = "store"


class IntakePath(StrEnum):
    WEBHOOK = "webhook"
    POLL = "poll"
    IMPORT = "import"
    MANUAL = "manual"
    REISSUE = "reissue"


_PLATFORMS = {
    "天猫": "tmall",
    "天猫商城": "tmall",
    "淘宝": "taobao",
    "淘宝网": "taobao",
    "京东": "jd",
    "京东商城": "jd",
    "jingdong": "jd",
    "拼多多": "pdd",
    "pinduoduo": "pdd",
    "抖音": "douyin",
    "抖店": "douyin",
    "苏宁": "suning",
    "苏宁易购": "suning",
    "woo": "woocommerce",
}
"""Other names of what we call by one."""
_NOTHING = {"(none)", "(not set)", "(direct)", "none", "null", "undefined", "-"}
"""What sites and their analytics write where there was no campaign."""


def code(text: str) -> str:
    """A campaign's name, or the like, in the one way it is written: half-width, in lower case, with single spaces."""
    tidy = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()
    return "" if tidy in _NOTHING else tidy


Code = Annotated[str, AfterValidator(code)]


def platform(text: str) -> str:
    """The platform, by whatever name: in a person's words, or by its domain."""
    name = re.sub(r"^(https?://)?(www\.)?|\.(com|cn)(/.*)?$", "", code(text))
    return _PLATFORMS.get(name, name)


def region(text: str) -> str:
    """A region told in words, beginning with its country."""
    tidy = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()
    return tidy if not tidy or re.match(r"[A-Z]{2}( |$)", tidy) else f"CN {tidy}"


class Origin(Value):
    """The source of an order. A channel's adapter tells of it; ``standard`` and ``located`` write it as all are
    written, and keep what was told otherwise."""

    kind: ChannelKind
    platform: str
    shop: str
    store: str = ""
    """Of a sale in a store: which."""
    region: str = ""
    """The buyer's: country, province, city, district."""
    campaign: str = ""
    source: str = ""
    """Who referred the buyer (``utm_source``)."""
    medium: str = ""
    """By what means (``utm_medium``)."""
    intake: IntakePath
    first_seen_at: Moment | None = None
    told: dict[str, str] = {}
    """In the channel's own words what is written otherwise here."""

    def standard(self, intake: IntakePath, first_seen_at: datetime) -> "Origin":
        """As all origins are written. A campaign may be told by its code, or as the address that the buyer came by."""
        referred = _utm(self.campaign)
        written = {
            "platform": platform(self.platform),
            "store": self.store or (self.shop if self.kind is ChannelKind.STORE else ""),
            "campaign": code(referred.get("campaign", "") if referred is not None else self.campaign),
            "source": code(self.source or (referred or {}).get("source", "")),
            "medium": code(self.medium or (referred or {}).get("medium", "")),
        }
        return self._write(written).model_copy(update={"intake": intake, "first_seen_at": first_seen_at})

    def located(self, region: str) -> "Origin":
        """The same, with the buyer's region as cleansing found it."""
        return self._write({"region": region})

    def _write(self, written: dict[str, str]) -> "Origin":
        before = {name: getattr(self, name) for name in written}
        told = {name: was for name, was in before.items() if was and was != written[name]}
        return self.model_copy(update={**written, "told": told | self.told})


def _utm(text: str) -> dict[str, str] | None:
    """``utm_*`` of an address, or of its query alone; ``None`` where the text is neither."""
    address = text.strip()
    if "utm_" not in address.lower() and "://" not in address and not address.startswith(("/", "?")):
        return None
    try:
        told = parse_qs(urlsplit(address).query or address)
    except ValueError:
        return {}
    return {name.lower().removeprefix("utm_"): values[0] for name, values in told.items() if name[:4].lower() == "utm_"}
