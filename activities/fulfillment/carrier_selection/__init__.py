"""Choosing a carrier for a parcel: what staff and rate tables say, what carriers ask, and how they did."""

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
from activities.fulfillment.carrier_selection import rules
from activities.kit.database import transaction
from activities.kit.ttl_cache import TtlCache
from models.allocation import offers
from models.base import CHINA
from models.carrier_selection import (
    Candidate,
    CarrierRow,
    CarrierRule,
    CarrierTerms,
    Choice,
    LaneRow,
    Option,
    Service,
    ShippingRequest,
    Weights,
    choose,
)
from models.fulfillment import Booking, FulfillmentRow, TrackingStatus
from models.intake import Account, AccountRow, IntegrationType
from models.order import OrderRow
from models.stock import WarehouseRow

_carriers: Table = CarrierRow.__table__  # type: ignore[attr-defined]
_lanes: Table = LaneRow.__table__  # type: ignore[attr-defined]
_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]
_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]

MEASURED = timedelta(days=90)


@dataclass(frozen=True)
class CarrierConfig:
    """What holds of all parcels."""

    terms: Mapping[str, CarrierTerms]
    held: Sequence[str]
    """The carriers that book for us."""
    rules: Sequence[CarrierRule]
    weights: Mapping[str, Weights]
    """By ``channel:shop``; those of ``""`` hold of all others."""

    def rules_of(self, parcel: ShippingRequest) -> list[CarrierRule]:
        return [rule for rule in self.rules if rule.concerns(f"{parcel.channel}:{parcel.shop}")]

    def weights_of(self, parcel: ShippingRequest) -> Weights:
        return self.weights.get(f"{parcel.channel}:{parcel.shop}", self.weights[""])


_cache: TtlCache[str, CarrierConfig] = TtlCache(5)


def clear_cache() -> None:
    """Forces the next ``load_config`` in this process to read the database."""
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
    """As of a few seconds ago at most."""
    return await _cache.get(str(connection.engine.url), lambda: _read(connection))


async def _read(connection: AsyncConnection) -> CarrierConfig:
    query = select(_accounts.c.source).where(_accounts.c.integration == IntegrationType.CARRIER).distinct()
    return CarrierConfig(
        terms=await list_terms(connection),
        held=[source for source in sorted(await connection.scalars(query)) if _books(source)],
        rules=await rules.list_rules(connection),
        weights=await rules.list_weights(connection),
    )


def _books(source: str) -> bool:
    """``False`` also where no adapter of such a carrier is here."""
    try:
        return isinstance(tracker(Account(integration=IntegrationType.CARRIER, source=source, account="")), Carrier)
    except ModuleNotFoundError:
        return False


async def eligible_carriers(connection: AsyncConnection, parcel: ShippingRequest) -> dict[str, CarrierTerms]:
    """The carriers that may be considered: the one demanded, or else the usual one, those with terms, and those whose
    table has the lane; each with an account of ours."""
    now = await load_config(connection)
    if parcel.demanded is not None and parcel.demanded in now.held:
        named = {parcel.demanded}
    else:
        rates = (await rules_and_rates.load(connection)).rates_to(parcel.destination)
        lane = {each.carrier for each in rates if each.serves(parcel.origin, parcel.destination)}
        named = {parcel.usual, *now.terms, *lane} & set(now.held)
    return {each: now.terms.get(each) or CarrierTerms(carrier=each) for each in sorted(named) if each}


async def sole_choice(
    connection: AsyncConnection, parcel: ShippingRequest, terms: Mapping[str, CarrierTerms]
) -> Choice | None:
    """The only carrier there is, demanded or usual, where it takes everything and no rule has a say: nothing need be
    weighed, nor kept."""
    if len(terms) > 1 or any(each != CarrierTerms(carrier=name) for name, each in terms.items()):
        return None
    if not terms.keys() & {parcel.demanded, parcel.usual} or (await load_config(connection)).rules_of(parcel):
        return None
    options = tuple(Option(carrier=name, reason="choice.only") for name in terms)
    return Choice(options=options, at=datetime.now(UTC))


