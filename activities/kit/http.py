"""The one HTTP client of the activities."""

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


def _seconds(retry_after: str) -> float | None:
    """A Retry-After in seconds, whole or not (Shopify says ``2.0``); ``None`` for a date or nothing."""
    return float(retry_after) if re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else None


async def send(
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    data: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    telling: Container[int] = (),
) -> httpx.Response:
    """A request, answered with a status below 400, or one of ``telling``, whose bodies say what is wrong.

    Raises ``unavailable`` on a lost connection, a time-out, 408, 425, 429 (after its Retry-After) and 5xx, and
    ``refused`` on any other 4xx. Messages carry the status only: bodies may be personal.
    """
    try:
        response = await client().request(method, url, content=content, data=data, params=params, headers=headers)
    except httpx.HTTPError as error:
        raise unavailable(f"{method} {httpx.URL(url).host}: {type(error).__name__}") from None
    if response.status_code in telling:
        return response
    if response.status_code in {408, 425, 429} or response.status_code >= 500:
        raise unavailable(f"HTTP {response.status_code}", _seconds(response.headers.get("retry-after", "")))
    if response.status_code >= 400:
        raise refused(f"HTTP {response.status_code}", str(response.status_code))
    return response


def document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object that an answer is. Raises ``unavailable`` where it is none."""
    try:
        answer = json.loads(response.content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise unavailable(f"{response.request.url.host}: answered with what is no JSON object")
    return answer
