"""Who receives a parcel, and where: the personal part of an order."""

import re
from typing import Annotated

from pydantic import Field, StringConstraints

from models.base import Value

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]


class Recipient(Value):
    """A person at a place. Sealed wherever it rests, masked wherever it shows."""

    name: Text = ""
    phone: Text = ""
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2")] = "CN"
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

    def masked(self) -> "Recipient":
        """The same place with name, phone and street unreadable."""
        return self.model_copy(
            update={
                "name": self.name[:1] + "*" * (len(self.name) > 1) * 2,
                "phone": f"{self.phone[:3]}****{self.phone[-4:]}" if len(self.phone) >= 11 else "****",
                "street": "****" if self.street else "",
            }
        )
