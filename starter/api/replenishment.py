"""Replenishment: suggestions, purchase orders, placement by location, purchase terms and promotions."""

import asyncio
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, Field
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.service import RPCError

from activities.kit.database import Row, transaction
from activities.stock import replenishment
from activities.stock.replenishment import LocationShare, Progress, StatusConflict
from models.base import CHINA
from models.i18n import t
from models.replenishment import Promotion, PurchaseLine, PurchaseStatus, ReplenishmentStatus, Terms
from models.settings import settings
from starter import dispatcher
from starter.api.authentication import Reader, Staff, Storekeeper
from starter.api.commands import require_worker
from starter.api.problems import SOON, Problem, lang
from workflows.replenishment import ReplenishmentWorkflow

router = APIRouter(tags=["replenishment"])

TIMEOUT_SECONDS = 15
RUN = "replenishment:asked"
"""The workflow of a requested run: one at a time."""

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
Quantity = Annotated[int, Field(ge=1, le=10_000_000)]


class Suggestion(BaseModel):
    id: str
    sku: str
    warehouse: str
    quantity: int
    reorder_point: int
    order_by: date
    stock_out_on: date | None
    supplier: str
    cost: Decimal
    currency: str
    why: str
    detail: dict[str, Any]
    status: ReplenishmentStatus
    status_text: str
    made_at: datetime
    decided_by: str | None
    decided_at: datetime | None


class Accept(BaseModel):
    quantity: Annotated[Quantity | None, Field(description="Replaces the suggested quantity.")] = None


class Purchase(BaseModel):
    id: str
    warehouse: str
    supplier: str
    lines: list[PurchaseLine]
    status: PurchaseStatus
    status_text: str
    due: date
    created_by: str
    created_at: datetime


class Receive(BaseModel):
    goods: Annotated[dict[str, Quantity], Field(description="Quantity by SKU; empty: all outstanding.")] = {}
    request_id: Annotated[str | None, Field(max_length=200)] = None


class Run(Progress):
    """A run over all SKUs; ``running``: not finished yet."""

    running: bool


def _suggestion(row: Row[Any], language: str) -> Suggestion:
    why = t("replenish.why", language, reorder_point=row.reorder_point, **row.detail)
    terms = {name: row.detail[name] for name in ("supplier", "cost", "currency")}
    return Suggestion(**row._mapping, **terms, why=why, status_text=t(f"replenishment.{row.status}", language))


def _purchase(row: Row[Any], language: str) -> Purchase:
    return Purchase(**row._mapping, status_text=t(f"purchase.{row.status}", language))


def _or_404(row: Row[Any] | None, record_id: str) -> Row[Any]:
    if row is None:
        raise Problem(404, "problem.no_replenishment", {"id": record_id})
    return row


def _closed(error: StatusConflict, request: Request) -> Problem:
    family = "purchase" if isinstance(error.status, PurchaseStatus) else "replenishment"
    return Problem(409, "problem.closed", {"state": t(f"{family}.{error.status}", lang(request))})


def _today() -> date:
    return datetime.now(CHINA).date()


@router.get("/replenishments", summary="Purchase suggestions, the most urgent first")
async def list_suggestions(
    request: Request, principal: Reader, status: ReplenishmentStatus | None = None, sku: str | None = None
) -> list[Suggestion]:
    async with transaction() as connection:
        rows = await replenishment.list_suggestions(connection, status, sku)
    return [_suggestion(row, lang(request)) for row in rows]


@router.get("/replenishments/placement", summary="The share of each SKU that a location should hold")
async def show_placement(
    principal: Reader, weeks: Annotated[int, Query(ge=1, le=52)] = 8, sku: str | None = None
) -> list[LocationShare]:
    async with transaction() as connection:
        return await replenishment.advise_placement(connection, weeks, _today(), sku)


