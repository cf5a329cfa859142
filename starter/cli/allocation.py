"""``hengdan plan``: allocation rules and rates, trial plans, and replanning of a warehouse's orders."""

import json
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated, Any
from urllib.parse import unquote

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, Say

app = typer.Typer(name="plan", help=t("cli.help.plan"), no_args_is_help=True)

STALLED_SECONDS = 10
"""Stop waiting when no order was replanned for so long: those left need a person."""

Warehouse = Annotated[str, typer.Argument(help=t("cli.help.warehouse"))]
Reason = Annotated[str, typer.Option(help=t("cli.help.reason"))]


@app.command(help=t("cli.help.plan.again"))
def again(
    warehouse: Warehouse,
    reason: Reason,
    close: Annotated[bool, typer.Option("--close", help=t("cli.help.plan.close"))] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    before = client.get(f"/plan/again/{warehouse}").json()["left"]
    answer = client.post("/plan/again", {"warehouse": warehouse, "reason": reason, "close": close})
    columns = (TextColumn(warehouse), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(warehouse, total=before)
        left, changed_at = before, monotonic()
        while answer.json()["running"] or (left and monotonic() < changed_at + STALLED_SECONDS):
            sleep(0.3)
            answer = client.get(f"/plan/again/{warehouse}")
            if (now := answer.json()["left"]) != left:
                left, changed_at = now, monotonic()
            bar.update(task, completed=max(before - left, 0))
    client.show(answer, _replanned)


@app.command("try", help=t("cli.help.plan.try"))
def try_out(
    goods: Annotated[list[str] | None, typer.Argument(help=t("cli.help.plan.goods"))] = None,
    order: Annotated[str | None, typer.Option(help=t("cli.help.order"))] = None,
    province: Annotated[str, typer.Option(help=t("cli.help.province"))] = "",
    shop: Annotated[str, typer.Option(help=t("cli.help.plan.shop"))] = "own:web",
    campaign: str = "",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    channel, _, name = shop.partition(":")
    trial: dict[str, JsonValue] = {"province": province, "channel": channel, "shop": name, "campaign": campaign}
    if order is not None:
        trial["order_id"] = unquote(client.order(order).removeprefix("/orders/"))
    trial["lines"] = [_demand(each, client.say) for each in goods or ()]
    client.show(client.post("/plan/try", trial), _plan)


@app.command(help=t("cli.help.plan.rules"))
def rules(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/plan/rules"), _rules)


@app.command("rule", help=t("cli.help.plan.rule"))
def set_rule(
    file: Annotated[Path, typer.Argument(help=t("cli.help.plan.file"), exists=True, dir_okay=False)],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    try:
        rule = json.loads(file.read_text())
        number = int(rule["number"])
    except (ValueError, KeyError, TypeError):
        raise Refusal(client.say("cli.bad_rule", file=file)) from None
    client.show(client.put(f"/plan/rules/{number}", rule), lambda body, say: _rules([body], say))


@app.command(help=t("cli.help.plan.drop"))
def drop(number: int, lang: Lang = None) -> None:
    ApiClient(lang, False).delete(f"/plan/rules/{number}")


@app.command(help=t("cli.help.plan.rates"))
def rates(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    heads = ("carrier", "origin", "destination", "first_kg", "first_price", "further_kg", "further_price", "days")
    client.show(
        client.get("/plan/rates"),
        lambda body, say: show.table(heads, [[each[head] for head in heads] for each in body], say),
    )


def _demand(text: str, say: Say) -> JsonValue:
    sku, _, quantity = text.partition("=")
    if not sku or not (quantity or "1").isdecimal():
        raise Refusal(say("cli.bad_goods", text=text))
    return {"sku": sku, "quantity": int(quantity or 1)}


def _plan(body: Any, say: Say) -> None:
    plan = body["plan"]
    for load in plan["loads"]:
        goods = ", ".join(f"{each['sku']} × {each['quantity']}" for each in load["lines"])
        show.line((load["warehouse"], "bold green"), "  ", goods)
    for each in plan["shortages"]:
        show.line((say("details.short", sku=each["sku"], quantity=each["quantity"]), "bold red"))
    for each in plan["rules"]:
        show.line((f"{each['number']}  {each['name']}", "cyan"))
    chosen = {load["warehouse"] for load in plan["loads"]}
    heads = ("warehouse", "cost", "days", "reason")
    rows = sorted(body["reasons"], key=lambda each: each["warehouse"] not in chosen)
    show.table(heads, [[each[head] for head in heads] for each in rows], say)


def _rules(body: Any, say: Say) -> None:
    rows = [
        (
            each["number"],
            each["name"],
            each["active"],
            [*each["shops"], *each["campaigns"]],
            "; ".join(f"{c['field']} {c['op']} {c['value']}" for c in each["condition"]),
            " ".join(str(value) for value in each["action"].values()),
        )
        for each in body
    ]
    show.listing(("number", "name", "active", "scope", "condition", "action"), rows, say)


def _replanned(body: Any, say: Say) -> None:
    show.line(say("cli.replanned", warehouse=body["warehouse"], notified=body["told"], left=body["left"]))
