"""Faults on demand: what a twin does wrong, how often, and for which calls."""

from asyncio import sleep
from collections.abc import Awaitable, Callable
from enum import StrEnum

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response


class Kind(StrEnum):
    SERVER_ERROR = "500"
    TOO_MANY = "429"
    """Asks for a retry after ``seconds``."""
    TIMEOUT_AFTER = "timeout_after"
    """Do the work, then respond only after ``seconds``: longer than the client waits."""
    DELAY = "delay"
    """Wait ``seconds``, then do the work."""
    GARBAGE = "garbage"
    """Respond 200 with a body outside of the format."""
    DUPLICATE = "duplicate"
    """Do the work twice."""


class Fault(BaseModel):
    system: str
    operation: str = ""
    """The twin's operation; empty for any."""
    match: str = ""
    """Only for calls whose text contains this."""
    fault: Kind
    times: int = 1
    seconds: float = 15


router = APIRouter()
_faults: list[Fault] = []


@router.post("", status_code=201)
async def add(fault: Fault) -> Fault:
    _faults.append(fault)
    return fault


@router.get("")
async def waiting() -> list[Fault]:
    """Return the faults not used up yet."""
    return _faults


@router.delete("", status_code=204)
async def clear() -> None:
    _faults.clear()


def take(system: str, operation: str, text: str) -> Fault | None:
    """Take the next fault for this call, which uses it up."""
    for fault in _faults:
        if fault.system == system and fault.operation in ("", operation) and fault.match in text:
            fault.times -= 1
            if fault.times <= 0:
                _faults.remove(fault)
            return fault
    return None


def _too_many(seconds: int) -> Response:
    return Response("Too Many Requests", 429, {"Retry-After": str(seconds)})


async def play(
    system: str,
    operation: str,
    text: str,
    work: Callable[[], Awaitable[Response]],
    too_many: Callable[[int], Response] = _too_many,
) -> Response:
    """Respond to a call, with its fault where one is set. ``too_many`` makes the system's own form of 429."""
    fault = take(system, operation, text)
    if fault is None:
        return await work()
    match fault.fault:
        case Kind.SERVER_ERROR:
            return Response("Internal Server Error", 500)
        case Kind.TOO_MANY:
            return too_many(int(fault.seconds))
        case Kind.GARBAGE:
            return Response("<html>\x00 upstream", media_type="text/html")
        case Kind.TIMEOUT_AFTER:
            response = await work()
            await sleep(fault.seconds)
            return response
        case Kind.DELAY:
            await sleep(fault.seconds)
        case Kind.DUPLICATE:
            await work()
    return await work()
