"""The orders' door: lists for people, and what they ask of an order, answered yes or no at once."""

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, ValidationError, create_model
from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities.kit.database import Row, transaction
from activities.kit.errors import InvalidInput
from activities.records import queries
from models import requests
from models.address import Recipient
from models.hold import HoldKind
from models.i18n import t
from models.order import CENT, OrderStatus
from models.requests import Answer
from models.state import SUPPORTED, Action
from models.vault import keyring
from starter import dispatcher
from starter.api import carrier_selection
from starter.api.authentication import Reader, Staff
from starter.api.problems import SOON, Problem, lang
from workers.client import ask_workflow

router = APIRouter(prefix="/orders", tags=["orders"])

PATIENCE_SECONDS = 30
"""How long an order may take to answer: its warehouses may have to be asked first."""


class OrderSummary(BaseModel):
    """An order as a list shows it; whoever receives it is masked."""

    id: str
    channel: str
    shop: str
    channel_order_no: str
    status: OrderStatus
    status_text: str
    priority: int
    tags: list[str]
    holds: list[dict[str, JsonValue]]
    currency: str
    total: str
    recipient: Recipient | None
    placed_at: datetime
    paid_at: datetime | None
    promised_by: datetime | None
    next_step: str
    deadline: datetime | None
    updated_at: datetime


class OrderPage(BaseModel):
    items: list[OrderSummary]
    next: str | None
    """Hand it back as ``cursor`` for the next page."""


class Parcel(BaseModel):
    id: str
    warehouse: str
    status: str
    status_text: str
    request_status: str
    lines: list[dict[str, JsonValue]]
    carrier: str | None
    waybill_no: str | None
    tracking: str | None
    weight_kg: str | None
    shipped_at: datetime | None
    channel_notified: bool
    eta: datetime | None
    choice: list[dict[str, JsonValue]]
    """The carriers looked at, the best first, and what was made of each."""
    choice_rules: list[dict[str, JsonValue]]
    """The merchant's rules that had a say, with the facts they looked at."""
    scans: list[dict[str, JsonValue]]


class Event(BaseModel):
    at: datetime
    what: str
    text: str
    actor: str
    detail: dict[str, JsonValue]


class OrderView(OrderSummary):
    lines: list[dict[str, JsonValue]]
    origin: dict[str, JsonValue]
    custom: dict[str, JsonValue]
    plan: dict[str, JsonValue] | None
    fulfillments: list[Parcel]
    timeline: list[Event]
    alerts: list[dict[str, JsonValue]]
    supported_actions: list[Action]


def _summary(row: Row[Any], language: str) -> dict[str, Any]:
    fields = {name: row._mapping[name] for name in OrderSummary.model_fields if name in row._mapping}
    return fields | {
        "status_text": t(f"status.{row.status}", language),
        "total": f"{row.total:.2f}" if row.total == row.total.quantize(CENT) else f"{row.total:f}",
        "recipient": row.recipient and row.recipient.masked(),
        "next_step": t(row.next_step, language),
        "holds": [
            hold | {"kind_text": _kind(hold, language), "reason": t(hold["reason"], language, **hold.get("params", {}))}
            for hold in row.holds
        ],
    }


def _kind(hold: Mapping[str, Any], language: str) -> str:
    """What holds an order, and whose approval it waits for."""
    kind, stage = t(f"hold.{hold['kind']}", language), hold.get("stage")
    return f"{kind}: {t(f'stage.{stage}', language)}" if stage else kind


