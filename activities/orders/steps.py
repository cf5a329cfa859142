"""The activities of an order that use only our database: short, run as local activities.

Each writes its effect and the order's new snapshot in one transaction, and each may be repeated. ``at`` is the
workflow's own time.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities import cleansing
from activities.allocation import allocation
from activities.catalogue import exchange_rates, sku_mapping, skus
from activities.intake import inbox
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.kit.group_commit import GroupCommit
from activities.orders import review
from activities.orders.review import Verdict
from activities.orders.review.facts import Indexes
from activities.orders.snapshot import write_snapshots
from activities.stock import order_stock, waitlist
from models.base import Moment, Value
from models.exchange_rates import NO_RATE, Rates
from models.fulfillment import Fulfillment, ScanRow
from models.hold import Hold, HoldKind
from models.order import ChannelOrder, OrderRow, RefundState
from models.policy import Policy
from models.requests import Remark
from models.state import Admitted, Allocated, OrderState, RuleResult, Snapshot
from models.vault import keyring, seal_row

_orders = OrderRow.__table__  # type: ignore[attr-defined]
_scans = ScanRow.__table__  # type: ignore[attr-defined]


class RevisedOrder(Value):
    """A changed order after cleansing and review, with its holds, and whether stock is still reserved for it."""

    order: ChannelOrder
    holds: tuple[Hold, ...] = ()
    reserved: bool = False
    ruled: tuple[RuleResult, ...] = ()
    rejected: bool = False


class LastScan(Value):
    """The newest scan of a parcel."""

    waybill_no: str
    at: Moment


class OrderTask(Value):
    """A new order to admit, or an admitted order to allocate."""

    state: OrderState
    at: Moment
    new: bool

    @property
    def key(self) -> str:
        return self.state.order.order_id

    @property
    def turn(self) -> tuple[int, datetime, str]:
        """Sort by priority, then first come first served."""
        order = self.state.order
        return order.priority, order.placed_at, order.order_id


async def process_tasks(connection: AsyncConnection, tasks: Sequence[OrderTask]) -> list[Admitted]:
    """Admit the new orders, allocate those without holds, and write the snapshots of all."""
    states = [each.state.draft() for each in tasks]
    new = [(state, each.at) for state, each in zip(states, tasks, strict=True) if each.new]
    for state, at in new:
        await exchange_rates.refresh(connection, [state.order.currency], at)
    verdicts, unknown = await _record_new(connection, new)
    rates = await exchange_rates.load(connection)
    results = []
    for state, each in zip(states, tasks, strict=True):
        result = Admitted(at=each.at, order=state.order)
        if each.new:
            result = _admission(verdicts[each.key], state.policy, rates, each.at, unknown)
            state.admit(result)
        results.append(result)
    ready = [
        index
        for index, (state, each) in enumerate(zip(states, tasks, strict=True))
        if not each.new or (state.end is None and (not state.blocked or state.reservable))
    ]
    demands = [
        allocation.Demand(
            order=states[index].order,
            policy=states[index].policy,
            at=tasks[index].at,
            excluded_warehouses=tuple(states[index].excluded_warehouses),
            approvals_requested=tuple(states[index].approvals_requested),
        )
        for index in ready
    ]
    plans = await allocation.allocate_orders(connection, demands)
    for index, plan in zip(ready, plans, strict=True):
        allocated = Allocated(at=tasks[index].at, **dict(plan))
        states[index].plan(allocated)
        results[index] = results[index].model_copy(update={"allocated": allocated})
    await write_snapshots(connection, *(state.snapshot(each.at) for state, each in zip(states, tasks, strict=True)))
    return results


_grouped = GroupCommit(process_tasks)


@activity.defn(name="order.admit")
async def admit(state: OrderState, at: Moment) -> Admitted:
    """Cleanse, review and record a new order, and allocate it at once where nothing holds it."""
    return await _grouped(OrderTask(state=state, at=at, new=True))


@activity.defn(name="order.fail_admission")
async def fail_admission(order_id: str, reason: str) -> None:
    """Move the message of an order that cannot be admitted to failed intake."""
    async with transaction() as connection:
        await inbox.fail_order(connection, order_id, reason)


@activity.defn(name="order.allocate")
async def allocate(state: OrderState, at: Moment) -> Allocated:
    """Plan and allocate the lines still open, or put the order on the waitlist."""
    result = await _grouped(OrderTask(state=state, at=at, new=False))
    assert result.allocated is not None  # noqa: S101
    return result.allocated


@activity.defn(name="order.record")
async def record(snapshot: Snapshot) -> None:
    """Write the order's snapshot."""
    async with transaction() as connection:
        await write_snapshots(connection, snapshot)


