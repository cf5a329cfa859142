"""The carriers' door: what each takes, how it did on each lane, and what staff have to say in who carries what."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel

from activities.fulfillment import carrier_selection
from activities.fulfillment.carrier_selection import rules, trial
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.kit.expressions import InvalidExpression
from models.carrier_selection import CarrierRule, CarrierTerms, Weights
from models.i18n import t
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/carriers", tags=["carriers"])


class Lane(BaseModel):
    """Parcels of the last ninety days from one province to another, named by their first two characters."""

    carrier: str
    origin: str
    destination: str
    parcels: int
    late: int
    lost: int
    days: float | None
    """Nine of ten took no longer."""


@router.get("", summary="The carriers' terms")
async def terms(principal: Reader) -> list[CarrierTerms]:
    async with transaction() as connection:
        return list((await carrier_selection.list_terms(connection)).values())


@router.get("/weights", summary="What carriers' faults count, by shop")
async def weights(principal: Reader) -> dict[str, Weights]:
    """By ``channel:shop``; those of the empty name hold of every shop that is not named."""
    async with transaction() as connection:
        return await rules.list_weights(connection)


@router.put("/weights", summary="Say what carriers' faults count, in place of all that was said")
async def keep_weights(body: dict[str, Weights], principal: Staff) -> dict[str, Weights]:
    async with transaction() as connection:
        await rules.save_weights(connection, body)
        carrier_selection.clear_cache()
        return await rules.list_weights(connection)


@router.get("/rules", summary="The rules of who carries what, in the order in which they apply")
async def carriage_rules(principal: Reader) -> list[CarrierRule]:
    async with transaction() as connection:
        return await rules.list_rules(connection)


@router.put("/rules/{number}", summary="Set a rule up, or change it")
async def keep_carriage_rule(number: int, body: CarrierRule, principal: Staff) -> CarrierRule:
    if body.number != number:
        raise InvalidInput("number", "invalid.differs", given=body.number, expected=number)
    async with transaction() as connection:
        await rules.save_rule(connection, body)
    carrier_selection.clear_cache()
    return body


@router.delete("/rules/{number}", status_code=204, summary="Drop a rule")
async def drop_carriage_rule(number: int, principal: Staff) -> None:
    async with transaction() as connection:
        if not await rules.delete_rule(connection, number):
            raise Problem(404, "problem.no_rule", {"number": number})
    carrier_selection.clear_cache()


class DryRun(BaseModel):
    """A rule, and since when parcels are asked."""

    rule: CarrierRule
    since: AwareDatetime


@router.post("/dry-run", summary="Who would have carried past parcels by this rule; nothing changes")
async def dry_run(body: DryRun, request: Request, principal: Reader) -> trial.Trial:
    try:
        rules.PARCELS.check(body.rule.condition)
    except InvalidExpression as error:
        raise InvalidInput("rule.condition", error.described) from None
    found = await trial.run(body.rule, body.since)
    speak = lang(request)
    examples = tuple(each.model_copy(update={"failure": t(each.failure, speak)}) for each in found.examples)
    return found.model_copy(update={"examples": examples})


@router.put("/{carrier}", summary="Set a carrier's terms up, or change them")
async def keep_terms(carrier: str, body: CarrierTerms, principal: Staff) -> CarrierTerms:
    if body.carrier != carrier:
        raise InvalidInput("carrier", "invalid.differs", given=body.carrier, expected=carrier)
    async with transaction() as connection:
        await carrier_selection.save_terms(connection, body)
    return body


@router.get("/lanes", summary="How carriers did, lane by lane")
async def lanes(principal: Reader) -> list[Lane]:
    async with transaction() as connection:
        return [Lane(**row._mapping) for row in await carrier_selection.list_lanes(connection)]


def in_words(choice: dict[str, Any] | None, language: str) -> list[dict[str, Any]]:
    """Each carrier looked at, the best first, and what was made of it."""
    if choice is None:
        return []
    return [option | {"text": t(option["reason"], language, **option["params"])} for option in choice["options"]]
