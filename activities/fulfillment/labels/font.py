"""The fonts of all prints, one chosen for each run of text: Noto Sans SC, then Noto fonts for all that it lacks.

Scripts that need it are shaped by HarfBuzz, and texts with Arabic or Hebrew are put in visual order by the Unicode
Bidirectional Algorithm.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from threading import Lock
from unicodedata import bidirectional, category, normalize

import manimgx_fonts
from bidi import get_display
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import ShapeData, ShapedStr, TTFont, shapeStr

NAME = "NotoSansSC"
MISSING = "□"
_HERE = Path(__file__).parent
_PACKAGE = Path(manimgx_fonts.__file__).parent
_LAST = ("NotoSansSymbols", "NotoEmoji")
_JOINERS = "\u200c\u200d"
_NO_JOINERS = dict.fromkeys(map(ord, _JOINERS))
_ISOLATES = "\u2068\u2069"
_BRACKETS = "()[]{}<>«»‹›《》〈〉「」『』【】"
_MIRROR = str.maketrans(_BRACKETS, ")(][}{><»«›‹》《〉〈」「』『】【")
_PROBE = "\U000e0100"
"""A mark without width, put after each bracket. It stands before the bracket where that is set right to left."""
_PROBED = re.compile(f"{_PROBE}([{re.escape(_BRACKETS)}])|([{re.escape(_BRACKETS)}]){_PROBE}")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]")
_SIMPLE = re.compile("[ -~\u00a0-\u00ac\u00ae-\u00ff\u2e80-\u9fff\uff01-\uff5e]*")
"""Texts whose characters are each drawn alone, from left to right."""
_ANYWHERE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Scripts without spaces between words: lines break between any two characters."""
_BREAKS = re.compile(rf"[\s{_ANYWHERE}]")
_loaded: dict[str, TTFont] = {}
_lock = Lock()
"""Held while a font is loaded or given the shape of another ligature: prints are drawn in several threads."""


def font(name: str = NAME) -> TTFont:
    """Return a font, registered with reportlab on first use."""
    with _lock:
        if name not in _loaded:
            _loaded[name] = TTFont(name, _files()[name])
            registerFont(_loaded[name])
        return _loaded[name]


@cache
def _files() -> dict[str, Path]:
    """Return the files of all fonts by name, the preferred first."""
    scripts = {file.name.removesuffix("[wght].ttf"): file for file in sorted(_PACKAGE.glob("Noto*[[]wght].ttf"))}
    del scripts["NotoSans-Italic"]
    last = {name: scripts.pop(name) for name in _LAST}
    chinese = {NAME: _HERE / "NotoSansSC-Regular.ttf"}
    more = {"NotoSans": scripts.pop("NotoSans"), "NotoSansCJK-More": _HERE / "NotoSansCJK-More.ttf"}
    return chinese | more | scripts | last


@lru_cache(maxsize=10_000)
def _font_of(cluster: str) -> str | None:
    """Return the first font that has a whole cluster of characters; ``None`` if no font has it."""
    drawn = [ord(char) for char in cluster if char not in _JOINERS]
    if any(category(chr(code)) == "Co" for code in drawn):
        return None  # reportlab stores the shapes of ligatures there
    names = list(_files())
    if len(drawn) > 1:
        names = [*names[1:], NAME]  # which places no marks
    return next((name for name in names if all(code in font(name).face.charToGlyph for code in drawn)), None)


def _clusters(text: str) -> Iterator[str]:
    """Yield each character together with its marks, and with those that a joiner ties to it."""
    start = 0
    for at in range(1, len(text) + 1):
        tied = at < len(text) and (category(text[at])[0] == "M" or text[at] in _JOINERS or text[at - 1] == "\u200d")
        if not tied:
            yield text[start:at]
            start = at


def _without_invisible(text: str) -> str:
    """Return the text composed and on one line, without variation selectors and invisible characters but joiners."""
    composed = normalize("NFC", " ".join(text.split()))
    hidden = ("\ufe00", "\ufe0f"), ("\U000e0100", "\U000e01ef")
    return "".join(
        char
        for char in composed
        if (category(char) != "Cf" or char in _JOINERS) and not any(first <= char <= last for first, last in hidden)
    )


def legible(text: str) -> str:
    """Return the text on one line, without invisible characters, with □ for each character that no font has."""
    return "".join(
        cluster if _font_of(cluster) else _replaced(cluster) for cluster in _clusters(_without_invisible(text))
    )


