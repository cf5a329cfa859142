"""Tricky addresses of China made for the project: how many are read right, and how many a library alone reads right.

``addresses.tsv``, a line each: whether it was known while cleansing was made or is new to it; category; what is told
(fields with | between them, or free text); province, city, district, town and GB/T 2260 code as they should be. Nobody
lives there. What cannot be decided has no city.
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

from activities.orders import cleansing
from models.address import Recipient
from models.policy import Policy

FILE = Path(__file__).with_suffix(".tsv")
_COLUMNS = ("right", "wrong, held", "wrong, not held", "library alone")


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
    """Names, code and, where the case names one, town; what cannot be decided is right where it is held."""
    found = cleansing.recipient(case.recipient)
    if not case.decidable:
        return held(found)
    place = (found.province, found.city, found.district, found.division)
    return place == (case.province, case.city, case.district, case.code) and case.town in ("", found.town)


def held(found: Recipient) -> bool:
    return (found.confidence or Decimal(0)) < Policy().address_confidence


def library() -> Callable[[Case], bool] | None:
    """Whether quhua-mcp, the best small library found, reads a case right; ``None`` where it is not installed.

    Only codes are compared. What cannot be decided is right where it resolves nothing.
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
    """By category and, of those that were not looked at while cleansing was made, together; milliseconds an address."""
    alone = library()
    rows: dict[str, dict[str, Any]] = {}
    for case in cases():
        good, asks = right(case), held(cleansing.recipient(case.recipient))
        names = [case.category, "all", *(["all unseen"] if case.seen == "new" else [])]
        for name in names:
            row = rows.setdefault(name, {"category": name, **dict.fromkeys(("cases", *_COLUMNS), 0)})
            row["cases"] += 1
            row["right"] += good
            row["wrong, held"] += not good and asks
            row["wrong, not held"] += not good and not asks
            row["library alone"] += alone(case) if alone else 0
    totals = [rows.pop(name) for name in ("all", "all unseen")]
    clean = Recipient(province="广东省", city="深圳市", district="南山区", street="科技园路1号")
    return {
        "categories": [*rows.values(), *totals],
        "library": alone is not None,
        "ms_clean": _ms([clean] * 1000),
        "ms_tricky": _ms([case.recipient for case in cases()]),
    }


def _ms(people: list[Recipient]) -> float:
    begun = time.perf_counter()
    for person in people:
        cleansing.recipient(person)
    return round((time.perf_counter() - begun) / len(people) * 1000, 3)
