"""Allocation: which warehouses send what.

One rule, in the order a merchant would say it: the fewest parcels, then the nearest, then the warehouses' rank.
``plan`` is pure; ``allocate_order`` runs it under the locks of the levels it reads.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import combinations
from typing import Any

from sqlalchemy import ColumnElement, Select, String, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities import inventory
from activities.errors import unavailable
from models.address import remoteness
from models.allocation import Allocation, Candidate, Load, Plan, Site
from models.fulfillment import Fulfillment, FulfillmentLine, FulfillmentStatus, RequestStatus
from models.order import ChannelOrder, OrderLine, Policy
from models.stock import Shortage

_tables = SQLModel.metadata.tables
_orders, _fulfillments, _waits = _tables["orders"], _tables["fulfillments"], _tables["stock_waits"]
_bundles, _warehouses = _tables["bundles"], _tables["warehouses"]

Stock = Mapping[str, Mapping[str, int]]
"""What each warehouse can promise: warehouse → SKU → quantity."""


def needs(lines: Sequence[OrderLine], bundles: Mapping[str, Mapping[str, int]]) -> list[FulfillmentLine]:
    """What must leave for these lines, bundles taken apart."""
    return [
        FulfillmentLine(line_no=line.line_no, sku=sku, quantity=line.quantity * each)
        for line in lines
        for sku, each in (bundles.get(line.sku) or {line.sku: 1}).items()
    ]


def plan(
    wanted: Sequence[FulfillmentLine], stock: Stock, sites: Sequence[Site], province: str, *, in_part: bool = False
) -> Plan:
    """The plan for what is wanted; without ``in_part`` it is all of it or none."""
    total = _total(wanted)
    ranked = sorted(
        (site for site in sites if not site.closed),
        key=lambda site: (remoteness(site.province, province), site.rank, site.code),
    )
    useful = [site.code for site in ranked if any(stock.get(site.code, {}).get(sku, 0) > 0 for sku in total)]
    there = {sku: sum(max(stock.get(code, {}).get(sku, 0), 0) for code in useful) for sku in total}
    shortages = tuple(
        Shortage(sku=sku, quantity=quantity - there[sku]) for sku, quantity in total.items() if there[sku] < quantity
    )
    chosen: tuple[str, ...] = ()
    if not shortages or in_part:
        chosen = _fewest({sku: min(quantity, there[sku]) for sku, quantity in total.items()}, stock, useful)
    return Plan(
        loads=_loads(wanted, stock, chosen),
        shortages=shortages,
        candidates=tuple(_candidate(site, site.code in chosen, total, stock, province) for site in sites),
    )


def _fewest(total: Mapping[str, int], stock: Stock, codes: Sequence[str]) -> tuple[str, ...]:
    """The smallest set of warehouses that has it all; of equal ones, the first in order of preference."""
    for size in range(1, len(codes) + 1):
        for group in combinations(codes, size):
            if all(
                sum(max(stock[code].get(sku, 0), 0) for code in group if code in stock) >= quantity
                for sku, quantity in total.items()
            ):
                return group
    return ()


def _loads(wanted: Sequence[FulfillmentLine], stock: Stock, chosen: Sequence[str]) -> tuple[Load, ...]:
    """Fills each line from the first warehouse that can take it whole, else from several in order."""
    free = {code: dict(stock[code]) for code in chosen}
    given: dict[str, list[FulfillmentLine]] = defaultdict(list)
    for line in wanted:
        left = line.quantity
        whole = [code for code in chosen if free[code].get(line.sku, 0) >= left]
        for code in whole[:1] or chosen:
            part = min(left, max(free[code].get(line.sku, 0), 0))
            if part:
                free[code][line.sku] -= part
                given[code].append(line.model_copy(update={"quantity": part}))
                left -= part
    return tuple(Load(warehouse=code, lines=tuple(given[code])) for code in chosen if given[code])


def _candidate(site: Site, chosen: bool, total: Mapping[str, int], stock: Stock, province: str) -> Candidate:
    missing = [sku for sku, quantity in total.items() if stock.get(site.code, {}).get(sku, 0) < quantity]
    if chosen:
        reason = "plan.nearest" if remoteness(site.province, province) == 0 else "plan.chosen"
    elif site.closed:
        reason = "plan.closed"
    else:
        reason = "plan.lacks" if missing else "plan.behind"
    return Candidate(warehouse=site.code, chosen=chosen, reason=reason, params={"skus": ", ".join(missing)})


def _together(query: Select[Any], name: str) -> ColumnElement[Any]:
    """The rows of a query as one JSON column."""
    rows = query.subquery(f"{name}_rows")
    found = select(func.coalesce(func.jsonb_agg(rows.table_valued()), text("'[]'"), type_=JSONB))
    return found.scalar_subquery().label(name)


_ours = bindparam("order_id", type_=String)
_CIRCUMSTANCES = select(
    _together(
        select(*(_fulfillments.c[each] for each in ("id", "warehouse", "lines", "status"))).where(
            _fulfillments.c.order_id == _ours
        ),
        "fulfillments",
    ),
    _together(select(_bundles).where(_bundles.c.bundle.in_(bindparam("skus", expanding=True))), "bundles"),
    _together(select(*(_warehouses.c[each] for each in Site.model_fields)), "warehouses"),
    _together(select(_waits.c.sku).where(_waits.c.order_id == _ours), "waits"),
)
"""What there is to know of an order before levels are locked."""


async def allocate_order(connection: AsyncConnection, order: ChannelOrder, policy: Policy, at: datetime) -> Allocation:
    """Allocates what the order still lacks, under lock; repeated, it finds nothing lacking.

    All or nothing unless the policy ships in part; for the rest the order waits, keeping its place in the queue.
    """
    asked = {"order_id": order.order_id, "skus": [line.sku for line in order.lines]}
    known = (await connection.execute(_CIRCUMSTANCES, asked)).one()
    existing = [Fulfillment.model_validate(each) for each in known.fulfillments]
    active = [each for each in existing if each.status is not FulfillmentStatus.CANCELLED]
    bundles: dict[str, dict[str, int]] = defaultdict(dict)
    for each in known.bundles:
        bundles[each["bundle"]][each["sku"]] = each["quantity"]
    wanted = _lacking(needs(order.lines, bundles), active)
    if not wanted:
        return Allocation(fulfillments=tuple(active))
    total = _total(wanted)
    levels = await inventory.levels(connection, total, lock=True)
    stock: dict[str, dict[str, int]] = defaultdict(dict)
    for level in levels:
        stock[level.warehouse][level.sku] = level.promisable
    sites = [Site.model_validate(each) for each in known.warehouses]
    made = plan(wanted, stock, sites, order.recipient.province, in_part=policy.ship_in_part)
    new = [
        Fulfillment(id=f"{order.order_id}:F{number}", warehouse=load.warehouse, lines=load.lines)
        for number, load in enumerate(made.loads, len(existing) + 1)
    ]
    if new:
        await inventory.allocate(connection, order.order_id, new)
        await connection.execute(insert(_fulfillments), [_row(each, order.order_id, at) for each in new])
    if made.shortages:
        missing = {each.sku: each.quantity for each in made.shortages}
        await _wait(connection, order, missing if policy.ship_in_part else total, at)
        if len(await inventory.levels(connection, total)) != len(levels):
            raise unavailable("a warehouse received the missing goods for the first time meanwhile")
    elif known.waits:
        await connection.execute(delete(_waits).where(_waits.c.order_id == order.order_id))
    document = made.model_dump(mode="json")
    await connection.execute(update(_orders).where(_orders.c.id == order.order_id).values(plan=document))
    return Allocation(fulfillments=(*active, *new), shortages=made.shortages)


def _total(wanted: Sequence[FulfillmentLine]) -> Counter[str]:
    total: Counter[str] = Counter()
    for line in wanted:
        total[line.sku] += line.quantity
    return total


def _lacking(wanted: Sequence[FulfillmentLine], active: Sequence[Fulfillment]) -> list[FulfillmentLine]:
    """What is wanted, less what active fulfillment orders already carry."""
    carried: Counter[tuple[str, str]] = Counter()
    for each in active:
        for line in each.lines:
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


async def _wait(connection: AsyncConnection, order: ChannelOrder, awaited: Mapping[str, int], at: datetime) -> None:
    """Has the order wait for just these; no level of theirs is opened unseen."""
    await inventory.lock_skus(connection, awaited)
    mine = _waits.c.order_id == order.order_id
    await connection.execute(delete(_waits).where(mine, _waits.c.sku.not_in(awaited)))
    entered = insert(_waits)
    again = {"quantity": entered.excluded.quantity, "priority": entered.excluded.priority}
    await connection.execute(
        entered.on_conflict_do_update(index_elements=["order_id", "sku"], set_=again),
        [
            {"order_id": order.order_id, "sku": sku, "quantity": quantity, "priority": order.priority, "since": at}
            for sku, quantity in awaited.items()
        ],
    )
