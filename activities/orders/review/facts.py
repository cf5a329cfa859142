"""What conditions look at: an order as told, and what the books know of its buyer, its goods and the blacklist.

History is counted back from the placing of each order, so that an order long past is judged as it would have been
then. Nothing here names a person: accounts, phones and places are compared by their blind indexes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import and_, bindparam, or_, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.allocation import allocation
from activities.catalogue import locations
from activities.stock import ledger
from models.address import Recipient
from models.base import CHINA
from models.order import ChannelOrder
from models.review import BlacklistRow
from models.stock import BundleRow, SkuRow, StockPool
from models.vault import keyring

_skus = SkuRow.__table__  # type: ignore[attr-defined]
_bundles = BundleRow.__table__  # type: ignore[attr-defined]
_blacklist = BlacklistRow.__table__  # type: ignore[attr-defined]

MOST = 1000
"""Orders of one buyer, or to one recipient, that are counted."""
_WORDS = 2000
"""Characters of a remark that are looked at."""
_PHONE = 7
"""Digits that tell a phone from a scrap of one."""


@dataclass(frozen=True)
class Indexes:
    """The blind indexes of an order: empty where there is nothing to compare."""

    buyer: str
    phone: str
    place: str

    @classmethod
    def of(cls, order: ChannelOrder) -> "Indexes":
        return cls(
            buyer=buyer_index(order.channel, order.buyer) if order.buyer else "",
            phone=phone_index(order.recipient.phone),
            place=place_index(order.recipient) if order.recipient.street else "",
        )


def buyer_index(channel: str, account: str) -> str:
    return keyring().blind_index(f"{channel}:{account}")


def phone_index(phone: str) -> str:
    """Empty of a phone that is masked, or none."""
    digits = Recipient(phone=phone).digits
    return keyring().blind_index(digits) if "*" not in phone and len(digits) >= _PHONE else ""


def place_index(place: Recipient) -> str:
    return place_text_index(place.province + place.city + place.district + place.street)


def place_text_index(text: str) -> str:
    """Of a whole address from province to door, however it is spaced."""
    return keyring().blind_index("".join(text.split()).casefold())


_NEEDS = {
    "buyer": "buyer",
    "risk": "risk",
    "stock": "stock",
    "amounts.below_list": "prices",
    "lines.list_price": "prices",
}


def needs(paths: Collection[str]) -> frozenset[str]:
    """What must be looked up for these facts."""
    return frozenset(
        need for path in paths for name, need in _NEEDS.items() if path == name or path.startswith(f"{name}.")
    )


async def gather(
    connection: AsyncConnection, orders: Sequence[ChannelOrder], needed: Collection[str], at: datetime
) -> list[dict[str, Any]]:
    """The facts of each order: what must be looked up only where needed, for all of them at once."""
    prices = await _prices(connection, orders) if "prices" in needed else {}
    found = [told(order, prices) for order in orders]
    lookups = {"buyer": _buyers, "risk": _risks, "stock": _stocks}
    for name, look_up in lookups.items():
        if name in needed:
            for facts, known in zip(found, await look_up(connection, orders, at), strict=True):
                facts[name] = known
    return found


def told(order: ChannelOrder, prices: Mapping[tuple[str, str], Decimal]) -> dict[str, Any]:
    lines = [line for line in order.lines if not line.gift]
    gross = sum((line.unit_price * line.quantity for line in lines), Decimal(0))
    off = sum((line.discount for line in lines), Decimal(0))
    listed = {sku: price for (sku, currency), price in prices.items() if currency == order.currency}
    below = [1 - line.net / (line.quantity * listed[line.sku]) for line in lines if listed.get(line.sku, 0) > 0]
    person = order.recipient
    return {
        "order": {
            "channel": order.channel,
            "shop": f"{order.channel}:{order.shop}",
            "platform": order.origin.platform,
            "kind": order.origin.kind.value,
            "campaign": order.origin.campaign,
            "total": float(order.total),
            "freight": float(order.freight),
            "discount": float(order.discount),
            "tax": float(order.tax),
            "currency": order.currency,
            "quantity": sum(line.quantity for line in lines),
            "line_count": len(lines),
            "placed_hour": order.placed_at.astimezone(CHINA).hour,
            "paid": order.paid_at is not None,
            "cash_on_delivery": order.cash_on_delivery,
            "priority": order.priority,
            "carrier": order.carrier or "",
            "custom": {name: value for name, value in order.custom.items() if isinstance(value, str | int | float)},
        },
        "lines": [
            {
                "sku": line.sku,
                "title": line.title,
                "quantity": line.quantity,
                "unit_price": float(line.unit_price),
                "discount": float(line.discount),
                "list_price": float(listed.get(line.sku, 0)),
                "net": float(line.net),
            }
            for line in lines
        ],
        "recipient": {
            "country": person.country,
            "province": person.province,
            "city": person.city,
            "district": person.district,
            "town": person.town,
            "division": person.division,
            "confidence": 1.0 if person.confidence is None else float(person.confidence),
        },
        "remarks": {
            "buyer_message": order.buyer_message.lower()[:_WORDS],
            "seller_memo": order.seller_memo.lower()[:_WORDS],
        },
        "amounts": {
            "mismatch": float(-order.mismatch),
            "discount_rate": float((off + order.discount) / gross) if gross else 0.0,
            "below_list": float(max(below, default=Decimal(0))),
        },
    }


async def _prices(connection: AsyncConnection, orders: Sequence[ChannelOrder]) -> dict[tuple[str, str], Decimal]:
    """By SKU and currency."""
    sold = {line.sku for order in orders for line in order.lines}
    query = select(_skus.c.sku, _skus.c.currency, _skus.c.price).where(_skus.c.sku.in_(sold))
    return {(row.sku, row.currency): row.price for row in await connection.execute(query)}


_HISTORY = text("""
    SELECT asked.id, own.*, there.accounts, NOT EXISTS (
        SELECT FROM orders
        WHERE buyer_index = asked.buyer AND buyer_index <> '' AND id <> asked.id AND placed_at <= asked.placed_at
    ) AS first_order
    FROM jsonb_to_recordset(:asked)
        AS asked (id text, buyer text, phone text, place text, currency text, placed_at timestamptz)
    CROSS JOIN LATERAL (
        SELECT
            count(*) AS orders_30d,
            count(*) FILTER (WHERE placed_at > asked.placed_at - interval '1 day') AS orders_24h,
            coalesce(sum(total) FILTER (WHERE currency = asked.currency AND status <> 'cancelled'), 0) AS spent_30d,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled_30d,
            array_agg(DISTINCT phone_index) AS phones
        FROM (
            SELECT * FROM orders
            WHERE buyer_index = asked.buyer AND buyer_index <> '' AND id <> asked.id
                AND placed_at BETWEEN asked.placed_at - interval '30 days' AND asked.placed_at
            ORDER BY placed_at DESC LIMIT :most
        ) AS recent
    ) AS own
    CROSS JOIN LATERAL (
        SELECT array_agg(DISTINCT buyer_index) AS accounts
        FROM (
            (
                SELECT buyer_index FROM orders
                WHERE phone_index = asked.phone AND asked.phone <> '' AND id <> asked.id
                    AND placed_at BETWEEN asked.placed_at - interval '30 days' AND asked.placed_at
                ORDER BY placed_at DESC LIMIT :most
            ) UNION ALL (
                SELECT buyer_index FROM orders
                WHERE place_index = asked.place AND place_index <> '' AND id <> asked.id
                    AND placed_at BETWEEN asked.placed_at - interval '30 days' AND asked.placed_at
                ORDER BY placed_at DESC LIMIT :most
            )
        ) AS same
    ) AS there
