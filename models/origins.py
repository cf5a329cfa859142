"""The origin of an order: where it was sold, and by which path it arrived."""

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
    "yangkeduo": "pdd",
    "jinritemai": "douyin",
    "myshopify": "shopify",
    "拼多多": "pdd",
    "pinduoduo": "pdd",
    "抖音": "douyin",
    "抖店": "douyin",
    "苏宁": "suning",
    "苏宁易购": "suning",
    "woo": "woocommerce",
}
"""Other names of platforms, mapped to ours."""
_EMPTY = {"(none)", "(not set)", "(direct)", "none", "null", "undefined", "-"}
"""What sites and their analytics write in place of an empty value."""


def code(text: str) -> str:
    """Normalise the name of a campaign or the like: half-width, lower case, single spaces."""
    name = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()
    return "" if name in _EMPTY else name


Code = Annotated[str, AfterValidator(code)]


_DOMAIN = re.compile(r"(?:https?://)?(?:[\w-]+\.)*?([\w-]+)\.(?:com|cn|net|hk)(?:\.\w{2})?(?:[/?:].*)?")
_SHOP = re.compile(
    r".*?(?P<platform>天猫|淘宝|京东|拼多多|抖音|苏宁)(?:商城|易购|自营|官方)*(?:旗舰店|专营店|专卖店|自营店|小店|店铺?)"
)
"""The name of a shop on a platform: 青禾天猫旗舰店."""


def platform(text: str) -> str:
    """Return our name of a platform, given any name or domain of it, or the name of a shop that bears it."""
    name = code(text)
    if domain := _DOMAIN.fullmatch(name):
        name = domain[1]
    if shop := _SHOP.fullmatch(name):
        name = shop["platform"]
    return _PLATFORMS.get(name, name)


def region(text: str) -> str:
    """Normalise a region; it begins with its country."""
    name = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()
    return name if not name or re.match(r"[A-Z]{2}( |$)", name) else f"CN {name}"


class Origin(Value):
    """The origin of an order as its channel's adapter found it. ``standard`` and ``located`` normalise it and keep the
    original values in ``told``."""

    kind: ChannelKind
    platform: str
    shop: str
    store: str = ""
    """The store of a sale in a store."""
    region: str = ""
    """The buyer's region: country, province, city, district."""
    campaign: str = ""
    source: str = ""
    """The referrer (``utm_source``)."""
    medium: str = ""
    """The marketing medium (``utm_medium``)."""
    intake: IntakePath
    first_seen_at: Moment | None = None
    told: dict[str, str] = {}
    """The channel's own values of the fields that were normalised."""

    def standard(self, intake: IntakePath, first_seen_at: datetime) -> "Origin":
        """Return the normalised origin. ``campaign`` may hold a code or the URL that the buyer arrived at."""
        utm = _utm(self.campaign)
        values = {
            "platform": platform(self.platform),
            "store": self.store or (self.shop if self.kind is ChannelKind.STORE else ""),
            "campaign": code(utm.get("campaign", "") if utm is not None else self.campaign),
            "source": code(self.source or (utm or {}).get("source", "")),
            "medium": code(self.medium or (utm or {}).get("medium", "")),
        }
        return self._replace(values).model_copy(update={"intake": intake, "first_seen_at": first_seen_at})

    def located(self, region: str) -> "Origin":
        """Return the origin with the buyer's region from the cleansed address."""
        return self._replace({"region": region})

    def _replace(self, values: dict[str, str]) -> "Origin":
        before = {name: getattr(self, name) for name in values}
        original = {name: value for name, value in before.items() if value and value != values[name]}
        return self.model_copy(update={**values, "told": original | self.told})


def _utm(text: str) -> dict[str, str] | None:
    """Return the ``utm_*`` parameters of a URL or a query string; ``None`` where the text is neither."""
    address = text.strip()
    if "utm_" not in address.lower() and "://" not in address and not address.startswith(("/", "?")):
        return None
    try:
        query = parse_qs(urlsplit(address).query or address)
    except ValueError:
        return {}
    return {
        name.lower().removeprefix("utm_"): values[0] for name, values in query.items() if name[:4].lower() == "utm_"
    }
