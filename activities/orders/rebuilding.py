"""Rebuild what one store lost of an order from the other: its row from the workflow, or the workflow from its row.

Every function that mends returns why a person is needed, as a message key; empty if none is.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError

from activities.accounts.accounts import get_account
from activities.allocation import allocation
from activities.intake import changes, inbox
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.orders.snapshot import write_snapshots
from activities.orders.starting import start_order, started_with
from activities.orders.steps import order_row
from activities.records import exceptions
from activities.records.timeline import add_entries
from activities.stock import order_stock
from models.base import bounded_key
from models.exceptions import ExceptionKind, NewException
from models.fulfillment import (
    MILESTONES,
    TERMINAL_STATUSES,
    Fulfillment,
    FulfillmentRow,
    FulfillmentStatus,
    RequestStatus,
    ScanRow,
    TrackingStatus,
)
from models.hold import Hold
from models.intake import InboxRow, InboxState, IntegrationType
from models.order import ChannelOrder, Entry, OrderLine, OrderRow, OrderStatus
from models.policy import Policy
from models.requests import StockArrived, Tracking, WarehouseEvent, WarehouseEventKind
from models.state import OrderState
from models.stock import ReservationRow

_orders = OrderRow.__table__  # type: ignore[attr-defined]
_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]
_reservations = ReservationRow.__table__  # type: ignore[attr-defined]
_scans = ScanRow.__table__  # type: ignore[attr-defined]
_inbox = InboxRow.__table__  # type: ignore[attr-defined]

ACTOR = "doctor"
_QUERY_TIMEOUT = timedelta(seconds=10)
"""A workflow that waits for a step answers when its task is renewed."""


async def query(handle: WorkflowHandle[Any, Any]) -> OrderState | None:
    """Return the state of a workflow; ``None`` if it cannot answer."""
    try:
        state: OrderState = await handle.query("state", result_type=OrderState, rpc_timeout=_QUERY_TIMEOUT)
        return state
    except (RPCError, TemporalError):
        return None


async def ask_person(order_id: str, reason: str) -> None:
    channel, shop = order_id.split(":")[1:3]
    exception = NewException(
        key=f"{order_id}:{ExceptionKind.STORES_DIFFER}",
        kind=ExceptionKind.STORES_DIFFER,
        order_id=order_id,
        shop=f"{channel}:{shop}",
        detail={"reason": reason},
    )
    async with transaction() as connection:
        await exceptions.open_all(connection, [exception])


# The row from the workflow


async def recover_lost_order(client: Client, order_id: str) -> ChannelOrder | None:
    """Rebuild the row of an order that only the engine knows; return what the workflow knows of the channel's version.

    Return ``None`` while the workflow does not answer. Raise ``RPCError`` or ``RuntimeError`` if the engine is down.
    """
    if reason := await rebuild_row(client, order_id):
        await ask_person(order_id, reason)
    async with transaction() as connection:
        known, recorded = (await inbox.load_documents(connection, [order_id])).get(order_id, (None, False))
    return known if recorded else None


async def rebuild_row(client: Client, order_id: str) -> str:
    """Write the row, its fulfillment orders and its stock as the workflow knows them; return why a person is needed."""
    handle = client.get_workflow_handle(order_id)
    state, first = await query(handle), await started_with(client, order_id)
    if state is None or first is None:
        return "doctor.silent"
    reason = ""
    async with transaction() as connection:
        await _write_row(connection, state, first)
        try:
            async with connection.begin_nested():
                if not await order_stock.reenter(connection, order_id, state.fulfillments):
                    reason = "doctor.stock"
                if state.reserved_until is not None and not state.order.payable and not state.status.final:
                    demand = allocation.Demand(order=state.order, policy=state.policy, at=datetime.now(UTC))
                    await allocation.allocate_orders(connection, [demand])
                await order_stock.release_inactive(connection, state.snapshot(datetime.now(UTC)))
        except InvalidInput:
            reason = "doctor.stock"
        waybills = [each.id for each in state.active if each.waybill_no and not each.has_shipped]
        unlabelled = select(_fulfillments.c.id).where(_fulfillments.c.id.in_(waybills), _fulfillments.c.label.is_(None))
        if (await connection.execute(unlabelled)).first() is not None:
            reason = reason or "doctor.label"
    if state.shortages and not state.status.final:  # its place among those that wait for stock may be lost
        arrived = StockArrived(request_id=f"doctor:{state.revision}", actor=ACTOR)
        await handle.signal("stock_arrived", arrived)
    if not state.status.final:
        await repeat_lost_messages(client, order_id)
    return reason


async def _write_row(connection: AsyncConnection, state: OrderState, first: ChannelOrder) -> None:
    """Write the order and what the channel last said of it, as far as the workflow knows; ``first``: when it began."""
    order, now = state.order, datetime.now(UTC)
    row = order_row(order, now) | {"seen": 0, "run_id": "", "past_runs": []}  # so that the snapshot below is newer
    known = await inbox.load_documents(connection, [order.order_id])
    saved, recorded = known.get(order.order_id, (first, True))
    document = saved if recorded else first  # without a row, what is saved has not reached the workflow
    statement = insert(_orders).values(row)
    changed = {name: statement.excluded[name] for name in row if name not in ("id", "channel", "shop", "placed_at")}
    await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))
    for each in state.fulfillments:
        values = {
            **each.model_dump(mode="json", include={"id", "warehouse", "lines"}),
            **each.model_dump(
                include={"status", "request_status", "carrier", "waybill_no", "tracking", "weight_kg"}
                | {"channel_notified", "ship_from", "queue", "opened_at", "shipped_at"}
            ),
        }
        new = insert(_fulfillments).values(order_id=order.order_id, updated_at=now, **values)
        newer = {name: new.excluded[name] for name in values if name != "id"}
        await connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=newer))
    refunds = {each.refund_no: each for each in (*document.refunds, *order.refunds)}
    facts = {"paid_at": document.paid_at or order.paid_at, "refunds": tuple(refunds.values())}
    document = document.model_copy(update=facts)
    await inbox.save_documents(connection, [document], replace=True)
    waiting = (_inbox.c.order_id == order.order_id) & (_inbox.c.state == InboxState.STARTED)
    await inbox.requeue(connection, waiting)
    await write_snapshots(connection, state.snapshot(now).model_copy(update={"entries": (), "exceptions": ()}))
    entry = Entry(key=f"rebuilt:{state.revision}", at=now, what="timeline.rebuilt", actor=ACTOR)
    await add_entries(connection, order.order_id, [entry])


# The workflow from the row


async def replace(client: Client, order_id: str, run_id: str | None, *, final: bool) -> str:
    """Terminate a run that is older than its row, and start it from the row; return why a person is needed.

    ``run_id``: ``None`` if it has ended. ``final``: whether the row has, so that nothing is to be started.
    """
    if not final and isinstance(state := await _state_of_row(order_id), str):
        return state
    if run_id is not None:
        handle = client.get_workflow_handle(order_id, run_id=run_id)
        await handle.terminate(reason="older than its row in the database: replaced on request")
    return "" if final else await start_from_row(client, order_id)


async def start_from_row(client: Client, order_id: str) -> str:
    """Start the workflow from the row, and repeat the messages that it may not know; return why a person is needed."""
    state = await _state_of_row(order_id)
    if isinstance(state, str):
        return state
    async with transaction() as connection:
        documents = await inbox.load_documents(connection, [order_id])
    if not await start_order(client, documents[order_id][0], state.policy, state):
        return "doctor.already_started"
    await repeat_lost_messages(client, order_id)
    return ""


_OPEN_PLAN = frozenset({OrderStatus.ALLOCATED, OrderStatus.SHIPPED, OrderStatus.DELIVERED})
"""With one of these every line of an order is in a fulfillment order."""


async def _state_of_row(order_id: str) -> OrderState | str:
    """Return the state that a row shows, or why an order cannot be continued from it."""
    async with transaction() as connection:
        documents = await inbox.load_documents(connection, [order_id])
        row = (await connection.execute(select(_orders).where(_orders.c.id == order_id))).one()
        found = await connection.execute(
            select(_fulfillments).where(_fulfillments.c.order_id == order_id).order_by(_fulfillments.c.opened_at)
        )
        fulfillments = [_fulfillment(each) for each in found]
        reserved = await connection.scalar(select(_reservations.c.order_id).where(_reservations.c.order_id == order_id))
    if order_id not in documents or row.recipient is None:
        return "doctor.no_document"
    recalling = {RequestStatus.CANCELLATION_REQUESTED, RequestStatus.CANCELLATION_ACCEPTED}
    if any(
        each.request_status in recalling and each.status is not FulfillmentStatus.CANCELLED for each in fulfillments
    ):
        return "doctor.recalled"
    account = await get_account(IntegrationType.CHANNEL, row.channel, row.shop)
    policy = Policy.model_validate(account.settings.get("policy", {}))
    now = datetime.now(UTC)
    order = documents[order_id][0].model_copy(
        update={
            "lines": tuple(map(OrderLine.model_validate, row.lines)),
            "recipient": row.recipient,
            "total": row.total,
            "carrier": row.carrier,
            "tags": tuple(row.tags),
            "priority": row.priority,
            "paid_at": row.paid_at,
            "cancelled_at": None,
            "refunds": (),
        }
    )
    return OrderState(
        order=order,
        policy=policy,
        revision=row.revision,
        seen=row.seen,
        admitted=True,
        to_plan=row.status not in _OPEN_PLAN,
        grace_until=row.deadline if row.status == OrderStatus.APPROVED else None,
        holds=[Hold.model_validate(each) for each in row.holds],
        reserved_until=now + timedelta(seconds=policy.reservation) if reserved else None,
        fulfillments=fulfillments,
        entries=[Entry(key=f"restarted:{row.revision}", at=now, what="timeline.restarted", actor=ACTOR)],
    )


def _fulfillment(row: Row[Any]) -> Fulfillment:
    """Return a fulfillment order as its workflow would know it: a warehouse's progress is known to the row only."""
    status = FulfillmentStatus(row.status)
    if status in (FulfillmentStatus.IN_PROGRESS, FulfillmentStatus.ON_HOLD):
        status = FulfillmentStatus.OPEN
    known = row._mapping
    names = (
        *("id", "warehouse", "lines", "request_status", "carrier", "waybill_no", "tracking", "shipped_at"),
        *("weight_kg", "channel_notified", "ship_from", "queue", "opened_at"),
    )
    return Fulfillment.model_validate(
        {name: known[name] for name in names} | {"status": status, "moved_at": row.scanned_at or row.shipped_at}
    )


