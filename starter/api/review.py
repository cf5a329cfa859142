"""Order review: rules, trial runs on past orders, and the blacklist."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.kit.expressions import InvalidExpression
from activities.orders.review import blacklist, rules, trial
from activities.orders.review.samples import ORDER_VOCABULARY
from models.address import Country
from models.i18n import t
from models.review import MAX_EXPRESSION_LENGTH, BlacklistEntry, BlacklistKind, ReviewRule
from starter.api.authentication import Reader, Staff
from starter.api.commands import must_match_path
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/review", tags=["review"])


@router.get("/rules", summary="Review rules, in the order in which they apply")
async def list_review_rules(principal: Reader) -> list[ReviewRule]:
    async with transaction() as connection:
        return await rules.list_rules(connection)


@router.put("/rules/{number}", summary="Create or change a rule")
async def save_review_rule(number: int, body: ReviewRule, principal: Staff) -> ReviewRule:
    must_match_path("number", body.number, number)
    async with transaction() as connection:
        await rules.save_rule(connection, body)
    return body


@router.delete("/rules/{number}", status_code=204, summary="Delete a rule")
async def delete_review_rule(number: int, principal: Staff) -> None:
    async with transaction() as connection:
        if not await rules.delete_rule(connection, number):
            raise Problem(404, "problem.no_rule", {"number": number})


class Condition(BaseModel):
    condition: Annotated[str, Field(max_length=10 * MAX_EXPRESSION_LENGTH, examples=["order.total > 5000"])]


class ConditionCheck(BaseModel):
    """Whether the text is a valid condition; if not, the error and its offset in characters."""

    ok: bool
    message: str = ""
    position: int | None = None
    facts: list[str] = []
    """The facts that it reads."""


@router.post("/check", summary="Check a condition")
async def check(body: Condition, request: Request, principal: Reader) -> ConditionCheck:
    try:
        return ConditionCheck(ok=True, facts=sorted(ORDER_VOCABULARY.check(body.condition).paths))
    except InvalidExpression as error:
        return ConditionCheck(ok=False, message=t(error.message, lang(request)), position=error.position)


class DryRun(BaseModel):
    """A rule, and the past orders to try it on, oldest first."""

    rule: ReviewRule
    since: AwareDatetime
    until: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=trial.MOST)] = trial.MOST
    cursor: str | None = None


@router.post("/dry-run", summary="Try a rule on past orders; changes nothing")
async def dry_run(body: DryRun, request: Request, principal: Reader) -> trial.Trial:
    try:
        ORDER_VOCABULARY.check(body.rule.condition)
    except InvalidExpression as error:
        raise InvalidInput("rule.condition", error.described) from None
    try:
        result = await trial.run(body.rule, body.since, body.until, body.limit, body.cursor)
    except trial.BadCursor:
        raise InvalidInput("cursor", "invalid.cursor") from None
    language = lang(request)
    failures = tuple(each.model_copy(update={"failure": t(each.failure, language)}) for each in result.failures)
    return result.model_copy(update={"failures": failures})


@router.get("/blacklist", summary="The blacklist, newest first; values are masked")
async def list_blacklist(
    principal: Reader,
    kind: BlacklistKind | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[BlacklistEntry]:
    async with transaction() as connection:
        return await blacklist.list_entries(connection, kind, limit)


class BlacklistRequest(BaseModel):
    """A value, or an order that has it. A buyer's account also needs its channel."""

    kind: BlacklistKind
    value: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{0,500}$", examples=["13800138000"])] = ""
    channel: Annotated[str, Field(pattern=r"^[a-z0-9_]*$")] = ""
    country: Annotated[Country, Field(description="Of a phone without a country code.")] = "CN"
    order_id: str | None = None
    reason: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{0,200}$")] = ""
    until: AwareDatetime | None = None


@router.post("/blacklist", status_code=201, summary="Blacklist a phone, a buyer's account or an address")
async def add_to_blacklist(body: BlacklistRequest, principal: Staff) -> BlacklistEntry:
    given: dict[str, Any] = {"reason": body.reason, "until": body.until, "by": principal.name}
    async with transaction() as connection:
        if body.order_id is not None:
            entry = await blacklist.add_of(connection, body.kind, body.order_id, **given)
            if entry is None:
                raise Problem(404, "problem.no_order", {"order": body.order_id})
            return entry
        return await blacklist.add(connection, body.kind, body.value, body.channel, body.country, **given)


@router.delete("/blacklist/{kind}/{entry_id}", status_code=204, summary="Remove an entry from the blacklist")
async def remove_from_blacklist(kind: BlacklistKind, entry_id: str, request: Request, principal: Staff) -> None:
    async with transaction() as connection:
        if not await blacklist.remove(connection, kind, entry_id):
            raise Problem(404, "problem.no_entry", {"id": entry_id})
