"""Sheets of the catalogue: bundles, substitutes, locations, SKU mappings and exchange rates."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from sqlalchemy import Table, delete, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.catalogue import exchange_rates, locations, sku_mapping
from activities.catalogue.skus import lock_skus
from activities.kit.errors import InvalidInput
from activities.kit.sheets import (
    NUMBER,
    CellError,
    Clock,
    Code,
    Count,
    Day,
    Days,
    ImportContext,
    Kilograms,
    Line,
    Lines,
    PositiveCount,
    Price,
    Rank,
    SheetDefinition,
    Text,
    Words,
    YesNo,
    given_columns,
    known_values,
    select_lines,
    to_json,
    unknown_values,
    upsert,
)
from activities.kit.sql import in_values
from models.address import Recipient, RecipientChange
from models.exchange_rates import ExchangeRateRow
from models.listings import Mapping, MappingRow
from models.money import Currency
from models.stock import (
    Audience,
    BundleRow,
    LevelRow,
    LocationKind,
    SkuRow,
    SubstituteRow,
    WarehouseRow,
    WarehouseSystem,
)

_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]
_bundles: Table = BundleRow.__table__  # type: ignore[attr-defined]
_substitutes: Table = SubstituteRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_exchange_rates: Table = ExchangeRateRow.__table__  # type: ignore[attr-defined]
_mappings: Table = MappingRow.__table__  # type: ignore[attr-defined]


# Bundles and substitutes


class BundleLine(Line):
    bundle: Code
    sku: Code
    quantity: PositiveCount


async def _examine_bundles(connection: AsyncConnection, lines: Lines[BundleLine]) -> list[CellError]:
    """Require that bundles have no stock and are not nested."""
    bundles = {each.bundle for each in lines.values()}
    await lock_skus(connection, bundles)
    cells = [(row, field, getattr(each, field)) for row, each in lines.items() for field in ("bundle", "sku")]
    errors = await unknown_values(connection, _skus.c.sku, "sheet.no_sku", cells)
    all_bundles = bundles | await known_values(connection, _bundles.c.bundle, {each.sku for each in lines.values()})
    stocked = set(
        await connection.scalars(select(_levels.c.sku).where(in_values(_levels.c.sku, bundles), _levels.c.on_hand > 0))
    )
    components = set(
        await connection.scalars(
            select(_bundles.c.sku).where(in_values(_bundles.c.sku, bundles), ~in_values(_bundles.c.bundle, bundles))
        )
    )
    for row, each in lines.items():
        if each.sku in all_bundles:
            errors.append(CellError(row=row, field="sku", message="sheet.is_bundle"))
        if each.bundle in stocked:
            errors.append(CellError(row=row, field="bundle", message="sheet.has_stock"))
        if each.bundle in components:
            errors.append(CellError(row=row, field="bundle", message="sheet.is_component"))
    return errors


async def _apply_bundles(connection: AsyncConnection, lines: Lines[BundleLine], context: ImportContext) -> None:
    """Replace the components of each bundle in the file."""
    bundles = {each.bundle for each in lines.values()}
    await connection.execute(delete(_bundles).where(in_values(_bundles.c.bundle, bundles)))
    await upsert(connection, _bundles, to_json(lines))


class SubstituteLine(Line):
    sku: Code
    substitute: Code
    rank: Rank = 100


async def _examine_substitutes(connection: AsyncConnection, lines: Lines[SubstituteLine]) -> list[CellError]:
    cells = [(row, field, getattr(each, field)) for row, each in lines.items() for field in ("sku", "substitute")]
    return await unknown_values(connection, _skus.c.sku, "sheet.no_sku", cells) + [
        CellError(row=row, field="substitute", message="sheet.itself")
        for row, each in lines.items()
        if each.sku == each.substitute
    ]


async def _apply_substitutes(connection: AsyncConnection, lines: Lines[SubstituteLine], context: ImportContext) -> None:
    await upsert(connection, _substitutes, to_json(lines), given_columns(lines))


# Locations


class LocationLine(Line):
    """A location. The columns of its sender are never exported, and a blank cell leaves them as they are: sheets are
    left lying around."""

    code: Code
    kind: LocationKind = LocationKind.WAREHOUSE
    parent: Code | None = None
    channels: Words = ()
    shops: Words = ()
    campaigns: Words = ()
    priority: Annotated[int, NUMBER, Field(ge=1, le=5)] | None = None
    share: Annotated[Decimal, NUMBER, Field(ge=0, le=1, decimal_places=4)] = Decimal(0)
    name: Annotated[Text, Field(min_length=1)]
    name_zh: Text = ""
    province: Annotated[Text, Field(min_length=1)]
    rank: Rank = 100
    carrier: Code
    system: WarehouseSystem | None = None
    closed: YesNo = False
    lead_days: Days = 0
    capacity: Count | None = None
    cutoff: Clock | None = None
    areas: Words = ()
    abilities: Words = ()
    max_kg: Kilograms | None = None
    handling: Price = Decimal(0)
    contact: Text = ""
    phone: Text = ""
    country: Annotated[Text, StringConstraints(pattern=r"^([A-Z]{2})?$")] = ""
    city: Text = ""
    district: Text = ""
    street: Text = ""
    postcode: Text = ""


_AUDIENCE = tuple(Audience.model_fields)
_SENDER = {"contact": "name"} | {each: each for each in ("phone", "country", "city", "district", "street", "postcode")}
"""The columns of the sender, and the parts of the address that they set."""


def _sender_changes(lines: Lines[LocationLine]) -> dict[int, RecipientChange]:
    """Return what each row sets of its location's sender, by row; rows that set nothing are absent."""
    changes = {}
    for row, line in lines.items():
        parts = {part: cell for column, part in _SENDER.items() if (cell := getattr(line, column))}
        if parts:
            changes[row] = RecipientChange(province=line.province, **parts)
    return changes


