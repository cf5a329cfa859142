"""The HTTP client that all activities share: it bounds the size and time of answers, and where requests go."""

import asyncio
import json
import re
import zlib
from collections.abc import Container
from typing import Any

import httpcore
import httpx

from activities.kit.errors import refused, unavailable
from activities.kit.network import AllowedAddresses

MAX_RECEIVED = 16 * 1024 * 1024
"""The size of an answer as sent, in bytes."""
MAX_UNPACKED = 64 * 1024 * 1024
"""The size of an answer once unpacked, in bytes."""
DEADLINE_SECONDS = 30.0
"""For a request with its whole answer."""

_client: httpx.AsyncClient | None = None


def client() -> httpx.AsyncClient:
    global _client
    if _client is None:
        transport = httpx.AsyncHTTPTransport()
        transport._pool = httpcore.AsyncConnectionPool(  # httpx has no parameter for the network backend
            ssl_context=httpx.create_ssl_context(),
            max_connections=100,
            max_keepalive_connections=50,
            keepalive_expiry=5,
            network_backend=AllowedAddresses(),
        )
        _client = httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(10, connect=3))
    return _client


async def close() -> None:
    global _client
    if _client is not None:
        await _client.aclose()
        _client = None


def _retry_seconds(retry_after: str) -> float | None:
    """Return a Retry-After in seconds, also fractional (Shopify sends ``2.0``); ``None`` for a date or no header."""
    return float(retry_after) if re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else None


async def send(
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    data: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    allowed_statuses: Container[int] = (),
) -> httpx.Response:
    """Send a request and return the response if its status is below 300, or one of ``allowed_statuses``.

    Raise ``unavailable`` on a lost connection, a time-out, an answer that is too large or cannot be unpacked, 408, 425,
    429 (after its Retry-After) and 5xx. Raise ``refused`` on any other 4xx, a redirect, which is not followed, and an
    address that is none or may not be reached. Messages hold the status only: bodies may hold personal data.
    """
    accepted = {**(headers or {}), "Accept-Encoding": "gzip"}
    try:
        request = client().build_request(method, url, content=content, data=data, params=params, headers=accepted)
    except httpx.InvalidURL as error:
        raise refused("error.unreachable", "invalid_url", host=url[:80], error=type(error).__name__) from None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            response = await _exchange(request)
    except httpx.UnsupportedProtocol:
        raise refused("error.no_address", "no_address", host=url[:80]) from None
    except (httpx.HTTPError, TimeoutError) as error:
        raise unavailable("error.unreachable", host=request.url.host, error=type(error).__name__) from None
    if response.status_code in allowed_statuses:
        return response
    if response.status_code in {408, 425, 429} or response.status_code >= 500:
        raise unavailable(
            "error.http", _retry_seconds(response.headers.get("retry-after", "")), status=response.status_code
        )
    if response.status_code >= 300:
        raise refused("error.http", str(response.status_code), status=response.status_code)
    return response


async def _exchange(request: httpx.Request) -> httpx.Response:
    """Return the response with its unpacked content. Raise ``unavailable`` beyond the limits of size."""
    response = await client().send(request, stream=True)
    try:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"gzip", "x-gzip", "identity", ""}:
            raise httpx.DecodingError(encoding, request=request)
        unpacker = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
        received, content = 0, bytearray()
        async for part in response.aiter_raw():
            received += len(part)
            room = MAX_UNPACKED + 1 - len(content)
            content += part if unpacker is None else unpacker.decompress(part, room)
            if received > MAX_RECEIVED or len(content) > MAX_UNPACKED:
                raise unavailable("error.too_large", host=request.url.host, most=MAX_RECEIVED // 1024**2)
        if unpacker is not None and received and not unpacker.eof:
            raise httpx.DecodingError("incomplete", request=request)
    except zlib.error as error:
        raise httpx.DecodingError(str(error), request=request) from None
    finally:
        await response.aclose()
    packed = {"content-encoding", "content-length", "transfer-encoding"}
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in packed]
    return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=request)


def origin(url: str) -> str:
    """Return the scheme, host and port of a URL. Raise ``httpx.InvalidURL`` if it is none."""
    parsed = httpx.URL(url)
    return str(parsed.copy_with(raw_path=b"/", userinfo=b"", fragment=None))


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object in a response. Raise ``unavailable`` if it holds none."""
    try:
        value = json.loads(response.content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise unavailable("error.no_json", host=response.request.url.host)
    return value
