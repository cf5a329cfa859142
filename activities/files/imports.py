"""What may be imported and exported as a sheet: one entry of ``KINDS`` each.

A file is read into lines of its kind, row by row; what is wrong is told by row and column. Then the good lines are held
against what the database knows, under the locks that keep it so, and applied: all together, or nothing.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BeforeValidator, Field, JsonValue, StringConstraints, ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy import ARRAY, Select, String, any_, bindparam, cast, column, delete, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.allocation import rules_and_rates
from activities.catalogue import sku_mapping
from activities.catalogue.skus import lock_skus
from activities.kit.spreadsheets import Sheet, normal
from activities.stock import ledger, stock_sync, waitlist
from activities.stock.ledger import MAX_QUANTITY
from models.allocation import Action, Condition
from models.base import Value
from models.i18n import LANGUAGES, t
from models.listings import Mapping as SkuMapping
from models.listings import join_ids
from models.money import Amount, Currency
from models.stock import Audience, Level, LocationKind, Move, MovementKind

_tables = SQLModel.metadata.tables
_skus, _bundles, _warehouses = _tables["skus"], _tables["bundles"], _tables["warehouses"]
_levels, _substitutes = _tables["stock_levels"], _tables["substitutes"]
_rates, _rules, _listings = _tables["rates"], _tables["routing_rules"], _tables["listings"]

MAX_FAULTS = 1000
"""So many are told; who has more begins with these."""
_CHUNK = 10_000


class Fault(Value):
    """What is wrong with one cell, or with a whole column where ``row`` is 1."""

    row: int
    field: str
    """The column's name in the code; of an unknown column, its head in the file."""
    message: str
    params: dict[str, JsonValue] = {}
    value: str = ""


class Report(Value):
    """What became of a file."""

    rows: int
    applied: int
    errors: tuple[Fault, ...]
    more: int
    """Errors beyond ``errors``."""


@dataclass(frozen=True)
class Act:
    """Who imports what: the same ``request_id`` again moves no stock again."""

    request_id: str
    actor: str
    file: str


# What a cell may say


def _number(cell: Any) -> Any:
    """Full-width digits and thousands separators are a person's way of writing a number."""
    text = unicodedata.normalize("NFKC", cell) if isinstance(cell, str) else cell
    return (
        text.replace(",", "") if isinstance(text, str) and re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d*)?", text) else text
    )


_YES_OR_NO = {"是": True, "否": False, "有": True, "无": False}


