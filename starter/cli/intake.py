"""``hengdan intake``: what was acknowledged but not understood."""

from typing import Annotated, Any

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.door import Door, Json, Lang, Refusal, Say

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
