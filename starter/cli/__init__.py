"""``hengdan``: the command line."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from starter.cli import serve

app = typer.Typer(name="hengdan", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
serve.install(app)


def main() -> None:
    app()
