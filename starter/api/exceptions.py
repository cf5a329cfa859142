"""The exceptions' door: what is wrong with parcels, what is to be done about it, and by whom."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, Field
from temporalio.exceptions import ApplicationError

from activities.fulfillment import exceptions
from activities.kit.database import Connection, Row, transaction
from activities.kit.errors import InvalidInput
from models.exceptions import ExceptionKind, ExceptionPolicy, Remedy, Severity
from models.i18n import t
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/exceptions", tags=["exceptions"])


class ExceptionView(BaseModel):
    fulfillment_id: str
    kind: ExceptionKind
    text: str
    order_id: str
    shop: str
    warehouse: str
    carrier: str | None
    waybill_no: str | None
    severity: Severity
    owner: str
    cause_at: datetime
    opened_at: datetime
    due_at: datetime
    escalated_at: datetime | None
    remedy: Remedy | None
    remedied_at: datetime | None
    closed_at: datetime | None
    closed_by: str | None
    note: str
    suggested: list[Remedy]


class Count(BaseModel):
    """How many of a kind are open, and for how long: less than a day, less than three, longer."""

    kind: ExceptionKind
    text: str
    open: int
    overdue: int
    under_a_day: int
    under_three_days: int
    older: int


class Wish(BaseModel):
    remedy: Remedy


class Closing(BaseModel):
    note: Annotated[str, Field(min_length=1, max_length=500)]


class Owner(BaseModel):
    owner: Annotated[str, Field(min_length=1, max_length=64)]


Word = Annotated[str | None, Query(max_length=200)]


@router.get("", summary="What is wrong with parcels, the soonest due first")
async def listed(
    request: Request,
    visitor: Reader,
    kind: ExceptionKind | None = None,
    severity: Severity | None = None,
    owner: Word = None,
    shop: Word = None,
    warehouse: Word = None,
    carrier: Word = None,
    order_id: Word = None,
    closed: bool = False,
    after_due: AwareDatetime | None = None,
    after: Annotated[str | None, Query(description="``{fulfillment_id}|{kind}`` of the last one seen.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[ExceptionView]:
    last = None
    if after_due is not None and after is not None:
        fulfillment_id, _, last_kind = after.rpartition("|")
        last = (after_due, fulfillment_id, last_kind)
    equal = {"kind": kind, "severity": severity, "owner": owner, "shop": shop}
    equal |= {"warehouse": warehouse, "carrier": carrier, "order_id": order_id}
    async with transaction() as connection:
        rows = await exceptions.search(connection, closed=closed, after=last, limit=limit, **equal)
        known = await exceptions.list_policies(connection)
    return [_view(row, known, lang(request)) for row in rows]


@router.get("/summary", summary="How many of each kind, and how old")
async def summary(request: Request, visitor: Reader) -> list[Count]:
    async with transaction() as connection:
        rows = await exceptions.summary(connection)
    return [Count(**row._mapping, text=t(f"exception.{row.kind}", lang(request))) for row in rows]


@router.get("/policies", summary="What is done about each kind")
async def policies(visitor: Reader) -> list[ExceptionPolicy]:
    async with transaction() as connection:
        return list((await exceptions.list_policies(connection)).values())


@router.put("/policies/{kind}", summary="Say what is to be done about a kind")
async def keep_policy(kind: ExceptionKind, body: ExceptionPolicy, visitor: Staff) -> ExceptionPolicy:
    if body.kind is not kind:
        raise InvalidInput("kind", "invalid.differs", given=body.kind, expected=kind)
    async with transaction() as connection:
        await exceptions.save_policy(connection, body)
    return body


@router.post("/{fulfillment_id}/{kind}/remedy", summary="Do something about it, or note what was done")
async def remedy(
    fulfillment_id: str, kind: ExceptionKind, body: Wish, request: Request, visitor: Staff
) -> ExceptionView:
    """Re-booking, interception, a reissue, a claim, a refund due and a word to the buyer are set going at once, each
    once; every other remedy is noted as done."""
    async with transaction() as connection:
        row = await _one(connection, fulfillment_id, kind)
    if body.remedy is Remedy.INTERCEPT:
        try:
            await exceptions.intercept_parcel(fulfillment_id, visitor.name)
        except ApplicationError as error:
            code = str(error.details[0]) if error.details else error.type or ""
            raise Problem(409, "problem.not_intercepted", {"code": code}) from None
    else:
        try:
            async with transaction() as connection:
                await exceptions.apply_remedy(connection, row, body.remedy, visitor.name)
        except ApplicationError as error:
            raise InvalidInput("remedy", error.message) from None
    return await _told(fulfillment_id, kind, request)


@router.post("/{fulfillment_id}/{kind}/close", summary="It is settled")
async def close(
    fulfillment_id: str, kind: ExceptionKind, body: Closing, request: Request, visitor: Staff
) -> ExceptionView:
    async with transaction() as connection:
        await exceptions.close(connection, await _one(connection, fulfillment_id, kind), visitor.name, body.note)
    return await _told(fulfillment_id, kind, request)


@router.post("/{fulfillment_id}/{kind}/owner", summary="Hand it over")
async def hand_over(
    fulfillment_id: str, kind: ExceptionKind, body: Owner, request: Request, visitor: Staff
) -> ExceptionView:
    async with transaction() as connection:
        await exceptions.assign(connection, await _one(connection, fulfillment_id, kind), body.owner)
    return await _told(fulfillment_id, kind, request)


async def _one(connection: Connection, fulfillment_id: str, kind: ExceptionKind) -> Row[Any]:
    row = await exceptions.get(connection, fulfillment_id, kind)
    if row is None:
        raise Problem(404, "problem.no_exception", {"fulfillment": fulfillment_id, "kind": kind.value})
    return row


async def _told(fulfillment_id: str, kind: ExceptionKind, request: Request) -> ExceptionView:
    async with transaction() as connection:
        row = await _one(connection, fulfillment_id, kind)
        return _view(row, await exceptions.list_policies(connection), lang(request))


def _view(row: Row[Any], known: dict[ExceptionKind, ExceptionPolicy], speak: str) -> ExceptionView:
    suggested = known[ExceptionKind(row.kind)].suggested
    return ExceptionView(**row._mapping, text=t(f"exception.{row.kind}", speak), suggested=list(suggested))
