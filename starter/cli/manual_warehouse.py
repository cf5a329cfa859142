"""``hengdan pick``, ``pack`` and ``ship``: the work of people at locations without a warehouse system."""

from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import JsonValue

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Refusal, Say

Parcel = Annotated[str, typer.Argument(metavar="WAYBILL", help=t("cli.help.parcel"))]
Scans = Annotated[list[str] | None, typer.Argument(metavar="SKU[=QUANTITY]...", help=t("cli.help.scans"))]
All = Annotated[bool, typer.Option("--all", help=t("cli.help.scans.all"))]


def pick(
    parcel: Annotated[str | None, typer.Argument(metavar="[WAYBILL]", help=t("cli.help.pick.parcel"))] = None,
    scans: Scans = None,
    everything: All = False,
    warehouse: Annotated[str | None, typer.Option(help=t("cli.help.warehouse"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    if parcel is None:
        client.show(client.get("/parcels", warehouse=warehouse), _pick_list)
    else:
        _scan(client, parcel, "pick", scans, everything)


def pack(
    parcel: Parcel, scans: Scans = None, everything: All = False, as_json: Json = False, lang: Lang = None
) -> None:
    _scan(ApiClient(lang, as_json), parcel, "pack", scans, everything)


def ship(
    parcel: Parcel,
    weight: Annotated[int | None, typer.Option(help=t("cli.help.ship.weight"))] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    client = ApiClient(lang, as_json)
    answer = client.post(f"/parcels/{quote(parcel, safe='')}/ship", {"weight_g": weight})
    client.show(answer, lambda body, say: show.line(say("cli.shipped", parcel=body["waybill_no"])))


def _scan(client: ApiClient, parcel: str, act: str, scans: list[str] | None, everything: bool) -> None:
    if not scans and not everything:
        raise Refusal(client.say("cli.scan_nothing"))
    scanned = client.goods([each if "=" in each else f"{each}=1" for each in scans or ()])
    body: dict[str, JsonValue] = {} if everything else {"scans": scanned}
    answer = client.post(f"/parcels/{quote(parcel, safe='')}/{act}", body)

    def report(body: Any, say: Say) -> None:
        remaining = _goods(body[f"to_{act}"])
        show.line(say("cli.scan_remains", goods=remaining) if remaining else say(f"cli.scan_complete.{act}"))

    client.show(answer, report)


def _pick_list(body: Any, say: Say) -> None:
    rows = [
        (each["waybill_no"], each["warehouse"], each["carrier"], _goods(each["to_pick"]), _goods(each["to_pack"]))
        for each in body
    ]
    show.listing(("waybill", "warehouse", "carrier", "to_pick", "to_pack"), rows, say)


def _goods(quantities: dict[str, int]) -> str:
    return ", ".join(f"{sku} × {quantity}" for sku, quantity in quantities.items())
