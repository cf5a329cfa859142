"""``hengdan orders``: find orders and send commands to them."""

from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import JsonValue

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, Say, moment

app = typer.Typer(name="orders", help=t("cli.help.orders"), no_args_is_help=True)

Order = Annotated[str, typer.Argument(help=t("cli.help.order"))]
Reason = Annotated[str, typer.Option(help=t("cli.help.reason"))]
Text = Annotated[str | None, typer.Option()]


@app.command("list", help=t("cli.help.orders.list"))
def list_orders(
    status: Text = None,
    channel: Text = None,
    shop: Text = None,
    hold: Annotated[str | None, typer.Option(help=t("cli.help.hold_kind"))] = None,
    phone: Annotated[str | None, typer.Option(help=t("cli.help.phone"))] = None,
    buyer: Annotated[str | None, typer.Option(help=t("cli.help.buyer"))] = None,
    order_no: Annotated[str | None, typer.Option(help=t("cli.help.order_no"))] = None,
    waybill: Annotated[str | None, typer.Option(help=t("cli.help.waybill"))] = None,
    sku: Text = None,
    warehouse: Annotated[str | None, typer.Option(help=t("cli.help.warehouse"))] = None,
    carrier: Annotated[str | None, typer.Option(help=t("cli.help.carrier"))] = None,
    tag: Annotated[str | None, typer.Option(help=t("cli.help.tag"))] = None,
    placed_from: Annotated[datetime | None, typer.Option("--from", help=t("cli.help.from"))] = None,
    placed_to: Annotated[datetime | None, typer.Option("--to", help=t("cli.help.to"))] = None,
    limit: int = 50,
    cursor: Annotated[str | None, typer.Option(help=t("cli.help.cursor"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    page = client.get(
        "/orders",
        status=status,
        channel=channel,
        shop=shop,
        hold=hold,
        phone=phone,
        buyer=buyer,
        order_no=order_no,
        waybill=waybill,
        sku=sku,
        warehouse=warehouse,
        carrier=carrier,
        tag=tag,
        placed_from=moment(placed_from),
        placed_to=moment(placed_to),
        limit=limit,
        cursor=cursor,
    )
    client.show(page, show.orders)


@app.command("show", help=t("cli.help.orders.show"))
def show_order(order: Order, as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get(client.order(order)), show.order)


@app.command(help=t("cli.help.orders.reveal"))
def reveal(
    order: Order,
    reason: Annotated[str, typer.Option(help=t("cli.help.reason"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.post(f"{client.order(order)}/reveal", {"reason": reason}), show.contact)


@app.command(help=t("cli.help.orders.cancel"))
def cancel(order: Order, reason: Reason = "", as_json: Json = False, lang: Lang = None) -> None:
    _send(ApiClient(lang, as_json), order, "cancel", reason=reason)


@app.command(help=t("cli.help.orders.modify"))
def modify(
    order: Order,
    name: Text = None,
    phone: Text = None,
    province: Text = None,
    city: Text = None,
    district: Text = None,
    town: Text = None,
    street: Text = None,
    postcode: Text = None,
    line: Annotated[list[str] | None, typer.Option(metavar="LINE_NO=QTY", help=t("cli.help.line"))] = None,
    reason: Reason = "",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    fields: dict[str, str | None] = {
        "name": name,
        "phone": phone,
        "province": province,
        "city": city,
        "district": district,
        "town": town,
        "street": street,
        "postcode": postcode,
    }
    changed: dict[str, JsonValue] = {field: text for field, text in fields.items() if text is not None}
    command: dict[str, JsonValue] = {"recipient": changed} if changed else {}
    if line:
        command["lines"] = [_quantity(each, client.say) for each in line]
    if not command:
        raise Refusal(client.say("cli.no_change"))
    _send(client, order, "modify", **command, reason=reason)


@app.command(help=t("cli.help.orders.hold"))
def hold(
    order: Order,
    reason: Reason = "",
    kind: Annotated[str, typer.Option(help=t("cli.help.hold_kind"))] = "staff",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    _send(ApiClient(lang, as_json), order, "hold", kind=kind, reason=reason)


@app.command(help=t("cli.help.orders.release"))
def release(
    order: Order,
    kind: Annotated[str | None, typer.Option(help=t("cli.help.release_kind"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    _send(ApiClient(lang, as_json), order, "release", kind=kind)


@app.command(help=t("cli.help.orders.approve"))
def approve(
    order: Order,
    stage: Annotated[str | None, typer.Option(help=t("cli.help.stage"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    _send(ApiClient(lang, as_json), order, "approve", stage=stage)


@app.command(help=t("cli.help.orders.reject"))
def reject(order: Order, reason: Reason = "", as_json: Json = False, lang: Lang = None) -> None:
    _send(ApiClient(lang, as_json), order, "reject", reason=reason)


@app.command(help=t("cli.help.orders.expedite"))
def expedite(order: Order, as_json: Json = False, lang: Lang = None) -> None:
    _send(ApiClient(lang, as_json), order, "expedite")


@app.command(help=t("cli.help.orders.replan"))
def replan(
    order: Order,
    warehouse: Annotated[str | None, typer.Option(help=t("cli.help.warehouse"))] = None,
    reason: Reason = "",
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    _send(ApiClient(lang, as_json), order, "replan", warehouse=warehouse, reason=reason)


@app.command(help=t("cli.help.orders.note"))
def note(
    order: Order,
    text: Annotated[str, typer.Argument(help=t("cli.help.text"))],
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    _send(ApiClient(lang, as_json), order, "note", text=text)


def _send(client: ApiClient, name: str, action: str, **command: JsonValue) -> None:
    """Send a command to an order, and print the order's status afterwards."""
    order = client.order(name)
    answer = client.post(f"{order}/{action}", command)

    def report(answer: Any, say: Say) -> None:
        now = client.get(order).json()
        show.line(say("cli.done", action=say(f"action.{action}"), order=now["id"], status=now["status_text"]))
        if answer["holds"] or answer["overruled"]:
            show.line(answer["text"])
        elif now["next_step"]:
            show.line(say("cli.next", next=now["next_step"]))

    client.show(answer, report)


def _quantity(text: str, say: Say) -> JsonValue:
    line_no, _, quantity = text.rpartition("=")
    if not line_no or not quantity.isdecimal():
        raise Refusal(say("cli.bad_line", text=text))
    return {"line_no": line_no, "quantity": int(quantity)}
