"""The HTTP client that all activities share."""

import json
import re
from collections.abc import Container
from typing import Any

import httpx

from activities.kit.errors import refused, unavailable

_client: httpx.AsyncClient | None = None


def client() -> httpx.AsyncClient:
    global _client
    if _client is None:
        _client = httpx.AsyncClient(
            timeout=httpx.Timeout(10, connect=3), limits=httpx.Limits(max_connections=100, max_keepalive_connections=50)
        )
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
    """Send a request and return the response if its status is below 400, or one of ``allowed_statuses``.

    Raise ``unavailable`` on a lost connection, a time-out, 408, 425, 429 (after its Retry-After) and 5xx, and
    ``refused`` on any other 4xx. Messages hold the status only: bodies may hold personal data.
    """
    try:
        response = await client().request(method, url, content=content, data=data, params=params, headers=headers)
    except httpx.HTTPError as error:
        raise unavailable("error.unreachable", host=httpx.URL(url).host, error=type(error).__name__) from None
    if response.status_code in allowed_statuses:
        return response
    if response.status_code in {408, 425, 429} or response.status_code >= 500:
        raise unavailable(
            "error.http", _retry_seconds(response.headers.get("retry-after", "")), status=response.status_code
        )
    if response.status_code >= 400:
        raise refused("error.http", str(response.status_code), status=response.status_code)
    return response


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object in a response. Raise ``unavailable`` if it holds none."""
    try:
        value = json.loads(response.content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise unavailable("error.no_json", host=response.request.url.host)
    return value
