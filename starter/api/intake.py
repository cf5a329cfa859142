"""What was acknowledged but not understood: listed with the reason, corrected, read again, or discarded."""

from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, Field

from activities.intake import failed_messages, inbox
from activities.intake.failed_messages import MessageFilter
from activities.kit.database import Row, transaction
from models.intake import Handling, InboxState
from starter import dispatcher
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem
from starter.api.webhooks import RAW, Body

router = APIRouter(prefix="/intake", tags=["intake"])
log = structlog.get_logger()

OPTIONAL = {"requestBody": RAW["requestBody"] | {"required": False}}


class Failed(BaseModel):
    id: int
    integration: str
    source: str
    account: str
    topic: str
    field: str
    reason: str
    attempts: int
    received_at: datetime


class Handled(BaseModel):
    what: Handling
    actor: str
    at: datetime
    reason: str
    body: Annotated[str, Field(description="The message as it was before.")]


class Message(Failed):
    path: str
    state: InboxState
    order_id: str | None
    body: str
    """The message as it came, or as it was corrected. It may be personal: staff only."""
    handled: list[Handled]


class Alike(BaseModel):
    """Messages that failed for one reason."""

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


def _which(
    channel: Annotated[str | None, Query(description="Or carrier, or warehouse system.")] = None,
    shop: str | None = None,
    field: str | None = None,
    since: Annotated[AwareDatetime | None, Query(description="Received since.")] = None,
) -> MessageFilter:
    return MessageFilter(channel=channel, shop=shop, field=field, since=since)


Chosen = Annotated[MessageFilter, Depends(_which)]
Why = Annotated[str, Query(max_length=200)]


@router.get("/summary", summary="How many messages are in each state")
async def summary(principal: Reader) -> dict[str, dict[str, int]]:
    async with transaction() as connection:
        return await inbox.summary(connection)


@router.get("/failed", summary="What was not understood, and why")
async def failed(
    principal: Reader, which: Chosen, limit: Annotated[int, Query(ge=1, le=500)] = 100, cursor: int = 0
) -> list[Failed]:
    async with transaction() as connection:
        rows = await failed_messages.search(connection, which, limit, cursor)
    return [Failed.model_validate(row._mapping) for row in rows]


@router.get("/failed/reasons", summary="How many were not understood for which reason")
async def reasons(principal: Reader, which: Chosen) -> list[Alike]:
    async with transaction() as connection:
        rows = await failed_messages.count_by_reason(connection, which)
    return [Alike.model_validate(dict(row._mapping)) for row in rows]


@router.get("/{row}/raw", summary="A message as it came, and what was done to it")
async def show(row: int, principal: Staff) -> Message:
    async with transaction() as connection:
        found = await failed_messages.get(connection, row)
        handled = await failed_messages.list_handlings(connection, row)
    if found is None:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.read", actor=principal.name, row=row)
    told: dict[str, Any] = {name: found._mapping[name] for name in Message.model_fields if name in found._mapping}
    return Message(**told, body=_text(found), handled=[Handled(**each._mapping, body=_text(each)) for each in handled])


def _text(row: Row[Any]) -> str:
    return str(row.raw.body.decode(errors="replace"))


@router.post("/retry", summary="Read all of them again, or some")
async def retry_all(principal: Staff, which: Chosen) -> Retried:
    async with transaction() as connection:
        count = await failed_messages.retry(connection, which)
    log.info("intake.retried", actor=principal.name, rows=count)
    dispatcher.wake()
    return Retried(retried=count)


@router.post("/{row}/retry", summary="Read one again, with a corrected body where one is sent", openapi_extra=OPTIONAL)
async def retry(row: int, principal: Staff, corrected: Body, reason: Why = "") -> Retried:
    async with transaction() as connection:
        found = await failed_messages.retry_one(connection, row, corrected or None, principal.name, reason)
    if not found:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.retried", actor=principal.name, row=row, corrected=bool(corrected))
    dispatcher.wake()
    return Retried(retried=1)


@router.post("/{row}/discard", summary="Say of one that it need not be understood; it is kept")
async def discard(row: int, principal: Staff, body: Discard) -> dict[str, int]:
    async with transaction() as connection:
        found = await failed_messages.discard(connection, row, principal.name, body.reason)
    if not found:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.discarded", actor=principal.name, row=row)
    return {"discarded": 1}
