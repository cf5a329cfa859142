"""The dispatcher: takes messages from the inbox and makes them workflows and signals, at the engine's own pace.

One runs at a time, whatever the number of API processes: the others stand by for its lock. A message is marked before
the engine hears of it and again afterwards; dying in between repeats it, and every repetition is harmless: a workflow
starts once for its id, a request counts once for its own.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import JsonValue, ValidationError
from sqlalchemy import Row, Table, select, text, update
from sqlalchemy.exc import DataError, SQLAlchemyError
from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.accounts.accounts import get_account
from activities.aftersales.reissue import REISSUE
from activities.carriers import tracker
from activities.catalogue import sku_mapping
from activities.channels import Hint, channel
from activities.fulfillment import exceptions, tracking
from activities.intake import inbox
from activities.intake.inbox import Outcome
from activities.kit.database import engine, transaction
from activities.kit.errors import Unintelligible
from activities.kit.payloads import unintelligible
from activities.records import alerts
from models import search_attributes
from models.base import Value
from models.fulfillment import MILESTONES, FulfillmentRow, FulfillmentStatus, RequestStatus, Scan
from models.hold import HoldKind
from models.i18n import t
from models.intake import InboxState, IntegrationType
from models.money import Money
from models.order import Alert, ChannelOrder, RefundState
from models.origins import IntakePath
from models.policy import Policy
from models.requests import (
    Cancel,
    HoldRequest,
    Modify,
    Payment,
    QuantityChange,
    Refunding,
    Release,
    Remark,
    Replan,
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
        room = settings().intake_window - await inbox.count_started(connection)
        others = await inbox.next_messages(
            connection, [IntegrationType.CARRIER, IntegrationType.WAREHOUSE, IntegrationType.INTERNAL], _BATCH
        )
        outcomes, orders, hints = await _read(await inbox.next_messages(connection, [IntegrationType.CHANNEL], room))
        known = await inbox.load_documents(connection, list(orders))
        cases = [Case(facts, *known.get(order_id, (None, False))) for order_id, facts in orders.items()]
        openings = [case.facts[0] for case in cases if case.known is None]
        await inbox.save_documents(connection, [fact.order for fact in openings])
        now = datetime.now(UTC)
        outcomes += [
            Outcome(row=fact.row, state=InboxState.STARTED, order=fact.order.order_id, at=now)
            for fact in openings
            if _to_begin(fact.order)
        ]
        await inbox.record_outcomes(connection, outcomes)
    if not cases and not others and not hints:
        return len(outcomes)
    limit = asyncio.Semaphore(_AT_ONCE)
    pushes = [row for row in others if row.integration == IntegrationType.CARRIER]
    work = [_channel(client, limit, case) for case in cases] + [_carriers(client, limit, pushes)]
    work += [_other(client, limit, row) for row in others if row.integration != IntegrationType.CARRIER]
    work += [_hint(client, limit, *shop, rows) for shop, rows in hints.items()]
    done = [outcome for each in await asyncio.gather(*work) for outcome in each]
    async with transaction() as connection:
        await inbox.record_outcomes(connection, done)
        told = [case.latest for case in cases if case.latest is not None]
        await inbox.save_documents(connection, told)
    if any(each.state is InboxState.PENDING for each in done):
        raise EngineDown("messages wait")
    return len(others) + len(orders) + len(hints)


def _to_begin(order: ChannelOrder) -> bool:
    """New to us, it is to be handled: it is neither over nor sent by somebody else."""
    return order.cancelled_at is None and not order.shipped


Hints = dict[tuple[str, str], dict[int, Hint]]
"""By channel and shop, by message."""


async def _read(rows: Sequence[Row[Any]]) -> tuple[list[Outcome], dict[str, list[Fact]], Hints]:
    """What channel messages say, by order, oldest first, and what became of those that say nothing; and hints."""
    outcomes: list[Outcome] = []
    orders: dict[str, list[Fact]] = defaultdict(list)
    hints: Hints = defaultdict(dict)
    for row in rows:
        try:
            shop = await get_account(IntegrationType.CHANNEL, row.source, row.account)
            order = channel(shop).parse(row.raw.body, row.topic)
        except (SQLAlchemyError, OSError):
            raise
        except Exception as error:
            outcomes.append(_failed(row.id, error))
        else:
            if isinstance(order, Hint):
                hints[row.source, row.account][row.id] = order
            elif order is None:
                outcomes.append(Outcome(row=row.id, state=InboxState.DONE, reason="no order of ours"))
            else:
                origin = order.origin.standard(IntakePath(row.path), row.received_at)
                order = order.model_copy(update={"origin": origin})
                orders[order.order_id].append(Fact(row=row.id, key=row.fact_key, order=order))
    for facts in orders.values():
        facts.sort(key=_age)
    return outcomes, orders, hints


async def _hint(
    client: Client, limit: asyncio.Semaphore, source: str, shop: str, rows: Mapping[int, Hint]
) -> list[Outcome]:
    """Has the orders read that messages only name."""
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
            return [Outcome(row=row, state=InboxState.PENDING) for row in rows]
    return [
        Outcome(
            row=row,
            state=InboxState.DONE,
            reason="to be read",
            order=f"order:{source}:{shop}:{hint.order_nos[0]}" if len(hint.order_nos) == 1 else None,
        )
        for row, hint in rows.items()
    ]


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
            opens = case.known is None and number == 0 and _to_begin(fact.order)
            try:
                reason = await _deliver(client, case, fact)
            except EngineDown as error:
                log.info("dispatcher.waits", order=fact.order.order_id, error=str(error))
                return outcomes + [Outcome(row=each.row, state=InboxState.PENDING) for each in case.facts[number:]]
            except (SQLAlchemyError, OSError):
                raise
            except Exception as error:
                outcomes.append(_failed(fact.row, error).model_copy(update={"order": fact.order.order_id}))
                continue
            if not opens:
                order_id = fact.order.order_id
                outcomes.append(Outcome(row=fact.row, state=InboxState.DONE, order=order_id, reason=reason))
    return outcomes


async def _deliver(client: Client, case: Case, fact: Fact) -> str:
    """Starts the order, or tells it what changed; answers what is to be noted. Raises ``EngineDown``."""
    before = case.latest or case.known or fact.order
    newest = fact.order if fact.order.modified_at >= before.modified_at else before
    if newest.recipient.unreadable:
        newest = newest.model_copy(update={"recipient": before.recipient})
    reason = ""
    if not case.begun and not _to_begin(before):
        if not _to_begin(newest):
            case.latest = newest
            return "over before it reached us"
        before = newest
    if not case.begun:
        await start_order(client, before)
        case.begun = True
    told = changes(before, fact)
    if newest.shipped and not before.shipped and not await _all_left(before.order_id):
        sent = HoldRequest(request_id=f"shipped:{fact.key}", actor=f"channel:{newest.channel}", kind=HoldKind.CHANNEL)
        told.append(("hold", sent.model_copy(update={"reason": "hold.channel.shipped"})))
    for name, request in told:
        reason = await _signal(client, before.order_id, name, request) or reason
    added = {line.line_no for line in newest.lines} - {line.line_no for line in before.lines}
    if added:
        await _alert(before.order_id, "lines_added", count=len(added))
    case.latest = newest
    return reason or ", ".join(name for name, _ in told)


async def _alert(order_id: str, kind: str, **detail: JsonValue) -> None:
    alert = Alert(key=f"{order_id}:{kind}", kind=f"alert.{kind}", order_id=order_id, detail=detail)
    async with transaction() as connection:
        await alerts.raise_alerts(connection, [alert])


async def _all_left(order_id: str) -> bool:
    """All that we were to send is on its way: what the channel says was shipped was shipped by us."""
    query = select(_fulfillments.c.shipped_at).where(
        _fulfillments.c.order_id == order_id, _fulfillments.c.status != FulfillmentStatus.CANCELLED
    )
    async with transaction() as connection:
        left = list(await connection.scalars(query))
    return bool(left) and None not in left


def changes(before: ChannelOrder, fact: Fact) -> list[tuple[str, Request]]:
    """The requests that a channel's newer word of an order amounts to; an older word amounts to nothing.

    What is not wanted any more comes before the refund of it, which lets the rest go on.
    """
    now = fact.order
    if now.modified_at < before.modified_at:
        return []

    def told(kind: str) -> dict[str, Any]:
        return {"request_id": f"{kind}:{fact.key}"[:200], "actor": f"channel:{now.channel}"}

    found: list[tuple[str, Request]] = []
    if now.cancelled_at and not before.cancelled_at:
        found.append(("cancel", Cancel(**told("cancel"), reason=str(now.custom.get("cancel_reason", "")))))
        return found + _refunds(before, fact)
    if now.paid_at and not before.paid_at:
        found.append(("payment", Payment(**told("paid"), paid_at=now.paid_at)))
    wanted = {line.line_no: line.quantity for line in now.lines}
    lines = tuple(
        QuantityChange(line_no=line.line_no, quantity=wanted.get(line.line_no, 0))
        for line in before.lines
        if wanted.get(line.line_no, 0) != line.quantity
    )
    moved = None if now.recipient == before.recipient or now.recipient.unreadable else now.recipient
    if lines or moved:
        found.append(("modify", Modify(**told("modify"), recipient=moved, lines=lines)))
    said = (now.buyer_message, now.seller_memo, now.priority)
    if said != (before.buyer_message, before.seller_memo, before.priority):
        remark = Remark(**told("remark"), buyer_message=said[0], seller_memo=said[1], priority=said[2])
        found.append(("remark", remark))
    found += _refunds(before, fact)
    held, hold = before.custom.get("channel_hold"), now.custom.get("channel_hold")
    if hold and not held:
        found.append(("hold", HoldRequest(**told("hold"), kind=HoldKind.CHANNEL, reason="hold.channel.told")))
    if held and not hold:
        found.append(("release", Release(**told("release"), kind=HoldKind.CHANNEL)))
    return found


def _refunds(before: ChannelOrder, fact: Fact) -> list[tuple[str, Request]]:
    """Those that are new, stand otherwise than before, or are not spoken of any more."""
    now = {each.refund_no: each for each in fact.order.refunds}
    known = {each.refund_no: each for each in before.refunds}
    gone = [
        each.model_copy(update={"state": RefundState.CLOSED})
        for each in before.refunds
        if each.refund_no not in now and each.state is RefundState.ASKED
    ]
    return [
        (
            "refund",
            Refunding(
                request_id=f"refund:{each.refund_no}:{each.state}:{fact.key}"[:200],
                actor=f"channel:{fact.order.channel}",
                refund=each,
            ),
        )
        for each in (*now.values(), *gone)
        if known.get(each.refund_no) != each
    ]


async def start_order(client: Client, order: ChannelOrder) -> None:
    """Starts an order's workflow, once for its id. Raises ``EngineDown``."""
    shop = await get_account(IntegrationType.CHANNEL, order.channel, order.shop)
    policy = Policy.model_validate(shop.settings.get("policy", {}))
    attributes: list[SearchAttributePair[Any]] = [
        SearchAttributePair(search_attributes.STATUS, "received"),
        SearchAttributePair(search_attributes.CHANNEL, order.channel),
        SearchAttributePair(search_attributes.SHOP, order.shop),
        SearchAttributePair(search_attributes.PRIORITY, order.priority),
    ]
    if order.promised_by is not None:
        attributes.append(SearchAttributePair(search_attributes.PROMISED_BY, order.promised_by))
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
        if isinstance(request, Refunding) and request.refund.state is RefundState.ASKED:
            await _alert(order_id, "refund_after_end", refund_no=request.refund.refund_no)
        return f"{name}: the order has ended"
    return ""


