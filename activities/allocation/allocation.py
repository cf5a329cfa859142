"""Allocation: what each order is given, planned and entered under the locks of the levels it reads."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    String,
    bindparam,
    case,
    delete,
    func,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.allocation.planning import Problem, plan
from activities.allocation.rules_and_rates import RulesAndRates, load
from activities.catalogue import locations, skus
from activities.kit import sql
from activities.kit.errors import unavailable
from activities.stock import ledger, order_stock
from models.allocation import Allocation, Facts, Item, Load, Objective, Plan, Site
from models.base import CHINA, Moment, Value
from models.fulfillment import Fulfillment, FulfillmentLine, FulfillmentStatus, RequestStatus
from models.order import ChannelOrder, OrderLine
from models.policy import Policy
from models.stock import Buyer, LocationKind, Move, MovementKind, Reservation, StockPool, VirtualWarehouse

_tables = SQLModel.metadata.tables
_orders, _fulfillments, _waits = _tables["orders"], _tables["fulfillments"], _tables["stock_waits"]
_skus, _bundles, _substitutes = _tables["skus"], _tables["bundles"], _tables["substitutes"]
_warehouses, _kept = _tables["warehouses"], _tables["reservations"]


def needs(lines: Sequence[OrderLine], bundles: Mapping[str, Mapping[str, int]]) -> list[FulfillmentLine]:
    """What must leave for these lines, bundles taken apart."""
    return [
        FulfillmentLine(line_no=line.line_no, sku=sku, quantity=line.quantity * each)
        for line in lines
        for sku, each in (bundles.get(line.sku) or {line.sku: 1}).items()
    ]


def _together(query: Select[Any], name: str) -> ColumnElement[Any]:
    """The rows of a query as one JSON column."""
    rows = query.subquery(f"{name}_rows")
    found = select(func.coalesce(func.jsonb_agg(rows.table_valued()), text("'[]'"), type_=JSONB))
    return found.scalar_subquery().label(name)


_ITEM = ("sku", "presale_on", "weight_kg", "volume_cm3", "needs")
_PARCEL = ("id", "order_id", "warehouse", "lines", "status", "ship_from", "queue")
_ours, _sold = bindparam("order_ids", type_=ARRAY(String)), bindparam("skus", type_=ARRAY(String))
_parts = select(_bundles.c.sku).where(_bundles.c.bundle == func.any(_sold))
_shipped = union_all(
    select(func.unnest(_sold)),
    _parts,
    select(_substitutes.c.substitute).where((_substitutes.c.sku == func.any(_sold)) | _substitutes.c.sku.in_(_parts)),
)
_taken_today = (
    select(func.count())
    .where(_fulfillments.c.warehouse == _warehouses.c.code, _fulfillments.c.opened_at >= bindparam("today"))
    .where(_fulfillments.c.status != FulfillmentStatus.CANCELLED)
    .scalar_subquery()
)
_CIRCUMSTANCES = select(
    _together(
        select(*(_fulfillments.c[each] for each in _PARCEL)).where(_fulfillments.c.order_id == func.any(_ours)),
        "fulfillments",
    ),
    _together(select(_bundles).where(_bundles.c.bundle == func.any(_sold)), "bundles"),
    _together(select(*(_skus.c[each] for each in _ITEM)).where(_skus.c.sku.in_(_shipped)), "items"),
    _together(
        select(_substitutes)
        .where((_substitutes.c.sku == func.any(_sold)) | _substitutes.c.sku.in_(_parts))
        .order_by(_substitutes.c.rank, _substitutes.c.substitute),
        "substitutes",
    ),
    _together(
        select(
            *(_warehouses.c[each] for each in Site.model_fields if each != "capacity"),
            (_warehouses.c.capacity - case((_warehouses.c.capacity.is_not(None), _taken_today))).label("capacity"),
        ).where(_warehouses.c.kind != LocationKind.VIRTUAL),
        "sites",
    ),
    _together(locations.VIRTUAL_WAREHOUSES, "fences"),
    _together(select(_kept).where(_kept.c.order_id == func.any(_ours)), "reservations"),
    _together(select(_waits.c.order_id).where(_waits.c.order_id == func.any(_ours)), "waits"),
)
"""What there is to know of orders before levels are locked."""

_opened = sql.json_rows(
    "opened",
    *(_fulfillments.c[name] for name in (*_PARCEL, "request_status", "opened_at", "updated_at", "channel_notified")),
)
_OPEN = insert(_fulfillments).from_select([each.name for each in _opened.c], select(*_opened.c), include_defaults=False)
_planned = sql.json_rows("planned", _orders.c.id, _orders.c.plan)
_KEEP_PLANS = sql.update_from(_orders, _planned)


class Demand(Value):
    """An order to be given what it still lacks, by its policy, at the workflow's time; unpaid, it is only set aside."""

    order: ChannelOrder
    policy: Policy
    at: Moment
    excluded_warehouses: tuple[str, ...] = ()
    """Warehouses that are not to send it."""
    approvals_requested: tuple[str, ...] = ()
    """What rules wanted a person to decide, and a person has."""


