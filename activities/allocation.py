"""Allocation: what each order is given, planned and entered under the locks of the levels it reads."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Select, String, bindparam, delete, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities import inventory, projection
from activities.errors import unavailable
from activities.planning import Problem, plan
from models.allocation import Allocation, Facts, Site
from models.base import Moment, Value
from models.fulfillment import Fulfillment, FulfillmentLine, FulfillmentStatus, RequestStatus
from models.order import ChannelOrder, OrderLine, Policy

_tables = SQLModel.metadata.tables
_orders, _fulfillments, _waits = _tables["orders"], _tables["fulfillments"], _tables["stock_waits"]
_bundles, _warehouses = _tables["bundles"], _tables["warehouses"]


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


_ours = bindparam("order_ids", type_=ARRAY(String))
_CIRCUMSTANCES = select(
    _together(
        select(*(_fulfillments.c[each] for each in ("id", "order_id", "warehouse", "lines", "status"))).where(
            _fulfillments.c.order_id == func.any(_ours)
        ),
        "fulfillments",
    ),
    _together(select(_bundles).where(_bundles.c.bundle == func.any(bindparam("skus", type_=ARRAY(String)))), "bundles"),
    _together(select(*(_warehouses.c[each] for each in Site.model_fields if each in _warehouses.c)), "warehouses"),
    _together(select(_waits.c.order_id).where(_waits.c.order_id == func.any(_ours)), "waits"),
)
"""What there is to know of orders before levels are locked."""

_planned = projection.rows("planned", _orders.c.id, _orders.c.plan)
_KEEP_PLANS = projection.change(_orders, _planned)


class Demand(Value):
    """An order to be given what it still lacks, by its policy, at the workflow's time."""

    order: ChannelOrder
    policy: Policy
    at: Moment


async def allocate_orders(connection: AsyncConnection, demands: Sequence[Demand]) -> list[Allocation]:
    """Allocates what each order still lacks, the first first, under one lock; repeated, it finds nothing lacking.

    All or nothing unless an order's policy ships in part; for the rest it waits, keeping its place in the queue.
    """
    if not demands:
        return []
    skus = sorted({line.sku for demand in demands for line in demand.order.lines})
    asked = {"order_ids": [demand.order.order_id for demand in demands], "skus": skus}
    known = (await connection.execute(_CIRCUMSTANCES, asked)).one()
    bundles: dict[str, dict[str, int]] = defaultdict(dict)
    for each in known.bundles:
        bundles[each["bundle"]][each["sku"]] = each["quantity"]
    existing: dict[str, list[Fulfillment]] = defaultdict(list)
    for each in known.fulfillments:
        existing[each["order_id"]].append(Fulfillment.model_validate(each))
    lacking = [_lacking(needs(demand.order.lines, bundles), existing[demand.order.order_id]) for demand in demands]
    wanted = {line.sku for lines in lacking for line in lines}
    levels = await inventory.levels(connection, wanted, lock=True) if wanted else []
    stock: dict[str, dict[str, int]] = defaultdict(dict)
    for level in levels:
        stock[level.warehouse][level.sku] = level.promisable
    sites = [Site.model_validate(each) for each in known.warehouses]
    waited = {each["order_id"] for each in known.waits}
    outcome = _Outcome()
    allocations = []
    for demand, lines in zip(demands, lacking, strict=True):
        order, before = demand.order, existing[demand.order.order_id]
        active = [each for each in before if each.status is not FulfillmentStatus.CANCELLED]
        if not lines:
            allocations.append(Allocation(fulfillments=tuple(active)))
            continue
        problem = Problem(
            order=_facts(order),
            wanted=lines,
            stock=stock,
            sites=sites,
            now=demand.at,
            in_part=demand.policy.ship_in_part,
        )
        made = plan(problem)
        new = [
            Fulfillment(id=f"{order.order_id}:F{number}", warehouse=load.warehouse, lines=load.lines)
            for number, load in enumerate(made.loads, len(before) + 1)
        ]
        for each in new:
            for line in each.lines:
                stock[each.warehouse][line.sku] -= line.quantity
        outcome.new += [(order.order_id, each, demand.at) for each in new]
        outcome.plans.append({"id": order.order_id, "plan": made.model_dump(mode="json")})
        if made.shortages:
            short = {each.sku: each.quantity for each in made.shortages}
            outcome.waits.append((demand, short if demand.policy.ship_in_part else dict(_total(lines))))
        elif order.order_id in waited:
            outcome.filled.append(order.order_id)
        allocations.append(Allocation(fulfillments=(*active, *new), shortages=made.shortages))
    await _enter(connection, outcome)
    if outcome.waits and len(await inventory.levels(connection, wanted)) != len(levels):
        raise unavailable("a warehouse received the missing goods for the first time meanwhile")
    return allocations


def _facts(order: ChannelOrder) -> Facts:
    return Facts(
        province=order.recipient.province,
        city=order.recipient.city,
        channel=order.channel,
        shop=order.shop,
        carrier=order.carrier,
        total=order.total,
        priority=order.priority,
        placed_at=order.placed_at,
        promised_by=order.promised_by,
    )


@dataclass
class _Outcome:
    """What allocating orders has to write."""

    new: list[tuple[str, Fulfillment, datetime]] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)
    waits: list[tuple[Demand, dict[str, int]]] = field(default_factory=list)
    """The demands that wait, and for what."""
    filled: list[str] = field(default_factory=list)
    """The orders that wait no more."""


async def _enter(connection: AsyncConnection, outcome: _Outcome) -> None:
    if outcome.new:
        await inventory.allocate(connection, [(order_id, each) for order_id, each, _ in outcome.new])
        await connection.execute(
            insert(_fulfillments), [_row(each, order_id, at) for order_id, each, at in outcome.new]
        )
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
            carried[line.line_no, line.sku] += line.quantity
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
        "status": FulfillmentStatus.OPEN,
        "request_status": RequestStatus.UNSUBMITTED,
        "lines": [line.model_dump(mode="json") for line in each.lines],
        "updated_at": at,
    }


async def _wait(connection: AsyncConnection, waits: Sequence[tuple[Demand, Mapping[str, int]]]) -> None:
    """Has each order wait for just these; no level of theirs is opened unseen."""
    awaited = {
        (demand.order.order_id, sku): {"quantity": quantity, "priority": demand.order.priority, "since": demand.at}
        for demand, skus in waits
        for sku, quantity in skus.items()
    }
    await inventory.lock_skus(connection, {sku for _, sku in awaited})
    waiting = _waits.c.order_id.in_({order_id for order_id, _ in awaited})
    await connection.execute(delete(_waits).where(waiting, tuple_(_waits.c.order_id, _waits.c.sku).not_in(awaited)))
    entered = insert(_waits)
    again = {"quantity": entered.excluded.quantity, "priority": entered.excluded.priority}
    await connection.execute(
        entered.on_conflict_do_update(index_elements=["order_id", "sku"], set_=again),
        [
            {"order_id": order_id, "sku": sku} | row
            for (order_id, sku), row in sorted(awaited.items(), key=lambda item: item[0])
        ],
    )
