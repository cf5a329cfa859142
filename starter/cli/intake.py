"""``hengdan intake``: what was acknowledged but not understood."""

from datetime import datetime
from time import sleep
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import JsonValue
from rich.console import Console

from models.i18n import t
from starter.cli import show
from starter.cli.door import Door, Json, Lang, Refusal, Say, moment

Words = Annotated[str | None, typer.Option()]

app = typer.Typer(name="intake", help=t("cli.help.intake"), no_args_is_help=True)


@app.command(help=t("cli.help.intake.failed"))
def failed(
    message: Annotated[int | None, typer.Argument(help=t("cli.help.message"))] = None,
    limit: int = 100,
    cursor: int = 0,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = Door(lang, as_json)
    if message is None:
        door.show(door.get("/intake/failed", limit=limit, cursor=cursor), show.failed)
    else:
        door.show(door.get(f"/intake/{message}/raw"), lambda raw, say: typer.echo(raw["body"]))


@app.command(help=t("cli.help.intake.retry"))
def retry(
    message: Annotated[int | None, typer.Argument()] = None,
    every: Annotated[bool, typer.Option("--all", help=t("cli.help.all"))] = False,
    body: Annotated[typer.FileBinaryRead | None, typer.Option(help=t("cli.help.body"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = Door(lang, as_json)
    if (message is None) is not every or (every and body):
        raise Refusal(door.say("cli.one_or_all"))
    path = "/intake/retry" if every else f"/intake/{message}/retry"

    def tell(answer: Any, say: Say) -> None:
        show.line(say("cli.retried", count=answer["retried"]))

    door.show(door.post(path, content=body.read() if body else None), tell)


@app.command(help=t("cli.help.intake.reconcile"))
def reconcile(
    channel: Annotated[str, typer.Argument(help=t("cli.help.channel"))],
    shop: Annotated[str, typer.Argument(help=t("cli.help.shop"))],
    since: Annotated[datetime | None, typer.Option(help=t("cli.help.since"))] = None,
    until: Annotated[datetime | None, typer.Option(help=t("cli.help.until"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = Door(lang, as_json)
    asked: dict[str, JsonValue] = {"since": moment(since), "until": moment(until)}
    begun = door.post(f"/channels/{quote(channel, safe='')}/{quote(shop, safe='')}/reconcile", asked).json()["id"]
    path = f"/intake/reconciliations/{quote(begun, safe='')}"
    with Console(stderr=True).status("") as progress:
        while not (report := door.get(path).json())["finished_at"]:
            progress.update(door.say("cli.reconcile.progress", **report))
            sleep(0.5)
    door.show(door.get(path), show.reconciliation)


@app.command(help=t("cli.help.intake.reports"))
def reports(
    report: Annotated[str | None, typer.Argument(help=t("cli.help.reconciliation"))] = None,
    channel: Words = None,
    shop: Words = None,
    limit: int = 50,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = Door(lang, as_json)
    if report is None:
        found = door.get("/intake/reconciliations", channel=channel, shop=shop, limit=limit)
        door.show(found, show.reconciliations)
    else:
        door.show(door.get(f"/intake/reconciliations/{quote(report, safe='')}"), show.reconciliation)
