"""``hengdan print``: labels and packing lists of many fulfillment orders into one file."""

from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from models.i18n import t
from starter.cli.door import Door, Lang, Refusal

_AT_ONCE = 50

Parcels = Annotated[list[str] | None, typer.Argument(metavar="FULFILLMENT", help=t("cli.help.print.parcels"))]
Out = Annotated[Path, typer.Option("--out", "-o", help=t("cli.help.print.out"))]


def print_sheets(
    parcels: Parcels = None,
    out: Out = Path("labels.pdf"),
    kind: Annotated[str, typer.Option(help=t("cli.help.print.kind"))] = "label",
    paper: Annotated[str, typer.Option(help=t("cli.help.print.paper"))] = "100x180",
    lang: Lang = None,
) -> None:
    """Fulfillment orders are named, or read one a line from standard input. A file that ends in .zpl is ZPL."""
    door = Door(lang, False)
    named = parcels or [line.strip() for line in typer.get_text_stream("stdin") if line.strip()]
    if not named:
        raise Refusal(door.say("cli.print.nothing"))
    zpl = out.suffix == ".zpl"
    parts: list[bytes] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(door.say("cli.print.printing"), total=len(named))
        for at in range(0, len(named), _AT_ONCE):
            some = named[at : at + _AT_ONCE]
            asked: dict[str, JsonValue] = {
                "fulfillments": [*some],
                "kind": kind,
                "paper": paper,
                "format": "zpl" if zpl else "pdf",
            }
            parts.append(door.post("/labels", asked).content)
            progress.advance(task, len(some))
    out.write_bytes(b"\n".join(parts) if zpl else _joined(parts))
    typer.echo(door.say("cli.print.done", count=len(named), file=out))


def _joined(parts: list[bytes]) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter()
    for part in parts:
        writer.append(PdfReader(BytesIO(part)))
    joined = BytesIO()
    writer.write(joined)
    return joined.getvalue()
