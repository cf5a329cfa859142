"""Spreadsheets as people make them, and malformed ones."""

import csv
import io
import zipfile
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from activities.files.engine import SHEETS, parse
from activities.kit import spreadsheets
from activities.kit.spreadsheets import Sheet, UnreadableFile, read, write

MIDNIGHT = datetime(2026, 11, 11)  # noqa: DTZ001 - a cell has no zone
HEADS = ("sku", "title", "price", "weight_kg")


def xlsx(*rows: Any, **parts: bytes) -> bytes:
    """Return a workbook of these rows; ``parts`` replace files of the zip."""
    book = Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    if not parts:
        return file.getvalue()
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            stem = info.filename.rsplit("/", 1)[-1].removesuffix(".xml")
            new.writestr(info.filename, parts.get(stem, old.read(info)))
    return changed.getvalue()


def sheet(rows: str) -> bytes:
    """Return the XML of a worksheet."""
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return f'<worksheet xmlns="{space}"><sheetData>{rows}</sheetData></worksheet>'.encode()


def refused(content: bytes) -> str:
    with pytest.raises(UnreadableFile) as error:
        read(content)
    return error.value.message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_csv_that_excel_writes_is_read(encoding: str, delimiter: str, end: str) -> None:
    text = end.join(
        delimiter.join(row) for row in (("商品编码", "实物"), ("甲1", " 3 "), ("", ""), ('"a""b,c;d"', "4"))
    )
    expected = Sheet(headings=("商品编码", "实物"), rows={2: ("甲1", "3"), 4: ('a"b,c;d', "4")})
    assert read(text.encode(encoding)) == expected


def test_excel_cells_become_text() -> None:
    row = (
        1001,
        59.0,
        0.1,
        True,
        date(2026, 11, 11),
        MIDNIGHT,
        time(16, 30),
        None,
        "007",
        Decimal("1E+2"),
    )
    expected = ("1001", "59", "0.1", "true", "2026-11-11", "2026-11-11", "16:30:00", "", "007", "100")
    assert read(xlsx(["a"] * 10, row)).rows[2] == expected


def test_formula_is_not_run() -> None:
    """The last result is read; a file not written by a spreadsheet program has none."""
    assert read(xlsx(["a", "b"], ["=1+1", 2])).rows == {2: ("", "2")}
    cached = sheet('<row r="1"><c r="A1"><v>1</v></c></row><row r="2"><c r="A2"><f>1+1</f><v>7</v></c></row>')
    assert read(xlsx(["a"], sheet1=cached)).rows == {2: ("7",)}


def test_unreadable_file_is_refused_with_its_reason() -> None:
    assert refused(b"") == refused(b"\n\n1,2") == refused(b" , \n1,2") == "sheet.empty"
    assert refused(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") == "sheet.old_excel"
    assert (
        refused(b"a,b\n\x00,1") == refused(b"\xff\xff\x00") == refused(b'a\n"' + b"x" * 200_000) == "sheet.not_a_sheet"
    )
    assert refused(b"x" * (spreadsheets.MAX_BYTES + 1)) == "sheet.too_large"
    assert refused(b"sku\n" + b"1\n" * (spreadsheets.MAX_ROWS + 1)) == "sheet.too_many_rows"
    whole = xlsx(["sku"], ["1"])
    assert refused(whole[: len(whole) // 2]) == refused(b"PK\x03\x04") == "sheet.not_a_sheet"
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as parts:
        parts.writestr("word/document.xml", "<w/>")
    assert refused(other.getvalue()) == "sheet.not_a_sheet"


def test_decompression_and_entity_bombs_are_refused() -> None:
    padded = xlsx(["sku"], theme1=b" " * (spreadsheets.MAX_UNPACKED + 1))
    assert len(padded) < 1024 * 1024
    assert refused(padded) == "sheet.too_complex"
    far = sheet('<row r="1"><c r="A1"><v>1</v></c></row><row r="99999999999"><c r="A99999999999"><v>1</v></c></row>')
    assert refused(xlsx(["sku"], sheet1=far)) in {"sheet.too_many_rows", "sheet.not_a_sheet"}
    laughs = b'<!DOCTYPE x [<!ENTITY a "ha">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + each, b"&%c;" % (97 + each) * 20) for each in range(12)
    )
    bomb = laughs + b"]>" + sheet('<row r="1"><c r="A1" t="inlineStr"><is><t>&m;</t></is></c></row>')
    assert refused(xlsx(["sku"], sheet1=bomb)) == "sheet.not_a_sheet"


def test_workbook_that_takes_long_to_parse_is_refused_before_it_is_parsed() -> None:
    cells = "<c/>" * (spreadsheets.MAX_TAGS + 1)
    parts = {
        "one row": {"sheet1": sheet(f'<row r="1">{cells}</row>')},
        "strings": {"sharedStrings": f"<sst>{'<si><t/></si>' * (spreadsheets.MAX_TAGS // 3)}</sst>".encode()},
        "long strings": {"theme1": b"<a>" + b"x" * spreadsheets.MAX_SHARED + b"</a>"},
    }
    for name, changed in parts.items():
        content = xlsx(["sku"], **changed)
        if name == "strings":
            content = _with_part(content, "xl/sharedStrings.xml", changed["sharedStrings"])
        assert len(content) < 1024 * 1024, name
        assert refused(content) == "sheet.too_complex", name


def _with_part(workbook: bytes, name: str, part: bytes) -> bytes:
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook)) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if info.filename != name:
                new.writestr(info.filename, old.read(info))
        new.writestr(name, part)
    return changed.getvalue()