def _replaced(cluster: str) -> str:
    return "".join(char if _font_of(char) else MISSING for char in cluster)


def missing(text: str) -> set[str]:
    """Return the characters that ``legible`` replaces."""
    return {
        char
        for cluster in _clusters(_without_invisible(text))
        if not _font_of(cluster)
        for char in cluster
        if not _font_of(char)
    }


def is_right_to_left(text: str) -> bool:
    """Return whether a text starts at the right: its first letter is of a script written so, isolated parts apart."""
    outside = re.sub(f"{_ISOLATES[0]}[^{_ISOLATES[1]}]*", "", text)
    return next((each != "L" for each in map(bidirectional, outside) if each in ("L", "R", "AL")), False)


def isolated(text: str) -> str:
    """Return the text so that its direction does not move what stands beside it, as the phone beside a name."""
    return _ISOLATES[0] + text + _ISOLATES[1] if _RIGHT_TO_LEFT.search(text) else text


@lru_cache(maxsize=10_000)
def runs(text: str, right_to_left: bool = False) -> tuple[tuple[str, str], ...]:
    """Split a line into runs of one font and direction, from left to right: name of the font, characters to shape."""
    if _RIGHT_TO_LEFT.search(text):
        probed = "".join(char + _PROBE * (char in _BRACKETS) for char in text)
        shown = get_display(probed, base_dir="R" if right_to_left else "L")
        text = _PROBED.sub(lambda bracket: (bracket[1] or "").translate(_MIRROR) or bracket[2], shown)
    text = "".join(char for char in text if char not in _ISOLATES)
    found = []
    for (backwards, _), part in groupby(text, _direction):
        logical = "".join(part)[:: -1 if backwards else 1]
        for name, clusters in groupby(_clusters(logical), lambda cluster: _font_of(cluster) or NAME):
            run = "".join(clusters)
            found.append((name, run.translate(_NO_JOINERS) if name == NAME else run))
    return tuple(found)


def _direction(char: str) -> tuple[bool, bool]:
    """Return whether a character is set right to left, and whether it is a digit of such a script, which is not."""
    if not _RIGHT_TO_LEFT.match(char):
        return False, False
    return bidirectional(char) in ("R", "AL", "NSM"), char.isdigit()


def shaped(run: str, name: str, size: float) -> str:
    """Return a run as reportlab draws it: a ``ShapedStr`` where its glyphs differ from its characters."""
    font(name)
    if name == NAME or run.isdigit() or not run:
        return run
    with _lock:
        glyphs: str = shapeStr(run, name, size)
    return glyphs


def width(text: str, size: float) -> float:
    """Return the width in mm of the text at a size in points."""
    if _SIMPLE.fullmatch(text):
        return float(font().stringWidth(text, size)) / mm
    return sum(_width(run, name) for name, run in runs(text)) * size / mm


@lru_cache(maxsize=10_000)
def _width(run: str, name: str) -> float:
    """Return the width of a run in units of its size."""
    glyphs = shaped(run, name, 1)
    if isinstance(glyphs, ShapedStr):
        advances: list[ShapeData] = vars(glyphs)["__shapeData__"]
        return float(sum(each.x_advance for each in advances)) / 1000
    return float(font(name).stringWidth(glyphs, 1))


def broken(text: str, room: float, size: float) -> list[str]:
    """Break a text into lines of at most ``room`` mm: Chinese anywhere, a word only if it is wider than a line."""
    lines, taken = [""], 0.0
    for token in _tokens(text):
        for part in [token] if width(token, size) <= room else _clusters(token):
            wide = width(part, size)
            if lines[-1] and taken + wide > room:
                lines[-1] = lines[-1].rstrip()
                lines.append("")
                taken = 0.0
            if lines[-1] or not part.isspace():
                lines[-1] += part
                taken += wide
    return lines


def _tokens(text: str) -> Iterator[str]:
    """Yield the units that are kept on one line unless they are wider than the line."""
    for breaks, clusters in groupby(_clusters(text), lambda cluster: _BREAKS.match(cluster) is not None):
        if breaks:
            yield from clusters
        else:
            yield "".join(clusters)


def shortened(text: str, room: float, size: float) -> str:
    """Truncate the text to ``room`` mm, ending in an ellipsis."""
    if width(text, size) <= room:
        return text
    while text and width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"
