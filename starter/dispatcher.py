"""The dispatcher: takes messages from the inbox and starts or signals workflows, no faster than the engine can follow.

One process dispatches at a time; the others wait for its lock. A message is marked before the engine is called and
again afterwards. A crash in between repeats the call, which is harmless: a workflow starts once for its id, and a
request counts once for its id.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Any

import structlog
from pydantic import JsonValue, ValidationError
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.accounts.accounts import get_account
from activities.aftersales.reissue import REISSUE
from activities.carriers import tracker
from activities.catalogue import sku_mapping
from activities.channels import Hint, channel
from activities.fulfillment import tracking, warehouse_events
from activities.fulfillment.exceptions import REPLAN
from activities.intake import changes, inbox
from activities.intake.inbox import Outcome
from activities.kit.database import (
    AdvisoryLock,
    Row,
    advisory_lock,
    check_writable,
    is_passing,
    is_permanent,
    lock_idle_seconds,
    transaction,
)
from activities.kit.errors import Unintelligible
from activities.kit.payloads import unintelligible
from activities.orders import rebuilding, starting
from activities.records import exceptions
from models.base import Value, bounded_key
from models.exceptions import ExceptionKind, NewException
from models.fulfillment import MILESTONES, Scan
from models.i18n import message
from models.intake import InboxState, IntegrationType
from models.order import ChannelOrder
from models.origins import IntakePath
from models.policy import Policy
from models.requests import (
    Replan,
    Request,
    StockArrived,
    Tracking,
    WarehouseEvent,
)
from models.settings import settings
from models.state import after_end
from starter.logs import place
from workers.cluster import SearchAttributesMissing, ensure_search_attributes
from workers.supervisor import supervise

LOCK = 0x68656E67
"""The advisory lock of the process that dispatches."""
_BATCH = 200
_CONCURRENCY = 32
_IDLE_SECONDS = 0.1
_PAUSE_SECONDS = 0.05
"""Between two rounds: messages that arrive meanwhile go together, and this process serves its API."""
_STANDSTILL_SECONDS = 30
"""A round takes less: a dispatcher that has not begun one for so long stands still."""
_STALLED_SECONDS = 60
"""An exception opens for an integration whose messages have waited for so long without one being settled."""

_MOVING_SECONDS = 60
"""An integration of which a message was settled so lately works: one that still waits is at fault itself."""

log = structlog.get_logger()
_awake = asyncio.Event()


class EngineDown(Exception):
    """The engine cannot be reached: messages wait, none is lost."""


class Unrecovered(Exception):
    """A workflow whose order has lost its row does not answer: its messages wait, those of other orders do not."""


def wake() -> None:
    """Start the next round at once: this process has just committed a message to the inbox."""
    _awake.set()


async def run(client: Client) -> None:
    """Dispatch until cancelled."""
    moved: dict[IntegrationType, float] = {}
    await _check_engine(client)
    await supervise("dispatcher", lambda: _dispatch_alone(client, moved))


async def _check_engine(client: Client) -> None:
    """Log what keeps orders from starting; create the search attributes that the namespace lacks."""
    try:
        await ensure_search_attributes(client)
    except SearchAttributesMissing as error:
        log.error("dispatcher.search_attributes_missing", remedy=str(error))
    except (RPCError, RuntimeError) as error:
        log.warning("dispatcher.engine_down", error=str(error))


async def somebody_dispatches() -> bool:
    """Return whether some process dispatches: it checked its lock lately. Raise ``DatabaseError``."""
    idle = await lock_idle_seconds(LOCK)
    return idle is not None and idle < _STANDSTILL_SECONDS


async def stalled() -> list[str]:
    """Return the integrations whose messages wait without one being settled. Raise ``DatabaseError``."""
    async with transaction() as connection:
        return await inbox.stalled_integrations(connection)


async def _dispatch_alone(client: Client, moved: dict[IntegrationType, float]) -> None:
    async with advisory_lock(LOCK) as lock:
        for each in IntegrationType:
            moved.setdefault(each, monotonic())
        await _dispatch(client, lock, moved)


async def _dispatch(client: Client, lock: AdvisoryLock, moved: dict[IntegrationType, float]) -> None:
    """Run rounds until one raises. ``moved`` outlives it: a dispatcher that is restarted each time stands still."""
    checked = -inf
    while True:
        _awake.clear()
        await lock.check()
        if monotonic() > checked + 10:
            checked = monotonic()
            async with transaction() as connection:
                await inbox.reopen_lost(connection)
                waiting = await inbox.waiting_integrations(connection)
                moved |= dict.fromkeys(set(IntegrationType) - waiting, checked)
                still = {each for each in waiting if checked - moved[each] > _STALLED_SECONDS}
                await inbox.sync_stalled(connection, still)
                moving = {each for each in waiting if checked - moved[each] < _MOVING_SECONDS}
                await inbox.fail_stuck(connection, moving)
        try:
            busy = await take(client, moved)
        except EngineDown as error:
            log.warning("dispatcher.waits", error=str(error))
            await _check_engine(client)
            await asyncio.sleep(1)
            continue
        await asyncio.sleep(_PAUSE_SECONDS)
        if not busy:
            with suppress(TimeoutError):
                await asyncio.wait_for(_awake.wait(), _IDLE_SECONDS)


class OrderMessage(Value):
    """An order as one inbox message has it."""

    row: int
    fact_key: str
    order: ChannelOrder


@dataclass
class PendingOrder:
    """The messages of one order that wait."""

    messages: list[OrderMessage]
    """Oldest first."""
    known: ChannelOrder | None
    """The version that the inbox last saved."""
    started: bool
    """Whether the workflow runs or has run."""
    delivered: ChannelOrder | None = None
    """The newest version that the workflow has received in this round."""


async def take(client: Client, moved: dict[IntegrationType, float] | None = None) -> int:
    """Run one round: dispatch the messages that may go now, and return how many there were. Raises ``EngineDown``.

    ``moved``: when a message of each integration was last settled, updated here.
    """
    async with transaction() as connection:
        others = await inbox.next_messages(
            connection, [IntegrationType.CARRIER, IntegrationType.WAREHOUSE, IntegrationType.INTERNAL], _BATCH
        )
        entering = await inbox.next_orders(connection, settings().intake_window)
    rows = [*entering, *others]
    settled = await _settle(client, rows)
    if moved is not None:
        moved |= {IntegrationType(row.integration): monotonic() for row in rows if row.id in settled}
    if rows and not settled:
        raise EngineDown("messages wait")
    return len(settled)


async def _settle(client: Client, rows: Sequence[Row[Any]]) -> set[int]:
    """Dispatch messages, and return the rows of those that are settled. A message that fails the batch fails alone.

    Repeating a part of the batch is harmless, as after a crash. Where an error looks passing, but rows can be written,
    one message may cause it: it alone waits. Raise the error of the database that makes all wait.
    """
    if not rows:
        return set()
    try:
        return await _settle_together(client, rows)
    except Exception as error:
        if is_passing(error):
            await check_writable()
        if len(rows) > 1:
            half = len(rows) // 2
            return await _settle(client, rows[:half]) | await _settle(client, rows[half:])
        outcome = _waiting(rows[0].id, error) if is_passing(error) else _failed(rows[0].id, error)
        async with transaction() as connection:
            await inbox.record_outcomes(connection, [outcome])
        return set() if outcome.state is InboxState.PENDING else {rows[0].id}


async def _settle_together(client: Client, rows: Sequence[Row[Any]]) -> set[int]:
    others = [row for row in rows if row.integration != IntegrationType.CHANNEL]
    async with transaction() as connection:
        outcomes, orders, hints = await _read([row for row in rows if row.integration == IntegrationType.CHANNEL])
        known = await inbox.load_documents(connection, list(orders))
        pending = [PendingOrder(messages, *known.get(order_id, (None, False))) for order_id, messages in orders.items()]
        first = [each.messages[0] for each in pending if each.known is None]
        await inbox.save_documents(connection, [message.order for message in first])
        now = datetime.now(UTC)
        outcomes += [
            Outcome(row=message.row, state=InboxState.STARTED, order=message.order.order_id, at=now)
            for message in first
            if changes.needs_fulfillment(message.order)
        ]
        await inbox.record_outcomes(connection, outcomes)
    limit = asyncio.Semaphore(_CONCURRENCY)
    pushes = [row for row in others if row.integration == IntegrationType.CARRIER]
    work: list[Coroutine[Any, Any, list[Outcome]]] = [_dispatch_order(client, limit, each) for each in pending]
    work.append(_dispatch_scans(client, limit, pushes))
    work += [_dispatch_other(client, limit, row) for row in others if row.integration != IntegrationType.CARRIER]
    work += [_dispatch_hints(client, limit, *shop, named) for shop, named in hints.items()]
    done: list[Outcome] = []
    errors: list[BaseException] = []
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            errors.append(result)
        else:
            done += result
    if errors:
        raise next((each for each in errors if is_passing(each)), errors[0])
    async with transaction() as connection:
        await inbox.record_outcomes(connection, done)
        delivered = [each.delivered for each in pending if each.delivered is not None]
        await inbox.save_documents(connection, delivered)
    waiting = {each.row for each in done if each.state is InboxState.PENDING}
    return {row.id for row in rows} - waiting


Hints = dict[tuple[str, str], dict[int, Hint]]
"""By channel and shop, by message."""


async def _read(rows: Sequence[Row[Any]]) -> tuple[list[Outcome], dict[str, list[OrderMessage]], Hints]:
    """Parse channel messages: outcomes of those without an order, orders by id (oldest message first), and hints."""
    outcomes: list[Outcome] = []
    orders: dict[str, list[OrderMessage]] = defaultdict(list)
    hints: Hints = defaultdict(dict)
    for row in rows:
        try:
            shop = await get_account(IntegrationType.CHANNEL, row.source, row.account)
            order = channel(shop).parse(row.raw.body, row.topic)
        except Exception as error:
            if is_passing(error):
                raise
            outcomes.append(_failed(row.id, error))
        else:
            if isinstance(order, Hint):
                hints[row.source, row.account][row.id] = order
            elif order is None:
                outcomes.append(Outcome(row=row.id, state=InboxState.DONE, reason="inbox.no_order"))
            else:
                origin = order.origin.standard(IntakePath(row.path), row.received_at)
                order = order.model_copy(update={"origin": origin})
                orders[order.order_id].append(OrderMessage(row=row.id, fact_key=row.fact_key, order=order))
    for messages in orders.values():
        messages.sort(key=_modified_at)
    return outcomes, orders, hints


async def _dispatch_hints(
    client: Client, limit: asyncio.Semaphore, source: str, shop: str, rows: Mapping[int, Hint]
) -> list[Outcome]:
    """Start reading the orders that messages only name."""
    numbers = sorted({number for hint in rows.values() for number in hint.order_nos})
    async with limit:
        try:
            await client.start_workflow(
                "ChannelReadWorkflow",
                args=[source, shop, []],
                id=f"read:{source}:{shop}",
                task_queue=settings().task_queue,
                start_signal="read",
                start_signal_args=[numbers],
            )
        except (RPCError, RuntimeError) as error:
            log.info("dispatcher.waits", shop=f"{source}:{shop}", error=str(error))
            return [_waiting(row, error) for row in rows]
    return [
        Outcome(
            row=row,
            state=InboxState.DONE,
            reason="inbox.queued",
            order=f"order:{source}:{shop}:{hint.order_nos[0]}" if len(hint.order_nos) == 1 else None,
        )
        for row, hint in rows.items()
    ]


def _waiting(row: int, error: Exception) -> Outcome:
    """Return the outcome of a message that waits because of an error that looks passing."""
    cause = error.__cause__ or error
    code = cause.status.name if isinstance(cause, RPCError) else type(cause).__name__
    return Outcome(row=row, state=InboxState.PENDING, reason=code)


def _modified_at(message: OrderMessage) -> datetime:
    return message.order.modified_at


def _failed(row: int, error: Exception) -> Outcome:
    """Return the outcome of a message that a person must correct, or that a bug of ours could not handle."""
    if isinstance(error, ValidationError):
        error = unintelligible(error)
    if isinstance(error, Unintelligible):
        return Outcome(row=row, state=InboxState.FAILED, reason=error.reason, field=error.field)
    if isinstance(error, ApplicationError):
        return Outcome(row=row, state=InboxState.FAILED, reason=error.message)
    if is_permanent(error):
        return Outcome(
            row=row, state=InboxState.FAILED, reason=message("error.not_storable", error=type(error).__name__)
        )
    log.error("dispatcher.broken", row=row, error=type(error).__name__, place=place(error))
    return Outcome(row=row, state=InboxState.FAILED, reason=message("error.internal", error=type(error).__name__))


async def _dispatch_order(client: Client, limit: asyncio.Semaphore, pending: PendingOrder) -> list[Outcome]:
    """Deliver the messages of one order in turn."""
    outcomes: list[Outcome] = []
    async with limit:
        for number, message in enumerate(pending.messages):
            order_id = message.order.order_id
            try:
                reason = await _deliver(client, pending, message)
            except EngineDown as error:
                log.info("dispatcher.waits", order=order_id, error=str(error))
                return outcomes + [_waiting(each.row, error) for each in pending.messages[number:]]
            except Unrecovered:
                now, reason = datetime.now(UTC), "inbox.unrecovered"
                waiting = [
                    Outcome(row=each.row, state=InboxState.STARTED, order=order_id, reason=reason, at=now)
                    for each in pending.messages[number:]
                ]
                return outcomes + waiting
            except Exception as error:
                if is_passing(error):
                    raise
                outcomes.append(_failed(message.row, error).model_copy(update={"order": order_id}))
                continue
            if reason is not None:
                outcomes.append(Outcome(row=message.row, state=InboxState.DONE, order=order_id, reason=reason))
    return outcomes


async def _deliver(client: Client, pending: PendingOrder, message: OrderMessage) -> str | None:
    """Signal what changed, and return the reason to record; or start the order, and return ``None``.

    An order that the engine has admitted, but that has no row, was lost with a restore of the database: it is recovered
    and compared with what its workflow knows. Raises ``EngineDown`` and ``Unrecovered``.
    """
    new = pending.known is None and pending.delivered is None
    before = pending.delivered or pending.known or message.order
    newest = changes.newest(before, message.order)
    if not pending.started:
        opened = before if changes.needs_fulfillment(before) else newest
        if changes.needs_fulfillment(opened) and await start_order(client, opened):
            before, pending.started = opened, True
            if new:
                pending.delivered = newest
                return None
        elif await _is_lost(client, before.order_id):
            before = await _recover(client, before.order_id)
            newest = changes.newest(before, message.order)
        elif not changes.needs_fulfillment(opened):
            pending.delivered = newest
            return "inbox.closed_before"
        pending.started = True
    signals = changes.changes(before, message.order, message.fact_key)
    if changes.foreign_shipment(before, newest):
        ours = await _shipped_parts(before.order_id)
        signals += changes.holds_for_foreign_shipment(newest, ours, message.fact_key)
    reason = ""
    for name, request in signals:
        reason = await _signal(client, before.order_id, name, request, before) or reason
    pending.delivered = newest
    return reason or ", ".join(name for name, _ in signals)


async def _is_lost(client: Client, order_id: str) -> bool:
    """Whether the engine has admitted an order that had no row when this round began, nor has one now."""
    try:
        admitted = await starting.is_admitted(client, order_id)
    except (RPCError, RuntimeError) as error:
        raise EngineDown(str(error)) from error
    async with transaction() as connection:
        _, recorded = (await inbox.load_documents(connection, [order_id])).get(order_id, (None, False))
    return admitted and not recorded


async def _recover(client: Client, order_id: str) -> ChannelOrder:
    try:
        known = await rebuilding.recover_lost_order(client, order_id)
    except (RPCError, RuntimeError) as error:
        raise EngineDown(str(error)) from error
    if known is None:
        raise Unrecovered(order_id)
    return known


async def _shipped_parts(order_id: str) -> list[bool]:
    async with transaction() as connection:
        return await warehouse_events.shipped_parts(connection, order_id)


async def _open_exception(order_id: str, kind: ExceptionKind, about: str = "", **detail: JsonValue) -> None:
    shop = ":".join(order_id.split(":")[1:3])
    key = ":".join(part for part in (order_id, kind, about) if part)
    exception = NewException(key=key, kind=kind, order_id=order_id, shop=shop, detail=detail)
    async with transaction() as connection:
        await exceptions.open_all(connection, [exception])


async def start_order(client: Client, order: ChannelOrder) -> bool:
    """Start an order's workflow, once for its id; again where its admission failed. Raises ``EngineDown``.

    Return ``False`` if it was started before.
    """
    shop = await get_account(IntegrationType.CHANNEL, order.channel, order.shop)
    policy = Policy.model_validate(shop.settings.get("policy", {}))
    try:
        return await starting.start_order(client, order, policy)
    except (RPCError, RuntimeError) as error:
        raise EngineDown(str(error)) from error


async def _signal(client: Client, order_id: str, name: str, request: Request, known: ChannelOrder | None = None) -> str:
    """Signal an order; return the reason to record where its workflow has ended. Raises ``EngineDown``."""
    try:
        await client.get_workflow_handle(order_id).signal(name, request)
    except (RPCError, RuntimeError) as error:
        if not ended(error):
            raise EngineDown(str(error)) from error
        for kind, about, detail in after_end(request, known):
            await _open_exception(order_id, kind, about, **detail)
        return message("inbox.order_ended", signal=name)
    return ""


def ended(error: Exception) -> bool:
    """Whether no such workflow runs; a namespace that the engine has not loaded yet is also "not found"."""
    return isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "amespace" not in error.message


async def _dispatch_other(client: Client, limit: asyncio.Semaphore, row: Row[Any]) -> list[Outcome]:
    """Dispatch a message of a warehouse, or an internal one."""
    async with limit:
        try:
            reason, order = await _HANDLERS[IntegrationType(row.integration)](client, row)
        except EngineDown as error:
            return [_waiting(row.id, error)]
        except Exception as error:
            if is_passing(error):
                raise
            return [_failed(row.id, error)]
        return [Outcome(row=row.id, state=InboxState.DONE, reason=reason, order=order)]


Handled = tuple[str, str | None]
"""The reason to record for a message, and its order, where it is about one."""


async def _dispatch_scans(client: Client, limit: asyncio.Semaphore, rows: Sequence[Row[Any]]) -> list[Outcome]:
    """Save the scans of carriers' messages in one transaction, and signal the milestones among them."""
    outcomes: list[Outcome] = []
    parsed: dict[int, Sequence[Scan]] = {}
    reported = defaultdict[str, list[Scan]](list)
    for row in rows:
        try:
            parsed[row.id] = await _scans(row)
            reported[row.source].extend(parsed[row.id])
        except Exception as error:
            if is_passing(error):
                raise
            outcomes.append(_failed(row.id, error))
    async with transaction() as connection:
        saved = await tracking.save_scans(connection, reported)
    sources = {row.id: row.source for row in rows}
    work = (_signal_milestones(client, limit, row, sources[row], scans, saved) for row, scans in parsed.items())
    return outcomes + list(await asyncio.gather(*work))


