"""All commands. Their help is in the language of the settings: it is needed before options are parsed."""

from importlib.metadata import version
from typing import Annotated

import typer

from models.i18n import t
from starter.cli import (
    accounts,
    allocation,
    carrier_selection,
    doctor,
    exceptions,
    files,
    intake,
    keys,
    labels,
    locations,
    manual_warehouse,
    orders,
    origins,
    replenishment,
    review,
    serve,
    settlements,
    sku_mapping,
    stock,
    transfers,
)

app = typer.Typer(
    name="hengdan", help=t("cli.help"), no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hengdan {version('hengdan')}")
        raise typer.Exit


@app.callback()
def _options(
    shown: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help=t("cli.help.version"))
    ] = False,
) -> None:
    pass


for name in ("up", "demo", "worker", "api", "migrate"):
    app.command(name, help=t(f"cli.help.{name}"))(getattr(serve, name))
for name in ("origin", "origins"):
    app.command(name, help=t(f"cli.help.{name}"))(getattr(origins, name))
app.command("doctor", help=t("cli.help.doctor"))(doctor.doctor)
for name in ("pick", "pack", "ship"):
    app.command(name, help=t(f"cli.help.{name}"))(getattr(manual_warehouse, name))
app.command("print", help=t("cli.help.print"))(labels.print_)
_GROUPS = (
    orders,
    exceptions,
    settlements,
    carrier_selection,
    allocation,
    review,
    locations,
    stock,
    transfers,
    replenishment,
    files,
    intake,
    sku_mapping,
    accounts,
    keys,
)
for group in _GROUPS:
    app.add_typer(group.app)
