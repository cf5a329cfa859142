"""Stock: levels, movements, stocktakes, thresholds, the ledger and its verification."""

from datetime import date, datetime
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field

from activities.accounts.api_keys import Principal
from activities.kit.database import transaction
from activities.records import queries
from activities.stock import ledger, operations, stocktakes, thresholds
from activities.stock.ledger import Discrepancy
from activities.stock.operations import Promise
from activities.stock.stocktakes import Stocktake
from activities.stock.thresholds import Threshold
from models.base import CHINA
from models.stock import Level, MovementKind, StocktakeStatus
from starter import dispatcher
from starter.api.authentication import Reader, Staff, Storekeeper

router = APIRouter(prefix="/stock", tags=["stock"])

Key = Annotated[str | None, Header(alias="Idempotency-Key")]


class LevelView(BaseModel):
    """A level, with the quantity available."""

    warehouse: str
    sku: str
    on_hand: int
    allocated: int
    reserved: int
    safety_stock: int
    unavailable: int
    available: int


class Receive(BaseModel):
    warehouse: Annotated[str, Field(examples=["SH"])]
    sku: Annotated[str, Field(examples=["A001"])]
    quantity: Annotated[int, Field(ge=1, le=10_000_000)]
    request_id: str | None = None


class Adjust(BaseModel):
    warehouse: Annotated[str, Field(examples=["SH"])]
    sku: Annotated[str, Field(examples=["A001"])]
    quantity: Annotated[int, Field(ge=-10_000_000, le=10_000_000, description="Positive: up; negative: down.")]
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    request_id: str | None = None


class Grade(BaseModel):
    """Goods that become unfit or fit for sale."""

    warehouse: Annotated[str, Field(examples=["SH"])]
    sku: Annotated[str, Field(examples=["A001"])]
    quantity: Annotated[int, Field(ge=1, le=10_000_000)]
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    request_id: str | None = None


class VirtualTransfer(BaseModel):
    warehouse: Annotated[str, Field(description="The virtual warehouse.", examples=["SH@618"])]
    sku: Annotated[str, Field(examples=["A001"])]
    quantity: Annotated[int, Field(ge=-10_000_000, le=10_000_000, description="Negative: back to the parent.")]
    request_id: str | None = None


class SupplierStock(BaseModel):
    warehouse: Annotated[str, Field(description="The supplier's location.")]
    goods: Annotated[
        dict[str, int], Field(min_length=1, max_length=10_000, description="What the supplier can send, by SKU.")
    ]
    request_id: str | None = None


class ExpectedReceipts(BaseModel):
    """Goods on their way; a new notice of a source replaces its previous one."""

    source: Annotated[str, Field(min_length=1, max_length=100, examples=["asn:1001"])]
    warehouse: str
    goods: Annotated[dict[str, int], Field(max_length=10_000)]
    due: date


class SafetyStock(BaseModel):
    warehouse: str
    sku: str
    quantity: Annotated[int, Field(ge=0, le=10_000_000)]


class Count(BaseModel):
    warehouse: str
    counts: Annotated[dict[str, int], Field(min_length=1, max_length=10_000, description="Counted quantity by SKU.")]
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
    unavailable: int
    order_id: str | None
    reason: str
    actor: str


class LedgerPage(BaseModel):
    items: list[Movement]
    next: int | None


class Verification(BaseModel):
    """``drifts`` is empty where every level equals its ledger and no closed order holds stock."""

    balanced: bool
    drifts: list[Discrepancy]


def _view(level: Level) -> LevelView:
    return LevelView(**level.model_dump(), available=level.available)


@router.get("", summary="Stock levels")
async def list_levels(principal: Reader, sku: str | None = None, warehouse: str | None = None) -> list[LevelView]:
    async with transaction() as connection:
        rows = await queries.levels(connection, sku, warehouse)
    return [_view(Level.model_validate(row._mapping)) for row in rows]


@router.post("/receive", summary="Receive goods")
async def receive(body: Receive, principal: Storekeeper, key: Key = None) -> LevelView:
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        level = await operations.receive(
            connection, body.warehouse, body.sku, body.quantity, request_id, principal.name
        )
    dispatcher.wake()
    return _view(level)


@router.post("/adjust", summary="Adjust the quantity on hand, with a reason")
async def adjust(body: Adjust, principal: Staff, key: Key = None) -> LevelView:
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        level = await operations.adjust(
            connection, body.warehouse, body.sku, body.quantity, body.reason, request_id, principal.name
        )
    dispatcher.wake()
    return _view(level)


@router.post("/quarantine", summary="Quarantine goods: damaged, or in quality control")
async def quarantine(body: Grade, principal: Storekeeper, key: Key = None) -> LevelView:
    return await _grade(MovementKind.QUARANTINED, body, principal, key)


