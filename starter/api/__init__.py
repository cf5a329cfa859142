"""The HTTP API: webhooks, orders, stock, warehouses, intake, exceptions, codec."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import perf_counter

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from activities.kit import http
from activities.kit.database import dispose
from models.settings import settings
from starter import dispatcher
from starter.api import (
    accounts,
    allocation,
    carrier_selection,
    codec,
    doctor,
    exceptions,
    files,
    health,
    intake,
    keys,
    labels,
    listings,
    locations,
    manual_warehouse,
    notifications,
    orders,
    origins,
    problems,
    qimen,
    reconciliation,
    replenishment,
    review,
    settlements,
    sku_mapping,
    stock,
    transfers,
    webhooks,
    wms,
)
from starter.api.bodies import GuardBodies
from starter.api.unknown_fields import refuse_unknown_fields
from starter.logs import place
from workers.client import FAIL_FAST, connect

log = structlog.get_logger()

ROUTERS = (
    webhooks,
    orders,
    origins,
    allocation,
    review,
    stock,
    transfers,
    replenishment,
    locations,
    manual_warehouse,
    qimen,
    listings,
    sku_mapping,
    files,
    wms,
    carrier_selection,
    labels,
    intake,
    reconciliation,
    exceptions,
    settlements,
    notifications,
    accounts,
    keys,
    doctor,
    codec,
    health,
)

FOREIGN = (webhooks, qimen, codec, health)
"""Routers that programs of others call, which may send more than these read."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.temporal = await connect(lazy=True, retry=FAIL_FAST)
    dispatching = asyncio.create_task(dispatcher.run(app.state.temporal))
    yield
    log.info("api.stopping")
    dispatching.cancel()
    with suppress(asyncio.CancelledError):
        await dispatching
    await http.close()
    await dispose()


class _LogFailures:
    """Log failed requests by route, never by path, which may hold a secret or a name.

    Exceptions end here: their text may hold what was sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            log.error("api.error", error=type(error).__name__, place=place(error))
            if status == 0:
                await problems.answer(Request(scope), 500)(scope, receive, send_and_note)
        if status >= 400:
            route = getattr(scope.get("route"), "path", "unknown")
            took = round((perf_counter() - started) * 1000)
            log.info("api.request", method=scope["method"], route=route, status=status, ms=took)


def create_app() -> FastAPI:
    app = FastAPIOffline(
        title="Hengdan 恒单",
        version="0.1.0",
        description="Durable order management. Errors are problem details (RFC 9457), in English or 简体中文.",
        lifespan=_lifespan,
    )
    problems.install(app)
    for each in ROUTERS:
        checks = [] if each in FOREIGN else [Depends(refuse_unknown_fields)]
        app.include_router(each.router, responses=problems.DOCUMENTED, dependencies=checks)
    app.add_middleware(GuardBodies, limits={"/files/{kind}": files.MAX_BODY})
    app.add_middleware(_LogFailures)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings().ui_origins,
        allow_credentials=True,
        allow_methods=["POST"],
        allow_headers=["content-type", "x-namespace", "authorization"],
    )
    return app
