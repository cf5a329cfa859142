"""Choose a carrier: by staff's terms and rules, rate tables, carriers' quotes and their measured performance."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_, case, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.accounts.accounts import get_carrier_account
from activities.allocation import rules_and_rates
from activities.carriers import Carrier, carrier, tracker
from activities.catalogue import exchange_rates
from activities.fulfillment.carrier_selection import rules
from activities.kit.database import transaction
from activities.kit.ttl_cache import TtlCache
from models.allocation import offers
from models.base import CHINA
from models.carrier_selection import (
    Candidate,
    CarrierOption,
    CarrierRow,
    CarrierRule,
    CarrierTerms,
    Choice,
    LanePerformance,
    LaneRow,
    ShippingRequest,
    Weights,
    rank_carriers,
)
from models.exchange_rates import NoRate
from models.fulfillment import Booking, FulfillmentRow, TrackingStatus
from models.intake import Account, AccountRow, IntegrationType
from models.order import OrderRow
from models.settings import settings
from models.stock import WarehouseRow

_carriers: Table = CarrierRow.__table__  # type: ignore[attr-defined]
_lanes: Table = LaneRow.__table__  # type: ignore[attr-defined]
_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]
_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]

MEASURED_PERIOD = timedelta(days=90)


@dataclass(frozen=True)
class CarrierConfig:
    """The settings that apply to all shipping requests."""

    terms: Mapping[str, CarrierTerms]
    bookable: Sequence[str]
    """The carriers that we have an account with and can book."""
    rules: Sequence[CarrierRule]
    weights: Mapping[str, Weights]
    """By ``channel:shop``; ``""`` applies to all others."""

    def rules_for(self, request: ShippingRequest) -> list[CarrierRule]:
        return [rule for rule in self.rules if rule.applies_to(f"{request.channel}:{request.shop}")]

    def weights_for(self, request: ShippingRequest) -> Weights:
        return self.weights.get(f"{request.channel}:{request.shop}", self.weights[""])


_cache: TtlCache[str, CarrierConfig] = TtlCache(5)


def clear_cache() -> None:
    """Make the next ``load_config`` of this process read the database."""
    _cache.clear()


async def list_terms(connection: AsyncConnection) -> dict[str, CarrierTerms]:
    rows = await connection.execute(select(_carriers).order_by(_carriers.c.carrier))
    return {row.carrier: CarrierTerms.model_validate(row.terms) for row in rows}


async def save_terms(connection: AsyncConnection, terms: CarrierTerms) -> None:
    row = insert(_carriers).values(carrier=terms.carrier, terms=terms.model_dump(mode="json"))
    await connection.execute(row.on_conflict_do_update(index_elements=["carrier"], set_={"terms": row.excluded.terms}))
    clear_cache()


async def list_lanes(connection: AsyncConnection) -> Sequence[Row[Any]]:
    return (await connection.execute(select(_lanes).order_by(*_lanes.primary_key.columns))).all()


async def load_config(connection: AsyncConnection) -> CarrierConfig:
    """Return the settings, at most five seconds old."""
    return await _cache.get(str(connection.engine.url), lambda: _read_config(connection))


async def _read_config(connection: AsyncConnection) -> CarrierConfig:
    query = select(_accounts.c.source).where(_accounts.c.integration == IntegrationType.CARRIER).distinct()
    return CarrierConfig(
        terms=await list_terms(connection),
        bookable=[source for source in sorted(await connection.scalars(query)) if _is_bookable(source)],
        rules=await rules.list_rules(connection),
        weights=await rules.list_weights(connection),
    )


def _is_bookable(source: str) -> bool:
    """Return ``False`` also where there is no adapter for this carrier."""
    try:
        return isinstance(tracker(Account(integration=IntegrationType.CARRIER, source=source, account="")), Carrier)
    except ModuleNotFoundError:
        return False


async def eligible_carriers(connection: AsyncConnection, request: ShippingRequest) -> dict[str, CarrierTerms]:
    """Return the carriers to consider: the required one, or else the default one, those with terms, and those whose
    rate table has the lane. Only carriers with an account of ours are included."""
    config = await load_config(connection)
    if request.required_carrier is not None and request.required_carrier in config.bookable:
        sources = {request.required_carrier}
    else:
        rates = (await rules_and_rates.load(connection)).rates_to(request.destination)
        with_rate = {each.carrier for each in rates if each.serves(request.origin, request.destination)}
        sources = {request.default_carrier, *config.terms, *with_rate} & set(config.bookable)
    return {each: config.terms.get(each) or CarrierTerms(carrier=each) for each in sorted(sources) if each}


async def sole_choice(
    connection: AsyncConnection, request: ShippingRequest, terms: Mapping[str, CarrierTerms]
) -> Choice | None:
    """Return the only eligible carrier, where it is the required or default one, has no terms, and no rule applies.

    Such a choice needs no ranking and is not saved. ``None`` in all other cases."""
    if len(terms) > 1 or any(each != CarrierTerms(carrier=name) for name, each in terms.items()):
        return None
    if not terms.keys() & {request.required_carrier, request.default_carrier}:
        return None
    if (await load_config(connection)).rules_for(request):
        return None
    options = tuple(CarrierOption(carrier=name, reason="choice.only") for name in terms)
    return Choice(options=options, at=datetime.now(UTC))


async def choose_carrier(
    connection: AsyncConnection,
    request: ShippingRequest,
    terms: Mapping[str, CarrierTerms],
    prices: Mapping[str, Decimal],
    trial_rules: Sequence[CarrierRule] | None = None,
) -> Choice:
    """Rank the carriers of ``terms``. ``prices`` are their own quotes; ``trial_rules`` replace the saved rules."""
    now = datetime.now(UTC)
    config = await load_config(connection)
    rates = (await rules_and_rates.load(connection)).rates_to(request.destination)
    best = {each.carrier: each for each in offers(rates, request.origin, request.destination)}
    performances = await _lane_performances(connection, request)
    limited = [name for name, each in terms.items() if each.capacity is not None]
    booked = await _booked_today(connection, request.warehouse, now) if limited else {}
    candidates = [
        Candidate(
            terms=each,
            rate=best.get(name),
            price=prices.get(name),
            performance=performances.get(name, LanePerformance()),
            booked=booked.get(name, 0),
        )
        for name, each in terms.items()
    ]
    required_carrier = request.required_carrier if request.required_carrier in terms else None
    applicable = config.rules_for(request) if trial_rules is None else trial_rules
    outcome = rules.evaluate(applicable, request, terms, config.weights_for(request), now)
    request = request.model_copy(update={"required_carrier": required_carrier})
    return rank_carriers(request, candidates, outcome, now)


async def _lane_performances(connection: AsyncConnection, request: ShippingRequest) -> dict[str, LanePerformance]:
    lane = and_(_lanes.c.origin == request.origin[:2], _lanes.c.destination == request.destination[:2])
    rows = await connection.execute(select(_lanes).where(lane))
    return {row.carrier: LanePerformance.model_validate(row._mapping) for row in rows}


async def _booked_today(connection: AsyncConnection, warehouse: str, now: datetime) -> dict[str, int]:
    morning = now.astimezone(CHINA).replace(hour=0, minute=0, second=0, microsecond=0)
    query = (
        select(_fulfillments.c.carrier, func.count())
        .where(
            _fulfillments.c.warehouse == warehouse,
            _fulfillments.c.opened_at >= morning,
            _fulfillments.c.waybill_no.is_not(None),
            _fulfillments.c.status != "cancelled",
        )
        .group_by(_fulfillments.c.carrier)
    )
    return {name: count for name, count in await connection.execute(query)}


async def quote_prices(terms: Mapping[str, CarrierTerms], booking: Booking) -> dict[str, Decimal]:
    """Return the quotes, in the home currency, of the carriers with ``quotes`` set; those that give none are left
    out."""
    names = [name for name, each in terms.items() if each.quotes]
    prices = await asyncio.gather(*(_quoted_price(name, booking) for name in names))
    return {name: price for name, price in zip(names, prices, strict=True) if price is not None}


async def _quoted_price(name: str, booking: Booking) -> Decimal | None:
    """Return the lowest price that the carrier quotes; ``None`` where it quotes none in a currency with a rate."""
    account = await get_carrier_account(name)
    if account is None:
        return None
    try:
        quotes = await carrier(account).quote(booking)
    except ApplicationError:
        return None
    async with transaction() as connection:
        rates = await exchange_rates.load(connection)
    prices = []
    for each in quotes:
        try:
            prices.append(rates.convert(each.price, settings().currency, datetime.now(UTC)))
        except NoRate as error:
            activity.logger.warning("quote of %s ignored: %s", name, error)
    return min(prices, default=None)


@activity.defn(name="fulfillment.measure_carriers")
async def measure_performance() -> int:
    """Measure each carrier on each lane, from parcels shipped in the last ninety days and delivered, lost or damaged.

    A parcel is late where it was delivered after the promised time. Return the number of lanes.
    """
    now = datetime.now(UTC)
    lost = _fulfillments.c.tracking.in_([TrackingStatus.LOST, TrackingStatus.DAMAGED])
    arrived = _fulfillments.c.tracking == TrackingStatus.DELIVERED
    seconds = func.extract("epoch", _fulfillments.c.scanned_at - _fulfillments.c.shipped_at)
    transit_days = case((arrived, seconds / 86400))
    late = and_(arrived, _fulfillments.c.scanned_at > _orders.c.promised_by)
    two: ColumnElement[int] = literal_column("2")  # a bound parameter would make GROUP BY differ from the columns
    origin, destination = func.left(_warehouses.c.province, two), func.left(_orders.c.region, two)
    query = (
        select(
            _fulfillments.c.carrier,
            origin.label("origin"),
            destination.label("destination"),
            func.count().label("parcels"),
            func.count().filter(late).label("late"),
            func.count().filter(lost).label("lost"),
            func.percentile_cont(0.9).within_group(transit_days).label("days"),
        )
        .join(_orders, _orders.c.id == _fulfillments.c.order_id)
        .join(_warehouses, _warehouses.c.code == _fulfillments.c.warehouse)
        .where(_fulfillments.c.shipped_at > now - MEASURED_PERIOD, lost | arrived, _orders.c.region != "")
        .group_by(_fulfillments.c.carrier, origin, destination)
    )
    async with transaction() as connection:
        rows: Sequence[dict[str, object]] = [
            {**row._mapping, "measured_at": now} for row in await connection.execute(query)
        ]
        await connection.execute(delete(_lanes))
        if rows:
            await connection.execute(insert(_lanes), rows)
    return len(rows)