@router.post("/replenishments/run", summary="Compute suggestions now; returns when finished, or while still running")
async def start_run(request: Request, principal: Staff) -> Run:
    client: Client = request.app.state.temporal
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await require_worker(client)
            handle = await client.start_workflow(
                ReplenishmentWorkflow.run,
                id=RUN,
                task_queue=settings().task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
            return Run(running=False, **(await handle.result()).model_dump())
    except TimeoutError:
        return await _progress(client)
    except WorkflowFailureError as error:
        raise _failed(error) from None
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None


@router.get("/replenishments/run", summary="Progress of the requested run")
async def show_run(request: Request, principal: Reader) -> Run:
    client: Client = request.app.state.temporal
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await _progress(client)
    except WorkflowFailureError as error:
        raise _failed(error) from None
    except (TimeoutError, RPCError, RuntimeError) as error:
        if dispatcher.ended(error):
            raise Problem(404, "problem.no_replenishment", {"id": RUN}) from None
        raise Problem(503, "problem.engine_down", headers=SOON) from None


async def _progress(client: Client) -> Run:
    """Return the progress of the last heartbeat."""
    handle: WorkflowHandle[ReplenishmentWorkflow, Progress] = client.get_workflow_handle(RUN, result_type=Progress)
    described = await handle.describe()
    if described.status is not WorkflowExecutionStatus.RUNNING:
        return Run(running=False, **(await handle.result()).model_dump())
    for pending in described.raw_description.pending_activities:
        if pending.heartbeat_details.payloads:
            (last,) = await client.data_converter.decode(pending.heartbeat_details.payloads, [Progress])
            return Run(running=True, **last.model_dump())
    return Run(running=True)


def _failed(error: WorkflowFailureError) -> Problem:
    cause = error.cause.cause if isinstance(error.cause, ActivityError) else error.cause
    if isinstance(cause, ApplicationError) and cause.details and cause.details[0] == "forecast":
        return Problem(409, "problem.no_forecasts")
    return Problem(409, "problem.run_failed")


@router.post("/replenishments/{suggestion_id}/accept", summary="Accept a suggestion: order from the supplier")
async def accept(suggestion_id: str, request: Request, principal: Staff, body: Accept | None = None) -> Purchase:
    quantity = body.quantity if body else None
    try:
        async with transaction() as connection:
            row = await replenishment.accept(connection, suggestion_id, quantity, _today(), principal.name)
    except StatusConflict as error:
        raise _closed(error, request) from None
    return _purchase(_or_404(row, suggestion_id), lang(request))


@router.post("/replenishments/{suggestion_id}/dismiss", summary="Dismiss a suggestion")
async def dismiss(suggestion_id: str, request: Request, principal: Staff) -> Suggestion:
    try:
        async with transaction() as connection:
            row = await replenishment.dismiss(connection, suggestion_id, principal.name)
    except StatusConflict as error:
        raise _closed(error, request) from None
    return _suggestion(_or_404(row, suggestion_id), lang(request))


@router.get("/purchase-orders", summary="Purchase orders, newest first")
async def list_purchases(request: Request, principal: Reader, status: PurchaseStatus | None = None) -> list[Purchase]:
    async with transaction() as connection:
        rows = await replenishment.list_purchases(connection, status)
    return [_purchase(row, lang(request)) for row in rows]


@router.post("/purchase-orders/{purchase_id}/receive", summary="Receive a purchase order, all or in part")
async def receive(
    purchase_id: str, request: Request, principal: Storekeeper, body: Receive | None = None, key: Key = None
) -> Purchase:
    receipt = body or Receive()
    request_id = receipt.request_id or key or str(uuid4())
    try:
        async with transaction() as connection:
            row = await replenishment.receive_purchase(
                connection, purchase_id, receipt.goods, request_id, principal.name
            )
    except StatusConflict as error:
        raise _closed(error, request) from None
    dispatcher.wake()
    return _purchase(_or_404(row, purchase_id), lang(request))


@router.post("/purchase-orders/{purchase_id}/cancel", summary="Cancel the rest of a purchase order")
async def cancel(purchase_id: str, request: Request, principal: Staff) -> Purchase:
    try:
        async with transaction() as connection:
            row = await replenishment.cancel_purchase(connection, purchase_id)
    except StatusConflict as error:
        raise _closed(error, request) from None
    return _purchase(_or_404(row, purchase_id), lang(request))


@router.get("/purchase-terms", summary="Purchase terms")
async def list_terms(principal: Reader) -> list[Terms]:
    async with transaction() as connection:
        return await replenishment.list_terms(connection)


@router.post("/purchase-terms", summary="Set the purchase terms of a SKU, for one location or all")
async def save_terms(body: Terms, principal: Staff) -> Terms:
    async with transaction() as connection:
        await replenishment.save_terms(connection, body)
    return body


@router.get("/promotions", summary="Promotions, whose days forecasts leave out")
async def list_promotions(principal: Reader) -> list[Promotion]:
    async with transaction() as connection:
        return await replenishment.list_promotions(connection)


@router.post("/promotions", summary="Add a promotion, whose days forecasts leave out")
async def save_promotion(body: Promotion, principal: Staff) -> Promotion:
    async with transaction() as connection:
        await replenishment.save_promotion(connection, body)
    return body
