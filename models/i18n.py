"""The one catalogue of what people read. English is the source; ``locales/<lang>/messages.po`` translate it."""

import re
from collections.abc import Mapping
from pathlib import Path

from babel.messages.pofile import read_po

from models.settings import settings

LANGUAGES = ("en", "zh-CN")
_LOCALES = Path(__file__).parent / "locales"


def _load(lang: str) -> dict[str, str]:
    with (_LOCALES / lang.replace("-", "_") / "messages.po").open("rb") as file:
        return {str(message.id): str(message.string) for message in read_po(file) if message.id and message.string}


CATALOGUE: Mapping[str, Mapping[str, str]] = {lang: _load(lang) for lang in LANGUAGES}


def t(key: str, lang: str | None = None, /, **params: object) -> str:
    """The text of a message key with its ``{params}`` filled in; a person's own words as they are.

    A param may itself be a message key, whole or with the param's name before it (``status="shipped"``): it is told
    too, with the other params filled in.
    """
    texts = CATALOGUE[lang or settings().lang]

    def filled(match: re.Match[str]) -> str:
        if (name := match[1]) not in params:
            return match[0]
        value = str(params[name])
        others = {other: params[other] for other in params if other != name}
        return texts.get(f"{name}.{value}") or (t(value, lang, **others) if value in texts else value)

    return re.sub(r"\{(\w+)\}", filled, texts.get(key, key))


def negotiate(accept_language: str | None) -> str:
    """The best of our languages for an ``Accept-Language`` header (RFC 9110 §12.5.4)."""
    best: str = settings().lang
    best_quality = 0.0
    for part in (accept_language or "").split(","):
        tag, _, parameters = part.strip().partition(";")
        quality = float(found[1]) if (found := re.search(r"q=(\d(?:\.\d+)?)", parameters)) else 1.0
        for lang in LANGUAGES:
            if tag and lang.split("-")[0] == tag.split("-")[0].lower() and quality > best_quality:
                best, best_quality = lang, quality
    return best
