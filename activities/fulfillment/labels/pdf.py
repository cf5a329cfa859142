"""Draw pages as PDF."""

import io
from collections.abc import Mapping, Sequence
from itertools import groupby

import segno
from pypdf import PageObject, PdfWriter, Transformation
from reportlab.graphics.barcode.code128 import Code128
from reportlab.lib.colors import black, white
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from activities.fulfillment.labels.font import NAME, font
from activities.fulfillment.labels.layout import QUIET, Bars, Box, Mark, Page, Picture, Rule, Square, Text, narrow_bars

DOT = 0.125 * mm
"""One dot of a 203 dpi printer. A narrow bar of a barcode is one to four whole dots, as many as fit."""


def draw(pages: Sequence[Page | Picture]) -> bytes:
    """Return one file of all pages. Raise ``ValueError`` if a picture is unreadable."""
    font()
    file = io.BytesIO()
    canvas = Canvas(file, invariant=True)
    finished: dict[int, Picture] = {}
    for number, page in enumerate(pages):
        canvas.setPageSize((page.width * mm, page.height * mm))
        if isinstance(page, Page):
            for mark in page.marks:
                _draw(canvas, page.height * mm, mark)
        elif page.content.startswith(b"%PDF"):
            finished[number] = page
        else:
            _picture(canvas, page)
        canvas.showPage()
    canvas.save()
    return _insert_finished(file.getvalue(), finished) if finished else file.getvalue()


def merge(files: Sequence[bytes]) -> bytes:
    """Return the pages of several files as one file."""
    writer = PdfWriter()
    for file in files:
        writer.append(io.BytesIO(file))
    return _to_bytes(writer)


def _draw(canvas: Canvas, down: float, mark: Mark) -> None:
    match mark:
        case Text():
            _text(canvas, down, mark)
        case Bars(x, y, width, height, content):
            dots = max(1, min(4, int(width * mm / (narrow_bars(content) + 2 * QUIET) / DOT)))
            bars = Code128(content, barWidth=dots * DOT, barHeight=height * mm, quiet=False)
            bars.drawOn(canvas, x * mm + (width * mm - bars.width) / 2, down - (y + height) * mm)
        case Square(x, y, side, content):
            _square(canvas, x * mm, down - y * mm, side * mm, content)
        case Box(x, y, width, height):
            canvas.rect(x * mm, down - (y + height) * mm, width * mm, height * mm, stroke=0, fill=1)
        case Rule(x, y, width, dotted):
            canvas.setLineWidth(0.2 * mm)
            canvas.setDash((1.5, 1.5) if dotted else ())
            canvas.line(x * mm, down - y * mm, (x + width) * mm, down - y * mm)


def _text(canvas: Canvas, down: float, mark: Text) -> None:
    """Draw a line of text; bold is the regular face with an outline."""
    line = canvas.beginText(mark.x * mm, down - mark.y * mm)
    line.setFont(NAME, mark.size)
    colour = white if mark.white else black
    line.setFillColor(colour)
    line.setStrokeColor(colour)
    line.setTextRenderMode(2 if mark.bold else 0)
    canvas.setDash()
    canvas.setLineWidth(mark.size * 0.03)
    line.textOut(mark.text)
    line.setTextRenderMode(0)
    line.setFillColor(black)
    line.setStrokeColor(black)
    canvas.drawText(line)


def _square(canvas: Canvas, left: float, top: float, side: float, content: str) -> None:
    rows = tuple(segno.make(content, error="m", micro=False, boost_error=False).matrix)
    module = side / len(rows)
    path = canvas.beginPath()
    for down, row in enumerate(rows, 1):
        across = 0
        for dark, run in groupby(row):
            length = len(list(run))
            if dark:
                path.rect(left + across * module, top - down * module, length * module, module)
            across += length
    canvas.drawPath(path, stroke=0, fill=1)


def _picture(canvas: Canvas, picture: Picture) -> None:
    try:
        image = ImageReader(io.BytesIO(picture.content))
    except Exception as error:  # Pillow raises any error of its readers
        raise ValueError("neither PDF, PNG nor JPEG") from error
    width, height = picture.width * mm, picture.height * mm
    canvas.drawImage(image, 0, 0, width, height, preserveAspectRatio=True, anchor="c", mask="auto")


def _insert_finished(file: bytes, finished: Mapping[int, Picture]) -> bytes:
    """Insert the first page of each finished PDF at its page number, scaled to fit."""
    writer = PdfWriter(clone_from=io.BytesIO(file))
    for number, picture in finished.items():
        page = _first_page(picture.content)
        width, height = picture.width * mm, picture.height * mm
        scale = min(width / float(page.mediabox.width), height / float(page.mediabox.height))
        left = (width - float(page.mediabox.width) * scale) / 2 - float(page.mediabox.left) * scale
        bottom = (height - float(page.mediabox.height) * scale) / 2 - float(page.mediabox.bottom) * scale
        writer.pages[number].merge_transformed_page(page, Transformation().scale(scale).translate(left, bottom))
    return _to_bytes(writer)


def _first_page(content: bytes) -> PageObject:
    try:
        page = PdfWriter(clone_from=io.BytesIO(content)).pages[0]
        page.transfer_rotation_to_content()
    except Exception as error:  # pypdf raises many kinds of errors for invalid files
        raise ValueError("no PDF") from error
    return page


def _to_bytes(writer: PdfWriter) -> bytes:
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()
