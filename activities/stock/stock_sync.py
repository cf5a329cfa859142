"""Stock sync: push to every shop how many of each listing it may sell, as soon as that changes.

The ledger shows which SKUs moved: only these are counted again, and only quantities that differ from the last push are
pushed. Changes outside the ledger (safety stock, a closed warehouse, a new rule) are found by counting everything at
the start of each turn.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Table, bindparam, case, cast, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts import accounts, channel_access
from activities.catalogue import locations
from activities.channels import StockOffer, stock_receiver
from activities.kit.database import transaction
from activities.kit.errors import refused
from activities.kit.sql import json_rows
from activities.stock import ledger
from models.base import Value
from models.intake import AccountRow, IntegrationType
from models.listings import ListingRow, StockRule
from models.order import NORMAL
from models.stock import BundleRow, Buyer, LocationKind, MovementRow, StockPool, WarehouseRow

_listings: Table = ListingRow.__table__  # type: ignore[attr-defined]
_movements: Table = MovementRow.__table__  # type: ignore[attr-defined]
_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]
_bundles: Table = BundleRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]

TURN_SECONDS = 600.0
"""The length of one turn. The next one follows at once and begins by counting everything."""
PAUSE_SECONDS = 1.0
"""Between two reads of the ledger: movements in between are pushed together."""
BEAT_SECONDS = 15.0
"""Between two heartbeats while a channel asks us to wait."""
PORTION = 200
"""Listings pushed before their offers are recorded: a push that fails later resumes after them."""
LAG = 2_000
"""Newest movements that each read covers again: one may commit after movements with higher ids."""


class SyncReport(Value):
    """The numbers of offers that a turn ``pushed`` to a shop, and that the channel ``refused``."""

    pushed: int
    refused: int


@activity.defn(name="stock.sync")
async def watch_stock(source: str, shop: str, seconds: float = TURN_SECONDS) -> SyncReport:
    """Push changes to a shop for one turn.

    Raise ``refused`` if the channel rejects our credentials, and ``unavailable`` if it does not answer at the end.
    """
    ends = asyncio.get_running_loop().time() + seconds
    report = SyncReport(pushed=0, refused=0)
    seen: LedgerPosition | None = None
    rule: StockRule | None = None
    while True:
        async with transaction() as connection:
            now, skus = await changed_skus(connection, seen)
        current, pause = await get_rule(source, shop), PAUSE_SECONDS
        failure: ApplicationError | None = None
        try:
            pushed = await push(source, shop, skus if current == rule else None)
        except ApplicationError as error:
            if error.non_retryable:
                raise
            failure = error
            pause = error.next_retry_delay.total_seconds() if error.next_retry_delay else PAUSE_SECONDS
        else:
            seen, rule = now, current
            report = SyncReport(pushed=report.pushed + pushed.pushed, refused=report.refused + pushed.refused)
        if asyncio.get_running_loop().time() >= ends or activity.is_worker_shutdown():
            if failure is not None:
                raise failure
            return report
        await _rest(pause)


async def _rest(seconds: float) -> None:
    """Sleep while sending heartbeats."""
    while seconds > 0:
        activity.heartbeat()
        await asyncio.sleep(min(seconds, BEAT_SECONDS))
        seconds -= BEAT_SECONDS


class LedgerPosition(Value):
    """How far the ledger was read: the id of its newest movement, and how many recent movements there were."""

    newest: int
    recent: int


async def changed_skus(
    connection: AsyncConnection, seen: LedgerPosition | None
) -> tuple[LedgerPosition, list[str] | None]:
    """Return the ledger's position and the SKUs that moved since ``seen``; ``None`` stands for all SKUs.

    A movement may commit after movements with higher ids; a higher count of recent movements reveals it.
    """
    newest = int((await connection.execute(select(func.coalesce(func.max(_movements.c.id), 0)))).scalar_one())
    recent = select(func.count()).where(_movements.c.id > newest - LAG)
    now = LedgerPosition(newest=newest, recent=int((await connection.execute(recent)).scalar_one()))
    if seen is None or now == seen:
        return now, None if seen is None else []
    query = select(_movements.c.sku).where(_movements.c.id > min(seen.newest, newest - LAG)).distinct()
    return now, list(await connection.scalars(query))


async def get_rule(source: str, shop: str) -> StockRule:
    """Return the rule of a shop. Raise ``refused`` if it no longer has one."""
    settings = (await accounts.get_account(IntegrationType.CHANNEL, source, shop)).settings
    if "stock" not in settings:
        raise refused("error.no_stock_rule", "no_rule", source=source, shop=shop)
    return StockRule.model_validate(settings["stock"])


async def push(source: str, shop: str, moved: Collection[str] | None) -> SyncReport:
    """Push what a shop may sell of the SKUs that moved and of their bundles, where it differs from the last push. Raise
    the errors of ``activities.kit.errors``."""
    async with transaction() as connection:
        offers = await pending_updates(connection, source, shop, await get_rule(source, shop), moved)
    refusals = 0
    for at in range(0, len(offers), PORTION):
        portion = offers[at : at + PORTION]
        async with channel_access.open_channel(source, shop) as channel:
            declined = {each.sku: each.reason for each in await stock_receiver(channel).push_stock(portion)}
        refusals += len(declined)
        now = datetime.now(UTC)
        rows = [{"sku": each.sku, "offered": each.quantity, "refused": declined.get(each.sku, "")} for each in portion]
        async with transaction() as connection:
            await connection.execute(_RECORD_OFFERS, {"offers": rows, "source": source, "of_shop": shop, "now": now})
        if activity.in_activity():
            activity.heartbeat()
    return SyncReport(pushed=len(offers) - refusals, refused=refusals)


_offers = json_rows("offers", _listings.c.sku, _listings.c.offered, _listings.c.refused)
_RECORD_OFFERS = (
    update(_listings)
    .where(_listings.c.channel == bindparam("source"), _listings.c.shop == bindparam("of_shop"))
    .where(_listings.c.sku == _offers.c.sku)
    .values(offered=_offers.c.offered, refused=_offers.c.refused, offered_at=bindparam("now"))
)


async def pending_updates(
    connection: AsyncConnection, source: str, shop: str, rule: StockRule, moved: Collection[str] | None
) -> list[StockOffer]:
    """Return what a shop may sell now, where that differs from the last push."""
    query = select(_listings).where(_listings.c.channel == source, _listings.c.shop == shop).order_by(_listings.c.sku)
    if moved is not None:
        holding = select(_bundles.c.bundle).where(_bundles.c.sku.in_(moved))
        query = query.where(_listings.c.sku.in_(moved) | _listings.c.sku.in_(holding))
    rows = (await connection.execute(query)).all()
    free = await available(connection, source, shop, rule, [row.sku for row in rows])
    return [
        StockOffer(sku=row.sku, listing=row.listing, quantity=quantity)
        for row in rows
        if (quantity := rule.offer(free[row.sku])) != row.offered
    ]


async def available(
    connection: AsyncConnection, source: str, shop: str, rule: StockRule, skus: Sequence[str]
) -> Mapping[str, int]:
    """Return how many of each SKU or bundle the shop's orders could be promised at the rule's locations."""
    if not skus:
        return {}
    parts: dict[str, dict[str, int]] = defaultdict(dict)
    for row in await connection.execute(select(_bundles).where(_bundles.c.bundle.in_(skus))):
        parts[row.bundle][row.sku] = row.quantity
    needed = {part for sku in skus for part in (parts.get(sku) or {sku: 1})}
    query = select(_warehouses.c.code).where(~_warehouses.c.closed, _warehouses.c.kind != LocationKind.VIRTUAL)
    if rule.locations:
        query = query.where(_warehouses.c.code.in_(rule.locations))
    places = (await connection.scalars(query)).all()
    pool = StockPool(await ledger.levels(connection, needed), await locations.list_virtual_warehouses(connection))
    buyer = Buyer(channel=source, shop=shop, campaign=None, priority=NORMAL)
    free = {sku: sum(pool.promisable(buyer, place, sku) for place in places) for sku in needed}
    return {sku: min(free[part] // quantity for part, quantity in (parts.get(sku) or {sku: 1}).items()) for sku in skus}


async def save_listings(
    connection: AsyncConnection, source: str, shop: str, listings: Mapping[str, Mapping[str, str]]
) -> None:
    """Save what a shop sells, SKU → the channel's own ids. A listing whose ids changed is pushed again."""
    new = insert(_listings)
    same = _listings.c.listing == new.excluded.listing
    changes = {
        "listing": new.excluded.listing,
        "offered": case((same, _listings.c.offered)),
        "refused": case((same, _listings.c.refused), else_=""),
    }
    rows: list[dict[str, Any]] = [
        {"channel": source, "shop": shop, "sku": sku, "listing": dict(ids), "refused": ""}
        for sku, ids in listings.items()
    ]
    await connection.execute(new.on_conflict_do_update(index_elements=["channel", "shop", "sku"], set_=changes), rows)


async def save_rule(connection: AsyncConnection, source: str, shop: str, rule: StockRule) -> None:
    """Save the rule of a shop in its account's settings."""
    of_shop = (
        _accounts.c.integration == IntegrationType.CHANNEL,
        _accounts.c.source == source,
        _accounts.c.account == shop,
    )
    setting = cast({"stock": rule.model_dump(mode="json")}, JSONB)
    await connection.execute(update(_accounts).where(*of_shop).values(settings=_accounts.c.settings.op("||")(setting)))
    accounts.clear_cache()


async def search(
    connection: AsyncConnection, *, channel: str | None, shop: str | None, sku: str | None
) -> Sequence[Row[Any]]:
    """Return the listings that match the filters given."""
    query = select(_listings).order_by(*_listings.primary_key)
    for name, value in (("channel", channel), ("shop", shop), ("sku", sku)):
        if value is not None:
            query = query.where(_listings.c[name] == value)
    return (await connection.execute(query)).all()
