"""Page layout, independent of the output format. Positions are in mm from the top left, type sizes in points.

A label has the carrier's part and, below a dotted line, the customer's stub, as the 100 × 180 and 100 × 150 mm waybills
of Chinese carriers have.
"""

from typing import Literal, NamedTuple

from reportlab.graphics.barcode.code128 import Code128

from activities.fulfillment.labels.font import broken, legible, shortened, width
from models.i18n import t
from models.labels import Good, Person, PrintSize, Slip
from models.money import Money

POINT = 25.4 / 72
LEADING = 1.25
_ASCENT = 0.9
MARGIN = 3.0
LEAST_BOLD = 8
"""Minimum size of bold type in points: its outline would fill smaller characters."""
QUIET = 10
"""Width of the quiet zone that a scanner needs on each side of a barcode, in narrow bars."""


class Text(NamedTuple):
    """One line of text; ``y`` is the baseline."""

    x: float
    y: float
    text: str
    size: float
    bold: bool = False
    white: bool = False


class Bars(NamedTuple):
    """A Code 128 barcode, centred and as wide as fits."""

    x: float
    y: float
    width: float
    height: float
    content: str


class Square(NamedTuple):
    """A QR code."""

    x: float
    y: float
    side: float
    content: str


class Box(NamedTuple):
    """A black rectangle."""

    x: float
    y: float
    width: float
    height: float


class Rule(NamedTuple):
    """A horizontal line."""

    x: float
    y: float
    width: float
    dotted: bool = False


Mark = Text | Bars | Square | Box | Rule


class Page(NamedTuple):
    width: float
    height: float
    marks: tuple[Mark, ...]


class Picture(NamedTuple):
    """A finished page: PDF, PNG or JPEG."""

    width: float
    height: float
    content: bytes


def narrow_bars(content: str) -> int:
    """Return the width of a Code 128 barcode in narrow bars, without the quiet zones."""
    return int(Code128(content, barWidth=1, quiet=False).width)


class _Pen:
    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def text(
        self,
        x: float,
        y: float,
        room: tuple[float, float],
        text: str,
        size: float,
        *,
        least: float = 5,
        lines: int = 9,
        bold: bool = False,
        white: bool = False,
        align: Literal["left", "middle", "right"] = "left",
    ) -> None:
        """Draw text in a room of width × height, centred vertically.

        Long text is broken into lines and made smaller down to ``least`` points, then truncated.
        """
        size, fitted = _fitted(legible(text), room, size, least, lines)
        step = size * LEADING * POINT
        top = y + (room[1] - step * len(fitted)) / 2
        for number, line in enumerate(fitted):
            left = x + (room[0] - width(line, size)) * {"left": 0, "middle": 0.5, "right": 1}[align]
            baseline = top + step * number + (size * (LEADING - 1) / 2 + size * _ASCENT) * POINT
            self.marks.append(Text(left, baseline, line, size, bold and size >= LEAST_BOLD, white))

    def badge(self, x: float, y: float, room: tuple[float, float], text: str) -> None:
        """Draw white text on black."""
        self.marks.append(Box(x, y, *room))
        inner = (room[0] - 0.6, room[1])
        self.text(x + 0.3, y, inner, text, 11, lines=1, bold=True, white=True, align="middle")

    def bars(self, x: float, y: float, room: tuple[float, float], content: str) -> None:
        """Draw a barcode with its content below."""
        digits = min(5.5, room[1] * 0.3)
        self.marks.append(Bars(x, y, room[0], room[1] - digits, content))
        at = y + room[1] - digits
        self.text(x, at, (room[0], digits), _spaced(content), 13, lines=1, bold=True, align="middle")

    def rule(self, y: float, across: float, *, dotted: bool = False) -> None:
        inset = 0 if dotted else MARGIN
        self.marks.append(Rule(inset, y, across - 2 * inset, dotted))


def _fitted(text: str, room: tuple[float, float], size: float, least: float, lines: int) -> tuple[float, list[str]]:
    """Return the largest size that fits, with the lines at that size; truncate the text if ``least`` is too big."""
    while True:
        broken_lines = broken(text, room[0], size)
        most = min(lines, int(room[1] / (size * LEADING * POINT) + 0.01))
        if len(broken_lines) <= most:
            return size, broken_lines
        if size <= least:
            most = max(most, 1)
            return size, [*broken_lines[: most - 1], shortened("".join(broken_lines[most - 1 :]), room[0], size)]
        size -= 0.5


def _spaced(number: str) -> str:
    """Group characters in fours, for reading aloud."""
    return " ".join(number[at : at + 4] for at in range(0, len(number), 4))


