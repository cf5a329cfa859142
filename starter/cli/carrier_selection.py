"""``hengdan carriers``: terms, rules, penalties and performance of carriers."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="carriers", help=t("cli.help.carriers"), no_args_is_help=True)

File = Annotated[Path, typer.Argument(help=t("cli.help.carriers.file"), exists=True, dir_okay=False)]


@app.command("list", help=t("cli.help.carriers.list"))
def list_terms(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    heads = ("carrier", "active", "areas", "max_kg", "capacity", "cutoff", "quotes")
    client.show(client.get("/carriers"), lambda body, say: show.columns(heads, body, say))


@app.command(help=t("cli.help.carriers.lanes"))
def lanes(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    heads = ("carrier", "origin", "destination", "parcels", "late", "lost", "days")
    client.show(client.get("/carriers/lanes"), lambda body, say: show.columns(heads, body, say))


@app.command(help=t("cli.help.carriers.weights"))
def weights(
    file: Annotated[Path | None, typer.Argument(help=t("cli.help.carriers.file"), exists=True, dir_okay=False)] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    if file is None:
        answer = client.get("/carriers/weights")
    else:
        answer = client.put("/carriers/weights", client.read_json(file))
    client.show(answer, _weights)


@app.command(help=t("cli.help.carriers.rules"))
def rules(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/carriers/rules"), show.rules)


@app.command(help=t("cli.help.carriers.rule"))
def rule(file: File, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    body = client.rule(file)
    client.show(client.put(f"/carriers/rules/{body['number']}", body), lambda body, say: show.rules([body], say))


@app.command(help=t("cli.help.carriers.drop"))
def drop(number: int, lang: Lang = None) -> None:
    ApiClient(lang, False).delete(f"/carriers/rules/{number}")


@app.command("try", help=t("cli.help.carriers.try"))
def try_out(
    file: File,
    since: Annotated[datetime, typer.Option(help=t("cli.help.carriers.since"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    trial: dict[str, Any] = {"rule": client.rule(file), "since": since.astimezone().isoformat()}
    client.show(client.post("/carriers/dry-run", trial), _trial)


def _weights(body: Any, say: Say) -> None:
    faults = ("late", "day", "urgent_day", "unreliable", "lost")
    rows = [[shop or "*", *(each[fault] for fault in faults)] for shop, each in body.items()]
    show.table(("shop", "late", "a_day", "urgent_day", "unreliable", "lost"), rows, say)


def _trial(body: Any, say: Say) -> None:
    counts = {name: body[name] for name in ("parcels", "total", "applied")}
    line = say("cli.carriers.tried", before=body["freight_before"], after=body["freight_after"], **counts)
    show.line((line, "bold"))
    if body["failed"]:
        show.line((say("cli.carriers.failed", failed=body["failed"]), "bold red"))
    for move, count in sorted(body["moved"].items()):
        show.line(f"{move.replace(' ', ' → ')}: {count}")
    show.columns(("fulfillment_id", "before", "after"), body["examples"], say)
