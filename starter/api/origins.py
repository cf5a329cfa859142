"""Where orders came from: by which path, when, as told and as written since; and how many from where."""

from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import structlog
from fastapi import APIRouter, Header, Query, Request
from pydantic import AwareDatetime, BaseModel, Field, model_validator

from activities.intake import origins
from activities.intake.origins import Dimension, Share
from activities.kit.database import transaction
from activities.records import queries
from models.i18n import InvalidValue, t
from models.intake import InboxState
from models.origins import Code, IntakePath, Origin, platform, region
from starter.api.authentication import Reader, Staff
from starter.api.orders import in_words
from starter.api.problems import Problem, lang

router = APIRouter(tags=["orders"])
log = structlog.get_logger()

Text = Annotated[str, Field(max_length=200)]


class Told(BaseModel):
    """A message about the order. The whole of it is shown by ``/intake/{id}/raw``."""

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
    led_to: Annotated[list[str], Field(description="What the order's timeline has of it.")]


class Corrected(BaseModel):
    at: datetime
    actor: str
    reason: str
    before: dict[str, str]
    after: dict[str, str]


class Trace(BaseModel):
    order_id: str
    origin: Annotated[Origin, Field(description="As written; ``told`` has what the channel said otherwise.")]
    paths: Annotated[list[IntakePath], Field(description="By which it came, the first first.")]
    messages: list[Told]
    corrections: list[Corrected]


class Correction(BaseModel):
    """What is named is written anew."""

    campaign: Annotated[Code | None, Field(max_length=200)] = None
    platform: Text | None = None
    region: Annotated[Text | None, Field(examples=["浙江省 杭州市"])] = None
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    request_id: Annotated[str | None, Field(max_length=100)] = None

    @model_validator(mode="after")
    def _says_something(self) -> "Correction":
        if not self.written:
            raise InvalidValue("invalid.correction.nothing")
        return self

    @property
    def written(self) -> dict[str, str]:
        """As all origins are written."""
        told = {
            "campaign": self.campaign,
            "platform": None if self.platform is None else platform(self.platform),
            "region": None if self.region is None else region(self.region),
        }
        return {name: text for name, text in told.items() if text is not None}


@router.get("/orders/{order_id}/origin", summary="Where an order came from, message by message")
async def trace(order_id: str, request: Request, principal: Reader) -> Trace:
    language = lang(request)
    async with transaction() as connection:
        order = await queries.order(connection, order_id)
        if order is None:
            raise Problem(404, "problem.no_order", {"order": order_id})
        messages = await origins.list_messages(connection, order_id)
        timeline = await queries.timeline(connection, order_id)
        corrections = await origins.list_corrections(connection, order_id)

    def led_to(message: Any) -> list[str]:
        began = "received" if message.started_at else None
        about = f":{message.fact_key}"
        return [in_words(each, language) for each in timeline if each.key == began or each.key.endswith(about)]

    told = [
        Told(
            **{name: each._mapping[name] for name in Told.model_fields if name in each._mapping},
            state_text=t(f"inbox.{each.state}", language),
            led_to=led_to(each),
        )
        for each in messages
    ]
    return Trace(
        order_id=order_id,
        origin=Origin.model_validate(order.origin),
        paths=list(dict.fromkeys(each.path for each in told if each.integration == "channel")),
        messages=told,
        corrections=[Corrected.model_validate(dict(each._mapping)) for each in corrections],
    )


@router.post("/orders/{order_id}/origin", summary="Correct an order's origin; what it was is kept")
async def correct(
    order_id: str,
    body: Correction,
    request: Request,
    principal: Staff,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=100)] = None,
) -> Trace:
    """For tracing and counting: what was planned or reserved by it stays as it is."""
    request_id = body.request_id or key or str(uuid4())
    async with transaction() as connection:
        if not await origins.correct(connection, order_id, body.written, request_id, principal.name, body.reason):
            raise Problem(404, "problem.no_order", {"order": order_id})
    log.info("origin.corrected", actor=principal.name, order=order_id)
    return await trace(order_id, request, principal)


@router.get("/origins", summary="How many orders came from where, and for how much")
async def shares(
    principal: Reader,
    by: Dimension = "platform",
    placed_from: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    placed_to: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> list[Share]:
    async with transaction() as connection:
        return await origins.count_by(connection, by, placed_from, placed_to)
