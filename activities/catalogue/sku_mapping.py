"""Mapping: which of our SKUs it is that a shop sells under a name of its own."""

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
from models.intake import InboxRow, Raw
from models.listings import ListingRow, Mapping, MappingRow, Match
from models.order import FINAL, UNMAPPED, ChannelOrder, OrderLine, OrderRow
from models.stock import SPELT, SkuRow

MAPPED = "mapped"
"""The topic of messages to orders whose items may be known now."""
MOST = 500
"""Unmapped items told at once."""
_SUGGESTED = 20
"""Of these so many, the most wanted, are compared with the catalogue."""
_SUGGESTIONS = 3
_LIKELY = 60.0
"""Of 100: a suggestion less like it is none."""
_NOTHING_MORE = Raw(body=b"")
_LOCK = 0x6D617073
"""Shared by who finds that nobody knows an item, until that is written down; alone for who makes items known."""

_mappings: Table = MappingRow.__table__  # type: ignore[attr-defined]
_listings: Table = ListingRow.__table__  # type: ignore[attr-defined]
_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]

Key = tuple[str, str, str]
"""Channel, shop (empty: all of them), item."""


def _among(column: Any, name: str) -> Any:
    return column == any_(bindparam(name, type_=ARRAY(String)))


_KNOWN = union_all(
    select(*(_mappings.c[name] for name in ("channel", "shop", "item", "sku", "match"))).where(
        *(_among(_mappings.c[name], f"{name}s") for name in ("channel", "shop", "item"))
    ),
    select(literal(""), literal(""), _skus.c.sku, _skus.c.sku, literal("")).where(_among(_skus.c.sku, "codes")),
)
"""The mappings of items, and those codes that the catalogue has."""

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
    f" ORDER BY count(DISTINCT orders.id) DESC, min(orders.placed_at), line.sku LIMIT {MOST}"
)


class Suggestion(Value):
    sku: str
    title: str
    score: float
    """How like it is, of 100."""


class Unmapped(Value):
    """An item that nobody knows, and what waits for it to be known."""

    channel: str
    shop: str
    item: str
    ids: str
    """The channel's own ids of it."""
    title: str
    orders: int
    pieces: int
    since: AwareDatetime
    suggestions: tuple[Suggestion, ...] = ()


_APART = r"[\s_\-\u2010-\u2015\u2212]+"


def spelling(item: str) -> str:
    """An item less case, width, and spaces and dashes, but where these keep two numbers apart."""
    folded = re.sub(_APART, "-", unicodedata.normalize("NFKC", item)).upper()
    return re.sub(r"(?<!\d)-|-(?!\d)", "", folded)


def _spelt(items: Iterable[str]) -> list[str]:
    """Their spellings as ``SPELT`` has them, where nothing is kept apart."""
    return sorted({spelling(item).replace("-", "") for item in items} - {""})


@dataclass
class _Known:
    """What is known of some items."""

    mappings: dict[Key, tuple[str, str]]
    """SKU and ``Match`` of each."""
    catalogue: set[str]

    def sku(self, order: ChannelOrder, line: OrderLine) -> str | None:
        """Which of ours a line is: by hand, by the catalogue, as found before; of the shop, then of its channel; by
        the ids, then by the code. A gift is ours already."""
        if line.gift:
            return line.sku if line.sku in self.catalogue else None
        keys = [(order.channel, shop, item) for shop in (order.shop, "") for item in reversed(line.items)]
        mapped = [self.mappings[key] for key in keys if key in self.mappings]
        by_hand = [sku for sku, match in mapped if match == Match.MANUAL]
        ours = [code for code in (line.items[0], line.sku) if code in self.catalogue]
        return next(iter([*by_hand, *ours, *(sku for sku, _ in mapped)]), None)

    def renamed(self, order: ChannelOrder) -> ChannelOrder:
        lines = tuple(
            line if sku in (None, line.sku) else line.model_copy(update={"sku": sku, "told": line.items[0]})
            for line in order.lines
            for sku in [self.sku(order, line)]
        )
        return order if lines == order.lines else order.model_copy(update={"lines": lines})


