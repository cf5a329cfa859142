"""The dispatcher: takes messages from the inbox and makes them workflows and signals, at the engine's own pace.

One runs at a time, whatever the number of API processes: the others stand by for its lock. A message is marked before
the engine hears of it and again afterwards; dying in between repeats it, and every repetition is harmless: a workflow
starts once for its id, a request counts once for its own.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import JsonValue, ValidationError
from sqlalchemy import Row, Table, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities import inbox, projection
from activities.accounts import account
from activities.carriers import carrier
from activities.channels import channel
from activities.database import engine, transaction
from activities.errors import Unintelligible
from activities.inbox import Outcome
from activities.payloads import unintelligible
from models.base import Value
from models.fulfillment import MILESTONES, FulfillmentRow, FulfillmentStatus, RequestStatus, ScanRow
from models.i18n import t
from models.intake import InboxState, Lane
from models.money import Money
from models.order import Alert, ChannelOrder, HoldKind, Policy
from models.requests import (
    Cancel,
    HoldRequest,
    Modify,
    Payment,
    QuantityChange,
    Release,
    Request,
    StockArrived,
    Tracking,
    WarehouseEvent,
    WarehouseEventKind,
)
from models.settings import settings
from models.state import OrderInput
from starter.logs import place

LOCK = 0x68656E67
"""The advisory lock of the one dispatcher."""
_BATCH = 200
_AT_ONCE = 32
_IDLE = 0.1
_PAUSE = 0.05
"""Between two rounds: what comes meanwhile goes together, and the doors of this process have room."""

_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]

log = structlog.get_logger()
_awake = asyncio.Event()


class EngineDown(Exception):
    """The engine cannot be reached: nothing is lost, everything waits."""


def wake() -> None:
    """Something was just committed to the inbox by this process."""
    _awake.set()


async def run(client: Client) -> None:
    """Dispatches until it is cancelled."""
    while True:
        try:
            async with _turn():
                await _dispatch(client)
        except Exception as error:
            log.warning("dispatcher.interrupted", error=type(error).__name__)
            await asyncio.sleep(1)


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    """Waits until no other process dispatches."""
    async with engine().connect() as connection:
        try:
            while not (await connection.execute(text(f"SELECT pg_try_advisory_lock({LOCK})"))).scalar_one():
                await connection.rollback()
                await asyncio.sleep(1)
            await connection.commit()
            yield
        finally:
            await connection.invalidate()  # back in the pool it would keep the lock


async def _dispatch(client: Client) -> None:
    checked = 0.0
    while True:
        _awake.clear()
        if (now := asyncio.get_running_loop().time()) > checked + 10:
            checked = now
            async with transaction() as connection:
                await inbox.reopen_lost(connection)
        try:
            busy = await take(client)
        except EngineDown as error:
            log.warning("dispatcher.engine_down", error=str(error))
            await asyncio.sleep(1)
            continue
        await asyncio.sleep(_PAUSE)
        if not busy:
            with suppress(TimeoutError):
                await asyncio.wait_for(_awake.wait(), _IDLE)


class Fact(Value):
    """An order as a message told it."""

    row: int
    key: str
    order: ChannelOrder


@dataclass
class Case:
    """What is new of one order."""

    facts: list[Fact]
    """Oldest first."""
    known: ChannelOrder | None
    """What the channel said of it before."""
    begun: bool
    """Its workflow runs, or has run."""
    latest: ChannelOrder | None = None
    """The newest that its workflow was told."""


async def take(client: Client) -> int:
    """One round: the messages that may go now; answers how many went. Raises ``EngineDown``."""
    async with transaction() as connection:
        room = settings().intake_window - await inbox.started(connection)
        others = await inbox.pending(connection, [Lane.CARRIER, Lane.WAREHOUSE, Lane.STOCK], _BATCH)
        outcomes, orders = await _read(await inbox.pending(connection, [Lane.CHANNEL], room))
        known = await inbox.documents(connection, list(orders))
        cases = [Case(facts, *known.get(order_id, (None, False))) for order_id, facts in orders.items()]
        openings = [case.facts[0] for case in cases if case.known is None]
        await inbox.keep_documents(connection, [fact.order for fact in openings])
        now = datetime.now(UTC)
        outcomes += [
            Outcome(row=fact.row, state=InboxState.STARTED, order=fact.order.order_id, at=now)
            for fact in openings
            if fact.order.cancelled_at is None
        ]
        await inbox.mark(connection, outcomes)
    if not cases and not others:
        return len(outcomes)
    limit = asyncio.Semaphore(_AT_ONCE)
    work = [_channel(client, limit, case) for case in cases] + [_other(client, limit, row) for row in others]
    done = [outcome for each in await asyncio.gather(*work) for outcome in each]
    async with transaction() as connection:
        await inbox.mark(connection, done)
        told = [case.latest for case in cases if case.latest is not None]
        await inbox.keep_documents(connection, told)
    if any(each.state is InboxState.PENDING for each in done):
        raise EngineDown("messages wait")
    return len(others) + len(orders)


async def _read(rows: Sequence[Row[Any]]) -> tuple[list[Outcome], dict[str, list[Fact]]]:
    """What channel messages say, by order, oldest first; and what became of those that say nothing."""
    outcomes: list[Outcome] = []
    orders: dict[str, list[Fact]] = defaultdict(list)
    for row in rows:
        try:
            shop = await account(Lane.CHANNEL, row.source, row.account)
            order = channel(shop).parse(row.raw.body, row.topic)
        except (SQLAlchemyError, OSError):
            raise
        except Exception as error:
            outcomes.append(_failed(row.id, error))
        else:
            if not isinstance(order, ChannelOrder):
                outcomes.append(Outcome(row=row.id, state=InboxState.DONE, reason="no order of ours"))
            else:
                orders[order.order_id].append(Fact(row=row.id, key=row.fact_key, order=order))
    for facts in orders.values():
        facts.sort(key=_age)
    return outcomes, orders


def _age(fact: Fact) -> datetime:
    return fact.order.modified_at


def _failed(row: int, error: Exception) -> Outcome:
    """A message that is not understood waits for a person; one that breaks our own code does not stop the others."""
    if isinstance(error, ValidationError):
        error = unintelligible(error)
    if isinstance(error, Unintelligible):
        return Outcome(row=row, state=InboxState.FAILED, reason=error.reason, field=error.field)
    if isinstance(error, ApplicationError):
        return Outcome(row=row, state=InboxState.FAILED, reason=error.message)
    log.error("dispatcher.broken", row=row, error=type(error).__name__, place=place(error))
    return Outcome(row=row, state=InboxState.FAILED, reason=f"{type(error).__name__}: a fault of ours, see the log")


async def _channel(client: Client, limit: asyncio.Semaphore, case: Case) -> list[Outcome]:
    """One order's messages in turn."""
    outcomes: list[Outcome] = []
    async with limit:
        for number, fact in enumerate(case.facts):
            opens = case.known is None and number == 0 and fact.order.cancelled_at is None
            try:
                reason = await _deliver(client, case, fact)
            except EngineDown as error:
                log.info("dispatcher.waits", order=fact.order.order_id, error=str(error))
                return outcomes + [Outcome(row=each.row, state=InboxState.PENDING) for each in case.facts[number:]]
            except (SQLAlchemyError, OSError):
                raise
            except Exception as error:
                outcomes.append(_failed(fact.row, error))
                continue
            if not opens:
                order_id = fact.order.order_id
                outcomes.append(Outcome(row=fact.row, state=InboxState.DONE, order=order_id, reason=reason))
    return outcomes


