"""Replenishment: suggest purchases, turn them into purchase orders, receive the goods; advise on placement."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from secrets import token_hex
from typing import Any

from sqlalchemy import Date as SqlDate
from sqlalchemy import Row, Table, case, cast, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.catalogue import skus
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.stock import forecasting, operations
from activities.stock.transfers import OWN_LOCATIONS
from models.address import remoteness
from models.base import CHINA, Value
from models.order import OrderRow
from models.replenishment import (
    Promotion,
    PromotionRow,
    PurchaseLine,
    PurchaseOrderRow,
    PurchaseStatus,
    ReplenishmentRow,
    ReplenishmentStatus,
    StockPosition,
    Terms,
    TermsRow,
    need,
)
from models.stock import IncomingRow, Level, LevelRow, MovementKind, MovementRow, StockWaitRow, WarehouseRow

_terms: Table = TermsRow.__table__  # type: ignore[attr-defined]
_promotions: Table = PromotionRow.__table__  # type: ignore[attr-defined]
_suggestions: Table = ReplenishmentRow.__table__  # type: ignore[attr-defined]
_purchases: Table = PurchaseOrderRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_movements: Table = MovementRow.__table__  # type: ignore[attr-defined]
_incoming: Table = IncomingRow.__table__  # type: ignore[attr-defined]
_waits: Table = StockWaitRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]

HISTORY_DAYS = 364
"""Days of demand history that forecasts use: whole weeks."""
PAGE = 100
"""SKUs in one transaction."""

Place = tuple[str, str]
"""Location and SKU."""


class Progress(Value):
    """The progress of a run; ``after`` is the last SKU done."""

    after: str = ""
    checked: int = 0
    """Pairs of SKU and location."""
    suggested: int = 0
    """Of these, the pairs with an open suggestion."""


class StatusConflict(Exception):
    """The suggestion or purchase order no longer allows the change: it is ``status``."""

    def __init__(self, status: ReplenishmentStatus | PurchaseStatus) -> None:
        super().__init__(status.value)
        self.status = status


# Suggestions


@activity.defn(name="stock.suggest_purchases")
async def suggest_purchases(today: date) -> Progress:
    """Suggest purchases for every SKU with purchase terms, page by page; resume where an earlier attempt stopped."""
    details = activity.info().heartbeat_details
    progress = Progress.model_validate(details[0]) if details else Progress()
    while True:
        async with transaction() as connection:
            query = select(_terms.c.sku).where(_terms.c.sku > progress.after).distinct()
            skus = list(await connection.scalars(query.order_by(_terms.c.sku).limit(PAGE)))
            if not skus:
                return progress
            page = await suggest(connection, today, skus)
        progress = Progress(
            after=skus[-1],
            checked=progress.checked + page.checked,
            suggested=progress.suggested + page.suggested,
        )
        activity.heartbeat(progress)


async def suggest(connection: AsyncConnection, today: date, skus: Sequence[str]) -> Progress:
    """Suggest purchases of these SKUs. New suggestions supersede open ones; unchanged ones stay open."""
    await connection.execute(select(func.pg_advisory_xact_lock(_SUGGESTING)))
    sites = await _sites(connection)
    terms = await _terms_of(connection, skus)
    first = today - timedelta(days=HISTORY_DAYS)
    history = await _history(connection, skus, first, today)
    positions = await _stock_positions(connection, skus, sites)
    promotions = await _promotion_days(connection, skus)
    open_suggestions = await _lock_open(connection, skus)
    checked = suggested = 0
    for place in sorted(place for place in {*history, *positions} if place[0] in sites):
        warehouse, sku = place
        if (agreed := terms.get(place) or terms.get(("", sku))) is None:
            continue
        checked += 1
        begin, sold = history.get(place, (today, []))
        masked = forecasting.positions(begin, len(sold), [*promotions[""], *promotions[sku]])
        ahead = agreed.lead_days + agreed.review_days
        expected = await asyncio.to_thread(forecasting.forecast, sold, ahead, masked)
        position = positions.get(place, StockPosition())
        needed = need(agreed, expected, position, today)
        before = open_suggestions.pop(place, None)
        if not needed.quantity:
            await _mark_superseded(connection, before)
            continue
        suggested += 1
        row: dict[str, Any] = {
            "quantity": needed.quantity,
            "reorder_point": needed.reorder_point,
            "order_by": needed.order_by,
            "stock_out_on": needed.stock_out_on,
            "detail": {
                "supplier": agreed.supplier,
                "cost": str(agreed.unit_cost * needed.quantity),
                "currency": agreed.currency,
                "demand": expected.demand,
                "model": expected.model,
                "history_days": expected.days,
                "masked_days": len(masked),
                "per_day": round(expected.per_day, 3),
                "spread": round(expected.spread, 3),
                "lead_days": agreed.lead_days,
                "lead_spread_days": agreed.lead_spread_days,
                "review_days": agreed.review_days,
                "service_level": agreed.service_level,
                "safety": needed.safety,
                "target": needed.target,
                "available": position.available,
                "incoming": position.incoming_quantity,
                "waiting": position.waiting,
                "position": position.position,
            },
        }
        if before is not None and all(before._mapping[name] == value for name, value in row.items()):
            continue
        await _mark_superseded(connection, before)
        identity = {"id": f"{today:%y%m%d}-{token_hex(4)}", "sku": sku, "warehouse": warehouse}
        created = {"status": ReplenishmentStatus.SUGGESTED, "made_at": datetime.now(UTC)}
        await connection.execute(insert(_suggestions).values(**identity, **row, **created))
    for each in open_suggestions.values():
        await _mark_superseded(connection, each)
    return Progress(checked=checked, suggested=suggested)


async def _mark_superseded(connection: AsyncConnection, row: Row[Any] | None) -> None:
    if row is not None:
        await connection.execute(
            update(_suggestions)
            .where(_suggestions.c.id == row.id, _suggestions.c.status == ReplenishmentStatus.SUGGESTED)
            .values(status=ReplenishmentStatus.SUPERSEDED, decided_at=datetime.now(UTC))
        )


async def _sites(connection: AsyncConnection) -> dict[str, Row[Any]]:
    """Return the open locations for which goods are bought, by code."""
    query = select(_warehouses).where(_warehouses.c.kind.in_(OWN_LOCATIONS), ~_warehouses.c.closed)
    return {row.code: row for row in await connection.execute(query)}


def _nearest(sites: Mapping[str, Row[Any]], province: str) -> str | None:
    """Return the nearest location of those that deliver to a province; of all, if none does."""
    delivering = [
        site for site in sites.values() if not site.areas or province[:2] in {area[:2] for area in site.areas}
    ]
    nearest = min(
        delivering or sites.values(),
        key=lambda site: (remoteness(site.province, province), site.rank, site.code),
        default=None,
    )
    return None if nearest is None else str(nearest.code)


async def _terms_of(connection: AsyncConnection, skus: Sequence[str]) -> dict[Place, Terms]:
    rows = await connection.execute(select(_terms).where(_terms.c.sku.in_(skus)))
    return {(row.warehouse, row.sku): Terms.model_validate(row._mapping) for row in rows}


async def _promotion_days(connection: AsyncConnection, skus: Sequence[str]) -> dict[str, list[tuple[date, date]]]:
    """Return the first and last days of promotions by SKU; an empty SKU stands for all SKUs."""
    days: dict[str, list[tuple[date, date]]] = defaultdict(list)
    for row in await connection.execute(select(_promotions).where(_promotions.c.sku.in_(["", *skus]))):
        days[row.sku].append((row.first, row.last))
    return days


async def _lock_open(connection: AsyncConnection, skus: Sequence[str]) -> dict[Place, Row[Any]]:
    query = select(_suggestions).where(
        _suggestions.c.sku.in_(skus), _suggestions.c.status == ReplenishmentStatus.SUGGESTED
    )
    return {(row.warehouse, row.sku): row for row in await connection.execute(query.with_for_update())}


_location = func.coalesce(_warehouses.c.parent, _movements.c.warehouse)
"""A movement's physical location: goods of a virtual warehouse are bought for its parent."""
_demanded = func.sum(
    case(
        (_movements.c.kind == MovementKind.ALLOCATED, _movements.c.quantity),
        else_=-_movements.c.quantity,
    )
)
"""What orders took and did not give back: shipped or about to ship."""
_DEMAND_KINDS = (MovementKind.ALLOCATED, MovementKind.DEALLOCATED)
_day = cast(func.timezone(CHINA.key, _orders.c.placed_at), SqlDate)