def _day(cell: Any) -> Any:
    """2026-11-11, 2026/1/5, 2026年1月5日; a bare number is no day."""
    if not isinstance(cell, str):
        return cell
    found = re.fullmatch(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?", cell)
    return "-".join(part.zfill(2) for part in found.groups()) if found else "?"


def _clock(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    found = re.fullmatch(r"(\d{1,2})[:：](\d{2})(?:[:：](\d{2}))?", cell)
    return ":".join((part or "0").zfill(2) for part in found.groups()) if found else "?"


def _words(cell: Any) -> Any:
    return tuple(filter(None, map(str.strip, re.split(r"[,，;；、]", cell)))) if isinstance(cell, str) else cell


def _document(cell: Any) -> Any:
    """JSON in a cell; what is not JSON is left for its field to refuse."""
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        return cell


Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Code = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[int, BeforeValidator(_number), Field(ge=0, le=MAX_QUANTITY)]
Some = Annotated[int, BeforeValidator(_number), Field(ge=1, le=MAX_QUANTITY)]
Price = Annotated[Amount, BeforeValidator(_number), Field(ge=0)]
Kilograms = Annotated[Decimal, BeforeValidator(_number), Field(ge=0, max_digits=10, decimal_places=3)]
YesNo = Annotated[bool, BeforeValidator(lambda cell: _YES_OR_NO.get(cell, cell))]
Day = Annotated[date, BeforeValidator(_day)]
Clock = Annotated[time, BeforeValidator(_clock)]
Words = Annotated[tuple[Code, ...], BeforeValidator(_words), Field(max_length=100)]


class Line(Value):
    """One row of a sheet. A field with a default is a column that may be left out: what was there then stays; a blank
    cell sets the default."""


L = TypeVar("L", bound=Line)
Lines = Mapping[int, L]
"""By the number of the row."""


@dataclass(frozen=True)
class Kind(Generic[L]):
    """One kind of sheet. Its columns are the fields of ``line``, whose heads are the texts ``column.{field}``."""

    line: type[L]
    key: tuple[str, ...]
    """Two rows of a file may not agree in all of these."""
    query: Select[Any]
    """What is exported: its columns are named as the fields."""
    examine: Callable[[AsyncConnection, Lines[L]], Awaitable[list[Fault]]]
    """What of it the database contradicts; what it locks stays so until ``apply``."""
    apply: Callable[[AsyncConnection, Lines[L], Act], Awaitable[None]]
    together: str | None = None
    """Rows that agree in this are applied together, or none of them is."""


# A file


@dataclass(frozen=True)
class Understood(Generic[L]):
    """A sheet in the terms of its kind."""

    kind: Kind[L]
    raw: Mapping[int, Mapping[str, str]]
    """Every row, as it is written."""
    lines: Lines[L]
    """The rows that are well."""
    faults: Sequence[Fault]


def understand(kind: Kind[L], sheet: Sheet) -> Understood[L]:
    """Reads every row; where a column is missing or unknown, none."""
    columns, faults = _columns(kind, sheet.heads)
    if faults:
        return Understood(kind, {row: {} for row in sheet.rows}, {}, faults)
    raw = {
        row: {field: cells[place] if place < len(cells) else "" for field, place in columns.items()}
        for row, cells in sheet.rows.items()
    }
    infos, places = kind.line.model_fields, set(columns.values())
    defaults = {name: infos[name].get_default() for name in columns if not infos[name].is_required()}
    lines: dict[int, L] = {}
    first: dict[tuple[Any, ...], int] = {}
    for row, cells_of in raw.items():
        if any(cell for place, cell in enumerate(sheet.rows[row]) if place not in places):
            faults.append(Fault(row=row, field=kind.key[0], message="sheet.beyond"))
            continue
        try:
            line = kind.line.model_validate(defaults | {field: cell for field, cell in cells_of.items() if cell})
        except ValidationError as error:
            faults += [_fault(row, each) for each in error.errors(include_url=False)]
            continue
        if (other := first.setdefault(tuple(getattr(line, name) for name in kind.key), row)) == row:
            lines[row] = line
        else:
            faults.append(Fault(row=row, field=kind.key[-1], message="sheet.twice", params={"other": other}))
    return Understood(kind, raw, lines, faults)


def _columns(kind: Kind[Any], heads: Sequence[str]) -> tuple[dict[str, int], list[Fault]]:
    """Where each field is. Heads are understood in any language."""
    known = {
        normal(head): field
        for field in kind.line.model_fields
        for head in (field, *(t(f"column.{field}", lang) for lang in LANGUAGES))
    }
    columns: dict[str, int] = {}
    faults = []
    for place, head in enumerate(heads):
        field = known.get(normal(head))
        if field is None and head:
            faults.append(Fault(row=1, field=head[:80], message="sheet.unknown_column"))
        elif field in columns:
            faults.append(Fault(row=1, field=field, message="sheet.column_twice"))
        elif field:
            columns[field] = place
    needed = [field for field, info in kind.line.model_fields.items() if info.is_required()]
    faults += [Fault(row=1, field=field, message="sheet.no_column") for field in needed if field not in columns]
    return columns, faults


_TOLD: dict[str, str] = {
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
}
"""What pydantic's errors are to a person."""


def _fault(row: int, error: ErrorDetails) -> Fault:
    params = {name: str(value) for name, value in error.get("ctx", {}).items()}
    return Fault(row=row, field=str(error["loc"][0]), message=_TOLD.get(error["type"], "sheet.unclear"), params=params)


async def load(
    connection: AsyncConnection, told: Understood[L], act: Act, *, partial: bool = False, check: bool = False
) -> Report:
    """Applies the lines that are well: only if all are, unless ``partial``. To ``check`` is to apply nothing."""
    good, faults = dict(told.lines), list(told.faults)
    found: Collection[Fault] = faults
    while True:  # what leans on a row that falls away may fall with it
        bad = {each.row for each in faults}
        good = {row: line for row, line in good.items() if row not in bad}
        found = _left_alone(told, good, bad) or await told.kind.examine(connection, good)
        if not found:
            break
        faults += found
    applied = {} if check or (faults and not partial) else good
    if applied:
        await told.kind.apply(connection, applied, act)
    faults.sort(key=lambda each: each.row)
    errors = [
        each.model_copy(update={"value": told.raw.get(each.row, {}).get(each.field, "")[:80]})
        for each in faults[:MAX_FAULTS]
    ]
    return Report(rows=len(told.raw), applied=len(applied), errors=tuple(errors), more=len(faults) - len(errors))


def _left_alone(told: Understood[L], good: Lines[L], bad: Collection[int]) -> list[Fault]:
    """Good rows that belong together with a bad one."""
    field = told.kind.together
    if field is None:
        return []
    spoilt = {told.raw[row].get(field) for row in bad if row in told.raw}
    return [Fault(row=row, field=field, message="sheet.together") for row in good if told.raw[row][field] in spoilt]


async def dump(connection: AsyncConnection, kind: Kind[Any]) -> list[list[Any]]:
    """Everything there is of a kind, as its columns."""
    rows = (await connection.execute(kind.query)).all()
    return [[row._mapping[field] for field in kind.line.model_fields] for row in rows]


# What the database knows


def _any(column: Any, values: Collection[str]) -> Any:
    """``column IN values``, however many they are."""
    return column == any_(cast(list(values), ARRAY(String)))


async def _known(connection: AsyncConnection, column: Any, values: Collection[str]) -> set[str]:
    return set(await connection.scalars(select(column).where(_any(column, values)).distinct()))


async def _unknown(
    connection: AsyncConnection, column: Any, message: str, cells: Iterable[tuple[int, str, str]]
) -> list[Fault]:
    """A fault for each cell, given as (row, field, code), that names what is not there."""
    cells = list(cells)
    known = await _known(connection, column, {code for *_, code in cells})
    return [Fault(row=row, field=field, message=message) for row, field, code in cells if code not in known]


async def _lock_skus(connection: AsyncConnection, skus: Collection[str]) -> None:
    ordered = sorted(set(skus))
    for start in range(0, len(ordered), _CHUNK):
        await lock_skus(connection, ordered[start : start + _CHUNK])


async def _wake(connection: AsyncConnection, skus: Collection[str], act: Act) -> None:
    ordered = sorted(skus)
    for start in range(0, len(ordered), _CHUNK):
        await waitlist.notify_waiting_orders(
            connection, ordered[start : start + _CHUNK], f"import:{act.request_id}:{start}"
        )


def _told(table: Any, names: Iterable[str]) -> Any:
    """Rows that are given as ``rows``, with these columns of a table: one parameter, however many they are."""
    told = func.jsonb_to_recordset(bindparam("rows", type_=JSONB))
    columns = [column(name, table.c[name].type) for name in names]
    return told.table_valued(*columns).render_derived(name="told", with_types=True)


async def _write(
    connection: AsyncConnection, table: Any, rows: Sequence[Mapping[str, Any]], given: Collection[str] = ()
) -> None:
    """Writes rows of JSON; those that are there already change in what was given, and in nothing else."""
    names, key = list(rows[0]), [each.name for each in table.primary_key]
    told = _told(table, names)
    new = insert(table).from_select(names, select(*told.c), include_defaults=False)
    changed = {name: new.excluded[name] for name in given if name not in key}
    new = new.on_conflict_do_update(index_elements=key, set_=changed) if changed else new.on_conflict_do_nothing()
    await connection.execute(new, {"rows": rows})


def _json(lines: Lines[Any]) -> list[dict[str, Any]]:
    return [each.model_dump(mode="json") for each in lines.values()]


def _given(lines: Lines[L]) -> set[str]:
    """The columns that the file has: of all its lines the same."""
    return set(next(iter(lines.values())).model_fields_set) if lines else set()


def _query(table: Any, line: type[Line]) -> Select[Any]:
    return select(*(table.c[field] for field in line.model_fields)).order_by(*table.primary_key)


# Levels


class PlaceLine(Line):
    """Something of a SKU at a location."""

    warehouse: Code
    sku: Code


P = TypeVar("P", bound=PlaceLine)


class LevelLine(PlaceLine):
    on_hand: Count


class SafetyLine(PlaceLine):
    safety_stock: Count


async def _places(connection: AsyncConnection, lines: Lines[P]) -> dict[int, Level]:
    """The level of each line, locked; where there is none yet, the empty one that it begins with."""
    skus = {each.sku for each in lines.values()}
    await _lock_skus(connection, skus)
    query = select(_levels).where(
        _any(_levels.c.sku, skus), _any(_levels.c.warehouse, {each.warehouse for each in lines.values()})
    )
    there = {
        (row.warehouse, row.sku): Level.model_validate(row._mapping)
        for row in await connection.execute(query.order_by(*_levels.primary_key).with_for_update())
    }
    oversold = set(await connection.scalars(select(_skus.c.sku).where(_any(_skus.c.sku, skus), _skus.c.oversell)))
    return {
        row: there.get((each.warehouse, each.sku))
        or Level(warehouse=each.warehouse, sku=each.sku, oversell=each.sku in oversold)
        for row, each in lines.items()
    }


async def _examine_places(connection: AsyncConnection, lines: Lines[P]) -> list[Fault]:
    faults = await _unknown(
        connection,
        _warehouses.c.code,
        "sheet.no_location",
        ((row, "warehouse", each.warehouse) for row, each in lines.items()),
    )
    faults += await _unknown(
        connection, _skus.c.sku, "sheet.no_sku", ((row, "sku", each.sku) for row, each in lines.items())
    )
    bundles = await _known(connection, _bundles.c.bundle, {each.sku for each in lines.values()})
    faults += [
        Fault(row=row, field="sku", message="sheet.is_bundle") for row, each in lines.items() if each.sku in bundles
    ]
    if faults:
        return faults
    for row, level in (await _places(connection, lines)).items():
        after = level.model_copy(update=lines[row].model_dump())
        if after.available < 0 and not level.oversell:
            (field,) = lines[row].model_fields_set - {"warehouse", "sku"}
            faults.append(
                Fault(row=row, field=field, message="sheet.not_enough", params={"available": after.available})
            )
    return faults


async def _apply_levels(connection: AsyncConnection, lines: Lines[LevelLine], act: Act) -> None:
    """The difference to what was counted is an adjustment, in the ledger like any other."""
    levels = await _places(connection, lines)
    await _write(connection, _levels, [each.model_dump() for each in levels.values()])
    moves = [
        Move(
            key=f"import:{act.request_id}:{row}",
            kind=MovementKind.ADJUSTED,
            warehouse=level.warehouse,
            sku=level.sku,
            quantity=lines[row].on_hand - level.on_hand,
            reason=f"import {act.file}".strip(),
            actor=act.actor,
        )
        for row, level in levels.items()
        if lines[row].on_hand != level.on_hand
    ]
    await ledger.move(connection, moves, locked=True)
    await _wake(connection, {each.sku for each in moves if each.quantity > 0}, act)


async def _apply_safety(connection: AsyncConnection, lines: Lines[SafetyLine], act: Act) -> None:
    levels = await _places(connection, lines)
    await _write(connection, _levels, [each.model_dump() for each in levels.values()])
    told = _told(_levels, SafetyLine.model_fields)
    places = (_levels.c.warehouse == told.c.warehouse, _levels.c.sku == told.c.sku)
    changed = update(_levels).where(*places).values(safety_stock=told.c.safety_stock)
    await connection.execute(changed, {"rows": _json(lines)})
    await _wake(
        connection, {level.sku for row, level in levels.items() if lines[row].safety_stock < level.safety_stock}, act
    )


# The catalogue


class SkuLine(Line):
    sku: Code
    title: Annotated[Text, Field(min_length=1)]
    title_zh: Text = ""
    price: Price
    currency: Currency = "CNY"
    weight_kg: Kilograms
    volume_cm3: Annotated[int, BeforeValidator(_number), Field(ge=0, le=1_000_000_000)] = 0
    needs: Words = ()
    oversell: YesNo = False
    presale_on: Day | None = None


async def _examine_skus(connection: AsyncConnection, lines: Lines[SkuLine]) -> list[Fault]:
    """A SKU whose stock is promised beyond what is there cannot cease to be oversold."""
    await sku_mapping.lock_catalogue(connection)
    if "oversell" not in _given(lines):
        return []
    wanted = {each.sku: (row, each.oversell) for row, each in lines.items()}
    await _lock_skus(connection, wanted)
    current = await connection.execute(select(_skus.c.sku, _skus.c.oversell).where(_any(_skus.c.sku, wanted)))
    changing = {row.sku for row in current if row.oversell != wanted[row.sku][1]}
    query = select(_levels).where(_any(_levels.c.sku, changing)).order_by(*_levels.primary_key).with_for_update()
    levels = [Level.model_validate(row._mapping) for row in await connection.execute(query)]
    owed = {each.sku for each in levels if each.oversell and each.available < 0}
    return [Fault(row=wanted[sku][0], field="oversell", message="sheet.oversold") for sku in owed]


async def _apply_skus(connection: AsyncConnection, lines: Lines[SkuLine], act: Act) -> None:
    given = _given(lines)
    await _write(connection, _skus, _json(lines), given)
    await sku_mapping.notify_held_orders(
        connection, {each.sku for each in lines.values()}, f"import:{act.request_id}:mapped"
    )
    if "oversell" in given:
        changed = (
            update(_levels)
            .where(_levels.c.sku == _skus.c.sku, _levels.c.oversell != _skus.c.oversell)
            .where(_any(_skus.c.sku, {each.sku for each in lines.values()}))
            .values(oversell=_skus.c.oversell)
            .returning(_levels.c.sku)
        )
        await _wake(connection, set(await connection.scalars(changed)), act)


class BundleLine(Line):
    bundle: Code
    sku: Code
    quantity: Some


async def _examine_bundles(connection: AsyncConnection, lines: Lines[BundleLine]) -> list[Fault]:
    """A bundle has no stock of its own, and its components do."""
    named = {each.bundle for each in lines.values()}
    await _lock_skus(connection, named)
    cells = [(row, field, getattr(each, field)) for row, each in lines.items() for field in ("bundle", "sku")]
    faults = await _unknown(connection, _skus.c.sku, "sheet.no_sku", cells)
    parts = {each.sku for each in lines.values()}
    nested = named | await _known(connection, _bundles.c.bundle, parts)
    stocked = set(
        await connection.scalars(select(_levels.c.sku).where(_any(_levels.c.sku, named), _levels.c.on_hand > 0))
    )
    inside = set(
        await connection.scalars(
            select(_bundles.c.sku).where(_any(_bundles.c.sku, named), ~_any(_bundles.c.bundle, named))
        )
    )
    for row, each in lines.items():
        if each.sku in nested:
            faults.append(Fault(row=row, field="sku", message="sheet.is_bundle"))
        if each.bundle in stocked:
            faults.append(Fault(row=row, field="bundle", message="sheet.has_stock"))
        if each.bundle in inside:
            faults.append(Fault(row=row, field="bundle", message="sheet.is_component"))
    return faults


async def _apply_bundles(connection: AsyncConnection, lines: Lines[BundleLine], act: Act) -> None:
    await connection.execute(delete(_bundles).where(_any(_bundles.c.bundle, {each.bundle for each in lines.values()})))
    await _write(connection, _bundles, _json(lines))


class SubstituteLine(Line):
    sku: Code
    substitute: Code
    rank: Annotated[int, BeforeValidator(_number), Field(ge=0, le=1_000_000)] = 100


async def _examine_substitutes(connection: AsyncConnection, lines: Lines[SubstituteLine]) -> list[Fault]:
    cells = [(row, field, getattr(each, field)) for row, each in lines.items() for field in ("sku", "substitute")]
    return await _unknown(connection, _skus.c.sku, "sheet.no_sku", cells) + [
        Fault(row=row, field="substitute", message="sheet.itself")
        for row, each in lines.items()
        if each.sku == each.substitute
    ]


async def _apply_substitutes(connection: AsyncConnection, lines: Lines[SubstituteLine], act: Act) -> None:
    await _write(connection, _substitutes, _json(lines), _given(lines))


# Locations


class LocationLine(Line):
    """Without the sender, who is a person: sheets lie about."""

    code: Code
    kind: LocationKind = LocationKind.WAREHOUSE
    parent: Code | None = None
    channels: Words = ()
    shops: Words = ()
    campaigns: Words = ()
    priority: Annotated[int, BeforeValidator(_number), Field(ge=1, le=5)] | None = None
    share: Annotated[Decimal, BeforeValidator(_number), Field(ge=0, le=1, decimal_places=4)] = Decimal(0)
    name: Annotated[Text, Field(min_length=1)]
    name_zh: Text = ""
    province: Annotated[Text, Field(min_length=1)]
    rank: Annotated[int, BeforeValidator(_number), Field(ge=0, le=1_000_000)] = 100
    carrier: Code
    closed: YesNo = False
    lead_days: Annotated[int, BeforeValidator(_number), Field(ge=0, le=365)] = 0
    capacity: Count | None = None
    cutoff: Clock | None = None
    areas: Words = ()
    abilities: Words = ()
    max_kg: Kilograms | None = None
    handling: Price = Decimal(0)


_AUDIENCE = tuple(Audience.model_fields)


async def _examine_locations(connection: AsyncConnection, lines: Lines[LocationLine]) -> list[Fault]:
    """A virtual warehouse lies within one that is not."""
    if not _given(lines) & {"kind", "parent"}:
        return []
    query = select(_warehouses.c.code).where(_warehouses.c.kind != LocationKind.VIRTUAL)
    real = set(await connection.scalars(query))
    for each in lines.values():
        (real.discard if each.kind is LocationKind.VIRTUAL else real.add)(each.code)
    return [
        Fault(row=row, field="parent", message="sheet.no_parent")
        for row, each in lines.items()
        if (each.kind is LocationKind.VIRTUAL) != (each.parent is not None) or (each.parent or each.code) not in real
    ]


async def _apply_locations(connection: AsyncConnection, lines: Lines[LocationLine], act: Act) -> None:
    rows = _json(lines)
    for row in rows:
        audience = {field: row.pop(field) for field in _AUDIENCE}
        row["audience"] = Audience.model_validate(audience).model_dump(mode="json", exclude_defaults=True)
    given = _given(lines)
    columns = given.difference(_AUDIENCE) | ({"audience"} if given.intersection(_AUDIENCE) else set())
    await _write(connection, _warehouses, rows, columns)


# Planning


class RateLine(Line):
    carrier: Code
    origin: Text = ""
    destination: Text = ""
    first_kg: Kilograms = Decimal(1)
    first_price: Price
    further_kg: Annotated[Kilograms, Field(gt=0)] = Decimal(1)
    further_price: Price = Decimal(0)
    volume_divisor: Count = 0
    days: Annotated[int, BeforeValidator(_number), Field(ge=0, le=365)] = 0
    surcharge: Price = Decimal(0)


class RuleLine(Line):
    """``condition`` and ``action`` are JSON, as the API has them."""

    number: Annotated[int, BeforeValidator(_number), Field(ge=0, le=1_000_000)]
    name: Annotated[Text, Field(min_length=1)]
    shops: Words = ()
    campaigns: Words = ()
    active: YesNo = True
    condition: Annotated[tuple[Condition, ...], BeforeValidator(_document)] = ()
    action: Annotated[Action, BeforeValidator(_document)]


async def _nothing(connection: AsyncConnection, lines: Lines[Any]) -> list[Fault]:
    """The database has nothing to say against it."""
    return []


async def _apply_rates(connection: AsyncConnection, lines: Lines[RateLine], act: Act) -> None:
    await _write(connection, _rates, _json(lines), _given(lines))
    rules_and_rates.clear_cache()


async def _apply_rules(connection: AsyncConnection, lines: Lines[RuleLine], act: Act) -> None:
    await _write(connection, _rules, _json(lines), _given(lines))
    rules_and_rates.clear_cache()


# Shops


class ListingLine(Line):
    """``listing`` is JSON: the channel's own ids."""

    channel: Code
    shop: Code
    sku: Code
    listing: Annotated[dict[str, str], BeforeValidator(_document)] = {}


async def _examine_listings(connection: AsyncConnection, lines: Lines[ListingLine]) -> list[Fault]:
    return await _unknown(
        connection, _skus.c.sku, "sheet.no_sku", ((row, "sku", each.sku) for row, each in lines.items())
    )


async def _apply_listings(connection: AsyncConnection, lines: Lines[ListingLine], act: Act) -> None:
    shops: dict[tuple[str, str], dict[str, dict[str, str]]] = defaultdict(dict)
    for each in lines.values():
        shops[each.channel, each.shop][each.sku] = each.listing
    await sku_mapping.lock_catalogue(connection)
    for (channel, shop), sold in sorted(shops.items()):
        await stock_sync.save_listings(connection, channel, shop, sold)
        cause = f"import:{act.request_id}:{channel}:{shop}"
        await sku_mapping.notify_held_orders(
            connection, {join_ids(each) for each in sold.values()}, cause, channel, shop
        )


class MappingLine(Line):
    """What a shop calls a SKU or bundle; without ``shop``, every shop of the channel."""

    channel: Annotated[Text, Field(pattern=r"^[a-z0-9_]+$")]
    shop: Text = ""
    item: Annotated[Text, Field(min_length=1, max_length=200)]
    sku: Code


async def _examine_mappings(connection: AsyncConnection, lines: Lines[MappingLine]) -> list[Fault]:
    return await _unknown(
        connection, _skus.c.sku, "sheet.no_sku", ((row, "sku", each.sku) for row, each in lines.items())
    )


async def _apply_mappings(connection: AsyncConnection, lines: Lines[MappingLine], act: Act) -> None:
    await sku_mapping.save(connection, [SkuMapping(**each.model_dump()) for each in lines.values()], act.actor)


def _with_documents(table: Any, line: type[Line], *documents: str) -> Select[Any]:
    """A kind's query, these of its columns as JSON text."""
    return select(
        *(
            cast(table.c[field], String).label(field) if field in documents else table.c[field]
            for field in line.model_fields
        )
    ).order_by(*table.primary_key)


KINDS: Mapping[str, Kind[Any]] = {
    "levels": Kind(LevelLine, ("warehouse", "sku"), _query(_levels, LevelLine), _examine_places, _apply_levels),
    "safety": Kind(SafetyLine, ("warehouse", "sku"), _query(_levels, SafetyLine), _examine_places, _apply_safety),
    "skus": Kind(SkuLine, ("sku",), _query(_skus, SkuLine), _examine_skus, _apply_skus),
    "bundles": Kind(
        BundleLine, ("bundle", "sku"), _query(_bundles, BundleLine), _examine_bundles, _apply_bundles, "bundle"
    ),
    "substitutes": Kind(
        SubstituteLine,
        ("sku", "substitute"),
        _query(_substitutes, SubstituteLine),
        _examine_substitutes,
        _apply_substitutes,
    ),
    "locations": Kind(
        LocationLine,
        ("code",),
        select(
            *(
                _warehouses.c.audience[field].label(field) if field in _AUDIENCE else _warehouses.c[field]
                for field in LocationLine.model_fields
            )
        ).order_by(_warehouses.c.code),
        _examine_locations,
        _apply_locations,
    ),
    "rates": Kind(RateLine, ("carrier", "origin", "destination"), _query(_rates, RateLine), _nothing, _apply_rates),
    "rules": Kind(
        RuleLine, ("number",), _with_documents(_rules, RuleLine, "condition", "action"), _nothing, _apply_rules
    ),
    "listings": Kind(
        ListingLine,
        ("channel", "shop", "sku"),
        _with_documents(_listings, ListingLine, "listing"),
        _examine_listings,
        _apply_listings,
    ),
    "mappings": Kind(
        MappingLine,
        ("channel", "shop", "item"),
        _query(_tables["mappings"], MappingLine),
        _examine_mappings,
        _apply_mappings,
    ),
}
"""Every kind of sheet by its name. To add one is to add its line, its column texts, and its entry here."""
