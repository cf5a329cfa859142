"""Sheets of stock: levels, safety stock, listings, and SKUs, whose overselling changes levels."""

from collections import defaultdict
from collections.abc import Collection
from typing import Annotated, TypeVar

from pydantic import Field
from sqlalchemy import Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.catalogue import sku_mapping
from activities.catalogue.skus import lock_skus
from activities.kit.sheets import (
    JSON,
    NUMBER,
    CellError,
    Code,
    Count,
    Day,
    ImportContext,
    Kilograms,
    Line,
    Lines,
    Price,
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
from activities.kit.sql import in_values, json_rows
from activities.stock import ledger, stock_sync, waitlist
from models.listings import ListingRow, join_ids
from models.money import Currency
from models.stock import BundleRow, Level, LevelRow, Move, MovementKind, SkuRow, WarehouseRow

_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]
_bundles: Table = BundleRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_listings: Table = ListingRow.__table__  # type: ignore[attr-defined]

_CHUNK = 10_000
"""SKUs whose waiting orders are notified in one statement."""


async def _notify_waiting_orders(connection: AsyncConnection, skus: Collection[str], context: ImportContext) -> None:
    ordered = sorted(skus)
    for start in range(0, len(ordered), _CHUNK):
        await waitlist.notify_waiting_orders(
            connection, ordered[start : start + _CHUNK], f"import:{context.request_id}:{start}"
        )


# Levels and safety stock


class _LevelLine(Line):
    """A quantity of one SKU at one location."""

    warehouse: Code
    sku: Code


class OnHandLine(_LevelLine):
    on_hand: Count


class SafetyStockLine(_LevelLine):
    safety_stock: Count


L = TypeVar("L", bound=_LevelLine)


async def _lock_levels(connection: AsyncConnection, lines: Lines[L]) -> dict[int, Level]:
    """Lock and return the level of each line; where none exists yet, return the empty level to insert."""
    skus = {each.sku for each in lines.values()}
    await lock_skus(connection, skus)
    query = (
        select(_levels)
        .where(
            in_values(_levels.c.sku, skus), in_values(_levels.c.warehouse, {each.warehouse for each in lines.values()})
        )
        .order_by(*_levels.primary_key)
    )
    existing = {
        (row.warehouse, row.sku): Level.model_validate(row._mapping)
        for row in await connection.execute(query.with_for_update())
    }
    oversold = set(await connection.scalars(select(_skus.c.sku).where(in_values(_skus.c.sku, skus), _skus.c.oversell)))
    return {
        row: existing.get((each.warehouse, each.sku))
        or Level(warehouse=each.warehouse, sku=each.sku, oversell=each.sku in oversold)
        for row, each in lines.items()
    }


async def _examine_levels(connection: AsyncConnection, lines: Lines[L]) -> list[CellError]:
    errors = await unknown_values(
        connection,
        _warehouses.c.code,
        "sheet.no_location",
        ((row, "warehouse", each.warehouse) for row, each in lines.items()),
    )
    errors += await unknown_values(
        connection, _skus.c.sku, "sheet.no_sku", ((row, "sku", each.sku) for row, each in lines.items())
    )
    bundles = await known_values(connection, _bundles.c.bundle, {each.sku for each in lines.values()})
    errors += [
        CellError(row=row, field="sku", message="sheet.is_bundle") for row, each in lines.items() if each.sku in bundles
    ]
    if errors:
        return errors
    for row, level in (await _lock_levels(connection, lines)).items():
        after = level.model_copy(update=lines[row].model_dump())
        if after.available < 0 and not level.oversell:
            (field,) = lines[row].model_fields_set - {"warehouse", "sku"}
            params = {"available": after.available}
            errors.append(CellError(row=row, field=field, message="sheet.not_enough", params=params))
    return errors


async def _apply_on_hand(connection: AsyncConnection, lines: Lines[OnHandLine], context: ImportContext) -> None:
    """Enter the difference between each count and its level as an adjustment in the ledger."""
    levels = await _lock_levels(connection, lines)
    await upsert(connection, _levels, [each.model_dump() for each in levels.values()])
    moves = [
        Move(
            key=f"import:{context.request_id}:{row}",
            kind=MovementKind.ADJUSTED,
            warehouse=level.warehouse,
            sku=level.sku,
            quantity=lines[row].on_hand - level.on_hand,
            reason=f"import {context.file}".strip(),
            actor=context.actor,
        )
        for row, level in levels.items()
        if lines[row].on_hand != level.on_hand
    ]
    await ledger.move(connection, moves, locked=True)
    await _notify_waiting_orders(connection, {each.sku for each in moves if each.quantity > 0}, context)