async def _history(
    connection: AsyncConnection, skus: Sequence[str], first: date, today: date
) -> dict[Place, tuple[date, list[int]]]:
    """Return demand by location and SKU: its first day, and the quantity of each day until yesterday, by order date.

    A history begins with the first movement or the first order, whichever is earlier. An order that waits counts once
    it is allocated, on the day it was placed.
    """
    sold = (
        select(_location.label("warehouse"), _movements.c.sku, _day.label("day"), _demanded.label("quantity"))
        .join(_orders, _orders.c.id == _movements.c.order_id)
        .outerjoin(_warehouses, _warehouses.c.code == _movements.c.warehouse)
        .where(_movements.c.sku.in_(skus), _movements.c.kind.in_(_DEMAND_KINDS), _day >= first, _day < today)
        .group_by(_location, _movements.c.sku, _day)
    )
    by_day: dict[Place, Counter[date]] = defaultdict(Counter)
    for row in await connection.execute(sold):
        by_day[row.warehouse, row.sku][row.day] = max(int(row.quantity), 0)
    beginnings = (
        select(_location.label("warehouse"), _movements.c.sku, func.min(_movements.c.at).label("at"))
        .outerjoin(_warehouses, _warehouses.c.code == _movements.c.warehouse)
        .where(_movements.c.sku.in_(skus))
        .group_by(_location, _movements.c.sku)
    )
    history = {}
    for row in await connection.execute(beginnings):
        place = (row.warehouse, row.sku)
        since = max(first, min([row.at.astimezone(CHINA).date(), *by_day[place]]))
        days = (since + timedelta(days=each) for each in range((today - since).days))
        history[place] = (since, [by_day[place][day] for day in days])
    return history


