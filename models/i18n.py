"""The one catalogue of texts for people: message keys with ``{params}``, in ``locales/<lang>/messages.po``.

A message is a key, or a key with its params as one string (``message``), so that it can be stored or pass through an
error, and be rendered later in the reader's language.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from babel.messages.pofile import read_po

from models.settings import settings

LANGUAGES = ("en", "zh-CN")
_LOCALES = Path(__file__).parent / "locales"


def _load(lang: str) -> dict[str, str]:
    with (_LOCALES / lang.replace("-", "_") / "messages.po").open("rb") as file:
        return {str(message.id): str(message.string) for message in read_po(file) if message.id and message.string}


CATALOGUE: Mapping[str, Mapping[str, str]] = {lang: _load(lang) for lang in LANGUAGES}


def message(key: str, /, **params: object) -> str:
    """Return a key and its params as one string: ``invalid.sku.unknown?sku=A001``."""
    pairs = (f"{name}={str(value).replace('%', '%25').replace('&', '%26')}" for name, value in params.items())
    return f"{key}?{'&'.join(pairs)}" if params else key


def _parse(text: str, texts: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Split a message into its key and params; a text that is no message is returned whole."""
    key, mark, query = text.partition("?")
    if not mark or key not in texts:
        return text, {}
    pairs = (pair.partition("=") for pair in query.split("&"))
    return key, {name: unquote(value) for name, _, value in pairs}


class InvalidValue(ValueError):
    """A value that the rules forbid; ``message`` says why, in the language of the reader once rendered."""

    def __init__(self, key: str, /, **params: object) -> None:
        self.message = message(key, **params)
        super().__init__(t(self.message, "en"))


def t(key: str, lang: str | None = None, /, **params: object) -> str:
    """Return the text of a message with its ``{params}`` filled in; return a person's own words unchanged.

    A param may itself be a message, or the end of a key that begins with the param's name (``status="shipped"``): its
    text is used, with the other params filled in.
    """
    texts = CATALOGUE[lang or settings().lang]
    key, own = _parse(key, texts)
    params = {**params, **own}

    def filled(match: re.Match[str]) -> str:
        if (name := match[1]) not in params:
            return match[0]
        value = str(params[name])
        others = {other: params[other] for other in params if other != name}
        return texts.get(f"{name}.{value}") or (t(value, lang, **others) if _parse(value, texts)[0] in texts else value)

    return re.sub(r"\{(\w+)\}", filled, texts.get(key, key))


def named(family: str) -> Any:
    """Return ``_missing_`` of an enumeration: it is also parsed from the texts ``{family}.{member}``, in any language.

    Staff type what they read, such as ``已发货`` or ``On hold``.
    """

    def find(cls: Any, value: object) -> Any:
        text = str(value).strip().casefold()
        texts = ((each, shown[f"{family}.{each}"]) for each in cls for shown in CATALOGUE.values())
        return next((each for each, shown in texts if shown.casefold() == text), None)

    return classmethod(find)


def negotiate(accept_language: str | None) -> str:
    """Return the best of our languages for an ``Accept-Language`` header (RFC 9110 §12.5.4)."""
    best: str = settings().lang
    best_quality = 0.0
    for part in (accept_language or "").split(","):
        tag, _, parameters = part.strip().partition(";")
        quality = float(weight[1]) if (weight := re.search(r"q=(\d(?:\.\d+)?)", parameters)) else 1.0
        for lang in LANGUAGES:
            if tag and lang.split("-")[0] == tag.split("-")[0].lower() and quality > best_quality:
                best, best_quality = lang, quality
    return best
