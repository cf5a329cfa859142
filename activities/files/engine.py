"""The import and export engine: parse a sheet, examine it against the database, apply all of it or nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.allocation import sheets as allocation_sheets
from activities.catalogue import sheets as catalogue_sheets
from activities.kit.sheets import CellError, ImportContext, L, Lines, SheetDefinition, similar_codes
from activities.kit.spreadsheets import Sheet, normalize_heading
from activities.stock import sheets as stock_sheets
from models.base import Value
from models.i18n import LANGUAGES, t

SHEETS: Mapping[str, SheetDefinition[Any]] = {
    "levels": stock_sheets.LEVELS,
    "safety": stock_sheets.SAFETY_STOCK,
    "skus": stock_sheets.SKUS,
    "bundles": catalogue_sheets.BUNDLES,
    "substitutes": catalogue_sheets.SUBSTITUTES,
    "locations": catalogue_sheets.LOCATIONS,
    "rates": allocation_sheets.RATES,
    "rules": allocation_sheets.RULES,
    "listings": stock_sheets.LISTINGS,
    "mappings": catalogue_sheets.MAPPINGS,
    "exchange_rates": catalogue_sheets.EXCHANGE_RATES,
}
"""Every definition by its name in the API. A new one also needs its column texts."""

MAX_ERRORS = 1000
"""Errors that a report lists; it counts the others."""


class ImportReport(Value):
    """The result of an import."""

    rows: int
    applied: int
    errors: tuple[CellError, ...]
    more: int
    """Errors beyond ``errors``."""


@dataclass(frozen=True)
class ParsedSheet(Generic[L]):
    """A file read by its definition."""

    definition: SheetDefinition[L]
    raw: Mapping[int, Mapping[str, str]]
    """The text of every row by field."""
    lines: Lines[L]
    """The valid rows."""
    errors: Sequence[CellError]


def parse(definition: SheetDefinition[L], sheet: Sheet) -> ParsedSheet[L]:
    """Parse every row, or none where a column is missing or unknown."""
    columns, errors = _find_columns(definition, sheet.headings)
    if errors:
        return ParsedSheet(definition, {row: {} for row in sheet.rows}, {}, errors)
    raw = {
        row: {field: cells[place] if place < len(cells) else "" for field, place in columns.items()}
        for row, cells in sheet.rows.items()
    }
    infos, places = definition.line.model_fields, set(columns.values())
    defaults = {name: infos[name].get_default() for name in columns if not infos[name].is_required()}
    lines: dict[int, L] = {}
    first_rows: dict[tuple[Any, ...], int] = {}
    for row, cells_by_field in raw.items():
        if any(cell for place, cell in enumerate(sheet.rows[row]) if place not in places):
            errors.append(CellError(row=row, field=definition.key[0], message="sheet.beyond"))
            continue
        try:
            given = {field: cell for field, cell in cells_by_field.items() if cell}
            line = definition.line.model_validate(defaults | given)
        except ValidationError as error:
            errors += [_cell_error(row, each) for each in error.errors(include_url=False)]
            continue
        if (first := first_rows.setdefault(tuple(getattr(line, name) for name in definition.key), row)) == row:
            lines[row] = line
        else:
            errors.append(CellError(row=row, field=definition.key[-1], message="sheet.twice", params={"other": first}))
    return ParsedSheet(definition, raw, lines, errors)


def _find_columns(definition: SheetDefinition[Any], headings: Sequence[str]) -> tuple[dict[str, int], list[CellError]]:
    """Return the position of each field. Headings may be in any language."""
    known = {
        normalize_heading(heading): field
        for field in definition.line.model_fields
        for heading in (field, *(t(f"column.{field}", lang) for lang in LANGUAGES))
    }
    columns: dict[str, int] = {}
    errors = []
    for place, heading in enumerate(headings):
        field = known.get(normalize_heading(heading))
        if field is None and heading:
            errors.append(CellError(row=1, field=heading[:80], message="sheet.unknown_column"))
        elif field in columns:
            errors.append(CellError(row=1, field=field, message="sheet.column_twice"))
        elif field:
            columns[field] = place
    required = [field for field, info in definition.line.model_fields.items() if info.is_required()]
    errors += [CellError(row=1, field=field, message="sheet.no_column") for field in required if field not in columns]
    return columns, errors


_MESSAGES: dict[str, str] = {
    "missing": "sheet.required",
    "string_too_short": "sheet.required",
    "string_too_long": "sheet.too_long",
    "int_parsing": "sheet.not_whole",
    "int_from_float": "sheet.not_whole",
    "decimal_parsing": "sheet.not_a_number",
    "decimal_type": "sheet.not_a_number",
    "finite_number": "sheet.not_a_number",
    "decimal_max_places": "sheet.too_fine",
    "greater_than_equal": "sheet.at_least",
    "less_than_equal": "sheet.at_most",
    "bool_parsing": "sheet.not_yes_or_no",
    "date_from_datetime_parsing": "sheet.not_a_day",
    "date_parsing": "sheet.not_a_day",
    "time_parsing": "sheet.not_a_clock",
    "enum": "sheet.one_of",
    "code_shortened": "sheet.shortened",
    "code_invisible": "sheet.invisible",
}
"""The text for each type of pydantic error."""


def _cell_error(row: int, error: ErrorDetails) -> CellError:
    params = {name: str(value) for name, value in error.get("ctx", {}).items()}
    message = _MESSAGES.get(error["type"], "sheet.unclear")
    return CellError(row=row, field=str(error["loc"][0]), message=message, params=params)


async def run_import(
    connection: AsyncConnection,
    parsed: ParsedSheet[L],
    context: ImportContext,
    *,
    partial: bool = False,
    check: bool = False,
) -> ImportReport:
    """Apply the valid lines if all are valid, or regardless if ``partial``. With ``check``, apply nothing."""
    valid, errors = dict(parsed.lines), list(parsed.errors)
    while True:  # dropping a row may invalidate others
        invalid = {each.row for each in errors}
        valid = {row: line for row, line in valid.items() if row not in invalid}
        new = (
            _broken_groups(parsed, valid, invalid)
            or await similar_codes(connection, parsed.definition, valid)
            or await parsed.definition.examine(connection, valid)
        )
        if not new:
            break
        errors += new
    applied = {} if check or (errors and not partial) else valid
    if applied:
        await parsed.definition.apply(connection, applied, context)
    errors.sort(key=lambda each: each.row)
    listed = [
        each.model_copy(update={"value": parsed.raw.get(each.row, {}).get(each.field, "")[:80]})
        for each in errors[:MAX_ERRORS]
    ]
    return ImportReport(
        rows=len(parsed.raw), applied=len(applied), errors=tuple(listed), more=len(errors) - len(listed)
    )


def _broken_groups(parsed: ParsedSheet[L], valid: Lines[L], invalid: Collection[int]) -> list[CellError]:
    """Return an error for each valid row whose group has an invalid one."""
    field = parsed.definition.group
    if field is None:
        return []
    broken = {parsed.raw[row].get(field) for row in invalid if row in parsed.raw}
    return [
        CellError(row=row, field=field, message="sheet.together") for row in valid if parsed.raw[row][field] in broken
    ]


async def export(connection: AsyncConnection, definition: SheetDefinition[Any]) -> list[list[Any]]:
    """Return all rows, with the cells in the order of the definition's columns."""
    rows = (await connection.execute(definition.query)).all()
    return [[row._mapping[field] for field in definition.line.model_fields] for row in rows]
