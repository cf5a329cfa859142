"""``hengdan print``: print labels and packing lists into one file."""

from pathlib import Path
from time import sleep
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, ExitCode, Json, Lang, Refusal, Say

Kind = Literal["label", "packing_list"]
Size = Literal["100x180", "100x150", "a5", "a4"]
Format = Literal["pdf", "zpl"]


def print_(
    named: Annotated[list[str] | None, typer.Argument(help=t("cli.help.print.named"))] = None,
    warehouse: Annotated[str | None, typer.Option(help=t("cli.help.warehouse"))] = None,
    carrier: Annotated[str | None, typer.Option(help=t("cli.help.print.carrier"))] = None,
    status: Annotated[str | None, typer.Option(help=t("cli.help.print.status"))] = None,
    unprinted: Annotated[bool, typer.Option("--unprinted", help=t("cli.help.print.unprinted"))] = False,
    kind: Annotated[Kind, typer.Option(help=t("cli.help.print.kind"))] = "label",
    size: Annotated[Size | None, typer.Option(help=t("cli.help.print.size"))] = None,
    format_: Annotated[Format, typer.Option("--format", help=t("cli.help.print.format"))] = "pdf",
    dpi: Annotated[int, typer.Option(help=t("cli.help.print.dpi"))] = 203,
    output: Annotated[Path | None, typer.Option("-o", "--output", help=t("cli.help.print.file"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    job: dict[str, JsonValue] = {"warehouse": warehouse, "carrier": carrier, "status": status}
    job |= {"unprinted": unprinted, "kind": kind, "size": size, "format": format_, "dpi": dpi}
    if not (named or warehouse or carrier or status):
        named = _read_standard_input()
    if named:
        job["fulfillments"] = [each for name in named for each in _fulfillments(client, name)]
    target = output or Path(f"{kind}s.{format_}")
    if not target.absolute().parent.is_dir():
        raise Refusal(client.say("cli.no_folder", folder=target.parent))
    answer = client.post("/labels", job)
    path = f"/labels/{quote(answer.json()['id'], safe='')}"
    columns = (TextColumn(kind), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(kind, total=answer.json()["total"])
        while answer.json()["state"] == "running":
            sleep(0.3)
            answer = client.get(path)
            bar.update(task, completed=answer.json()["done"])
        bar.update(task, completed=answer.json()["done"])
    result = answer.json()
    if result["state"] == "failed":
        raise Refusal(client.say("cli.print_failed", id=result["id"]), exit_code=ExitCode.FAILED)
    pages = result["total"] - len(result["left_out"])
    if pages:
        try:
            target.write_bytes(client.get(f"{path}/file").content)
        except OSError as error:
            raise Refusal(f"{target}: {error.strerror}") from None

    def report(body: Any, say: Say) -> None:
        for fulfillment, why in body["left_out"].items():
            show.line((fulfillment, "bold red"), "  ", why)
        show.line(say("cli.printed", pages=pages, file=target) if pages else say("cli.nothing"))

    client.show(answer, report)


def _read_standard_input() -> list[str]:
    """Return the names on standard input, one a line; none where it is a terminal."""
    stdin = typer.get_text_stream("stdin")
    return [] if stdin.isatty() else [line.strip() for line in stdin if line.strip()]


def _fulfillments(client: ApiClient, name: str) -> list[str]:
    """Return a fulfillment order given by id, or those of an order that have a waybill."""
    if name.startswith("order:") and name.rpartition(":")[2].startswith("F") and name.count(":") == 4:
        return [name]
    fulfillments = client.get(client.order(name)).json()["fulfillments"]
    ready = [str(each["id"]) for each in fulfillments if each["waybill_no"]]
    if not ready:
        raise Refusal(client.say("cli.not_ready", order=name))
    return ready
