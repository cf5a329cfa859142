"""``hengdan files``: import and export spreadsheets."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.console import Console

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, Say

app = typer.Typer(name="files", help=t("cli.help.files"), no_args_is_help=True)

Kind = Annotated[str, typer.Argument(help=t("cli.help.sheet"))]


@app.command("import", help=t("cli.help.files.import"))
def import_file(
    kind: Kind,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    partial: Annotated[bool, typer.Option("--partial", help=t("cli.help.partial"))] = False,
    check: Annotated[bool, typer.Option("--check", help=t("cli.help.check"))] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    query = urlencode({"partial": partial, "check": check, "name": file.name[-100:]})
    try:
        with Console(stderr=True).status(client.say("cli.importing", file=file.name)):
            answer = client.post(f"/files/{quote(kind, safe='')}?{query}", content=file.read_bytes())
    except Refusal as refusal:
        if refusal.answer is not None and "applied" in refusal.answer.text:
            client.show(refusal.answer, show.sheet_errors)
        raise

    def report(body: Any, say: Say) -> None:
        show.sheet_errors(body, say)
        show.line(say("cli.checked" if check else "cli.imported", rows=body["rows"], applied=body["applied"]))

    client.show(answer, report)
    if errors := answer.json()["errors"]:
        raise Refusal(client.say("cli.rows_wrong", errors=len(errors) + answer.json()["more"]))


@app.command("export", help=t("cli.help.files.export"))
def export_file(kind: Kind, file: Annotated[Path, typer.Argument(dir_okay=False)], lang: Lang = None) -> None:
    client = ApiClient(lang, False)
    answer = client.get(f"/files/{quote(kind, safe='')}", format=file.suffix[1:].lower() or "csv")
    try:
        file.write_bytes(answer.content)
    except OSError as error:
        raise Refusal(f"{file}: {error.strerror}") from None
    show.line(client.say("cli.exported", file=file))
