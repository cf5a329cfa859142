"""The locations' door: own warehouses, stores, suppliers and virtual warehouses, set up and changed."""

from fastapi import APIRouter

from activities.catalogue import locations
from activities.catalogue.locations import Location
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from starter.api.authentication import Reader, Staff

router = APIRouter(prefix="/locations", tags=["locations"])


@router.get("", summary="Every location")
async def show(principal: Reader) -> list[Location]:
    async with transaction() as connection:
        return await locations.list_all(connection)


@router.put("/{code}", summary="Set a location up, or change it")
async def keep(code: str, body: Location, principal: Staff) -> Location:
    if body.code != code:
        raise InvalidInput("code", "invalid.differs", given=body.code, expected=code)
    async with transaction() as connection:
        return await locations.save(connection, body)
