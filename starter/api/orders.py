"""Orders: lists, details, and commands that the order's workflow answers at once."""

import asyncio
import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pkgutil import iter_modules
from typing import Annotated, Any
from uuid import uuid4

import structlog
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model
from temporalio.client import Client

from activities import channels
from activities.cleansing.people import spellings
from activities.intake import inbox
from activities.kit.database import Row, transaction
from activities.kit.errors import InvalidInput
from activities.orders.review.facts import buyer_index
from activities.records import exceptions, queries
from activities.records.timeline import add_entries
from models import requests
from models.address import ADDRESS, Phone, Recipient, RecipientCorrection
from models.api_keys import Scope
from models.changes import CONTACT
from models.hold import Hold, HoldKind
from models.i18n import t
from models.money import amount_text
from models.order import ChannelOrder, Entry, OrderStatus
from models.state import SUPPORTED, Action
from models.vault import BrokenSeal, keyring, readable
from starter.api import carrier_selection
from starter.api.authentication import Reader, Staff, limit_use
from starter.api.commands import send_command
from starter.api.exceptions import ExceptionView
from starter.api.exceptions import view as exception_view
from starter.api.problems import Problem, lang

router = APIRouter(prefix="/orders", tags=["orders"])
log = structlog.get_logger()

CHANNELS = sorted(each.name for each in iter_modules(channels.__path__))
TIMEOUT_SECONDS = 30
"""For a command: the order may have to ask its warehouses before it answers."""


class OrderSummary(BaseModel):
    """An order as a list shows it; the recipient is masked."""

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


class SpokenAnswer(BaseModel):
    """A yes: ``text`` says it, and what still holds the order, in the language of the request."""

    accepted: bool
    reason: str
    params: dict[str, JsonValue]
    holds: list[Hold]
    overruled: list[Hold]
    order_id: str
    text: str


class OrderPage(BaseModel):
    items: list[OrderSummary]
    next: str | None
    """The ``cursor`` of the next page."""


class FulfillmentView(BaseModel):
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
    """The carriers considered, the best first, with the reason for or against each."""
    choice_rules: list[dict[str, JsonValue]]
    """The merchant's rules that applied, with the facts they read."""
    scans: list[dict[str, JsonValue]]


class Event(BaseModel):
    at: datetime
    what: str
    text: str
    actor: str
    detail: dict[str, JsonValue]


class OrderView(OrderSummary):
    freight: str | None
    discount: str | None
    tax: str | None
    buyer_message: str
    """Without numbers that may be a phone."""
    seller_memo: str
    lines: list[dict[str, JsonValue]]
    origin: dict[str, JsonValue]
    custom: dict[str, JsonValue]
    plan: dict[str, JsonValue] | None
    fulfillments: list[FulfillmentView]
    timeline: list[Event]
    exceptions: list[ExceptionView]
    supported_actions: list[Action]


def _summary(row: Row[Any], language: str) -> dict[str, Any]:
    fields = {name: row._mapping[name] for name in OrderSummary.model_fields if name in row._mapping}
    return fields | {
        "status_text": t(f"status.{row.status}", language),
        "total": amount_text(row.total, row.currency),
        "recipient": (recipient := readable(row.recipient)) and recipient.masked(),
        "next_step": t(row.next_step, language),
        "holds": [_hold(each, row.id, language) for each in row.holds],
    }


_PHONE = re.compile(r"\+?\d(?:[ -]?\d){6,}")
"""What may be a phone in a remark."""


def _sold(document: ChannelOrder | BrokenSeal | None) -> dict[str, Any]:
    """Return what only the channel's own version of the order says, without contact data."""
    if document is None or isinstance(document, BrokenSeal):
        return {"freight": None, "discount": None, "tax": None, "buyer_message": "", "seller_memo": ""}
    amounts = {name: amount_text(getattr(document, name), document.currency) for name in ("freight", "discount", "tax")}
    remarks = {name: _PHONE.sub("****", getattr(document, name)) for name in ("buyer_message", "seller_memo")}
    return amounts | remarks