async def _apply_safety_stock(
    connection: AsyncConnection, lines: Lines[SafetyStockLine], context: ImportContext
) -> None:
    levels = await _lock_levels(connection, lines)
    await upsert(connection, _levels, [each.model_dump() for each in levels.values()])
    given = json_rows("rows", *(_levels.c[field] for field in SafetyStockLine.model_fields))
    change = (
        update(_levels)
        .where(_levels.c.warehouse == given.c.warehouse, _levels.c.sku == given.c.sku)
        .values(safety_stock=given.c.safety_stock)
    )
    await connection.execute(change, {"rows": to_json(lines)})
    lowered = {level.sku for row, level in levels.items() if lines[row].safety_stock < level.safety_stock}
    await _notify_waiting_orders(connection, lowered, context)


# SKUs


class SkuLine(Line):
    sku: Code
    title: Annotated[Text, Field(min_length=1)]
    title_zh: Text = ""
    price: Price
    currency: Currency = "CNY"
    weight_kg: Kilograms
    volume_cm3: Annotated[int, NUMBER, Field(ge=0, le=1_000_000_000)] = 0
    needs: Words = ()
    oversell: YesNo = False
    presale_on: Day | None = None


async def _examine_skus(connection: AsyncConnection, lines: Lines[SkuLine]) -> list[CellError]:
    """Refuse to end the overselling of a SKU that has been oversold."""
    await sku_mapping.lock_catalogue(connection)
    if "oversell" not in given_columns(lines):
        return []
    given = {each.sku: (row, each.oversell) for row, each in lines.items()}
    await lock_skus(connection, given)
    current = await connection.execute(select(_skus.c.sku, _skus.c.oversell).where(in_values(_skus.c.sku, given)))
    changing = {row.sku for row in current if row.oversell != given[row.sku][1]}
    query = select(_levels).where(in_values(_levels.c.sku, changing)).order_by(*_levels.primary_key).with_for_update()
    levels = [Level.model_validate(row._mapping) for row in await connection.execute(query)]
    oversold = {each.sku for each in levels if each.oversell and each.available < 0}
    return [CellError(row=given[sku][0], field="oversell", message="sheet.oversold") for sku in oversold]


async def _apply_skus(connection: AsyncConnection, lines: Lines[SkuLine], context: ImportContext) -> None:
    columns, skus = given_columns(lines), {each.sku for each in lines.values()}
    await upsert(connection, _skus, to_json(lines), columns)
    await sku_mapping.notify_held_orders(connection, skus, f"import:{context.request_id}:mapped")
    if "oversell" in columns:
        change = (
            update(_levels)
            .where(_levels.c.sku == _skus.c.sku, _levels.c.oversell != _skus.c.oversell)
            .where(in_values(_skus.c.sku, skus))
            .values(oversell=_skus.c.oversell)
            .returning(_levels.c.sku)
        )
        await _notify_waiting_orders(connection, set(await connection.scalars(change)), context)


# Listings


class ListingLine(Line):
    """``listing`` is JSON: the channel's own ids."""

    channel: Code
    shop: Code
    sku: Code
    listing: Annotated[dict[str, str], JSON] = {}


async def _examine_listings(connection: AsyncConnection, lines: Lines[ListingLine]) -> list[CellError]:
    cells = ((row, "sku", each.sku) for row, each in lines.items())
    return await unknown_values(connection, _skus.c.sku, "sheet.no_sku", cells)


async def _apply_listings(connection: AsyncConnection, lines: Lines[ListingLine], context: ImportContext) -> None:
    shops: dict[tuple[str, str], dict[str, dict[str, str]]] = defaultdict(dict)
    for each in lines.values():
        shops[each.channel, each.shop][each.sku] = each.listing
    await sku_mapping.lock_catalogue(connection)
    for (channel, shop), listings in sorted(shops.items()):
        await stock_sync.save_listings(connection, channel, shop, listings)
        items = {join_ids(each) for each in listings.values()}
        cause = f"import:{context.request_id}:{channel}:{shop}"
        await sku_mapping.notify_held_orders(connection, items, cause, channel, shop)


LEVELS = SheetDefinition(
    OnHandLine, ("warehouse", "sku"), select_lines(_levels, OnHandLine), _examine_levels, _apply_on_hand
)
SAFETY_STOCK = SheetDefinition(
    SafetyStockLine, ("warehouse", "sku"), select_lines(_levels, SafetyStockLine), _examine_levels, _apply_safety_stock
)
SKUS = SheetDefinition(
    SkuLine, ("sku",), select_lines(_skus, SkuLine), _examine_skus, _apply_skus, codes=("sku", _skus.c.sku)
)
LISTINGS = SheetDefinition(
    ListingLine,
    ("channel", "shop", "sku"),
    select_lines(_listings, ListingLine, "listing"),
    _examine_listings,
    _apply_listings,
)
