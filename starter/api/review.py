"""Review's door: rules in data, tried on past orders before any order feels them, and the blacklist."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.kit.expressions import InvalidExpression
from activities.orders.review import blacklist, rules, trial
from activities.orders.review.samples import ORDERS
from models.i18n import t
from models.review import LONGEST, BlacklistEntry, BlacklistKind, ReviewRule
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/review", tags=["review"])


@router.get("/rules", summary="The rules of review, in the order in which they apply")
async def review_rules(principal: Reader) -> list[ReviewRule]:
    async with transaction() as connection:
        return await rules.list_rules(connection)


@router.put("/rules/{number}", summary="Set a rule up, or change it")
async def keep_review_rule(number: int, body: ReviewRule, principal: Staff) -> ReviewRule:
    if body.number != number:
        raise InvalidInput("number", "invalid.differs", given=body.number, expected=number)
    async with transaction() as connection:
        await rules.save_rule(connection, body)
    return body


@router.delete("/rules/{number}", status_code=204, summary="Drop a rule")
async def drop_review_rule(number: int, principal: Staff) -> None:
    async with transaction() as connection:
        if not await rules.delete_rule(connection, number):
            raise Problem(404, "problem.no_rule", {"number": number})


class Condition(BaseModel):
    condition: Annotated[str, Field(max_length=10 * LONGEST, examples=["order.total > 5000"])]


class Checked(BaseModel):
    """Whether it is a condition; else why not, and after how many characters."""

    ok: bool
    message: str = ""
    position: int | None = None
    facts: list[str] = []
    """What it looks at."""


@router.post("/check", summary="Is this a condition")
async def check(body: Condition, request: Request, principal: Reader) -> Checked:
    try:
        return Checked(ok=True, facts=sorted(ORDERS.check(body.condition).paths))
    except InvalidExpression as error:
        return Checked(ok=False, message=t(error.message, lang(request)), position=error.position)


class DryRun(BaseModel):
    """A rule, and the past orders to ask it of, oldest first."""

    rule: ReviewRule
    since: AwareDatetime
    until: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=trial.MOST)] = trial.MOST
    cursor: str | None = None


@router.post("/dry-run", summary="What would this rule have done; nothing changes")
async def dry_run(body: DryRun, request: Request, principal: Reader) -> trial.Trial:
    try:
        ORDERS.check(body.rule.condition)
    except InvalidExpression as error:
        raise InvalidInput("rule.condition", error.described) from None
    try:
        found = await trial.run(body.rule, body.since, body.until, body.limit, body.cursor)
    except trial.BadCursor:
        raise InvalidInput("cursor", "invalid.cursor") from None
    speak = lang(request)
    failures = tuple(each.model_copy(update={"failure": t(each.failure, speak)}) for each in found.failures)
    return found.model_copy(update={"failures": failures})


@router.get("/blacklist", summary="The blacklist, newest first; nobody in the clear")
async def listed(
    principal: Reader,
    kind: BlacklistKind | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[BlacklistEntry]:
    async with transaction() as connection:
        return await blacklist.list_entries(connection, kind, limit)


class Suspect(BaseModel):
    """Somebody told in full, or by an order of theirs. Of a buyer's account, the channel is to be told too."""

    kind: BlacklistKind
    value: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{0,500}$", examples=["13800138000"])] = ""
    channel: Annotated[str, Field(pattern=r"^[a-z0-9_]*$")] = ""
    order_id: str | None = None
    reason: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{0,200}$")] = ""
    until: AwareDatetime | None = None


@router.post("/blacklist", status_code=201, summary="Blacklist a phone, a buyer's account or an address")
async def blacklist_somebody(body: Suspect, principal: Staff) -> BlacklistEntry:
    given: dict[str, Any] = {"reason": body.reason, "until": body.until, "by": principal.name}
    async with transaction() as connection:
        if body.order_id is not None:
            entry = await blacklist.add_of(connection, body.kind, body.order_id, **given)
            if entry is None:
                raise Problem(404, "problem.no_order", {"order": body.order_id})
            return entry
        return await blacklist.add(connection, body.kind, body.value, body.channel, **given)


@router.delete("/blacklist/{kind}/{entry_id}", status_code=204, summary="Take somebody off the blacklist")
async def forgive(kind: BlacklistKind, entry_id: str, request: Request, principal: Staff) -> None:
    async with transaction() as connection:
        if not await blacklist.remove(connection, kind, entry_id):
            raise Problem(404, "problem.no_entry", {"id": entry_id})
