"""Render answers of the API for people."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.money import amount_text
from starter.cli.api_client import Say

PIPE_WIDTH = 200


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def line(*parts: tuple[object, str] | str) -> None:
    """Print one line of plain texts, some with a style."""
    styled = [(_plain(part), "") if isinstance(part, str) else (_plain(part[0]), part[1]) for part in parts]
    _console().print(Text.assemble(*styled))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], say: Say) -> None:
    """Print a table; ``heads`` are names of ``cli.head.*``. The first column is never wrapped."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        name = say(f"cli.head.{head}")
        grid.add_column(name, no_wrap=number == 0, justify="right" if head in _NUMBERS else "left", overflow="fold")
    for row in rows:
        currency = str(dict(zip(heads, row, strict=True)).get("currency") or "CNY")
        cells = (_cell(head, value, currency, say) for head, value in zip(heads, row, strict=True))
        grid.add_row(*(Text(_plain(cell)) for cell in cells))
    _console().print(grid)


def _cell(head: str, value: object, currency: str, say: Say) -> str:
    """Format a value of a table: every kind of value in one way, and members of ours by their texts."""
    match value:
        case None:
            return ""
        case bool():
            return say("cli.yes" if value else "cli.no")
        case list() | tuple():
            return ", ".join(_cell(head, each, currency, say) for each in value)
    text = str(value)
    if family := _FAMILIES.get(head):
        key = f"{family}.{text}"
        return text if (shown := say(key)) == key else shown
    if _TIME.match(text):
        return when(text)
    if head in _NUMBERS and _DECIMAL.fullmatch(text):
        amount = Decimal(text)
        return amount_text(amount, currency) if head in _MONEY else f"{round(amount, 4).normalize():f}"
    return text


def listing(heads: Sequence[str], rows: Sequence[Sequence[object]], say: Say) -> None:
    """Print a table, or one line where it has no rows, which names the columns that it would have."""
    if rows:
        table(heads, rows, say)
    else:
        columns = ", ".join(say(f"cli.head.{head}") for head in heads)
        line(say("cli.nothing_listed", columns=columns))


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_DECIMAL = re.compile(r"-?\d+(\.\d+)?(E[+-]\d+)?")

_FAMILIES = {
    "integration": "integration",
    "severity": "severity",
    "owner": "owner",
    "remedy": "remedy",
    "match": "match",
    "system": "warehouse_system",
    "location_kind": "location_kind",
    "settlement_kind": "settlement",
    "settlement_state": "settlement_state",
    "stocktake_status": "stocktake",
    "blacklist_kind": "blacklist_kind",
}
"""Columns whose values are members of ours, and the prefix of their texts; a merchant's own words stay as they are."""

_MONEY = {"unit_price", "amount", "settled", "cost", "first_price", "further_price", "unit_cost"}
_NUMBERS = _MONEY | {
    *("quantity", "total", "level", "expected", "on_hand", "allocated", "reserved", "safety_stock", "unavailable"),
    *("available", "book", "counted", "difference", "orders", "dropped", "count", "listed", "known", "missing"),
    *("pulled", "failed", "gone", "demand", "days", "late", "lost", "parcels", "pieces", "max_kg", "capacity"),
    *("first_kg", "further_kg", "a_day", "urgent_day", "unreliable", "rank", "lead_days", "review_days"),
    *("pack_size", "minimum_quantity", "service_level", "attempts", "offered", "open", "overdue", "under_a_day"),
    *("under_three_days", "older"),
}


def orders(page: Any, say: Say) -> None:
    rows = [
        (
            each["id"],
            " · ".join([each["status_text"], *(hold["kind_text"] for hold in each["holds"])]),
            f"{each['total']} {each['currency']}",
            _person(each["recipient"], "name", "province", "city"),
            when(each["placed_at"]),
            each["next_step"],
        )
        for each in page["items"]
    ]
    listing(("order", "status", "total", "recipient", "placed", "next"), rows, say)
    if page["next"]:
        line(say("cli.more", cursor=page["next"]))


def order(body: Any, say: Say) -> None:
    """Print an order with its lines, fulfillment orders and timeline."""
    line((body["id"], "bold"), "  ", (body["status_text"], "bold cyan"))
    deadline = f"  ({say('cli.until', when=when(body['deadline']))})" if body["deadline"] else ""
    facts = {
        "placed": when(body["placed_at"]),
        "paid_at": when(body["paid_at"]),
        "promised": when(body["promised_by"]),
        "priority": say(f"priority.{body['priority']}"),
        "total": f"{body['total']} {body['currency']}",
        **{name: _amount(body, name) for name in ("freight", "discount", "tax")},
        "recipient": _person(body["recipient"]),
        "buyer_message": body["buyer_message"],
        "seller_memo": body["seller_memo"],
        "came_from": _origin(body["origin"], say),
        "tags": ", ".join(body["tags"]),
        "holds": "\n".join(
            f"{hold['kind_text']}: {hold['reason']} ({hold['by']})\n{hold['remedy']}" for hold in body["holds"]
        ),
        "next": body["next_step"] + deadline,
        "actions": ", ".join(say(f"action.{action}") for action in body["supported_actions"]),
    }
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        if fact:
            grid.add_row(Text(say(f"cli.head.{name}"), style="dim"), Text("\n".join(map(_plain, fact.split("\n")))))
    _console().print(grid)
    columns = ("line_no", "sku", "title", "quantity", "unit_price")
    table(columns, [[each[column] for column in columns] for each in body["lines"]], say)
    for each in body["fulfillments"]:
        _fulfillment(each, say)
    _timeline(body, say)


