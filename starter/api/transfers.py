"""Transfers between locations: proposals, details, and commands that the transfer's workflow answers."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field
from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
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
from starter.api.commands import require_worker, send_command
from starter.api.orders import entry_text
from starter.api.problems import SOON, Problem, lang
from workflows.transfers import TransferWorkflow

router = APIRouter(prefix="/transfers", tags=["transfers"])

TIMEOUT_SECONDS = 15
DEFAULT_DAYS = 7
"""Until an accepted proposal is due, unless the request says otherwise."""

Number = Annotated[str, Field(pattern=r"^[A-Za-z0-9._\-]{1,80}$")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[A-Za-z0-9._\-]{1,80}$")]
Goods = Annotated[dict[str, Annotated[int, Field(ge=1, le=10_000_000)]], Field(max_length=500)]


class TransferRequest(BaseModel):
    origin: Annotated[str, Field(examples=["SH"])]
    destination: Annotated[str, Field(examples=["GZ"])]
    goods: Annotated[Goods, Field(min_length=1, description="Quantity by SKU.", examples=[{"A001": 6}])]
    due: Annotated[date, Field(description="To arrive by the end of this day, China time.")]
    reason: Annotated[str, Field(max_length=500)] = ""
    request_id: Annotated[Number | None, Field(description="The transfer's id is `transfer:{request_id}`.")] = None


class AcceptProposals(BaseModel):
    """All proposals, or those of an origin, a destination or a SKU."""

    origin: str | None = None
    destination: str | None = None
    sku: str | None = None
    due: date | None = None
    request_id: Number | None = None


class Command(BaseModel):
    request_id: str | None = None


class GoodsCommand(Command):
    goods: Annotated[Goods, Field(description="Quantity by SKU; empty: all.")] = {}


class CancelCommand(Command):
    how: Annotated[Unreceived | None, Field(description="Required once the goods have left.")] = None
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
async def list_transfers(
    request: Request, principal: Reader, status: TransferStatus | None = None
) -> list[TransferView]:
    async with transaction() as connection:
        rows = await transfers.list_all(connection, status)
    return [TransferView(**_fields(row, lang(request))) for row in rows]


@router.get("/proposals", summary="Proposed transfers and their reasons")
async def list_proposals(request: Request, principal: Reader) -> list[ProposalView]:
    async with transaction() as connection:
        proposals = await transfers.propose(connection)
    return [ProposalView(**dict(each), why=_why(each, lang(request))) for each in proposals]


def _why(proposal: Proposal, language: str | None = None) -> str:
    return t("transfer.why", language, **dict(proposal))


@router.post("/proposals/accept", status_code=201, summary="Create transfers of proposals")
async def accept(body: AcceptProposals, request: Request, principal: Staff, key: Key = None) -> list[TransferView]:
    number = body.request_id or key or str(uuid4())
    created = []
    async with transaction() as connection:
        await transfers.lock_proposals(connection)
        routes: dict[tuple[str, str], list[Proposal]] = {}
        for each in await transfers.propose(connection):
            if all(
                filter_value in (None, value)
                for filter_value, value in (
                    (body.origin, each.origin),
                    (body.destination, each.destination),
                    (body.sku, each.sku),
                )
            ):
                routes.setdefault((each.origin, each.destination), []).append(each)
        for (origin, destination), chosen in routes.items():
            requested = TransferRequest(
                origin=origin,
                destination=destination,
                goods={each.sku: each.quantity for each in chosen},
                due=body.due or _today() + timedelta(days=DEFAULT_DAYS),
                reason="; ".join(f"{each.sku}: {_why(each)}" for each in chosen)[:500],
            )
            created.append(await _create(request, requested, f"{number}-{origin}-{destination}", principal.name))
    return created


@router.post("", status_code=201, summary="Create a transfer")
async def create(body: TransferRequest, request: Request, principal: Staff, key: Key = None) -> TransferView:
    return await _create(request, body, body.request_id or key or str(uuid4()), principal.name)


@router.get("/{transfer_id}", summary="One transfer with its timeline")
async def show_transfer(transfer_id: str, request: Request, principal: Reader) -> TransferDetail:
    language = lang(request)
    row = await _row(transfer_id)
    async with transaction() as connection:
        timeline = await queries.timeline(connection, transfer_id)
    events = [Event(at=each.at, text=entry_text(each, language), actor=each.actor) for each in timeline]
    return TransferDetail(**_fields(row, language), timeline=events)


@router.post("/{transfer_id}/approve", summary="Approve: reserve the goods at the origin")
async def approve(
    transfer_id: str, request: Request, principal: Staff, body: Command | None = None, key: Key = None
) -> Answer:
    command = Approve(**_fields_of(body, key), actor=principal.name)
    return await _send(request, transfer_id, TransferAction.APPROVE, command)


@router.post("/{transfer_id}/ship", summary="Ship the goods")
async def ship(
    transfer_id: str, request: Request, principal: Storekeeper, body: GoodsCommand | None = None, key: Key = None
) -> Answer:
    command = Ship(**_fields_of(body, key), actor=principal.name)
    return await _send(request, transfer_id, TransferAction.SHIP, command)


@router.post("/{transfer_id}/receive", summary="Receive the goods, all or in part")
async def receive(
    transfer_id: str, request: Request, principal: Storekeeper, body: GoodsCommand | None = None, key: Key = None
) -> Answer:
    command = Receive(**_fields_of(body, key), actor=principal.name)
    return await _send(request, transfer_id, TransferAction.RECEIVE, command)


@router.post("/{transfer_id}/cancel", summary="Cancel; goods that have left return or are written off")
async def cancel(
    transfer_id: str, request: Request, principal: Staff, body: CancelCommand | None = None, key: Key = None
) -> Answer:
    command = CancelTransfer(**_fields_of(body, key), actor=principal.name)
    return await _send(request, transfer_id, TransferAction.CANCEL, command)


def _fields_of(body: Command | None, key: str | None) -> dict[str, Any]:
    fields = body.model_dump(exclude_none=True) if body is not None else {}
    return {"request_id": key or str(uuid4())} | fields


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


async def _create(request: Request, requested: TransferRequest, number: str, actor: str) -> TransferView:
    """Create a transfer, approved at once where it is small; a repeated number returns the transfer it has.

    Raises ``InvalidInput``; a 409 where the number belongs to a different transfer.
    """
    transfer = Transfer(
        id=f"transfer:{number}",
        origin=requested.origin,
        destination=requested.destination,
        lines=[TransferLine(sku=sku, quantity=quantity) for sku, quantity in requested.goods.items()],
        due=requested.due,
        reason=requested.reason,
        proposed_by=actor,
        proposed_at=datetime.now(UTC),
    )
    async with transaction() as connection:
        row = await transfers.get(connection, transfer.id)
        if row is None:
            if requested.due < _today():
                raise InvalidInput("due", "invalid.due")
            await transfers.validate(connection, transfer)
    if row is None:
        await _start(request.app.state.temporal, transfer)
        row = await _row(transfer.id)
    planned = {line["sku"]: line["quantity"] for line in row.lines}
    if (row.origin, row.destination, planned) != (
        requested.origin,
        requested.destination,
        requested.goods,
    ):
        raise Problem(409, "problem.other_transfer", {"transfer": transfer.id})
    return TransferView(**_fields(row, lang(request)))


async def _start(client: Client, transfer: Transfer) -> None:
    """Start the workflow, and wait until its row is written."""
    await require_worker(client)
    small = sum(transfer.planned.values()) <= settings().transfer_units
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
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


async def _send(request: Request, transfer_id: str, action: TransferAction, command: requests.Request) -> Answer:
    """Send a command to the transfer's workflow.

    Raises a 409 with the reason where the transfer refuses, 404 where there is no such transfer, 503 where the engine
    does not answer in time.
    """
    answer = await send_command(request.app.state.temporal, transfer_id, action.value, command, TIMEOUT_SECONDS)
    if answer is None:
        answer = requests.no(f"refused.transfer.{action}", transfer=(await _row(transfer_id)).status)
    if not answer.accepted:
        actions = sorted(SUPPORTED[TransferStatus((await _row(transfer_id)).status)])
        raise Problem(409, answer.reason, answer.params, reason=answer.reason, supported_actions=actions)
    dispatcher.wake()
    return answer
