"""``up``, ``demo``, ``worker``, ``api``, ``migrate``: the commands that run Hengdan itself."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from models.i18n import t
from models.settings import settings
from starter.cli.door import Refusal


def up() -> None:
    from starter.logs import configure
    from starter.up import Stack
    from workers.embedded import AlreadyRunningError, StartError

    configure()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stack(settings().state_dir) as stack:
            typer.echo(t("up.serving", api=stack.api_url, ui=stack.ui_url or "-"))
            if stack.new_key:
                typer.echo(t("up.key", key=stack.new_key))
            typer.echo(t("up.stop"))
            try:
                signal.pause()
            except KeyboardInterrupt:
                typer.echo(t("up.stopping"))
    except (AlreadyRunningError, StartError) as error:
        raise Refusal(str(error)) from None


def demo(
    report: Annotated[Path | None, typer.Option(help=t("cli.help.report"))] = None,
    orders: Annotated[int | None, typer.Option(min=1, help=t("cli.help.count"))] = None,
    serve: Annotated[bool | None, typer.Option("--serve/--no-serve", help=t("cli.help.serve"))] = None,
    state_dir: Annotated[Path | None, typer.Option(help=t("cli.help.state_dir"))] = None,
) -> None:
    from starter.demo import run

    try:
        code = run(report=report, orders=orders, serve=serve, state_dir=state_dir)
    except ValueError as error:
        raise Refusal(str(error)) from None
    raise typer.Exit(code)


def worker() -> None:
    from starter.logs import configure
    from workers.main import run

    configure()
    asyncio.run(run())


def api() -> None:
    import uvicorn

    from starter.logs import configure

    configure()
    chosen = settings()
    uvicorn.run(
        "starter.api:create_app",
        factory=True,
        host=chosen.api_host,
        port=chosen.api_port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


def migrate(revision: Annotated[str, typer.Argument(help=t("cli.help.revision"))] = "head") -> None:
    from workers.schema import migrate as move

    database = settings().database_url
    if database is None:
        raise Refusal("HENGDAN_DATABASE_URL: name the database to migrate")
    move(database.get_secret_value(), revision)
