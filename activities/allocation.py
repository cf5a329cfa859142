"""Allocation: which warehouses send what.

One rule, in the order a merchant would say it: the fewest parcels, then the buyer's own province, then the
warehouses' rank. ``plan`` is pure; ``allocate_order`` runs it under the locks of the levels it reads.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities import inventory
from models.allocation import Allocation, Candidate, Load, Plan, Site
from models.base import Moment
from models.fulfillment import Fulfillment, FulfillmentLine, FulfillmentRow, FulfillmentStatus, RequestStatus
from models.order import ChannelOrder, OrderLine, OrderRow, Policy
from models.stock import BundleRow, Level, LevelRow, Shortage, StockWaitRow, WarehouseRow

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
    total: Counter[str] = Counter()
    for line in wanted:
        total[line.sku] += line.quantity
    ranked = sorted(
        (site for site in sites if not site.closed),
        key=lambda site: (site.province != province, site.rank, site.code),
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
        reason = "plan.nearest" if site.province == province else "plan.chosen"
    elif site.closed:
        reason = "plan.closed"
    else:
        reason = "plan.lacks" if missing else "plan.behind"
    return Candidate(warehouse=site.code, chosen=chosen, reason=reason, params={"skus": ", ".join(missing)})


async def allocate_order(connection: AsyncConnection, order: ChannelOrder, policy: Policy, at: Moment) -> Allocation:
    """Allocates what the order still lacks, under lock; repeated, it finds nothing lacking.

    All or nothing unless the policy ships in part; what is missing is waited for.
    """
    existing = await _fulfillments(connection, order.order_id)
    active = [each for each in existing if each.status is not FulfillmentStatus.CANCELLED]
    bundles = await _bundles(connection, [line.sku for line in order.lines])
    wanted = _lacking(needs(order.lines, bundles), active)
    if not wanted:
        return Allocation(fulfillments=tuple(active))
    skus = {line.sku for line in wanted}
    stock: dict[str, dict[str, int]] = defaultdict(dict)
    for row in await connection.execute(
        select(LevelRow)
        .where(LevelRow.sku.in_(skus))  # type: ignore[attr-defined]
        .order_by(LevelRow.warehouse, LevelRow.sku)
        .with_for_update()
    ):
        level = Level.model_validate(row._mapping)
        stock[row.warehouse][row.sku] = BEYOND if row.oversell else level.available
    sites = [Site.model_validate(row._mapping) for row in await connection.execute(select(WarehouseRow))]
    made = plan(wanted, stock, sites, order.recipient.province, in_part=policy.ship_in_part)
    new = [
        Fulfillment(id=f"{order.order_id}:F{number}", warehouse=load.warehouse, lines=load.lines)
        for number, load in enumerate(made.loads, len(existing) + 1)
    ]
    if new:
        await inventory.allocate(connection, order.order_id, new)
        await connection.execute(insert(FulfillmentRow).values([_row(each, order.order_id, at) for each in new]))
    total = Counter(line.sku for line in wanted for _ in range(line.quantity))
    awaited = {each.sku: each.quantity if policy.ship_in_part else total[each.sku] for each in made.shortages}
    await _wait(connection, order, awaited, at)
    document = made.model_dump(mode="json")
    await connection.execute(update(OrderRow).where(OrderRow.id == order.order_id).values(plan=document))  # type: ignore[arg-type]
    return Allocation(fulfillments=(*active, *new), shortages=made.shortages)


BEYOND = 1_000_000
"""What a warehouse may promise of a SKU that may be oversold."""


async def _fulfillments(connection: AsyncConnection, order_id: str) -> list[Fulfillment]:
    rows = await connection.execute(select(FulfillmentRow).where(FulfillmentRow.order_id == order_id))  # type: ignore[arg-type]
    return [Fulfillment.model_validate(row._mapping) for row in rows]


async def _bundles(connection: AsyncConnection, skus: Sequence[str]) -> dict[str, dict[str, int]]:
    bundles: dict[str, dict[str, int]] = defaultdict(dict)
    for row in await connection.execute(select(BundleRow).where(BundleRow.bundle.in_(skus))):  # type: ignore[attr-defined]
        bundles[row.bundle][row.sku] = row.quantity
    return bundles


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


def _row(each: Fulfillment, order_id: str, at: Moment) -> dict[str, object]:
    return {
        "id": each.id,
        "order_id": order_id,
        "warehouse": each.warehouse,
        "status": FulfillmentStatus.OPEN,
        "request_status": RequestStatus.UNSUBMITTED,
        "lines": [line.model_dump(mode="json") for line in each.lines],
        "updated_at": at,
    }


async def _wait(connection: AsyncConnection, order: ChannelOrder, awaited: Mapping[str, int], at: Moment) -> None:
    """Has the order wait for just these, keeping its place in the queue."""
    await connection.execute(
        delete(StockWaitRow).where(StockWaitRow.order_id == order.order_id, StockWaitRow.sku.not_in(list(awaited)))  # type: ignore[arg-type, attr-defined]
    )
    if awaited:
        rows = [
            {"order_id": order.order_id, "sku": sku, "quantity": quantity, "priority": order.priority, "since": at}
            for sku, quantity in awaited.items()
        ]
        entered = insert(StockWaitRow).values(rows)
        again = {"quantity": entered.excluded.quantity, "priority": entered.excluded.priority}
        await connection.execute(entered.on_conflict_do_update(index_elements=["order_id", "sku"], set_=again))