async def allocate_orders(connection: AsyncConnection, demands: Sequence[Demand]) -> list[Allocation]:
    """Allocates what each order still lacks, the first first, under one lock; repeated, it finds nothing lacking.

    All or nothing unless an order's policy ships in part; for the rest it waits, keeping its place in the queue. What
    was reserved for an order is its own to take.
    """
    if not demands:
        return []
    known = await _circumstances(connection, demands)
    lacking = [
        _lacking(needs(demand.order.lines, known.bundles), known.fulfillments[demand.order.order_id])
        for demand in demands
    ]
    wanted = {line.sku for lines in lacking for line in lines}
    wanted |= {each.sku for order in known.reservations.values() for each in order}
    if any(demand.policy.substitute for demand in demands):
        wanted |= {other for sku in set(wanted) for other in known.substitutes.get(sku, ())}
    levels = await ledger.levels(connection, wanted, lock=True) if wanted else []
    shelves = StockPool(levels, known.fences)
    outcome = _Outcome()
    allocations = [
        _allocate(demand, lines, known, shelves, outcome) for demand, lines in zip(demands, lacking, strict=True)
    ]
    await _enter(connection, outcome)
    if outcome.waits and len(await ledger.levels(connection, wanted)) != len(levels):
        raise unavailable("a warehouse received the missing goods for the first time meanwhile")
    return allocations


@dataclass
class _Circumstances:
    """What is known of orders and of the places that may serve them."""

    routing: RulesAndRates
    sites: list[Site]
    fences: list[VirtualWarehouse]
    bundles: dict[str, dict[str, int]]
    items: dict[str, Item]
    presales: dict[str, datetime]
    """When what is sold before it is there may leave."""
    substitutes: dict[str, list[str]]
    fulfillments: dict[str, list[Fulfillment]]
    reservations: dict[str, list[Reservation]]
    waiting: set[str]


async def preview(connection: AsyncConnection, demand: Demand) -> Plan:
    """The plan that an order would get now, were it new; nothing is locked, and nothing written."""
    known = await _circumstances(connection, [demand])
    lines = needs(demand.order.lines, known.bundles)
    skus = {line.sku for line in lines}
    skus |= {other for sku in skus for other in known.substitutes.get(sku, ())}
    return _plan(demand, lines, known, StockPool(await ledger.levels(connection, skus), known.fences))


async def _circumstances(connection: AsyncConnection, demands: Sequence[Demand]) -> _Circumstances:
    skus = sorted({line.sku for demand in demands for line in demand.order.lines})
    day = demands[0].at.astimezone(CHINA).date()
    asked = {"order_ids": [demand.order.order_id for demand in demands], "skus": skus, "today": _in_china(day)}
    found = (await connection.execute(_CIRCUMSTANCES, asked)).one()
    known = _Circumstances(
        routing=await load(connection),
        sites=[Site.model_validate(each) for each in found.sites],
        fences=[VirtualWarehouse.model_validate(each) for each in found.fences],
        bundles=defaultdict(dict),
        items={each["sku"]: Item.model_validate(each) for each in found.items},
        presales={
            each["sku"]: _in_china(date.fromisoformat(each["presale_on"]))
            for each in found.items
            if each["presale_on"] is not None
        },
        substitutes=defaultdict(list),
        fulfillments=defaultdict(list),
        reservations=defaultdict(list),
        waiting={each["order_id"] for each in found.waits},
    )
    for each in found.bundles:
        known.bundles[each["bundle"]][each["sku"]] = each["quantity"]
    for each in found.substitutes:
        known.substitutes[each["sku"]].append(each["substitute"])
    for each in found.fulfillments:
        known.fulfillments[each["order_id"]].append(Fulfillment.model_validate(each))
    for each in found.reservations:
        known.reservations[each["order_id"]].append(Reservation.model_validate(each))
    return known


def _in_china(day: date) -> datetime:
    return datetime.combine(day, time(), CHINA).astimezone(UTC)


@dataclass
class _Outcome:
    """What allocating orders has to write."""

    new: list[tuple[str, Fulfillment, datetime]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    """Reservations taken and given back."""
    unreserved: list[str] = field(default_factory=list)
    """The orders whose reservations end."""
    reserved: list[Reservation] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)
    waits: list[tuple[Demand, dict[str, int], Mapping[str, list[str]]]] = field(default_factory=list)
    """The demands that wait, for what, and what would do instead."""
    filled: list[str] = field(default_factory=list)
    """The orders that wait no more."""


