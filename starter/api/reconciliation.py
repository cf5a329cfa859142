"""The reconciliations' door: what channels sold and we did not know of."""

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
from models.intake import IntegrationType
from models.settings import settings
from starter.api.authentication import Reader, Staff
from starter.api.problems import SOON, Problem
from starter.api.webhooks import known
from workflows.reconciliation import ReconciliationWorkflow

router = APIRouter(tags=["intake"])


class Report(BaseModel):
    """``known`` of what is ``listed`` was here, or is no order of ours; ``missing`` was not: ``pulled`` is now,
    ``failed`` still is not. The channel does not list what is ``gone`` any more."""

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
    error: Annotated[str, Field(description="Why it was given up.")]


class WholeReport(Report):
    details: Annotated[dict[str, Any], Field(description="Order numbers; of what failed, why.")]


class Reconcile(BaseModel):
    """Of placing; where nothing is told, the last days up to an hour ago."""

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    request_id: Annotated[str | None, Field(max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None


class Begun(BaseModel):
    id: str


@router.post("/channels/{channel}/{shop}/reconcile", status_code=202, summary="Hold a shop's orders against ours")
async def reconcile(
    channel: str,
    shop: str,
    request: Request,
    principal: Staff,
    body: Reconcile | None = None,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=100, pattern=r"^[A-Za-z0-9._\-]+$")] = None,
) -> Begun:
    """Answers the report's id; ``finished_at`` says when it is done."""
    told = body or Reconcile()
    if told.since and told.until and told.since >= told.until:
        raise InvalidInput("since", "invalid.period")
    if not isinstance(channels.channel(await known(IntegrationType.CHANNEL, channel, shop)), channels.OrderReader):
        raise InvalidInput("channel", "invalid.orders.not_readable", channel=channel)
    client: Client = request.app.state.temporal
    report = f"reconcile:{channel}:{shop}:{told.request_id or key or uuid4()}"
    window = Window(since=told.since, until=told.until)
    try:
        await client.start_workflow(
            ReconciliationWorkflow.run, args=[channel, shop, window], id=report, task_queue=settings().task_queue
        )
    except WorkflowAlreadyStartedError:
        return Begun(id=report)
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    async with transaction() as connection:
        await reconciliation.begin(connection, report, channel, shop, window)
    return Begun(id=report)


@router.get("/intake/reconciliations", summary="What was found, newest first")
async def reports(
    principal: Reader,
    channel: str | None = None,
    shop: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[AwareDatetime | None, Query(description="Those begun before.")] = None,
) -> list[Report]:
    async with transaction() as connection:
        rows = await reconciliation.list_all(connection, channel, shop, limit, cursor)
    return [Report.model_validate(dict(row._mapping)) for row in rows]


@router.get("/intake/reconciliations/{report}", summary="One of them, order by order")
async def show(report: str, principal: Reader) -> WholeReport:
    async with transaction() as connection:
        row = await reconciliation.get(connection, report)
    if row is None:
        raise Problem(404, "problem.no_report", {"id": report})
    return WholeReport.model_validate(dict(row._mapping))