@router.get("", summary="Orders, newest first")
async def list_orders(
    request: Request,
    principal: Reader,
    status: OrderStatus | None = None,
    channel: str | None = None,
    shop: str | None = None,
    hold: HoldKind | None = None,
    phone: Annotated[str | None, Query(description="The recipient's, found by its blind index.")] = None,
    order_no: Annotated[str | None, Query(description="The channel's own number.")] = None,
    tag: Annotated[str | None, Query(description="What rules of review call it.")] = None,
    placed_from: AwareDatetime | None = None,
    placed_to: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> OrderPage:
    index = keyring().blind_index(Recipient(phone=phone).digits) if phone else None
    async with transaction() as connection:
        rows = await queries.orders(
            connection,
            status=status,
            channel=channel,
            shop=shop,
            hold=hold,
            phone_index=index,
            order_no=order_no,
            tag=tag,
            placed_from=placed_from,
            placed_to=placed_to,
            after=_after(cursor),
            limit=limit,
        )
    more = _cursor(rows[-1]) if len(rows) == limit else None
    return OrderPage(items=[OrderSummary(**_summary(row, lang(request))) for row in rows], next=more)


def _cursor(row: Row[Any]) -> str:
    return base64.urlsafe_b64encode(f"{row.placed_at.isoformat()} {row.id}".encode()).decode()


def _after(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    try:
        at, _, order_id = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        return datetime.fromisoformat(at), order_id
    except ValueError:
        raise InvalidInput("cursor", "invalid.cursor") from None


@router.get("/counts", summary="How many orders are in each status")
async def count_orders(principal: Reader) -> dict[str, int]:
    async with transaction() as connection:
        return await queries.counts(connection)


@router.get("/{order_id}", summary="One order, its parcels and its timeline")
async def show_order(order_id: str, request: Request, principal: Reader) -> OrderView:
    language = lang(request)
    async with transaction() as connection:
        row = await queries.order(connection, order_id)
        if row is None:
            raise Problem(404, "problem.no_order", {"order": order_id})
        parcels = await queries.fulfillments(connection, order_id)
        seen = await queries.scans(connection, [each.waybill_no for each in parcels if each.waybill_no])
        timeline = await queries.timeline(connection, order_id)
        alerts = await queries.alerts(connection, order_id, closed=True)
    return OrderView(
        **_summary(row, language),
        lines=row.lines,
        origin=row.origin,
        custom=row.custom,
        plan=row.plan,
        fulfillments=[
            Parcel(
                **{
                    name: each._mapping[name]
                    for name in Parcel.model_fields
                    if name in each._mapping and name not in ("weight_kg", "choice")
                },
                choice=carrier_selection.in_words(each.choice, language),
                choice_rules=(each.choice or {}).get("ruled", []),
                status_text=t(f"fulfillment.{each.status}", language),
                weight_kg=str(each.weight_kg) if each.weight_kg else None,
                scans=[
                    {
                        "at": scan.at.isoformat(),
                        "status": scan.status,
                        "status_text": t(f"tracking.{scan.status}", language) if scan.status else scan.code,
                        "place": scan.place,
                        "text": scan.text,
                    }
                    for scan in seen
                    if scan.waybill_no == each.waybill_no
                ],
            )
            for each in parcels
        ],
        timeline=[
            Event(at=each.at, what=each.what, text=in_words(each, language), actor=each.actor, detail=each.detail)
            for each in timeline
        ],
        alerts=[
            {
                "kind": each.kind,
                "text": t(each.kind, language, **each.detail),
                "raised_at": each.raised_at.isoformat(),
                "closed_at": each.closed_at and each.closed_at.isoformat(),
            }
            for each in alerts
        ],
        supported_actions=sorted(SUPPORTED[OrderStatus(row.status)]),
    )


def in_words(entry: Row[Any], language: str) -> str:
    """An entry in words; where no reason was given, it ends before it."""
    words = {"reason": "", **entry.detail}
    for name, value in words.items():
        if isinstance(value, dict):
            words[name] = ", ".join(f"{fact} = {json.dumps(each, ensure_ascii=False)}" for fact, each in value.items())
        elif isinstance(value, list):
            words[name] = ", ".join(map(str, value))
    if "kind" in words:
        words["kind"] = t(f"hold.{words['kind']}", language)
    if "path" in words:
        words["path"] = t(f"path.{words['path']}", language)
    return t(entry.what, language, **words).rstrip(" :：,，")


def _body(model: type[requests.Request], example: dict[str, Any]) -> type[BaseModel]:
    """A request as the API takes it: the actor is whoever asks, the id may come in ``Idempotency-Key``."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in model.model_fields.items()
        if name not in {"actor", "request_id"}
    }
    documented = ConfigDict(json_schema_extra={"examples": [example]})
    return create_model(f"{model.__name__}Body", __config__=documented, request_id=(str | None, None), **fields)


_ACTS: Mapping[Action, tuple[type[requests.Request], dict[str, Any]]] = {
    Action.CANCEL: (requests.Cancel, {"reason": "ordered twice"}),
    Action.MODIFY: (requests.Modify, {"lines": [{"line_no": "1", "quantity": 2}], "reason": "asked by phone"}),
    Action.HOLD: (requests.HoldRequest, {"reason": "the address looks wrong"}),
    Action.RELEASE: (requests.Release, {"kind": "staff"}),
    Action.APPROVE: (requests.Approve, {"stage": "finance"}),
    Action.REJECT: (requests.Reject, {"reason": "fraud"}),
    Action.EXPEDITE: (requests.Expedite, {}),
    Action.REPLAN: (requests.Replan, {"warehouse": "SH", "reason": "the warehouse is flooded"}),
    Action.NOTE: (requests.Note, {"text": "the buyer will call back"}),
}


def _door(action: Action, model: type[requests.Request], example: dict[str, Any]) -> None:
    body_model = _body(model, example)

    async def act(
        order_id: str,
        request: Request,
        principal: Staff,
        body: body_model | None = None,  # type: ignore[valid-type]
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> Answer:
        asked: dict[str, Any] = body.model_dump(exclude_none=True) if body is not None else {}
        request_id = asked.pop("request_id", None) or idempotency_key or str(uuid4())
        try:
            command = model.model_validate(asked | {"request_id": request_id, "actor": principal.name})
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        return await ask(request.app.state.temporal, order_id, action, command)

    router.post(f"/{{order_id}}/{action}", summary=action.capitalize(), name=f"{action}_order")(act)


for _action, _given in _ACTS.items():
    _door(_action, *_given)


async def ask(client: Client, order_id: str, action: Action, command: requests.Request) -> Answer:
    """Asks the order's workflow. Raises a 409 with the reason where it says no, 404 where there is no such order,
    503 where the engine does not answer in time: asked again under the same id it counts once."""
    handle = client.get_workflow_handle(order_id)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await ask_workflow(handle, action.value, command)
    except WorkflowUpdateFailedError as error:
        if not isinstance(error.cause, ApplicationError) or not error.cause.details:
            raise Problem(409, "problem.conflict") from None
        answer = Answer.model_validate(error.cause.details[0])
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise Problem(503, "problem.engine_slow", headers=SOON, request_id=command.request_id) from None
    except (RPCError, RuntimeError) as error:
        if not dispatcher.ended(error):
            raise Problem(503, "problem.engine_down", headers=SOON, request_id=command.request_id) from None
        answer = requests.no(f"refused.{action}", status=await _status(order_id))
    if not answer.accepted:
        status = OrderStatus(str(answer.params.get("status") or await _status(order_id)))
        actions = sorted(SUPPORTED[status])
        raise Problem(409, answer.reason, answer.params, reason=answer.reason, supported_actions=actions)
    return answer


async def _status(order_id: str) -> str:
    async with transaction() as connection:
        row = await queries.order(connection, order_id)
    if row is None:
        raise Problem(404, "problem.no_order", {"order": order_id})
    return str(row.status)
