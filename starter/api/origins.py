"""Order origins: the path and messages of an order, corrections, and counts by origin."""

from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import structlog
from fastapi import APIRouter, Header, Query, Request
from pydantic import AwareDatetime, BaseModel, Field, model_validator

from activities import cleansing
from activities.intake import origins
from activities.intake.origins import Dimension, Share
from activities.kit.database import transaction
from activities.records import queries
from models.i18n import InvalidValue, t
from models.intake import InboxState
from models.origins import Code, IntakePath, Origin, platform
from starter.api.authentication import Reader, Staff
from starter.api.orders import OrderName, entry_text, find_order
from starter.api.problems import Problem, lang

router = APIRouter(tags=["orders"])
log = structlog.get_logger()

Text = Annotated[str, Field(max_length=200)]


class MessageView(BaseModel):
    """A message about the order. ``/intake/{id}/raw`` shows its body."""

    id: int
    integration: str
    source: str
    path: IntakePath
    topic: str
    fact_key: str
    received_at: datetime
    state: InboxState
    state_text: str
    reason: str
    led_to: Annotated[list[str], Field(description="The entries of the order's timeline that it caused.")]


class CorrectionView(BaseModel):
    at: datetime
    actor: str
    reason: str
    before: dict[str, str]
    after: dict[str, str]


class Trace(BaseModel):
    order_id: str
    origin: Annotated[Origin, Field(description="In standard form; ``told``: the channel's own spelling.")]
    paths: Annotated[list[IntakePath], Field(description="The paths by which it was received, the first one first.")]
    messages: list[MessageView]
    corrections: list[CorrectionView]


class Correction(BaseModel):
    """Fields that are given replace those of the origin."""

    campaign: Annotated[Code | None, Field(max_length=200)] = None
    platform: Text | None = None
    region: Annotated[Text | None, Field(examples=["浙江省 杭州市"])] = None
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    request_id: Annotated[str | None, Field(max_length=100)] = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> "Correction":
        if not self.standard_fields:
            raise InvalidValue("invalid.correction.nothing")
        return self

    @property
    def standard_fields(self) -> dict[str, str]:
        """The given fields in standard form."""
        fields = {
            "campaign": self.campaign,
            "platform": None if self.platform is None else platform(self.platform),
            "region": None if self.region is None else cleansing.region(self.region),
        }
        return {name: text for name, text in fields.items() if text is not None}


@router.get("/orders/{order_id}/origin", summary="An order's origin and messages")
async def show_origin(order_id: OrderName, request: Request, principal: Reader) -> Trace:
    language = lang(request)
    order_id = await find_order(order_id)
    async with transaction() as connection:
        order = await queries.order(connection, order_id)
        if order is None:
            raise Problem(404, "problem.no_order", {"order": order_id})
        messages = await origins.list_messages(connection, order_id)
        timeline = await queries.timeline(connection, order_id)
        corrections = await origins.list_corrections(connection, order_id)

    def led_to(message: Any) -> list[str]:
        first = "received" if message.started_at else None
        suffix = f":{message.fact_key}"
        return [entry_text(each, language) for each in timeline if each.key == first or each.key.endswith(suffix)]

    views = [
        MessageView(
            **{name: each._mapping[name] for name in MessageView.model_fields if name in each._mapping}
            | {"reason": t(each.reason, language)},
            state_text=t(f"inbox.{each.state}", language),
            led_to=led_to(each),
        )
        for each in messages
    ]
    return Trace(
        order_id=order_id,
        origin=Origin.model_validate(order.origin),
        paths=list(dict.fromkeys(each.path for each in views if each.integration == "channel")),
        messages=views,
        corrections=[CorrectionView.model_validate(dict(each._mapping)) for each in corrections],
    )


@router.post("/orders/{order_id}/origin", summary="Correct an order's origin; the previous one is kept")
async def correct_origin(
    order_id: OrderName,
    body: Correction,
    request: Request,
    principal: Staff,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=100)] = None,
) -> Trace:
    """Affects tracing and counts only: plans and reservations made by the previous origin stay."""
    request_id = body.request_id or key or str(uuid4())
    order_id = await find_order(order_id)
    async with transaction() as connection:
        if not await origins.correct(
            connection, order_id, body.standard_fields, request_id, principal.name, body.reason
        ):
            raise Problem(404, "problem.no_order", {"order": order_id})
    log.info("origin.corrected", actor=principal.name, order=order_id)
    return await show_origin(order_id, request, principal)


@router.get("/origins", summary="Count orders and their amounts by origin")
async def count_by_origin(
    principal: Reader,
    by: Dimension = "platform",
    placed_from: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    placed_to: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> list[Share]:
    async with transaction() as connection:
        return await origins.count_by(connection, by, placed_from, placed_to)
