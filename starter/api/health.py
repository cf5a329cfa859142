"""Liveness and readiness."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from temporalio.service import RPCError

from activities.kit.database import DatabaseError, ping

router = APIRouter(tags=["health"])


@router.get("/health", summary="Alive")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready", summary="Whether messages can be stored; also reports whether the engine is up")
async def ready(request: Request) -> JSONResponse:
    """503 without the database. 200 without the engine: messages are stored and wait."""
    parts = {"database": "ok", "engine": "ok"}
    try:
        await ping()
    except (DatabaseError, OSError):
        parts["database"] = "down"
    try:
        await request.app.state.temporal.service_client.check_health()
    except (RPCError, RuntimeError):
        parts["engine"] = "down"
    return JSONResponse(parts, 200 if parts["database"] == "ok" else 503)
