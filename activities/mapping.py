"""Mapping: which of our SKUs it is that a shop sells under a name of its own."""

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime
from rapidfuzz import fuzz, process
from sqlalchemy import Row, Table, delete, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import Value
from models.intake import InboxRow, Lane, Raw
from models.listing import ListingRow, Mapping, MappingRow, Match
from models.order import UNMAPPED, ChannelOrder, OrderLine, OrderRow
from models.origin import IntakePath
from models.stock import SkuRow

MAPPED = "mapped"
"""The topic of messages to orders whose items may be known now."""
_SUGGESTIONS = 3
_LIKELY = 60.0
"""Of 100: a suggestion less like it is none."""
_NOTHING_MORE = Raw(body=b"")

_mappings: Table = MappingRow.__table__  # type: ignore[attr-defined]
_listings: Table = ListingRow.__table__  # type: ignore[attr-defined]
_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_inbox: Table = InboxRow.__table__  # type: ignore[attr-defined]

Key = tuple[str, str, str]
"""Channel, shop (empty: all of them), item."""

_SPELT = "regexp_replace(upper({}), '[^0-9A-Z]', '', 'g')"
_IDS = "(SELECT string_agg(each.value, ':' ORDER BY each.key) FROM jsonb_each_text(line.listing) AS each)"
_WAITING = text(
    f"SELECT orders.id, orders.priority FROM orders WHERE {UNMAPPED.text} AND EXISTS ("  # noqa: S608
    "SELECT FROM jsonb_to_recordset(orders.lines) AS line(sku text, told text, listing jsonb)"
    f" WHERE line.sku = ANY(:items) OR line.told = ANY(:items) OR {_IDS} = ANY(:items)"
    f" OR {_SPELT.format('line.sku')} = ANY(:spelt))"
)
_UNMAPPED = text(
    f"SELECT orders.channel, orders.shop, line.sku AS item, coalesce(max({_IDS}), '') AS ids,"  # noqa: S608
    " max(line.title) AS title, count(DISTINCT orders.id) AS orders, sum(line.quantity) AS pieces,"
    " min(orders.placed_at) AS since"
    " FROM orders, jsonb_to_recordset(orders.lines) AS line(sku text, title text, listing jsonb, quantity int)"
    f" WHERE {UNMAPPED.text} AND (CAST(:channel AS text) IS NULL OR orders.channel = :channel)"
    " AND (CAST(:shop AS text) IS NULL OR orders.shop = :shop)"
    " AND NOT EXISTS (SELECT FROM skus WHERE skus.sku = line.sku)"
    " GROUP BY orders.channel, orders.shop, line.sku ORDER BY count(DISTINCT orders.id) DESC, line.sku LIMIT 500"
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


def spelling(item: str) -> str:
    """An item less case, width, spaces and punctuation."""
    folded = unicodedata.normalize("NFKC", item).upper()
    return "".join(each for each in folded if each.isascii() and each.isalnum())


async def mapped(connection: AsyncConnection, orders: Sequence[ChannelOrder]) -> tuple[list[ChannelOrder], set[str]]:
    """The orders with their lines under our own SKUs, as far as these are known; and the names that nobody knows.

    A mapping by hand comes first, then the catalogue, then the shop's listings, then a spelling that can mean only one
    SKU; what the last two find is kept, for a person to see and to change.
    """
    asked = {item for order in orders for line in order.lines for item in line.items}
    if not asked:
        return list(orders), set()
    query = select(_mappings).where(
        _mappings.c.channel.in_({order.channel for order in orders}), _mappings.c.item.in_(asked)
    )
    known: dict[Key, str] = {(row.channel, row.shop, row.item): row.sku for row in await connection.execute(query)}
    named = {line.sku for order in orders for line in order.lines} | set(known.values())
    there = set(await connection.scalars(select(_skus.c.sku).where(_skus.c.sku.in_(named))))
    lost = [
        (order, line)
        for order in orders
        for line in order.lines
        if line.sku not in there and _chosen(known, order, line) is None
    ]
    if lost:
        found = await _guess(connection, lost)
        known |= found
        there |= set(found.values())
    renamed = [_renamed(known, order) for order in orders]
    return renamed, {line.sku for order in renamed for line in order.lines} - there


def _chosen(known: dict[Key, str], order: ChannelOrder, line: OrderLine) -> str | None:
    """The shop's own before that of its whole channel, by the code before by the ids."""
    keys = ((order.channel, shop, item) for shop in (order.shop, "") for item in line.items)
    return next((known[key] for key in keys if key in known), None)


def _renamed(known: dict[Key, str], order: ChannelOrder) -> ChannelOrder:
    lines = tuple(
        line if sku in (None, line.sku) else line.model_copy(update={"sku": sku, "told": line.told or line.sku})
        for line in order.lines
        for sku in [_chosen(known, order, line)]
    )
    return order if lines == order.lines else order.model_copy(update={"lines": lines})


async def _guess(connection: AsyncConnection, lost: Iterable[tuple[ChannelOrder, OrderLine]]) -> dict[Key, str]:
    """What listings and spellings say of items, kept as mappings of their shops."""
    wanted = {(order.channel, order.shop, line.items[0]): line for order, line in lost}
    listings: dict[tuple[str, str], list[Row[Any]]] = defaultdict(list)
    shops = tuple_(_listings.c.channel, _listings.c.shop).in_({key[:2] for key in wanted})
    for row in await connection.execute(select(_listings).where(shops)):
        listings[row.channel, row.shop].append(row)
    spellings: dict[str, list[str]] = defaultdict(list)
    spelt = func.regexp_replace(func.upper(_skus.c.sku), "[^0-9A-Z]", "", "g")
    asked = {spelling(key[2]) for key in wanted} - {""}
    for sku, how in await connection.execute(select(_skus.c.sku, spelt).where(spelt.in_(asked))):
        spellings[how].append(sku)
    found: dict[Key, tuple[str, Match]] = {}
    for key, line in wanted.items():
        listed = {row.sku for row in listings[key[:2]] if row.listing and row.listing.items() <= line.listing.items()}
        alike = spellings[spelling(key[2])]
        if len(listed) == 1:
            found[key] = (listed.pop(), Match.LISTING)
        elif len(alike) == 1:
            found[key] = (alike[0], Match.SPELLING)
    now = datetime.now(UTC)
    rows = [
        {"channel": key[0], "shop": key[1], "item": key[2], "sku": sku, "match": match, "actor": "hengdan", "at": now}
        for key, (sku, match) in sorted(found.items())
    ]
    if rows:
        await connection.execute(insert(_mappings).on_conflict_do_nothing(), rows)
    return {key: sku for key, (sku, _) in found.items()}


async def keep(connection: AsyncConnection, mappings: Collection[Mapping], actor: str) -> list[str]:
    """Keeps mappings and wakes the orders that wait for their items; answers SKUs that the catalogue does not have, and
    then keeps nothing."""
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
    await wake(connection, {each.item for each in mappings}, f"mapped:{now.isoformat()}")
    return []


async def drop(connection: AsyncConnection, channel: str, shop: str, item: str) -> bool:
    """Forgets a mapping; ``False`` where there is none. Orders that were taken in keep the SKU they have."""
    key = (_mappings.c.channel == channel) & (_mappings.c.shop == shop) & (_mappings.c.item == item)
    return bool((await connection.execute(delete(_mappings).where(key))).rowcount)


async def every(connection: AsyncConnection, **of: str | None) -> Sequence[Row[Any]]:
    """The mappings, of a channel, a shop or a SKU alone where they are named."""
    query = select(_mappings).order_by(_mappings.c.channel, _mappings.c.shop, _mappings.c.item)
    for name, value in of.items():
        query = query if value is None else query.where(_mappings.c[name] == value)
    return (await connection.execute(query)).all()


async def wake(connection: AsyncConnection, items: Collection[str], cause: str) -> None:
    """Has the orders look again that are held for one of these items, or for what is spelt like it."""
    asked = {"items": sorted(items), "spelt": sorted({spelling(item) for item in items} - {""})}
    rows = [
        {
            "lane": Lane.STOCK,
            "source": "stock",
            "account": "",
            "fact_key": f"{cause}:{row.id}",
            "topic": MAPPED,
            "path": IntakePath.MANUAL,
            "priority": row.priority,
            "raw": _NOTHING_MORE,
            "order_id": row.id,
            "received_at": datetime.now(UTC),
        }
        for row in await connection.execute(_WAITING, asked)
    ]
    if rows:
        await connection.execute(insert(_inbox).on_conflict_do_nothing(), rows)


async def unmapped(connection: AsyncConnection, channel: str | None, shop: str | None) -> list[Unmapped]:
    """What orders are held for, what most of them wait for first, with the SKUs most like it."""
    rows = (await connection.execute(_UNMAPPED, {"channel": channel, "shop": shop})).all()
    if not rows:
        return []
    catalogue = (await connection.execute(select(_skus.c.sku, _skus.c.title, _skus.c.title_zh))).all()
    titles = {row.sku: row.title_zh or row.title for row in catalogue}
    names = {row.sku: f"{row.sku} {row.title} {row.title_zh}" for row in catalogue}
    found = []
    for row in rows:
        asked = f"{row.item} {row.title}"
        like = process.extract(asked, names, scorer=fuzz.WRatio, limit=_SUGGESTIONS, score_cutoff=_LIKELY)
        suggestions = tuple(Suggestion(sku=sku, title=titles[sku], score=round(score, 1)) for _, score, sku in like)
        found.append(Unmapped(**row._mapping, suggestions=suggestions))
    return found
