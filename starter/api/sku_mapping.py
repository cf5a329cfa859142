"""The mappings' door: what shops call our SKUs, and what they sell that nobody knows."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from activities.catalogue import sku_mapping
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from models.listings import Mapping, Match
from starter import dispatcher
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem

router = APIRouter(prefix="/mappings", tags=["mappings"])


class Kept(BaseModel):
    """``shop`` is empty where it holds for all of its channel; ``match`` says how it was found."""

    channel: str
    shop: str
    item: str
    sku: str
    match: Match
    actor: str
    at: datetime


class Wanted(BaseModel):
    mappings: list[Mapping] = Field(min_length=1, max_length=10_000)


@router.get("", summary="What shops call our SKUs")
async def show(
    principal: Reader, channel: str | None = None, shop: str | None = None, sku: str | None = None
) -> list[Kept]:
    async with transaction() as connection:
        rows = await sku_mapping.list_all(connection, channel=channel, shop=shop, sku=sku)
    return [Kept.model_validate(row._mapping) for row in rows]


@router.get("/unmapped", summary="Items that orders are held for, with the SKUs most like them")
async def unmapped(
    principal: Reader, channel: str | None = None, shop: str | None = None
) -> list[sku_mapping.Unmapped]:
    async with transaction() as connection:
        return await sku_mapping.list_unmapped(connection, channel, shop)


@router.put("", summary="Say which SKU an item is; the orders that wait for it go on")
async def keep(body: Wanted, principal: Staff) -> dict[str, int]:
    async with transaction() as connection:
        if unknown := await sku_mapping.save(connection, body.mappings, principal.name):
            raise InvalidInput("sku", "invalid.sku.unknown", sku=unknown[0])
    dispatcher.wake()
    return {"mappings": len(body.mappings)}


@router.delete("", status_code=204, summary="Forget what an item is")
async def drop(channel: str, item: str, principal: Staff, shop: str = "") -> None:
    async with transaction() as connection:
        if not await sku_mapping.remove(connection, channel, shop, item):
            raise Problem(404, "problem.no_mapping", {"item": item})
