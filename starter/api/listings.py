"""Listings: the SKUs that shops sell, the quantities offered to them, and the rules that compute these."""

from datetime import datetime
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel
from temporalio.service import RPCError

from activities import channels
from activities.catalogue import sku_mapping, skus
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from activities.stock import stock_sync
from models.i18n import t
from models.intake import IntegrationType
from models.listings import StockRule, join_ids
from starter import dispatcher
from starter.api.authentication import Reader, Staff
from starter.api.problems import SOON, Problem, lang
from starter.api.webhooks import find_account
from workers.schedules import schedule_shops

router = APIRouter(prefix="/listings", tags=["listings"])


class Listing(BaseModel):
    """``offered``: the quantity last sent to the channel; ``refused``: why the channel refused it."""

    channel: str
    shop: str
    sku: str
    listing: dict[str, str]
    offered: int | None
    offered_at: datetime | None
    refused: str


@router.get("", summary="Listings with the quantity last sent to their channel")
async def list_listings(
    request: Request,
    principal: Reader,
    channel: str | None = None,
    shop: str | None = None,
    sku: str | None = None,
) -> list[Listing]:
    async with transaction() as connection:
        rows = await stock_sync.search(connection, channel=channel, shop=shop, sku=sku)
    return [Listing.model_validate({**row._mapping, "refused": t(row.refused, lang(request))}) for row in rows]


@router.put("/{channel}/{shop}", summary="Set a shop's listings: SKU → the channel's ids")
async def save_listings(
    channel: str,
    shop: str,
    body: Annotated[dict[str, dict[str, str]], Body(min_length=1, max_length=10_000)],
    principal: Staff,
) -> dict[str, int]:
    await find_account(IntegrationType.CHANNEL, channel, shop)
    async with transaction() as connection:
        if unknown := await skus.unknown_skus(connection, body):
            raise InvalidInput("sku", "invalid.sku.unknown", sku=unknown[0])
        await sku_mapping.lock_catalogue(connection)
        await stock_sync.save_listings(connection, channel, shop, body)
        await sku_mapping.notify_held_orders(
            connection, {join_ids(each) for each in body.values()}, f"listed:{uuid4()}", channel, shop
        )
    dispatcher.wake()
    return {"listings": len(body)}


@router.put("/{channel}/{shop}/rule", summary="Set the share of available stock that a shop may sell")
async def save_rule(channel: str, shop: str, body: StockRule, request: Request, principal: Staff) -> StockRule:
    """Starts stock sync for the shop: its channel is updated whenever stock changes."""
    if not isinstance(
        channels.channel(await find_account(IntegrationType.CHANNEL, channel, shop)), channels.StockReceiver
    ):
        raise InvalidInput("channel", "invalid.stock.not_accepted", channel=channel)
    async with transaction() as connection:
        await stock_sync.save_rule(connection, channel, shop, body)
    try:
        await schedule_shops(request.app.state.temporal)
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None
    return body
