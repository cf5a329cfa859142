"""Who receives a parcel, and where: the personal part of an order."""

import re
from functools import lru_cache
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from models.base import Value

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2")]


_REGIONS = (
    ("北京", "天津", "河北", "山西", "内蒙"),
    ("辽宁", "吉林", "黑龙"),
    ("上海", "江苏", "浙江", "安徽", "福建", "江西", "山东", "台湾"),
    ("河南", "湖北", "湖南"),
    ("广东", "广西", "海南", "香港", "澳门"),
    ("重庆", "四川", "贵州", "云南", "西藏"),
    ("陕西", "甘肃", "青海", "宁夏", "新疆"),
)
"""Geographical regions of China. Two characters tell any province, with or without 省, 市 or 自治区."""


@lru_cache(4096)
def remoteness(province: str, other: str) -> int:
    """0 in the same province, 1 in the same region, 2 elsewhere."""
    pair = {province[:2], other[:2]}
    return 0 if len(pair) == 1 else 1 if any(pair.issubset(region) for region in _REGIONS) else 2


class Recipient(Value):
    """A person at a place. Sealed wherever it rests, masked wherever it shows."""

    name: Text = ""
    phone: Text = ""
    country: Country = "CN"
    province: Text = ""
    city: Text = ""
    district: Text = ""
    street: Text = ""
    postcode: Text = ""

    @property
    def digits(self) -> str:
        """The phone for look-ups: digits only, without the Chinese country code."""
        return re.sub(r"^(0086|86)(?=1\d{10}$)", "", re.sub(r"\D", "", self.phone))

    @property
    def region(self) -> str:
        """Country, province, city and district: coarse enough to show and to count."""
        return " ".join(part for part in (self.country, self.province, self.city, self.district) if part)

    @property
    def unreadable(self) -> bool:
        """Masked by the channel, as it does once an order is over."""
        return "*" in self.name + self.phone + self.street

    def masked(self) -> "Recipient":
        """The same place with name, phone and street unreadable."""
        return self.model_copy(
            update={
                "name": self.name[:1] + "*" * (len(self.name) > 1) * 2,
                "phone": f"{self.phone[:3]}****{self.phone[-4:]}" if len(self.phone) >= 11 else "****",
                "street": "****" if self.street else "",
            }
        )


class RecipientChange(Value):
    """What is new of a recipient; what is not named stays as it was."""

    model_config = ConfigDict(from_attributes=True)

    name: Text | None = None
    phone: Text | None = None
    country: Country | None = None
    province: Text | None = None
    city: Text | None = None
    district: Text | None = None
    street: Text | None = None
    postcode: Text | None = None

    def applied_to(self, recipient: Recipient) -> Recipient:
        return recipient.model_copy(update=self.model_dump(exclude_none=True))
