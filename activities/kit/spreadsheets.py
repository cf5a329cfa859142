"""Spreadsheets, CSV and XLSX: read as text, written so that no cell runs as a formula."""

import csv
import io
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, time
from decimal import Decimal
from itertools import islice
from time import monotonic
from typing import Any, Literal

from models.base import Value

Format = Literal["csv", "xlsx"]
CONTENT_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}

MAX_BYTES = 10 * 1024 * 1024
MAX_UNPACKED = 64 * 1024 * 1024
"""The size of an XLSX, which is a zip archive, once unpacked."""
MAX_SHARED = 16 * 1024 * 1024
"""The unpacked size of each part of an XLSX other than a worksheet: they are read whole, the shared strings too."""
MAX_TAGS = 3_000_000
"""XML tags in an XLSX: parsing takes time by their number."""
MAX_SECONDS = 30.0
"""For reading a file."""
MAX_ROWS = 100_000
MAX_COLUMNS = 100
_LAST_ROW = 1_048_576
"""The row limit of XLSX. Rows that have only a format may extend to it."""

INVISIBLE = r"[\s\x00-\x1f\x7f-\xa0\xad\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufe00-\ufe0f\ufeff]"
_RUNS = rf"(?:{INVISIBLE}*[=+\-@＝＋－＠]|[\t\r\n\x0b\x0c])"
_FORMULA = re.compile(rf"'*{_RUNS}")
"""A cell that a spreadsheet program would run, or that looks like our guard against that."""
_GUARDED = re.compile(rf"'+{_RUNS}")


class UnreadableFile(Exception):
    """The file is not a spreadsheet, or is too large: a message key with its params."""

    def __init__(self, message: str, **params: object) -> None:
        super().__init__(message)
        self.message = message
        self.params = params


class Sheet(Value):
    """The headings, which are row 1, and each row that is not blank by its number in the file."""

    headings: tuple[str, ...]
    rows: dict[int, tuple[str, ...]]


def read(content: bytes) -> Sheet:
    """Read CSV, or the first worksheet of an XLSX, by its content. Raise ``UnreadableFile`` and nothing else."""
    if len(content) > MAX_BYTES:
        raise UnreadableFile("sheet.too_large", most=MAX_BYTES // 1024**2)
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise UnreadableFile("sheet.old_excel")
    records = _xlsx(content) if content.startswith(b"PK\x03\x04") else _csv(content)
    headings: tuple[str, ...] = ()
    rows: dict[int, tuple[str, ...]] = {}
    deadline = monotonic() + MAX_SECONDS
    for number, cells in enumerate(records, 1):
        if monotonic() > deadline:
            raise UnreadableFile("sheet.too_complex")
        if number == 1:
            headings = _trimmed(cells)
        elif filled := _trimmed(cells):
            rows[number] = filled
        if len(rows) > MAX_ROWS or number > _LAST_ROW:
            raise UnreadableFile("sheet.too_many_rows", most=MAX_ROWS)
    if not headings:
        raise UnreadableFile("sheet.empty")
    return Sheet(headings=headings, rows=rows)


def _trimmed(cells: list[str]) -> tuple[str, ...]:
    """Drop the blank cells at the end of a row."""
    while cells and not cells[-1]:
        cells.pop()
    return tuple(cells)


def _csv(content: bytes) -> Iterator[list[str]]:
    text = _decoded(content)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            yield [cell[1:] if _GUARDED.match(cell) else cell for cell in map(str.strip, cells[:MAX_COLUMNS])]
    except csv.Error:
        raise UnreadableFile("sheet.not_a_sheet") from None


def _decoded(content: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte order mark, or GB18030, in which Excel in China writes CSV."""
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "gb18030"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise UnreadableFile("sheet.not_a_sheet")


def _xlsx(content: bytes) -> Iterator[list[str]]:
    """Read values as the spreadsheet program saved them: of a formula its last result; nothing is run."""
    from openpyxl import load_workbook  # loaded on first use: it brings numpy

    try:
        _check_parts(content)
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        for cells in sheet.iter_rows(max_col=MAX_COLUMNS, values_only=True):
            yield [] if cells.count(None) == len(cells) else [_text(cell) for cell in cells]
    except (UnreadableFile, GeneratorExit):
        raise
    except Exception:  # the library raises errors of any type on malformed files
        raise UnreadableFile("sheet.not_a_sheet") from None


def _check_parts(content: bytes) -> None:
    """Raise ``UnreadableFile`` if an XLSX would take too much memory or time to parse."""
    tags = 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(part.file_size for part in archive.infolist()) > MAX_UNPACKED:
            raise UnreadableFile("sheet.too_complex")
        for part in archive.infolist():
            if part.file_size > MAX_SHARED and "worksheets/" not in part.filename:
                raise UnreadableFile("sheet.too_complex")
            with archive.open(part) as file:
                while chunk := file.read(1024 * 1024):
                    tags += chunk.count(b"<")
            if tags > MAX_TAGS:
                raise UnreadableFile("sheet.too_complex")


def _text(cell: object) -> str:
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case int() | float() | Decimal():
            return plain_number(Decimal(str(cell)))
        case datetime() if cell.time() == time():
            return cell.date().isoformat()
        case _:
            return str(cell).strip()


def plain_number(number: Decimal) -> str:
    """Format a number as people write it: ``59``, not ``59.0000`` or ``5.9E+1``."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def normalize_heading(heading: str) -> str:
    """Remove case, width, blanks and underscores, which do not distinguish headings."""
    return re.sub(r"[\s_]+", "", unicodedata.normalize("NFKC", heading).casefold())


def write(headings: Sequence[str], rows: Iterable[Sequence[Any]], format: Format) -> bytes:
    """Write texts, numbers, dates and times; ``None`` is blank."""
    return _to_csv(headings, rows) if format == "csv" else _to_xlsx(headings, rows)


def _to_csv(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Write UTF-8 with the byte order mark by which Excel recognises it."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(headings)
    for row in rows:
        writer.writerow([_guarded(cell) for cell in row])
    return file.getvalue().encode("utf-8-sig")


def _guarded(cell: Any) -> Any:
    if isinstance(cell, Decimal):
        return plain_number(cell)
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


_SAMPLE = 200
"""Rows that decide the width of the columns."""


def _to_xlsx(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    from openpyxl.styles import Font, PatternFill
    from openpyxl.utils import get_column_letter

    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.freeze_panes = "A2"
    rest = iter(rows)
    sample = [headings, *islice(rest, _SAMPLE)]
    for number, column in enumerate(zip(*sample, strict=True), 1):
        sheet.column_dimensions[get_column_letter(number)].width = min(max(map(_width, column)) + 2, 60)
    bold, grey = Font(bold=True), PatternFill("solid", fgColor="DDDDDD")

    def cell(value: Any) -> Any:
        """Keep text as text, even if it looks like a number or a formula."""
        if not isinstance(value, str):
            return Decimal(plain_number(value)) if isinstance(value, Decimal) else value
        text = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value))
        text.data_type = "s"
        text.number_format = "@"
        return text

    top = [cell(heading) for heading in headings]
    for each in top:
        each.font, each.fill = bold, grey
    sheet.append(top)
    for row in (*sample[1:], *rest):
        sheet.append([cell(value) for value in row])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _width(cell: object) -> int:
    """Return the display width of a cell: a Chinese character takes two columns."""
    text = "" if cell is None else str(cell)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)