@activity.defn(name="order.revise")
async def review_modified_order(state: OrderState, at: Moment) -> RevisedOrder:
    """Cleanse and review a modified order, and return its new holds."""
    async with transaction() as connection:
        before, unknown = await _map_skus(connection, state, cleansing.standardise(state.order))
        sold = tuple(line for line in before.lines if not line.gift)
        unreviewed = before.model_copy(update={"lines": sold, "tags": (), "sites": None})
        (verdict,) = await review.review(connection, [(unreviewed, at)])
        order = _without_new_gifts(before, verdict.order)
        reserved = state.reserved_until is not None and await _renew_reservation(
            connection, state.model_copy(update={"order": order}), at
        )
        holds = [*_validation_holds(order, state.policy, unknown, at), *verdict.holds]
        await _update_row(connection, order, at)
    return RevisedOrder(
        order=order, holds=tuple(holds), reserved=reserved, ruled=verdict.ruled, rejected=verdict.rejected
    )


async def _map_skus(
    connection: AsyncConnection, state: OrderState, order: ChannelOrder
) -> tuple[ChannelOrder, set[str]]:
    """Return the order under our own SKUs, and its unknown items. Lines in active fulfillment orders stay unchanged."""
    (mapped,), unknown = await sku_mapping.map_orders(connection, [order])
    lines = tuple(
        original if any(each.carries(original.line_no) for each in state.active) else line
        for original, line in zip(order.lines, mapped.lines, strict=True)
    )
    return mapped.model_copy(update={"lines": lines}), unknown


@activity.defn(name="order.remap_and_review")
async def remap_and_review(state: OrderState, at: Moment, just_paid: bool = False) -> RevisedOrder:
    """Map and review an order again after an item or exchange rate became known or it was paid; return only new holds.

    Holds that a person has released do not return. What waited for a rate is judged as if for the first time.
    """
    unrated = [hold for hold in state.holds if hold.reason == NO_RATE]
    before = state.order.model_copy(update={"paid_at": None}) if just_paid else state.order
    async with transaction() as connection:
        order, unknown = await _map_skus(connection, state, state.order)
        await exchange_rates.refresh(connection, [str(hold.params["currency"]) for hold in unrated], at)
        rates = await exchange_rates.load(connection)
        (previous,) = await review.review(connection, [(before, at)])
        (verdict,) = await review.review(connection, [(order, at)])
        order = verdict.order.model_copy(update={"priority": min(order.priority, verdict.order.priority)})
        gifts = {line.sku for line in order.lines if line.gift}
        unknown |= set(await skus.unknown_skus(connection, gifts))
        await _update_row(connection, order, at)
    known = {each.number for each in previous.ruled} - {hold.rule for hold in unrated}
    holds = [*_unknown_sku_holds(order, unknown, at), *(hold for hold in verdict.holds if hold.rule not in known)]
    if any(hold.rule is None for hold in unrated) and not verdict.approved:
        limits = review.limit_holds(order, state.policy, rates, at)
        holds += [hold for hold in limits if hold.reason in (NO_RATE, review.ABOVE_LIMIT)]
    ruled = tuple(each for each in verdict.ruled if each.number not in known)
    return RevisedOrder(order=order, holds=tuple(holds), ruled=ruled, rejected=verdict.rejected)


def _without_new_gifts(before: ChannelOrder, reviewed: ChannelOrder) -> ChannelOrder:
    """Return the reviewed order without gifts that are new, and with its former priority."""
    line_nos = {line.line_no for line in reviewed.lines}
    lines = tuple(line for line in before.lines if line.line_no in line_nos)
    return reviewed.model_copy(update={"lines": lines, "priority": before.priority})