""").bindparams(bindparam("asked", type_=JSONB), most=MOST)
"""For a whole group at once, what each order's buyer did before it, and who else bought for its recipient."""


async def _buyers(connection: AsyncConnection, orders: Sequence[ChannelOrder], at: datetime) -> list[dict[str, Any]]:
    indexes = [Indexes.of(order) for order in orders]
    asked = [
        {
            "id": order.order_id,
            "buyer": index.buyer,
            "phone": index.phone,
            "place": index.place,
            "currency": order.currency,
            "placed_at": order.placed_at.isoformat(),
        }
        for order, index in zip(orders, indexes, strict=True)
    ]
    rows = {row.id: row for row in await connection.execute(_HISTORY, {"asked": asked})}
    found = []
    for order, index in zip(orders, indexes, strict=True):
        row = rows[order.order_id]
        found.append(
            {
                "known": bool(index.buyer),
                "first_order": bool(row.first_order),
                "orders_30d": row.orders_30d,
                "orders_24h": row.orders_24h,
                "spent_30d": float(row.spent_30d),
                "cancelled_30d": row.cancelled_30d,
                "accounts_at_recipient": len({*(row.accounts or ()), index.buyer} - {""}),
                "recipients_of_buyer": len({*(row.phones or ()), index.phone} - {"", None}),
            }
        )
    return found


async def _risks(connection: AsyncConnection, orders: Sequence[ChannelOrder], at: datetime) -> list[dict[str, Any]]:
    sought = []
    for order in orders:
        index = Indexes.of(order)
        sought.append({("buyer", index.buyer), ("phone", index.phone), ("address", index.place)})
    kinds: dict[str, set[str]] = {}
    for kind, each in set().union(*sought):
        kinds.setdefault(kind, set()).add(each)
    query = select(_blacklist.c.kind, _blacklist.c.id).where(
        or_(*(and_(_blacklist.c.kind == kind, _blacklist.c.id.in_(ids)) for kind, ids in kinds.items())),
        or_(_blacklist.c.until.is_(None), _blacklist.c.until > at),
    )
    listed = {(row.kind, row.id) for row in await connection.execute(query)}
    found = [sorted(kind for kind, _ in each & listed) for each in sought]
    return [{"blacklisted": bool(each), "blacklist": each} for each in found]


async def _stocks(connection: AsyncConnection, orders: Sequence[ChannelOrder], at: datetime) -> list[dict[str, Any]]:
    """What all locations together could promise each order, were it alone."""
    sold = {line.sku for order in orders for line in order.lines}
    bundles: dict[str, dict[str, int]] = {}
    for row in await connection.execute(select(_bundles).where(_bundles.c.bundle.in_(sold))):
        bundles.setdefault(row.bundle, {})[row.sku] = row.quantity
    wanted = [allocation.needs([line for line in order.lines if not line.gift], bundles) for order in orders]
    levels = await ledger.levels(connection, {line.sku for lines in wanted for line in lines})
    fences = await locations.list_virtual_warehouses(connection)
    shelves = StockPool(levels, fences)
    fenced = {fence.code for fence in fences}
    places = {level.warehouse for level in levels} - fenced | {fence.parent for fence in fences}
    found = []
    for order, lines in zip(orders, wanted, strict=True):
        short = []
        for sku in dict.fromkeys(line.sku for line in lines):
            there = sum(shelves.promisable(order.as_buyer, place, sku) for place in places)
            if there < sum(line.quantity for line in lines if line.sku == sku):
                short.append(sku)
        found.append({"all_available": not short, "short_skus": short})
    return found
