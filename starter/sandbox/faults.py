"""Misbehaviour on demand: what a twin does wrong, how often, and to whom."""

from asyncio import sleep
from collections.abc import Awaitable, Callable
from enum import StrEnum

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response


class Kind(StrEnum):
    SERVER_ERROR = "500"
    TOO_MANY = "429"
    """To be tried again after ``seconds``."""
    TIMEOUT_AFTER = "timeout_after"
    """Does the work, then answers only after ``seconds``: longer than the client waits."""
    DELAY = "delay"
    """Waits ``seconds``, then does the work."""
    GARBAGE = "garbage"
    """Answers 200 with what is not in the format."""
    DUPLICATE = "duplicate"
    """Does the work twice."""


class Fault(BaseModel):
    system: str
    operation: str = ""
    """The twin's operation; empty: any."""
    match: str = ""
    """Only calls whose text contains this."""
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
    """Faults that were not met yet."""
    return _faults


@router.delete("", status_code=204)
async def clear() -> None:
    _faults.clear()


def take(system: str, operation: str, text: str) -> Fault | None:
    """The next fault meant for this call, used up by it."""
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
    """The answer to a call, given as a fault demands where one waits for it. ``too_many`` says 429 the system's way."""
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
            answer = await work()
            await sleep(fault.seconds)
            return answer
        case Kind.DELAY:
            await sleep(fault.seconds)
        case Kind.DUPLICATE:
            await work()
    return await work()
