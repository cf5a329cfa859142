"""The carriers' door: what each takes, and how it did on each lane."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from activities import selection
from activities.database import transaction
from activities.inventory import NotAllowed
from models.carriage import CarrierTerms
from models.i18n import t
from starter.api.access import Reader, Staff

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
async def terms(visitor: Reader) -> list[CarrierTerms]:
    async with transaction() as connection:
        return list((await selection.every_terms(connection)).values())


@router.put("/{carrier}", summary="Set a carrier's terms up, or change them")
async def keep_terms(carrier: str, body: CarrierTerms, visitor: Staff) -> CarrierTerms:
    if body.carrier != carrier:
        raise NotAllowed("carrier", f"is {body.carrier}, but {carrier} is asked to change")
    async with transaction() as connection:
        await selection.keep_terms(connection, body)
    return body


@router.get("/lanes", summary="How carriers did, lane by lane")
async def lanes(visitor: Reader) -> list[Lane]:
    async with transaction() as connection:
        return [Lane(**row._mapping) for row in await selection.every_lane(connection)]


def in_words(choice: dict[str, Any] | None, speak: str) -> list[dict[str, Any]]:
    """Each carrier looked at, the best first, and what was made of it."""
    if choice is None:
        return []
    return [option | {"text": t(option["reason"], speak, **option["params"])} for option in choice["options"]]
