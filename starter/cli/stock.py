"""``hengdan stock``: levels, receipts, adjustments, stocktakes, virtual warehouses, listings and verification."""

from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import JsonValue

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="stock", help=t("cli.help.stock"), no_args_is_help=True)

Warehouse = Annotated[str, typer.Argument(help=t("cli.help.warehouse"))]
Sku = Annotated[str, typer.Argument()]
Reason = Annotated[str, typer.Option("--reason", help=t("cli.help.reason"))]
Goods = Annotated[list[str], typer.Argument(help=t("cli.help.goods"))]


@app.command("show", help=t("cli.help.stock.show"))
def levels(
    sku: Annotated[str | None, typer.Argument()] = None,
    warehouse: Annotated[str | None, typer.Option(help=t("cli.help.warehouse"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/stock", sku=sku, warehouse=warehouse), show.levels)


@app.command(help=t("cli.help.stock.receive"))
def receive(warehouse: Warehouse, sku: Sku, quantity: int, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {"warehouse": warehouse, "sku": sku, "quantity": quantity}
    client.show(client.post("/stock/receive", body), show.level)


@app.command(help=t("cli.help.stock.adjust"), context_settings={"ignore_unknown_options": True})
def adjust(
    warehouse: Warehouse,
    sku: Sku,
    quantity: Annotated[int, typer.Argument(help=t("cli.help.difference"))],
    reason: Annotated[str, typer.Option(help=t("cli.help.reason"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {"warehouse": warehouse, "sku": sku, "quantity": quantity, "reason": reason}
    client.show(client.post("/stock/adjust", body), show.level)


@app.command(help=t("cli.help.stock.quarantine"))
def quarantine(
    warehouse: Warehouse, sku: Sku, quantity: int, reason: Reason, as_json: Json = False, lang: Lang = None
) -> None:
    _grade("quarantine", warehouse, sku, quantity, reason, ApiClient(lang, as_json))


@app.command(help=t("cli.help.stock.restore"))
def restore(
    warehouse: Warehouse, sku: Sku, quantity: int, reason: Reason, as_json: Json = False, lang: Lang = None
) -> None:
    _grade("restore", warehouse, sku, quantity, reason, ApiClient(lang, as_json))


@app.command(help=t("cli.help.stock.scrap"))
def scrap(
    warehouse: Warehouse, sku: Sku, quantity: int, reason: Reason, as_json: Json = False, lang: Lang = None
) -> None:
    _grade("scrap", warehouse, sku, quantity, reason, ApiClient(lang, as_json))


def _grade(verb: str, warehouse: str, sku: str, quantity: int, reason: str, client: ApiClient) -> None:
    body: dict[str, JsonValue] = {"warehouse": warehouse, "sku": sku, "quantity": quantity, "reason": reason}
    client.show(client.post(f"/stock/{verb}", body), show.level)


@app.command(help=t("cli.help.stock.safety"))
def safety(warehouse: Warehouse, sku: Sku, quantity: int, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {"warehouse": warehouse, "sku": sku, "quantity": quantity}
    client.show(client.post("/stock/safety", body), show.level)


@app.command(help=t("cli.help.stock.fence"), context_settings={"ignore_unknown_options": True})
def fence(
    warehouse: Annotated[str, typer.Argument(help=t("cli.help.virtual"))],
    sku: Sku,
    quantity: Annotated[int, typer.Argument(help=t("cli.help.difference"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {"warehouse": warehouse, "sku": sku, "quantity": quantity}
    client.show(client.post("/stock/fence", body), show.level)


@app.command(help=t("cli.help.stock.feed"))
def feed(warehouse: Warehouse, goods: Goods, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {"warehouse": warehouse, "goods": client.goods(goods)}
    client.show(client.post("/stock/feed", body), show.levels)


@app.command(help=t("cli.help.stock.expect"))
def expect(
    source: Annotated[str, typer.Argument(help=t("cli.help.source"))],
    warehouse: Warehouse,
    due: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help=t("cli.help.due"))],
    goods: Goods,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, False)
    body: dict[str, JsonValue] = {"source": source, "warehouse": warehouse, "due": f"{due:%Y-%m-%d}"}
    client.post("/stock/expect", body | {"goods": client.goods(goods)})


@app.command(help=t("cli.help.stock.promise"))
def promise(sku: Sku, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    heads = ("sku", "warehouse", "day", "quantity")
    client.show(client.get("/stock/promises", sku=sku), lambda answer, say: show.columns(heads, answer, say))


@app.command(help=t("cli.help.stock.count"))
def count(warehouse: Warehouse, goods: Goods, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {"warehouse": warehouse, "counts": client.goods(goods)}
    client.show(client.post("/stock/counts", body), show.stocktake)


@app.command(help=t("cli.help.stock.counts"))
def counts(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    heads = ("id", "warehouse", "stocktake_status", "counted_by", "counted_at")

    def report(answer: Any, say: Say) -> None:
        show.columns(heads, [each | {"stocktake_status": each["status"]} for each in answer], say)

    client.show(client.get("/stock/counts"), report)


@app.command(help=t("cli.help.stock.approve"))
def approve(stocktake: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.post(f"/stock/counts/{stocktake}/approve"), show.stocktake)


@app.command(help=t("cli.help.stock.discard"))
def discard(stocktake: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.post(f"/stock/counts/{stocktake}/discard"), show.stocktake)


@app.command(help=t("cli.help.stock.threshold"))
def threshold(
    sku: Sku,
    below: int,
    warehouse: Annotated[str, typer.Option(help=t("cli.help.warehouse"))] = "",
    lang: Lang = None,
) -> None:
    ApiClient(lang, False).post("/stock/thresholds", {"sku": sku, "warehouse": warehouse, "below": below})


@app.command(help=t("cli.help.stock.listings"))
def listings(
    shop: Annotated[str | None, typer.Argument(help=t("cli.help.plan.shop"))] = None,
    sku: Annotated[str | None, typer.Option()] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    channel, _, name = (shop or "").partition(":")
    heads = ("sku", "channel", "shop", "offered", "offered_at", "refused")
    answer = client.get("/listings", channel=channel or None, shop=name or None, sku=sku)
    client.show(answer, lambda answer, say: show.columns(heads, answer, say))


@app.command(help=t("cli.help.stock.rule"))
def rule(
    shop: Annotated[str, typer.Argument(help=t("cli.help.plan.shop"))],
    percentage: Annotated[str, typer.Option(help=t("cli.help.rule.percentage"))] = "100",
    buffer: Annotated[int, typer.Option(help=t("cli.help.rule.buffer"))] = 0,
    least: Annotated[int, typer.Option(help=t("cli.help.rule.least"))] = 0,
    most: Annotated[int, typer.Option(help=t("cli.help.rule.most"))] = 9_999,
    location: Annotated[list[str] | None, typer.Option(help=t("cli.help.rule.location"))] = None,
    lang: Lang = None,
) -> None:
    channel, _, name = shop.partition(":")
    body: dict[str, JsonValue] = {"percentage": percentage, "buffer": buffer, "least": least, "most": most}
    ApiClient(lang, False).put(f"/listings/{channel}/{name}/rule", body | {"locations": list(location or ())})


@app.command(help=t("cli.help.stock.verify"))
def verify(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    answer = client.get("/stock/verify")
    client.show(answer, show.proof)
    if not answer.json()["balanced"]:
        raise typer.Exit(1)