async def _stock_positions(
    connection: AsyncConnection, skus: Sequence[str], sites: Mapping[str, Row[Any]]
) -> dict[Place, StockPosition]:
    """Return stock positions. What an order waits for counts at the location nearest to it."""
    parents = {
        row.code: row.parent
        for row in await connection.execute(select(_warehouses.c.code, _warehouses.c.parent))
        if row.parent is not None
    }
    available: Counter[Place] = Counter()
    for row in await connection.execute(select(_levels).where(_levels.c.sku.in_(skus))):
        level = Level.model_validate(row._mapping)
        available[parents.get(level.warehouse, level.warehouse), level.sku] += level.available
    incoming: dict[Place, list[tuple[date, int]]] = defaultdict(list)
    for row in await connection.execute(select(_incoming).where(_incoming.c.sku.in_(skus))):
        incoming[parents.get(row.warehouse, row.warehouse), row.sku].append((row.due, row.quantity))
    waiting: Counter[Place] = Counter()
    for row in await connection.execute(select(_waits).where(_waits.c.sku.in_(skus))):
        if nearest := _nearest(sites, row.province):
            waiting[nearest, row.sku] += row.quantity
    return {
        place: StockPosition(
            available=available[place], incoming=tuple(sorted(incoming[place])), waiting=waiting[place]
        )
        for place in {*available, *incoming, *waiting}
    }


# Decisions and purchase orders


async def list_suggestions(
    connection: AsyncConnection, status: ReplenishmentStatus | None = None, sku: str | None = None
) -> Sequence[Row[Any]]:
    """Return suggestions, the most urgent first."""
    query = select(_suggestions).order_by(_suggestions.c.order_by, _suggestions.c.sku, _suggestions.c.id).limit(1000)
    if status is not None:
        query = query.where(_suggestions.c.status == status)
    if sku is not None:
        query = query.where(_suggestions.c.sku == sku)
    return (await connection.execute(query)).all()


async def list_purchases(connection: AsyncConnection, status: PurchaseStatus | None = None) -> Sequence[Row[Any]]:
    """Return purchase orders, newest first."""
    query = select(_purchases).order_by(_purchases.c.created_at.desc(), _purchases.c.id).limit(1000)
    if status is not None:
        query = query.where(_purchases.c.status == status)
    return (await connection.execute(query)).all()


async def accept(
    connection: AsyncConnection, suggestion_id: str, quantity: int | None, today: date, actor: str
) -> Row[Any] | None:
    """Create and return a purchase order for the quantity suggested or another one. Accepting again returns the same.

    Return ``None`` if there is no such suggestion. Raise ``StatusConflict``.
    """
    row = await _decide(connection, suggestion_id, ReplenishmentStatus.ACCEPTED, actor)
    if row is None:
        return None
    purchase_id = f"po:{row.id}"
    if (existing := await _purchase(connection, purchase_id)) is not None:
        return existing
    terms = await _terms_of(connection, [row.sku])
    agreed = terms.get((row.warehouse, row.sku)) or terms.get(("", row.sku))
    lead_days = agreed.lead_days if agreed else int(row.detail["lead_days"])
    line = PurchaseLine(sku=row.sku, ordered=quantity or row.quantity)
    due = today + timedelta(days=lead_days)
    await connection.execute(
        insert(_purchases).values(
            id=purchase_id,
            warehouse=row.warehouse,
            supplier=agreed.supplier if agreed else row.detail["supplier"],
            lines=[line.model_dump()],
            status=PurchaseStatus.ORDERED,
            due=due,
            created_by=actor,
            created_at=datetime.now(UTC),
        )
    )
    await operations.set_expected_receipts(connection, purchase_id, row.warehouse, {line.sku: line.ordered}, due)
    return await _purchase(connection, purchase_id)