# The messages that a workflow lost


async def repeat_lost_messages(client: Client, order_id: str) -> None:
    handle = client.get_workflow_handle(order_id)
    if (state := await query(handle)) is not None:
        async with transaction() as connection:
            lost = await lost_messages(connection, state)
        for name, request in lost:
            await handle.signal(name, request)


async def lost_messages(connection: AsyncConnection, state: OrderState) -> list[changes.Signal]:
    """Return the signals that an open order's workflow has not received, though their messages are done.

    Only what is sure: a payment that a channel no longer reports, or a refund that it no longer lists, is not taken
    back, because the saved version may be older than the workflow.
    """
    order_id = state.order.order_id
    signals: list[changes.Signal] = []
    document, _ = (await inbox.load_documents(connection, [order_id])).get(order_id, (None, False))
    if document is not None:
        cancelled = state.end is not None or any(key.startswith("cancel:") for key in state.answers)
        numbers = {each.refund_no for each in document.refunds}
        known = document.model_copy(
            update={
                "paid_at": document.paid_at if state.order.paid_at else None,
                "cancelled_at": document.cancelled_at if cancelled else None,
                "refunds": tuple(each for each in state.order.refunds if each.refund_no in numbers),
            }
        )
        signals += changes.changes(known, document, f"doctor:{document.modified_at.isoformat()}")
    under_way = {each.id: each for each in state.active if not each.is_closed}
    reports = select(_inbox.c.raw).where(
        _inbox.c.order_id == order_id,
        _inbox.c.integration == IntegrationType.WAREHOUSE,
        _inbox.c.state == InboxState.DONE,
    )
    for raw in await connection.scalars(reports.order_by(_inbox.c.id)):
        event = WarehouseEvent.model_validate_json(raw.body)
        each = under_way.get(event.fulfillment_id)
        if each is None or each.has_shipped:
            continue
        rejected = event.kind is WarehouseEventKind.REJECTED and each.request_status is not RequestStatus.REJECTED
        if event.kind is WarehouseEventKind.SHIPPED or rejected:
            signals.append(("warehouse_event", event))
    scans = select(_scans).where(_scans.c.fulfillment_id.in_(under_way), _scans.c.status.in_(MILESTONES))
    milestones = [
        scan
        for scan in await connection.execute(scans.order_by(_scans.c.at))
        if scan.waybill_no == under_way[scan.fulfillment_id].waybill_no
    ]
    ended = {scan.waybill_no for scan in milestones if scan.status in TERMINAL_STATUSES}
    for scan in milestones:
        if scan.waybill_no in ended:
            milestone = Tracking(
                request_id=bounded_key(f"{scan.waybill_no}:{scan.scan_id}"),
                actor=f"carrier:{scan.source}",
                waybill_no=scan.waybill_no,
                status=TrackingStatus(scan.status),
                at=scan.at,
                place=scan.place,
            )
            signals.append(("tracking", milestone))
    return signals
