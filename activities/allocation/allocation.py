"""Allocation: plan orders and allocate their stock, under the locks of the levels that planning reads."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Select, String, bindparam, case, func, select, text, union_all
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.allocation.planning import Problem, plan
from activities.allocation.rules_and_rates import RulesAndRates, load
from activities.catalogue import exchange_rates, locations
from activities.kit import sql
from activities.kit.errors import unavailable
from activities.stock import ledger, order_stock, waitlist
from activities.stock.waitlist import StockWait
from models.allocation import Allocation, Facts, Item, Load, Objective, Plan, Site
from models.base import CHINA, Moment, Value
from models.exchange_rates import NoRate, Rates
from models.fulfillment import Fulfillment, FulfillmentLine, FulfillmentStatus, RequestStatus
from models.i18n import message
from models.money import Money
from models.order import ChannelOrder, OrderLine
from models.policy import Policy
from models.settings import settings
from models.stock import Buyer, LocationKind, Move, MovementKind, Reservation, Shortage, StockPool, VirtualWarehouse

_tables = SQLModel.metadata.tables
_orders, _fulfillments, _warehouses = _tables["orders"], _tables["fulfillments"], _tables["warehouses"]
_skus, _bundles, _substitutes = _tables["skus"], _tables["bundles"], _tables["substitutes"]


def needs(lines: Sequence[OrderLine], bundles: Mapping[str, Mapping[str, int]]) -> list[FulfillmentLine]:
    """Return the lines to ship for order lines, with bundles split into their components."""
    return [
        FulfillmentLine(line_no=line.line_no, sku=sku, quantity=line.quantity * each)
        for line in lines
        for sku, each in (bundles.get(line.sku) or {line.sku: 1}).items()
    ]


def _as_json(query: Select[Any], name: str) -> ColumnElement[Any]:
    """Aggregate the rows of a query into one JSON column."""
    rows = query.subquery(f"{name}_rows")
    aggregate = select(func.coalesce(func.jsonb_agg(rows.table_valued()), text("'[]'"), type_=JSONB))
    return aggregate.scalar_subquery().label(name)


_ITEM_COLUMNS = ("sku", "presale_on", "weight_kg", "volume_cm3", "needs")
_FULFILLMENT_COLUMNS = ("id", "order_id", "warehouse", "lines", "status", "ship_from", "queue")
_order_ids, _sold_skus = bindparam("order_ids", type_=ARRAY(String)), bindparam("skus", type_=ARRAY(String))
_components = select(_bundles.c.sku).where(_bundles.c.bundle == func.any(_sold_skus))
_shippable_skus = union_all(
    select(func.unnest(_sold_skus)),
    _components,
    select(_substitutes.c.substitute).where(
        (_substitutes.c.sku == func.any(_sold_skus)) | _substitutes.c.sku.in_(_components)
    ),
)
_opened_today = (
    select(func.count())
    .where(_fulfillments.c.warehouse == _warehouses.c.code, _fulfillments.c.opened_at >= bindparam("today"))
    .where(_fulfillments.c.status != FulfillmentStatus.CANCELLED)
    .scalar_subquery()
)
_CONTEXT = select(
    _as_json(
        select(*(_fulfillments.c[each] for each in _FULFILLMENT_COLUMNS)).where(
            _fulfillments.c.order_id == func.any(_order_ids)
        ),
        "fulfillments",
    ),
    _as_json(select(_bundles).where(_bundles.c.bundle == func.any(_sold_skus)), "bundles"),
    _as_json(select(*(_skus.c[each] for each in _ITEM_COLUMNS)).where(_skus.c.sku.in_(_shippable_skus)), "items"),
    _as_json(
        select(_substitutes)
        .where((_substitutes.c.sku == func.any(_sold_skus)) | _substitutes.c.sku.in_(_components))
        .order_by(_substitutes.c.rank, _substitutes.c.substitute),
        "substitutes",
    ),
    _as_json(
        select(
            *(_warehouses.c[each] for each in Site.model_fields if each != "capacity"),
            (_warehouses.c.capacity - case((_warehouses.c.capacity.is_not(None), _opened_today))).label("capacity"),
        ).where(_warehouses.c.kind != LocationKind.VIRTUAL),
        "sites",
    ),
    _as_json(locations.VIRTUAL_WAREHOUSES, "virtual_warehouses"),
    _as_json(order_stock.select_reservations(_order_ids), "reservations"),
    _as_json(waitlist.select_waiting(_order_ids), "waiting"),
)
"""Everything planning reads before levels are locked, in one round trip."""

_opened = sql.json_rows(
    "opened",
    *(
        _fulfillments.c[name]
        for name in (*_FULFILLMENT_COLUMNS, "request_status", "opened_at", "updated_at", "channel_notified")
    ),
)
_INSERT_FULFILLMENTS = insert(_fulfillments).from_select(
    [each.name for each in _opened.c], select(*_opened.c), include_defaults=False
)
_planned = sql.json_rows("planned", _orders.c.id, _orders.c.plan)
_SAVE_PLANS = sql.update_from(_orders, _planned)


class Demand(Value):
    """An order to allocate by its policy, at the workflow's time. An unpaid order only reserves stock."""

    order: ChannelOrder
    policy: Policy
    at: Moment
    excluded_warehouses: tuple[str, ...] = ()
    """Warehouses that must not ship it."""
    approvals_requested: tuple[str, ...] = ()
    """Reasons for which rules asked for approval, and which a person has approved."""


