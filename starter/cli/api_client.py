"""The client of the API: its address and key, its answers, and its errors as one line each."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from time import sleep
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import uuid4

import httpx
import typer
from pydantic import JsonValue

from models.i18n import t
from models.settings import settings

Json = Annotated[bool, typer.Option("--json", help=t("cli.help.json"))]
Lang = Annotated[Literal["en", "zh-CN"] | None, typer.Option("--lang", help=t("cli.help.lang"))]

Say = Callable[..., str]
"""A text of the catalogue in the chosen language: ``say("key", param=...)``."""

TIMEOUT_SECONDS = 40
"""An order may have to ask its warehouses before it answers."""
RETRY_SECONDS = (2, 5)
"""Pauses before a request that was answered with 503 and ``Retry-After`` is sent again, under the same id."""


class ExitCode(IntEnum):
    """How a command ends that does not succeed."""

    FAILED = 1
    """Unexpectedly: a fault of ours or of the machine; or a check that found something."""
    USAGE = 2
    """Arguments, options, files or fields are wrong."""
    NOT_FOUND = 3
    REFUSED = 4
    """By the rules, or by the scopes of the key."""
    UNREACHABLE = 5
    """The API, the engine or the database does not answer."""


_EXIT_CODES = {400: ExitCode.USAGE, 404: ExitCode.NOT_FOUND, 422: ExitCode.USAGE}


class Refusal(typer.TyperException):
    """The end of a command without success, shown as one line. The API's answer, where there is one, sets the code."""

    def __init__(
        self, message: str, answer: httpx.Response | None = None, exit_code: ExitCode = ExitCode.USAGE
    ) -> None:
        super().__init__(message)
        self.answer = answer
        """The API's, if the API refused the request."""
        self.exit_code = exit_code
        if answer is not None:
            unavailable = answer.status_code >= 500
            self.exit_code = (
                ExitCode.UNREACHABLE if unavailable else _EXIT_CODES.get(answer.status_code, ExitCode.REFUSED)
            )


def _last_served(state_dir: Path) -> dict[str, str]:
    """Return the address and key that the last ``hengdan up`` or ``hengdan demo`` wrote; empty if there is none."""
    found = [each for each in (state_dir / "api.json", state_dir / "demo" / "api.json") if each.is_file()]
    try:
        return dict(json.loads(max(found, key=lambda each: each.stat().st_mtime).read_text()))
    except (OSError, ValueError):
        return {}


class ApiClient:
    """A client of the API that the settings, or the last ``hengdan up`` or ``hengdan demo``, name."""

    def __init__(self, lang: str | None, as_json: bool) -> None:
        self._lang = lang
        self._as_json = as_json
        chosen = settings()
        saved = _last_served(chosen.state_dir)
        self.url = (chosen.api_url or saved.get("url") or f"http://127.0.0.1:{chosen.api_port}").rstrip("/")
        key = chosen.api_key.get_secret_value() if chosen.api_key else None
        if key is None and self.url == saved.get("url"):
            key = saved["key"]
        if key is None:
            raise Refusal(self.say("cli.no_key", url=self.url))
        self._headers = {"Authorization": f"Bearer {key}", "Accept-Language": lang or settings().lang}

    def say(self, message: str, /, **params: object) -> str:
        return t(message, self._lang, **params)

    def get(self, path: str, **params: str | int | None) -> httpx.Response:
        return self._request("GET", path, params=_given(params))

    def post(
        self,
        path: str,
        body: Mapping[str, JsonValue] | None = None,
        content: bytes | None = None,
        params: Mapping[str, str | None] | None = None,
    ) -> httpx.Response:
        """Send JSON, or ``content`` unchanged."""
        key = {"Idempotency-Key": str(uuid4())}
        return self._request("POST", path, json=body, content=content, headers=key, params=_given(params or {}) or None)

    def put(self, path: str, body: Any) -> httpx.Response:
        return self._request("PUT", path, json=body)

    def patch(self, path: str, body: Mapping[str, JsonValue]) -> httpx.Response:
        return self._request("PATCH", path, json=body)

    def delete(self, path: str, **params: str) -> httpx.Response:
        return self._request("DELETE", path, params=params or None)

    def order(self, name: str) -> str:
        """Return the path of an order, given by id, or by a channel's order number or waybill number that is unique."""
        return f"/orders/{quote(name, safe='')}"

    def goods(self, arguments: Sequence[str]) -> dict[str, JsonValue]:
        """Return quantities by SKU, from ``SKU=QUANTITY`` arguments."""
        goods: dict[str, JsonValue] = {}
        for each in arguments:
            sku, _, quantity = each.partition("=")
            if not sku or not quantity.isdecimal():
                raise Refusal(self.say("cli.bad_goods", text=each))
            goods[sku] = int(quantity)
        return goods

    def rule(self, file: Path) -> dict[str, Any]:
        """Read a rule with number and name from a JSON file."""
        try:
            rule = json.loads(file.read_text())
            return dict(rule) | {"number": int(rule["number"]), "name": str(rule["name"])}
        except (ValueError, KeyError, TypeError):
            raise Refusal(self.say("cli.bad_review_rule", file=file)) from None

    def read_json(self, file: Path) -> Any:
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise Refusal(self.say("cli.bad_file", file=file, error=error)) from None

    def show(self, answer: httpx.Response, render: Callable[[Any, Say], None]) -> None:
        """Print an answer: unchanged with ``--json``, rendered otherwise."""
        if self._as_json:
            typer.echo(answer.text)
        else:
            render(answer.json(), self.say)

    def _request(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        try:
            with httpx.Client(
                base_url=self.url,
                headers=self._headers,
                timeout=TIMEOUT_SECONDS,
                trust_env=not self.url.startswith("http://127."),  # never through a proxy to this machine
            ) as client:
                answer = client.request(method, path, headers=headers, **more)
                for pause in RETRY_SECONDS:
                    if answer.status_code != 503 or "retry-after" not in answer.headers:
                        break
                    sleep(pause)
                    answer = client.request(method, path, headers=headers, **more)
        except (httpx.HTTPError, httpx.InvalidURL):
            raise Refusal(self.say("cli.unreachable", url=self.url), exit_code=ExitCode.UNREACHABLE) from None
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise Refusal(self._problem(answer), exit_code=ExitCode.UNREACHABLE)
        if not answer.is_success:
            raise Refusal(self._problem(answer), answer)
        return answer

    def _problem(self, answer: httpx.Response) -> str:
        try:
            problem = answer.json()
            return str(problem.get("detail") or problem["title"])
        except (ValueError, KeyError, AttributeError):
            return self.say("cli.not_the_api", url=self.url, status=answer.status_code)


def _given(params: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in params.items() if value is not None}


def moment(local: datetime | None) -> str | None:
    """Return a local time in ISO format with its offset."""
    return local.astimezone().isoformat() if local else None
