"""``hengdan origin`` and ``hengdan origins``: the origin of an order, and orders counted by origin."""

from datetime import datetime
from typing import Annotated

import typer
from pydantic import JsonValue

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, moment
from starter.cli.orders import Order, Reason, Text


def origin(
    order: Order,
    campaign: Text = None,
    platform: Text = None,
    region: Text = None,
    reason: Reason = "",
    raw: Annotated[bool, typer.Option("--raw", help=t("cli.help.origin.raw"))] = False,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    path = f"{client.order(order)}/origin"
    fields = {"campaign": campaign, "platform": platform, "region": region}
    correction: dict[str, JsonValue] = {name: text for name, text in fields.items() if text is not None}
    if correction and not reason:
        raise Refusal(client.say("cli.why"))
    trace = client.post(path, {**correction, "reason": reason}) if correction else client.get(path)
    client.show(trace, show.origin)
    if raw:
        for each in trace.json()["messages"]:
            client.show(client.get(f"/intake/{each['id']}/raw"), lambda body, say: typer.echo(body["body"]))


def origins(
    by: Annotated[str, typer.Option(help=t("cli.help.origins.by"))] = "platform",
    placed_from: Annotated[datetime | None, typer.Option("--from", help=t("cli.help.from"))] = None,
    placed_to: Annotated[datetime | None, typer.Option("--to", help=t("cli.help.to"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    counts = client.get("/origins", **{"by": by, "from": moment(placed_from), "to": moment(placed_to)})
    client.show(counts, show.origins)
