"""SKU mapping: find the SKU that a shop sells under its own code."""

import asyncio
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime
from rapidfuzz import fuzz, process
from sqlalchemy import (
    ARRAY,
    Row,
    String,
    Table,
    any_,
    bindparam,
    delete,
    func,
    literal,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.intake import inbox
from activities.kit.sql import json_rows
from models.base import Value
from models.listings import ListingRow, Mapping, MappingRow, Match
from models.order import FINAL, UNMAPPED, ChannelOrder, OrderLine
from models.stock import SPELT, SkuRow

MAPPED = "mapped"
"""The topic of messages to orders whose items may be mapped now."""
MAX_UNMAPPED = 500
"""Unmapped items listed at once."""
_SUGGESTED = 20
"""Of these, the number compared with the catalogue, most orders first."""
_SUGGESTIONS = 3
_MIN_SCORE = 60.0
"""The least similarity of a suggestion, of 100."""
_LOCK = 0x6D617073
"""Advisory lock: shared while an order finds an item unmapped and records it, exclusive while items are mapped."""

_mappings: Table = MappingRow.__table__  # type: ignore[attr-defined]
_listings: Table = ListingRow.__table__  # type: ignore[attr-defined]
_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]

Key = tuple[str, str, str]
"""Channel, shop (empty for all shops), item."""


def _in_parameter(column: Any, name: str) -> Any:
    return column == any_(bindparam(name, type_=ARRAY(String)))


_KNOWN = union_all(
    select(*(_mappings.c[name] for name in ("channel", "shop", "item", "sku", "match"))).where(
        *(_in_parameter(_mappings.c[name], f"{name}s") for name in ("channel", "shop", "item"))
    ),
    select(literal(""), literal(""), _skus.c.sku, _skus.c.sku, literal("")).where(_in_parameter(_skus.c.sku, "codes")),
)
"""Selects the mappings of items, and the codes that are in the catalogue."""

_IDS = (
    """(SELECT string_agg(each.value, ':' ORDER BY each.key COLLATE "C") FROM jsonb_each_text(line.listing) AS each)"""
)
_HELD = f"{UNMAPPED.text} AND orders.status NOT IN ({', '.join(sorted(repr(str(each)) for each in FINAL))})"
_SHOP = "(CAST(:shop AS text) IS NULL OR orders.shop = :shop)"
_CHANNEL = "(CAST(:channel AS text) IS NULL OR orders.channel = :channel)"
_WAITING = text(
    f"SELECT orders.id, orders.priority FROM orders WHERE {_HELD} AND {_CHANNEL} AND {_SHOP} AND EXISTS ("  # noqa: S608
    "SELECT FROM jsonb_to_recordset(orders.lines) AS line(sku text, told text, listing jsonb)"
    f" WHERE line.sku = ANY(:items) OR line.told = ANY(:items) OR {_IDS} = ANY(:items)"
    f" OR {SPELT.format('line.sku')} = ANY(:spelt))"
)
_UNMAPPED = text(
    f"SELECT orders.channel, orders.shop, line.sku AS item, coalesce(max({_IDS}), '') AS ids,"  # noqa: S608
    " max(line.title) AS title, count(DISTINCT orders.id) AS orders, sum(line.quantity) AS pieces,"
    " min(orders.placed_at) AS since FROM orders, jsonb_to_recordset(orders.lines)"
    " AS line(sku text, title text, listing jsonb, quantity int, gift boolean)"
    f" WHERE {_HELD} AND {_CHANNEL} AND {_SHOP} AND line.gift IS NOT TRUE"
    " AND NOT EXISTS (SELECT FROM skus WHERE skus.sku = line.sku)"
    " GROUP BY orders.channel, orders.shop, line.sku"
    f" ORDER BY count(DISTINCT orders.id) DESC, min(orders.placed_at), line.sku LIMIT {MAX_UNMAPPED}"
)


class Suggestion(Value):
    sku: str
    title: str
    score: float
    """Similarity, of 100."""


class Unmapped(Value):
    """An unmapped item, and the orders held for it."""

    channel: str
    shop: str
    item: str
    ids: str
    """The channel's own ids of the item."""
    title: str
    orders: int
    pieces: int
    since: AwareDatetime
    suggestions: tuple[Suggestion, ...] = ()


_SEPARATORS = r"[\s_\-\u2010-\u2015\u2212]+"


def spelling(item: str) -> str:
    """Return an item without case, width, spaces and dashes, except between two digits."""
    folded = re.sub(_SEPARATORS, "-", unicodedata.normalize("NFKC", item)).upper()
    return re.sub(r"(?<!\d)-|-(?!\d)", "", folded)


def _spelt(items: Iterable[str]) -> list[str]:
    """Return spellings as ``SPELT`` makes them, without any separators."""
    return sorted({spelling(item).replace("-", "") for item in items} - {""})