async def map_orders(
    connection: AsyncConnection, orders: Sequence[ChannelOrder]
) -> tuple[list[ChannelOrder], set[str]]:
    """The orders with their lines under our own SKUs, as far as these are known; and the names that nobody knows.

    A mapping by hand comes first, then the catalogue, then the shop's listings, then a spelling that can mean only one
    SKU; what the last two find is kept, for a person to see and to change.
    """
    known = await _known(connection, orders)
    if _lost(known, orders):
        await connection.execute(select(func.pg_advisory_xact_lock_shared(_LOCK)))
        known = await _known(connection, orders)
        await _guess(connection, known, _lost(known, orders))
    unknown = {line.sku for _, line in _lost(known, orders)}
    return [known.renamed(order) for order in orders], unknown


async def _known(connection: AsyncConnection, orders: Sequence[ChannelOrder]) -> _Known:
    lines = [line for order in orders for line in order.lines]
    items = {item for line in lines for item in line.items}
    asked = {
        "channels": sorted({order.channel for order in orders}),
        "shops": sorted({order.shop for order in orders} | {""}),
        "items": sorted(items),
        "codes": sorted(items | {line.sku for line in lines}),
    }
    known = _Known({}, set())
    for channel, shop, item, sku, match in await connection.execute(_KNOWN, asked):
        if channel:
            known.mappings[channel, shop, item] = (sku, match)
        else:
            known.catalogue.add(sku)
    return known


def _lost(known: _Known, orders: Sequence[ChannelOrder]) -> list[tuple[ChannelOrder, OrderLine]]:
    return [(order, line) for order in orders for line in order.lines if known.sku(order, line) is None]


async def _guess(connection: AsyncConnection, known: _Known, lost: Iterable[tuple[ChannelOrder, OrderLine]]) -> None:
    """Adds what listings and spellings say of items to what is known, and keeps it as mappings of their shops."""
    wanted = {(order.channel, order.shop, *line.items): line for order, line in lost if not line.gift}
    if not wanted:
        return
    sold = [
        {"channel": key[0], "shop": key[1], "item": key[3], "listing": line.listing}
        for key, line in wanted.items()
        if len(key) > 3
    ]
    listed: dict[Key, dict[bool, set[str]]] = defaultdict(lambda: defaultdict(set))
    for channel, shop, item, sku, same in await connection.execute(_LISTED, {"sold": sold}) if sold else ():
        listed[channel, shop, item][same].add(sku)
    alike: dict[str, set[str]] = defaultdict(set)
    for sku in await connection.scalars(_ALIKE, {"spelt": _spelt(key[2] for key in wanted)}):
        alike[spelling(sku)].add(sku)
    found: dict[Key, tuple[str, Match]] = {}
    for channel, shop, code, *ids in wanted:
        for item in ids:
            told = listed[channel, shop, item]
            if len(skus := told[True] or told[False]) == 1:
                found[channel, shop, item] = (min(skus), Match.LISTING)
        if not any((channel, shop, item) in found for item in ids) and len(skus := alike[spelling(code)]) == 1:
            found[channel, shop, code] = (min(skus), Match.SPELLING)
    now = datetime.now(UTC)
    rows = [
        {"channel": key[0], "shop": key[1], "item": key[2], "sku": sku, "match": match, "actor": "hengdan", "at": now}
        for key, (sku, match) in sorted(found.items())
    ]
    if rows:
        await connection.execute(insert(_mappings).on_conflict_do_nothing(), rows)
    known.mappings.update(found)


_sold = json_rows("sold", _listings.c.channel, _listings.c.shop, _mappings.c.item, _listings.c.listing)
_same = (_listings.c.listing == _sold.c.listing).label("same")
_LISTED = select(_sold.c.channel, _sold.c.shop, _sold.c.item, _listings.c.sku, _same).where(
    _listings.c.channel == _sold.c.channel,
    _listings.c.shop == _sold.c.shop,
    _listings.c.listing.contains(_sold.c.listing),
)
"""The listings that confirm all of the ids that were told, and whether they say just the same."""
_ALIKE = select(_skus.c.sku).where(_among(text(SPELT.format("skus.sku")), "spelt"))


async def lock_catalogue(connection: AsyncConnection) -> None:
    """Before anything that makes items known: whoever has just found that nobody knows them is waited for, so that it
    is seen by ``wake``."""
    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


