"""Alerts: what needs a person."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import JsonValue
from sqlalchemy import case, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.order import Alert, AlertRow

_alerts = AlertRow.__table__  # type: ignore[attr-defined]


async def raise_alerts(connection: AsyncConnection, alerts: Sequence[Alert]) -> None:
    if alerts:
        rows = [{**alert.model_dump(), "raised_at": datetime.now(UTC)} for alert in alerts]
        await connection.execute(insert(_alerts).on_conflict_do_nothing(), rows)


async def keep_alerts(
    connection: AsyncConnection, kind: str, wanted: Mapping[str, Mapping[str, JsonValue]], among: str = ""
) -> tuple[int, int]:
    """Alerts of a kind that stand for as long as their cause does: ``wanted`` by key, each with its detail; every
    other whose key begins with ``among`` is closed. Answers how many were raised, also anew, and how many closed."""
    now = datetime.now(UTC)
    other = _alerts.c.key.startswith(among, autoescape=True) & _alerts.c.key.not_in(wanted)
    closed = await connection.execute(
        update(_alerts).where(_alerts.c.kind == kind, _alerts.c.closed_at.is_(None), other).values(closed_at=now)
    )
    raised: list[datetime] = []
    if wanted:
        entered = insert(_alerts).values(
            [{"key": key, "kind": kind, "order_id": "", "detail": wanted[key], "raised_at": now} for key in wanted]
        )
        raised_at = case((_alerts.c.closed_at.is_(None), _alerts.c.raised_at), else_=now)
        again = {"detail": entered.excluded.detail, "raised_at": raised_at, "closed_at": None}
        renewed = entered.on_conflict_do_update(index_elements=["key"], set_=again)
        raised = list(await connection.scalars(renewed.returning(_alerts.c.raised_at)))
    return raised.count(now), closed.rowcount


async def close_alerts(connection: AsyncConnection, order_ids: Sequence[str]) -> None:
    """An order that is over needs nobody any more."""
    await connection.execute(
        update(_alerts)
        .where(_alerts.c.order_id.in_(order_ids), _alerts.c.closed_at.is_(None))
        .values(closed_at=datetime.now(UTC))
    )
