"""The font of all prints: Noto Sans SC Regular with all its characters, without hinting and layout tables."""

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
"""A unit that is kept on one line unless it is wider than the line."""


@lru_cache(maxsize=1)
def font() -> TTFont:
    """Return the font, registered with reportlab on first use."""
    loaded = TTFont(NAME, Path(__file__).with_name("NotoSansSC-Regular.ttf"))
    registerFont(loaded)
    return loaded


def width(text: str, size: float) -> float:
    """Return the width in mm of the text at a size in points."""
    return float(font().stringWidth(text, size)) / mm


def legible(text: str) -> str:
    """Return the text on one line, without invisible characters, with □ for those that the font lacks."""
    known = font().face.charToGlyph
    shown = "".join(char for char in normalize("NFC", " ".join(text.split())) if category(char) not in {"Cf", "Mn"})
    return "".join(char if ord(char) in known else MISSING for char in shown)


def broken(text: str, room: float, size: float) -> list[str]:
    """Break a text into lines of at most ``room`` mm: Chinese anywhere, a word only if it is wider than a line."""
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
    """Truncate the text to ``room`` mm, ending in an ellipsis."""
    if width(text, size) <= room:
        return text
    while text and width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"