def label(slip: Slip, size: PrintSize, lang: str) -> Page:
    """Lay out a label."""
    across, down = size.mm
    stub = 0.37 * down if size is PrintSize.TALL else 0.3 * down
    pen = _Pen()
    _carriers_part(pen, slip, lang, across, down - stub)
    pen.rule(down - stub, across, dotted=True)
    _customers_part(pen, slip, lang, across, down - stub, stub)
    return Page(across, down, tuple(pen.marks))


def _carriers_part(pen: _Pen, slip: Slip, lang: str, across: float, down: float) -> None:
    room = across - 2 * MARGIN
    carrier_data = slip.label
    hub = t("print.hub", lang, hub=carrier_data.hub) if carrier_data.hub else ""
    way = " → ".join(part for part in (carrier_data.origin, carrier_data.destination) if part)
    heights = {"head": 10, "route": 14, "bars": 21, "way": 8, "to": 23, "from": 12, "foot": 25}
    if not hub + way:
        del heights["way"]
    scale = (down - 1) / sum(heights.values())
    row: dict[str, tuple[float, float]] = {}
    y = 1.0
    for name, share in heights.items():
        row[name] = (y, share * scale)
        y += share * scale
        if name != "foot":
            pen.rule(y, across)

    y, height = row["head"]
    pen.text(MARGIN, y, (room * 0.48, height), slip.carrier, 16, lines=1, bold=True)
    pen.text(MARGIN + room * 0.72, y, (room * 0.28, height), carrier_data.product, 11, lines=2, align="right")
    if slip.number > 1:
        pen.badge(MARGIN + room * 0.5, y + height * 0.2, (room * 0.2, height * 0.6), _reprint_badge(slip, lang))

    y, height = row["route"]
    pen.text(MARGIN, y, (room, height), carrier_data.route, 36, least=12, lines=1, bold=True, align="middle")

    y, height = row["bars"]
    pen.bars(MARGIN, y + 1, (room, height - 1.5), slip.waybill_no)

    if "way" in row:
        y, height = row["way"]
        pen.text(MARGIN, y, (room * 0.6, height), hub, 13, lines=1, bold=True)
        pen.text(MARGIN + room * 0.6, y, (room * 0.4, height), way, 10, lines=1, align="right")

    _person(pen, row["to"], room, slip.recipient, t("print.to", lang), 14)
    _person(pen, row["from"], room, slip.sender, t("print.from", lang), 9)

    y, height = row["foot"]
    side = min(height - 3, 22.0)
    left, cash = room - side - 2, 0.0
    pen.marks.append(Square(MARGIN + left + 2, y + (height - side) / 2, side, carrier_data.qr or slip.waybill_no))
    if slip.cash is not None:
        cash = height * 0.4
        amount = Money(amount=slip.cash, currency=slip.currency).text(lang)
        pen.text(MARGIN, y + 0.5, (left, cash), t("print.cash", lang, amount=amount), 20, least=9, lines=1, bold=True)
    pen.text(MARGIN, y + cash + 0.5, (left, height - cash - 5.5), _goods(slip), 9)
    pen.text(MARGIN, y + height - 4.5, (left, 4), _facts(slip, lang), 8, lines=1)


def _customers_part(pen: _Pen, slip: Slip, lang: str, across: float, top: float, down: float) -> None:
    room = across - 2 * MARGIN
    head, bars, person, sender = down * 0.1, down * 0.3, down * 0.22, down * 0.16
    y = top + 0.5
    pen.text(MARGIN, y, (room * 0.6, head), slip.carrier, 11, lines=1, bold=True)
    pen.text(MARGIN + room * 0.6, y, (room * 0.4, head), t("print.stub", lang), 8, lines=1, align="right")
    y += head
    pen.bars(MARGIN, y, (room, bars - 1), slip.waybill_no)
    y += bars
    pen.rule(y, across)
    _person(pen, (y, person), room, slip.recipient, t("print.to", lang), 10)
    y += person
    pen.rule(y, across)
    _person(pen, (y, sender), room, slip.sender, t("print.from", lang), 8)
    y += sender
    pen.rule(y, across)
    rest = top + down - y - 1
    pen.text(MARGIN, y, (room, rest - 4), _goods(slip), 8)
    pen.text(MARGIN, top + down - 5, (room, 4), _facts(slip, lang), 8, lines=1)


def _person(pen: _Pen, row: tuple[float, float], room: float, person: Person, badge: str, size: float) -> None:
    """Draw name and phone on one line, with the address below."""
    y, height = row
    side = min(height - 2, size * 0.55)
    pen.badge(MARGIN, y + (height - side) / 2, (side, side), badge)
    left, room = MARGIN + side + 2, room - side - 2
    line = height * (0.32 if height > 14 else 0.42)
    pen.text(left, y + 0.3, (room, line), f"{person.name}  {person.phone}", size, lines=1, bold=True)
    pen.text(left, y + line, (room, height - line - 0.3), person.place, size - 1)