async def _examine_senders(connection: AsyncConnection, lines: Lines[LocationLine]) -> list[CellError]:
    """Require that each sender can be put on a label."""
    changes = _sender_changes(lines)
    known = await locations.senders(connection) if changes else {}
    columns = {f"sender.{part}": column for column, part in _SENDER.items()}
    errors = []
    for row, change in changes.items():
        try:
            locations.standard_sender(change.applied_to(known.get(lines[row].code, Recipient())))
        except InvalidInput as error:
            errors.append(CellError(row=row, field=columns.get(error.field, "street"), message=error.message))
    return errors


async def _examine_locations(connection: AsyncConnection, lines: Lines[LocationLine]) -> list[CellError]:
    """Require usable senders, a parent that is not virtual for each virtual warehouse, and none for other locations."""
    errors = await _examine_senders(connection, lines)
    if not given_columns(lines) & {"kind", "parent"}:
        return errors
    query = select(_warehouses.c.code).where(_warehouses.c.kind != LocationKind.VIRTUAL)
    physical = set(await connection.scalars(query))
    for each in lines.values():
        (physical.discard if each.kind is LocationKind.VIRTUAL else physical.add)(each.code)
    return errors + [
        CellError(row=row, field="parent", message="sheet.no_parent")
        for row, each in lines.items()
        if (each.kind is LocationKind.VIRTUAL) != (each.parent is not None)
        or (each.parent or each.code) not in physical
    ]


async def _apply_locations(connection: AsyncConnection, lines: Lines[LocationLine], context: ImportContext) -> None:
    rows = to_json(lines)
    for row in rows:
        audience = {field: row.pop(field) for field in _AUDIENCE}
        row["audience"] = Audience.model_validate(audience).model_dump(mode="json", exclude_defaults=True)
        for column in ("system", *_SENDER):
            del row[column]
    known = await known_values(connection, _warehouses.c.code, {each.code for each in lines.values()})
    given = given_columns(lines)
    columns = given.difference(_AUDIENCE, _SENDER, ("system",)) | (
        {"audience"} if given.intersection(_AUDIENCE) else set()
    )
    await upsert(connection, _warehouses, rows, columns)
    for line in lines.values():
        if line.system is not None or line.code not in known:
            await locations.save_system(connection, line.code, line.system)
    for number, change in _sender_changes(lines).items():
        await locations.save_sender(connection, lines[number].code, change)


def _location_column(field: str) -> Any:
    if field in _SENDER:
        return literal("").label(field)
    return _warehouses.c.audience[field].label(field) if field in _AUDIENCE else _warehouses.c[field]


# Mappings


class MappingLine(Line):
    """The name under which a shop sells a SKU or bundle; without ``shop``, for every shop of the channel."""

    channel: Annotated[Text, Field(pattern=r"^[a-z0-9_]+$")]
    shop: Text = ""
    item: Annotated[Text, Field(min_length=1, max_length=200)]
    sku: Code


async def _examine_mappings(connection: AsyncConnection, lines: Lines[MappingLine]) -> list[CellError]:
    cells = ((row, "sku", each.sku) for row, each in lines.items())
    return await unknown_values(connection, _skus.c.sku, "sheet.no_sku", cells)


async def _apply_mappings(connection: AsyncConnection, lines: Lines[MappingLine], context: ImportContext) -> None:
    mappings = [Mapping(**each.model_dump()) for each in lines.values()]
    await sku_mapping.save(connection, mappings, context.actor)


# Exchange rates


class ExchangeRateLine(Line):
    """From ``day`` on, one unit of ``currency`` is worth ``rate`` of ``base``."""

    currency: Currency
    base: Currency
    day: Day
    rate: Annotated[Decimal, NUMBER, Field(gt=0, max_digits=24, decimal_places=12)]


async def _examine_exchange_rates(connection: AsyncConnection, lines: Lines[ExchangeRateLine]) -> list[CellError]:
    return [
        CellError(row=row, field="base", message="sheet.itself")
        for row, each in lines.items()
        if each.currency == each.base
    ]


async def _apply_exchange_rates(
    connection: AsyncConnection, lines: Lines[ExchangeRateLine], context: ImportContext
) -> None:
    await exchange_rates.lock(connection)
    await upsert(connection, _exchange_rates, to_json(lines), given_columns(lines))
    exchange_rates.clear_cache()
    currencies = {currency for each in lines.values() for currency in (each.currency, each.base)}
    await exchange_rates.notify_held_orders(connection, currencies, f"rated:{datetime.now(UTC).isoformat()}")


EXCHANGE_RATES = SheetDefinition(
    ExchangeRateLine,
    ("currency", "base", "day"),
    select_lines(_exchange_rates, ExchangeRateLine),
    _examine_exchange_rates,
    _apply_exchange_rates,
)
BUNDLES = SheetDefinition(
    BundleLine, ("bundle", "sku"), select_lines(_bundles, BundleLine), _examine_bundles, _apply_bundles, group="bundle"
)
SUBSTITUTES = SheetDefinition(
    SubstituteLine,
    ("sku", "substitute"),
    select_lines(_substitutes, SubstituteLine),
    _examine_substitutes,
    _apply_substitutes,
)
LOCATIONS = SheetDefinition(
    LocationLine,
    ("code",),
    select(*map(_location_column, LocationLine.model_fields)).order_by(_warehouses.c.code),
    _examine_locations,
    _apply_locations,
    codes=("code", _warehouses.c.code),
)
MAPPINGS = SheetDefinition(
    MappingLine, ("channel", "shop", "item"), select_lines(_mappings, MappingLine), _examine_mappings, _apply_mappings
)
