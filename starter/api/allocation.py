"""Allocation: rules, rate tables, trial plans with their reasons, and replanning all orders of a warehouse."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, Field
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from activities.allocation import allocation, replanning, rules_and_rates
from activities.catalogue import locations, skus
from activities.kit.database import Row, transaction
from activities.kit.errors import InvalidInput
from activities.records import queries
from models.address import Recipient
from models.allocation import Plan, Rate, Rule
from models.base import Moment
from models.i18n import t
from models.order import NORMAL, ChannelOrder, OrderLine
from models.origins import ChannelKind, Code, IntakePath, Origin
from models.policy import OBJECTIVE, Criterion, Policy
from models.settings import settings
from starter.api.authentication import Reader, Staff
from starter.api.commands import must_match_path, require_worker
from starter.api.orders import find_order
from starter.api.problems import SOON, Problem, lang
from workflows.replanning import ReplanInput, ReplanWorkflow

router = APIRouter(prefix="/plan", tags=["plan"])


class ReplanWarehouse(BaseModel):
    """Replan every order that is still to ship from the warehouse."""

    warehouse: Annotated[str, Field(examples=["SH"])]
    reason: Annotated[str, Field(min_length=1, max_length=200, examples=["flooded"])]
    close: Annotated[bool, Field(description="Close the warehouse first, so that no new plan uses it.")] = False


class Progress(BaseModel):
    """``left``: orders that are still to ship from the warehouse; ``told``: orders signalled to replan."""

    warehouse: str
    running: bool
    told: int
    left: int


@router.post("/again", status_code=202, summary="Replan the orders of a warehouse to other warehouses")
async def replan_warehouse(body: ReplanWarehouse, request: Request, principal: Staff) -> Progress:
    await require_worker(request.app.state.temporal)
    async with transaction() as connection:
        location = await locations.get(connection, body.warehouse)
        if body.close:
            await locations.save(connection, location.model_copy(update={"closed": True}))
    client: Client = request.app.state.temporal
    try:
        await client.start_workflow(
            ReplanWorkflow.run,
            ReplanInput(warehouse=body.warehouse, reason=body.reason, actor=principal.name),
            id=_workflow_id(body.warehouse),
            task_queue=settings().task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    return await progress(body.warehouse, request, principal)


@router.get("/again/{warehouse}", summary="Progress of replanning")
async def progress(warehouse: str, request: Request, principal: Reader) -> Progress:
    handle = request.app.state.temporal.get_workflow_handle_for(ReplanWorkflow.run, _workflow_id(warehouse))
    running, signalled = False, 0
    await require_worker(request.app.state.temporal)
    try:
        running = (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        signalled = await handle.query(ReplanWorkflow.requested)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise Problem(503, "problem.engine_down", headers=SOON) from None
    return Progress(
        warehouse=warehouse, running=running, told=signalled, left=await replanning.count_orders_to_leave(warehouse)
    )


@router.get("/rules", summary="Allocation rules, in the order in which they apply")
async def list_rules(principal: Reader) -> list[Rule]:
    async with transaction() as connection:
        return await rules_and_rates.list_rules(connection)


@router.put("/rules/{number}", summary="Create or change a rule")
async def save_rule(number: int, body: Rule, principal: Staff) -> Rule:
    must_match_path("number", body.number, number)
    async with transaction() as connection:
        await rules_and_rates.save_rules(connection, [body])
    return body


@router.delete("/rules/{number}", status_code=204, summary="Delete a rule")
async def delete_rule(number: int, principal: Staff) -> None:
    async with transaction() as connection:
        if not await rules_and_rates.delete_rule(connection, number):
            raise Problem(404, "problem.no_rule", {"number": number})


@router.get("/rates", summary="Carrier rate tables")
async def list_rates(principal: Reader) -> list[Rate]:
    async with transaction() as connection:
        return await rules_and_rates.list_rates(connection)


@router.put("/rates/{carrier}", summary="Replace a carrier's rate table")
async def replace_rates(
    carrier: str, body: Annotated[list[Rate], Body(max_length=50_000)], principal: Staff
) -> dict[str, int]:
    if others := {each.carrier for each in body} - {carrier}:
        raise InvalidInput("carrier", "invalid.differs", given=min(others), expected=carrier)
    if len({(each.origin, each.destination) for each in body}) < len(body):
        raise InvalidInput("origin", "invalid.rates.duplicate")
    async with transaction() as connection:
        await rules_and_rates.replace_rates(connection, carrier, body)
    return {"rates": len(body)}


class DemandLine(BaseModel):
    sku: Annotated[str, Field(min_length=1, max_length=64)]
    quantity: Annotated[int, Field(ge=1, le=100_000)] = 1


class TrialOrder(BaseModel):
    """An existing order, or a hypothetical one."""

    order_id: str | None = None
    lines: Annotated[list[DemandLine], Field(max_length=200)] = []
    province: str = ""
    city: str = ""
    channel: str = "own"
    shop: str = "web"
    campaign: Code = ""
    carrier: str | None = None
    total: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    priority: Annotated[int, Field(ge=1, le=5)] = NORMAL
    promised_by: Moment | None = None
    objective: tuple[Criterion, ...] = OBJECTIVE
    in_part: bool = False


class ExplainedPlan(BaseModel):
    """The plan, and the reason for or against each location as text."""

    plan: Plan
    reasons: list[dict[str, str]]


@router.post("/try", summary="Preview an order's plan and its reasons")
async def try_out(body: TrialOrder, request: Request, principal: Reader) -> ExplainedPlan:
    now = datetime.now(UTC)
    policy = Policy(objective=body.objective, ship_in_part=body.in_part)
    async with transaction() as connection:
        if body.order_id is not None:
            row = await queries.order(connection, await find_order(body.order_id))
            if row is None:
                raise Problem(404, "problem.no_order", {"order": body.order_id})
            order = _order_of(row)
        elif body.lines:
            order = _hypothetical(body, now)
        else:
            raise InvalidInput("lines", "invalid.preview.order")
        if unknown := await skus.unknown_skus(connection, {line.sku for line in order.lines}):
            raise InvalidInput("lines", "invalid.sku.unknown", sku=unknown[0])
        plan = await allocation.preview(connection, allocation.Demand(order=order, policy=policy, at=now))
    return ExplainedPlan(plan=plan, reasons=_reasons(plan, lang(request)))


def _order_of(row: Row[Any]) -> ChannelOrder:
    fields = {name: row._mapping[name] for name in ChannelOrder.model_fields if name in row._mapping}
    return ChannelOrder.model_validate(fields | {"modified_at": row.placed_at})


def _hypothetical(body: TrialOrder, now: datetime) -> ChannelOrder:
    lines = tuple(
        OrderLine(line_no=str(number), sku=each.sku, quantity=each.quantity, unit_price=Decimal(0))
        for number, each in enumerate(body.lines, 1)
    )
    given = body.model_dump(include={"channel", "shop", "carrier", "total", "priority", "promised_by"})
    origin = Origin(
        kind=ChannelKind.OWN_SITE,
        platform=body.channel,
        shop=body.shop,
        campaign=body.campaign,
        intake=IntakePath.MANUAL,
    )
    return ChannelOrder(
        **given,
        channel_order_no="0",
        placed_at=now,
        modified_at=now,
        paid_at=now,
        lines=lines,
        recipient=Recipient(province=body.province, city=body.city),
        origin=origin,
    )


def _reasons(plan: Plan, language: str) -> list[dict[str, str]]:
    """Return the reason for or against each location as text."""
    reasons = []
    for each in plan.candidates:
        params = {name: t(str(value), language) if name == "by" else value for name, value in each.params.items()}
        cost = str(each.offer.freight + each.offer.handling) if each.offer else ""
        days = str(each.offer.days) if each.offer else ""
        text = t(each.reason, language, **params)
        reasons.append({"warehouse": each.warehouse, "reason": text, "cost": cost, "days": days})
    return reasons


def _workflow_id(warehouse: str) -> str:
    return f"replan:{warehouse}"
