"""The doctor: compare the orders in PostgreSQL with their workflows in Temporal, and mend what is safe to mend.

Either store may have been restored to an older state, or lost its last writes in a power cut. Both count the writes of
an order in its ``revision``, which shows the older side. An older row is rebuilt from the workflow's state. A lost
workflow is started from the row, and finds in the database which calls to carriers, warehouses and channels were made.
Messages that the workflow lost are sent to it again. For anything else an exception asks a person; only on request is a
workflow that is older than its row terminated and started from the row.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError, RPCStatusCode

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
from models import search_attributes
from models.base import Value, bounded_key
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
from models.order import FINAL, ChannelOrder, Entry, OrderLine, OrderRow, OrderStatus
from models.policy import Policy
from models.requests import StockArrived, Tracking, WarehouseEvent, WarehouseEventKind
from models.settings import settings
from models.state import OrderState
from models.stock import ReservationRow

_orders = OrderRow.__table__  # type: ignore[attr-defined]
_fulfillments = FulfillmentRow.__table__  # type: ignore[attr-defined]
_reservations = ReservationRow.__table__  # type: ignore[attr-defined]
_scans = ScanRow.__table__  # type: ignore[attr-defined]
_inbox = InboxRow.__table__  # type: ignore[attr-defined]

ACTOR = "doctor"
LISTED = 1000
"""How many differences a report lists; it counts all."""
_CLOSED_WITHIN = timedelta(days=2)
"""How far back ended workflows are compared, unless the comparison is thorough."""
_AT_ONCE = 16
_QUERY_TIMEOUT = timedelta(seconds=10)
"""A workflow that waits for a step answers when its task is renewed."""


class DifferenceKind(StrEnum):
    """How the two stores disagree on an order; the text of each kind is ``difference.{kind}``."""

    ROW_MISSING = "row_missing"
    """The workflow has no row."""
    ROW_OUTDATED = "row_outdated"
    """The row is older than the workflow."""
    WORKFLOW_MISSING = "workflow_missing"
    """The row of an open order has no workflow."""
    MESSAGE_LOST = "message_lost"
    """The workflow does not know what a channel, warehouse or carrier has reported."""
    WORKFLOW_OUTDATED = "workflow_outdated"
    """The workflow is older than the row."""
    WORKFLOW_ENDED = "workflow_ended"
    """The workflow failed or was terminated, but the order is open."""
    WORKFLOW_SILENT = "workflow_silent"
    """The workflow does not answer, so that it cannot be compared."""


_K = DifferenceKind


class Examination(Value):
    """What to compare, and what may be changed."""

    mend: bool = False
    """Rebuild rows, start lost workflows, repeat lost messages; ask a person about the rest. Destroys nothing."""
    replace: bool = False
    """Also terminate workflows that are older than their rows, and start them from their rows."""
    orders: tuple[str, ...] = ()
    """Compare these orders only; all of them if empty."""
    thorough: bool = True
    """Compare every open order; otherwise only those whose status differs, and only what ended lately."""
    settle_seconds: float = 5
    """A difference counts when two looks so far apart find the same."""


class Difference(Value):
    order_id: str
    kind: DifferenceKind
    mended: bool = False
    reason: str = ""
    """Why a person is needed, as a message key."""


class Progress(Value):
    done: int = 0
    total: int = 0


class Report(Value):
    examined: int = 0
    counts: dict[DifferenceKind, int] = {}
    differences: tuple[Difference, ...] = ()
    """The first ``LISTED``, those that need a person before the others."""


@dataclass(frozen=True)
class _Evidence:
    """What both stores say of one order. Equal evidence at two looks means that nothing was under way between them."""

    row: tuple[int, str] | None
    """Revision and status."""
    run_id: str | None
    """``None``: no workflow."""
    run_status: WorkflowExecutionStatus | None = None
    history: int = 0
    """The number of events."""
    revision: int | None = None
    """The workflow's; ``None`` if it did not answer."""
    status: str | None = None
    admitted: bool = True
    lost: int = 0
    """How many messages the workflow lost."""

    @property
    def running(self) -> bool:
        return self.run_status is WorkflowExecutionStatus.RUNNING

    @property
    def difference(self) -> DifferenceKind | None:
        final = self.row is not None and self.row[1] in FINAL
        if self.run_id is None:
            return None if self.row is None or final else _K.WORKFLOW_MISSING
        if final and not self.running and not self._newer:
            return None
        if self.revision is None:
            return _K.WORKFLOW_SILENT
        if self.row is None:
            return _K.ROW_MISSING if self.admitted else None
        if self._newer:
            return _K.ROW_OUTDATED
        if self.revision < self.row[0]:
            return _K.WORKFLOW_OUTDATED
        if not self.running and self.run_status is not WorkflowExecutionStatus.COMPLETED:
            return _K.WORKFLOW_ENDED
        return _K.MESSAGE_LOST if self.lost else None

    @property
    def _newer(self) -> bool:
        """Whether the workflow shows more than the row."""
        if self.revision is None or self.row is None:
            return False
        return self.revision > self.row[0] or (self.revision == self.row[0] and self.status != self.row[1])


