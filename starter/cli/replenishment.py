"""``hengdan replenish``: purchase suggestions, purchase orders, placement by location, and purchase terms."""

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import JsonValue

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="replenish", help=t("cli.help.replenish"), no_args_is_help=True)

SuggestionId = Annotated[str, typer.Argument(metavar="SUGGESTION", help=t("cli.help.suggestion"))]
PurchaseId = Annotated[str, typer.Argument(metavar="PURCHASE", help=t("cli.help.purchase"))]
Sku = Annotated[str | None, typer.Option(help=t("cli.help.only_sku"))]
Status = Annotated[str | None, typer.Option()]
Day = Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"])]


@app.command("list", help=t("cli.help.replenish.list"))
def list_suggestions(status: Status = "suggested", sku: Sku = None, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/replenishments", status=status, sku=sku), _suggestions)


@app.command(help=t("cli.help.replenish.run"))
def run(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(
        client.post("/replenishments/run"),
        lambda body, say: show.line(
            say("cli.replenish.running" if body["running"] else "cli.replenish.done", **body),
        ),
    )


@app.command(help=t("cli.help.replenish.accept"))
def accept(
    suggestion: SuggestionId,
    quantity: Annotated[int | None, typer.Option(help=t("cli.help.replenish.quantity"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    answer = client.post(f"/replenishments/{quote(suggestion, safe='')}/accept", {"quantity": quantity})
    client.show(answer, lambda body, say: _purchases([body], say))


@app.command(help=t("cli.help.replenish.dismiss"))
def dismiss(suggestion: SuggestionId, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    answer = client.post(f"/replenishments/{quote(suggestion, safe='')}/dismiss")
    client.show(answer, lambda body, say: _suggestions([body], say))


@app.command(help=t("cli.help.replenish.orders"))
def orders(status: Status = None, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/purchase-orders", status=status), _purchases)


@app.command(help=t("cli.help.replenish.receive"))
def receive(
    purchase: PurchaseId,
    goods: Annotated[list[str] | None, typer.Argument(metavar="SKU=QUANTITY", help=t("cli.help.goods"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    answer = client.post(f"{_path(purchase)}/receive", {"goods": client.goods(goods or [])})
    client.show(answer, lambda body, say: _purchases([body], say))


@app.command(help=t("cli.help.replenish.cancel"))
def cancel(purchase: PurchaseId, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.post(f"{_path(purchase)}/cancel"), lambda body, say: _purchases([body], say))


@app.command(help=t("cli.help.replenish.placement"))
def placement(
    weeks: Annotated[int, typer.Option(help=t("cli.help.replenish.weeks"))] = 8,
    sku: Sku = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/replenishments/placement", weeks=weeks, sku=sku), _placement)


@app.command(help=t("cli.help.replenish.terms"))
def terms(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/purchase-terms"), _terms)


@app.command(help=t("cli.help.replenish.agree"))
def agree(
    sku: Annotated[str, typer.Argument()],
    supplier: Annotated[str, typer.Argument()],
    lead_days: Annotated[int, typer.Argument(help=t("cli.help.replenish.lead_days"))],
    warehouse: Annotated[str, typer.Option(help=t("cli.help.warehouse"))] = "",
    lead_spread_days: Annotated[float, typer.Option(help=t("cli.help.replenish.lead_spread_days"))] = 0,
    review_days: Annotated[int, typer.Option(help=t("cli.help.replenish.review_days"))] = 7,
    pack_size: Annotated[int, typer.Option()] = 1,
    minimum_quantity: Annotated[int, typer.Option()] = 0,
    service_level: Annotated[float, typer.Option(help=t("cli.help.replenish.service_level"))] = 0.95,
    unit_cost: Annotated[str, typer.Option()] = "0",
    currency: Annotated[str, typer.Option()] = "CNY",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    body: dict[str, JsonValue] = {
        "sku": sku,
        "warehouse": warehouse,
        "supplier": supplier,
        "lead_days": lead_days,
        "lead_spread_days": lead_spread_days,
        "review_days": review_days,
        "pack_size": pack_size,
        "minimum_quantity": minimum_quantity,
        "service_level": service_level,
        "unit_cost": unit_cost,
        "currency": currency,
    }
    client.show(client.post("/purchase-terms", body), lambda body, say: _terms([body], say))


@app.command(help=t("cli.help.replenish.promotion"))
def promotion(first: Day, last: Day, sku: Sku = None, lang: Lang = None) -> None:
    body: dict[str, JsonValue] = {"sku": sku or "", "first": f"{first:%Y-%m-%d}", "last": f"{last:%Y-%m-%d}"}
    ApiClient(lang, False).post("/promotions", body)


def _path(purchase: str) -> str:
    return f"/purchase-orders/{quote('po:' + purchase.removeprefix('po:'), safe='')}"


def _suggestions(body: Any, say: Say) -> None:
    heads = ("id", "status", "warehouse", "sku", "quantity", "supplier", "order_by", "stock_out_on", "reason")
    show.columns(heads, [each | {"status": each["status_text"], "reason": each["why"]} for each in body], say)


def _purchases(body: Any, say: Say) -> None:
    rows = [
        each
        | {
            "status": each["status_text"],
            "goods": ", ".join(f"{line['sku']} {line['received']}/{line['ordered']}" for line in each["lines"]),
        }
        for each in body
    ]
    show.columns(("id", "status", "warehouse", "supplier", "goods", "due"), rows, say)


def _placement(body: Any, say: Say) -> None:
    rows = [each | {name: f"{each[name]:.0%}" for name in ("share", "share_now")} for each in body]
    show.columns(("sku", "warehouse", "demand", "share", "on_hand", "share_now", "difference"), rows, say)


def _terms(body: Any, say: Say) -> None:
    heads = ("sku", "warehouse", "supplier", "lead_days", "review_days", "pack_size", "minimum_quantity")
    show.columns((*heads, "service_level", "unit_cost", "currency"), body, say)
