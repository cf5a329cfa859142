"""``hengdan stock``: levels, receipts, corrections, and the proof that levels are their ledger."""

from typing import Annotated

import typer
from pydantic import JsonValue

from models.i18n import t
from starter.cli import show
from starter.cli.door import Door, Json, Lang

app = typer.Typer(name="stock", help=t("cli.help.stock"), no_args_is_help=True)

Warehouse = Annotated[str, typer.Argument(help=t("cli.help.warehouse"))]
Sku = Annotated[str, typer.Argument()]


@app.command("show", help=t("cli.help.stock.show"))
def levels(
    sku: Annotated[str | None, typer.Argument()] = None,
    warehouse: Annotated[str | None, typer.Option(help=t("cli.help.warehouse"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = Door(lang, as_json)
    door.show(door.get("/stock", sku=sku, warehouse=warehouse), show.levels)


@app.command(help=t("cli.help.stock.receive"))
def receive(warehouse: Warehouse, sku: Sku, quantity: int, as_json: Json = False, lang: Lang = None) -> None:
    door = Door(lang, as_json)
    told: dict[str, JsonValue] = {"warehouse": warehouse, "sku": sku, "quantity": quantity}
    door.show(door.post("/stock/receive", told), show.level)


@app.command(help=t("cli.help.stock.adjust"), context_settings={"ignore_unknown_options": True})
def adjust(
    warehouse: Warehouse,
    sku: Sku,
    quantity: Annotated[int, typer.Argument(help=t("cli.help.difference"))],
    reason: Annotated[str, typer.Option(help=t("cli.help.reason"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = Door(lang, as_json)
    told: dict[str, JsonValue] = {"warehouse": warehouse, "sku": sku, "quantity": quantity, "reason": reason}
    door.show(door.post("/stock/adjust", told), show.level)


@app.command(help=t("cli.help.stock.verify"))
def verify(as_json: Json = False, lang: Lang = None) -> None:
    door = Door(lang, as_json)
    answer = door.get("/stock/verify")
    door.show(answer, show.proof)
    if not answer.json()["balanced"]:
        raise typer.Exit(1)
