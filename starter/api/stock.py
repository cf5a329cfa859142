"""The stock's door: levels, receipts, adjustments, the ledger, and the proof that they agree."""

from datetime import datetime
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field

from activities import inventory, lists
from activities.database import transaction
from activities.inventory import Drift
from models.stock import Level
from starter import dispatcher
from starter.api.access import Reader, Staff, Storekeeper

router = APIRouter(prefix="/stock", tags=["stock"])

Key = Annotated[str | None, Header(alias="Idempotency-Key")]


class LevelView(BaseModel):
    """A level, with what it can promise."""

    warehouse: str
    sku: str
    on_hand: int
    allocated: int
    reserved: int
    safety_stock: int
    available: int


class Receive(BaseModel):
    warehouse: Annotated[str, Field(examples=["SH"])]
    sku: Annotated[str, Field(examples=["A001"])]
    quantity: Annotated[int, Field(ge=1, le=10_000_000)]
    request_id: str | None = None


class Adjust(BaseModel):
    warehouse: Annotated[str, Field(examples=["SH"])]
    sku: Annotated[str, Field(examples=["A001"])]
    quantity: Annotated[int, Field(ge=-10_000_000, le=10_000_000, description="Up, or down where negative.")]
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    request_id: str | None = None


class Movement(BaseModel):
    id: int
    at: datetime
    warehouse: str
    sku: str
    kind: str
    quantity: int
    on_hand: int
    allocated: int
    reserved: int
    order_id: str | None
    reason: str
    actor: str


class Ledger(BaseModel):
    items: list[Movement]
    next: int | None


class Proof(BaseModel):
    """``drifts`` is empty where every level is its ledger and no finished order holds stock."""

    balanced: bool
    drifts: list[Drift]


def _view(level: Level) -> LevelView:
    return LevelView(**level.model_dump(), available=level.available)


@router.get("", summary="Levels")
async def show(visitor: Reader, sku: str | None = None, warehouse: str | None = None) -> list[LevelView]:
    async with transaction() as connection:
        rows = await lists.levels(connection, sku, warehouse)
    return [_view(Level.model_validate(row._mapping)) for row in rows]


@router.post("/receive", summary="Goods have arrived")
async def receive(body: Receive, visitor: Storekeeper, key: Key = None) -> LevelView:
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        level = await inventory.receive(connection, body.warehouse, body.sku, body.quantity, request_id, visitor.name)
    dispatcher.wake()
    return _view(level)


@router.post("/adjust", summary="Correct what is there, with a reason")
async def adjust(body: Adjust, visitor: Staff, key: Key = None) -> LevelView:
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        level = await inventory.adjust(
            connection, body.warehouse, body.sku, body.quantity, body.reason, request_id, visitor.name
        )
    dispatcher.wake()
    return _view(level)


@router.get("/ledger", summary="Movements, newest first")
async def ledger(
    visitor: Reader,
    sku: str | None = None,
    warehouse: str | None = None,
    order_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: int | None = None,
) -> Ledger:
    async with transaction() as connection:
        rows = await lists.ledger(
            connection, sku=sku, warehouse=warehouse, order_id=order_id, before=cursor, limit=limit
        )
    items = [Movement.model_validate(row._mapping) for row in rows]
    return Ledger(items=items, next=items[-1].id if len(items) == limit else None)


@router.get("/verify", summary="Prove that every level is the sum of its ledger")
async def verify(visitor: Reader) -> Proof:
    async with transaction() as connection:
        drifts = await inventory.verify(connection)
    return Proof(balanced=not drifts, drifts=drifts)