async def _deliver(client: Client, case: Case, fact: Fact) -> str:
    """Starts the order, or tells it what changed; answers what is to be noted. Raises ``EngineDown``."""
    before = case.latest or case.known or fact.order
    newest = max(before, fact.order, key=lambda order: order.modified_at)
    reason = ""
    if not case.begun and before.cancelled_at is not None:
        if newest.cancelled_at is not None:
            case.latest = newest
            return "cancelled before it reached us"
        before = newest
    if not case.begun:
        await start_order(client, before)
        case.begun = True
    for name, request in changes(before, fact):
        reason = await _signal(client, before.order_id, name, request) or reason
    added = {line.line_no for line in newest.lines} - {line.line_no for line in before.lines}
    if added:
        await _alert(before.order_id, "lines_added", count=len(added))
    case.latest = newest
    return reason


async def _alert(order_id: str, kind: str, **detail: JsonValue) -> None:
    alert = Alert(key=f"{order_id}:{kind}", kind=f"alert.{kind}", order_id=order_id, detail=detail)
    async with transaction() as connection:
        await projection.raise_alerts(connection, [alert])


def changes(before: ChannelOrder, fact: Fact) -> list[tuple[str, Request]]:
    """The requests that a channel's newer word of an order amounts to; an older word amounts to nothing."""
    now = fact.order
    if now.modified_at < before.modified_at:
        return []
    told: dict[str, Any] = {"request_id": fact.key, "actor": f"channel:{now.channel}"}
    found: list[tuple[str, Request]] = []
    if now.cancelled_at and not before.cancelled_at:
        reason = str(now.custom.get("cancel_reason", ""))
        return [("cancel", Cancel(**told | {"request_id": f"cancel:{fact.key}", "reason": reason}))]
    if now.paid_at and not before.paid_at:
        found.append(("payment", Payment(**told | {"request_id": f"paid:{fact.key}"}, paid_at=now.paid_at)))
    quantities = {line.line_no: line.quantity for line in before.lines}
    wanted = {line.line_no: line.quantity for line in now.lines}
    lines = tuple(
        QuantityChange(line_no=number, quantity=wanted.get(number, 0))
        for number, quantity in quantities.items()
        if wanted.get(number, 0) != quantity
    )
    moved = now.recipient if now.recipient != before.recipient else None
    if lines or moved:
        changed = Modify(**told | {"request_id": f"modify:{fact.key}"}, recipient=moved, lines=lines)
        found.append(("modify", changed))
    held, hold = before.custom.get("channel_hold"), now.custom.get("channel_hold")
    if hold and not held:
        wait = HoldRequest(
            **told | {"request_id": f"hold:{fact.key}"}, kind=HoldKind.CHANNEL, reason="hold.channel.told"
        )
        found.append(("hold", wait))
    if held and not hold:
        found.append(("release", Release(**told | {"request_id": f"release:{fact.key}"}, kind=HoldKind.CHANNEL)))
    return found