@activity.defn(name="order.compare_stores")
async def compare_stores(given: Examination) -> Report:
    """Compare orders with their workflows; mend what is safe, or only report it. Heartbeat the progress.

    Raise ``RPCError`` while the engine is down.
    """
    client = activity.client()
    suspects = sorted(given.orders or await _suspects(client, thorough=given.thorough))
    first: dict[str, _Evidence] = {}
    for start in range(0, len(suspects), 100):
        activity.heartbeat(Progress(done=start, total=len(suspects)))
        first |= await _examine_all(client, suspects[start : start + 100])
    await asyncio.sleep(given.settle_seconds if first else 0)
    differences = []
    for number, (order_id, before) in enumerate(first.items()):
        activity.heartbeat(Progress(done=len(suspects) - len(first) + number, total=len(suspects)))
        evidence = (await _examine_all(client, [order_id])).get(order_id)
        if evidence is None or evidence != before or (kind := evidence.difference) is None:
            continue
        difference = Difference(order_id=order_id, kind=kind)
        if given.mend or given.replace:
            difference = await _mend(client, difference, evidence, replace=given.replace)
        differences.append(difference)
    differences.sort(key=lambda each: each.mended)
    counts = Counter(each.kind for each in differences)
    return Report(examined=len(suspects), counts=counts, differences=tuple(differences[:LISTED]))


async def _suspects(client: Client, *, thorough: bool) -> set[str]:
    """Return the ids of the orders to look at."""
    ours = f"WorkflowType = 'OrderWorkflow' AND TaskQueue = '{settings().task_queue}'"
    since = "" if thorough else f" AND CloseTime > '{(datetime.now(UTC) - _CLOSED_WITHIN).isoformat()}'"
    running = await _statuses(client, f"{ours} AND ExecutionStatus = 'Running'")
    closed = await _statuses(client, f"{ours} AND ExecutionStatus NOT IN ('Running', 'ContinuedAsNew'){since}")
    async with transaction() as connection:
        query = select(_orders.c.id, _orders.c.status)
        rows = {row.id: row.status for row in await connection.execute(query.where(_orders.c.status.not_in(FINAL)))}
        others = [order_id for order_id in (*running, *closed) if order_id not in rows]
        for start in range(0, len(others), 1000):
            part = query.where(_orders.c.id.in_(others[start : start + 1000]))
            rows |= {row.id: row.status for row in await connection.execute(part)}
    known = closed | running
    differing = {order_id for order_id in {*rows, *known} if rows.get(order_id) != known.get(order_id)}
    stopped = {order_id for order_id, status in rows.items() if status not in FINAL and order_id not in running}
    return differing | stopped | set(running if thorough else ())


async def _statuses(client: Client, query: str) -> dict[str, str | None]:
    """Return the ``OrderStatus`` of workflows by id."""
    found = {}
    async for each in client.list_workflows(query):
        found[each.id] = each.typed_search_attributes.get(search_attributes.STATUS)
        activity.heartbeat(Progress())
    return found


