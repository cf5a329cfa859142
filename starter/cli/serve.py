"""``up``, ``demo``, ``worker``, ``api``, ``migrate``: run Hengdan itself."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from models.i18n import t
from models.settings import settings
from starter.cli.api_client import ExitCode, Refusal

GRACE = 3
"""Seconds for the requests in progress when the API is stopped."""


def up() -> None:
    with _errors_in_one_line():
        from starter.up import Stack, wait_for_signal

        with Stack(settings().state_dir) as stack:
            for line in stack.banner():
                typer.echo(line)
            typer.echo(t("up.stop"))
            wait_for_signal()
            typer.echo(t("up.stopping"))


def demo(
    report: Annotated[Path | None, typer.Option(help=t("cli.help.report"))] = None,
    orders: Annotated[int | None, typer.Option(min=1, help=t("cli.help.count"))] = None,
    serve: Annotated[bool | None, typer.Option("--serve/--no-serve", help=t("cli.help.serve"))] = None,
    state_dir: Annotated[Path | None, typer.Option(help=t("cli.help.state_dir"))] = None,
) -> None:
    with _errors_in_one_line():
        from starter.demo import run

        code = run(report=report, orders=orders, serve=serve, state_dir=state_dir)
    raise typer.Exit(code)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Stop on SIGTERM as on Ctrl-C; report what keeps a process from starting in one line."""
    from activities.kit.database import DatabaseUnavailable
    from starter.logs import configure
    from workers.embedded import AlreadyRunningError, StartError

    configure()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except DatabaseUnavailable as error:
        raise Refusal(str(error.__cause__ or error), exit_code=ExitCode.UNREACHABLE) from None
    except (OSError, AlreadyRunningError, StartError) as error:
        raise Refusal(str(error), exit_code=ExitCode.FAILED) from None


def worker() -> None:
    from workers import memory

    memory.defer()
    import uvloop
    from temporalio.service import RPCError

    from starter.logs import configure, log_start
    from workers.cluster import SearchAttributesMissing
    from workers.main import run

    _check_settings()
    configure()
    log_start("worker")
    try:
        uvloop.run(run())
    except (SearchAttributesMissing, RPCError, RuntimeError) as error:
        raise Refusal(str(error), exit_code=ExitCode.FAILED) from None


def api(fd: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Serve the API. ``fd``: a socket that listens already, inherited from the process that chose its port."""
    from workers import memory

    memory.defer()
    import socket

    import uvicorn

    from starter.api import create_app
    from starter.logs import configure, log_start

    _check_settings()
    configure()
    log_start("api")
    chosen = settings()
    config = uvicorn.Config(
        create_app(),
        host=chosen.api_host,
        port=chosen.api_port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE,
    )
    memory.tune()
    server = uvicorn.Server(config)
    server.run(None if fd is None else [socket.socket(fileno=fd)])
    if not server.started:
        raise typer.Exit(1)


def migrate(revision: Annotated[str, typer.Argument(help=t("cli.help.revision"))] = "head") -> None:
    url = _database_url()
    with _errors_in_one_line():
        from workers.schema import migrate as apply_migrations

        apply_migrations(url, revision)


def _database_url() -> str:
    url = settings().database_url
    if url is None:
        raise Refusal(t("cli.no_database"))
    return url.get_secret_value()


def _check_settings() -> None:
    """Raise where the database or the keys are not set."""
    from models.vault import keyring

    _database_url()
    keyring()
