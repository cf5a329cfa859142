"""``hengdan locations``: warehouses, stores and suppliers, who sends from them, and what keeps them from shipping."""

from typing import Annotated, Any, Literal

import typer

from models.i18n import t
from starter.cli import show
from starter.cli.api_client import ApiClient, Json, Lang, Say

app = typer.Typer(name="locations", help=t("cli.help.locations"), no_args_is_help=True)

Kind = Literal["warehouse", "store", "supplier", "virtual"]
System = Literal["manual", "wms", "qimen"]

_FIELDS = ("name", "kind", "parent", "province", "carrier", "system", "rank")
_SENDER = ("contact", "phone", "country", "province", "city", "district", "town", "street", "postcode")


@app.command("list", help=t("cli.help.locations.list"))
def list_locations(as_json: Json = False, lang: Lang = None) -> None:
    client = ApiClient(lang, as_json)
    client.show(client.get("/locations"), _locations)


@app.command("set", help=t("cli.help.locations.set"))
def set_location(
    code: str,
    name: Annotated[str | None, typer.Option(help=t("cli.help.locations.name"))] = None,
    kind: Annotated[Kind | None, typer.Option(help=t("cli.help.locations.kind"))] = None,
    parent: Annotated[str | None, typer.Option(help=t("cli.help.locations.parent"))] = None,
    carrier: Annotated[str | None, typer.Option(help=t("cli.help.locations.carrier"))] = None,
    system: Annotated[System | None, typer.Option(help=t("cli.help.locations.system"))] = None,
    rank: Annotated[int | None, typer.Option(help=t("cli.help.locations.rank"))] = None,
    closed: Annotated[bool | None, typer.Option("--closed/--open", help=t("cli.help.locations.closed"))] = None,
    contact: Annotated[str | None, typer.Option(help=t("cli.help.locations.contact"))] = None,
    phone: Annotated[str | None, typer.Option(help=t("cli.help.locations.phone"))] = None,
    country: Annotated[str | None, typer.Option(help=t("cli.help.locations.country"))] = None,
    province: Annotated[str | None, typer.Option(help=t("cli.help.locations.province"))] = None,
    city: Annotated[str | None, typer.Option()] = None,
    district: Annotated[str | None, typer.Option()] = None,
    town: Annotated[str | None, typer.Option()] = None,
    street: Annotated[str | None, typer.Option()] = None,
    postcode: Annotated[str | None, typer.Option()] = None,
    as_json: Json = False,
    lang: Lang = None,
) -> None:
    given = {each: value for each, value in locals().items() if value is not None}
    client = ApiClient(lang, as_json)
    known = next((each for each in client.get("/locations").json() if each["code"] == code), {"code": code})
    location = {each: known[each] for each in known if each not in {"sender", "obstacles"}}
    location |= {each: given[each] for each in _FIELDS if each in given}
    location |= {"name": location.get("name") or code, "closed": given.get("closed", location.get("closed", False))}
    sender = {"name" if each == "contact" else each: given[each] for each in _SENDER if each in given}
    if sender.keys() - {"province"} or known.get("sender"):
        location["sender"] = sender
    answer = client.put(f"/locations/{code}", location)
    client.show(answer, lambda body, say: _locations([body], say))


def _locations(body: Any, say: Say) -> None:
    rows = [each | {"sender": _sender(each["sender"]), "location_kind": each["kind"]} for each in body]
    heads = ("code", "location_kind", "name", "parent", "province", "rank", "carrier", "system", "closed", "sender")
    show.columns(heads, rows, say)
    for each in body:
        for obstacle in each["obstacles"]:
            show.line((obstacle, "red"))


def _sender(sender: dict[str, str] | None) -> str:
    return " ".join(sender[part] for part in ("name", "phone", "city", "district")) if sender else ""