@router.post("/restore", summary="Restore quarantined goods to sale")
async def restore(body: Grade, principal: Storekeeper, key: Key = None) -> LevelView:
    return await _grade(MovementKind.RESTORED, body, principal, key)


@router.post("/scrap", summary="Scrap quarantined goods")
async def scrap(body: Grade, principal: Staff, key: Key = None) -> LevelView:
    return await _grade(MovementKind.SCRAPPED, body, principal, key)


async def _grade(kind: MovementKind, body: Grade, principal: Principal, key: str | None) -> LevelView:
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        level = await operations.grade(
            connection, kind, body.warehouse, body.sku, body.quantity, body.reason, request_id, principal.name
        )
    dispatcher.wake()
    return _view(level)


@router.post("/safety", summary="Set the safety stock")
async def set_safety_stock(body: SafetyStock, principal: Staff) -> LevelView:
    async with transaction() as connection:
        level = await operations.set_safety_stock(connection, body.warehouse, body.sku, body.quantity)
    dispatcher.wake()
    return _view(level)


@router.post("/fence", summary="Move goods to a virtual warehouse from its parent, or back")
async def move_to_virtual(body: VirtualTransfer, principal: Staff, key: Key = None) -> LevelView:
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        level = await operations.move_to_virtual(
            connection, body.warehouse, body.sku, body.quantity, request_id, principal.name
        )
    dispatcher.wake()
    return _view(level)


@router.post("/feed", summary="Set a supplier's stock")
async def sync_supplier_stock(body: SupplierStock, principal: Storekeeper, key: Key = None) -> list[LevelView]:
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        levels = await operations.sync_supplier_stock(
            connection, body.warehouse, body.goods, request_id, principal.name
        )
    dispatcher.wake()
    return [_view(level) for level in levels]


@router.post("/expect", status_code=204, summary="Announce receipts of a source")
async def announce_receipts(body: ExpectedReceipts, principal: Storekeeper) -> None:
    async with transaction() as connection:
        await operations.announce_receipts(connection, body.source, body.warehouse, body.goods, body.due)


@router.get("/promises", summary="Quantities of a SKU to promise, by location and day")
async def list_promises(principal: Reader, sku: str) -> list[Promise]:
    async with transaction() as connection:
        return await operations.promises(connection, sku, datetime.now(CHINA).date())


@router.post("/counts", summary="Record a stocktake")
async def record_stocktake(body: Count, principal: Storekeeper, key: Key = None) -> Stocktake:
    async with transaction() as connection:
        return await stocktakes.save_count(
            connection, body.warehouse, body.counts, body.request_id or key, principal.name
        )


@router.get("/counts", summary="Stocktakes, newest first")
async def list_stocktakes(principal: Reader, status: StocktakeStatus | None = None) -> list[Stocktake]:
    async with transaction() as connection:
        return await stocktakes.list_all(connection, status)


@router.post("/counts/{stocktake_id}/approve", summary="Approve a stocktake: adjust stock by its differences")
async def approve_stocktake(stocktake_id: str, principal: Staff) -> Stocktake:
    async with transaction() as connection:
        stocktake = await stocktakes.approve(connection, stocktake_id, principal.name)
    dispatcher.wake()
    return stocktake


@router.post("/counts/{stocktake_id}/discard", summary="Discard a stocktake; its record is kept")
async def discard_stocktake(stocktake_id: str, principal: Staff) -> Stocktake:
    async with transaction() as connection:
        return await stocktakes.discard(connection, stocktake_id, principal.name)


@router.get("/thresholds", summary="Thresholds below which an exception opens")
async def list_thresholds(principal: Reader) -> list[Threshold]:
    async with transaction() as connection:
        return list(await thresholds.list_all(connection))


@router.post("/thresholds", summary="Set a threshold for low stock; zero removes it")
async def save_threshold(body: Threshold, principal: Staff) -> Threshold:
    async with transaction() as connection:
        await thresholds.save(connection, body)
    return body


@router.get("/ledger", summary="Stock movements, newest first")
async def list_movements(
    principal: Reader,
    sku: str | None = None,
    warehouse: str | None = None,
    order_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: int | None = None,
) -> LedgerPage:
    async with transaction() as connection:
        rows = await queries.ledger(
            connection, sku=sku, warehouse=warehouse, order_id=order_id, before=cursor, limit=limit
        )
    items = [Movement.model_validate(row._mapping) for row in rows]
    return LedgerPage(items=items, next=items[-1].id if len(items) == limit else None)


@router.get("/verify", summary="Verify that every level is the sum of its movements")
async def verify(principal: Reader) -> Verification:
    async with transaction() as connection:
        drifts = await ledger.verify(connection)
    return Verification(balanced=not drifts, drifts=drifts)
