"""The doctor: what keeps the set-up from working, and orders compared with their workflows in the engine."""

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Header, Path, Request
from pydantic import BaseModel, Field
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.catalogue import setup
from activities.kit.database import transaction
from activities.orders.doctor import DifferenceKind, Examination, Progress
from models.base import Key
from models.i18n import t
from models.settings import settings
from starter.api.authentication import Reader, Staff
from starter.api.commands import require_worker
from starter.api.problems import SOON, Problem, lang
from workflows.doctor import DoctorWorkflow

router = APIRouter(tags=["doctor"])

ExaminationId = Annotated[str, Path(pattern=r"^doctor:[A-Za-z0-9._\-]{1,100}$")]


class DoctorRequest(BaseModel):
    mend: Annotated[bool, Field(description="Mend what is safe to mend; otherwise only report it.")] = False
    replace: Annotated[
        bool, Field(description="Terminate workflows older than their rows, and start them from their rows.")
    ] = False
    orders: Annotated[list[Key], Field(max_length=1000, description="Only these orders; all if empty.")] = []


class Started(BaseModel):
    id: str


class FoundDifference(BaseModel):
    order_id: str
    kind: DifferenceKind
    text: str
    mended: bool
    reason: Annotated[str, Field(description="What a person must do.")]


class Findings(BaseModel):
    running: bool
    failed: bool = False
    done: Annotated[int, Field(description="Orders compared so far.")] = 0
    total: int = 0
    counts: dict[DifferenceKind, int] = {}
    differences: Annotated[list[FoundDifference], Field(description="The first 1,000, those open first.")] = []


@router.get("/setup", summary="What keeps shops, locations and carriers from working, each with its remedy")
async def list_obstacles(request: Request, principal: Staff) -> list[str]:
    async with transaction() as connection:
        return [t(each, lang(request)) for each in await setup.obstacles(connection)]


@router.post("/doctor", status_code=202, summary="Compare orders with their workflows")
async def examine(
    request: Request,
    principal: Staff,
    body: DoctorRequest | None = None,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None,
) -> Started:
    """Returns the id under which the findings can be read."""
    options = body or DoctorRequest()
    given = Examination(mend=options.mend, replace=options.replace, orders=tuple(options.orders))
    client: Client = request.app.state.temporal
    examination = f"doctor:{key or uuid4()}"
    await require_worker(client)
    try:
        await client.start_workflow(DoctorWorkflow.run, given, id=examination, task_queue=settings().task_queue)
    except WorkflowAlreadyStartedError:
        pass
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    return Started(id=examination)


@router.get("/doctor/{examination}", summary="What a comparison found")
async def findings(examination: ExaminationId, request: Request, principal: Reader) -> Findings:
    client: Client = request.app.state.temporal
    handle = client.get_workflow_handle_for(DoctorWorkflow.run, examination)
    try:
        described = await handle.describe()
        if described.workflow_type != "DoctorWorkflow":
            raise Problem(404, "problem.no_examination", {"id": examination})
        if described.status is WorkflowExecutionStatus.RUNNING:
            await require_worker(client)
            for pending in described.raw_description.pending_activities:
                if pending.heartbeat_details.payloads:
                    (last,) = await client.data_converter.decode(pending.heartbeat_details.payloads, [Progress])
                    return Findings(running=True, **last.model_dump())
            return Findings(running=True)
        report = await handle.result()
    except WorkflowFailureError:
        return Findings(running=False, failed=True)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise Problem(404, "problem.no_examination", {"id": examination}) from None
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    except RuntimeError:
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    language = lang(request)
    return Findings(
        running=False,
        done=report.examined,
        total=report.examined,
        counts=report.counts,
        differences=[
            FoundDifference(
                order_id=each.order_id,
                kind=each.kind,
                text=t(f"difference.{each.kind}", language),
                mended=each.mended,
                reason=each.reason and t(each.reason, language),
            )
            for each in report.differences
        ],
    )
