"""Locations: own warehouses, stores, suppliers and virtual warehouses."""

from fastapi import APIRouter

from activities.catalogue import locations
from activities.catalogue.locations import Location
from activities.kit.database import transaction
from starter.api.authentication import Reader, Staff
from starter.api.commands import must_match_path

router = APIRouter(prefix="/locations", tags=["locations"])


@router.get("", summary="Locations")
async def list_locations(principal: Reader) -> list[Location]:
    async with transaction() as connection:
        return await locations.list_all(connection)


@router.put("/{code}", summary="Create or change a location")
async def save_location(code: str, body: Location, principal: Staff) -> Location:
    must_match_path("code", body.code, code)
    async with transaction() as connection:
        return await locations.save(connection, body)
