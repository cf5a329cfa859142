"""The work of people at locations without a warehouse system: the pick list, and what they pick, pack and ship."""

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from activities.fulfillment import manual_warehouse
from activities.kit.database import transaction
from models.manual_warehouse import Act, Job
from starter import dispatcher
from starter.api.authentication import Printer

router = APIRouter(prefix="/parcels", tags=["warehouses"])

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


class Scans(BaseModel):
    """What was picked or packed, by SKU; without it, all that remains."""

    scans: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=100_000)]] | None, Field(min_length=1, examples=[{"A001": 1}])
    ] = None


class Weighed(BaseModel):
    """A parcel that leaves, with its weight in grams if it was weighed."""

    weight_g: Annotated[int | None, Field(ge=1, le=1_000_000, examples=[350])] = None


class JobView(Job):
    """A job, with what remains by SKU."""

    to_pick: dict[str, int]
    to_pack: dict[str, int]


@router.get("", summary="The pick list: parcels that wait at locations without a warehouse system")
async def pick_list(principal: Printer, warehouse: str | None = None) -> list[JobView]:
    """Urgent orders first, then the oldest; at most a thousand."""
    async with transaction() as connection:
        return [_view(each) for each in await manual_warehouse.pick_list(connection, warehouse)]


@router.post("/{parcel}/pick", summary="Enter what was picked")
async def pick(parcel: str, body: Scans, principal: Printer, key: Key = None) -> JobView:
    return await _scan(parcel, Act.PICK, body, principal.name, key)


@router.post("/{parcel}/pack", summary="Enter what was packed")
async def pack(parcel: str, body: Scans, principal: Printer, key: Key = None) -> JobView:
    return await _scan(parcel, Act.PACK, body, principal.name, key)


@router.post("/{parcel}/ship", summary="Hand a parcel to its carrier")
async def ship(parcel: str, body: Weighed, principal: Printer, key: Key = None) -> JobView:
    async with transaction() as connection:
        job = await manual_warehouse.ship(
            connection, parcel, body.weight_g, request_id=key or str(uuid4()), actor=principal.name
        )
    dispatcher.wake()
    return _view(job)


async def _scan(parcel: str, act: Act, body: Scans, actor: str, key: str | None) -> JobView:
    async with transaction() as connection:
        job = await manual_warehouse.scan(
            connection, parcel, act, body.scans, request_id=key or str(uuid4()), actor=actor
        )
    dispatcher.wake()
    return _view(job)


def _view(job: Job) -> JobView:
    return JobView(**job.model_dump(), to_pick=job.remaining(Act.PICK), to_pack=job.remaining(Act.PACK))