@dataclass
class _Lookup:
    """The mappings and catalogue codes of some items."""

    mappings: dict[Key, tuple[str, str]]
    """SKU and ``Match`` by key."""
    catalogue: set[str]

    def sku(self, order: ChannelOrder, line: OrderLine) -> str | None:
        """Return the SKU of a line: by manual mapping, by the catalogue, then by an automatic mapping. Mappings of the
        shop precede those of its channel, ids precede codes. A gift already has our SKU."""
        if line.gift:
            return line.sku if line.sku in self.catalogue else None
        keys = [(order.channel, shop, item) for shop in (order.shop, "") for item in reversed(line.items)]
        mapped = [self.mappings[key] for key in keys if key in self.mappings]
        manual = [sku for sku, match in mapped if match == Match.MANUAL]
        codes = [code for code in (line.items[0], line.sku) if code in self.catalogue]
        return next(iter([*manual, *codes, *(sku for sku, _ in mapped)]), None)

    def mapped(self, order: ChannelOrder) -> ChannelOrder:
        """Return the order with the SKUs of its lines replaced where they are known."""
        lines = tuple(
            line if sku in (None, line.sku) else line.model_copy(update={"sku": sku, "told": line.items[0]})
            for line in order.lines
            for sku in [self.sku(order, line)]
        )
        return order if lines == order.lines else order.model_copy(update={"lines": lines})


async def map_orders(
    connection: AsyncConnection, orders: Sequence[ChannelOrder]
) -> tuple[list[ChannelOrder], set[str]]:
    """Return the orders with our SKUs on their lines where known, and the codes that are not mapped.

    Manual mappings come first, then the catalogue, then the shop's listings, then an unambiguous spelling. Mappings by
    the last two are saved, so that staff can see and change them.
    """
    lookup = await _look_up(connection, orders)
    if _unmapped(lookup, orders):
        await connection.execute(select(func.pg_advisory_xact_lock_shared(_LOCK)))
        lookup = await _look_up(connection, orders)
        await _guess(connection, lookup, _unmapped(lookup, orders))
    unknown = {line.sku for _, line in _unmapped(lookup, orders)}
    return [lookup.mapped(order) for order in orders], unknown


async def _look_up(connection: AsyncConnection, orders: Sequence[ChannelOrder]) -> _Lookup:
    lines = [line for order in orders for line in order.lines]
    items = {item for line in lines for item in line.items}
    parameters = {
        "channels": sorted({order.channel for order in orders}),
        "shops": sorted({order.shop for order in orders} | {""}),
        "items": sorted(items),
        "codes": sorted(items | {line.sku for line in lines}),
    }
    lookup = _Lookup({}, set())
    for channel, shop, item, sku, match in await connection.execute(_KNOWN, parameters):
        if channel:
            lookup.mappings[channel, shop, item] = (sku, match)
        else:
            lookup.catalogue.add(sku)
    return lookup


def _unmapped(lookup: _Lookup, orders: Sequence[ChannelOrder]) -> list[tuple[ChannelOrder, OrderLine]]:
    return [(order, line) for order in orders for line in order.lines if lookup.sku(order, line) is None]


async def _guess(
    connection: AsyncConnection, lookup: _Lookup, unmapped: Iterable[tuple[ChannelOrder, OrderLine]]
) -> None:
    """Map items by listings and spellings, and save the results as mappings of their shops."""
    items = {(order.channel, order.shop, *line.items): line for order, line in unmapped if not line.gift}
    if not items:
        return
    sold = [
        {"channel": key[0], "shop": key[1], "item": key[3], "listing": line.listing}
        for key, line in items.items()
        if len(key) > 3
    ]
    listed: dict[Key, dict[bool, set[str]]] = defaultdict(lambda: defaultdict(set))
    for channel, shop, item, sku, same in await connection.execute(_LISTED, {"sold": sold}) if sold else ():
        listed[channel, shop, item][same].add(sku)
    alike: dict[str, set[str]] = defaultdict(set)
    for sku in await connection.scalars(_ALIKE, {"spelt": _spelt(key[2] for key in items)}):
        alike[spelling(sku)].add(sku)
    matches: dict[Key, tuple[str, Match]] = {}
    for channel, shop, code, *ids in items:
        for item in ids:
            listings = listed[channel, shop, item]
            if len(skus := listings[True] or listings[False]) == 1:
                matches[channel, shop, item] = (min(skus), Match.LISTING)
        if not any((channel, shop, item) in matches for item in ids) and len(skus := alike[spelling(code)]) == 1:
            matches[channel, shop, code] = (min(skus), Match.SPELLING)
    now = datetime.now(UTC)
    rows = [
        {"channel": key[0], "shop": key[1], "item": key[2], "sku": sku, "match": match, "actor": "hengdan", "at": now}
        for key, (sku, match) in sorted(matches.items())
    ]
    if rows:
        await connection.execute(insert(_mappings).on_conflict_do_nothing(), rows)
    lookup.mappings.update(matches)


_sold = json_rows("sold", _listings.c.channel, _listings.c.shop, _mappings.c.item, _listings.c.listing)
_same = (_listings.c.listing == _sold.c.listing).label("same")
_LISTED = select(_sold.c.channel, _sold.c.shop, _sold.c.item, _listings.c.sku, _same).where(
    _listings.c.channel == _sold.c.channel,
    _listings.c.shop == _sold.c.shop,
    _listings.c.listing.contains(_sold.c.listing),
)
"""Selects the listings that contain all ids of a line, and whether they are equal to them."""
_ALIKE = select(_skus.c.sku).where(_in_parameter(text(SPELT.format("skus.sku")), "spelt"))


