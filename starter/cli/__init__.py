"""``hengdan``: the command line. An error is one line on standard error; the exit status shows its kind."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    try:
        from starter.cli.commands import app

        sys.exit(app(arguments, prog_name="hengdan", standalone_mode=False))
    except typer.TyperException as error:
        _exit_with(error.format_message(), error.exit_code)
    except ValueError as error:
        _exit_with(_invalid_setting(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:  # of `hengdan orders list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _exit_with(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except Exception as error:
        from starter.logs import place

        _exit_with(f"{type(error).__name__} ({place(error)})", 1)


def _exit_with(text: str, code: int) -> NoReturn:
    """Print an error in one line; it is empty where the help was shown in place of missing arguments."""
    if line := " ".join(text.split()):
        sys.stderr.write(f"hengdan: {line}\n")
    sys.exit(code)


def _invalid_setting(error: ValueError) -> str:
    """Return which setting is invalid and why, without its value."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"HENGDAN_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
