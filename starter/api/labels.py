"""Labels and packing lists of many fulfillment orders, printed as one file."""

import asyncio
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.catalogue import locations
from activities.fulfillment import labels
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from models.fulfillment import FulfillmentStatus
from models.i18n import t
from models.labels import SIZES, PrintFormat, PrintJob, PrintKind, PrintProgress, PrintSize
from models.settings import settings
from starter.api.authentication import Printer
from starter.api.commands import require_worker
from starter.api.problems import SOON, Problem, lang
from workflows.labels import PrintWorkflow

router = APIRouter(prefix="/labels", tags=["labels"])

MAX_FULFILLMENTS = 2000
"""In one file."""
FEW = 20
"""The request waits for a print of up to so many fulfillment orders."""
WAIT_SECONDS = 5.0


class PrintRequest(BaseModel):
    """The ``fulfillments`` to print, or a filter that selects them: without ``status``, those still to leave."""

    fulfillments: Annotated[list[str] | None, Field(min_length=1, max_length=MAX_FULFILLMENTS)] = None
    warehouse: str | None = None
    carrier: str | None = None
    status: FulfillmentStatus | None = None
    unprinted: Annotated[bool, Field(description="Only those never printed.")] = False
    kind: PrintKind = PrintKind.LABEL
    size: Annotated[PrintSize | None, Field(description="Default: 100x180, for packing lists a5.")] = None
    format: PrintFormat = PrintFormat.PDF
    dpi: Annotated[Literal[203, 300], Field(description="Resolution of the label printer, for ZPL.")] = 203
    request_id: Annotated[str | None, Field(max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None


class PrintView(BaseModel):
    """``left_out``: the fulfillment orders that could not be printed, and why."""

    id: str
    state: Literal["running", "finished", "failed"]
    done: int
    total: int
    left_out: dict[str, str]


@router.post("", status_code=202, summary="Print labels or packing lists", responses={200: {"model": PrintView}})
async def start_print(
    body: PrintRequest,
    request: Request,
    response: Response,
    principal: Printer,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None,
) -> PrintView:
    """A small print is answered with 200 when finished. A request with the same id returns the same print."""
    client: Client = request.app.state.temporal
    size = _size(body)
    job = PrintJob(
        fulfillments=tuple(await _select(body)),
        kind=body.kind,
        size=size,
        format=body.format,
        dpi=body.dpi,
        lang=lang(request),
        actor=principal.name,
    )
    document = f"print:{body.request_id or key or uuid4()}"
    await require_worker(client)
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
                return _view(document, "finished", await handle.result(), request)
    except TimeoutError:
        response.status_code = 202
    except WorkflowAlreadyStartedError:
        return await show_print(document, request, principal)
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    return _view(document, "running", PrintProgress(total=len(job.fulfillments)), request)


@router.get("/{document}", summary="Progress of a print")
async def show_print(document: str, request: Request, principal: Printer) -> PrintView:
    client: Client = request.app.state.temporal
    handle = client.get_workflow_handle_for(PrintWorkflow.run, document)
    try:
        status = (await handle.describe()).status
        await require_worker(client)
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
    return _view(document, states.get(status, "failed"), progress, request)


@router.get("/{document}/file", summary="The printed file", response_class=Response, responses={200: {"content": {}}})
async def file(document: str, principal: Printer) -> Response:
    """Available for a day. Each download is recorded on the timeline of every order in the file."""
    async with transaction() as connection:
        document_file = await labels.file(connection, document, principal.name)
    if document_file is None:
        raise Problem(404, "problem.no_print", {"id": document})
    content, content_type = document_file
    extension = "pdf" if content_type == "application/pdf" else "zpl"
    name = f'attachment; filename="{document.partition(":")[2]}.{extension}"'
    headers = {"Content-Disposition": name, "Cache-Control": "no-store"}
    return Response(content, media_type=content_type, headers=headers)


async def _select(body: PrintRequest) -> list[str]:
    requested = list(dict.fromkeys(body.fulfillments or ()))
    columns = {"warehouse": body.warehouse, "carrier": body.carrier, "status": body.status}
    if not requested and not any(columns.values()):
        raise InvalidInput("fulfillments", "invalid.print.which")
    async with transaction() as connection:
        if body.warehouse is not None:
            await locations.get(connection, body.warehouse)
        ready = await labels.wanted(
            connection, body.kind, MAX_FULFILLMENTS, fulfillments=requested or None, unprinted=body.unprinted, **columns
        )
    if requested and not body.unprinted and not any(columns.values()):
        if missing := [each for each in requested if each not in set(ready)]:
            raise InvalidInput("fulfillments", "invalid.print.missing", fulfillment=missing[0])
        return requested
    if not ready:
        raise InvalidInput("fulfillments", "invalid.print.nothing")
    if len(ready) > MAX_FULFILLMENTS:
        raise InvalidInput("fulfillments", "invalid.print.too_many", most=MAX_FULFILLMENTS)
    return ready


def _size(body: PrintRequest) -> PrintSize:
    sizes = SIZES[body.kind]
    size = body.size or sizes[0]
    if size not in sizes:
        raise InvalidInput("size", "invalid.print.size", sizes=", ".join(sizes))
    if body.format is PrintFormat.ZPL and body.kind is not PrintKind.LABEL:
        raise InvalidInput("format", "invalid.print.format")
    return size


def _view(
    document: str, state: Literal["running", "finished", "failed"], progress: PrintProgress, request: Request
) -> PrintView:
    left_out = {each: t(why, lang(request)) for each, why in progress.left_out.items()}
    return PrintView(id=document, state=state, done=progress.done, total=progress.total, left_out=left_out)