async def choice(
    connection: AsyncConnection,
    parcel: ShippingRequest,
    terms: Mapping[str, CarrierTerms],
    prices: Mapping[str, Decimal],
    rules_of_it: Sequence[CarrierRule] | None = None,
) -> Choice:
    """Weighs them; ``prices`` are the carriers' own. Other rules than those in force are only tried."""
    now = datetime.now(UTC)
    holding = await load_config(connection)
    rates = (await rules_and_rates.load(connection)).rates_to(parcel.destination)
    best = {each.carrier: each for each in offers(rates, parcel.origin, parcel.destination)}
    services = await _services(connection, parcel)
    full = [name for name, each in terms.items() if each.capacity is not None]
    booked = await _booked_today(connection, parcel.warehouse, now) if full else {}
    candidates = [
        Candidate(
            terms=each,
            rate=best.get(name),
            price=prices.get(name),
            service=services.get(name, Service()),
            booked=booked.get(name, 0),
        )
        for name, each in terms.items()
    ]
    demanded = parcel.demanded if parcel.demanded in terms else None
    book = holding.rules_of(parcel) if rules_of_it is None else rules_of_it
    say = rules.evaluate(book, parcel, terms, holding.weights_of(parcel), now)
    return choose(parcel.model_copy(update={"demanded": demanded}), candidates, say, now)


async def _services(connection: AsyncConnection, parcel: ShippingRequest) -> dict[str, Service]:
    lane = and_(_lanes.c.origin == parcel.origin[:2], _lanes.c.destination == parcel.destination[:2])
    rows = await connection.execute(select(_lanes).where(lane))
    return {row.carrier: Service.model_validate(row._mapping) for row in rows}


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
    """What those carriers ask that are to be asked, as far as they say."""
    asked = [name for name, each in terms.items() if each.quotes]
    told = await asyncio.gather(*(_asked(name, booking) for name in asked))
    return {name: price for name, price in zip(asked, told, strict=True) if price is not None}


async def _asked(name: str, booking: Booking) -> Decimal | None:
    """The lowest price that a carrier itself asks; ``None`` where it says none."""
    account = await get_carrier_account(name)
    if account is None:
        return None
    try:
        offered = await carrier(account).quote(booking)
    except ApplicationError:
        return None
    return min((each.price.amount for each in offered), default=None)


@activity.defn(name="fulfillment.measure_carriers")
async def measure_performance() -> int:
    """Measures anew how carriers did on each lane, from parcels that left in the last ninety days and arrived, or never
    will; the number of lanes. A parcel is late where it came after its promise."""
    now = datetime.now(UTC)
    lost = _fulfillments.c.tracking.in_([TrackingStatus.LOST, TrackingStatus.DAMAGED])
    arrived = _fulfillments.c.tracking == TrackingStatus.DELIVERED
    seconds = func.extract("epoch", _fulfillments.c.scanned_at - _fulfillments.c.shipped_at)
    took = case((arrived, seconds / 86400))
    late = and_(arrived, _fulfillments.c.scanned_at > _orders.c.promised_by)
    two: ColumnElement[int] = literal_column("2")  # for PostgreSQL to see that it groups by what it shows
    origin, destination = func.left(_warehouses.c.province, two), func.left(_orders.c.region, two)
    query = (
        select(
            _fulfillments.c.carrier,
            origin.label("origin"),
            destination.label("destination"),
            func.count().label("parcels"),
            func.count().filter(late).label("late"),
            func.count().filter(lost).label("lost"),
            func.percentile_cont(0.9).within_group(took).label("days"),
        )
        .join(_orders, _orders.c.id == _fulfillments.c.order_id)
        .join(_warehouses, _warehouses.c.code == _fulfillments.c.warehouse)
        .where(_fulfillments.c.shipped_at > now - MEASURED, lost | arrived, _orders.c.region != "")
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
