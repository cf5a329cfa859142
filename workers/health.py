"""A worker's answer to health checks: whether it serves, and reaches the database and Temporal."""

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from temporalio.client import Client
from temporalio.service import RPCError

from activities.kit.database import DatabaseError, at_once


class HealthServer(uvicorn.Server):
    """Serves ``/health`` until it is cancelled. Signals are the worker's."""

    def __init__(self, client: Client, host: str, port: int) -> None:
        async def health(_: Request) -> JSONResponse:
            parts = await check(client)
            return JSONResponse(parts, 200 if set(parts.values()) == {"ok"} else 503)

        app = Starlette(routes=[Route("/health", health)])
        super().__init__(uvicorn.Config(app, host=host, port=port, access_log=False, log_config=None, lifespan="off"))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def check(client: Client) -> dict[str, str]:
    """Return what the worker reaches: ``ok`` or ``down`` for the ``database`` and the ``engine``."""
    parts = {"database": "ok", "engine": "ok"}
    try:
        async with at_once() as connection:
            await connection.execute(text("SELECT 1"))
    except (DatabaseError, OSError):
        parts["database"] = "down"
    try:
        await client.service_client.check_health()
    except (RPCError, RuntimeError):
        parts["engine"] = "down"
    return parts