@activity.defn(name="order.review_remark")
async def review_remark(state: OrderState, remark: Remark, at: Moment) -> RevisedOrder:
    """Review an order after a remark or the priority changed; return only holds that are new."""
    before = state.order
    order = before.model_copy(update=remark.model_dump(include={"buyer_message", "seller_memo", "priority"}))
    async with transaction() as connection:
        (previous,) = await review.review(connection, [(before, at)])
        (verdict,) = await review.review(connection, [(order, at)])
        rates = await exchange_rates.load(connection)
    previous_rules = {hold.rule for hold in previous.holds}
    previous_limits = {hold.reason for hold in review.limit_holds(before, state.policy, rates, at)}
    limits = [] if verdict.approved else review.limit_holds(order, state.policy, rates, at)
    holds = [hold for hold in verdict.holds if hold.rule not in previous_rules]
    holds += [hold for hold in limits if hold.reason not in previous_limits]
    return RevisedOrder(order=order, holds=tuple(holds))


async def _renew_reservation(connection: AsyncConnection, state: OrderState, at: datetime) -> bool:
    """Reserve stock for the changed order, and notify orders that wait for what it no longer needs."""
    demand = allocation.Demand(order=state.order, policy=state.policy, at=at)
    (plan,) = await allocation.allocate_orders(connection, [demand])
    order_skus = {line.sku for line in state.order.lines}
    await waitlist.notify_waiting_orders(connection, order_skus, f"{state.order.order_id}:{uuid4()}:revised")
    return plan.reserved


@activity.defn(name="order.ship")
async def ship(snapshot: Snapshot, fulfillment: Fulfillment) -> None:
    """Deduct the shipped goods from stock, after an adjustment where the recorded stock was too low."""
    try:
        async with transaction() as connection:
            await order_stock.ship(connection, snapshot.order_id, fulfillment)
            await write_snapshots(connection, snapshot)
    except InvalidInput:
        async with transaction() as connection:
            await order_stock.adjust_for_unreceived_shipment(connection, snapshot.order_id, fulfillment)
            await order_stock.ship(connection, snapshot.order_id, fulfillment)
            await write_snapshots(connection, snapshot)


@activity.defn(name="order.restock")
async def restock(snapshot: Snapshot, fulfillment: Fulfillment) -> None:
    """Return the goods of a returned parcel to stock."""
    async with transaction() as connection:
        await order_stock.restock(connection, snapshot.order_id, fulfillment)
        await write_snapshots(connection, snapshot)


@activity.defn(name="order.settle")
async def settle(snapshot: Snapshot) -> None:
    """Release the stock that is still allocated to inactive fulfillment orders."""
    async with transaction() as connection:
        await write_snapshots(connection, snapshot)
        await order_stock.release_inactive(connection, snapshot)


@activity.defn(name="order.reject")
async def reject(snapshot: Snapshot, fulfillment: Fulfillment) -> None:
    """Release the stock of a fulfillment order that its warehouse rejected, and correct stock by its shortfalls."""
    async with transaction() as connection:
        await write_snapshots(connection, snapshot)
        await order_stock.release_inactive(connection, snapshot, fulfillment)


@activity.defn(name="order.last_scans")
async def last_scans(waybill_nos: list[str]) -> list[LastScan]:
    """Return the time of the newest scan of each parcel that has one."""
    query = (
        select(_scans.c.waybill_no, func.max(_scans.c.at).label("at"))
        .where(_scans.c.waybill_no.in_(waybill_nos), _scans.c.fulfillment_id.is_not(None))
        .group_by(_scans.c.waybill_no)
    )
    async with transaction() as connection:
        return [LastScan(waybill_no=row.waybill_no, at=row.at) for row in await connection.execute(query)]


_MODIFIABLE_COLUMNS = frozenset(
    {
        *("lines", "skus", "total", "currency", "promised_by", "carrier", "tags", "sites", "priority"),
        *("recipient", "phone_index", "place_index", "region"),
    }
)


