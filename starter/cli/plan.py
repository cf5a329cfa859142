"""``hengdan plan``: which warehouse sends what, and what happens where one closes."""

from time import monotonic, sleep
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.i18n import t
from starter.cli import show
from starter.cli.door import Door, Json, Lang, Say

app = typer.Typer(name="plan", help=t("cli.help.plan"), no_args_is_help=True)

STILL_SECONDS = 10
"""Nothing more was planned elsewhere for so long: what is left needs a person."""

Warehouse = Annotated[str, typer.Argument(help=t("cli.help.warehouse"))]
Reason = Annotated[str, typer.Option(help=t("cli.help.reason"))]


@app.command(help=t("cli.help.plan.again"))
def again(
    warehouse: Warehouse,
    reason: Reason,
    close: Annotated[bool, typer.Option("--close", help=t("cli.help.plan.close"))] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = Door(lang, as_json)
    before = door.get(f"/plan/again/{warehouse}").json()["left"]
    answer = door.post("/plan/again", {"warehouse": warehouse, "reason": reason, "close": close})
    columns = (TextColumn(warehouse), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(warehouse, total=before)
        left, since = before, monotonic()
        while answer.json()["running"] or (left and monotonic() < since + STILL_SECONDS):
            sleep(0.3)
            answer = door.get(f"/plan/again/{warehouse}")
            if (now := answer.json()["left"]) != left:
                left, since = now, monotonic()
            bar.update(task, completed=max(before - left, 0))
    door.show(answer, _told)


def _told(body: Any, say: Say) -> None:
    show.line(say("cli.replanned", warehouse=body["warehouse"], told=body["told"], left=body["left"]))
