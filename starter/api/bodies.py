"""Request bodies: the key is checked before the first byte is read, and no more is read than the route allows."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starter.api.authentication import key_checks
from starter.api.problems import Problem

MAX_BYTES = 1024 * 1024


class GuardBodies:
    """Check the route's key before the body is read. Stop reading with 413 beyond a route's limit, in bytes.

    ``limits`` holds the limits, by path of the route, of those whose limit is not ``MAX_BYTES``. The route is known
    once it asks for the body, so the guard stands in ``receive``.
    """

    def __init__(self, app: ASGIApp, limits: dict[str, int]) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit: int | None = None
        size = 0

        async def receive_guarded() -> Message:
            nonlocal limit, size
            if limit is None:
                route = scope.get("route")  # none of a mounted folder of files
                for check in key_checks(route) if route else ():
                    await check(Request(scope))
                limit = self._limits.get(route.path, MAX_BYTES) if route else MAX_BYTES
                declared = Headers(scope=scope).get("content-length", "")
                if declared.isdigit() and int(declared) > limit:
                    raise _too_large(limit)
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, receive_guarded, send)


def _too_large(limit: int) -> Problem:
    return Problem(413, "problem.too_large.detail", {"most": limit // MAX_BYTES})
