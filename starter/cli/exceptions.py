"""``hengdan exceptions``: what is wrong with parcels, and what is done about it."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="exceptions", help=t("cli.help.exceptions"), no_args_is_help=True)

Parcel = Annotated[str, typer.Argument(metavar="FULFILLMENT", help=t("cli.help.exceptions.parcel"))]
Kind = Annotated[str, typer.Argument(help=t("cli.help.exceptions.kind"))]


@app.command("list", help=t("cli.help.exceptions.list"))
def list_exceptions(
    kind: Annotated[str | None, typer.Option(help=t("cli.help.exceptions.kind"))] = None,
    owner: Annotated[str | None, typer.Option()] = None,
    warehouse: Annotated[str | None, typer.Option()] = None,
    carrier: Annotated[str | None, typer.Option()] = None,
    closed: Annotated[bool, typer.Option("--closed")] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = ApiClient(lang, as_json)
    asked = {"kind": kind, "owner": owner, "warehouse": warehouse, "carrier": carrier, "closed": closed or None}
    door.show(door.get("/exceptions", **asked), _exceptions)


@app.command(help=t("cli.help.exceptions.count"))
def count(as_json: Json = False, lang: Lang = None) -> None:
    door = ApiClient(lang, as_json)
    door.show(door.get("/exceptions/summary"), _counts)


@app.command(help=t("cli.help.exceptions.remedy"))
def remedy(parcel: Parcel, kind: Kind, what: str, as_json: Json = False, lang: Lang = None) -> None:
    door = ApiClient(lang, as_json)
    told = door.post(f"/exceptions/{quote(parcel, safe='')}/{kind}/remedy", {"remedy": what})
    door.show(told, lambda body, say: _exceptions([body], say))


@app.command(help=t("cli.help.exceptions.close"))
def close(
    parcel: Parcel,
    kind: Kind,
    note: Annotated[str, typer.Option(help=t("cli.help.exceptions.note"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    door = ApiClient(lang, as_json)
    told = door.post(f"/exceptions/{quote(parcel, safe='')}/{kind}/close", {"note": note})
    door.show(told, lambda body, say: _exceptions([body], say))


def _exceptions(body: Any, say: Say) -> None:
    rows = [
        (
            each["fulfillment_id"],
            each["text"],
            each["severity"],
            each["owner"],
            show.when(each["due_at"]),
            each["waybill_no"] or "",
            each["remedy"] or ", ".join(each["suggested"]),
        )
        for each in body
    ]
    show.table(("fulfillment", "kind", "severity", "owner", "due", "waybill", "remedy"), rows, say)


def _counts(body: Any, say: Say) -> None:
    ages = ("open", "overdue", "under_a_day", "under_three_days", "older")
    show.table(("kind", *ages), [(each["text"], *(each[age] for age in ages)) for each in body], say)
