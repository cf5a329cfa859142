"""The locations' door: own warehouses, stores, suppliers and virtual warehouses, set up and changed."""

from fastapi import APIRouter

from activities import locations
from activities.database import transaction
from activities.inventory import NotAllowed
from activities.locations import Location
from starter.api.access import Reader, Staff

router = APIRouter(prefix="/locations", tags=["locations"])


@router.get("", summary="Every location")
async def show(visitor: Reader) -> list[Location]:
    async with transaction() as connection:
        return await locations.every(connection)


@router.put("/{code}", summary="Set a location up, or change it")
async def keep(code: str, body: Location, visitor: Staff) -> Location:
    if body.code != code:
        raise NotAllowed("code", f"is {body.code}, but {code} is asked to change")
    async with transaction() as connection:
        return await locations.keep(connection, body)
