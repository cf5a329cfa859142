"""``hengdan transfers``: move goods between locations."""

from datetime import datetime, timedelta
from secrets import token_hex
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from pydantic import JsonValue

from models.base import CHINA
from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="transfers", help=t("cli.help.transfers"), no_args_is_help=True)

TransferId = Annotated[str, typer.Argument(metavar="TRANSFER", help=t("cli.help.transfer"))]
Goods = Annotated[list[str] | None, typer.Argument(metavar="SKU=QUANTITY", help=t("cli.help.goods"))]
Due = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help=t("cli.help.due"))]
Reason = Annotated[str, typer.Option(help=t("cli.help.reason"))]


@app.command("list", help=t("cli.help.transfers.list"))
def list_transfers(
    status: Annotated[str | None, typer.Option()] = None, as_json: Json = False, lang: Lang = None
) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/transfers", status=status), _transfers)


@app.command(help=t("cli.help.transfers.propose"))
def propose(
    accept: Annotated[bool, typer.Option("--accept", help=t("cli.help.transfers.accept"))] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    if accept:
        client.show(client.post("/transfers/proposals/accept", {"request_id": _number()}), _transfers)
    else:
        client.show(client.get("/transfers/proposals"), _proposals)


@app.command(help=t("cli.help.transfers.create"))
def create(
    origin: Annotated[str, typer.Argument(help=t("cli.help.warehouse"))],
    destination: Annotated[str, typer.Argument(help=t("cli.help.warehouse"))],
    goods: Goods = None,
    due: Due = None,
    reason: Reason = "",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {
        "origin": origin,
        "destination": destination,
        "goods": client.goods(goods or []),
        "due": (due or datetime.now(CHINA) + timedelta(days=7)).date().isoformat(),
        "reason": reason,
        "request_id": _number(),
    }
    client.show(client.post("/transfers", body), lambda transfer, say: _transfers([transfer], say))


@app.command(help=t("cli.help.transfers.approve"))
def approve(transfer: TransferId, as_json: Json = False, lang: Lang = None) -> None:
    _send(ApiClient(lang, as_json), transfer, "approve")


@app.command(help=t("cli.help.transfers.ship"))
def ship(transfer: TransferId, goods: Goods = None, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    _send(client, transfer, "ship", goods=client.goods(goods or []))


@app.command(help=t("cli.help.transfers.receive"))
def receive(transfer: TransferId, goods: Goods = None, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    _send(client, transfer, "receive", goods=client.goods(goods or []))


@app.command(help=t("cli.help.transfers.cancel"))
def cancel(
    transfer: TransferId,
    how: Annotated[Literal["return", "write_off"] | None, typer.Option(help=t("cli.help.transfers.how"))] = None,
    reason: Reason = "",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    _send(ApiClient(lang, as_json), transfer, "cancel", how=how, reason=reason)


def _send(client: ApiClient, name: str, verb: str, **body: JsonValue) -> None:
    path = f"/transfers/{quote('transfer:' + name.removeprefix('transfer:'), safe='')}"
    answer = client.post(f"{path}/{verb}", body)
    client.show(answer, lambda _, say: _transfers([client.get(path).json()], say))


def _number() -> str:
    """Return a new transfer number, short enough to type."""
    return f"{datetime.now(CHINA):%y%m%d}-{token_hex(3)}"


def _transfers(body: Any, say: Say) -> None:
    rows = [
        (
            each["id"].removeprefix("transfer:"),
            each["status_text"],
            f"{each['origin']} → {each['destination']}",
            ", ".join(
                f"{line['sku']} {line['received']}/{line['shipped'] or line['quantity']}" for line in each["lines"]
            ),
            each["due"],
            each["reason"],
        )
        for each in body
    ]
    show.listing(("transfer", "status", "way", "goods", "due", "reason"), rows, say)


def _proposals(body: Any, say: Say) -> None:
    rows = [(f"{each['origin']} → {each['destination']}", each["sku"], each["quantity"], each["why"]) for each in body]
    show.listing(("way", "sku", "quantity", "reason"), rows, say)
