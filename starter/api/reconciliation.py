"""Reconciliations: orders that channels list, compared with ours."""

from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Query, Request
from pydantic import AwareDatetime, BaseModel, Field
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities import channels
from activities.intake import reconciliation
from activities.intake.reconciliation import Window
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from models.i18n import t
from models.intake import IntegrationType
from models.settings import settings
from starter.api.authentication import Reader, Staff
from starter.api.commands import require_worker
from starter.api.problems import SOON, Problem, lang
from starter.api.webhooks import find_account
from workflows.reconciliation import ReconciliationWorkflow

router = APIRouter(tags=["intake"])


class Report(BaseModel):
    """Numbers of orders. Of those ``listed`` by the channel, ``known`` were here or are not to be fulfilled;
    ``missing`` were not: ``pulled`` have been read since, ``failed`` could not be. ``gone``: ours, but not listed."""

    id: str
    channel: str
    shop: str
    since: datetime
    until: datetime
    started_at: datetime
    finished_at: datetime | None
    listed: int
    known: int
    missing: int
    pulled: int
    failed: int
    gone: int
    error: Annotated[str, Field(description="Why it was stopped.")]


class DetailedReport(Report):
    details: Annotated[dict[str, Any], Field(description="Order numbers; for those that failed, the reason.")]


class ReconciliationRequest(BaseModel):
    """The window in which orders were placed. Default: the last days up to an hour ago."""

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    request_id: Annotated[str | None, Field(max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None


class Started(BaseModel):
    id: str


@router.post("/channels/{channel}/{shop}/reconcile", status_code=202, summary="Compare a shop's orders with ours")
async def reconcile(
    channel: str,
    shop: str,
    request: Request,
    principal: Staff,
    body: ReconciliationRequest | None = None,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None,
) -> Started:
    """Returns the id of the report, whose ``finished_at`` is set when it is done."""
    options = body or ReconciliationRequest()
    if options.since and options.until and options.since >= options.until:
        raise InvalidInput("since", "invalid.period")
    if not isinstance(
        channels.channel(await find_account(IntegrationType.CHANNEL, channel, shop)), channels.OrderReader
    ):
        raise InvalidInput("channel", "invalid.orders.not_readable", channel=channel)
    client: Client = request.app.state.temporal
    report = f"reconcile:{channel}:{shop}:{options.request_id or key or uuid4()}"
    window = Window(since=options.since, until=options.until)
    await require_worker(client)
    try:
        await client.start_workflow(
            ReconciliationWorkflow.run, args=[channel, shop, window], id=report, task_queue=settings().task_queue
        )
    except WorkflowAlreadyStartedError:
        return Started(id=report)
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    async with transaction() as connection:
        await reconciliation.begin(connection, report, channel, shop, window)
    return Started(id=report)


@router.get("/intake/reconciliations", summary="Reconciliations, newest first")
async def list_reports(
    request: Request,
    principal: Reader,
    channel: str | None = None,
    shop: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[AwareDatetime | None, Query(description="Only those started before.")] = None,
) -> list[Report]:
    async with transaction() as connection:
        rows = await reconciliation.list_all(connection, channel, shop, limit, cursor)
    return [Report.model_validate({**row._mapping, "error": t(row.error, lang(request))}) for row in rows]


@router.get("/intake/reconciliations/{report}", summary="One reconciliation with its order numbers")
async def show_report(report: str, request: Request, principal: Reader) -> DetailedReport:
    async with transaction() as connection:
        row = await reconciliation.get(connection, report)
    if row is None:
        raise Problem(404, "problem.no_report", {"id": report})
    language = lang(request)
    failed = {number: t(why, language) for number, why in row.details.get("failed", {}).items()}
    details = row.details | ({"failed": failed} if failed else {})
    return DetailedReport.model_validate({**row._mapping, "details": details, "error": t(row.error, language)})
