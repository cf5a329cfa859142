"""Locations: own warehouses, stores, suppliers and virtual warehouses."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from activities.catalogue import locations
from activities.catalogue.locations import Location
from activities.kit.database import transaction
from models.address import Addressee, Recipient, RecipientChange
from models.i18n import t
from starter.api.authentication import Reader, Staff
from starter.api.commands import must_match_path
from starter.api.problems import lang

router = APIRouter(prefix="/locations", tags=["locations"])


class LocationUpdate(Location):
    """A location with its sender: the person, phone and address on its labels. Parts left out stay as they are."""

    sender: RecipientChange | None = None


class LocationView(Location):
    """A location, with its sender masked."""

    sender: Addressee | None
    obstacles: Annotated[tuple[str, ...], Field(description="What keeps it from shipping, each with its remedy.")]


@router.get("", summary="Locations, and what keeps each from shipping")
async def list_locations(principal: Reader, language: Annotated[str, Depends(lang)]) -> list[LocationView]:
    async with transaction() as connection:
        listed = await locations.list_all(connection)
        senders = await locations.senders(connection)
        obstacles = await locations.what_keeps_from_shipping(connection)
    return [_view(each, senders, obstacles, language) for each in listed]


@router.put("/{code}", summary="Create or change a location; says what keeps it from shipping")
async def save_location(
    code: str, body: LocationUpdate, principal: Staff, language: Annotated[str, Depends(lang)]
) -> LocationView:
    must_match_path("code", body.code, code)
    province = body.province or (body.sender and body.sender.province) or ""
    given = Location(**body.model_dump(exclude={"sender", "province"}), province=province)
    async with transaction() as connection:
        location = await locations.save(connection, given)
        if body.sender is not None:
            await locations.save_sender(connection, code, body.sender)
        senders = await locations.senders(connection)
        obstacles = await locations.what_keeps_from_shipping(connection, code)
    return _view(location, senders, obstacles, language)


def _view(
    location: Location, senders: Mapping[str, Recipient], obstacles: Mapping[str, Sequence[str]], language: str
) -> LocationView:
    sender = senders.get(location.code)
    return LocationView(
        **location.model_dump(),
        sender=Addressee(**sender.masked().model_dump()) if sender else None,
        obstacles=tuple(t(each, language) for each in obstacles.get(location.code, ())),
    )
