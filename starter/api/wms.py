"""Events of fulfillment orders, reported by warehouse systems."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from activities.intake import inbox
from activities.kit.database import transaction
from models.base import Moment, Value
from models.fulfillment import Shortfall
from models.intake import IntegrationType, Raw, Receipt
from models.requests import WarehouseEvent, WarehouseEventKind, Weight
from starter import dispatcher
from starter.api.authentication import Storekeeper
from starter.api.webhooks import find_account

router = APIRouter(prefix="/warehouses", tags=["warehouses"])


class EventBody(Value):
    """``request_id`` is the warehouse's own: a repeated one changes nothing."""

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    fulfillment_id: Annotated[str, Field(min_length=1, max_length=200, examples=["order:own:web:1001:1"])]
    kind: WarehouseEventKind
    at: Moment
    weight_kg: Weight | None = None
    reason: Annotated[str, Field(max_length=500)] = ""
    shortfalls: Annotated[
        tuple[Shortfall, ...],
        Field(max_length=200, description="Of a rejection: what is missing against the books."),
    ] = ()


@router.post("/{warehouse}/events", status_code=202, summary="Report acceptance, rejection, picking or shipping")
async def events(warehouse: str, body: EventBody | list[EventBody], principal: Storekeeper) -> dict[str, int]:
    """Takes one event or a list; returns how many were new."""
    await find_account(IntegrationType.WAREHOUSE, "wms", warehouse)
    received = body if isinstance(body, list) else [body]
    new = 0
    async with transaction() as connection:
        for each in received:
            event = WarehouseEvent(actor=principal.name, **each.model_dump())
            raw = Raw.model_construct(body=event.model_dump_json().encode(), headers={})
            receipt = Receipt(fact_key=each.request_id, topic=each.kind)
            new += await inbox.accept(
                connection, IntegrationType.WAREHOUSE, "wms", warehouse, receipt, raw, principal.name
            )
    dispatcher.wake()
    return {"accepted": new}
