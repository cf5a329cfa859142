"""``hengdan``: the command line. Errors of its user are one line on standard error, and exit status 2."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    try:
        from starter.cli.commands import app

        sys.exit(app(arguments, prog_name="hengdan", standalone_mode=False))
    except typer.TyperException as error:
        _exit_with(error.format_message())
    except ValueError as error:
        _exit_with(_invalid_setting(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _exit_with(text: str) -> NoReturn:
    """Print an error in one line; it is empty where the help was shown in place of missing arguments."""
    if line := " ".join(text.split()):
        sys.stderr.write(f"hengdan: {line}\n")
    sys.exit(2)


def _invalid_setting(error: ValueError) -> str:
    """Return which setting is invalid and why, without its value."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"HENGDAN_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