def _amount(body: Any, name: str) -> str:
    """Return a part of the total, unless it is unknown or nothing."""
    return f"{body[name]} {body['currency']}" if body[name] and float(body[name]) else ""


def _origin(origin: Any, say: Say) -> str:
    names = ("platform", "shop", "store", "region", "campaign")
    return " · ".join([*(origin[name] for name in names if origin.get(name)), say(f"path.{origin['intake']}")])


def contact(body: Any, say: Say) -> None:
    """Print a recipient in clear, and what modifications made of it."""
    line((body["order_id"], "bold"))
    line(_person(body["recipient"]))
    for each in body["changes"]:
        changed = (_person(each["before"]), "→", _person(each["after"]), f"({each['actor']})")
        line((f"{when(each['at'], seconds=True)}  ", "dim"), " ".join(changed))


def _fulfillment(body: Any, say: Say) -> None:
    tracking = say(f"tracking.{body['tracking']}") if body["tracking"] else ""
    shipping = " ".join(part for part in (body["carrier"], body["waybill_no"], tracking) if part)
    status = f"{body['status_text']} ({say('cli.request')}: {say('request.' + body['request_status'])})"
    goods = ", ".join(f"{each['sku']} × {each['quantity']}" for each in body["lines"])
    parts = (body["id"].rpartition(":")[2], body["warehouse"], goods, status, shipping)
    line((parts[0], "bold"), "  ", "  ".join(part for part in parts[1:] if part))
    for option in body["choice"]:
        mark = "→" if option["carrier"] == body["carrier"] else "·"
        line((f"    {mark} {option['carrier']}  {option['text']}", "dim"))
    for scan in body["scans"]:
        text = " ".join(part for part in (scan["status_text"], scan["place"], scan["text"]) if part)
        line((f"    {when(scan['at'])}  ", "dim"), text)


def _timeline(body: Any, say: Say) -> None:
    entries = [(each["at"], "●", each["text"], each["actor"], "cyan") for each in body["timeline"]]
    entries += [
        (each["opened_at"], "▲", each["text"], say("cli.exception"), "bold yellow") for each in body["exceptions"]
    ]
    line("")
    for number, (at, sign, text, actor, style) in enumerate(sorted(entries, key=lambda each: _moment(each[0]))):
        if number:
            line(("│", "dim"))
        line((f"{sign} ", style), (f"{when(at, seconds=True)}  ", "dim"), text, (f"  {actor}", "dim"))


def columns(heads: Sequence[str], body: Any, say: Say) -> None:
    """Print records as a listing of these fields."""
    listing(heads, [[each[head] for head in heads] for each in body], say)


def stocktake(body: Any, say: Say) -> None:
    status = body["status"]
    line((body["id"], "bold"), "  ", body["warehouse"], "  ", say(f"stocktake.{status}"))
    heads = ("sku", "book", "counted", "difference")
    rows = [(each["sku"], each["book"], each["counted"], each["counted"] - each["book"]) for each in body["lines"]]
    table(heads, rows, say)


def levels(body: Any, say: Say) -> None:
    heads = ("sku", "warehouse", "on_hand", "allocated", "reserved", "safety_stock", "unavailable", "available")
    listing(heads, [[each[head] for head in heads] for each in body], say)


def level(body: Any, say: Say) -> None:
    levels([body], say)


def proof(body: Any, say: Say) -> None:
    if body["balanced"]:
        line(say("cli.balanced"))
        return
    line((say("cli.drifted", count=len(body["drifts"])), "bold red"))
    heads = list(body["drifts"][0])
    table(heads, [[each[head] for head in heads] for each in body["drifts"]], say)


def sheet_errors(body: Any, say: Say) -> None:
    """Print the errors of a file, row by row."""
    if body["errors"]:
        heads = ("row", "column", "value", "message")
        table(heads, [[each[head] for head in heads] for each in body["errors"]], say)
    if body["more"]:
        line(say("cli.more_errors", count=body["more"]))


def failed(body: Any, say: Say) -> None:
    rows = [
        (
            each["id"],
            when(each["received_at"]),
            f"{say('integration.' + each['integration'])} {each['source']}/{each['account']}",
            each["field"],
            each["reason"],
            each["attempts"],
        )
        for each in body
    ]
    listing(("id", "received", "from", "field", "reason", "attempts"), rows, say)


