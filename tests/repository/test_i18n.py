"""The catalogue of texts is complete in both languages and has no unused text."""

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pydantic_core.core_schema import ErrorType

from models.exceptions import POLICIES, ExceptionKind, Remedy, Severity
from models.fulfillment import FulfillmentStatus, RequestStatus, TrackingStatus
from models.hold import HoldKind
from models.i18n import CATALOGUE, LANGUAGES, negotiate, t
from models.intake import InboxState, IntegrationType
from models.labels import PrintKind
from models.listings import Match
from models.order import OrderStatus, RefundState
from models.origins import IntakePath
from models.replenishment import Demand, PurchaseStatus, ReplenishmentStatus
from models.review import BlacklistKind
from models.settings import settings
from models.settlements import SettlementKind, SettlementState
from models.state import SUPPORTED, Action
from models.stock import LocationKind, MovementKind, StocktakeStatus, WarehouseSystem
from models.transfers import TransferAction, TransferStatus

ROOT = Path(__file__).parents[2]
FOLDERS = ("models", "activities", "workflows", "workers", "starter")
ENGLISH, CHINESE = (CATALOGUE[lang] for lang in LANGUAGES)
ROOTS = {key.split(".")[0] for key in ENGLISH}

FAMILIES: dict[str, type[StrEnum]] = {
    "status": OrderStatus,
    "fulfillment": FulfillmentStatus,
    "request": RequestStatus,
    "tracking": TrackingStatus,
    "timeline.tracking": TrackingStatus,
    "hold": HoldKind,
    "exception": ExceptionKind,
    "exception_kind": ExceptionKind,
    "timeline.refund": RefundState,
    "action": Action,
    "timeline": Action,
    "timeline.refused": Action,
    "movement": MovementKind,
    "transfer": TransferStatus,
    "refused.transfer": TransferAction,
    "timeline.transfer": TransferAction,
    "stocktake": StocktakeStatus,
    "replenishment": ReplenishmentStatus,
    "purchase": PurchaseStatus,
    "demand": Demand,
    "integration": IntegrationType,
    "inbox": InboxState,
    "path": IntakePath,
    "kind": PrintKind,
    "severity": Severity,
    "remedy": Remedy,
    "location_kind": LocationKind,
    "match": Match,
    "warehouse_system": WarehouseSystem,
    "settlement": SettlementKind,
    "settlement_state": SettlementState,
    "hold_remedy": HoldKind,
}
"""Prefixes of keys, and the enumeration whose every member has a text."""

VENDORS = {
    file.stem
    for kind in ("channels", "carriers", "media")
    for file in (ROOT / "activities" / kind).glob("*.py")
    if file.stem not in ("__init__", "webhook")
} | {"top", "wms", "qimen"}
"""The systems that errors name."""


@cache
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text()) for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}


@cache
def nodes() -> list[ast.AST]:
    return [node for tree in trees().values() for node in ast.walk(tree)]


@cache
def calls() -> list[ast.Call]:
    return [node for node in nodes() if isinstance(node, ast.Call)]


NOT_OF_JSON = re.compile(
    r".*(argument|dataclass|named_tuple|ordered_dict|frozen_dict|counter|deque|subclass|instance|callable|complex"
    r"|fraction|sentinel|ellipsis|attribute_error|such_attribute).*|frozen_field|recursion_loop|needs_python_object"
    r"|default_factory_not_called|iteration_error|set_item_not_hashable|value_error|assertion_error"
)
"""Pydantic's errors that no JSON can raise, or whose message is our own."""
VALIDATION = [kind for kind in get_args(ErrorType) if not NOT_OF_JSON.fullmatch(kind)]

NOT_TEXTS = {"codec.decode", "timeline.contact", "inbox.raw", "exception.opened", "exception.escalated"}
"""Strings that look like keys: a log event, the context of a seal, published events."""


def literals() -> Iterator[str]:
    """Yield every string of the source except names of activities."""
    activities = {
        keyword.value for call in calls() if ast.unparse(call.func) == "activity.defn" for keyword in call.keywords
    }
    for node in nodes():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in activities:
            yield node.value


def prefixes() -> set[str]:
    """Return the text before the first value of f-strings such as ``f"cli.head.{head}"``."""
    return {
        node.values[0].value
        for node in nodes()
        if isinstance(node, ast.JoinedStr)
        and isinstance(node.values[0], ast.Constant)
        and isinstance(node.values[0].value, str)
        and re.fullmatch(r"([a-z_\d]+\.)+", node.values[0].value)
    }