async def start_order(client: Client, order: ChannelOrder) -> None:
    """Starts an order's workflow, once for its id. Raises ``EngineDown``."""
    shop = await account(Lane.CHANNEL, order.channel, order.shop)
    policy = Policy.model_validate(shop.settings.get("policy", {}))
    attributes: list[SearchAttributePair[Any]] = [
        SearchAttributePair(SearchAttributeKey.for_keyword("OrderStatus"), "received"),
        SearchAttributePair(SearchAttributeKey.for_keyword("Channel"), order.channel),
        SearchAttributePair(SearchAttributeKey.for_keyword("Shop"), order.shop),
        SearchAttributePair(SearchAttributeKey.for_int("OrderPriority"), order.priority),
    ]
    if order.promised_by is not None:
        attributes.append(SearchAttributePair(SearchAttributeKey.for_datetime("PromisedBy"), order.promised_by))
    amount = Money(amount=order.total, currency=order.currency).text(settings().lang)
    try:
        await client.start_workflow(
            "OrderWorkflow",
            OrderInput(order=order, policy=policy),
            id=order.order_id,
            task_queue=settings().task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            priority=Priority(priority_key=order.priority, fairness_key=f"{order.channel}:{order.shop}"[:64]),
            search_attributes=TypedSearchAttributes(attributes),
            static_summary=t("summary.order", channel=order.channel, lines=len(order.lines), amount=amount),
        )
    except WorkflowAlreadyStartedError:
        return
    except (RPCError, RuntimeError) as error:
        raise EngineDown(str(error)) from error


