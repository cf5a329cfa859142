"""The one font of what we print: Noto Sans SC Regular, all of its characters, without hinting and layout tables."""

import re
from functools import lru_cache
from pathlib import Path
from unicodedata import category, normalize

from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import TTFont

NAME = "NotoSansSC"
MISSING = "□"
_TOKEN = re.compile(r"[!-~À-ɏ]+|.")
"""What a line is not broken within, unless it is longer than the line."""


@lru_cache(maxsize=1)
def font() -> TTFont:
    """Registered with reportlab on first use."""
    loaded = TTFont(NAME, Path(__file__).with_name("NotoSansSC-Regular.ttf"))
    registerFont(loaded)
    return loaded


def width(text: str, size: float) -> float:
    """In mm, of text in so many points."""
    return float(font().stringWidth(text, size)) / mm


def legible(text: str) -> str:
    """On one line, what has no sign of its own left out, what the font does not know as □."""
    known = font().face.charToGlyph
    shown = "".join(char for char in normalize("NFC", " ".join(text.split())) if category(char) not in {"Cf", "Mn"})
    return "".join(char if ord(char) in known else MISSING for char in shown)


def broken(text: str, room: float, size: float) -> list[str]:
    """The lines of a text that may be ``room`` mm wide: Chinese breaks anywhere, words only where they must."""
    lines, taken = [""], 0.0
    for token in _TOKEN.findall(text):
        for part in [token] if width(token, size) <= room else token:
            wide = width(part, size)
            if lines[-1] and taken + wide > room:
                lines[-1] = lines[-1].rstrip()
                lines.append("")
                taken = 0.0
            if lines[-1] or not part.isspace():
                lines[-1] += part
                taken += wide
    return lines


def shortened(text: str, room: float, size: float) -> str:
    """As much of it as there is room for."""
    if width(text, size) <= room:
        return text
    while text and width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"