def test_reading_ends_at_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheets, "MAX_SECONDS", -1.0)
    assert refused(b"sku\nA001\n") == refused(xlsx(["sku"], ["A001"])) == "sheet.too_complex"


BEFORE = [
    "",
    "\n",
    "\r",
    "\t",
    "\x0b",
    "\x0c",
    " ",
    "\u3000",
    "\u200b",
    "\u200d\n",
    "\ufeff",
    "\u2060",
    "\xad",
    "'",
    "''",
]


@pytest.mark.parametrize("before", BEFORE)
def test_csv_cell_never_starts_as_a_formula(before: str) -> None:
    for sign in "=+-@＝＋－＠":
        cell = f"{before}{sign}1+1"
        content = spreadsheets.write(["a"], [[cell]], "csv")
        assert content.decode("utf-8-sig").split("\r\n", 1)[1].lstrip('"').startswith("'"), repr(cell)
        assert read(content).rows[2] == (cell,)


CODES = {
    "6.90123E+12": "sheet.shortened",
    "6,90123E+12": None,
    "1e+5": "sheet.shortened",
    "６.９E+１２": "sheet.shortened",
    "A\u200b001": "sheet.invisible",
    "A001\u202e": "sheet.invisible",
    "A\xa0001": "sheet.invisible",
    "A\ufeff1": "sheet.invisible",
    "A 001": None,
    "E+1": None,
    "6901234567892": None,
}


@pytest.mark.parametrize(("code", "message"), CODES.items())
def test_mangled_code_is_refused_in_every_sheet(code: str, message: str | None) -> None:
    fields = 0
    for name, definition in SHEETS.items():
        infos = definition.line.model_fields
        required = {key: "1" for key, info in infos.items() if info.is_required()}
        for field in (key for key, info in infos.items() if "_intact" in repr(info.metadata)):
            line = required | {field: code}
            parsed = parse(definition, Sheet(headings=tuple(line), rows={2: tuple(line.values())}))
            found = {error.message for error in parsed.errors if error.field == field}
            assert found == ({message} if message else set()), (name, field)
            fields += 1
    assert fields >= len(SHEETS)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\x03\x04", b"\xff\xfe", b"\xef\xbb\xbf", b"sku,on_hand\n"]))
def test_random_bytes_are_read_or_refused(content: bytes, start: bytes) -> None:
    try:
        sheet_ = read(start + content)
    except UnreadableFile as error:
        assert error.message.startswith("sheet.")  # noqa: PT017
    else:
        for definition in SHEETS.values():
            parse(definition, sheet_)


WORKBOOK = xlsx(HEADS, ["A001", "Tee", 59, 0.2])
"""Created once, because a workbook contains its creation time."""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_workbook_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(WORKBOOK)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)):
        whole[place] = data.draw(st.integers(0, 255))
    try:
        read(bytes(whole))
    except UnreadableFile:
        return


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=4, max_size=4))
def test_every_cell_is_parsed_or_reported(cells: list[str]) -> None:
    for kind in SHEETS.values():
        fields = tuple(kind.line.model_fields)
        row = tuple((cells * len(fields))[: len(fields)])
        parsed = parse(kind, Sheet(headings=fields, rows={2: row}))
        assert bool(parsed.lines) != bool(parsed.errors)


DANGEROUS = ("=1+1", "+1", "-1", "@SUM(A1)", "'=1+1", "''-x", "＝1+1", '=HYPERLINK("http://x","y")')


