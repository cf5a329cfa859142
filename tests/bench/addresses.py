"""Difficult Chinese addresses, invented for the project: how many are parsed correctly, by us and by a library alone.

``addresses.tsv`` holds per line: whether the case was known during development or is new; category; the input (fields
separated by |, or free text); expected province, city, district, town and GB/T 2260 code. An ambiguous case has no
city.
"""

import csv
import time
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from activities import cleansing
from models.address import Recipient
from models.policy import Policy

FILE = Path(__file__).with_suffix(".tsv")
_COLUMNS = ("correct", "wrong, held", "wrong, not held", "library alone")


class Case(NamedTuple):
    seen: str
    category: str
    told: str
    province: str
    city: str
    district: str
    town: str
    code: str

    @property
    def recipient(self) -> Recipient:
        fields = self.told.split("|")
        if len(fields) == 1:
            return Recipient(street=self.told)
        return Recipient(**dict(zip(("province", "city", "district", "street"), fields, strict=False)))

    @property
    def decidable(self) -> bool:
        return bool(self.city)


@lru_cache(1)
def cases() -> list[Case]:
    with FILE.open(encoding="utf-8", newline="") as lines:
        return [Case(**row) for row in csv.DictReader(lines, delimiter="\t")]


def right(case: Case) -> bool:
    """Return whether names, code and the town, if given, are correct; an ambiguous case must be held."""
    found = cleansing.recipient(case.recipient)
    if not case.decidable:
        return held(found)
    place = (found.province, found.city, found.district, found.division)
    return place == (case.province, case.city, case.district, case.code) and case.town in ("", found.town)


def held(found: Recipient) -> bool:
    return (found.confidence or Decimal(0)) < Policy().address_confidence


def library() -> Callable[[Case], bool] | None:
    """Return whether quhua-mcp, the best small library found, parses a case correctly; ``None`` if not installed.

    Only codes are compared. An ambiguous case is correct if the library resolves nothing.
    """
    try:
        version("quhua-mcp")
    except PackageNotFoundError:
        return None
    resolve = import_module("engine").resolve_any

    def read(case: Case) -> bool:
        found = resolve(case.told.replace("|", ""))
        codes = found["codes"] or {}
        code = (codes.get("county") or codes.get("city") or codes.get("province") or "")[:6]
        return found["status"] != "resolve" if not case.decidable else code == case.code

    return read


def report() -> dict[str, Any]:
    """Return the results by category, in total and for all unseen cases; and milliseconds per address."""
    alone = library()
    rows: dict[str, dict[str, Any]] = {}
    for case in cases():
        correct, on_hold = right(case), held(cleansing.recipient(case.recipient))
        names = [case.category, "all", *(["all unseen"] if case.seen == "new" else [])]
        for name in names:
            row = rows.setdefault(name, {"category": name, **dict.fromkeys(("cases", *_COLUMNS), 0)})
            row["cases"] += 1
            row["correct"] += correct
            row["wrong, held"] += not correct and on_hold
            row["wrong, not held"] += not correct and not on_hold
            row["library alone"] += alone(case) if alone else 0
    totals = [rows.pop(name) for name in ("all", "all unseen")]
    clean = Recipient(province="广东省", city="深圳市", district="南山区", street="科技园路1号")
    return {
        "categories": [*rows.values(), *totals],
        "library": alone is not None,
        "ms_clean": _ms([clean] * 1000),
        "ms_difficult": _ms([case.recipient for case in cases()]),
    }


def _ms(people: list[Recipient]) -> float:
    started = time.perf_counter()
    for person in people:
        cleansing.recipient(person)
    return round((time.perf_counter() - started) / len(people) * 1000, 3)