def origin(body: Any, say: Say) -> None:
    """Print an order's origin, its messages and the corrections."""
    line((body["order_id"], "bold"))
    standard, original = body["origin"], body["origin"]["told"]
    grid = Table.grid(padding=(0, 2))
    for name in ("platform", "shop", "store", "region", "campaign", "source", "medium"):
        if standard[name] or name in original:
            spelling = say("cli.origin.original", text=original[name]) if name in original else ""
            grid.add_row(
                Text(say(f"cli.head.{name}"), style="dim"), Text(_plain(standard[name])), Text(_plain(spelling))
            )
    grid.add_row(
        Text(say("cli.head.path"), style="dim"), Text(", ".join(say(f"path.{each}") for each in body["paths"]))
    )
    _console().print(grid)
    for each in body["messages"]:
        path = " ".join(part for part in (say(f"path.{each['path']}"), each["source"], each["topic"]) if part)
        line(
            (f"{when(each['received_at'], seconds=True)}  ", "dim"),
            f"{each['id']}  {path}  ",
            (each["state_text"], "cyan"),
        )
        for text in (each["reason"], *each["led_to"]):
            if text:
                line(f"    {text}")
    for each in body["corrections"]:
        changed = ", ".join(f"{name}: {each['before'][name]} → {text}" for name, text in each["after"].items())
        line((f"{when(each['at'], seconds=True)}  ", "dim"), changed, (f"  {each['actor']}: {each['reason']}", "dim"))


def origins(body: Any, say: Say) -> None:
    rows = [
        (
            each["origin"],
            each["orders"],
            each["dropped"],
            [f"{amount_text(Decimal(amount), currency)} {currency}" for currency, amount in each["amounts"].items()],
        )
        for each in body
    ]
    listing(("came_from", "orders", "dropped", "amount"), rows, say)


def reasons(body: Any, say: Say) -> None:
    rows = [
        (
            each["count"],
            f"{say('integration.' + each['integration'])} {each['source']}/{each['account']}",
            each["field"],
            each["reason"],
            when(each["oldest"]),
        )
        for each in body
    ]
    listing(("count", "from", "field", "reason", "oldest"), rows, say)


def reconciliations(body: Any, say: Say) -> None:
    counts = ("listed", "known", "missing", "pulled", "failed", "gone")
    rows = [
        (each["id"], f"{when(each['since'])} – {when(each['until'])}", *(each[name] for name in counts))
        for each in body
    ]
    listing(("report", "window", *counts), rows, say)
    for each in body:
        if each["error"]:
            line((each["id"], "bold"), "  ", (say("cli.reconcile.stopped", reason=each["error"]), "bold red"))


def reconciliation(body: Any, say: Say) -> None:
    """Print one reconciliation with its order numbers."""
    reconciliations([body], say)
    details = body["details"]
    for what in ("pulled", "failed", "gone"):
        if numbers := details.get(what):
            line((say(f"cli.reconcile.{what}"), "bold"))
            for number in numbers:
                line(f"  {number}", f"  {numbers[number]}" if what == "failed" else "")


def _plain(value: object) -> str:
    """Remove control characters: texts come from buyers."""
    return "".join(each for each in str(value) if each.isprintable())


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at).astimezone()


def when(at: str | None, *, seconds: bool = False) -> str:
    """Format a time in the local time zone, with its offset from UTC: ``2026-11-11 00:00 +08``."""
    return f"{_moment(at):%Y-%m-%d %H:%M{':%S' if seconds else ''} %z}".removesuffix("00") if at else ""


def _person(recipient: Any, *parts: str) -> str:
    parts = parts or ("name", "phone", "province", "city", "district", "town", "street")
    return " ".join(recipient[part] for part in parts if recipient[part]) if recipient else ""


def mappings(body: Any, say: Say) -> None:
    columns(("channel", "shop", "item", "sku", "match", "actor"), body, say)


def unmapped(body: Any, say: Say) -> None:
    rows = [
        (
            f"{each['channel']}:{each['shop']}",
            each["item"],
            each["title"],
            each["orders"],
            each["pieces"],
            ", ".join(f"{like['sku']} {like['title']} ({like['score']:.0f})" for like in each["suggestions"]),
        )
        for each in body
    ]
    listing(("shop", "item", "title", "orders", "pieces", "suggestions"), rows, say)


def rules(body: Any, say: Say) -> None:
    rows = [
        {
            "number": each["number"],
            "name": each["name"],
            "active": each["active"],
            "scope": each["shops"],
            "condition": each["condition"],
            "action": "; ".join(" ".join(str(value) for value in did.values()) for did in each["decisions"]),
        }
        for each in body
    ]
    columns(("number", "name", "active", "scope", "condition", "action"), rows, say)