def _hold(row: Mapping[str, Any], order_id: str, language: str) -> dict[str, Any]:
    """Return a hold with its texts, and what to do about it."""
    hold = Hold.model_validate(row)
    texts = {"kind_text": hold.kind_text(language), "reason": hold.reason_text(language)}
    return {**row, **texts, "remedy": hold.remedy(order_id, language)}


@router.get("", summary="Orders, newest first")
async def list_orders(
    request: Request,
    principal: Reader,
    status: OrderStatus | None = None,
    channel: str | None = None,
    shop: str | None = None,
    hold: HoldKind | None = None,
    phone: Annotated[
        Phone | None, Query(description="The recipient's phone, in any spelling; needs scope `search`.")
    ] = None,
    buyer: Annotated[
        str | None, Query(description="The buyer's account as the channel names it; needs scope `search`.")
    ] = None,
    order_no: Annotated[str | None, Query(description="The channel's order number.")] = None,
    waybill: Annotated[str | None, Query(description="The waybill number of one of its parcels.")] = None,
    sku: Annotated[str | None, Query(description="A SKU that it contains.")] = None,
    warehouse: Annotated[str | None, Query(description="A warehouse that ships some of it.")] = None,
    carrier: Annotated[str | None, Query(description="A carrier that takes some of it.")] = None,
    tag: Annotated[str | None, Query(description="A tag that review rules have set.")] = None,
    placed_from: AwareDatetime | None = None,
    placed_to: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> OrderPage:
    indexes = buyers = None
    if phone or buyer:
        limit_use(principal)
    if buyer:
        buyers = [buyer_index(each, buyer) for each in ([channel] if channel else CHANNELS)]
        log.info("orders.searched", actor=principal.name, by="buyer")
    if phone:
        indexes = [keyring().blind_index(digits) for digits in await asyncio.to_thread(spellings, phone)]
        log.info("orders.searched", actor=principal.name, by="phone")
    async with transaction() as connection:
        rows = await queries.orders(
            connection,
            status=status,
            channel=channel,
            shop=shop,
            hold=hold,
            phone_indexes=indexes,
            buyer_indexes=buyers,
            order_no=order_no,
            waybill=waybill,
            sku=sku,
            warehouse=warehouse,
            carrier=carrier,
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


@router.get("/counts", summary="Count orders by status")
async def count_orders(principal: Reader) -> dict[str, int]:
    async with transaction() as connection:
        return await queries.counts(connection)


OrderName = Annotated[str, Path(description="Its id; or its channel number or a waybill number that only it has.")]


async def find_order(order_id: str) -> str:
    """Return the id of an order named by id, or by a channel number or waybill number that no other order has.

    Raises a 404 where none has it, a 409 where several do.
    """
    if order_id.startswith("order:"):
        return order_id
    async with transaction() as connection:
        found = await queries.order_ids(connection, order_id, 10)
    if not found:
        raise Problem(404, "problem.no_order", {"order": order_id})
    if len(found) > 1:
        raise Problem(409, "problem.many_orders", {"order": order_id, "orders": ", ".join(found)})
    return found[0]


@router.get("/{order_id}", summary="One order with its fulfillment orders and timeline")
async def show_order(order_id: OrderName, request: Request, principal: Reader) -> OrderView:
    language = lang(request)
    order_id = await find_order(order_id)
    async with transaction() as connection:
        row = await queries.order(connection, order_id)
        if row is None:
            raise Problem(404, "problem.no_order", {"order": order_id})
        fulfillments = await queries.fulfillments(connection, order_id)
        scans = await queries.scans(connection, [each.id for each in fulfillments])
        timeline = await queries.timeline(connection, order_id)
        troubles = await exceptions.search(connection, order_id=order_id, closed=True, limit=1000)
        policies = await exceptions.list_policies(connection)
        sold, _ = (await inbox.load_documents(connection, [order_id])).get(order_id, (None, False))
    return OrderView(
        **_summary(row, language),
        **_sold(sold),
        lines=row.lines,
        origin=row.origin,
        custom=row.custom,
        plan=row.plan,
        fulfillments=[
            FulfillmentView(
                **{
                    name: each._mapping[name]
                    for name in FulfillmentView.model_fields
                    if name in each._mapping and name not in ("weight_kg", "choice")
                },
                choice=carrier_selection.describe_choice(each.choice, language),
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
                    for scan in scans
                    if scan.fulfillment_id == each.id
                ],
            )
            for each in fulfillments
        ],
        timeline=[
            Event(at=each.at, what=each.what, text=entry_text(each, language), actor=each.actor, detail=each.detail)
            for each in timeline
        ],
        exceptions=[exception_view(each, policies, language) for each in troubles],
        supported_actions=sorted(SUPPORTED[OrderStatus(row.status)]),
    )


_KINDS = {"timeline.printed": "kind", "timeline.remedy": "exception_kind", "timeline.tell_buyer": "exception_kind"}
"""What ``kind`` means in an entry, where it is not the kind of a hold."""


def entry_text(entry: Row[Any], language: str) -> str:
    """Return a timeline entry as text, without a trailing colon where its last parameter is empty.

    What a request in clear did, sent straight to Temporal, is marked as such.
    """
    params = {"reason": "", **entry.detail}
    for name, value in params.items():
        if isinstance(value, dict):
            params[name] = ", ".join(f"{fact} = {json.dumps(each, ensure_ascii=False)}" for fact, each in value.items())
        elif isinstance(value, list):
            params[name] = ", ".join(map(str, value))
    params["changes"] = "; ".join(_change(each, language) for each in entry.detail.get("changes", ()))
    if "kind" in params and (family := _KINDS.get(entry.what, "hold")):
        params["kind"] = t(f"{family}.{params['kind']}", language)
    if "path" in params:
        params["path"] = t(f"path.{params['path']}", language)
    said = t(entry.what, language, **params).rstrip(" :：,，")
    return t("timeline.unsealed", language, entry=said) if entry.actor.startswith(requests.UNSEALED) else said


def _change(change: Mapping[str, Any], language: str) -> str:
    """Return what a modification changed of one field, from what to what."""
    before, after = (_value(change[name], language) for name in ("before", "after"))
    field = t(f"change.{change['field']}", language, line=change.get("line", ""))
    return f"{field} {before} → {after}"


def _value(value: JsonValue, language: str) -> str:
    match value:
        case None | "":
            return "–"
        case bool():
            return t("cli.yes" if value else "cli.no", language)
    return str(value)


class Reveal(BaseModel):
    reason: Annotated[str, Field(min_length=1, max_length=200, description="Why; the timeline keeps it.")]


class ContactView(BaseModel):
    """The recipient in clear, and what modifications made of it, oldest first."""

    order_id: str
    recipient: Recipient
    changes: list[dict[str, JsonValue]]


@router.post("/{order_id}/reveal", summary="Read the recipient in clear; needs scope `reveal`, and is on record")
async def reveal_contact(order_id: OrderName, body: Reveal, principal: Reader) -> ContactView:
    """The timeline says who read it and why, before it is read."""
    limit_use(principal, Scope.REVEAL)
    order_id = await find_order(order_id)
    log.info("contact.revealed", actor=principal.name, order=order_id)
    at = datetime.now(UTC)
    entry = Entry(
        key=f"revealed:{uuid4()}", at=at, what="timeline.revealed", actor=principal.name, detail=body.model_dump()
    )
    async with transaction() as connection:
        row = await queries.order(connection, order_id)
        if row is None or row.recipient is None:
            raise Problem(404, "problem.no_order", {"order": order_id})
        await add_entries(connection, order_id, [entry])
        changed = await queries.contact_changes(connection, order_id)
    fields = {*CONTACT, *ADDRESS, "country", "postcode"}
    return ContactView(
        order_id=order_id,
        recipient=row.recipient.model_copy(),
        changes=[
            {
                "at": each.at.isoformat(),
                "actor": each.actor,
                "before": each.contact.before.model_dump(include=fields),
                "after": each.contact.after.model_dump(include=fields),
            }
            for each in changed
        ],
    )


def _body(model: type[requests.Request], example: dict[str, Any]) -> type[BaseModel]:
    """Return the body of a command: without the actor, and with an id that ``Idempotency-Key`` may give instead."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in model.model_fields.items()
        if name not in {"actor", "request_id"}
    }
    if "recipient" in fields:
        fields["recipient"] = (RecipientCorrection | None, None)
    documented = ConfigDict(json_schema_extra={"examples": [example]})
    return create_model(f"{model.__name__}Body", __config__=documented, request_id=(str | None, None), **fields)


_COMMANDS: Mapping[Action, tuple[type[requests.Request], dict[str, Any]]] = {
    Action.CANCEL: (requests.Cancel, {"reason": "ordered twice"}),
    Action.MODIFY: (requests.Modify, {"lines": [{"line_no": "1", "quantity": 2}], "reason": "requested by phone"}),
    Action.HOLD: (requests.HoldRequest, {"reason": "the address looks wrong"}),
    Action.RELEASE: (requests.Release, {"kind": "staff"}),
    Action.APPROVE: (requests.Approve, {"stage": "finance"}),
    Action.REJECT: (requests.Reject, {"reason": "fraud"}),
    Action.EXPEDITE: (requests.Expedite, {}),
    Action.REPLAN: (requests.Replan, {"warehouse": "SH", "reason": "the warehouse is flooded"}),
    Action.NOTE: (requests.Note, {"text": "the buyer will call back"}),
}


def _add_route(action: Action, model: type[requests.Request], example: dict[str, Any]) -> None:
    body_model = _body(model, example)

    async def send(
        order_id: OrderName,
        request: Request,
        principal: Staff,
        body: body_model | None = None,  # type: ignore[valid-type]
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> SpokenAnswer:
        fields: dict[str, Any] = body.model_dump(exclude_none=True) if body is not None else {}
        request_id = fields.pop("request_id", None) or idempotency_key or str(uuid4())
        try:
            command = model.model_validate(fields | {"request_id": request_id, "actor": principal.name})
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        return await _send(request.app.state.temporal, await find_order(order_id), action, command, lang(request))

    router.post(f"/{{order_id}}/{action}", summary=action.capitalize(), name=f"{action}_order")(send)


for _action, _parameters in _COMMANDS.items():
    _add_route(_action, *_parameters)


async def _send(
    client: Client, order_id: str, action: Action, command: requests.Request, language: str
) -> SpokenAnswer:
    """Send a command to the order's workflow.

    Raises a 409 with the reason where the order refuses, 404 where there is no such order, 503 where the engine does
    not answer in time.
    """
    answer = await send_command(client, order_id, action.value, command, TIMEOUT_SECONDS)
    if answer is None:
        answer = requests.no(f"refused.{action}", status=await _status(order_id))
    if not answer.accepted:
        status = OrderStatus(str(answer.params.get("status") or await _status(order_id)))
        actions = sorted(SUPPORTED[status])
        raise Problem(409, answer.render(language), reason=answer.reason, supported_actions=actions)
    return SpokenAnswer(**answer.model_dump(exclude={"text"}), text=answer.render(language))


async def _status(order_id: str) -> str:
    async with transaction() as connection:
        row = await queries.order(connection, order_id)
    if row is None:
        raise Problem(404, "problem.no_order", {"order": order_id})
    return str(row.status)
