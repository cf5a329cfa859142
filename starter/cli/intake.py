"""``hengdan intake``: failed messages and reconciliations."""

import os
import shlex
import subprocess
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import JsonValue
from rich.console import Console

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, Say, moment

Text = Annotated[str | None, typer.Option()]
Reason = Annotated[str, typer.Option(help=t("cli.help.reason"))]
Since = Annotated[datetime | None, typer.Option(help=t("cli.help.received_since"))]
Corrected = Annotated[typer.FileBinaryRead | None, typer.Option(help=t("cli.help.body"))]

app = typer.Typer(name="intake", help=t("cli.help.intake"), no_args_is_help=True)


@app.command(help=t("cli.help.intake.failed"))
def failed(
    message: Annotated[int | None, typer.Argument(help=t("cli.help.message"))] = None,
    channel: Text = None,
    shop: Text = None,
    field: Text = None,
    since: Since = None,
    reasons: Annotated[bool, typer.Option("--reasons", help=t("cli.help.intake.reasons"))] = False,
    limit: int = 100,
    cursor: int = 0,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    filters = {"channel": channel, "shop": shop, "field": field, "since": moment(since)}
    if message is not None:
        client.show(client.get(f"/intake/{message}/raw"), lambda raw, say: typer.echo(raw["body"]))
    elif reasons:
        client.show(client.get("/intake/failed/reasons", **filters), show.reasons)
    else:
        client.show(client.get("/intake/failed", **filters, limit=limit, cursor=cursor), show.failed)


@app.command(help=t("cli.help.intake.retry"))
def retry(
    message: Annotated[int | None, typer.Argument()] = None,
    all_: Annotated[bool, typer.Option("--all", help=t("cli.help.all"))] = False,
    channel: Text = None,
    shop: Text = None,
    field: Text = None,
    since: Since = None,
    body: Corrected = None,
    reason: Reason = "",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    filters = {"channel": channel, "shop": shop, "field": field, "since": moment(since)}
    if (message is None) is not all_ or (all_ and body) or (not all_ and any(filters.values())):
        raise Refusal(client.say("cli.one_or_all"))
    if all_:
        client.show(client.post("/intake/retry", params=filters), _retried)
    else:
        content = body.read() if body else None
        client.show(client.post(f"/intake/{message}/retry", content=content, params={"reason": reason}), _retried)


@app.command(help=t("cli.help.intake.edit"))
def edit(
    message: Annotated[int, typer.Argument()],
    body: Corrected = None,
    reason: Reason = "",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    before = client.get(f"/intake/{message}/raw").json()["body"].encode()
    after = body.read() if body else _edit(before, client.say)
    if after == before:
        raise Refusal(client.say("cli.unchanged"))
    client.show(client.post(f"/intake/{message}/retry", content=after, params={"reason": reason}), _retried)


def _edit(before: bytes, say: Say) -> bytes:
    """Return the message as edited in the user's editor; only the user can read the file."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "message.json"
        file.write_bytes(before)
        try:
            status = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode  # noqa: S603  # the user's own editor
        except OSError:
            status = 1
        if status:
            raise Refusal(say("cli.no_editor", editor=editor))
        return file.read_bytes()


@app.command(help=t("cli.help.intake.discard"))
def discard(
    message: Annotated[int, typer.Argument()],
    reason: Annotated[str, typer.Option(help=t("cli.help.reason"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    answer = client.post(f"/intake/{message}/discard", {"reason": reason})
    client.show(answer, lambda body, say: show.line(say("cli.discarded", id=message)))


def _retried(answer: Any, say: Say) -> None:
    show.line(say("cli.retried", count=answer["retried"]))


@app.command(help=t("cli.help.intake.reconcile"))
def reconcile(
    channel: Annotated[str, typer.Argument(help=t("cli.help.channel"))],
    shop: Annotated[str, typer.Argument(help=t("cli.help.shop"))],
    since: Annotated[datetime | None, typer.Option(help=t("cli.help.since"))] = None,
    until: Annotated[datetime | None, typer.Option(help=t("cli.help.until"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    window: dict[str, JsonValue] = {"since": moment(since), "until": moment(until)}
    started = client.post(f"/channels/{quote(channel, safe='')}/{quote(shop, safe='')}/reconcile", window).json()["id"]
    path = f"/intake/reconciliations/{quote(started, safe='')}"
    with Console(stderr=True).status("") as progress:
        while not (report := client.get(path).json())["finished_at"]:
            progress.update(client.say("cli.reconcile.progress", **report))
            sleep(0.5)
    client.show(client.get(path), show.reconciliation)


@app.command(help=t("cli.help.intake.reports"))
def reports(
    report: Annotated[str | None, typer.Argument(help=t("cli.help.reconciliation"))] = None,
    channel: Text = None,
    shop: Text = None,
    limit: int = 50,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    if report is None:
        page = client.get("/intake/reconciliations", channel=channel, shop=shop, limit=limit)
        client.show(page, show.reconciliations)
    else:
        client.show(client.get(f"/intake/reconciliations/{quote(report, safe='')}"), show.reconciliation)
