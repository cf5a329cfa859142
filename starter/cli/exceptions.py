"""``hengdan exceptions``: list and count what needs a person, apply remedies and close exceptions."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="exceptions", help=t("cli.help.exceptions"), no_args_is_help=True)

Key = Annotated[str, typer.Argument(help=t("cli.help.exceptions.key"))]


@app.command("list", help=t("cli.help.exceptions.list"))
def list_exceptions(
    kind: Annotated[str | None, typer.Option(help=t("cli.help.exceptions.kind"))] = None,
    order: Annotated[str | None, typer.Option()] = None,
    owner: Annotated[str | None, typer.Option()] = None,
    shop: Annotated[str | None, typer.Option()] = None,
    warehouse: Annotated[str | None, typer.Option()] = None,
    carrier: Annotated[str | None, typer.Option()] = None,
    closed: Annotated[bool, typer.Option("--closed")] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    equal = {"kind": kind, "order_id": order, "owner": owner, "shop": shop, "warehouse": warehouse, "carrier": carrier}
    client.show(client.get("/exceptions", **equal, closed=closed or None), _exceptions)


@app.command(help=t("cli.help.exceptions.count"))
def count(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/exceptions/summary"), _counts)


@app.command(help=t("cli.help.exceptions.remedy"))
def remedy(key: Key, remedy: str, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    response = client.post(f"/exceptions/{quote(key, safe='')}/remedy", {"remedy": remedy})
    client.show(response, lambda body, say: _exceptions([body], say))


@app.command(help=t("cli.help.exceptions.close"))
def close(
    key: Key,
    note: Annotated[str, typer.Option(help=t("cli.help.exceptions.note"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    response = client.post(f"/exceptions/{quote(key, safe='')}/close", {"note": note})
    client.show(response, lambda body, say: _exceptions([body], say))


def _exceptions(body: Any, say: Say) -> None:
    rows = [
        (
            each["key"],
            each["text"],
            each["severity"],
            each["owner"],
            each["due_at"],
            each["remedy"] or each["suggested"],
        )
        for each in body
    ]
    show.table(("key", "kind", "severity", "owner", "deadline", "remedy"), rows, say)


def _counts(body: Any, say: Say) -> None:
    ages = ("open", "overdue", "under_a_day", "under_three_days", "older")
    show.table(("kind", *ages), [(each["text"], *(each[age] for age in ages)) for each in body], say)
