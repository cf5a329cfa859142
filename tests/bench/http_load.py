"""A bare endpoint that commits one row, and the load generator for it and for Hengdan's endpoints."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from sqlalchemy import text

from activities.kit.database import transaction


def bare_endpoint() -> FastAPI:
    """Return an application whose ``POST /`` commits the body as one row."""
    app = FastAPI()
    insert = text("INSERT INTO bench_rows (body) VALUES (:body)")

    @app.post("/", status_code=202)
    async def insert_row(request: Request) -> dict[str, str]:
        body = await request.body()
        async with transaction() as connection:
            await connection.execute(insert, {"body": body})
        return {"status": "accepted"}

    return app


CONNECTIONS = 16

Message = tuple[bytes, Mapping[str, str]]


async def load(
    url: str, messages: int, make: Callable[[int], Message], connections: int = CONNECTIONS
) -> dict[str, float]:
    """Send messages over this many connections, each as soon as the previous one is answered. Return rate and
    milliseconds."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    ready = [_wire(parts.netloc, parts.path or "/", *make(number)) for number in range(messages)]
    ready.reverse()
    durations: list[float] = []

    async def send() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while ready:
            wire = ready.pop()
            started = time.perf_counter()
            writer.write(wire)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            durations.append((time.perf_counter() - started) * 1000)
            if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
                raise AssertionError(head.split(b"\r\n")[0].decode())
        writer.close()

    started, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(send() for _ in range(connections)))
    seconds, used = time.perf_counter() - started, time.process_time() - used
    durations.sort()
    return {
        "per_second": round(messages / seconds),
        "p50_ms": round(durations[len(durations) // 2], 1),
        "p99_ms": round(durations[int(len(durations) * 0.99)], 1),
        "client_cpu_ms": round(used * 1000 / messages, 2),
    }


def _wire(host: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    config = uvicorn.Config(bare_endpoint(), access_log=False, log_level=os.environ.get("LOG", "warning"))
    uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1].removeprefix("--fd=")))])
