"""The doctor: compare the orders in PostgreSQL with their workflows in Temporal, and mend what is safe to mend.

Either store may have been restored to an older state, or lost its last writes in a power cut. Both count the writes of
an order in its ``revision``, which shows the older side. An older row is rebuilt from the workflow's state. A lost
workflow is started from the row, and finds in the database which calls to carriers, warehouses and channels were made.
Messages that the workflow lost are sent to it again. For anything else an exception asks a person; only on request is a
workflow that is older than its row terminated and started from the row.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

from sqlalchemy import Row, select
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.intake import changes
from activities.kit.database import transaction
from activities.orders import rebuilding
from models import search_attributes
from models.address import Recipient
from models.base import Value
from models.order import FINAL, ChannelOrder, OrderLine, OrderRow
from models.settings import settings

_orders = OrderRow.__table__  # type: ignore[attr-defined]

LISTED = 1000
"""How many differences a report lists; it counts all."""
_CLOSED_WITHIN = timedelta(days=2)
"""How far back ended workflows are compared, unless the comparison is thorough."""
_AT_ONCE = 16


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
    row_runs: tuple[str, ...] = ()
    """The runs that have written the row."""
    row_terms: str = ""
    """A digest of what is sold to whom, of the row and of the workflow; empty if either is not readable."""
    terms: str = ""
    run_id: str | None = None
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
        """Whether the workflow shows more than the row, or is a later run that shows something else."""
        if self.revision is None or self.row is None:
            return False
        if self.revision != self.row[0]:
            reset = bool(self.row_runs) and self.run_id not in self.row_runs
            return self.revision > self.row[0] or reset
        return self.status != self.row[1] or bool(self.row_terms and self.terms and self.row_terms != self.terms)


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
        row = (await connection.execute(select(_orders).where(_orders.c.id == order_id))).one_or_none()
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
    state = None if failing else await rebuilding.query(handle)
    lost: list[changes.Signal] = []
    if running and state is not None and row is not None:
        async with transaction() as connection:
            lost = await rebuilding.lost_messages(connection, state)
    return _Evidence(
        row=at,
        row_runs=() if row is None else tuple(each for each in (*row.past_runs, row.run_id) if each),
        row_terms="" if row is None else _terms(map(OrderLine.model_validate, row.lines), row),
        terms="" if state is None else _terms(state.order.lines, state.order),
        run_id=described.run_id,
        run_status=described.status,
        history=0 if at_work else described.history_length,
        revision=None if state is None else state.revision,
        status=None if state is None else state.status.value,
        admitted=state is None or state.admitted,
        lost=len(lost),
    )


def _terms(lines: Iterable[OrderLine], order: Row[Any] | ChannelOrder) -> str:
    """Return a digest of an order's terms and recipient; empty if the recipient cannot be read."""
    if not isinstance(order.recipient, Recipient):
        return ""
    terms = (
        round(order.total, 4),
        order.currency,
        order.carrier,
        sorted(order.tags),
        order.recipient.model_dump_json(),
    )
    goods = sorted(line.model_dump_json() for line in lines)
    return sha256(repr((str(terms), goods)).encode(errors="replace")).hexdigest()


async def _mend(client: Client, difference: Difference, evidence: _Evidence, *, replace: bool) -> Difference:
    """Mend a difference, or open an exception that says what a person must do."""
    kind, order_id = difference.kind, difference.order_id
    reason = ""
    match kind:
        case _K.ROW_MISSING | _K.ROW_OUTDATED:
            reason = await rebuilding.rebuild_row(client, order_id)
        case _K.WORKFLOW_MISSING:
            reason = await rebuilding.start_from_row(client, order_id)
        case _K.MESSAGE_LOST:
            await rebuilding.repeat_lost_messages(client, order_id)
        case _K.WORKFLOW_OUTDATED | _K.WORKFLOW_ENDED if replace:
            final = evidence.row is not None and evidence.row[1] in FINAL
            run_id = evidence.run_id if evidence.running else None
            reason = await rebuilding.replace(client, order_id, run_id, final=final)
        case _K.WORKFLOW_OUTDATED | _K.WORKFLOW_ENDED:
            reason = "doctor.replace"
        case _K.WORKFLOW_SILENT:
            reason = "doctor.silent"
    if reason:
        await rebuilding.ask_person(order_id, reason)
    return difference.model_copy(update={"mended": not reason, "reason": reason})
