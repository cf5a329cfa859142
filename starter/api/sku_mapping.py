"""SKU mapping: the items of shops as our SKUs, and items without a SKU."""

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


class MappingView(BaseModel):
    """``shop`` is empty where the mapping holds for the whole channel; ``match`` is how it was found."""

    channel: str
    shop: str
    item: str
    sku: str
    match: Match
    actor: str
    at: datetime


class Mappings(BaseModel):
    mappings: list[Mapping] = Field(min_length=1, max_length=10_000)


@router.get("", summary="Mappings of shop items to SKUs")
async def list_mappings(
    principal: Reader, channel: str | None = None, shop: str | None = None, sku: str | None = None
) -> list[MappingView]:
    async with transaction() as connection:
        rows = await sku_mapping.list_all(connection, channel=channel, shop=shop, sku=sku)
    return [MappingView.model_validate(row._mapping) for row in rows]


@router.get("/unmapped", summary="Unmapped items that hold orders, with the most similar SKUs")
async def list_unmapped(
    principal: Reader, channel: str | None = None, shop: str | None = None
) -> list[sku_mapping.Unmapped]:
    async with transaction() as connection:
        return await sku_mapping.list_unmapped(connection, channel, shop)


@router.put("", summary="Map items to SKUs; orders that wait for them continue")
async def save_mappings(body: Mappings, principal: Staff) -> dict[str, int]:
    async with transaction() as connection:
        if unknown := await sku_mapping.save(connection, body.mappings, principal.name):
            raise InvalidInput("sku", "invalid.sku.unknown", sku=unknown[0])
    dispatcher.wake()
    return {"mappings": len(body.mappings)}


@router.delete("", status_code=204, summary="Delete a mapping")
async def delete_mapping(channel: str, item: str, principal: Staff, shop: str = "") -> None:
    async with transaction() as connection:
        if not await sku_mapping.remove(connection, channel, shop, item):
            raise Problem(404, "problem.no_mapping", {"item": item})