def order_row(order: ChannelOrder, at: datetime) -> dict[str, object]:
    """Return a new order as a row of ``orders``."""
    indexes = Indexes.of(order)
    row = {
        "id": order.order_id,
        "channel": order.channel,
        "shop": order.shop,
        "channel_order_no": order.channel_order_no,
        "status": "received",
        "revision": 0,
        "priority": order.priority,
        "holds": [],
        "lines": [line.model_dump(mode="json") for line in order.lines],
        "skus": sorted({line.sku for line in order.lines}),
        "origin": order.origin.located(order.recipient.region).model_dump(mode="json"),
        "custom": order.custom,
        "currency": order.currency,
        "total": order.total,
        "carrier": order.carrier,
        "recipient": order.recipient,
        "phone_index": keyring().blind_index(order.recipient.digits),
        "buyer_index": indexes.buyer,
        "place_index": indexes.place,
        "tags": list(order.tags),
        "sites": order.sites and order.sites.model_dump(mode="json"),
        "region": order.recipient.region,
        "next_step": "next.received",
        "placed_at": order.placed_at,
        "paid_at": order.paid_at,
        "promised_by": order.promised_by,
        "updated_at": at,
    }
    return seal_row(_orders, row)


async def _record_new(
    connection: AsyncConnection, new: Sequence[tuple[OrderState, datetime]]
) -> tuple[dict[str, Verdict], set[str]]:
    """Cleanse, map, record and review new orders; return the verdicts by order id, and the unknown SKUs."""
    if not new:
        return {}, set()
    orders, unknown = await sku_mapping.map_orders(connection, [cleansing.standardise(state.order) for state, _ in new])
    reviewed = [(order, at) for order, (_, at) in zip(orders, new, strict=True)]
    rows = sorted((order_row(order, at) for order, at in reviewed), key=lambda each: str(each["id"]))
    await connection.execute(insert(_orders).on_conflict_do_nothing(), rows)
    verdicts = await review.review(connection, reviewed)
    for (order, at), verdict in zip(reviewed, verdicts, strict=True):
        if verdict.order != order:
            await _update_row(connection, verdict.order, at)
    if gifts := {line.sku for verdict in verdicts for line in verdict.order.lines if line.gift}:
        unknown |= set(await skus.unknown_skus(connection, gifts))
    return {verdict.order.order_id: verdict for verdict in verdicts}, unknown


async def _update_row(connection: AsyncConnection, order: ChannelOrder, at: datetime) -> None:
    changes = {key: value for key, value in order_row(order, at).items() if key in _MODIFIABLE_COLUMNS}
    await connection.execute(update(_orders).where(_orders.c.id == order.order_id).values(changes))


def _admission(verdict: Verdict, policy: Policy, rates: Rates, at: datetime, unknown: Collection[str]) -> Admitted:
    order = verdict.order
    limits = [] if verdict.approved or verdict.rejected else review.limit_holds(order, policy, rates, at)
    holds = [*_validation_holds(order, policy, unknown, at), *verdict.holds, *limits, *review.channel_holds(order, at)]
    holds += review.content_holds(order, at)
    if any(refund.state is RefundState.ASKED for refund in order.refunds):
        holds.append(Hold(kind=HoldKind.REFUND, reason="hold.refund.asked", since=at))
    grace = max(policy.grace, verdict.minutes * 60)
    return Admitted(
        at=at,
        order=order,
        holds=tuple(holds),
        grace_until=at + timedelta(seconds=grace) if grace else None,
        ruled=verdict.ruled,
        rejected=verdict.rejected,
    )


def _validation_holds(order: ChannelOrder, policy: Policy, unknown: Collection[str], at: datetime) -> list[Hold]:
    return cleansing.validation_holds(order, policy, at) + _unknown_sku_holds(order, unknown, at)


def _unknown_sku_holds(order: ChannelOrder, unknown: Collection[str], at: datetime) -> list[Hold]:
    shop = f"{order.channel}:{order.shop}"
    return [
        Hold(kind=HoldKind.UNKNOWN_SKU, reason="hold.unknown_sku.item", params={"item": sku, "shop": shop}, since=at)
        for sku in dict.fromkeys(line.sku for line in order.lines)
        if sku in unknown
    ]
