"""``hengdan keys``: API keys of people and programs."""

from typing import Annotated, Any

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="keys", help=t("cli.help.keys"), no_args_is_help=True)

Name = Annotated[str, typer.Argument(help=t("cli.help.keys.name"))]


@app.command("list", help=t("cli.help.keys.list"))
def list_keys(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/keys"), _keys)


@app.command(help=t("cli.help.keys.create"))
def create(
    name: Name,
    scope: Annotated[list[str], typer.Option(help=t("cli.help.keys.scope"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.post("/keys", {"name": name, "scopes": [*scope]}), _shown)


@app.command(help=t("cli.help.keys.rotate"))
def rotate(name: Name, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.post(f"/keys/{name}/rotate"), _shown)


@app.command(help=t("cli.help.keys.revoke"))
def revoke(name: Name, lang: Lang = None) -> None:
    client = ApiClient(lang, False)
    client.delete(f"/keys/{name}")
    show.line(client.say("cli.keys.revoked", name=name))


def _keys(body: Any, say: Say) -> None:
    rows = [
        (each["name"], ", ".join(each["scopes"]), show.when(each["created_at"]), show.when(each["revoked_at"]))
        for each in body
    ]
    show.listing(("name", "scopes", "created", "revoked"), rows, say)


def _shown(body: Any, say: Say) -> None:
    show.line(say("cli.keys.shown", name=body["name"], scopes=", ".join(body["scopes"])))
    typer.echo(body["key"])
