"""``hengdan settlements``: claims on carriers and refunds to buyers, and their outcome."""

from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from pydantic import JsonValue

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="settlements", help=t("cli.help.settlements"), no_args_is_help=True)

Kind = Literal["claim", "refund"]
State = Literal["open", "asked", "paid", "refused"]


@app.command("list", help=t("cli.help.settlements.list"))
def list_settlements(
    kind: Annotated[Kind | None, typer.Option()] = None,
    carrier: Annotated[str | None, typer.Option()] = None,
    settled: Annotated[bool, typer.Option("--settled", help=t("cli.help.settlements.settled"))] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    filters = {"kind": kind, "carrier": carrier, "settled": settled or None}
    client.show(client.get("/settlements", **filters), _settlements)


@app.command("set", help=t("cli.help.settlements.set"))
def settle(
    fulfillment: Annotated[str, typer.Argument(metavar="FULFILLMENT", help=t("cli.help.exceptions.parcel"))],
    kind: Kind,
    state: Annotated[State | None, typer.Option()] = None,
    paid: Annotated[str | None, typer.Option(help=t("cli.help.settlements.paid"))] = None,
    reference: Annotated[str | None, typer.Option(help=t("cli.help.settlements.reference"))] = None,
    note: Annotated[str | None, typer.Option()] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    fields: dict[str, JsonValue] = {"state": state, "paid": paid, "reference": reference, "note": note}
    path = f"/settlements/{quote(fulfillment, safe='')}/{kind}"
    answer = client.patch(path, {name: value for name, value in fields.items() if value is not None})
    client.show(answer, lambda body, say: _settlements([body], say))


def _settlements(body: Any, say: Say) -> None:
    ours = {"settlement_kind": "kind", "settlement_state": "state", "settled": "paid"}
    rows = [each | {head: each[field] for head, field in ours.items()} for each in body]
    heads = ("fulfillment_id", *list(ours)[:2], "carrier", "waybill_no", "currency", "amount", "settled", "reference")
    show.columns(heads, rows, say)
