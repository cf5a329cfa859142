"""Carrier selection: the terms of carriers, their performance by lane, penalties and rules."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel

from activities.fulfillment import carrier_selection, tracking
from activities.fulfillment.carrier_selection import rules, trial
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.kit.expressions import InvalidExpression
from models.carrier_selection import CarrierRule, CarrierTerms, Weights
from models.i18n import t
from starter.api.authentication import Reader, Staff
from starter.api.commands import must_match_path
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/carriers", tags=["carriers"])


class Lane(BaseModel):
    """Parcels of the last ninety days from one province to another, each named by its first two characters."""

    carrier: str
    origin: str
    destination: str
    parcels: int
    late: int
    lost: int
    days: float | None
    """The time in which nine of ten parcels arrived."""


class UnknownCode(BaseModel):
    """A code of tracking that is in no table here, with the number of scans that have it."""

    carrier: str
    code: str
    count: int
    first: datetime
    last: datetime


@router.get("", summary="Terms of carriers")
async def list_terms(principal: Reader) -> list[CarrierTerms]:
    async with transaction() as connection:
        return list((await carrier_selection.list_terms(connection)).values())


@router.get("/weights", summary="Penalties for carriers' faults, by shop")
async def list_weights(principal: Reader) -> dict[str, Weights]:
    """By ``channel:shop``; the empty name holds the penalties of all other shops."""
    async with transaction() as connection:
        return await rules.list_weights(connection)


@router.put("/weights", summary="Replace all penalties")
async def save_weights(body: dict[str, Weights], principal: Staff) -> dict[str, Weights]:
    async with transaction() as connection:
        await rules.save_weights(connection, body)
        carrier_selection.clear_cache()
        return await rules.list_weights(connection)


@router.get("/rules", summary="Carrier rules, in the order in which they apply")
async def list_carrier_rules(principal: Reader) -> list[CarrierRule]:
    async with transaction() as connection:
        return await rules.list_rules(connection)


@router.put("/rules/{number}", summary="Create or change a rule")
async def save_carrier_rule(number: int, body: CarrierRule, principal: Staff) -> CarrierRule:
    must_match_path("number", body.number, number)
    async with transaction() as connection:
        await rules.save_rule(connection, body)
    carrier_selection.clear_cache()
    return body


@router.delete("/rules/{number}", status_code=204, summary="Delete a rule")
async def delete_carrier_rule(number: int, principal: Staff) -> None:
    async with transaction() as connection:
        if not await rules.delete_rule(connection, number):
            raise Problem(404, "problem.no_rule", {"number": number})
    carrier_selection.clear_cache()


class DryRun(BaseModel):
    """A rule, and the time from which parcels are tried."""

    rule: CarrierRule
    since: AwareDatetime


@router.post("/dry-run", summary="Try a rule on past parcels; changes nothing")
async def dry_run(body: DryRun, request: Request, principal: Reader) -> trial.Trial:
    try:
        rules.VOCABULARY.check(body.rule.condition)
    except InvalidExpression as error:
        raise InvalidInput("rule.condition", error.described) from None
    result = await trial.run(body.rule, body.since)
    language = lang(request)
    examples = tuple(each.model_copy(update={"failure": t(each.failure, language)}) for each in result.examples)
    return result.model_copy(update={"examples": examples})


@router.put("/{carrier}", summary="Create or change a carrier's terms")
async def save_terms(carrier: str, body: CarrierTerms, principal: Staff) -> CarrierTerms:
    must_match_path("carrier", body.carrier, carrier)
    async with transaction() as connection:
        await carrier_selection.save_terms(connection, body)
    return body


@router.get("/lanes", summary="Performance of carriers by lane")
async def list_lanes(principal: Reader) -> list[Lane]:
    async with transaction() as connection:
        return [Lane(**row._mapping) for row in await carrier_selection.list_lanes(connection)]


@router.get("/unknown-codes", summary="Tracking codes without a meaning here, the most frequent first")
async def list_unknown_codes(principal: Reader) -> list[UnknownCode]:
    async with transaction() as connection:
        return [UnknownCode(**row._mapping) for row in await tracking.count_unknown_codes(connection)]


def describe_choice(choice: dict[str, Any] | None, language: str) -> list[dict[str, Any]]:
    """Return each carrier considered, the best first, with the reason as text."""
    if choice is None:
        return []
    return [option | {"text": t(option["reason"], language, **option["params"])} for option in choice["options"]]