def _allocate(
    demand: Demand, lines: Sequence[FulfillmentLine], known: _Circumstances, shelves: StockPool, outcome: _Outcome
) -> Allocation:
    """What one order gets of what is on the shelves now."""
    order, policy = demand.order, demand.policy
    before, reservations = known.fulfillments[order.order_id], known.reservations[order.order_id]
    active = [each for each in before if each.status is not FulfillmentStatus.CANCELLED]
    if reservations:
        outcome.unreserved.append(order.order_id)
    for each in reservations:
        shelves.put(each.warehouse, each.sku, each.quantity)
        outcome.moves.append(each.move(MovementKind.RELEASED))
    if not lines:
        return Allocation(fulfillments=tuple(active))
    made = _plan(demand, lines, known, shelves)
    if made.ask is not None:
        outcome.plans.append({"id": order.order_id, "plan": made.model_dump(mode="json")})
        return Allocation(fulfillments=tuple(active), ask=made.ask)
    loads = [(load.warehouse, _taken(order.as_buyer, load, shelves)) for load in made.loads]
    outcome.plans.append({"id": order.order_id, "plan": made.model_dump(mode="json")})
    if not order.payable:
        if made.shortages:
            return Allocation(shortages=made.shortages)
        number = max((each.number for each in reservations), default=0) + 1
        kept = _reservations(order.order_id, number, loads)
        outcome.reserved += kept
        outcome.moves += [each.move(MovementKind.RESERVED) for each in kept]
        return Allocation(reserved=True)
    parts = [part for load in loads for part in _by_day(*load, known.presales, demand.at, made.in_part)]
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
    outcome.new += [(order.order_id, each, demand.at) for each in new]
    _occupied(known.sites, made.loads)
    if made.shortages:
        short = {each.sku: each.quantity for each in made.shortages}
        waits = short if made.in_part else dict(_total(lines))
        outcome.waits.append((demand, waits, known.substitutes if policy.substitute else {}))
    elif order.order_id in known.waiting:
        outcome.filled.append(order.order_id)
    return Allocation(fulfillments=(*active, *new), shortages=made.shortages, out_of_reach=made.blocked is not None)


def _plan(demand: Demand, lines: Sequence[FulfillmentLine], known: _Circumstances, shelves: StockPool) -> Plan:
    """The plan for what the shelves hold; what is missing everywhere is replaced where the shop allows it."""
    order = demand.order
    sites = [
        site.model_copy(update={"closed": True}) if site.code in demand.excluded_warehouses else site
        for site in known.sites
    ]

    def planned(wanted: Sequence[FulfillmentLine]) -> Plan:
        skus = {line.sku for line in wanted}
        return plan(
            Problem(
                order=facts(order),
                wanted=wanted,
                stock={
                    site.code: {sku: shelves.promisable(order.as_buyer, site.code, sku) for sku in skus}
                    for site in sites
                    if site.code not in demand.excluded_warehouses
                },
                sites=sites,
                now=demand.at,
                items=known.items,
                rates=known.routing.rates_to(order.recipient.province),
                rules=[rule for rule in known.routing.rules if rule.wants not in demand.approvals_requested],
                objective=Objective(criteria=demand.policy.objective),
                in_part=demand.policy.ship_in_part,
            )
        )

    made = planned(lines)
    if demand.policy.substitute:
        for sku in [each.sku for each in made.shortages]:
            for other in known.substitutes[sku]:
                replaced = [
                    line.model_copy(update={"sku": other, "instead_of": sku}) if line.sku == sku else line
                    for line in lines
                ]
                again = planned(replaced)
                if not {sku, other} & {each.sku for each in again.shortages}:
                    lines, made = replaced, again
                    break
    return made


def facts(order: ChannelOrder) -> Facts:
    """What planning and its rules look at."""
    return Facts(
        province=order.recipient.province,
        city=order.recipient.city,
        channel=order.channel,
        shop=f"{order.channel}:{order.shop}",
        campaign=order.origin.campaign,
        carrier=order.carrier,
        total=order.total,
        priority=order.priority,
        placed_at=order.placed_at,
        promised_by=order.promised_by,
        sites=order.sites,
    )


def _occupied(sites: list[Site], loads: Iterable[Load]) -> None:
    """What has a capacity has less of it."""
    taken = Counter(load.warehouse for load in loads)
    for number, site in enumerate(sites):
        if site.capacity is not None and taken[site.code]:
            sites[number] = site.model_copy(update={"capacity": site.capacity - taken[site.code]})


