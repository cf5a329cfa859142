"""What a room says about a sheet that it lets staff import and export: a ``SheetDefinition``."""

import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StringConstraints
from pydantic_core import PydanticCustomError
from sqlalchemy import Select, String, Table, cast, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.spreadsheets import INVISIBLE
from activities.kit.sql import in_values, json_rows
from models.base import Value
from models.money import Amount
from models.stock import MAX_QUANTITY


class CellError(Value):
    """What is wrong with one cell, or with a whole column where ``row`` is 1."""

    row: int
    field: str
    """The column's name in the code; the heading in the file if the column is unknown."""
    message: str
    """The key of a text."""
    params: dict[str, JsonValue] = {}
    value: str = ""


@dataclass(frozen=True)
class ImportContext:
    """Who imports which file. Importing again with the same ``request_id`` moves no stock again."""

    request_id: str
    actor: str
    file: str


# Cell types


def _number(cell: Any) -> Any:
    """Accept full-width digits and thousands separators."""
    text = unicodedata.normalize("NFKC", cell) if isinstance(cell, str) else cell
    return (
        text.replace(",", "") if isinstance(text, str) and re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d*)?", text) else text
    )


_YES_OR_NO = {"是": True, "否": False, "有": True, "无": False}


def _day(cell: Any) -> Any:
    """Accept 2026-11-11, 2026/1/5 and 2026年1月5日, but no bare number."""
    if not isinstance(cell, str):
        return cell
    match = re.fullmatch(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?", cell)
    return "-".join(part.zfill(2) for part in match.groups()) if match else "?"


def _clock(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    match = re.fullmatch(r"(\d{1,2})[:：](\d{2})(?:[:：](\d{2}))?", cell)
    return ":".join((part or "0").zfill(2) for part in match.groups()) if match else "?"


def _words(cell: Any) -> Any:
    return tuple(filter(None, map(str.strip, re.split(r"[,，;；、]", cell)))) if isinstance(cell, str) else cell


def _json(cell: Any) -> Any:
    """Parse JSON. Leave anything else for the field's own type to refuse."""
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        return cell


_INVISIBLE = re.compile(INVISIBLE)
_SHORTENED = re.compile(r"[\d０-９]([.．][\d０-９]+)?[EeＥｅ][+＋]\d+")
"""A long number as a spreadsheet program shows it: ``6.90123E+12``."""


def _intact(code: str) -> str:
    """Refuse a code that a spreadsheet program has shortened, and one with characters that cannot be seen."""
    if _SHORTENED.fullmatch(code):
        raise PydanticCustomError("code_shortened", "shortened")
    if _INVISIBLE.search(code.replace(" ", "")):
        raise PydanticCustomError("code_invisible", "invisible")
    return code


def comparable(code: str) -> str:
    """Return a code without case and width: two codes that agree in it are taken for each other by people."""
    return unicodedata.normalize("NFKC", code).lower()


NUMBER = BeforeValidator(_number)
JSON = BeforeValidator(_json)
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Code = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$"),
    AfterValidator(_intact),
]
Count = Annotated[int, NUMBER, Field(ge=0, le=MAX_QUANTITY)]
PositiveCount = Annotated[int, NUMBER, Field(ge=1, le=MAX_QUANTITY)]
Rank = Annotated[int, NUMBER, Field(ge=0, le=1_000_000)]
Days = Annotated[int, NUMBER, Field(ge=0, le=365)]
Price = Annotated[Amount, NUMBER, Field(ge=0)]
Kilograms = Annotated[Decimal, NUMBER, Field(ge=0, max_digits=10, decimal_places=3)]
YesNo = Annotated[bool, BeforeValidator(lambda cell: _YES_OR_NO.get(cell, cell))]
Day = Annotated[date, BeforeValidator(_day)]
Clock = Annotated[time, BeforeValidator(_clock)]
Words = Annotated[tuple[Code, ...], BeforeValidator(_words), Field(max_length=100)]


# Definitions


class Line(Value):
    """One row of a sheet.

    A field with a default is an optional column. Without the column, existing rows keep their value; a blank cell sets
    the default.
    """


L = TypeVar("L", bound=Line)
Lines = Mapping[int, L]
"""Lines by row number."""


@dataclass(frozen=True)
class SheetDefinition(Generic[L]):
    """One kind of sheet. Its columns are the fields of ``line``; their headings are the texts ``column.{field}``."""

    line: type[L]
    key: tuple[str, ...]
    """The fields that identify a row: no two rows of a file may agree in all of them."""
    query: Select[Any]
    """Selects the rows to export. Its columns have the names of the fields."""
    examine: Callable[[AsyncConnection, Lines[L]], Awaitable[list[CellError]]]
    """Returns the cells that contradict the database. Locks taken here last until ``apply``."""
    apply: Callable[[AsyncConnection, Lines[L], ImportContext], Awaitable[None]]
    codes: tuple[str, Any] | None = None
    """The field whose codes the sheet creates, and the column that holds those known. A code that differs from another
    in case or width alone is refused."""
    group: str | None = None
    """Rows with the same value in this field are applied together or not at all."""


async def accept_all(connection: AsyncConnection, lines: Lines[Any]) -> list[CellError]:
    """Examine nothing: the cell types of the line are enough."""
    return []


async def known_values(connection: AsyncConnection, column: Any, values: Collection[str]) -> set[str]:
    """Return the values that the column contains."""
    return set(await connection.scalars(select(column).where(in_values(column, values)).distinct()))


async def similar_codes(
    connection: AsyncConnection, definition: SheetDefinition[L], lines: Lines[L]
) -> list[CellError]:
    """Return an error for each code that differs from a known one, or one further up, in case or width alone."""
    if definition.codes is None or not lines:
        return []
    field, column = definition.codes
    codes = {row: str(getattr(line, field)) for row, line in lines.items()}
    known_as = func.lower(func.normalize(column, text("NFKC")))
    query = select(column).where(in_values(known_as, {comparable(code) for code in codes.values()}))
    known: set[str] = set(await connection.scalars(query))
    spellings: dict[str, str] = {comparable(code): code for code in known}
    errors = []
    for row, code in codes.items():
        other = spellings.setdefault(comparable(code), code)
        if other != code and code not in known:
            errors.append(CellError(row=row, field=field, message="sheet.similar", params={"other": other}))
    return errors


async def unknown_values(
    connection: AsyncConnection, column: Any, message: str, cells: Iterable[tuple[int, str, str]]
) -> list[CellError]:
    """Return an error for each cell, given as (row, field, code), whose code the column does not contain."""
    cells = list(cells)
    known = await known_values(connection, column, {code for *_, code in cells})
    return [CellError(row=row, field=field, message=message) for row, field, code in cells if code not in known]


async def upsert(
    connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]], changing: Collection[str] = ()
) -> None:
    """Insert rows of JSON; of rows that exist, update the columns in ``changing`` and no others."""
    names, key = list(rows[0]), [each.name for each in table.primary_key]
    given = json_rows("rows", *(table.c[name] for name in names))
    new = insert(table).from_select(names, select(*given.c), include_defaults=False)
    changes = {name: new.excluded[name] for name in changing if name not in key}
    new = new.on_conflict_do_update(index_elements=key, set_=changes) if changes else new.on_conflict_do_nothing()
    await connection.execute(new, {"rows": rows})


def to_json(lines: Lines[Any]) -> list[dict[str, Any]]:
    return [each.model_dump(mode="json") for each in lines.values()]


def given_columns(lines: Lines[L]) -> set[str]:
    """Return the columns of the file, which all of its lines share."""
    return set(next(iter(lines.values())).model_fields_set) if lines else set()


def select_lines(table: Table, line: type[Line], *as_json: str) -> Select[Any]:
    """Select a table's rows as lines, the columns in ``as_json`` as JSON text."""
    columns = (
        cast(table.c[field], String).label(field) if field in as_json else table.c[field] for field in line.model_fields
    )
    return select(*columns).order_by(*table.primary_key)
