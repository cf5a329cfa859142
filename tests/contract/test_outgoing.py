"""Answers from outside are bounded in size and time, and requests go to public or listed hosts only."""

import asyncio
import gzip
import re
import socket
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from temporalio.exceptions import ApplicationError

from activities.kit import http, network
from activities.media import email
from models.intake import Account, IntegrationType
from models.notifications import Message
from models.settings import settings
from tests.serving import served

GZIP = {"content-encoding": "gzip"}


def _bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1024**2)) for _ in range(http.MAX_UNPACKED // 1024**2 + 8)) + packer.flush()


BOMB = _bomb()


async def _answer(request: Request) -> Response:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(64 * 1024)
            await asyncio.sleep(0.001)

    async def slow() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    match request.path_params["kind"]:
        case "plain":
            return Response(b"{}", headers={"x-kind": "plain"})
        case "packed":
            return Response(gzip.compress(b'{"a": 1}'), headers=GZIP)
        case "bomb":
            return Response(BOMB, headers=GZIP)
        case "cut":
            return Response(gzip.compress(b'{"a": 1}')[:-9], headers=GZIP)
        case "not packed":
            return Response(b"{}", headers=GZIP)
        case "unknown":
            return Response(b"{}", headers={"content-encoding": "br"})
        case "endless":
            return StreamingResponse(endless())
        case "slow":
            return StreamingResponse(slow())
        case _:
            return RedirectResponse(request.query_params["to"])


@pytest.fixture(scope="module")
def world() -> Iterator[str]:
    with served(Starlette(routes=[Route("/{kind}", _answer)])) as url:
        yield url


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await http.close()


@pytest.fixture
def nothing_listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HENGDAN_PRIVATE_HOSTS", "[]")
    settings.cache_clear()
    yield
    settings.cache_clear()


async def failure(url: str) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        await http.send("GET", url)
    return caught.value


async def test_small_answers_arrive_whole(world: str) -> None:
    assert (await http.send("GET", f"{world}/plain")).headers["x-kind"] == "plain"
    assert http.json_object(await http.send("GET", f"{world}/packed")) == {"a": 1}


@pytest.mark.parametrize("kind", ["bomb", "endless"])
async def test_oversized_answer_is_not_read_to_its_end(world: str, kind: str) -> None:
    assert len(BOMB) < 1024**2
    error = await failure(f"{world}/{kind}")
    assert (error.type, "error.too_large" in error.message) == ("Unavailable", True)


@pytest.mark.parametrize("kind", ["cut", "not packed", "unknown"])
async def test_answer_that_cannot_be_unpacked_is_no_answer(world: str, kind: str) -> None:
    error = await failure(f"{world}/{kind}")
    assert (error.type, "DecodingError" in error.message) == ("Unavailable", True)


async def test_answer_that_drips_ends_at_the_deadline(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DEADLINE_SECONDS", 0.5)
    error = await failure(f"{world}/slow")
    assert (error.type, "TimeoutError" in error.message) == ("Unavailable", True)


async def test_redirect_is_refused_and_not_followed(world: str) -> None:
    error = await failure(f"{world}/redirect?to={world}/plain")
    assert (error.type, error.details) == ("Refused", ("307",))


PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
    "64:ff9b::a00:1", "2002:a00:1::", "192.0.0.1", "198.18.0.1", "240.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_address_is_not_public(address: str) -> None:
    assert not network.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "223.5.5.5", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_address_is_public(address: str) -> None:
    assert network.is_public(address)


SPELLINGS = ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "0.0.0.0")


@pytest.mark.parametrize("host", SPELLINGS)
async def test_private_host_that_is_not_listed_is_refused(world: str, nothing_listed: None, host: str) -> None:
    error = await failure(f"{world}/plain".replace("127.0.0.1", host))
    assert (error.type, "error.private_address" in error.message) == ("Refused", True)


async def test_name_is_resolved_once_and_its_checked_address_used(
    world: str, nothing_listed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to a public address first and to a private one then (DNS rebinding) is not followed."""
    answers = iter(["203.0.114.1", "127.0.0.1"])
    asked: list[str] = []

    async def resolve(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = host if re.fullmatch(r"[\d.]+", host) else next(answers)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", resolve)
    monkeypatch.setattr(http, "DEADLINE_SECONDS", 2)
    error = await failure(f"{world}/plain".replace("127.0.0.1", "rebind.example"))
    assert error.type == "Unavailable"
    assert asked.count("rebind.example") == 1
    assert (await failure(f"{world}/plain".replace("127.0.0.1", "rebind.example"))).type == "Refused"


async def test_mail_server_at_a_private_address_is_refused(nothing_listed: None) -> None:
    account = Account(integration=IntegrationType.MEDIA, source="email", account="main", base_url="smtp://127.0.0.1:25")
    with pytest.raises(ApplicationError, match="private_address"):
        await email.send(account, Message(id="1", event="test", to="a@example.com", subject="", body=""))


def test_adapters_send_by_the_shared_client_only() -> None:
    """Other ways out would have none of these bounds: a client of httpx's own, urllib, requests, aiohttp, sockets."""
    client = re.compile(
        r"httpx\.(AsyncClient|Client|get|post|put|request|stream)\(|import (urllib\.request|requests|aiohttp|socket)\b"
    )
    kit = Path(http.__file__).parent
    found = [
        str(path.relative_to(kit.parent))
        for path in kit.parent.rglob("*.py")
        if client.search(path.read_text()) and path.parent != kit
    ]
    assert found == []