async def lock_catalogue(connection: AsyncConnection) -> None:
    """Lock before items become known: wait for orders that are just finding them unmapped, so that
    ``notify_held_orders`` sees these."""
    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


async def save(connection: AsyncConnection, mappings: Collection[Mapping], actor: str) -> list[str]:
    """Save mappings and notify the orders held for their items. If the catalogue lacks any of the SKUs, save nothing
    and return these SKUs."""
    await lock_catalogue(connection)
    skus = {each.sku for each in mappings}
    unknown = skus - set(await connection.scalars(select(_skus.c.sku).where(_skus.c.sku.in_(skus))))
    if unknown or not mappings:
        return sorted(unknown)
    now = datetime.now(UTC)
    new = insert(_mappings)
    changes = {name: new.excluded[name] for name in ("sku", "match", "actor", "at")}
    rows = [{**each.model_dump(), "match": Match.MANUAL, "actor": actor, "at": now} for each in mappings]
    await connection.execute(
        new.on_conflict_do_update(
            index_elements=["channel", "shop", "item"], set_=changes, where=_mappings.c.sku != new.excluded.sku
        ),
        rows,
    )
    items: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in mappings:
        items[each.channel, each.shop].add(each.item)
    for (channel, shop), of_shop in sorted(items.items()):
        await notify_held_orders(connection, of_shop, f"mapped:{now.isoformat()}", channel, shop or None)
    return []


async def remove(connection: AsyncConnection, channel: str, shop: str, item: str) -> bool:
    """Delete a mapping; ``False`` if there is none. Orders already received keep their SKUs."""
    key = (_mappings.c.channel == channel) & (_mappings.c.shop == shop) & (_mappings.c.item == item)
    return bool((await connection.execute(delete(_mappings).where(key))).rowcount)


async def list_all(connection: AsyncConnection, **filters: str | None) -> Sequence[Row[Any]]:
    """Return the mappings, filtered by columns such as channel, shop or SKU."""
    query = select(_mappings).order_by(_mappings.c.channel, _mappings.c.shop, _mappings.c.item)
    for name, value in filters.items():
        query = query if value is None else query.where(_mappings.c[name] == value)
    return (await connection.execute(query)).all()


async def notify_held_orders(
    connection: AsyncConnection, items: Collection[str], cause: str, channel: str | None = None, shop: str | None = None
) -> None:
    """Notify the orders, of one channel or shop if given, that are held for one of these items or for one spelt
    alike."""
    parameters = {"items": sorted(items), "spelt": _spelt(items), "channel": channel, "shop": shop}
    waiting = await connection.execute(_WAITING, parameters)
    await inbox.notify_orders(connection, MAPPED, cause, {row.id: row.priority for row in waiting})


async def list_unmapped(connection: AsyncConnection, channel: str | None, shop: str | None) -> list[Unmapped]:
    """Return the unmapped items that orders are held for, those of most orders first, with suggested SKUs."""
    unmapped = [
        Unmapped.model_validate(row._mapping)
        for row in await connection.execute(_UNMAPPED, {"channel": channel, "shop": shop})
    ]
    if not unmapped:
        return []
    catalogue = (await connection.execute(select(_skus.c.sku, _skus.c.title, _skus.c.title_zh))).all()
    suggested = await asyncio.to_thread(_suggest, unmapped[:_SUGGESTED], catalogue)
    return [
        each.model_copy(update={"suggestions": suggestions})
        for each, suggestions in zip(unmapped, [*suggested, *[()] * len(unmapped)], strict=False)
    ]


def _suggest(items: Iterable[Unmapped], catalogue: Iterable[Any]) -> list[tuple[Suggestion, ...]]:
    """Return the SKUs most similar to each item by code or title; an item without a title uses its code as one."""
    titles = {row.sku: row.title_zh or row.title for row in catalogue}
    codes = {row.sku: spelling(row.sku) for row in catalogue}
    names = {(row.sku, name): name.casefold() for row in catalogue for name in (row.title, row.title_zh) if name}
    suggestions = []
    for item in items:
        scores: dict[str, float] = defaultdict(float)
        by_code = process.extract(
            spelling(item.item), codes, scorer=fuzz.ratio, limit=_SUGGESTIONS, score_cutoff=_MIN_SCORE
        )
        by_title = process.extract(
            (item.title or item.item).casefold(),
            names,
            scorer=fuzz.WRatio,
            limit=2 * _SUGGESTIONS,
            score_cutoff=_MIN_SCORE,
        )
        for sku, score in [(key, score) for _, score, key in by_code] + [(key[0], score) for _, score, key in by_title]:
            scores[sku] = max(scores[sku], score)
        best = sorted(scores.items(), key=lambda each: (-each[1], each[0]))[:_SUGGESTIONS]
        suggestions.append(tuple(Suggestion(sku=sku, title=titles[sku], score=round(score, 1)) for sku, score in best))
    return suggestions
