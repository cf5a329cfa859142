"""Draw pages as ZPL II, by Zebra's programming guide.

Lengths are in dots, text is in UTF-8 (``^CI28``), and special characters are in hexadecimal (``^FH``).
"""

import re
from collections.abc import Sequence

import segno

from activities.fulfillment.labels.layout import POINT, QUIET, Bars, Box, Mark, Page, Rule, Square, Text, narrow_bars

DOTS = {203: 8, 300: 12}
"""Dots per mm by the resolution in dpi."""
NARROW = 0.5
"""Maximum width of a narrow bar in mm."""
_SPECIAL = re.compile(r"[\x00-\x1f_^~\\\x7f]")


def draw(pages: Sequence[Page], dpi: int, font: str | None) -> bytes:
    """Return one ZPL format per page.

    ``font`` is the printer's file of a Chinese font, such as ``E:SIMSUN.TTF``. If it is ``None``, the printer's font 0
    is used, which has Chinese only if a Chinese font is linked to it.
    """
    return "".join(_format(page, DOTS[dpi], font) for page in pages).encode()


def _format(page: Page, dots: int, font: str | None) -> str:
    head = f"^XA^CI28^PW{round(page.width * dots)}^LL{round(page.height * dots)}^LH0,0"
    return "\n".join([head, *(_field(mark, dots, font) for mark in page.marks), "^XZ\n"])


def _field(mark: Mark, dots: int, font: str | None) -> str:
    match mark:
        case Text(x, y, text, size, _, white):
            tall = round(size * POINT * dots)
            face = f"^A@N,{tall},{tall},{font}" if font else f"^A0N,{tall},{tall}"
            return f"^FT{round(x * dots)},{round(y * dots)}{face}{'^FR' * white}{_data(text)}"
        case Bars(x, y, width, height, content):
            modules = narrow_bars(content)
            narrow = max(1, min(int(NARROW * dots), int(width * dots / (modules + 2 * QUIET))))
            left = round(x * dots + (width * dots - modules * narrow) / 2)
            return f"^FO{left},{round(y * dots)}^BY{narrow}^BCN,{round(height * dots)},N,N,N,A{_data(content)}"
        case Square(x, y, side, content):
            cells = segno.make(content, error="m", micro=False, boost_error=False).symbol_size(border=0)[0]
            magnified = max(1, min(10, int(side * dots / cells)))
            return f"^FO{round(x * dots)},{round(y * dots)}^BQN,2,{magnified}{_data(_square(content))}"
        case Box(x, y, wide, high):
            across, down = round(wide * dots), round(high * dots)
            return f"^FO{round(x * dots)},{round(y * dots)}^GB{across},{down},{min(across, down)}^FS"
        case Rule(x, y, length):
            return f"^FO{round(x * dots)},{round(y * dots)}^GB{round(length * dots)},2,2^FS"


def _data(text: str) -> str:
    return "^FH^FD" + _SPECIAL.sub(lambda match: f"_{ord(match[0]):02X}", text) + "^FS"


def _square(content: str) -> str:
    """Return the QR data with error correction M: automatic mode for ASCII, else binary with its length in bytes."""
    return f"MA,{content}" if content.isascii() else f"MM,B{len(content.encode()):04}{content}"