def test_no_cell_runs_as_a_formula() -> None:
    rows = [[each, 1] for each in DANGEROUS]
    written = list(csv.reader(io.StringIO(write(["a", "b"], rows, "csv").decode("utf-8-sig"))))
    assert [row[0] for row in written[1:]] == [f"'{each}" for each in DANGEROUS]
    book = load_workbook(io.BytesIO(write(["=a", "b"], rows, "xlsx")))
    assert book.active is not None
    assert {row[0].data_type for row in book.active.iter_rows()} == {"s"}


TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8) | st.sampled_from(DANGEROUS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), st.sampled_from(["csv", "xlsx"]))
def test_texts_survive_a_round_trip(rows: list[tuple[str, str]], format: spreadsheets.Format) -> None:
    again = read(write(["a", "b"], rows, format))
    assert [(*row, "")[:2] for row in again.rows.values()] == [row for row in rows if any(row)]


def test_numbers_and_dates_keep_their_type() -> None:
    row = [Decimal("59.0000"), Decimal("-0.5"), 7, date(2026, 11, 11), time(16, 30), None, "007", "6901234567890"]
    heads = ["价格", "b", "c", "d", "e", "f", "g", "h"]
    assert write(heads, [row], "csv").decode("utf-8-sig").splitlines()[1] == (
        "59,-0.5,7,2026-11-11,16:30:00,,007,6901234567890"
    )
    book = load_workbook(io.BytesIO(write(heads, [row], "xlsx")))
    sheet = book.active
    assert sheet is not None
    values = [cell.value for cell in sheet[2]]
    assert values == [59, -0.5, 7, MIDNIGHT, time(16, 30), None, "007", "6901234567890"]
    assert sheet.freeze_panes == "A2"
    assert sheet["A1"].font.bold
    assert sheet.column_dimensions["H"].width > sheet.column_dimensions["C"].width


def errors(kind: str, heads: str, *rows: str) -> list[tuple[int, str, str]]:
    sheet_ = read("\n".join([heads, *rows]).encode())
    return [(each.row, each.field, each.message.removeprefix("sheet.")) for each in parse(SHEETS[kind], sheet_).errors]


def test_columns_are_found_by_any_heading() -> None:
    for heads in ("warehouse,sku,on_hand", "On Hand ,SKU,WAREHOUSE", "实物,商品编码,仓库", " 仓 库 ,ｓｋｕ,onhand"):
        assert errors("levels", heads) == []
    assert errors("levels", "warehouse,sku,SKU,colour", "SH,A,A,red") == [
        (1, "sku", "column_twice"),
        (1, "colour", "unknown_column"),
        (1, "on_hand", "no_column"),
    ]


def test_cells_are_parsed_as_people_write_them() -> None:
    heads = "sku,title,price,weight_kg,needs,oversell,presale_on"
    rows = (
        'A,T,"1,299.50",０.５,cold_chain；dangerous_goods,是,2026年1月5日',
        "B,T,59.00,1,,no,2026/11/11",
        "C,T,0,0,,,",
    )
    lines = parse(SHEETS["skus"], read("\n".join([heads, *rows]).encode())).lines.values()
    assert [(each.price, each.oversell, each.presale_on) for each in lines] == [
        (Decimal("1299.50"), True, date(2026, 1, 5)),
        (Decimal(59), False, date(2026, 11, 11)),
        (Decimal(0), False, None),
    ]
    assert next(iter(lines)).needs == ("cold_chain", "dangerous_goods")


def test_each_invalid_cell_is_reported() -> None:
    heads = "sku,title,price,weight_kg,currency,oversell,presale_on,volume_cm3"
    assert errors(
        "skus",
        heads,
        "A,T,-1,1.2345,yuan,maybe,tomorrow,1.5",
        f"{'x' * 65},,NaN,heavy,CNY,1,86400,99999999999",
    ) == [
        (2, "price", "at_least"),
        (2, "currency", "unclear"),
        (2, "weight_kg", "too_fine"),
        (2, "volume_cm3", "not_whole"),
        (2, "oversell", "not_yes_or_no"),
        (2, "presale_on", "not_a_day"),
        (3, "sku", "too_long"),
        (3, "title", "required"),
        (3, "price", "not_a_number"),
        (3, "weight_kg", "not_a_number"),
        (3, "volume_cm3", "at_most"),
        (3, "presale_on", "not_a_day"),
    ]
    assert errors("levels", "warehouse,sku,on_hand", "SH,A001,1,200", "SH,A002,1,,") == [(2, "warehouse", "beyond")]
    needed = "code,name,province,carrier,cutoff,kind"
    assert errors("locations", needed, "X,N,P,sf,54000,shed", "Y,N,P,sf,25:00,store") == [
        (2, "kind", "one_of"),
        (2, "cutoff", "not_a_clock"),
        (3, "cutoff", "not_a_clock"),
    ]
