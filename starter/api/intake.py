"""FailedMessage messages: acknowledged, but not understood. Search, correct, retry or discard them."""

from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from activities.intake import failed_messages, inbox
from activities.intake.failed_messages import MessageFilter
from activities.kit.database import Row, transaction
from models.i18n import t
from models.intake import Handling, InboxState
from starter import dispatcher
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem, lang
from starter.api.webhooks import RAW, Body

router = APIRouter(prefix="/intake", tags=["intake"])
log = structlog.get_logger()

OPTIONAL = {"requestBody": RAW["requestBody"] | {"required": False}}


class FailedMessage(BaseModel):
    id: int
    integration: str
    source: str
    account: str
    topic: str
    field: str
    reason: str
    attempts: int
    received_at: datetime


class HandlingView(BaseModel):
    what: Handling
    actor: str
    at: datetime
    reason: str
    body: Annotated[str, Field(description="The message as it was before.")]


class MessageView(FailedMessage):
    path: str
    state: InboxState
    order_id: str | None
    body: str
    """As received, or as corrected. It may hold personal data: staff only."""
    handled: list[HandlingView]


class FailureReason(BaseModel):
    """The messages that failed for one reason."""

    integration: str
    source: str
    account: str
    field: str
    reason: str
    count: int
    oldest: datetime


class Retried(BaseModel):
    retried: int


class Discard(BaseModel):
    reason: Annotated[str, Field(min_length=1, max_length=200)]


def _filter(
    channel: Annotated[str | None, Query(description="Or carrier, or warehouse system.")] = None,
    shop: str | None = None,
    field: str | None = None,
    since: Annotated[AwareDatetime | None, Query(description="Received since.")] = None,
) -> MessageFilter:
    return MessageFilter(channel=channel, shop=shop, field=field, since=since)


Filter = Annotated[MessageFilter, Depends(_filter)]
Reason = Annotated[str, Query(max_length=200)]


@router.get("/summary", summary="Count messages by integration and state")
async def summary(principal: Reader) -> dict[str, dict[str, int]]:
    async with transaction() as connection:
        return await inbox.summary(connection)


@router.get("/failed", summary="Failed messages, oldest first")
async def failed(
    request: Request,
    principal: Reader,
    which: Filter,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: int = 0,
) -> list[FailedMessage]:
    async with transaction() as connection:
        rows = await failed_messages.search(connection, which, limit, cursor)
    return [FailedMessage.model_validate({**row._mapping, "reason": t(row.reason, lang(request))}) for row in rows]


@router.get("/failed/reasons", summary="Count failed messages by reason")
async def reasons(request: Request, principal: Reader, which: Filter) -> list[FailureReason]:
    async with transaction() as connection:
        rows = await failed_messages.count_by_reason(connection, which)
    return [FailureReason.model_validate({**row._mapping, "reason": t(row.reason, lang(request))}) for row in rows]


@router.get("/{row}/raw", summary="A message with its body and how it was handled")
async def show(row: int, request: Request, principal: Staff) -> MessageView:
    async with transaction() as connection:
        message = await failed_messages.get(connection, row)
        handlings = await failed_messages.list_handlings(connection, row)
    if message is None:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.read", actor=principal.name, row=row)
    fields: dict[str, Any] = {
        name: message._mapping[name] for name in MessageView.model_fields if name in message._mapping
    }
    fields["reason"] = t(message.reason, lang(request))
    handled = [HandlingView(**each._mapping, body=_text(each)) for each in handlings]
    return MessageView(**fields, body=_text(message), handled=handled)


def _text(row: Row[Any]) -> str:
    return str(row.raw.body.decode(errors="replace"))


@router.post("/retry", summary="Retry all failed messages, or those of a filter")
async def retry_all(principal: Staff, which: Filter) -> Retried:
    async with transaction() as connection:
        count = await failed_messages.retry(connection, which)
    log.info("intake.retried", actor=principal.name, rows=count)
    dispatcher.wake()
    return Retried(retried=count)


@router.post("/{row}/retry", summary="Retry one message, with a corrected body if sent", openapi_extra=OPTIONAL)
async def retry(row: int, principal: Staff, corrected: Body, reason: Reason = "") -> Retried:
    async with transaction() as connection:
        done = await failed_messages.retry_one(connection, row, corrected or None, principal.name, reason)
    if not done:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.retried", actor=principal.name, row=row, corrected=bool(corrected))
    dispatcher.wake()
    return Retried(retried=1)


@router.post("/{row}/discard", summary="Discard one message; its record is kept")
async def discard(row: int, principal: Staff, body: Discard) -> dict[str, int]:
    async with transaction() as connection:
        done = await failed_messages.discard(connection, row, principal.name, body.reason)
    if not done:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.discarded", actor=principal.name, row=row)
    return {"discarded": 1}
