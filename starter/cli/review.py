"""``hengdan review``: review rules, trial runs on past orders, and the blacklist."""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, Say

app = typer.Typer(name="review", help=t("cli.help.review"), no_args_is_help=True)
blacklist = typer.Typer(name="blacklist", help=t("cli.help.blacklist"), no_args_is_help=True)
app.add_typer(blacklist)

_PAGE = 500
_EXAMPLES = 20

File = Annotated[Path, typer.Argument(help=t("cli.help.review.file"), exists=True, dir_okay=False)]
Reason = Annotated[str, typer.Option(help=t("cli.help.reason"))]
Until = Annotated[datetime | None, typer.Option(help=t("cli.help.blacklist.until"))]


@app.command(help=t("cli.help.review.rules"))
def rules(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/review/rules"), show.rules)


@app.command(help=t("cli.help.review.rule"))
def rule(file: File, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    body = client.rule(file)
    client.show(client.put(f"/review/rules/{body['number']}", body), lambda body, say: show.rules([body], say))


@app.command(help=t("cli.help.review.drop"))
def drop(number: int, lang: Lang = None) -> None:
    ApiClient(lang, False).delete(f"/review/rules/{number}")


@app.command(help=t("cli.help.review.check"))
def check(
    condition: Annotated[str, typer.Argument(help=t("cli.help.review.condition"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    answer = client.post("/review/check", {"condition": condition})
    result = answer.json()
    if not result["ok"] and not as_json:
        place = "" if result["position"] is None else f" ({result['position'] + 1})"
        raise Refusal(f"{result['message']}{place}")
    client.show(answer, lambda body, say: show.line(say("cli.review.ok", facts=", ".join(body["facts"]))))


@app.command("try", help=t("cli.help.review.try"))
def try_out(
    file: File,
    since: Annotated[datetime, typer.Option(help=t("cli.help.review.since"))],
    until: Annotated[datetime | None, typer.Option(help=t("cli.help.to"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    trial: dict[str, Any] = {"rule": client.rule(file), "since": since.astimezone().isoformat(), "limit": _PAGE}
    if until is not None:
        trial["until"] = until.astimezone().isoformat()
    whole: dict[str, Any] = {}
    columns = (TextColumn(trial["rule"]["name"]), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")
        while not whole or whole["next"]:
            page = client.post("/review/dry-run", trial | {"cursor": whole.get("next")}).json()
            whole = _merge(whole, page) if whole else page
            bar.update(task, total=whole["total"], completed=whole["orders"])
    if as_json:
        typer.echo(json.dumps(whole, ensure_ascii=False))
    else:
        _trial(whole, client.say)


@blacklist.command("list", help=t("cli.help.blacklist.list"))
def list_blacklist(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/review/blacklist"), _blacklist)


@blacklist.command(help=t("cli.help.blacklist.add"))
def add(
    kind: Annotated[str, typer.Argument(help=t("cli.help.blacklist.kind"))],
    value: Annotated[str, typer.Argument(help=t("cli.help.blacklist.value"))] = "",
    channel: Annotated[str, typer.Option(help=t("cli.help.blacklist.channel"))] = "",
    order: Annotated[str | None, typer.Option(help=t("cli.help.blacklist.order"))] = None,
    reason: Reason = "",
    until: Until = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, Any] = {"kind": kind, "value": value, "channel": channel, "reason": reason}
    if order is not None:
        body["order_id"] = client.get(client.order(order)).json()["id"]
    if until is not None:
        body["until"] = until.astimezone().isoformat()
    answer = client.post("/review/blacklist", body)
    client.show(answer, lambda body, say: _blacklist([body], say))


@blacklist.command(help=t("cli.help.blacklist.remove"))
def remove(kind: str, entry_id: str, lang: Lang = None) -> None:
    ApiClient(lang, False).delete(f"/review/blacklist/{kind}/{entry_id}")


def _blacklist(body: Any, say: Say) -> None:
    rows = [each | {"blacklist_kind": each["kind"]} for each in body]
    show.columns(("id", "blacklist_kind", "hint", "reason", "until", "added_by"), rows, say)


def _merge(whole: dict[str, Any], page: dict[str, Any]) -> dict[str, Any]:
    """Return the result of the pages so far and one more."""
    added = {name: whole[name] + page[name] for name in ("orders", "applied", "failed")}
    examples = {name: (whole[name] + page[name])[:_EXAMPLES] for name in ("examples", "failures")}
    decisions = dict(Counter(whole["decisions"]) + Counter(page["decisions"]))
    return whole | added | examples | {"decisions": decisions, "next": page["next"]}


def _trial(body: Any, say: Say) -> None:
    decisions = ", ".join(f"{decision} {count}" for decision, count in sorted(body["decisions"].items())) or "0"
    show.line((say("cli.review.tried", orders=body["orders"], applied=body["applied"], decisions=decisions), "bold"))
    if body["failed"]:
        show.line((say("cli.review.failed", failed=body["failed"]), "bold red"))
    if body["of_now"]:
        show.line(say("cli.review.of_now", facts=", ".join(body["of_now"])))
    rows = [
        (each["order_id"], say(f"status.{each['status']}"), each["failure"] or _values(each["values"]))
        for each in (*body["failures"], *body["examples"])
    ]
    if rows:
        show.table(("order", "status", "facts"), rows, say)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{fact} = {json.dumps(value, ensure_ascii=False)}" for fact, value in values.items())
