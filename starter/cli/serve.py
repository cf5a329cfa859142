"""``up``, ``demo``, ``worker``, ``api``, ``migrate``: the commands that run Hengdan itself."""

import asyncio
import signal
from typing import Annotated

import typer
from rich.console import Console

from models.i18n import t
from models.settings import settings


def install(app: typer.Typer) -> None:
    for command in (up, worker, api, migrate):
        app.command()(command)


def up() -> None:
    """Serve everything on this machine until Ctrl-C: PostgreSQL, Temporal with its UI, worker, API."""
    from starter.up import Stack

    console = Console()
    with Stack(settings().state_dir) as stack:
        console.print(t("up.serving", api=stack.api_url, ui=stack.ui_url or "-"))
        if stack.new_key:
            console.print(t("up.key", key=stack.new_key))
        console.print(t("up.stop"))
        wait_for_signal()
        console.print(t("up.stopping"))


def wait_for_signal() -> None:
    """Until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        return


def worker() -> None:
    """Run workflows and activities of the task queue."""
    from starter.logs import configure
    from workers.main import run

    configure()
    asyncio.run(run())


def api() -> None:
    """Serve the HTTP door and dispatch the inbox."""
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


def migrate(revision: Annotated[str, typer.Argument(help="head, or a revision")] = "head") -> None:
    """Move the database's schema up to a revision."""
    from workers.schema import migrate as move

    database = settings().database_url
    if database is None:
        raise typer.BadParameter("HENGDAN_DATABASE_URL: name the database to migrate")
    move(database.get_secret_value(), revision)