async def dismiss(connection: AsyncConnection, suggestion_id: str, actor: str) -> Row[Any] | None:
    """Dismiss a suggestion. Return ``None`` if there is no such suggestion. Raise ``StatusConflict``."""
    return await _decide(connection, suggestion_id, ReplenishmentStatus.DISMISSED, actor)


async def _decide(
    connection: AsyncConnection, suggestion_id: str, status: ReplenishmentStatus, actor: str
) -> Row[Any] | None:
    """Set the status of an open suggestion and return it; deciding the same again changes nothing."""
    by_id = _suggestions.c.id == suggestion_id
    row = (await connection.execute(select(_suggestions).where(by_id).with_for_update())).one_or_none()
    if row is None or row.status == status:
        return row
    if row.status != ReplenishmentStatus.SUGGESTED:
        raise StatusConflict(ReplenishmentStatus(row.status))
    change = update(_suggestions).where(by_id).values(status=status, decided_by=actor, decided_at=datetime.now(UTC))
    decided: Row[Any] = (await connection.execute(change.returning(_suggestions))).one()
    return decided


async def _purchase(connection: AsyncConnection, purchase_id: str, *, lock: bool = False) -> Row[Any] | None:
    query = select(_purchases).where(_purchases.c.id == purchase_id)
    return (await connection.execute(query.with_for_update() if lock else query)).one_or_none()


async def receive_purchase(
    connection: AsyncConnection, purchase_id: str, goods: Mapping[str, int], request_id: str, actor: str
) -> Row[Any] | None:
    """Receive quantities by SKU, or everything outstanding if none are given; once for each request.

    Return ``None`` if there is no such purchase order. Raise ``InvalidInput`` and ``StatusConflict``.
    """
    row = await _purchase(connection, purchase_id, lock=True)
    if row is None:
        return None
    act = f"{purchase_id}:{request_id}"
    if await connection.scalar(select(_movements.c.id).where(_movements.c.key == f"received:{act}").limit(1)):
        return row
    if row.status in (PurchaseStatus.RECEIVED, PurchaseStatus.CANCELLED):
        raise StatusConflict(PurchaseStatus(row.status))
    lines = [PurchaseLine.model_validate(each) for each in row.lines]
    outstanding = {line.sku: line.outstanding for line in lines if line.outstanding}
    arrived = dict(goods) or outstanding
    for sku, quantity in arrived.items():
        if not 0 < quantity <= outstanding.get(sku, 0):
            raise InvalidInput(f"goods.{sku}", "invalid.quantity", least=1, most=outstanding.get(sku, 0))
    lines = [line.model_copy(update={"received": line.received + arrived.get(line.sku, 0)}) for line in lines]
    for sku, quantity in sorted(arrived.items()):
        await operations.receive(connection, row.warehouse, sku, quantity, act, actor)
    left = {line.sku: line.outstanding for line in lines}
    await operations.set_expected_receipts(connection, purchase_id, row.warehouse, left, row.due)
    status = PurchaseStatus.PARTIALLY_RECEIVED if any(left.values()) else PurchaseStatus.RECEIVED
    changes = {"lines": [line.model_dump() for line in lines], "status": status}
    return await _change(connection, purchase_id, changes)


async def cancel_purchase(connection: AsyncConnection, purchase_id: str) -> Row[Any] | None:
    """Cancel what has not arrived. Return ``None`` if there is no such purchase order. Raise ``StatusConflict``."""
    row = await _purchase(connection, purchase_id, lock=True)
    if row is None or row.status == PurchaseStatus.CANCELLED:
        return row
    if row.status == PurchaseStatus.RECEIVED:
        raise StatusConflict(PurchaseStatus(row.status))
    await operations.set_expected_receipts(connection, purchase_id, row.warehouse, {}, row.due)
    return await _change(connection, purchase_id, {"status": PurchaseStatus.CANCELLED})


async def _change(connection: AsyncConnection, purchase_id: str, changes: Mapping[str, Any]) -> Row[Any]:
    change = update(_purchases).where(_purchases.c.id == purchase_id).values(changes)
    row: Row[Any] = (await connection.execute(change.returning(_purchases))).one()
    return row


