"""What was acknowledged but not understood: listed with the reason, corrected, read again."""

from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel

from activities import inbox
from activities.database import transaction
from starter import dispatcher
from starter.api.access import Reader, Staff
from starter.api.problems import Problem
from starter.api.webhooks import RAW, Body

router = APIRouter(prefix="/intake", tags=["intake"])
log = structlog.get_logger()

OPTIONAL = {"requestBody": RAW["requestBody"] | {"required": False}}


class Failed(BaseModel):
    id: int
    lane: str
    source: str
    account: str
    topic: str
    field: str
    reason: str
    attempts: int
    received_at: datetime


class FailedRaw(Failed):
    body: str
    """The message as it came. It may be personal: staff only."""


class Retried(BaseModel):
    retried: int


@router.get("/summary", summary="How many messages are in each state")
async def summary(visitor: Reader) -> dict[str, dict[str, int]]:
    async with transaction() as connection:
        return await inbox.summary(connection)


@router.get("/failed", summary="What was not understood, and why")
async def failed(visitor: Reader, limit: Annotated[int, Query(ge=1, le=500)] = 100, cursor: int = 0) -> list[Failed]:
    async with transaction() as connection:
        rows = await inbox.failed(connection, limit, cursor)
    return [Failed.model_validate(row._mapping) for row in rows]


@router.get("/{row}/raw", summary="One of them, as it came")
async def show(row: int, visitor: Staff) -> FailedRaw:
    async with transaction() as connection:
        found = [each for each in await inbox.failed(connection, 1, row - 1) if each.id == row]
    if not found:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.read", actor=visitor.name, row=row)
    return FailedRaw(
        **Failed.model_validate(found[0]._mapping).model_dump(), body=found[0].raw.body.decode(errors="replace")
    )


@router.post("/retry", summary="Read all of them again")
async def retry_all(visitor: Staff) -> Retried:
    async with transaction() as connection:
        count = await inbox.retry(connection)
    log.info("intake.retried", actor=visitor.name, rows=count)
    dispatcher.wake()
    return Retried(retried=count)


@router.post("/{row}/retry", summary="Read one again, with a corrected body where one is sent", openapi_extra=OPTIONAL)
async def retry(row: int, visitor: Staff, corrected: Body) -> Retried:
    async with transaction() as connection:
        count = await inbox.retry(connection, row, corrected or None)
    if not count:
        raise Problem(404, "problem.no_message", {"id": row})
    log.info("intake.retried", actor=visitor.name, row=row, corrected=bool(corrected))
    dispatcher.wake()
    return Retried(retried=count)