async def allocate_orders(connection: AsyncConnection, demands: Sequence[Demand]) -> list[Allocation]:
    """Allocate what each order is still missing, in the order given, under one lock. Repeating changes nothing.

    Allocates all or nothing unless an order's policy ships in part. An order waits for the rest and keeps its place in
    the queue: later orders get only what it does not claim. Its own reservations are available to it.
    """
    if not demands:
        return []
    context = await _read_context(connection, demands)
    missing = [
        _missing(needs(demand.order.lines, context.bundles), context.fulfillments[demand.order.order_id])
        for demand in demands
    ]
    skus = {line.sku for lines in missing for line in lines}
    skus |= {each.sku for reservations in context.reservations.values() for each in reservations}
    if any(demand.policy.substitute for demand in demands):
        skus |= {other for sku in set(skus) for other in context.substitutes.get(sku, ())}
    levels = await ledger.levels(connection, skus, lock=True) if skus else []
    pool = StockPool(levels, context.virtual_warehouses)
    free = {each.sku for each in levels if each.promisable > 0}
    ours = {demand.order.order_id for demand in demands}
    waiting = await waitlist.list_claims(connection, free, without=ours) if free else []
    claims = [each for each in waiting if each.active]
    changes = _Changes()
    allocations = []
    for demand, lines in zip(demands, missing, strict=True):
        order = demand.order
        earlier = [each for each in claims if each.turn < (order.priority, order.placed_at, order.order_id)]
        claimed = [taken for each in earlier for taken in each.take(pool)[1]]
        allocations.append(_allocate(demand, lines, context, pool, changes))
        for taken in claimed:
            pool.put(taken.location, taken.sku, taken.quantity)
    await _write(connection, changes)
    if changes.waits and len(await ledger.levels(connection, skus)) != len(levels):
        raise unavailable("error.first_receipt")
    return allocations


@dataclass
class _Context:
    """What planning knows of the orders and of the locations that may ship them."""

    routing: RulesAndRates
    exchange_rates: Rates
    sites: list[Site]
    virtual_warehouses: list[VirtualWarehouse]
    bundles: dict[str, dict[str, int]]
    items: dict[str, Item]
    presales: dict[str, datetime]
    """The moment from which a presale SKU may leave."""
    substitutes: dict[str, list[str]]
    fulfillments: dict[str, list[Fulfillment]]
    reservations: dict[str, list[Reservation]]
    waiting: set[str]


async def preview(connection: AsyncConnection, demand: Demand) -> Plan:
    """Return the plan that the order would get now as a new one. Locks and writes nothing."""
    context = await _read_context(connection, [demand])
    lines = needs(demand.order.lines, context.bundles)
    skus = {line.sku for line in lines}
    skus |= {other for sku in skus for other in context.substitutes.get(sku, ())}
    pool = StockPool(await ledger.levels(connection, skus), context.virtual_warehouses)
    return _plan(demand, lines, context, pool)


