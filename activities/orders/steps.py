"""The steps of an order that touch our database alone: short, grouped, run as local activities.

Each writes its effect and the order's new snapshot in one transaction, and each may be repeated. ``at`` is the
workflow's own time.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.allocation import allocation
from activities.catalogue import sku_mapping, skus
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.kit.group_commit import GroupCommit
from activities.orders import cleansing, review
from activities.orders.review import Verdict
from activities.orders.review.facts import Indexes
from activities.orders.snapshot import write_snapshots
from activities.stock import order_stock, waitlist
from models.base import Moment, Value
from models.fulfillment import Fulfillment, ScanRow
from models.hold import Hold, HoldKind
from models.order import ChannelOrder, OrderRow, RefundState
from models.policy import Policy
from models.requests import Remark
from models.state import Admitted, Allocated, OrderState, RuleResult, Snapshot
from models.vault import keyring

_orders = OrderRow.__table__  # type: ignore[attr-defined]
_scans = ScanRow.__table__  # type: ignore[attr-defined]


class RevisedOrder(Value):
    """A modified order as cleansed, with what now holds it, and whether stock is still set aside for it."""

    order: ChannelOrder
    holds: tuple[Hold, ...] = ()
    reserved: bool = False
    ruled: tuple[RuleResult, ...] = ()
    rejected: bool = False


class LastScan(Value):
    """The newest scan of a parcel."""

    waybill_no: str
    at: Moment


class Decision(Value):
    """An order that asks for stock, or is new and asks to be taken in."""

    state: OrderState
    at: Moment
    new: bool

    @property
    def key(self) -> str:
        return self.state.order.order_id

    @property
    def turn(self) -> tuple[int, datetime, str]:
        """First come first served within a priority."""
        order = self.state.order
        return order.priority, order.placed_at, order.order_id


async def decide(connection: AsyncConnection, decisions: Sequence[Decision]) -> list[Admitted]:
    """Takes the new ones in, allocates those that nothing holds, and writes all of them down."""
    states = [each.state.draft() for each in decisions]
    new = [(state, each.at) for state, each in zip(states, decisions, strict=True) if each.new]
    verdicts, unknown = await _enter(connection, new)
    answers = []
    for state, each in zip(states, decisions, strict=True):
        answer = Admitted(at=each.at, order=state.order)
        if each.new:
            answer = _admitted(verdicts[each.key], state.policy, each.at, unknown)
            state.admit(answer)
        answers.append(answer)
    ready = [
        index
        for index, (state, each) in enumerate(zip(states, decisions, strict=True))
        if not each.new or (state.end is None and (not state.blocked or state.reservable))
    ]
    demands = [
        allocation.Demand(
            order=states[index].order,
            policy=states[index].policy,
            at=decisions[index].at,
            excluded_warehouses=tuple(states[index].excluded_warehouses),
            approvals_requested=tuple(states[index].approvals_requested),
        )
        for index in ready
    ]
    for index, given in zip(ready, await allocation.allocate_orders(connection, demands), strict=True):
        allocated = Allocated(at=decisions[index].at, **dict(given))
        states[index].plan(allocated)
        answers[index] = answers[index].model_copy(update={"allocated": allocated})
    await write_snapshots(connection, *(state.snapshot(each.at) for state, each in zip(states, decisions, strict=True)))
    return answers


_together = GroupCommit(decide)


@activity.defn(name="order.admit")
async def admit(state: OrderState, at: Moment) -> Admitted:
    """Cleanses, reviews and records a new order, and allocates it at once where nothing stands in its way."""
    return await _together(Decision(state=state, at=at, new=True))


@activity.defn(name="order.allocate")
async def allocate(state: OrderState, at: Moment) -> Allocated:
    """Plans and allocates what the order still lacks, or leaves it waiting for stock."""
    decided = await _together(Decision(state=state, at=at, new=False))
    assert decided.allocated is not None  # noqa: S101
    return decided.allocated


@activity.defn(name="order.record")
async def record(snapshot: Snapshot) -> None:
    """Writes what people are to see."""
    async with transaction() as connection:
        await write_snapshots(connection, snapshot)


@activity.defn(name="order.revise")
async def revise(state: OrderState, at: Moment) -> RevisedOrder:
    """Cleanses a modified order, and finds what holds it now."""
    async with transaction() as connection:
        before, unknown = await _mapped(connection, state, cleansing.standardise(state.order))
        sold = tuple(line for line in before.lines if not line.gift)
        afresh = before.model_copy(update={"lines": sold, "tags": (), "sites": None})
        (verdict,) = await review.review(connection, [(afresh, at)])
        order = _kept(before, verdict.order)
        reserved = state.reserved_until is not None and await _reserve_anew(
            connection, state.model_copy(update={"order": order}), at
        )
        holds = [*_doubts(order, state.policy, unknown, at), *verdict.holds]
        await _rewrite(connection, order, at)
    return RevisedOrder(
        order=order, holds=tuple(holds), reserved=reserved, ruled=verdict.ruled, rejected=verdict.rejected
    )


async def _mapped(connection: AsyncConnection, state: OrderState, order: ChannelOrder) -> tuple[ChannelOrder, set[str]]:
    """The order under our own SKUs, and names that nobody knows. What is on its way stays what it is."""
    (named,), unknown = await sku_mapping.map_orders(connection, [order])
    lines = tuple(
        told if any(each.carries(told.line_no) for each in state.active) else line
        for told, line in zip(order.lines, named.lines, strict=True)
    )
    return named.model_copy(update={"lines": lines}), unknown


@activity.defn(name="order.remap_and_review")
async def remap_and_review(state: OrderState, at: Moment, just_paid: bool = False) -> RevisedOrder:
    """An order of which more is known now: under our own SKUs, or paid, with what the rules make of that, and with what
    holds it that did not before. What a person has approved stays so."""
    before = state.order.model_copy(update={"paid_at": None}) if just_paid else state.order
    async with transaction() as connection:
        order, unknown = await _mapped(connection, state, state.order)
        (was,) = await review.review(connection, [(before, at)])
        (verdict,) = await review.review(connection, [(order, at)])
        order = verdict.order.model_copy(update={"priority": min(order.priority, verdict.order.priority)})
        gifts = {line.sku for line in order.lines if line.gift}
        unknown |= set(await skus.unknown_skus(connection, gifts))
        await _rewrite(connection, order, at)
    known = {each.number for each in was.ruled}
    holds = [*_unknown(order, unknown, at), *(hold for hold in verdict.holds if hold.rule not in known)]
    ruled = tuple(each for each in verdict.ruled if each.number not in known)
    return RevisedOrder(order=order, holds=tuple(holds), ruled=ruled, rejected=verdict.rejected)


def _kept(before: ChannelOrder, now: ChannelOrder) -> ChannelOrder:
    """A modified order as reviewed anew: a gift no longer earned is lost, none is added; how urgent it is stays."""
    given = {line.line_no for line in now.lines}
    lines = tuple(line for line in before.lines if line.line_no in given)
    return now.model_copy(update={"lines": lines, "priority": before.priority})


@activity.defn(name="order.review_remark")
async def review_remark(state: OrderState, remark: Remark, at: Moment) -> RevisedOrder:
    """What holds an order now that buyer or seller said something else, and did not before."""
    before = state.order
    order = before.model_copy(update=remark.model_dump(include={"buyer_message", "seller_memo", "priority"}))
    async with transaction() as connection:
        (was,) = await review.review(connection, [(before, at)])
        (verdict,) = await review.review(connection, [(order, at)])
    rules = {hold.rule for hold in was.holds}
    reasons = {hold.reason for hold in review.limits(before, state.policy, at)}
    limits = [] if verdict.approved else review.limits(order, state.policy, at)
    holds = [hold for hold in verdict.holds if hold.rule not in rules]
    holds += [hold for hold in limits if hold.reason not in reasons]
    return RevisedOrder(order=order, holds=tuple(holds))


async def _reserve_anew(connection: AsyncConnection, state: OrderState, at: datetime) -> bool:
    """Sets aside what the order now is about; what it is not about any more is free for others."""
    demand = allocation.Demand(order=state.order, policy=state.policy, at=at)
    (given,) = await allocation.allocate_orders(connection, [demand])
    lines = {line.sku for line in state.order.lines}
    await waitlist.notify_waiting_orders(connection, lines, f"{state.order.order_id}:{state.revision}:revised")
    return given.reserved


@activity.defn(name="order.ship")
async def ship(snapshot: Snapshot, fulfillment: Fulfillment) -> None:
    """The goods have left: takes them off the stock, also where the books did not have them."""
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
    """A parcel came back: puts its goods on the stock again."""
    async with transaction() as connection:
        await order_stock.restock(connection, snapshot.order_id, fulfillment)
        await write_snapshots(connection, snapshot)


@activity.defn(name="order.settle")
async def settle(snapshot: Snapshot) -> None:
    """Gives back whatever stock is still allocated to fulfillment orders that will not leave."""
    async with transaction() as connection:
        await write_snapshots(connection, snapshot)
        await order_stock.release_inactive(connection, snapshot)


@activity.defn(name="order.reject")
async def reject(snapshot: Snapshot, fulfillment: Fulfillment) -> None:
    """Its warehouse rejected it: gives its stock back, and puts right what the warehouse found amiss."""
    async with transaction() as connection:
        await write_snapshots(connection, snapshot)
        await order_stock.release_inactive(connection, snapshot, fulfillment)


@activity.defn(name="order.last_scans")
async def last_scans(waybill_nos: list[str]) -> list[LastScan]:
    """When each parcel was last seen, of those seen at all."""
    query = (
        select(_scans.c.waybill_no, func.max(_scans.c.at).label("at"))
        .where(_scans.c.waybill_no.in_(waybill_nos))
        .group_by(_scans.c.waybill_no)
    )
    async with transaction() as connection:
        return [LastScan(waybill_no=row.waybill_no, at=row.at) for row in await connection.execute(query)]


_MODIFIABLE = frozenset(
    {"lines", "total", "recipient", "phone_index", "place_index", "region", "carrier", "tags", "sites", "priority"}
)


def row(order: ChannelOrder, at: datetime) -> dict[str, object]:
    """A new order as a row of ``orders``."""
    indexes = Indexes.of(order)
    return {
        "id": order.order_id,
        "channel": order.channel,
        "shop": order.shop,
        "channel_order_no": order.channel_order_no,
        "status": "received",
        "revision": 0,
        "priority": order.priority,
        "holds": [],
        "lines": [line.model_dump(mode="json") for line in order.lines],
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


async def _enter(
    connection: AsyncConnection, new: Sequence[tuple[OrderState, datetime]]
) -> tuple[dict[str, Verdict], set[str]]:
    """Cleanses, maps, records and reviews new orders: what the rules come to, by order; and SKUs that nobody knows."""
    if not new:
        return {}, set()
    orders, unknown = await sku_mapping.map_orders(connection, [cleansing.standardise(state.order) for state, _ in new])
    reviewed = [(order, at) for order, (_, at) in zip(orders, new, strict=True)]
    rows = sorted((row(order, at) for order, at in reviewed), key=lambda each: str(each["id"]))
    await connection.execute(insert(_orders).on_conflict_do_nothing(), rows)
    verdicts = await review.review(connection, reviewed)
    for (order, at), verdict in zip(reviewed, verdicts, strict=True):
        if verdict.order != order:
            await _rewrite(connection, verdict.order, at)
    if gifts := {line.sku for verdict in verdicts for line in verdict.order.lines if line.gift}:
        unknown |= set(await skus.unknown_skus(connection, gifts))
    return {verdict.order.order_id: verdict for verdict in verdicts}, unknown


async def _rewrite(connection: AsyncConnection, order: ChannelOrder, at: datetime) -> None:
    changes = {key: value for key, value in row(order, at).items() if key in _MODIFIABLE}
    await connection.execute(update(_orders).where(_orders.c.id == order.order_id).values(changes))


def _admitted(verdict: Verdict, policy: Policy, at: datetime, unknown: Collection[str]) -> Admitted:
    order = verdict.order
    limits = [] if verdict.approved or verdict.rejected else review.limits(order, policy, at)
    holds = [*_doubts(order, policy, unknown, at), *verdict.holds, *limits, *review.told(order, at)]
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


def _doubts(order: ChannelOrder, policy: Policy, unknown: Collection[str], at: datetime) -> list[Hold]:
    return cleansing.doubts(order, policy, at) + _unknown(order, unknown, at)


def _unknown(order: ChannelOrder, unknown: Collection[str], at: datetime) -> list[Hold]:
    shop = f"{order.channel}:{order.shop}"
    return [
        Hold(kind=HoldKind.UNKNOWN_SKU, reason="hold.unknown_sku.item", params={"item": sku, "shop": shop}, since=at)
        for sku in dict.fromkeys(line.sku for line in order.lines)
        if sku in unknown
    ]