def _taken(buyer: Buyer, load: Load, shelves: StockPool) -> tuple[FulfillmentLine, ...]:
    """A load taken off the shelves, each line naming the virtual warehouse that it comes from."""
    return tuple(
        line.model_copy(update={"quantity": part, "stock": place if place != load.warehouse else None})
        for line in load.lines
        for place, part in shelves.take(buyer, load.warehouse, line.sku, line.quantity)
    )


def _reservations(
    order_id: str, number: int, loads: Iterable[tuple[str, tuple[FulfillmentLine, ...]]]
) -> list[Reservation]:
    kept: Counter[tuple[str, str]] = Counter()
    for warehouse, lines in loads:
        for line in lines:
            kept[line.stock or warehouse, line.sku] += line.quantity
    return [
        Reservation(order_id=order_id, warehouse=warehouse, sku=sku, quantity=quantity, number=number)
        for (warehouse, sku), quantity in kept.items()
    ]


def _by_day(
    warehouse: str, lines: tuple[FulfillmentLine, ...], presales: Mapping[str, datetime], at: Moment, in_part: bool
) -> list[tuple[str, tuple[FulfillmentLine, ...], datetime | None]]:
    """A load by the day its parts may leave; all on the last day unless in part."""
    days = {line: day for line in lines if (day := presales.get(line.sku)) is not None and day > at}
    if not in_part:
        return [(warehouse, lines, max(days.values(), default=None))]
    parts: dict[datetime | None, list[FulfillmentLine]] = defaultdict(list)
    for line in lines:
        parts[days.get(line)].append(line)
    return [(warehouse, tuple(part), day) for day, part in parts.items()]


async def _enter(connection: AsyncConnection, outcome: _Outcome) -> None:
    if outcome.unreserved:
        await connection.execute(delete(_kept).where(_kept.c.order_id.in_(outcome.unreserved)))
    if outcome.new or outcome.moves:
        await order_stock.allocate(connection, [(order_id, each) for order_id, each, _ in outcome.new], outcome.moves)
    if outcome.reserved:
        await connection.execute(insert(_kept), [each.model_dump() for each in outcome.reserved])
    if outcome.new:
        opened = [_row(each, order_id, at) for order_id, each, at in outcome.new]
        await connection.execute(_OPEN, {"opened": opened})
    if outcome.waits:
        await _wait(connection, outcome.waits)
    if outcome.filled:
        await connection.execute(delete(_waits).where(_waits.c.order_id.in_(outcome.filled)))
    if outcome.plans:
        await connection.execute(_KEEP_PLANS, {"planned": outcome.plans})


def _total(wanted: Sequence[FulfillmentLine]) -> Counter[str]:
    total: Counter[str] = Counter()
    for line in wanted:
        total[line.sku] += line.quantity
    return total


def _lacking(wanted: Sequence[FulfillmentLine], fulfillments: Sequence[Fulfillment]) -> list[FulfillmentLine]:
    """What is wanted, less what active fulfillment orders already carry."""
    carried: Counter[tuple[str, str]] = Counter()
    for each in fulfillments:
        for line in each.lines if each.status is not FulfillmentStatus.CANCELLED else ():
            carried[line.line_no, line.sold_sku] += line.quantity
    lacking = []
    for line in wanted:
        left = line.quantity - carried[line.line_no, line.sku]
        if left > 0:
            lacking.append(line.model_copy(update={"quantity": left}))
    return lacking


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


async def _wait(
    connection: AsyncConnection, waits: Sequence[tuple[Demand, Mapping[str, int], Mapping[str, list[str]]]]
) -> None:
    """Has each order wait for just these; no level of theirs is opened unseen."""
    awaited: dict[tuple[str, str], dict[str, Any]] = {
        (demand.order.order_id, sku): {
            "quantity": quantity,
            "priority": demand.order.priority,
            "since": demand.order.placed_at,
            "campaign": demand.order.as_buyer.campaign,
            "province": demand.order.recipient.province,
            "instead": instead.get(sku, []),
        }
        for demand, skus, instead in waits
        for sku, quantity in skus.items()
    }
    await skus.lock_skus(connection, {sku for _, sku in awaited})
    waiting = _waits.c.order_id.in_({order_id for order_id, _ in awaited})
    await connection.execute(delete(_waits).where(waiting, tuple_(_waits.c.order_id, _waits.c.sku).not_in(awaited)))
    entered = insert(_waits)
    again = {name: entered.excluded[name] for name in ("quantity", "priority", "province", "instead")}
    await connection.execute(
        entered.on_conflict_do_update(index_elements=["order_id", "sku"], set_=again),
        [
            {"order_id": order_id, "sku": sku} | row
            for (order_id, sku), row in sorted(awaited.items(), key=lambda item: item[0])
        ],
    )
