"""The facts that conditions use: the order itself, its buyer's history, stock and the blacklist.

History is counted back from the time each order was placed, so that a past order is judged as it would have been
then. No fact names a person: accounts, phones and addresses are compared by their blind indexes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import and_, bindparam, or_, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.allocation import allocation
from activities.catalogue import exchange_rates, locations
from activities.stock import ledger
from models.address import Recipient
from models.base import CHINA
from models.exchange_rates import NoRate, Rates
from models.money import Money
from models.order import ChannelOrder
from models.review import BlacklistRow
from models.settings import settings
from models.stock import BundleRow, SkuRow, StockPool
from models.vault import keyring

_skus = SkuRow.__table__  # type: ignore[attr-defined]
_bundles = BundleRow.__table__  # type: ignore[attr-defined]
_blacklist = BlacklistRow.__table__  # type: ignore[attr-defined]

MAX_HISTORY = 1000
"""Orders of one buyer, or to one recipient, that are counted."""
_MAX_REMARK = 2000
"""Characters of a remark that conditions see."""
_MIN_PHONE_DIGITS = 7


@dataclass(frozen=True)
class Indexes:
    """The blind indexes of an order; empty where the value is missing."""

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
    """Return the index; empty for a masked or missing phone."""
    digits = Recipient(phone=phone).digits
    return keyring().blind_index(digits) if "*" not in phone and len(digits) >= _MIN_PHONE_DIGITS else ""


def place_index(place: Recipient) -> str:
    return place_text_index(place.province + place.city + place.district + place.street)


def place_text_index(text: str) -> str:
    """Return the index of a whole address, from province to house number, in any spacing."""
    return keyring().blind_index("".join(text.split()).casefold())


_NEEDS = {
    "buyer": "buyer",
    "risk": "risk",
    "stock": "stock",
    "amounts.below_list": "prices",
    "lines.list_price": "prices",
}


def needs(paths: Collection[str]) -> frozenset[str]:
    """Return the lookups that these facts need."""
    return frozenset(
        need for path in paths for name, need in _NEEDS.items() if path == name or path.startswith(f"{name}.")
    )


async def gather(
    connection: AsyncConnection, orders: Sequence[ChannelOrder], needed: Collection[str], at: datetime
) -> list[dict[str, Any]]:
    """Return the facts of each order, with the lookups ``needed``, each done once for all orders."""
    prices = await _prices(connection, orders) if "prices" in needed else {}
    rates = await exchange_rates.load(connection)
    gathered = [order_facts(order, prices, rates, at) for order in orders]
    lookups = {"buyer": _buyers, "risk": _risks, "stock": _stocks}
    for name, look_up in lookups.items():
        if name in needed:
            for facts, known in zip(gathered, await look_up(connection, orders, at), strict=True):
                facts[name] = known
    for facts in gathered:
        if spent := facts.get("buyer", {}).pop("spent", None):
            facts["buyer"]["spent_30d"] = Home(facts[UNCONVERTED], rates, at).sum("buyer.spent_30d", spent)
    return gathered


UNCONVERTED = "unconverted"
"""Beside the facts: those that could not be converted to the home currency, as path → currency without a rate."""


def unconverted(known: Mapping[str, Any], paths: Collection[str]) -> str | None:
    """Return a currency whose rate is missing for these facts."""
    missing = known.get(UNCONVERTED, {})
    return next((missing[path] for path in sorted(paths) if path in missing), None)


class Home:
    """Converts amounts to the home currency, and notes those whose rate is not known."""

    def __init__(self, missing: dict[str, str], rates: Rates, at: datetime) -> None:
        self.missing = missing
        self._rates = rates
        self._at = at

    def amount(self, path: str, amount: Decimal, currency: str) -> Decimal:
        """Return the amount; 0, and note the fact, where no rate is known."""
        try:
            return self._rates.convert(Money.model_construct(amount=amount, currency=currency), _home(), self._at)
        except NoRate as error:
            self.missing[path] = error.currency
            return Decimal(0)

    def sum(self, path: str, amounts: Iterable[tuple[str, str]]) -> float:
        """Return the sum of amounts given as currency and number."""
        return float(sum((self.amount(path, Decimal(each), currency) for currency, each in amounts), Decimal(0)))


def _home() -> str:
    return settings().currency


def order_facts(
    order: ChannelOrder, prices: Mapping[str, tuple[Decimal, str]], rates: Rates, at: datetime
) -> dict[str, Any]:
    """Return the facts that need no look-up. Amounts are in the home currency; ``prices`` are list prices by SKU."""
    home = Home({}, rates, at)

    def own(path: str, amount: Decimal) -> float:
        return float(home.amount(path, amount, order.currency))

    lines = [line for line in order.lines if not line.gift]
    gross = sum((line.unit_price * line.quantity for line in lines), Decimal(0))
    discounts = sum((line.discount for line in lines), Decimal(0))
    list_prices = {}
    for sku in {line.sku for line in lines} & prices.keys():
        price, currency = prices[sku]
        list_prices[sku] = home.amount("lines.list_price", price, currency)
        if currency != order.currency:
            home.amount("amounts.below_list", price, currency)
            home.amount("amounts.below_list", price, order.currency)
    below = []
    for line in lines:
        price, currency = prices.get(line.sku, (Decimal(0), order.currency))
        if price > 0 and currency == order.currency:
            below.append(1 - line.net / (line.quantity * price))
        elif price > 0 and list_prices[line.sku] > 0:
            net = home.amount("amounts.below_list", line.net, order.currency)
            below.append(1 - net / (line.quantity * list_prices[line.sku]))
    person = order.recipient
    return {
        "order": {
            "channel": order.channel,
            "shop": f"{order.channel}:{order.shop}",
            "platform": order.origin.platform,
            "kind": order.origin.kind.value,
            "campaign": order.origin.campaign,
            "total": own("order.total", order.total),
            "freight": own("order.freight", order.freight),
            "discount": own("order.discount", order.discount),
            "tax": own("order.tax", order.tax),
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
                "unit_price": own("lines.unit_price", line.unit_price),
                "discount": own("lines.discount", line.discount),
                "list_price": float(list_prices.get(line.sku, 0)),
                "net": own("lines.net", line.net),
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
            "buyer_message": order.buyer_message.lower()[:_MAX_REMARK],
            "seller_memo": order.seller_memo.lower()[:_MAX_REMARK],
        },
        "amounts": {
            "mismatch": own("amounts.mismatch", -order.mismatch),
            "discount_rate": float((discounts + order.discount) / gross) if gross else 0.0,
            "below_list": float(max(below, default=Decimal(0))),
        },
        UNCONVERTED: home.missing,
    }


async def _prices(connection: AsyncConnection, orders: Sequence[ChannelOrder]) -> dict[str, tuple[Decimal, str]]:
    """Return list prices and their currencies by SKU."""
    sold = {line.sku for order in orders for line in order.lines}
    query = select(_skus.c.sku, _skus.c.currency, _skus.c.price).where(_skus.c.sku.in_(sold))
    return {row.sku: (row.price, row.currency) for row in await connection.execute(query)}


_HISTORY = text("""
    SELECT given.id, own.*, there.accounts, NOT EXISTS (
        SELECT FROM orders
        WHERE buyer_index = given.buyer AND buyer_index <> '' AND id <> given.id AND placed_at <= given.placed_at
    ) AS first_order
    FROM jsonb_to_recordset(:given)
        AS given (id text, buyer text, phone text, place text, placed_at timestamptz)
    CROSS JOIN LATERAL (
        SELECT
            count(*) AS orders_30d,
            count(*) FILTER (WHERE placed_at > given.placed_at - interval '1 day') AS orders_24h,
            jsonb_agg(jsonb_build_array(currency, total::text)) FILTER (WHERE status <> 'cancelled') AS spent,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled_30d,
            array_agg(DISTINCT phone_index) AS phones
        FROM (
            SELECT * FROM orders
            WHERE buyer_index = given.buyer AND buyer_index <> '' AND id <> given.id
                AND placed_at BETWEEN given.placed_at - interval '30 days' AND given.placed_at
            ORDER BY placed_at DESC LIMIT :most
        ) AS recent
    ) AS own
    CROSS JOIN LATERAL (
        SELECT array_agg(DISTINCT buyer_index) AS accounts
        FROM (
            (
                SELECT buyer_index FROM orders
                WHERE phone_index = given.phone AND given.phone <> '' AND id <> given.id
                    AND placed_at BETWEEN given.placed_at - interval '30 days' AND given.placed_at
                ORDER BY placed_at DESC LIMIT :most
            ) UNION ALL (
                SELECT buyer_index FROM orders
                WHERE place_index = given.place AND place_index <> '' AND id <> given.id
                    AND placed_at BETWEEN given.placed_at - interval '30 days' AND given.placed_at
                ORDER BY placed_at DESC LIMIT :most
            )
        ) AS same
    ) AS there
