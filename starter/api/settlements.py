"""Settlements: claims on carriers and refunds to buyers that exceptions cause."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from activities.aftersales import settlements
from activities.kit.database import transaction
from models.settlements import SettlementKind, SettlementState, Settling
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem

router = APIRouter(prefix="/settlements", tags=["exceptions"])


class Settlement(BaseModel):
    fulfillment_id: str
    kind: SettlementKind
    order_id: str
    carrier: str | None
    waybill_no: str | None
    reason: str
    currency: str
    amount: Decimal
    paid: Decimal | None
    reference: str
    state: SettlementState
    note: str
    actor: str
    opened_at: datetime
    updated_at: datetime


Filter = Annotated[str | None, Query(max_length=200)]


@router.get("", summary="Claims on carriers and refunds to buyers, the longest open first")
async def list_settlements(
    principal: Reader,
    kind: SettlementKind | None = None,
    state: SettlementState | None = None,
    carrier: Filter = None,
    order_id: Filter = None,
    settled: bool = False,
    after_opened: AwareDatetime | None = None,
    after: Annotated[str | None, Query(description="``{fulfillment_id}|{kind}`` of the last one seen.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[Settlement]:
    last = None
    if after_opened is not None and after is not None:
        fulfillment_id, _, last_kind = after.rpartition("|")
        last = (after_opened, fulfillment_id, last_kind)
    equal: dict[str, Any] = {"kind": kind, "state": state, "carrier": carrier, "order_id": order_id}
    include_settled = settled or state is not None
    async with transaction() as connection:
        rows = await settlements.search(connection, settled=include_settled, after=last, limit=limit, **equal)
    return [Settlement(**row._mapping) for row in rows]


@router.patch("/{fulfillment_id}/{kind}", summary="Record the outcome of a settlement")
async def settle(fulfillment_id: str, kind: SettlementKind, body: Settling, principal: Staff) -> Settlement:
    async with transaction() as connection:
        row = await settlements.settle(connection, fulfillment_id, kind, body, principal.name)
    if row is None:
        raise Problem(404, "problem.no_settlement", {"fulfillment": fulfillment_id, "kind": kind.value})
    return Settlement(**row._mapping)
