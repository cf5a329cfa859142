"""Exceptions: list and count what needs a person, apply remedies, assign and close them, and set their policies."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, Field, JsonValue
from temporalio.exceptions import ApplicationError

from activities.fulfillment.exceptions import apply_remedy, intercept_parcel, notify_channel
from activities.kit.database import Connection, Row, transaction
from activities.kit.errors import InvalidInput
from activities.records import exceptions
from models.exceptions import ExceptionKind, ExceptionPolicy, Remedy, Severity
from models.i18n import t
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/exceptions", tags=["exceptions"])


class ExceptionView(BaseModel):
    key: str
    kind: ExceptionKind
    text: str
    order_id: str = Field(description="An order or a transfer; empty where the exception is about neither.")
    fulfillment_id: str
    shop: str
    warehouse: str
    carrier: str | None
    waybill_no: str | None
    detail: dict[str, JsonValue]
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
    """The open exceptions of a kind: all, overdue, and by age in days."""

    kind: ExceptionKind
    text: str
    open: int
    overdue: int
    under_a_day: int
    under_three_days: int
    older: int


_CALLS = {
    Remedy.INTERCEPT: (intercept_parcel, "problem.not_intercepted"),
    Remedy.NOTIFY_CHANNEL: (notify_channel, "problem.not_notified"),
}
"""The remedies that call an outside system, and the problem if it refuses."""


class RemedyRequest(BaseModel):
    remedy: Remedy


class Closing(BaseModel):
    note: Annotated[str, Field(min_length=1, max_length=500)]


class Owner(BaseModel):
    owner: Annotated[str, Field(min_length=1, max_length=64)]


Word = Annotated[str | None, Query(max_length=200)]


@router.get("", summary="Exceptions, the soonest due first")
async def list_exceptions(
    request: Request,
    principal: Reader,
    kind: ExceptionKind | None = None,
    severity: Severity | None = None,
    owner: Word = None,
    shop: Word = None,
    warehouse: Word = None,
    carrier: Word = None,
    order_id: Word = None,
    fulfillment_id: Word = None,
    closed: Annotated[bool, Query(description="Include closed exceptions.")] = False,
    after_due: Annotated[AwareDatetime | None, Query(description="``due_at`` of the previous page's last one.")] = None,
    after: Annotated[str | None, Query(description="``key`` of the previous page's last one.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[ExceptionView]:
    last = (after_due, after) if after_due is not None and after is not None else None
    equal = {"kind": kind, "severity": severity, "owner": owner, "shop": shop, "warehouse": warehouse}
    equal |= {"carrier": carrier, "order_id": order_id, "fulfillment_id": fulfillment_id}
    async with transaction() as connection:
        rows = await exceptions.search(connection, closed=closed, after=last, limit=limit, **equal)
        known = await exceptions.list_policies(connection)
    return [view(row, known, lang(request)) for row in rows]


@router.get("/summary", summary="Open exceptions by kind and age")
async def summary(request: Request, principal: Reader) -> list[Count]:
    async with transaction() as connection:
        rows = await exceptions.summary(connection)
    return [Count(**row._mapping, text=t(f"exception_kind.{row.kind}", lang(request))) for row in rows]


@router.get("/policies", summary="The policy of each kind")
async def list_policies(principal: Reader) -> list[ExceptionPolicy]:
    async with transaction() as connection:
        return list((await exceptions.list_policies(connection)).values())


@router.put("/policies/{kind}", summary="Set the policy of a kind")
async def save_policy(kind: ExceptionKind, body: ExceptionPolicy, principal: Staff) -> ExceptionPolicy:
    if body.kind is not kind:
        raise InvalidInput("kind", "invalid.differs", given=body.kind, expected=kind)
    async with transaction() as connection:
        await exceptions.save_policy(connection, body)
    return body


@router.post("/{key:path}/remedy", summary="Apply a remedy, or record that a person did")
async def remedy(key: str, body: RemedyRequest, request: Request, principal: Staff) -> ExceptionView:
    """Hengdan itself rebooks, intercepts, reissues, claims, refunds, confirms the shipment to the channel and informs
    the buyer, where the exception is about a fulfillment order; every other remedy is recorded as done."""
    async with transaction() as connection:
        row = await _get(connection, key)
    if body.remedy in _CALLS and row.fulfillment_id:
        call, problem = _CALLS[body.remedy]
        try:
            await call(row.fulfillment_id, principal.name)
        except ApplicationError as error:
            raise Problem(409, problem, {"why": error.message}) from None
    else:
        try:
            async with transaction() as connection:
                await apply_remedy(connection, row, body.remedy, principal.name)
        except ApplicationError as error:
            raise InvalidInput("remedy", error.message) from None
    return await _show(key, request)


@router.post("/{key:path}/close", summary="Close an exception")
async def close(key: str, body: Closing, request: Request, principal: Staff) -> ExceptionView:
    async with transaction() as connection:
        await _get(connection, key)
        await exceptions.close(connection, key, principal.name, body.note)
    return await _show(key, request)


@router.post("/{key:path}/owner", summary="Assign an exception to another owner")
async def assign(key: str, body: Owner, request: Request, principal: Staff) -> ExceptionView:
    async with transaction() as connection:
        await _get(connection, key)
        await exceptions.assign(connection, key, body.owner)
    return await _show(key, request)


async def _get(connection: Connection, key: str) -> Row[Any]:
    row = await exceptions.get(connection, key)
    if row is None:
        raise Problem(404, "problem.no_exception", {"key": key})
    return row


async def _show(key: str, request: Request) -> ExceptionView:
    async with transaction() as connection:
        row = await _get(connection, key)
        return view(row, await exceptions.list_policies(connection), lang(request))


def view(row: Row[Any], policies: dict[ExceptionKind, ExceptionPolicy], language: str) -> ExceptionView:
    suggested = policies[ExceptionKind(row.kind)].suggested
    return ExceptionView(**row._mapping, text=exceptions.describe(row, language), suggested=list(suggested))
