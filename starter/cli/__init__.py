"""``hengdan``: the command line. Whatever goes wrong for its user is one line on standard error and exit status 2."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    try:
        from starter.cli.commands import app

        sys.exit(app(arguments, prog_name="hengdan", standalone_mode=False))
    except typer.TyperException as error:
        _refuse(error.format_message())
    except ValueError as error:
        _refuse(_misset(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _refuse(text: str) -> NoReturn:
    """Says it in one line. Nothing is to be said where the help was shown in place of missing arguments."""
    if told := " ".join(text.split()):
        sys.stderr.write(f"hengdan: {told}\n")
    sys.exit(2)


def _misset(error: ValueError) -> str:
    """Which setting is wrong and why, without its value."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"HENGDAN_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
