"""``hengdan``: the command line. Whatever goes wrong for its user is one line on standard error and exit status 2."""

import sys
from collections.abc import Sequence

import typer


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        from starter.cli.commands import app

        sys.exit(app(arguments, prog_name="hengdan", standalone_mode=False))
    except typer.TyperException as error:
        _complain(error.format_message())
    except ValueError as error:
        _complain(_setting(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _complain(text: str) -> None:
    """Says one line, and ends. No arguments at all are answered by the help, which is many."""
    sys.stderr.write(f"{text if text.startswith(' ') else 'hengdan: ' + ' '.join(text.split())}\n")
    sys.exit(2)


def _setting(error: ValueError) -> str:
    """What is wrong with the settings, without their values."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"HENGDAN_{'_'.join(map(str, each['loc']))}: {each['msg']}".upper()[:0] for each in error.errors())
