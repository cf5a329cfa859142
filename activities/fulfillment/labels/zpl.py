"""Draw pages as ZPL II, by Zebra's programming guide.

Lengths are in dots, text is in UTF-8 (``^CI28``), and special characters are in hexadecimal (``^FH``). A printer leaves
out silently what its font lacks. So a page with a character that the font may lack is printed with the fonts of
PDFs: its texts and lines are one picture (``^GF``), and only its barcodes are the printer's own.
"""

import re
import zlib
from base64 import b64encode
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from contextlib import closing
from threading import Lock

import pypdfium2
import segno
from PIL import Image

from activities.fulfillment.labels import pdf
from activities.fulfillment.labels.layout import POINT, QUIET, Bars, Box, Mark, Page, Rule, Square, Text, narrow_bars

DOTS = {203: 8, 300: 12}
"""Dots per mm by the resolution in dpi."""
NARROW = 0.5
"""Maximum width of a narrow bar in mm."""
_SPECIAL = re.compile(r"[\x00-\x1f_^~\\\x7f]")


_BLACK = 160
"""The darkest grey that is printed white; lighter than the middle, so that thin strokes stay whole."""
_rendering = Lock()
"""PDFium must not be called by two threads at once."""


def draw(pages: Sequence[Page], dpi: int, font: str | None) -> bytes:
    """Return one ZPL format per page.

    ``font`` is the printer's file of a Chinese font, such as ``E:SIMSUN.TTF``. If it is ``None``, the printer's font 0
    is used for Latin text.
    """
    dots = DOTS[dpi]
    others = [page for page in pages if not _is_known(page, font)]
    pictures = dict(zip(map(id, others), _pictures(others, dots), strict=True))
    return "".join(_format(page, dots, font, pictures.get(id(page))) for page in pages).encode()


def _is_known(page: Page, font: str | None) -> bool:
    """Return whether the printer's font has every character of a page: those of GBK, or of Latin 1 without a font."""
    text = "".join(mark.text for mark in page.marks if isinstance(mark, Text))
    try:
        text.replace("¥", "").encode("gbk" if font else "latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _pictures(pages: Sequence[Page], dots: int) -> Iterator[str]:
    """Yield each page without its barcodes as a graphic field, compressed as ``Z64``."""
    if not pages:
        return
    plain = [
        page._replace(marks=tuple(each for each in page.marks if not isinstance(each, Bars | Square))) for page in pages
    ]
    with _rendering, closing(pypdfium2.PdfDocument(pdf.draw(plain))) as document:
        images = [each.render(scale=dots * POINT, grayscale=True).to_pil() for each in document]
    for page, image in zip(pages, images, strict=True):
        cut = image.crop((0, 0, round(page.width * dots), round(page.height * dots)))
        bitmap = cut.point(lambda grey: 255 if grey < _BLACK else 0).convert("1", dither=Image.Dither.NONE)
        content = bitmap.tobytes()
        row = (bitmap.width + 7) // 8
        packed = b64encode(zlib.compress(content))
        checked = f":Z64:{packed.decode()}:{crc_hqx(packed, 0):04X}"
        yield f"^FO0,0^GFA,{len(content)},{len(content)},{row},{checked}^FS"


def _is_code(mark: Mark) -> bool:
    return isinstance(mark, Bars | Square)


def _format(page: Page, dots: int, font: str | None, picture: str | None) -> str:
    head = f"^XA^CI28^PW{round(page.width * dots)}^LL{round(page.height * dots)}^LH0,0"
    marks = page.marks
    if picture is not None:
        head += "\n" + picture
        marks = tuple(mark for mark in marks if _is_code(mark))
    return "\n".join([head, *(_field(mark, dots, font) for mark in marks), "^XZ\n"])


def _field(mark: Mark, dots: int, font: str | None) -> str:
    match mark:
        case Text(x, y, text, size, _, white, _):
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
