"""The way to the API: where it is, whose key, and its answers; what is not well becomes one line."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
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
"""A text of the catalogue in the language asked for: ``say("key", param=...)``."""

PATIENCE_SECONDS = 40
"""An order may have to ask its warehouses before it answers."""
PAUSES = (2, 5)
"""Seconds before the same request, under the same id, is sent again where the API cannot just now."""


class Refusal(typer.TyperException):
    """What the user is told instead: one line."""

    exit_code = 2

    def __init__(self, message: str, answer: httpx.Response | None = None) -> None:
        super().__init__(message)
        self.answer = answer
        """Of the API, where it was the API that refused."""


class ApiClient:
    """The API, as the settings or the last ``hengdan up`` say where."""

    def __init__(self, lang: str | None, as_json: bool) -> None:
        self._lang = lang
        self._as_json = as_json
        chosen = settings()
        try:
            kept = json.loads((chosen.state_dir / "api.json").read_text())
        except (OSError, ValueError):
            kept = {}
        self.url = (chosen.api_url or kept.get("url") or f"http://127.0.0.1:{chosen.api_port}").rstrip("/")
        key = chosen.api_key.get_secret_value() if chosen.api_key else None
        if key is None and self.url == kept.get("url"):
            key = kept["key"]
        if key is None:
            raise Refusal(self.say("cli.no_key", url=self.url))
        self._headers = {"Authorization": f"Bearer {key}", "Accept-Language": lang or settings().lang}

    def say(self, message: str, /, **params: object) -> str:
        return t(message, self._lang, **params)

    def get(self, path: str, **params: str | int | None) -> httpx.Response:
        return self._ask("GET", path, params=_told(params))

    def post(
        self,
        path: str,
        body: Mapping[str, JsonValue] | None = None,
        content: bytes | None = None,
        params: Mapping[str, str | None] | None = None,
    ) -> httpx.Response:
        """Sends JSON, or ``content`` as it is."""
        key = {"Idempotency-Key": str(uuid4())}
        return self._ask("POST", path, json=body, content=content, headers=key, params=_told(params or {}) or None)

    def put(self, path: str, body: Any) -> httpx.Response:
        return self._ask("PUT", path, json=body)

    def patch(self, path: str, body: Mapping[str, JsonValue]) -> httpx.Response:
        return self._ask("PATCH", path, json=body)

    def delete(self, path: str, **params: str) -> httpx.Response:
        return self._ask("DELETE", path, params=params or None)

    def order(self, named: str) -> str:
        """The path of an order, named in full or by the channel's number where no other order has it."""
        if not named.startswith("order:"):
            found = [each["id"] for each in self.get("/orders", order_no=named, limit=10).json()["items"]]
            if not found:
                raise Refusal(self.say("cli.no_order", order=named))
            if len(found) > 1:
                raise Refusal(self.say("cli.many_orders", order=named, orders=", ".join(found)))
            named = found[0]
        return f"/orders/{quote(named, safe='')}"

    def goods(self, told: Sequence[str]) -> dict[str, JsonValue]:
        """``SKU=QUANTITY`` as often as told; SKU → quantity."""
        goods: dict[str, JsonValue] = {}
        for each in told:
            sku, _, quantity = each.partition("=")
            if not sku or not quantity.isdecimal():
                raise Refusal(self.say("cli.bad_goods", told=each))
            goods[sku] = int(quantity)
        return goods

    def rule(self, file: Path) -> dict[str, Any]:
        """A rule with number and name, as JSON from a file."""
        try:
            told = json.loads(file.read_text())
            return dict(told) | {"number": int(told["number"]), "name": str(told["name"])}
        except (ValueError, KeyError, TypeError):
            raise Refusal(self.say("cli.bad_review_rule", file=file)) from None

    def show(self, answer: httpx.Response, render: Callable[[Any, Say], None]) -> None:
        """Prints an answer: exactly as it came for machines, rendered for people."""
        if self._as_json:
            typer.echo(answer.text)
        else:
            render(answer.json(), self.say)

    def _ask(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        try:
            with httpx.Client(
                base_url=self.url,
                headers=self._headers,
                timeout=PATIENCE_SECONDS,
                trust_env=not self.url.startswith("http://127."),  # no proxy stands between us and ourselves
            ) as client:
                answer = client.request(method, path, headers=headers, **more)
                for pause in PAUSES:
                    if answer.status_code != 503:
                        break
                    sleep(pause)
                    answer = client.request(method, path, headers=headers, **more)
        except (httpx.HTTPError, httpx.InvalidURL):
            raise Refusal(self.say("cli.unreachable", url=self.url)) from None
        if not answer.is_success:
            raise Refusal(self._problem(answer), answer)
        return answer

    def _problem(self, answer: httpx.Response) -> str:
        try:
            problem = answer.json()
            return str(problem.get("detail") or problem["title"])
        except (ValueError, KeyError, AttributeError):
            return self.say("cli.not_the_api", url=self.url, status=answer.status_code)


def _told(params: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in params.items() if value is not None}


def moment(told: datetime | None) -> str | None:
    """A time as the clock on the wall shows it."""
    return told.astimezone().isoformat() if told else None
