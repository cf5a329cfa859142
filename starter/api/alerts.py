"""What needs a person."""

from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel, JsonValue

from activities.kit.database import transaction
from activities.records import queries
from models.i18n import t
from starter.api.authentication import Reader
from starter.api.problems import lang

router = APIRouter(prefix="/alerts", tags=["alerts"])


class AlertView(BaseModel):
    key: str
    kind: str
    text: str
    order_id: str
    detail: dict[str, JsonValue]
    raised_at: datetime
    closed_at: datetime | None


@router.get("", summary="Open alerts, oldest first")
async def alerts(
    request: Request, visitor: Reader, closed: bool = False, order_id: str | None = None
) -> list[AlertView]:
    async with transaction() as connection:
        rows = await queries.alerts(connection, order_id, closed=closed)
    return [AlertView(**row._mapping, text=t(row.kind, lang(request), **row.detail)) for row in rows]
