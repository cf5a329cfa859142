"""A bare endpoint that commits one row, and the load both doors are measured under."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from sqlalchemy import text

from activities.kit.database import transaction


def bare_endpoint() -> FastAPI:
    """``POST /``: the body becomes one committed row."""
    app = FastAPI()
    insert = text("INSERT INTO bench_rows (body) VALUES (:body)")

    @app.post("/", status_code=202)
    async def keep(request: Request) -> dict[str, str]:
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
    """Sends messages over so many connections, each as soon as the last was answered; rate and milliseconds."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    ready = [_wire(parts.netloc, parts.path or "/", *make(number)) for number in range(messages)]
    ready.reverse()
    taken: list[float] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while ready:
            wire = ready.pop()
            begun = time.perf_counter()
            writer.write(wire)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            taken.append((time.perf_counter() - begun) * 1000)
            if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
                raise AssertionError(head.split(b"\r\n")[0].decode())
        writer.close()

    begun, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(connections)))
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    taken.sort()
    return {
        "per_second": round(messages / seconds),
        "p50_ms": round(taken[len(taken) // 2], 1),
        "p99_ms": round(taken[int(len(taken) * 0.99)], 1),
        "client_cpu_ms": round(used * 1000 / messages, 2),
    }


def _wire(host: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    uvicorn.run(bare_endpoint(), port=int(sys.argv[1]), access_log=False, log_level=os.environ.get("LOG", "warning"))
