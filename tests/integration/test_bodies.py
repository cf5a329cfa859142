"""Bodies at every route: none is read without the route's key, and none beyond the route's limit."""

import re
from collections.abc import Iterator
from typing import Any

from models.api_keys import Scope
from models.intake import IntegrationType
from starter.api import create_app, files
from starter.api.bodies import MAX_BYTES
from tests.api import bearer, open_account

CHUNK = 64 * 1024
OPEN = {
    "/channels/{source}/{shop}/webhook",
    "/carriers/{source}/{name}/push/{secret}",
    "/codec/login",
    "/codec/ui/{token}/decode",
    "/codec/ui/{token}/encode",
    "/warehouses/{warehouse}/qimen",
}
"""Routes without a key: signed by their sender, or a form for a key."""
APP = create_app()
_KNOWN = {
    "{warehouse}/qimen": "SH/qimen",
    "{source}/{shop}": "own/web",
    "{source}/{name}": "sf/default",
    "{kind}": "levels",
    "{integration}": "channel",
}


def operations() -> Iterator[tuple[str, str]]:
    for path, methods in APP.openapi()["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                yield method.upper(), path


async def send_endlessly(method: str, path: str, headers: dict[str, str]) -> tuple[int, int]:
    """Send a body without end; return the status and how many bytes were read."""
    read = status = 0

    async def receive() -> Any:
        nonlocal read
        read += CHUNK
        assert read < 1024 * MAX_BYTES
        return {"type": "http.request", "body": b" " * CHUNK, "more_body": True}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    for parameters, values in _KNOWN.items():
        path = path.replace(parameters, values)
    path = re.sub(r"\{\w+}", "1", path)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    await APP(scope, receive, send)
    return status, read


async def test_no_route_reads_without_a_key_or_beyond_its_limit(database: str) -> None:
    await open_account(IntegrationType.CHANNEL, "own", "web", secret="s")
    await open_account(IntegrationType.CARRIER, "sf", "default", push_secret="s")
    await open_account(IntegrationType.WAREHOUSE, "qimen", "SH", secret="s")
    nobody, everybody = await bearer(), await bearer(Scope.STAFF, Scope.WAREHOUSE)
    for method, path in operations():
        form = "application/x-www-form-urlencoded" if path == "/codec/login" else "application/json"
        content_type = {"Content-Type": form}
        if path not in OPEN:
            assert await send_endlessly(method, path, content_type) == (401, 0), path
            assert await send_endlessly(method, path, nobody | content_type) == (403, 0), path
        status, read = await send_endlessly(method, path, everybody | content_type)
        limit = files.MAX_BODY if path == "/files/{kind}" else MAX_BYTES
        assert (status, limit < read <= limit + CHUNK) == (413, True), path
        declared = {"Content-Length": str(limit + 1)}
        assert await send_endlessly(method, path, everybody | content_type | declared) == (413, 0), path


async def test_counter_message_is_not_read_without_its_key(database: str) -> None:
    await open_account(IntegrationType.CHANNEL, "pos", "counter")
    for headers, status in (({}, 401), (await bearer(Scope.READ), 403)):
        assert await send_endlessly("POST", "/channels/pos/counter/webhook", headers) == (status, 0)
