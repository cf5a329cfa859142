"""The planner's door: what leaves a warehouse is planned again elsewhere, all of it at once."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from activities import locations, replanning
from activities.database import transaction
from models.settings import settings
from starter.api.access import Reader, Staff
from starter.api.problems import SOON, Problem
from workflows.replan import ReplanInput, ReplanWorkflow

router = APIRouter(prefix="/plan", tags=["plan"])


class Again(BaseModel):
    """Every order that has something to leave there yet is planned again, elsewhere."""

    warehouse: Annotated[str, Field(examples=["SH"])]
    reason: Annotated[str, Field(min_length=1, max_length=200, examples=["flooded"])]
    close: Annotated[bool, Field(description="Close it first: nothing new is planned there.")] = False


class Progress(BaseModel):
    """``left``: orders that still have something to leave there; ``told`` of those that had."""

    warehouse: str
    running: bool
    told: int
    left: int


@router.post("/again", status_code=202, summary="Plan all that is to leave a warehouse again, elsewhere")
async def again(body: Again, request: Request, visitor: Staff) -> Progress:
    async with transaction() as connection:
        location = await locations.one(connection, body.warehouse)
        if body.close:
            await locations.keep(connection, location.model_copy(update={"closed": True}))
    client: Client = request.app.state.temporal
    try:
        await client.start_workflow(
            ReplanWorkflow.run,
            ReplanInput(warehouse=body.warehouse, reason=body.reason, actor=visitor.name),
            id=_workflow_id(body.warehouse),
            task_queue=settings().task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    return await progress(body.warehouse, request, visitor)


@router.get("/again/{warehouse}", summary="How far it is")
async def progress(warehouse: str, request: Request, visitor: Reader) -> Progress:
    handle = request.app.state.temporal.get_workflow_handle_for(ReplanWorkflow.run, _workflow_id(warehouse))
    running, told = False, 0
    try:
        running = (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        told = await handle.query(ReplanWorkflow.told)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise Problem(503, "problem.engine_down", headers=SOON) from None
    return Progress(warehouse=warehouse, running=running, told=told, left=await replanning.left_behind(warehouse))


def _workflow_id(warehouse: str) -> str:
    return f"replan:{warehouse}"