async def _signal(client: Client, order_id: str, name: str, request: Request) -> str:
    """Signals an order; answers what is to be noted where it has ended. Raises ``EngineDown``."""
    try:
        await client.get_workflow_handle(order_id).signal(name, request)
    except (RPCError, RuntimeError) as error:
        if not ended(error):
            raise EngineDown(str(error)) from error
        if name == "payment":
            await _alert(order_id, "paid_after_end")
        return f"{name}: the order has ended"
    return ""


def ended(error: Exception) -> bool:
    """Whether the engine says that no such workflow runs, rather than that it does not know its own namespace yet."""
    return isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "amespace" not in error.message


async def _other(client: Client, limit: asyncio.Semaphore, row: Row[Any]) -> list[Outcome]:
    """A message of a carrier, a warehouse or the stock."""
    async with limit:
        try:
            reason = await _HANDLERS[Lane(row.lane)](client, row)
        except EngineDown:
            return [Outcome(row=row.id, state=InboxState.PENDING)]
        except (SQLAlchemyError, OSError):
            raise
        except Exception as error:
            return [_failed(row.id, error)]
        return [Outcome(row=row.id, state=InboxState.DONE, reason=reason)]


async def _carrier(client: Client, row: Row[Any]) -> str:
    """Keeps every scan; a milestone wakes the order."""
    ours = carrier(await account(Lane.CARRIER, row.source, row.account))
    scans = ours.parse_push(row.raw.body, row.raw.headers)
    if not scans:
        return "no scans"
    async with transaction() as connection:
        rows = [scan.model_dump() for scan in scans]
        await connection.execute(insert(ScanRow).on_conflict_do_nothing(), rows)
        ours_among = _fulfillments.c.waybill_no.in_({scan.waybill_no for scan in scans})
        query = select(_fulfillments.c.waybill_no, _fulfillments.c.order_id).where(ours_among)
        orders = {waybill_no: order_id for waybill_no, order_id in await connection.execute(query)}
    reason = ""
    for scan in sorted(scans, key=lambda scan: scan.at):
        if scan.status in MILESTONES and scan.waybill_no in orders:
            milestone = Tracking(
                request_id=f"{scan.waybill_no}:{scan.scan_id}",
                actor=f"carrier:{row.source}",
                waybill_no=scan.waybill_no,
                status=scan.status,
                at=scan.at,
                place=scan.place,
            )
            reason = await _signal(client, orders[scan.waybill_no], "tracking", milestone) or reason
    return reason if orders else "no parcel of ours"


async def _warehouse(client: Client, row: Row[Any]) -> str:
    """Acceptance and picking are noted; shipping and rejection wake the order."""
    event = WarehouseEvent.model_validate_json(row.raw.body)
    async with transaction() as connection:
        parcel = (_fulfillments.c.id == event.fulfillment_id) & (_fulfillments.c.warehouse == row.account)
        order_id = (await connection.execute(select(_fulfillments.c.order_id).where(parcel))).scalar_one_or_none()
        if order_id is None:
            raise Unintelligible("fulfillment_id", "no such fulfillment order at this warehouse")
        if event.kind in {WarehouseEventKind.ACCEPTED, WarehouseEventKind.PICKED}:
            noted: dict[str, str] = {"request_status": RequestStatus.ACCEPTED}
            if event.kind is WarehouseEventKind.PICKED:
                noted["status"] = FulfillmentStatus.IN_PROGRESS
            still_there = _fulfillments.c.status.in_([FulfillmentStatus.OPEN, FulfillmentStatus.IN_PROGRESS])
            await connection.execute(update(_fulfillments).where(parcel, still_there).values(noted))
            return ""
    return await _signal(client, order_id, "warehouse_event", event)


async def _stock(client: Client, row: Row[Any]) -> str:
    return await _signal(client, row.order_id, "stock_arrived", StockArrived(request_id=row.fact_key, actor="stock"))


_HANDLERS: dict[Lane, Callable[[Client, Row[Any]], Awaitable[str]]] = {
    Lane.CARRIER: _carrier,
    Lane.WAREHOUSE: _warehouse,
    Lane.STOCK: _stock,
}