async def _read_context(connection: AsyncConnection, demands: Sequence[Demand]) -> _Context:
    skus = sorted({line.sku for demand in demands for line in demand.order.lines})
    day = demands[0].at.astimezone(CHINA).date()
    parameters = {"order_ids": [demand.order.order_id for demand in demands], "skus": skus, "today": _in_china(day)}
    row = (await connection.execute(_CONTEXT, parameters)).one()
    context = _Context(
        routing=await load(connection),
        exchange_rates=await exchange_rates.load(connection),
        sites=[Site.model_validate(each) for each in row.sites],
        virtual_warehouses=[VirtualWarehouse.model_validate(each) for each in row.virtual_warehouses],
        bundles=defaultdict(dict),
        items={each["sku"]: Item.model_validate(each) for each in row.items},
        presales={
            each["sku"]: _in_china(date.fromisoformat(each["presale_on"]))
            for each in row.items
            if each["presale_on"] is not None
        },
        substitutes=defaultdict(list),
        fulfillments=defaultdict(list),
        reservations=defaultdict(list),
        waiting={each["order_id"] for each in row.waiting},
    )
    for each in row.bundles:
        context.bundles[each["bundle"]][each["sku"]] = each["quantity"]
    for each in row.substitutes:
        context.substitutes[each["sku"]].append(each["substitute"])
    for each in row.fulfillments:
        context.fulfillments[each["order_id"]].append(Fulfillment.model_validate(each))
    for each in row.reservations:
        context.reservations[each["order_id"]].append(Reservation.model_validate(each))
    return context


def _in_china(day: date) -> datetime:
    return datetime.combine(day, time(), CHINA).astimezone(UTC)


@dataclass
class _Changes:
    """What an allocation has to write."""

    fulfillments: list[tuple[str, Fulfillment, datetime]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    """Of reservations."""
    unreserved: list[str] = field(default_factory=list)
    """Orders whose reservations end."""
    reserved: list[Reservation] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)
    waits: list[StockWait] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    """Orders that no longer wait."""


def _allocate(
    demand: Demand, lines: Sequence[FulfillmentLine], context: _Context, pool: StockPool, changes: _Changes
) -> Allocation:
    """Allocate one order from the pool and add what is to be written to ``changes``."""
    order, policy = demand.order, demand.policy
    before, reservations = context.fulfillments[order.order_id], context.reservations[order.order_id]
    active = [each for each in before if each.status is not FulfillmentStatus.CANCELLED]
    if reservations:
        changes.unreserved.append(order.order_id)
    for each in reservations:
        pool.put(each.warehouse, each.sku, each.quantity)
        changes.moves.append(each.move(MovementKind.RELEASED))
    if not lines:
        return Allocation(fulfillments=tuple(active))
    made = _plan(demand, lines, context, pool)
    if made.ask is not None:
        changes.plans.append({"id": order.order_id, "plan": made.model_dump(mode="json")})
        return Allocation(fulfillments=tuple(active), ask=made.ask)
    loads = [(load.warehouse, _take(order.as_buyer, load, pool)) for load in made.loads]
    changes.plans.append({"id": order.order_id, "plan": made.model_dump(mode="json")})
    if not order.payable:
        if made.shortages:
            return Allocation(shortages=made.shortages)
        number = max((each.number for each in reservations), default=0) + 1
        reserved = _reservations(order.order_id, number, loads)
        changes.reserved += reserved
        changes.moves += [each.move(MovementKind.RESERVED) for each in reserved]
        return Allocation(reserved=True)
    parts = [part for load in loads for part in _split_by_day(*load, context.presales, demand.at, made.in_part)]
    new = [
        Fulfillment(
            id=f"{order.order_id}:F{number}",
            warehouse=warehouse,
            lines=part,
            ship_from=day,
            queue=made.queue,
            status=FulfillmentStatus.SCHEDULED if day else FulfillmentStatus.OPEN,
        )
        for number, (warehouse, part, day) in enumerate(parts, len(before) + 1)
    ]
    changes.fulfillments += [(order.order_id, each, demand.at) for each in new]
    _reduce_capacity(context.sites, made.loads)
    if made.shortages:
        short = {each.sku: each.quantity for each in made.shortages}
        quantities = short if made.in_part else _total(lines)
        changes.waits += _waits(order, quantities, context.substitutes if policy.substitute else {})
    elif order.order_id in context.waiting:
        changes.filled.append(order.order_id)
    return Allocation(fulfillments=(*active, *new), shortages=made.shortages, out_of_reach=made.blocked is not None)