async def _examine_all(client: Client, order_ids: Collection[str]) -> dict[str, _Evidence]:
    """Return the evidence of those orders that differ and of which no step is under way."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def look(order_id: str) -> tuple[str, _Evidence | None]:
        async with limit:
            return order_id, await _examine(client, order_id)

    found = await asyncio.gather(*(look(each) for each in order_ids))
    return {order_id: evidence for order_id, evidence in found if evidence is not None and evidence.difference}


async def _examine(client: Client, order_id: str) -> _Evidence | None:
    """Return what both stores say; ``None`` while the workflow is at work, unless what it lacks may be its row."""
    handle = client.get_workflow_handle(order_id)
    async with transaction() as connection:
        row = (
            await connection.execute(select(_orders.c.revision, _orders.c.status).where(_orders.c.id == order_id))
        ).one_or_none()
    at = None if row is None else (row.revision, row.status)
    try:
        described = await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return _Evidence(row=at, run_id=None)
    running = described.status is WorkflowExecutionStatus.RUNNING
    raw = described.raw_description
    at_work = running and raw.HasField("pending_workflow_task")
    failing = at_work and raw.pending_workflow_task.attempt >= 5
    if at_work and not failing and row is not None:
        return None
    state = None if failing else await _query(handle)
    lost: list[changes.Signal] = []
    if running and state is not None and row is not None:
        async with transaction() as connection:
            lost = await _lost_messages(connection, state)
    return _Evidence(
        row=at,
        run_id=described.run_id,
        run_status=described.status,
        history=0 if at_work else described.history_length,
        revision=None if state is None else state.revision,
        status=None if state is None else state.status.value,
        admitted=state is None or state.admitted,
        lost=len(lost),
    )


async def _query(handle: WorkflowHandle[Any, Any]) -> OrderState | None:
    """Return the state of a workflow; ``None`` if it cannot answer."""
    try:
        state: OrderState = await handle.query("state", result_type=OrderState, rpc_timeout=_QUERY_TIMEOUT)
        return state
    except (RPCError, TemporalError):
        return None


async def _mend(client: Client, difference: Difference, evidence: _Evidence, *, replace: bool) -> Difference:
    """Mend a difference, or open an exception that says what a person must do."""
    kind, order_id = difference.kind, difference.order_id
    reason = ""
    match kind:
        case _K.ROW_MISSING | _K.ROW_OUTDATED:
            reason = await _rebuild_row(client, order_id)
        case _K.WORKFLOW_MISSING:
            reason = await _start_from_row(client, order_id)
        case _K.MESSAGE_LOST:
            await _repeat_lost_messages(client, order_id)
        case _K.WORKFLOW_OUTDATED | _K.WORKFLOW_ENDED if replace:
            reason = await _replace(client, order_id, evidence)
        case _K.WORKFLOW_OUTDATED | _K.WORKFLOW_ENDED:
            reason = "doctor.replace"
        case _K.WORKFLOW_SILENT:
            reason = "doctor.silent"
    if reason:
        await _ask_person(order_id, reason)
    return difference.model_copy(update={"mended": not reason, "reason": reason})


async def _ask_person(order_id: str, reason: str) -> None:
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
    if reason := await _rebuild_row(client, order_id):
        await _ask_person(order_id, reason)
    async with transaction() as connection:
        known, recorded = (await inbox.load_documents(connection, [order_id])).get(order_id, (None, False))
    return known if recorded else None


async def _rebuild_row(client: Client, order_id: str) -> str:
    """Write the row, its fulfillment orders and its stock as the workflow knows them; return why a person is needed."""
    handle = client.get_workflow_handle(order_id)
    state, first = await _query(handle), await started_with(client, order_id)
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
        await _repeat_lost_messages(client, order_id)
    return reason


async def _write_row(connection: AsyncConnection, state: OrderState, first: ChannelOrder) -> None:
    """Write the order and what the channel last said of it, as far as the workflow knows; ``first``: when it began."""
    order, now = state.order, datetime.now(UTC)
    row = order_row(order, now) | {"seen": 0}  # so that the snapshot below is newer
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


async def _replace(client: Client, order_id: str, evidence: _Evidence) -> str:
    """Terminate a workflow that is older than its row, and start it from the row; return why a person is needed."""
    assert evidence.row is not None  # noqa: S101
    final = evidence.row[1] in FINAL
    if not final and isinstance(state := await _state_of_row(order_id), str):
        return state
    if evidence.running:
        handle = client.get_workflow_handle(order_id, run_id=evidence.run_id)
        await handle.terminate(reason="older than its row in the database: replaced on request")
    return "" if final else await _start_from_row(client, order_id)


async def _start_from_row(client: Client, order_id: str) -> str:
    """Start the workflow from the row, and repeat the messages that it may not know; return why a person is needed."""
    state = await _state_of_row(order_id)
    if isinstance(state, str):
        return state
    async with transaction() as connection:
        documents = await inbox.load_documents(connection, [order_id])
    await start_order(client, documents[order_id][0], state.policy, state)
    await _repeat_lost_messages(client, order_id)
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


async def _repeat_lost_messages(client: Client, order_id: str) -> None:
    handle = client.get_workflow_handle(order_id)
    if (state := await _query(handle)) is not None:
        async with transaction() as connection:
            lost = await _lost_messages(connection, state)
        for name, request in lost:
            await handle.signal(name, request)


async def _lost_messages(connection: AsyncConnection, state: OrderState) -> list[changes.Signal]:
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
