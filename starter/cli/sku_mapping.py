"""``hengdan map``: map the items of shops to SKUs."""

from typing import Annotated, Any

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="map", help=t("cli.help.map"), no_args_is_help=True)

Channel = Annotated[str | None, typer.Option(help=t("cli.help.channel"))]
Shop = Annotated[str | None, typer.Option(help=t("cli.help.shop"))]
Item = Annotated[str, typer.Argument(help=t("cli.help.item"))]


@app.command("list", help=t("cli.help.map.list"))
def list_mappings(
    channel: Channel = None, shop: Shop = None, sku: str | None = None, as_json: Json = False, lang: Lang = None
) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/mappings", channel=channel, shop=shop, sku=sku), show.mappings)


@app.command(help=t("cli.help.map.unmapped"))
def unmapped(channel: Channel = None, shop: Shop = None, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/mappings/unmapped", channel=channel, shop=shop), show.unmapped)


@app.command("set", help=t("cli.help.map.set"))
def assign(channel: str, item: Item, sku: str, shop: Shop = None, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    mapping = {"channel": channel, "shop": shop or "", "item": item, "sku": sku}

    def report(answer: Any, say: Say) -> None:
        show.line(say("cli.mapped", item=item, sku=sku))

    client.show(client.put("/mappings", {"mappings": [mapping]}), report)


@app.command(help=t("cli.help.map.drop"))
def drop(channel: str, item: Item, shop: Shop = None, lang: Lang = None) -> None:
    ApiClient(lang, False).delete("/mappings", channel=channel, shop=shop or "", item=item)
