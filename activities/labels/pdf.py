"""Labels and packing lists as PDF, by reportlab, in Noto Sans SC (SIL Open Font License), which lies here."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import segno
from reportlab.graphics.barcode.code128 import Code128
from reportlab.lib.pagesizes import A5
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from activities.labels import masked
from models.address import Addressee
from models.i18n import t
from models.printing import Paper, Sheet

FONT = "NotoSansSC"
_MARGIN = 3 * mm
_SMALLEST = 5.5


@cache
def _signs() -> frozenset[int]:
    """What the font has a sign for, once it is known to reportlab."""
    font = TTFont(FONT, Path(__file__).parent / "NotoSansSC.ttf")
    pdfmetrics.registerFont(font)
    return frozenset(font.face.charToGlyph)


def labels(sheets: Sequence[Sheet], paper: Paper, lang: str) -> bytes:
    """One page a sheet: the way, the barcode, who and where, what; below the cut, the stub that stays."""
    width, height = (side * mm for side in paper.size)
    out = BytesIO()
    canvas = Canvas(out, pagesize=(width, height), pageCompression=1)
    for sheet in sheets:
        _Page(canvas, width, height, lang).label(sheet)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def packing_lists(sheets: Sequence[Sheet], lang: str) -> bytes:
    out = BytesIO()
    canvas = Canvas(out, pagesize=A5, pageCompression=1)
    for sheet in sheets:
        _Page(canvas, *A5, lang).packing_list(sheet)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


class _Page:
    """A page drawn from top to bottom."""

    def __init__(self, canvas: Canvas, width: float, height: float, lang: str) -> None:
        self.canvas, self.width, self.height, self.lang = canvas, width, height, lang
        _signs()
        self.left, self.right = _MARGIN, width - _MARGIN
        self.y = height - _MARGIN

    def label(self, sheet: Sheet) -> None:
        high = self.height > 160 * mm
        self._head(sheet)
        self._rule()
        told = sheet.label
        self._line(told.route or told.destination or sheet.recipient.city, 30 if high else 26)
        hub = "  ".join(part for part in (told.hub, told.origin and f"{told.origin} → {told.destination}") if part)
        if hub:
            self._line(hub, 11)
        self._rule()
        self._barcode(sheet.waybill_no, 17 * mm if high else 14 * mm)
        self._rule()
        self._person(t("label.to", self.lang), sheet.recipient, 12)
        self._person(t("label.from", self.lang), sheet.sender, 8)
        self._rule()
        if sheet.cash_on_delivery is not None:
            self._line(t("label.cash", self.lang, amount=f"{sheet.cash_on_delivery:.2f}"), 20)
            self._rule()
        self._goods(sheet, 27 * mm)
        self._cut()
        self._stub(sheet)

    def packing_list(self, sheet: Sheet) -> None:
        self.left, self.right = 12 * mm, self.width - 12 * mm
        self.y = self.height - 14 * mm
        self._line(t("label.packing_list", self.lang), 18)
        self._line(t("label.order", self.lang, order=sheet.order_no, shop=sheet.shop), 10)
        self._line(f"{sheet.carrier.upper()} {sheet.waybill_no}", 10)
        self._rule()
        for line in sheet.lines:
            self._columns(sheet.titles.get(line.sku) or line.sku, line.sku, f"× {line.quantity}")
        self._rule()
        pieces = sum(line.quantity for line in sheet.lines)
        self._line(t("label.pieces", self.lang, count=pieces), 10)

    def _head(self, sheet: Sheet) -> None:
        size = 15.0
        courier = (sheet.label.courier or sheet.carrier).upper()
        product = f"  {sheet.label.product}" if sheet.label.product else ""
        self._line(courier + product, size)
        if sheet.printed:
            again = t("label.again", self.lang, count=sheet.printed + 1)
            self._text(self.right - self._width(again, 9), self.y + 4, again, 9)

    def _person(self, who: str, person: Addressee, size: float) -> None:
        self._wrapped(f"{who}  {person.name}  {masked(person.national_phone)}", size, 1)
        place = " ".join(part for part in (person.province, person.city, person.district) if part)
        self._wrapped(f"{place} {person.full_street}", size, 3)

    def _goods(self, sheet: Sheet, height: float) -> None:
        """What is in it, and the carrier's own code to the right."""
        side = height - 4 * mm
        top = self.y
        self._qr(sheet.label.qr or sheet.waybill_no, self.right - side, top - side - 2 * mm, side)
        right, self.right = self.right, self.right - side - 3 * mm
        self._line(t("label.order", self.lang, order=sheet.order_no, shop=sheet.shop), 8)
        self._line(t("label.weight", self.lang, kg=f"{sheet.weight_kg:.2f}"), 8)
        shown = ", ".join(f"{line.sku} × {line.quantity}" for line in sheet.lines)
        self._wrapped(shown, 8, 3)
        self.right = right
        self.y = top - height

    def _stub(self, sheet: Sheet) -> None:
        self._barcode(sheet.waybill_no, 9 * mm)
        self._person(t("label.to", self.lang), sheet.recipient, 7)
        self._line(t("label.order", self.lang, order=sheet.order_no, shop=sheet.shop), 7)

    def _barcode(self, number: str, height: float) -> None:
        """Code 128, as wide as fits with quiet zones of ten modules, its number below."""
        space = self.right - self.left
        one = Code128(number, barWidth=1, barHeight=height, quiet=0)
        bar = min(space / (one.width + 20), 0.5 * mm)
        code = Code128(number, barWidth=bar, barHeight=height, quiet=0)
        code.drawOn(self.canvas, self.left + (space - code.width) / 2, self.y - height - 1.5 * mm)
        self.y -= height + 1.5 * mm
        spaced = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
        self.y -= 4 * mm
        self._text(self.left + (space - self._width(spaced, 10)) / 2, self.y, spaced, 10)
        self.y -= 1 * mm

    def _qr(self, content: str, x: float, y: float, side: float) -> None:
        code = segno.make(content, error="m", micro=False)
        matrix = [list(row) for row in code.matrix]
        module = side / len(matrix)
        self.canvas.setFillGray(0)
        for row, cells in enumerate(matrix):
            for column, dark in enumerate(cells):
                if dark:
                    top = y + side - (row + 1) * module
                    self.canvas.rect(x + column * module, top, module, module, stroke=0, fill=1)

    def _line(self, text: str, size: float) -> None:
        """One line, smaller where it would not fit."""
        while size > _SMALLEST and self._width(text, size) > self.right - self.left:
            size -= 0.5
        self.y -= size * 1.25
        self._text(self.left, self.y, text, size)

    def _wrapped(self, text: str, size: float, most: int) -> None:
        """As many lines as allowed; smaller until all of it fits."""
        while len(lines := self._broken(text, size)) > most and size > _SMALLEST:
            size -= 0.5
        for line in lines[:most]:
            self.y -= size * 1.25
            self._text(self.left, self.y, line, size)

    def _broken(self, text: str, size: float) -> list[str]:
        lines, line = [], ""
        for sign in text:
            if self._width(line + sign, size) > self.right - self.left:
                lines.append(line)
                line = sign.lstrip()
            else:
                line += sign
        return [*lines, line] if line else lines

    def _columns(self, *cells: str) -> None:
        size, space = 9, self.right - self.left
        self.y -= size * 1.7
        for share, cell in zip((0, 0.6, 0.88), cells, strict=True):
            shown, width = cell, space * (0.56 if share == 0 else 0.26)
            while shown and self._width(shown, size) > width:
                shown = shown[:-1]
            self._text(self.left + share * space, self.y, shown, size)

    def _rule(self) -> None:
        self.y -= 1.2 * mm
        self.canvas.setLineWidth(0.6)
        self.canvas.line(self.left, self.y, self.right, self.y)

    def _cut(self) -> None:
        self.y -= 1 * mm
        self.canvas.setDash(2, 2)
        self.canvas.line(0, self.y, self.width, self.y)
        self.canvas.setDash()

    def _width(self, text: str, size: float) -> float:
        return float(pdfmetrics.stringWidth(text, FONT, size))

    def _text(self, x: float, y: float, text: str, size: float) -> None:
        """What the font has no sign for is shown as one that is missing, not as nothing."""
        known = _signs()
        self.canvas.setFont(FONT, size)
        self.canvas.drawString(x, y, "".join(sign if ord(sign) in known else "〓" for sign in text))
