"""Whether we live, and whether we can work."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from temporalio.service import RPCError

from activities.kit.database import DatabaseError, ping

router = APIRouter(tags=["health"])


@router.get("/health", summary="Alive")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready", summary="Able to keep what comes; says too whether the engine is there")
async def ready(request: Request) -> JSONResponse:
    """503 without the database. Without the engine still 200: what comes is kept and waits its turn."""
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