async def _scans(row: Row[Any]) -> Sequence[Scan]:
    if row.topic == tracking.PULLED:
        return tracking.SCANS.validate_json(row.raw.body)
    adapter = tracker(await get_account(IntegrationType.CARRIER, row.source, row.account))
    return adapter.parse_push(row.raw.body, row.raw.headers)


async def _signal_milestones(
    client: Client, limit: asyncio.Semaphore, row: int, source: str, scans: Sequence[Scan], saved: tracking.SavedScans
) -> Outcome:
    """Signal the milestones of one message to their orders."""
    reason = ""
    keys = {(source, scan.waybill_no, scan.scan_id): scan for scan in scans}
    ours = [(saved.orders[key], scan) for key, scan in keys.items() if key in saved.orders]
    for order_id, scan in sorted(ours, key=lambda each: each[1].at):
        if scan.status in MILESTONES:
            milestone = Tracking(
                request_id=bounded_key(f"{scan.waybill_no}:{scan.scan_id}"),
                actor=f"carrier:{source}",
                waybill_no=scan.waybill_no,
                status=scan.status,
                at=scan.at,
                place=scan.place,
            )
            try:
                async with limit:
                    reason = await _signal(client, order_id, "tracking", milestone) or reason
            except EngineDown as error:
                return _waiting(row, error)
    about = {order_id for order_id, _ in ours}
    if (fault := getattr(scans, "fault", None)) is not None:
        return _failed(row, fault).model_copy(update={"order": ours[0][0] if ours else None})
    if not saved.foreign.isdisjoint(keys):
        reason = "inbox.foreign_scan"
    elif not about:
        reason = "inbox.no_waybill" if scans else "inbox.no_scans"
    return Outcome(row=row, state=InboxState.DONE, reason=reason, order=about.pop() if len(about) == 1 else None)