def _plan(demand: Demand, lines: Sequence[FulfillmentLine], context: _Context, pool: StockPool) -> Plan:
    """Plan from the pool. SKUs missing everywhere are substituted if the shop allows it."""
    order = demand.order
    sites = [
        site.model_copy(update={"closed": True}) if site.code in demand.excluded_warehouses else site
        for site in context.sites
    ]

    def planned(lines: Sequence[FulfillmentLine]) -> Plan:
        skus = {line.sku for line in lines}
        return plan(
            Problem(
                order=facts(demand, context.exchange_rates),
                lines=lines,
                stock={
                    site.code: {sku: pool.promisable(order.as_buyer, site.code, sku) for sku in skus}
                    for site in sites
                    if site.code not in demand.excluded_warehouses
                },
                sites=sites,
                now=demand.at,
                items=context.items,
                rates=context.routing.rates_to(order.recipient.province),
                rules=[
                    rule for rule in context.routing.rules if rule.approval_reason not in demand.approvals_requested
                ],
                objective=Objective(criteria=demand.policy.objective),
                allow_partial=demand.policy.ship_in_part,
            )
        )

    made = planned(lines)
    if demand.policy.substitute:
        for sku in [each.sku for each in made.shortages]:
            for other in context.substitutes[sku]:
                replaced = [
                    line.model_copy(update={"sku": other, "instead_of": sku}) if line.sku == sku else line
                    for line in lines
                ]
                again = planned(replaced)
                if not {sku, other} & {each.sku for each in again.shortages}:
                    lines, made = replaced, again
                    break
    return _in_whole_sets(made, lines, order, context.bundles) if made.in_part and made.shortages else made