def ended(error: Exception) -> bool:
    """Whether the engine says that no such workflow runs, rather than that it does not know its own namespace yet."""
    return isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND and "amespace" not in error.message


async def _other(client: Client, limit: asyncio.Semaphore, row: Row[Any]) -> list[Outcome]:
    """A message of a warehouse or the stock."""
    async with limit:
        try:
            reason, order = await _HANDLERS[IntegrationType(row.integration)](client, row)
        except EngineDown:
            return [Outcome(row=row.id, state=InboxState.PENDING)]
        except (SQLAlchemyError, OSError):
            raise
        except Exception as error:
            return [_failed(row.id, error)]
        return [Outcome(row=row.id, state=InboxState.DONE, reason=reason, order=order)]


Handled = tuple[str, str | None]
"""What is to be noted of a message, and the order it is about, where that is one."""


async def _carriers(client: Client, limit: asyncio.Semaphore, rows: Sequence[Row[Any]]) -> list[Outcome]:
    """What carriers told: every scan is kept, all in one transaction; a milestone wakes its order."""
    outcomes: list[Outcome] = []
    told: dict[int, Sequence[Scan]] = {}
    for row in rows:
        try:
            told[row.id] = await _scans(row)
        except (SQLAlchemyError, OSError):
            raise
        except Exception as error:
            outcomes.append(_failed(row.id, error))
    try:
        async with transaction() as connection:
            orders = await tracking.save_scans(connection, [scan for scans in told.values() for scan in scans])
    except (DataError, ValueError) as error:
        if len(told) == 1:
            return [*outcomes, *(_failed(row, error) for row in told)]
        alone = [await _carriers(client, limit, [row]) for row in rows if row.id in told]
        return outcomes + [outcome for each in alone for outcome in each]
    sources = {row.id: row.source for row in rows}
    work = (_milestones(client, limit, row, sources[row], scans, orders) for row, scans in told.items())
    return outcomes + list(await asyncio.gather(*work))


