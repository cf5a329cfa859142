"""Liveness and readiness."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from temporalio.client import Client
from temporalio.service import RPCError

from activities.kit.database import DatabaseError, ReadOnlyDatabase, check_writable
from models.settings import INSTANCE_HEADER, settings
from starter import dispatcher
from workers.cluster import count_workers, missing_search_attributes

router = APIRouter(tags=["health"])


@router.get("/health", summary="Alive")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready", summary="Whether messages can be stored, and are dispatched")
async def ready(request: Request) -> JSONResponse:
    """503 unless a row can be written. 200 without the engine or a dispatcher: messages are stored and wait.

    ``engine`` names the search attributes that the Temporal namespace lacks: without them no order starts. ``workers``
    counts those that take tasks. ``intake`` names the integrations whose messages wait without one being processed.
    """
    parts: dict[str, str | int] = {"database": "ok", "engine": "ok", "workers": 0, "dispatcher": "ok", "intake": "ok"}
    try:
        await check_writable()
    except (DatabaseError, OSError, ReadOnlyDatabase):
        parts["database"] = "down"
    try:
        if not await dispatcher.somebody_dispatches():
            parts["dispatcher"] = "down"
        if stalled := await dispatcher.stalled():
            parts["intake"] = f"stalled: {', '.join(stalled)}"
    except (DatabaseError, OSError):
        parts["dispatcher"] = parts["intake"] = "unknown"
    try:
        client: Client = request.app.state.temporal
        await client.service_client.check_health()
        if missing := await missing_search_attributes(client):
            parts["engine"] = f"lacks search attributes: {', '.join(missing)}"
        parts["workers"] = await count_workers(client)
    except (RPCError, RuntimeError):
        parts["engine"] = "down"
    return JSONResponse(parts, 200 if parts["database"] == "ok" else 503, {INSTANCE_HEADER: settings().instance})