""").bindparams(bindparam("given", type_=JSONB), most=MAX_HISTORY)
"""For a group of orders: the earlier orders of each buyer, and the accounts that ordered for the same recipient."""


async def _buyers(connection: AsyncConnection, orders: Sequence[ChannelOrder], at: datetime) -> list[dict[str, Any]]:
    indexes = [Indexes.of(order) for order in orders]
    given = [
        {
            "id": order.order_id,
            "buyer": index.buyer,
            "phone": index.phone,
            "place": index.place,
            "placed_at": order.placed_at.isoformat(),
        }
        for order, index in zip(orders, indexes, strict=True)
    ]
    rows = {row.id: row for row in await connection.execute(_HISTORY, {"given": given})}
    histories = []
    for order, index in zip(orders, indexes, strict=True):
        row = rows[order.order_id]
        histories.append(
            {
                "known": bool(index.buyer),
                "first_order": bool(row.first_order),
                "orders_30d": row.orders_30d,
                "orders_24h": row.orders_24h,
                "spent_30d": 0.0,
                "spent": row.spent,
                "cancelled_30d": row.cancelled_30d,
                "accounts_at_recipient": len({*(row.accounts or ()), index.buyer} - {""}),
                "recipients_of_buyer": len({*(row.phones or ()), index.phone} - {"", None}),
            }
        )
    return histories


async def _risks(connection: AsyncConnection, orders: Sequence[ChannelOrder], at: datetime) -> list[dict[str, Any]]:
    keys = []
    for order in orders:
        index = Indexes.of(order)
        keys.append({("buyer", index.buyer), ("phone", index.phone), ("address", index.place)})
    kinds: dict[str, set[str]] = {}
    for kind, each in set().union(*keys):
        kinds.setdefault(kind, set()).add(each)
    query = select(_blacklist.c.kind, _blacklist.c.id).where(
        or_(*(and_(_blacklist.c.kind == kind, _blacklist.c.id.in_(ids)) for kind, ids in kinds.items())),
        or_(_blacklist.c.until.is_(None), _blacklist.c.until > at),
    )
    blacklisted = {(row.kind, row.id) for row in await connection.execute(query)}
    matches = [sorted(kind for kind, _ in each & blacklisted) for each in keys]
    return [{"blacklisted": bool(each), "blacklist": each} for each in matches]


async def _stocks(connection: AsyncConnection, orders: Sequence[ChannelOrder], at: datetime) -> list[dict[str, Any]]:
    """Return whether all locations together could fill each order, taken alone."""
    sold = {line.sku for order in orders for line in order.lines}
    bundles: dict[str, dict[str, int]] = {}
    for row in await connection.execute(select(_bundles).where(_bundles.c.bundle.in_(sold))):
        bundles.setdefault(row.bundle, {})[row.sku] = row.quantity
    demands = [allocation.needs([line for line in order.lines if not line.gift], bundles) for order in orders]
    levels = await ledger.levels(connection, {line.sku for lines in demands for line in lines})
    virtual_warehouses = await locations.list_virtual_warehouses(connection)
    pool = StockPool(levels, virtual_warehouses)
    virtual_codes = {each.code for each in virtual_warehouses}
    places = {level.warehouse for level in levels} - virtual_codes | {each.parent for each in virtual_warehouses}
    availability = []
    for order, lines in zip(orders, demands, strict=True):
        short = []
        for sku in dict.fromkeys(line.sku for line in lines):
            promisable = sum(pool.promisable(order.as_buyer, place, sku) for place in places)
            if promisable < sum(line.quantity for line in lines if line.sku == sku):
                short.append(sku)
        availability.append({"all_available": not short, "short_skus": short})
    return availability
