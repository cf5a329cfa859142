"""Every table that a command prints is in the reader's language: no key, no member's name, no unformatted value."""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from inspect import getmembers, isclass
from pkgutil import walk_packages
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

import models
from activities.kit.database import transaction
from activities.records import exceptions
from models.exceptions import ExceptionKind, NewException
from models.intake import IntegrationType
from models.settlements import SettlementRow
from tests.api import SECRET, open_account
from tests.commands import Commands
from tests.integration.test_cli import DEAR, hengdan, placed
from tests.integration.test_find import NOW

assert hengdan  # a fixture

ORDER = "{order}"
TABLES = (
    ("orders", "list"),
    ("orders", "show", ORDER),
    ("exceptions", "list"),
    ("exceptions", "count"),
    ("settlements", "list"),
    ("stock", "show", "A001"),
    ("stock", "counts"),
    ("locations", "list"),
    ("map", "list"),
    ("accounts", "list"),
    ("accounts", "describe"),
    ("plan", "try", "A001=1"),
    ("plan", "rates"),
    ("review", "blacklist", "list"),
    ("carriers", "list"),
    ("carriers", "weights"),
    ("replenish", "terms"),
    ("transfers", "list"),
    ("origins",),
)
DATA = re.compile(
    r"\b[0-9a-f]{16,}|order:\S+|https?:\S*|hengdan(?: [\w-]+)+|(?:\b\w+:)?[0-9a-f-]{36}"
    r"|\b(?:own|web|sf|zto|SH|GZ|BJ|CD|mei|wms|SKU|CNY|USD|API Key|double11|[A-Z]{1,4}-?\d[\w.-]*)\b"
)
"""What a merchant named or a system is called."""
RAW = re.compile(r"\b(?:True|False|None)\b|\[\]|\{|\b\d{4}-\d\d-\d\dT|\b\d+\.\d*00\d*0\b|\b[a-z]+_[a-z_]+\b")
"""What no formatter has seen."""


def members() -> set[str]:
    """Return the values of all enumerations of the model."""
    found: set[str] = set()
    for module in walk_packages(models.__path__, "models."):
        if "migrations" not in module.name:
            loaded = __import__(module.name, fromlist=["x"])
            for _, kind in getmembers(loaded, lambda each: isclass(each) and issubclass(each, StrEnum)):
                found |= {str(each) for each in kind if len(each) > 3}
    return found


def texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of an answer, with the name of its field."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield name, key
            yield from texts(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each, name)
    elif isinstance(value, str):
        yield name, value


NAMES = {"id", "source", "account", "actor", "name", "title", "item", "sku", "warehouse", "carrier", "shop", "code"}
NAMES |= {"hint", "added_by", "counted_by", "supplier", "base_url", "reference", "secrets", "console", "platform", "by"}
NAMES |= {
    "reason",
    "told",
    "campaign",
    "medium",
    "province",
    "city",
    "region",
    "street",
    "origin",
    "destination",
    "key",
}
"""Fields whose values people or systems chose."""


def plain(printed: str) -> str:
    """Return what was printed without commands to type and without names."""
    return DATA.sub("", re.sub(r"`[^`]*`", "", printed.replace("\n", " ")))


async def seeded(api: httpx.AsyncClient, hengdan: Commands) -> str:
    """Make rows for the tables; return the number of an order that was held and changed."""
    number = await placed(api, **DEAR)
    await hengdan.ok("orders", "modify", number, "--line", "a=1", "--phone", "13900001111", "--reason", "call")
    order_id = f"order:own:web:{number}"
    await open_account(IntegrationType.CARRIER, "sf", "main", secret=SECRET)
    await hengdan.ok("stock", "count", "SH", "A001=9")
    await hengdan.ok("map", "set", "own", "X-1", "A001")
    await hengdan.ok("replenish", "agree", "A001", "ACME", "3", "--unit-cost", "13")
    await hengdan.ok("review", "blacklist", "add", "phone", "13800138000", "--reason", "R1")
    await hengdan.ok("transfers", "create", "SH", "GZ", "A001=1")
    async with transaction() as connection:
        lost = {"key": "R2", "order_id": order_id, "shop": "own:web", "waybill_no": "SF1", "carrier": "sf"}
        for kind in (ExceptionKind.LOST, ExceptionKind.CHANNEL_CANCEL):
            await exceptions.open_all(connection, [NewException(**lost | {"key": f"R{len(kind)}"}, kind=kind)])
        row = {"fulfillment_id": f"{order_id}:F1", "kind": "claim", "order_id": order_id, "reason": "lost"}
        row |= {"currency": "CNY", "amount": "13", "actor": "mei", "opened_at": NOW, "updated_at": NOW}
        await connection.execute(insert(SettlementRow).values(**row))
    return number


@pytest.mark.parametrize("width", [100, 160])
async def test_every_table_is_in_the_readers_language(
    hengdan: Commands, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("starter.cli.show.PIPE_WIDTH", width)
    number = await seeded(api, hengdan)
    wrong: list[tuple[str, str, list[str]]] = []
    named = members()
    for table in TABLES:
        command = [each.format(order=number) for each in table]
        printed = await hengdan.ok(*command, "--lang", "zh-CN")
        given = [*texts(json.loads((await hengdan.run(*command, "--json", "--lang", "en")).out))]
        data = {word for name, text in given if name in NAMES for word in re.findall(r"\w+", text)}
        printed = plain(printed)
        words = {each for each in re.findall(r"\b[A-Za-z_]\w{2,}", printed)} - data
        wrong.append((" ".join(table), "zh", sorted(words | (named & words) | set(RAW.findall(printed)))))
        english = await hengdan.ok(*command, "--lang", "en")
        data = {word for _, text in given for word in re.findall(r"[一-鿿]+", text)}
        han = {each for each in re.findall(r"[一-鿿]+", english)} - data
        raw = set(RAW.findall(plain(english)))
        wrong.append((" ".join(table), "en", sorted({each for each in han if not any(each in d for d in data)} | raw)))
    assert not (found := [each for each in wrong if each[2]]), "\n".join(map(str, found))
