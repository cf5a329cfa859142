"""``hengdan accounts``: accounts with shops, carriers, warehouse systems and media."""

from pathlib import Path
from typing import Annotated, Any

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

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


@app.command(help=t("cli.help.accounts.close"))
def close(integration: Integration, source: Source, account: str, lang: Lang = None) -> None:
    ApiClient(lang, False).delete(f"/accounts/{integration}/{source}/{account}")


def _accounts(body: Any, say: Say) -> None:
    rows = [each | {"secrets": ", ".join(each["secrets"])} for each in body]
    show.columns(("integration", "source", "account", "base_url", "secrets"), rows, say)