async def save(connection: AsyncConnection, mappings: Collection[Mapping], actor: str) -> list[str]:
    """Keeps mappings and wakes the orders that wait for their items; answers SKUs that the catalogue does not have, and
    then keeps nothing."""
    await lock_catalogue(connection)
    skus = {each.sku for each in mappings}
    unknown = skus - set(await connection.scalars(select(_skus.c.sku).where(_skus.c.sku.in_(skus))))
    if unknown or not mappings:
        return sorted(unknown)
    now = datetime.now(UTC)
    entered = insert(_mappings)
    told = {name: entered.excluded[name] for name in ("sku", "match", "actor", "at")}
    rows = [{**each.model_dump(), "match": Match.MANUAL, "actor": actor, "at": now} for each in mappings]
    await connection.execute(
        entered.on_conflict_do_update(
            index_elements=["channel", "shop", "item"], set_=told, where=_mappings.c.sku != entered.excluded.sku
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
    """Forgets a mapping; ``False`` where there is none. Orders that were taken in keep the SKU they have."""
    key = (_mappings.c.channel == channel) & (_mappings.c.shop == shop) & (_mappings.c.item == item)
    return bool((await connection.execute(delete(_mappings).where(key))).rowcount)


async def list_all(connection: AsyncConnection, **of: str | None) -> Sequence[Row[Any]]:
    """The mappings, of a channel, a shop or a SKU alone where they are named."""
    query = select(_mappings).order_by(_mappings.c.channel, _mappings.c.shop, _mappings.c.item)
    for name, value in of.items():
        query = query if value is None else query.where(_mappings.c[name] == value)
    return (await connection.execute(query)).all()


async def notify_held_orders(
    connection: AsyncConnection, items: Collection[str], cause: str, channel: str | None = None, shop: str | None = None
) -> None:
    """Has the orders look again, of a channel or shop alone where they are named, that are held for one of these items,
    or for what is spelt like it."""
    asked = {"items": sorted(items), "spelt": _spelt(items), "channel": channel, "shop": shop}
    waiting = await connection.execute(_WAITING, asked)
    await inbox.notify_orders(connection, MAPPED, cause, {row.id: row.priority for row in waiting})


async def list_unmapped(connection: AsyncConnection, channel: str | None, shop: str | None) -> list[Unmapped]:
    """What orders are held for, what most of them wait for first, with the SKUs most like it."""
    found = [
        Unmapped.model_validate(row._mapping)
        for row in await connection.execute(_UNMAPPED, {"channel": channel, "shop": shop})
    ]
    if not found:
        return []
    catalogue = (await connection.execute(select(_skus.c.sku, _skus.c.title, _skus.c.title_zh))).all()
    likely = await asyncio.to_thread(_suggest, found[:_SUGGESTED], catalogue)
    return [
        each.model_copy(update={"suggestions": suggestions})
        for each, suggestions in zip(found, [*likely, *[()] * len(found)], strict=False)
    ]


def _suggest(items: Iterable[Unmapped], catalogue: Iterable[Any]) -> list[tuple[Suggestion, ...]]:
    """What is most like each item, by its code, or by its title; where it has none, its code may be one."""
    titles = {row.sku: row.title_zh or row.title for row in catalogue}
    codes = {row.sku: spelling(row.sku) for row in catalogue}
    names = {(row.sku, name): name.casefold() for row in catalogue for name in (row.title, row.title_zh) if name}
    suggestions = []
    for item in items:
        scores: dict[str, float] = defaultdict(float)
        by_code = process.extract(
            spelling(item.item), codes, scorer=fuzz.ratio, limit=_SUGGESTIONS, score_cutoff=_LIKELY
        )
        by_title = process.extract(
            (item.title or item.item).casefold(),
            names,
            scorer=fuzz.WRatio,
            limit=2 * _SUGGESTIONS,
            score_cutoff=_LIKELY,
        )
        for sku, score in [(key, score) for _, score, key in by_code] + [(key[0], score) for _, score, key in by_title]:
            scores[sku] = max(scores[sku], score)
        best = sorted(scores.items(), key=lambda each: (-each[1], each[0]))[:_SUGGESTIONS]
        suggestions.append(tuple(Suggestion(sku=sku, title=titles[sku], score=round(score, 1)) for sku, score in best))
    return suggestions