# Terms and promotions


async def save_terms(connection: AsyncConnection, terms: Terms) -> None:
    """Save the purchase terms of a SKU at a location. Raise ``InvalidInput``."""
    if await skus.unknown_skus(connection, [terms.sku]):
        raise InvalidInput("sku", "invalid.sku.unknown", sku=terms.sku)
    if terms.warehouse and terms.warehouse not in await _sites(connection):
        raise InvalidInput("warehouse", "invalid.site", warehouse=terms.warehouse)
    row = terms.model_dump()
    new = insert(_terms).values(row)
    await connection.execute(new.on_conflict_do_update(index_elements=["sku", "warehouse"], set_=row))


async def list_terms(connection: AsyncConnection) -> list[Terms]:
    rows = await connection.execute(select(_terms).order_by(_terms.c.sku, _terms.c.warehouse))
    return [Terms.model_validate(row._mapping) for row in rows]


async def save_promotion(connection: AsyncConnection, promotion: Promotion) -> None:
    """Save a promotion, whose days forecasts leave out. Raise ``InvalidInput``."""
    if promotion.last < promotion.first:
        raise InvalidInput("last", "invalid.last")
    if promotion.sku and await skus.unknown_skus(connection, [promotion.sku]):
        raise InvalidInput("sku", "invalid.sku.unknown", sku=promotion.sku)
    row = promotion.model_dump()
    new = insert(_promotions).values(row)
    await connection.execute(new.on_conflict_do_update(index_elements=["sku", "first"], set_=row))


async def list_promotions(connection: AsyncConnection) -> list[Promotion]:
    rows = await connection.execute(select(_promotions).order_by(_promotions.c.first, _promotions.c.sku))
    return [Promotion.model_validate(row._mapping) for row in rows]


# Placement


class LocationShare(Value):
    """The share of a SKU's demand that a location should serve, and the share of its stock that is there."""

    sku: str
    warehouse: str
    demand: int
    """Of the buyers nearest to the location."""
    share: float
    on_hand: int
    share_now: float
    difference: int
    """The quantity to add at the location, or to remove if negative."""


async def advise_placement(
    connection: AsyncConnection, weeks: int, today: date, sku: str | None = None
) -> list[LocationShare]:
    """Return the share of each SKU that each location should hold, by where buyers were in the last weeks."""
    sites = await _sites(connection)
    province = func.split_part(_orders.c.region, " ", 2)
    query = (
        select(_movements.c.sku, province.label("province"), _demanded.label("quantity"))
        .join(_orders, _orders.c.id == _movements.c.order_id)
        .where(_movements.c.kind.in_(_DEMAND_KINDS), _day >= today - timedelta(weeks=weeks), _day <= today)
        .group_by(_movements.c.sku, province)
    )
    demand: Counter[Place] = Counter()
    totals: Counter[str] = Counter()
    for row in await connection.execute(query if sku is None else query.where(_movements.c.sku == sku)):
        if (nearest := _nearest(sites, row.province)) and row.quantity > 0:
            demand[nearest, row.sku] += int(row.quantity)
            totals[row.sku] += int(row.quantity)
    on_hand: Counter[Place] = Counter()
    location = func.coalesce(_warehouses.c.parent, _levels.c.warehouse)
    stock = (
        select(location.label("warehouse"), _levels.c.sku, func.sum(_levels.c.on_hand).label("on_hand"))
        .join(_warehouses, _warehouses.c.code == _levels.c.warehouse)
        .where(_levels.c.sku.in_(totals), or_(_warehouses.c.parent.is_not(None), _warehouses.c.kind.in_(OWN_LOCATIONS)))
        .group_by(location, _levels.c.sku)
    )
    held: Counter[str] = Counter()
    for row in await connection.execute(stock):
        if row.warehouse in sites:
            on_hand[row.warehouse, row.sku] = int(row.on_hand)
            held[row.sku] += int(row.on_hand)
    shares = []
    for place in sorted({*demand, *on_hand}, key=lambda place: (place[1], place[0])):
        warehouse, name = place
        share = demand[place] / totals[name]
        shares.append(
            LocationShare(
                sku=name,
                warehouse=warehouse,
                demand=demand[place],
                share=round(share, 4),
                on_hand=on_hand[place],
                share_now=round(on_hand[place] / held[name], 4) if held[name] else 0.0,
                difference=round(share * held[name]) - on_hand[place],
            )
        )
    return shares


_SUGGESTING = 0x7265706C656E
