"""The transfers' door: what is moved between our locations, what had better be, and what is asked of each."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field
from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.kit.database import Row, transaction
from activities.kit.errors import InvalidInput
from activities.records import queries
from activities.stock import transfers
from activities.stock.transfers import Proposal
from models import requests
from models.base import CHINA
from models.i18n import t
from models.requests import Answer, Approve
from models.search_attributes import WAREHOUSES
from models.settings import settings
from models.transfers import (
    SUPPORTED,
    CancelTransfer,
    Receive,
    Ship,
    Transfer,
    TransferAction,
    TransferLine,
    TransferStatus,
    Unreceived,
    listed,
)
from starter import dispatcher
from starter.api.authentication import Reader, Staff, Storekeeper
from starter.api.problems import SOON, Problem, lang
from workers.client import ask_workflow
from workflows.transfers import TransferWorkflow

router = APIRouter(prefix="/transfers", tags=["transfers"])

PATIENCE_SECONDS = 15
USUAL_DAYS = 7
"""In which accepted proposals are due, unless said otherwise."""

Number = Annotated[str, Field(pattern=r"^[A-Za-z0-9._\-]{1,80}$")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[A-Za-z0-9._\-]{1,80}$")]
Goods = Annotated[dict[str, Annotated[int, Field(ge=1, le=10_000_000)]], Field(max_length=500)]


class New(BaseModel):
    origin: Annotated[str, Field(examples=["SH"])]
    destination: Annotated[str, Field(examples=["GZ"])]
    goods: Annotated[Goods, Field(min_length=1, description="How many, by SKU.", examples=[{"A001": 6}])]
    due: Annotated[date, Field(description="Arrived by the end of this day, in China.")]
    reason: Annotated[str, Field(max_length=500)] = ""
    request_id: Annotated[Number | None, Field(description="Its number: `transfer:{request_id}`.")] = None


class Accept(BaseModel):
    """All proposals, or those of an origin, a destination, a SKU."""

    origin: str | None = None
    destination: str | None = None
    sku: str | None = None
    due: date | None = None
    request_id: Number | None = None


class Asked(BaseModel):
    request_id: str | None = None


class Named(Asked):
    goods: Annotated[Goods, Field(description="How many, by SKU; none named: all.")] = {}


class Cancelled(Asked):
    how: Annotated[Unreceived | None, Field(description="Once it has left.")] = None
    reason: Annotated[str, Field(max_length=500)] = ""


class TransferView(BaseModel):
    id: str
    status: TransferStatus
    status_text: str
    origin: str
    destination: str
    lines: list[TransferLine]
    due: date
    reason: str
    proposed_by: str
    proposed_at: datetime
    approved_by: str | None
    shipped_at: datetime | None
    returning: bool
    overdue: bool
    supported_actions: list[TransferAction]


class Event(BaseModel):
    at: datetime
    text: str
    actor: str


class TransferDetail(TransferView):
    timeline: list[Event]


class ProposalView(Proposal):
    why: str


def _fields(row: Row[Any], language: str) -> dict[str, Any]:
    status = TransferStatus(row.status)
    return dict(row._mapping) | {
        "status_text": t(f"transfer.{status}", language),
        "supported_actions": sorted(SUPPORTED[status]),
    }


@router.get("", summary="Transfers, newest first")
async def show(request: Request, principal: Reader, status: TransferStatus | None = None) -> list[TransferView]:
    async with transaction() as connection:
        rows = await transfers.list_all(connection, status)
    return [TransferView(**_fields(row, lang(request))) for row in rows]


@router.get("/proposals", summary="What had better be moved, and why")
async def proposals(request: Request, principal: Reader) -> list[ProposalView]:
    async with transaction() as connection:
        found = await transfers.propose(connection)
    return [ProposalView(**dict(each), why=_why(each, lang(request))) for each in found]


def _why(proposal: Proposal, language: str | None = None) -> str:
    return t("transfer.why", language, **dict(proposal))


@router.post("/proposals/accept", status_code=201, summary="Make transfers of proposals; answers those begun")
async def accept(body: Accept, request: Request, principal: Staff, key: Key = None) -> list[TransferView]:
    number = body.request_id or key or str(uuid4())
    begun = []
    async with transaction() as connection:
        await transfers.lock_proposals(connection)
        wanted: dict[tuple[str, str], list[Proposal]] = {}
        for each in await transfers.propose(connection):
            if all(
                asked in (None, had)
                for asked, had in (
                    (body.origin, each.origin),
                    (body.destination, each.destination),
                    (body.sku, each.sku),
                )
            ):
                wanted.setdefault((each.origin, each.destination), []).append(each)
        for (origin, destination), chosen in wanted.items():
            new = New(
                origin=origin,
                destination=destination,
                goods={each.sku: each.quantity for each in chosen},
                due=body.due or _today() + timedelta(days=USUAL_DAYS),
                reason="; ".join(f"{each.sku}: {_why(each)}" for each in chosen)[:500],
            )
            begun.append(await _begin(request, new, f"{number}-{origin}-{destination}", principal.name))
    return begun


@router.post("", status_code=201, summary="Ask for goods to be moved")
async def create(body: New, request: Request, principal: Staff, key: Key = None) -> TransferView:
    return await _begin(request, body, body.request_id or key or str(uuid4()), principal.name)


@router.get("/{transfer_id}", summary="One transfer and its timeline")
async def one(transfer_id: str, request: Request, principal: Reader) -> TransferDetail:
    language = lang(request)
    row = await _row(transfer_id)
    async with transaction() as connection:
        timeline = await queries.timeline(connection, transfer_id)
    events = [
        Event(at=each.at, text=t(each.what, language, **each.detail).rstrip(" :：,，"), actor=each.actor)
        for each in timeline
    ]
    return TransferDetail(**_fields(row, language), timeline=events)


@router.post("/{transfer_id}/approve", summary="Set the goods aside at the origin")
async def approve(
    transfer_id: str, request: Request, principal: Staff, body: Asked | None = None, key: Key = None
) -> Answer:
    command = Approve(**_of(body, key), actor=principal.name)
    return await _ask(request, transfer_id, TransferAction.APPROVE, command)


@router.post("/{transfer_id}/ship", summary="The goods leave the origin")
async def ship(
    transfer_id: str, request: Request, principal: Storekeeper, body: Named | None = None, key: Key = None
) -> Answer:
    command = Ship(**_of(body, key), actor=principal.name)
    return await _ask(request, transfer_id, TransferAction.SHIP, command)


@router.post("/{transfer_id}/receive", summary="Goods have arrived, in part or all of them")
async def receive(
    transfer_id: str, request: Request, principal: Storekeeper, body: Named | None = None, key: Key = None
) -> Answer:
    command = Receive(**_of(body, key), actor=principal.name)
    return await _ask(request, transfer_id, TransferAction.RECEIVE, command)


@router.post("/{transfer_id}/cancel", summary="Cancel; once it has left say whether it returns or is written off")
async def cancel(
    transfer_id: str, request: Request, principal: Staff, body: Cancelled | None = None, key: Key = None
) -> Answer:
    command = CancelTransfer(**_of(body, key), actor=principal.name)
    return await _ask(request, transfer_id, TransferAction.CANCEL, command)


def _of(body: Asked | None, key: str | None) -> dict[str, Any]:
    asked = body.model_dump(exclude_none=True) if body is not None else {}
    return {"request_id": key or str(uuid4())} | asked


def _today() -> date:
    return datetime.now(CHINA).date()


async def _find(transfer_id: str) -> Row[Any] | None:
    async with transaction() as connection:
        return await transfers.get(connection, transfer_id)


async def _row(transfer_id: str) -> Row[Any]:
    row = await _find(transfer_id)
    if row is None:
        raise Problem(404, "problem.no_transfer", {"transfer": transfer_id})
    return row


async def _begin(request: Request, new: New, number: str, actor: str) -> TransferView:
    """Begins a transfer, approved at once where it is small; the same number again begins nothing.

    Raises ``NotAllowed``; a 409 where the number is another transfer's.
    """
    transfer = Transfer(
        id=f"transfer:{number}",
        origin=new.origin,
        destination=new.destination,
        lines=[TransferLine(sku=sku, quantity=quantity) for sku, quantity in new.goods.items()],
        due=new.due,
        reason=new.reason,
        proposed_by=actor,
        proposed_at=datetime.now(UTC),
    )
    async with transaction() as connection:
        row = await transfers.get(connection, transfer.id)
        if row is None:
            if new.due < _today():
                raise InvalidInput("due", "invalid.due")
            await transfers.validate(connection, transfer)
    if row is None:
        await _start(request.app.state.temporal, transfer)
        row = await _row(transfer.id)
    planned = {line["sku"]: line["quantity"] for line in row.lines}
    if (row.origin, row.destination, planned) != (new.origin, new.destination, new.goods):
        raise Problem(409, "problem.other_transfer", {"transfer": transfer.id})
    return TransferView(**_fields(row, lang(request)))


async def _start(client: Client, transfer: Transfer) -> None:
    """Starts the workflow, and waits until its row is written."""
    small = sum(transfer.planned.values()) <= settings().transfer_units
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await client.start_workflow(
                TransferWorkflow.run,
                transfer,
                id=transfer.id,
                task_queue=settings().task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="approve" if small else None,
                start_signal_args=[Approve(request_id="small", actor="hengdan")] if small else [],
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(WAREHOUSES, [transfer.origin, transfer.destination])]
                ),
                static_summary=f"{transfer.origin} → {transfer.destination} · {listed(transfer.planned)}"[:200],
            )
            while await _find(transfer.id) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except WorkflowAlreadyStartedError:
        raise Problem(409, "problem.other_transfer", {"transfer": transfer.id}) from None
    except TimeoutError:
        raise Problem(503, "problem.engine_slow", headers=SOON) from None
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None


async def _ask(request: Request, transfer_id: str, action: TransferAction, command: requests.Request) -> Answer:
    """Asks the transfer's workflow. Raises a 409 with the reason where it says no, 404 where there is none such, 503
    where the engine does not answer in time: asked again under the same id it counts once."""
    client: Client = request.app.state.temporal
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await ask_workflow(client.get_workflow_handle(transfer_id), action.value, command)
    except WorkflowUpdateFailedError as error:
        if not isinstance(error.cause, ApplicationError) or not error.cause.details:
            raise Problem(409, "problem.conflict") from None
        answer = Answer.model_validate(error.cause.details[0])
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise Problem(503, "problem.engine_slow", headers=SOON, request_id=command.request_id) from None
    except (RPCError, RuntimeError) as error:
        if not dispatcher.ended(error):
            raise Problem(503, "problem.engine_down", headers=SOON, request_id=command.request_id) from None
        answer = requests.no(f"refused.transfer.{action}", transfer=(await _row(transfer_id)).status)
    if not answer.accepted:
        actions = sorted(SUPPORTED[TransferStatus((await _row(transfer_id)).status)])
        raise Problem(409, answer.reason, answer.params, reason=answer.reason, supported_actions=actions)
    dispatcher.wake()
    return answer
