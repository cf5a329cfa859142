"""``hengdan accounts``: accounts with shops, carriers, warehouse systems and media."""

from pathlib import Path
from typing import Annotated, Any

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, Say

app = typer.Typer(name="accounts", help=t("cli.help.accounts"), no_args_is_help=True)

Integration = Annotated[str, typer.Argument(metavar="INTEGRATION", help=t("cli.help.accounts.integration"))]
Source = Annotated[str, typer.Argument(help=t("cli.help.accounts.source"))]


@app.command("list", help=t("cli.help.accounts.list"))
def list_accounts(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/accounts"), _accounts)


@app.command("set", help=t("cli.help.accounts.set"))
def set_account(
    integration: Integration,
    source: Source,
    account: str,
    file: Annotated[Path, typer.Argument(help=t("cli.help.accounts.file"), exists=True, dir_okay=False)],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    answer = client.put(f"/accounts/{integration}/{source}/{account}", client.read_json(file))
    client.show(answer, lambda body, say: _accounts([body], say))


@app.command("test", help=t("cli.help.accounts.test"))
def try_account(
    integration: Integration, source: Source, account: str, as_json: Json = False, lang: Lang = None
) -> None:
    client = ApiClient(lang, as_json)
    answer = client.post(f"/accounts/{integration}/{source}/{account}/test")
    client.show(answer, lambda body, say: show.line(body["text"]))


@app.command(help=t("cli.help.accounts.close"))
def close(integration: Integration, source: Source, account: str, lang: Lang = None) -> None:
    ApiClient(lang, False).delete(f"/accounts/{integration}/{source}/{account}")


@app.command(help=t("cli.help.accounts.describe"))
def describe(
    source: Annotated[str | None, typer.Argument(help=t("cli.help.accounts.source"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    found = client.get("/accounts/adapters", source=source)
    if not found.json():
        known = ", ".join(sorted({each["source"] for each in client.get("/accounts/adapters").json()}))
        raise Refusal(client.say("invalid.source.unknown", source=source or "", known=known))
    client.show(found, _adapters if source is None else _fields)


def _adapters(body: Any, say: Say) -> None:
    rows = [(each["integration"], each["source"], each["console"]) for each in body]
    show.table(("integration", "interface", "console"), rows, say)


def _fields(body: Any, say: Say) -> None:
    """Print each adapter of a name: where to look, the address, and a table of its fields."""
    for each in body:
        show.line((f"{say('integration.' + each['integration'])} {each['source']}", "bold"), "  ", each["console"])
        show.line("base_url  ", each["base_url"] or "-")
        rows = [
            (
                say("cli.secret" if field["secret"] else "cli.setting"),
                field["name"],
                field["required"],
                field["text"],
            )
            for field in each["fields"]
        ]
        show.table(("kind", "name", "required", "meaning"), rows, say)


def _accounts(body: Any, say: Say) -> None:
    rows = [each | {"interface": each["source"]} for each in body]
    show.columns(("integration", "interface", "account", "base_url", "secrets"), rows, say)
