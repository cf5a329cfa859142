"""The printers' door: labels and packing lists of many fulfillment orders as one file."""

import asyncio
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.fulfillment import labels
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from models.fulfillment import FulfillmentStatus
from models.i18n import t
from models.labels import SIZES, PrintFormat, PrintJob, PrintKind, PrintProgress, PrintSize
from models.settings import settings
from starter.api.authentication import Printer
from starter.api.problems import SOON, Problem, lang
from workflows.labels import PrintWorkflow

router = APIRouter(prefix="/labels", tags=["labels"])

MOST = 2000
"""Pages of a file, or so."""
FEW = 20
"""So many are waited for."""
WAIT_SECONDS = 5.0


class PrintWish(BaseModel):
    """Either which ``fulfillments``, or what all of them have in common."""

    fulfillments: Annotated[list[str] | None, Field(min_length=1, max_length=MOST)] = None
    warehouse: str | None = None
    carrier: str | None = None
    status: FulfillmentStatus | None = None
    unprinted: Annotated[bool, Field(description="Only what was never printed.")] = False
    kind: PrintKind = PrintKind.LABEL
    size: Annotated[PrintSize | None, Field(description="By default 100x180, of a packing list a5.")] = None
    format: PrintFormat = PrintFormat.PDF
    dpi: Annotated[Literal[203, 300], Field(description="Of the label printer, for ZPL.")] = 203
    request_id: Annotated[str | None, Field(max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None


class Printing(BaseModel):
    """``left_out``: what could not be printed, and why."""

    id: str
    state: Literal["running", "finished", "failed"]
    done: int
    total: int
    left_out: dict[str, str]


@router.post("", status_code=202, summary="Print labels or packing lists", responses={200: {"model": Printing}})
async def wish(
    body: PrintWish,
    request: Request,
    response: Response,
    principal: Printer,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None,
) -> Printing:
    """A few are waited for, and are answered with 200. A request under the same id is the same print."""
    client: Client = request.app.state.temporal
    size = _size(body)
    job = PrintJob(
        fulfillments=tuple(await _chosen(body)),
        kind=body.kind,
        size=size,
        format=body.format,
        dpi=body.dpi,
        lang=lang(request),
        actor=principal.name,
    )
    document = f"print:{body.request_id or key or uuid4()}"
    try:
        handle = await client.start_workflow(
            PrintWorkflow.run,
            job,
            id=document,
            task_queue=settings().task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary=job.kind,
        )
        if len(job.fulfillments) <= FEW:
            async with asyncio.timeout(WAIT_SECONDS):
                response.status_code = 200
                return _told(document, "finished", await handle.result(), request)
    except TimeoutError:
        response.status_code = 202
    except WorkflowAlreadyStartedError:
        return await show(document, request, principal)
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    return _told(document, "running", PrintProgress(total=len(job.fulfillments)), request)


@router.get("/{document}", summary="How far a print is")
async def show(document: str, request: Request, principal: Printer) -> Printing:
    client: Client = request.app.state.temporal
    handle = client.get_workflow_handle_for(PrintWorkflow.run, document)
    try:
        status = (await handle.describe()).status
        progress = await handle.query(PrintWorkflow.progress)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise Problem(404, "problem.no_print", {"id": document}) from None
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    except (RuntimeError, WorkflowQueryFailedError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    states: dict[WorkflowExecutionStatus | None, Literal["running", "finished"]] = {
        WorkflowExecutionStatus.RUNNING: "running",
        WorkflowExecutionStatus.COMPLETED: "finished",
    }
    return _told(document, states.get(status, "failed"), progress, request)


@router.get("/{document}/file", summary="What was printed", response_class=Response, responses={200: {"content": {}}})
async def file(document: str, principal: Printer) -> Response:
    """For a day. Who takes it is told on the timeline of each order in it."""
    async with transaction() as connection:
        found = await labels.file(connection, document, principal.name)
    if found is None:
        raise Problem(404, "problem.no_print", {"id": document})
    content, content_type = found
    ending = "pdf" if content_type == "application/pdf" else "zpl"
    name = f'attachment; filename="{document.partition(":")[2]}.{ending}"'
    headers = {"Content-Disposition": name, "Cache-Control": "no-store"}
    return Response(content, media_type=content_type, headers=headers)


async def _chosen(body: PrintWish) -> list[str]:
    named = list(dict.fromkeys(body.fulfillments or ()))
    columns = {"warehouse": body.warehouse, "carrier": body.carrier, "status": body.status}
    if not named and not any(columns.values()):
        raise InvalidInput("fulfillments", "invalid.print.which")
    async with transaction() as connection:
        found = await labels.wanted(
            connection, body.kind, MOST, fulfillments=named or None, unprinted=body.unprinted, **columns
        )
    if named and not body.unprinted and not any(columns.values()):
        if missing := [each for each in named if each not in set(found)]:
            raise InvalidInput("fulfillments", "invalid.print.missing", fulfillment=missing[0])
        return named
    if not found:
        raise InvalidInput("fulfillments", "invalid.print.nothing")
    if len(found) > MOST:
        raise InvalidInput("fulfillments", "invalid.print.too_many", most=MOST)
    return found


def _size(body: PrintWish) -> PrintSize:
    fitting = SIZES[body.kind]
    size = body.size or fitting[0]
    if size not in fitting:
        raise InvalidInput("size", "invalid.print.size", sizes=", ".join(fitting))
    if body.format is PrintFormat.ZPL and body.kind is not PrintKind.LABEL:
        raise InvalidInput("format", "invalid.print.format")
    return size


def _told(
    document: str, state: Literal["running", "finished", "failed"], progress: PrintProgress, request: Request
) -> Printing:
    left_out = {each: t(why, lang(request)) for each, why in progress.left_out.items()}
    return Printing(id=document, state=state, done=progress.done, total=progress.total, left_out=left_out)