def arguments(function: str, position: int) -> set[str]:
    """Return the literals at a position in the calls of a function or method."""
    return {
        call.args[position].value
        for call in calls()
        if getattr(call.func, "attr", getattr(call.func, "id", "")) == function
        and len(call.args) > position
        and isinstance(call.args[position], ast.Constant)
        and isinstance(call.args[position].value, str)
    }


LOCAL = {"execute_local_activity", "run_step", "run_and_apply", "write"}
"""What workflows call with a step that runs as a local activity."""


def local_steps() -> set[str]:
    """Return the types of the activities that workflows run as local activities."""
    workflows = [node for file, tree in trees().items() if "workflows" in file.parts for node in ast.walk(tree)]
    steps = [each for each in workflows if isinstance(each, ast.Call) and name_of(each.func) in LOCAL]
    given = [arg for each in steps for arg in each.args]
    for each in workflows:
        if isinstance(each, ast.AsyncFunctionDef) and each.name in LOCAL:
            given += each.args.defaults
    functions = {name_of(each) for each in given}
    return {type_ for function, type_ in activity_types() if function in functions}


def outside_calls() -> set[str]:
    """Return the types of the other activities, which call the outside world or take long."""
    return {type_ for _, type_ in activity_types()} - local_steps()


def activity_types() -> list[tuple[str, str]]:
    """Return the activities' functions and types."""
    return [
        (node.name, decorator.keywords[0].value.value)
        for node in nodes()
        if isinstance(node, ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if ast.unparse(decorator).startswith("activity.defn")
    ]


def name_of(node: object) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def built() -> set[str]:
    """Return the keys that are composed at run time."""
    keys = {f"{family}.{member}" for family, members in FAMILIES.items() for member in members}
    entries = arguments("add_timeline_entry", 2) | arguments("_record", 1) | arguments("_add_entry", 0)
    keys |= {f"timeline.{what}" for what in entries}
    keys |= {f"owner.{each}" for policy in POLICIES.values() for each in (policy.owner, policy.escalates_to)}
    keys |= {f"blacklist_kind.{kind}" for kind in get_args(BlacklistKind)}
    keys |= {f"next.{status}" for status in OrderStatus if status is not OrderStatus.ALLOCATED}
    keys |= {f"call.{call}" for call in outside_calls()}
    keys |= {f"vendor.{vendor}" for vendor in VENDORS} | {f"validation.{kind}" for kind in VALIDATION}
    return keys | {f"refused.{action}" for action in Action if any(action not in may for may in SUPPORTED.values())}


def params(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


def test_both_languages_have_the_same_keys() -> None:
    assert ENGLISH.keys() == CHINESE.keys()


@pytest.mark.parametrize("lang", ["en", "zh_CN"])
def test_every_key_has_one_text_and_keys_are_sorted(lang: str) -> None:
    file = (ROOT / "models" / "locales" / lang / "messages.po").read_text()
    keys = re.findall(r'^msgid "(.+)"$', file, re.MULTILINE)
    assert len(keys) == len(set(keys)) == len(ENGLISH)
    assert keys == sorted(keys)
    assert 'msgstr ""' not in file.split("\n\n", 1)[1]


def test_texts_have_the_same_params_in_both_languages() -> None:
    assert {key for key in ENGLISH if params(ENGLISH[key]) != params(CHINESE[key])} == set()


def test_chinese_texts_contain_chinese() -> None:
    """Except vendors' names and two texts that are the same in both languages."""
    same = {key for key in ENGLISH if ENGLISH[key] == CHINESE[key] and not key.startswith("vendor.")}
    assert same <= {"refused.lines", "cli.head.sku"}
    without = {
        key for key, text in CHINESE.items() if not re.search(r"[一-鿿]", text) and not key.startswith("vendor.")
    }
    assert without <= same


def test_every_composed_key_has_a_text() -> None:
    assert built() - ENGLISH.keys() == set()


def test_every_key_in_the_source_has_a_text() -> None:
    named = {text for text in literals() if re.fullmatch(r"[a-z]+(\.[a-z_]+)+", text) and text.split(".")[0] in ROOTS}
    assert named - ENGLISH.keys() == NOT_TEXTS


def test_every_text_is_used() -> None:
    stages = ("timeline.", "next.", "refused.", "timeline.tracking.", "timeline.refused.")
    started = tuple(prefixes() - set(stages))
    assert {key for key in ENGLISH.keys() - set(literals()) - built() if not key.startswith(started)} == set()


def test_params_are_filled_in() -> None:
    assert t("details.short", "en", sku="A001", quantity=2) == "Missing: A001 × 2"
    assert t("details.short", "zh-CN", sku="A001", quantity=2) == "缺货：A001 × 2"


def test_param_that_is_a_key_is_translated() -> None:
    refused = t("timeline.refused.cancel", "zh-CN", why="refused.cancel", status="shipped")
    assert refused == "取消被拒：订单状态为“已发货”，不能再取消"
    assert t("timeline.held", "en", kind="Review", reason="hold.review.amount").endswith("above the shop's limit")


def test_texts_of_people_are_unchanged() -> None:
    assert t("wait for {the} boss", "zh-CN") == "wait for {the} boss"
    assert t("timeline.note", "en", text="a {text} of {mine}") == "Note: a {text} of {mine}"
    assert t("timeline.cancel", "en", reason="timeline.cancel") == "Cancelled: Cancelled: {reason}"


@pytest.mark.parametrize(
    ("header", "lang"),
    [
        (None, "en"),
        ("", "en"),
        ("zh", "zh-CN"),
        ("zh-TW,en;q=0.5", "zh-CN"),
        ("en;q=0.3, zh-CN;q=0.8", "zh-CN"),
        ("fr, zh;q=0.1", "zh-CN"),
        ("de", "en"),
        ("zh;q=0", "en"),
        ("*", "en"),
        (";;q=,q=9", "en"),
    ],
)
def test_best_accepted_language_is_used(header: str | None, lang: str) -> None:
    assert negotiate(header) == lang


def test_language_of_the_settings_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HENGDAN_LANG", "zh-CN")
    settings.cache_clear()
    try:
        assert t("status.shipped") == "已发货"
        assert negotiate("fr") == "zh-CN"
    finally:
        monkeypatch.undo()
        settings.cache_clear()


SHOWN: dict[str, int] = {
    **{
        "InvalidInput": 1,
        "Unintelligible": 1,
        "InvalidValue": 0,
        "InvalidExpression": 0,
        "Problem": 1,
        "ValueError": 0,
    },
    **{"refused": 0, "unavailable": 0, "message": 0, "no": 0, "place_hold": 1},
}
"""Calls that show a message to people, and the position of its key."""
SHOWN_BY_NAME = {"Hold": "reason", "Outcome": "reason", "Candidate": "reason", "CarrierOption": "reason"}
"""Classes that show a message to people, and its field."""
INTERNAL = {"workers", "kit", "vault.py", "money.py", "pdf.py"}
"""Folders and files where ``ValueError`` is caught, or stops a misconfigured process."""


def message_of(file: Path, call: ast.Call) -> ast.expr | None:
    """Return the expression of the message that a call shows to people, if any."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "sandbox" in file.parts or (name == "ValueError" and INTERNAL & set(file.parts)):
        return None
    if name in SHOWN_BY_NAME:
        return next((each.value for each in call.keywords if each.arg == SHOWN_BY_NAME[name]), None)
    place = SHOWN.get(name)
    return call.args[place] if place is not None and len(call.args) > place else None


def test_every_message_has_a_text_and_its_params() -> None:
    wrong = set()
    for file, tree in trees().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            match message_of(file, call):
                case ast.Constant(value=str(key)) if key:
                    given = {each.arg for each in call.keywords} | {"status"}
                    complete = isinstance(call.func, ast.Attribute) or None in given or call.func.id in SHOWN_BY_NAME
                    complete |= call.func.id == "Problem" if isinstance(call.func, ast.Name) else False
                    if key not in ENGLISH or not (complete or set(params(ENGLISH[key])) <= given):
                        wrong.add(f"{file.name}:{call.lineno} {key}")
                case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
                    if not any(key.startswith(start) for key in ENGLISH):
                        wrong.add(f"{file.name}:{call.lineno} {start}")
    assert wrong == set()


def test_a_chinese_word_heads_columns_of_one_meaning() -> None:
    """Two columns with one heading in Chinese have one in English."""
    heads = {key: text for key, text in CHINESE.items() if key.startswith("cli.head.")}
    same = {"cli.head.amount", "cli.head.total"}
    twins = {(a, b) for a in heads for b in heads if heads[a] == heads[b] and ENGLISH[a] != ENGLISH[b]}
    assert {pair for pair in twins if set(pair) != same} == set()
