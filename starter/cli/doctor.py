"""``hengdan doctor``: list what keeps the set-up from working, compare the database with the engine, and mend."""

from time import sleep
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, ExitCode, Json, Lang, Refusal, Say


def doctor(
    orders: Annotated[list[str] | None, typer.Argument(help=t("cli.help.doctor.orders"))] = None,
    mend: Annotated[bool, typer.Option("--mend", help=t("cli.help.doctor.mend"))] = False,
    replace: Annotated[bool, typer.Option("--replace", help=t("cli.help.doctor.replace"))] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    if not (orders or as_json):
        for text in (obstacles := client.get("/setup").json()):
            show.line(("! ", "red"), text)
        if not obstacles:
            show.line(client.say("cli.doctor.ready"))
    body: dict[str, JsonValue] = {"mend": mend, "replace": replace, "orders": [*(orders or ())]}
    examination = client.post("/doctor", body).json()["id"]
    path = f"/doctor/{quote(examination, safe='')}"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(client.say("cli.doctor.comparing"), total=None)
        while (found := client.get(path)).json()["running"]:
            progress = found.json()
            bar.update(task, completed=progress["done"], total=progress["total"] or None)
            sleep(0.5)
    if found.json()["failed"]:
        raise Refusal(client.say("cli.doctor.failed", id=examination), exit_code=ExitCode.FAILED)
    client.show(found, _findings)


def _findings(body: Any, say: Say) -> None:
    if not body["differences"]:
        show.line(say("cli.doctor.none", count=body["total"]))
        return
    for kind, count in body["counts"].items():
        show.line(f"{count} × {say(f'difference.{kind}')}")
    rows = [
        (each["order_id"], each["text"], say(f"cli.doctor.{'mended' if each['mended'] else 'open'}"), each["reason"])
        for each in body["differences"]
    ]
    show.table(("order", "difference", "status", "reason"), rows, say)
    if len(rows) < (total := sum(body["counts"].values())):
        show.line(say("cli.doctor.listed", listed=len(rows), total=total))