async def _warehouse(client: Client, row: Row[Any]) -> Handled:
    """Record what a warehouse reports; signal shipping and rejection to the order."""
    event = WarehouseEvent.model_validate_json(row.raw.body)
    async with transaction() as connection:
        recorded = await warehouse_events.record_warehouse_event(connection, row.account, event)
    if recorded is None:
        raise Unintelligible("fulfillment_id", "invalid.fulfillment.not_here")
    order_id = recorded.order_id
    if not recorded.for_workflow:
        return recorded.reason, order_id
    return await _signal(client, order_id, "warehouse_event", event), order_id


async def _internal(client: Client, row: Row[Any]) -> Handled:
    """Signal that an order is to be replanned, its goods are in stock or its SKUs mapped; or start a reissue."""
    if row.topic == REPLAN:
        return await _signal(client, row.order_id, "replan", Replan.model_validate_json(row.raw.body)), row.order_id
    if row.topic == REISSUE:
        order = ChannelOrder.model_validate_json(row.raw.body)
        async with transaction() as connection:
            await inbox.save_documents(connection, [order])
        await start_order(client, order)
        return "", order.order_id
    arrived = StockArrived(request_id=row.fact_key, actor="stock")
    name = "mapped" if row.topic == sku_mapping.MAPPED else "stock_arrived"
    return await _signal(client, row.order_id, name, arrived), row.order_id


_HANDLERS: dict[IntegrationType, Callable[[Client, Row[Any]], Awaitable[Handled]]] = {
    IntegrationType.WAREHOUSE: _warehouse,
    IntegrationType.INTERNAL: _internal,
}