def _in_whole_sets(
    made: Plan, lines: Sequence[FulfillmentLine], order: ChannelOrder, bundles: Mapping[str, Mapping[str, int]]
) -> Plan:
    """Return a plan in part without the components of bundles that it cannot complete; they are missing instead."""
    sold = {line.line_no: line for line in order.lines}
    missing, planned = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for line in lines:
        missing[line.line_no, line.sold_sku] += line.quantity
    for part in made.loads:
        for line in part.lines:
            planned[line.line_no, line.sold_sku] += line.quantity
    surplus = Counter[tuple[str, str]]()
    for line_no in {line.line_no for line in lines}:
        recipe = bundles.get(sold[line_no].sku) or {}
        carried = {sku: each * sold[line_no].quantity - missing[line_no, sku] for sku, each in recipe.items()}
        sets = min(((carried[sku] + planned[line_no, sku]) // each for sku, each in recipe.items()), default=0)
        for sku, each in recipe.items():
            surplus[line_no, sku] = max(planned[line_no, sku] - max(sets * each - carried[sku], 0), 0)
    if not any(surplus.values()):
        return made
    short = Counter({each.sku: each.quantity for each in made.shortages})
    loads = []
    for part in made.loads:
        kept = []
        for line in part.lines:
            dropped = min(line.quantity, surplus[line.line_no, line.sold_sku])
            surplus[line.line_no, line.sold_sku] -= dropped
            short[line.sold_sku] += dropped
            if line.quantity > dropped:
                kept.append(line.model_copy(update={"quantity": line.quantity - dropped}))
        if kept:
            loads.append(part.model_copy(update={"lines": tuple(kept)}))
    shortages = tuple(Shortage(sku=sku, quantity=quantity) for sku, quantity in short.items() if quantity)
    return made.model_copy(update={"loads": tuple(loads), "shortages": shortages})


def facts(demand: Demand, rates: Rates) -> Facts:
    """Return what planning and its rules need to know of an order."""
    order, home, ask_total = demand.order, settings().currency, None
    try:
        total = rates.convert(Money.model_construct(amount=order.total, currency=order.currency), home, demand.at)
    except NoRate as error:
        total = None
        question = message("hold.review.no_rate", currency=error.currency, home=home)
        ask_total = None if question in demand.approvals_requested else question
    return Facts(
        province=order.recipient.province,
        city=order.recipient.city,
        channel=order.channel,
        shop=f"{order.channel}:{order.shop}",
        campaign=order.origin.campaign,
        carrier=order.carrier,
        total=total,
        ask_total=ask_total,
        priority=order.priority,
        placed_at=order.placed_at,
        promised_by=order.promised_by,
        sites=order.sites,
    )


def _reduce_capacity(sites: list[Site], loads: Iterable[Load]) -> None:
    """Count loads against the capacity of their sites."""
    taken = Counter(load.warehouse for load in loads)
    for number, site in enumerate(sites):
        if site.capacity is not None and taken[site.code]:
            sites[number] = site.model_copy(update={"capacity": site.capacity - taken[site.code]})


def _take(buyer: Buyer, load: Load, pool: StockPool) -> tuple[FulfillmentLine, ...]:
    """Take a load from the pool. Each line returned names the virtual warehouse that it comes from."""
    return tuple(
        line.model_copy(update={"quantity": part, "stock": place if place != load.warehouse else None})
        for line in load.lines
        for place, part in pool.take(buyer, load.warehouse, line.sku, line.quantity)
    )


def _reservations(
    order_id: str, number: int, loads: Iterable[tuple[str, tuple[FulfillmentLine, ...]]]
) -> list[Reservation]:
    quantities: Counter[tuple[str, str]] = Counter()
    for warehouse, lines in loads:
        for line in lines:
            quantities[line.stock or warehouse, line.sku] += line.quantity
    return [
        Reservation(order_id=order_id, warehouse=warehouse, sku=sku, quantity=quantity, number=number)
        for (warehouse, sku), quantity in quantities.items()
    ]


def _split_by_day(
    warehouse: str, lines: tuple[FulfillmentLine, ...], presales: Mapping[str, datetime], at: Moment, in_part: bool
) -> list[tuple[str, tuple[FulfillmentLine, ...], datetime | None]]:
    """Split a load by the day on which its lines may leave. Unless ``in_part``, all leave on the last day."""
    days = {line: day for line in lines if (day := presales.get(line.sku)) is not None and day > at}
    if not in_part:
        return [(warehouse, lines, max(days.values(), default=None))]
    parts: dict[datetime | None, list[FulfillmentLine]] = defaultdict(list)
    for line in lines:
        parts[days.get(line)].append(line)
    return [(warehouse, tuple(part), day) for day, part in parts.items()]


async def _write(connection: AsyncConnection, changes: _Changes) -> None:
    if changes.unreserved:
        await order_stock.delete_reservations(connection, changes.unreserved)
    if changes.fulfillments or changes.moves:
        fulfillments = [(order_id, each) for order_id, each, _ in changes.fulfillments]
        await order_stock.allocate(connection, fulfillments, changes.moves)
    if changes.reserved:
        await order_stock.insert_reservations(connection, changes.reserved)
    if changes.fulfillments:
        opened = [_row(each, order_id, at) for order_id, each, at in changes.fulfillments]
        await connection.execute(_INSERT_FULFILLMENTS, {"opened": opened})
    if changes.waits:
        await waitlist.enqueue(connection, changes.waits)
    if changes.filled:
        await waitlist.dequeue(connection, changes.filled)
    if changes.plans:
        await connection.execute(_SAVE_PLANS, {"planned": changes.plans})


def _total(lines: Iterable[FulfillmentLine]) -> Counter[str]:
    total: Counter[str] = Counter()
    for line in lines:
        total[line.sku] += line.quantity
    return total


def _missing(lines: Sequence[FulfillmentLine], fulfillments: Sequence[Fulfillment]) -> list[FulfillmentLine]:
    """Return the lines less what active fulfillment orders already contain."""
    carried: Counter[tuple[str, str]] = Counter()
    for each in fulfillments:
        for line in each.lines if each.status is not FulfillmentStatus.CANCELLED else ():
            carried[line.line_no, line.sold_sku] += line.quantity
    missing = []
    for line in lines:
        left = line.quantity - carried[line.line_no, line.sku]
        if left > 0:
            missing.append(line.model_copy(update={"quantity": left}))
    return missing


def _row(each: Fulfillment, order_id: str, at: datetime) -> dict[str, object]:
    return {
        "id": each.id,
        "order_id": order_id,
        "warehouse": each.warehouse,
        "status": each.status,
        "ship_from": each.ship_from and each.ship_from.isoformat(),
        "queue": each.queue,
        "channel_notified": False,
        "opened_at": at.isoformat(),
        "request_status": RequestStatus.UNSUBMITTED,
        "lines": [line.model_dump(mode="json") for line in each.lines],
        "updated_at": at.isoformat(),
    }


def _waits(
    order: ChannelOrder, quantities: Mapping[str, int], substitutes: Mapping[str, Sequence[str]]
) -> list[StockWait]:
    return [
        StockWait(
            order_id=order.order_id,
            sku=sku,
            quantity=quantity,
            priority=order.priority,
            since=order.placed_at,
            campaign=order.as_buyer.campaign,
            province=order.recipient.province,
            instead=tuple(substitutes.get(sku, ())),
        )
        for sku, quantity in quantities.items()
    ]
