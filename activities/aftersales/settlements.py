"""Claims on carriers and refunds to buyers: opened once for each parcel, and followed until settled."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Numeric, Row, Table, cast, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.order import TimelineRow
from models.settlements import SettlementKind, SettlementRow, SettlementState, Settling

_settlements: Table = SettlementRow.__table__  # type: ignore[attr-defined]
_timeline: Table = TimelineRow.__table__  # type: ignore[attr-defined]

UNSETTLED = (SettlementState.OPEN, SettlementState.ASKED)


async def open_once(
    connection: AsyncConnection, kind: SettlementKind, parcel: Row[Any], amount: Decimal, reason: str, actor: str
) -> Decimal:
    """Opens a settlement of ``amount`` for a parcel, a row as ``get_fulfillment_order`` returns it; returns the amount
    due. A buyer who has not paid is owed nothing."""
    if kind is SettlementKind.REFUND and parcel.paid_at is None:
        return Decimal(0)
    now = datetime.now(UTC)
    due = SettlementRow(
        fulfillment_id=parcel.id,
        kind=kind,
        order_id=parcel.order_id,
        carrier=parcel.carrier,
        waybill_no=parcel.waybill_no,
        reason=reason,
        currency=parcel.currency,
        amount=amount,
        actor=actor,
        opened_at=now,
        updated_at=now,
    )
    await connection.execute(insert(_settlements).values(due.model_dump()).on_conflict_do_nothing())
    return amount


async def settle(
    connection: AsyncConnection, fulfillment_id: str, kind: SettlementKind, said: Settling, actor: str
) -> Row[Any] | None:
    """Update a settlement and return it; ``None`` where it does not exist."""
    changes = said.model_dump(exclude_none=True) | {"actor": actor, "updated_at": datetime.now(UTC)}
    matching = tuple_(_settlements.c.fulfillment_id, _settlements.c.kind) == (fulfillment_id, kind)
    changed = update(_settlements).where(matching).values(changes).returning(*_settlements.c)
    return (await connection.execute(changed)).one_or_none()


async def search(
    connection: AsyncConnection,
    *,
    settled: bool = False,
    after: tuple[datetime, str, str] | None = None,
    limit: int = 100,
    **equal: str | None,
) -> Sequence[Row[Any]]:
    """Return settlements, the longest open first."""
    sort_key = (_settlements.c.opened_at, _settlements.c.fulfillment_id, _settlements.c.kind)
    query = select(_settlements).order_by(*sort_key).limit(limit)
    if not settled:
        query = query.where(_settlements.c.state.in_(UNSETTLED))
    for name, value in equal.items():
        if value is not None:
            query = query.where(_settlements.c[name] == value)
    if after is not None:
        query = query.where(tuple_(*sort_key) > after)
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


async def close_granted(connection: AsyncConnection) -> None:
    """Mark refunds as paid that the channel has granted since they were opened."""
    granted = (
        select(func.sum(cast(_timeline.c.detail["amount"].astext, Numeric)))
        .where(
            _timeline.c.order_id == _settlements.c.order_id,
            _timeline.c.what == "timeline.refund.granted",
            _timeline.c.at > _settlements.c.opened_at,
        )
        .scalar_subquery()
    )
    due = _settlements.c.state.in_(UNSETTLED) & (_settlements.c.kind == SettlementKind.REFUND) & granted.is_not(None)
    done = {"state": SettlementState.PAID, "paid": granted, "actor": "hengdan", "updated_at": datetime.now(UTC)}
    await connection.execute(update(_settlements).where(due).values(done))
