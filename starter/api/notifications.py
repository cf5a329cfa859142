"""Notifications: templates, the log, and opt-outs."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, field_validator

from activities.kit.database import transaction
from activities.notifications import delivery
from activities.notifications import templates as notification_templates
from models.address import is_phone
from models.i18n import InvalidValue
from models.notifications import Medium, NotificationState, Template
from starter.api.authentication import Reader, Staff
from starter.api.problems import Problem

router = APIRouter(prefix="/notifications", tags=["notifications"])


class NotificationView(BaseModel):
    id: str
    event: str
    medium: Medium
    account: str
    order_id: str
    state: NotificationState
    outcome: str
    attempts: int
    created_at: datetime
    next_at: datetime
    done_at: datetime | None


class Address(BaseModel):
    """A phone number or an e-mail address; only its blind index is stored."""

    address: Annotated[str, Field(min_length=3, max_length=200)]

    @field_validator("address")
    @classmethod
    def _reaches_someone(cls, address: str) -> str:
        if "@" not in address and not is_phone(address):
            raise InvalidValue("invalid.phone_or_email")
        return address


@router.get("", summary="Notifications, newest first")
async def list_notifications(
    principal: Reader,
    order_id: str | None = None,
    state: NotificationState | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[NotificationView]:
    async with transaction() as connection:
        rows = await delivery.search(connection, order_id=order_id, state=state, limit=limit)
    return [NotificationView(**row._mapping) for row in rows]


@router.get("/templates", summary="Templates")
async def list_templates(principal: Reader) -> list[Template]:
    async with transaction() as connection:
        return await notification_templates.list_templates(connection)


@router.put("/templates", summary="Set the template for an event, medium, shop and language")
async def save_template(body: Template, principal: Staff) -> Template:
    async with transaction() as connection:
        await notification_templates.save_template(connection, body)
    return body


@router.delete("/templates", status_code=204, summary="Delete a template")
async def delete_template(
    event: str, medium: Medium, principal: Staff, shop: str = "", lang: Literal["zh-CN", "en"] = "zh-CN"
) -> None:
    async with transaction() as connection:
        if not await notification_templates.delete_template(connection, event, medium, shop, lang):
            raise Problem(404, "problem.no_template", {"event": event})


@router.post("/opt-outs", status_code=204, summary="Send nothing more to a phone or address")
async def opt_out(body: Address, principal: Staff) -> None:
    async with transaction() as connection:
        await notification_templates.opt_out(connection, body.address, principal.name)


@router.post("/opt-outs/remove", status_code=204, summary="Send to a phone or address again")
async def opt_in(body: Address, principal: Staff) -> None:
    async with transaction() as connection:
        await notification_templates.opt_in(connection, body.address)


class Resend(BaseModel):
    id: Annotated[str, Field(min_length=1, max_length=500)]


@router.post("/replay", status_code=202, summary="Resend a notification")
async def resend(body: Resend, principal: Staff) -> Resend:
    async with transaction() as connection:
        if not await delivery.resend(connection, body.id):
            raise Problem(404, "problem.no_notification", {"notification": body.id})
    return body