async def _scans(row: Row[Any]) -> Sequence[Scan]:
    if row.topic == tracking.PULLED:
        return tracking.SCANS.validate_json(row.raw.body)
    ours = tracker(await get_account(IntegrationType.CARRIER, row.source, row.account))
    return ours.parse_push(row.raw.body, row.raw.headers)


async def _milestones(
    client: Client, limit: asyncio.Semaphore, row: int, source: str, scans: Sequence[Scan], orders: Mapping[str, str]
) -> Outcome:
    """``orders``: by waybill number."""
    reason = ""
    about = {orders[scan.waybill_no] for scan in scans if scan.waybill_no in orders}
    for scan in sorted(scans, key=lambda scan: scan.at):
        if scan.status in MILESTONES and scan.waybill_no in orders:
            milestone = Tracking(
                request_id=f"{scan.waybill_no}:{scan.scan_id}",
                actor=f"carrier:{source}",
                waybill_no=scan.waybill_no,
                status=scan.status,
                at=scan.at,
                place=scan.place,
            )
            try:
                async with limit:
                    reason = await _signal(client, orders[scan.waybill_no], "tracking", milestone) or reason
            except EngineDown:
                return Outcome(row=row, state=InboxState.PENDING)
    if not about:
        reason = "no parcel of ours" if scans else "no scans"
    return Outcome(row=row, state=InboxState.DONE, reason=reason, order=about.pop() if len(about) == 1 else None)


async def _warehouse(client: Client, row: Row[Any]) -> Handled:
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
            return "", order_id
    return await _signal(client, order_id, "warehouse_event", event), order_id


async def _stock(client: Client, row: Row[Any]) -> Handled:
    """A parcel is to be planned elsewhere, or sent once more; stock has come, or is known now."""
    if row.topic == exceptions.REPLAN:
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
    IntegrationType.INTERNAL: _stock,
}