def _reprint_badge(slip: Slip, lang: str) -> str:
    return t("print.again", lang, number=slip.number)


def _goods(slip: Slip) -> str:
    return ", ".join(f"{good.sku}×{good.quantity}" for good in slip.goods)


def _facts(slip: Slip, lang: str) -> str:
    pieces = sum(good.quantity for good in slip.goods)
    return t("print.facts", lang, order=slip.order_no, pieces=pieces, weight=f"{slip.weight_kg.normalize():f}")


_COLUMNS = (0.06, 0.2, 0.56, 0.18)
"""Column widths of a packing list, as fractions of its width: number, SKU, names, quantity."""


def packing_list(slip: Slip, size: PrintSize, lang: str) -> list[Page]:
    """Lay out a packing list on one or more pages: goods named in the reader's language, with the other below."""
    across, down = size.mm
    margin = 10.0
    room = across - 2 * margin
    head, row, foot = 40.0, 10.5, 26.0
    each = int((down - head - foot - 2 * margin) / row)
    parts = [slip.goods[at : at + each] for at in range(0, len(slip.goods), each)] or [()]
    pages = []
    for number, goods in enumerate(parts, 1):
        pen = _Pen()
        _packing_head(pen, slip, lang, margin, room, head)
        y = margin + head
        for line, good in enumerate(goods, (number - 1) * each + 1):
            _packing_row(pen, line, good, lang, (margin, y), (room, row))
            y += row
            pen.marks.append(Rule(margin, y, room))
        bottom = down - margin - foot
        if number == len(parts):
            pieces = sum(good.quantity for good in slip.goods)
            pen.text(margin, bottom + 1, (room, 6), t("print.total", lang, pieces=pieces), 11, bold=True, align="right")
            note = t("print.note", lang, note=slip.note) if slip.note else ""
            pen.text(margin, bottom + 8, (room, foot - 13), note, 10)
        pen.text(margin, down - margin - 4, (room, 4), f"{number} / {len(parts)}", 8, align="middle")
        pages.append(Page(across, down, tuple(pen.marks)))
    return pages


def _packing_head(pen: _Pen, slip: Slip, lang: str, margin: float, room: float, head: float) -> None:
    pen.text(margin, margin, (room * 0.45, 9), t("print.packing_list", lang), 18, lines=1, bold=True)
    if slip.number > 1:
        pen.badge(margin, margin + 9.5, (20, 5), _reprint_badge(slip, lang))
    if slip.waybill_no:
        pen.bars(margin + room * 0.45, margin, (room * 0.55, 16), slip.waybill_no)
    facts = t("print.order", lang, order=slip.order_no, shop=slip.shop)
    pen.text(margin, margin + 17, (room * 0.6, 5), facts, 10, lines=1, bold=True)
    way = " · ".join(part for part in (slip.warehouse, slip.carrier) if part)
    pen.text(margin + room * 0.6, margin + 17, (room * 0.4, 5), way, 10, lines=1, align="right")
    person = f"{slip.recipient.name}  {slip.recipient.phone}  {slip.recipient.place}"
    pen.text(margin, margin + 22.5, (room, 9), person, 9)
    y = margin + head - 7
    names = ("#", t("print.sku", lang), t("print.name", lang), t("print.quantity", lang))
    x = margin
    for name, part in zip(names, _COLUMNS, strict=True):
        align: Literal["left", "right"] = "right" if name == names[-1] else "left"
        pen.text(x, y, (room * part - 1, 6), name, 9, lines=1, bold=True, align=align)
        x += room * part
    pen.marks.append(Rule(margin, margin + head, room))


def _packing_row(
    pen: _Pen, number: int, good: Good, lang: str, at: tuple[float, float], room: tuple[float, float]
) -> None:
    x, y = at
    room_width, room_height = room
    names = [name for name in ((good.title_zh, good.title) if lang == "zh-CN" else (good.title, good.title_zh)) if name]
    widths = [room_width * part for part in _COLUMNS]
    pen.text(x, y, (widths[0] - 1, room_height), str(number), 9, lines=1)
    x += widths[0]
    pen.text(x, y, (widths[1] - 1, room_height), good.sku, 11, lines=2, bold=True)
    x += widths[1]
    gift = 12.0 if good.gift else 0.0
    for line, name in enumerate(names[:2]):
        pen.text(x, y + 0.5 + line * 5.2, (widths[2] - gift - 2, 4.6), name, 10 - 2 * line, lines=1)
    x += widths[2]
    if good.gift:
        pen.badge(x - gift, y + room_height * 0.22, (gift - 2, room_height * 0.56), t("print.gift", lang))
    pen.text(x, y, (widths[3] - 1, room_height), str(good.quantity), 14, lines=1, bold=True, align="right")
