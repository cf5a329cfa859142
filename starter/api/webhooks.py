"""Webhooks of channels and carriers: verify, commit to the inbox, acknowledge. Messages are parsed later."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from temporalio.exceptions import ApplicationError

from activities.accounts.accounts import get_account
from activities.carriers import tracker
from activities.channels import WebhookAcknowledger, channel
from activities.intake import inbox
from activities.kit.database import at_once
from activities.kit.errors import Unauthentic
from models.api_keys import Scope
from models.intake import Account, IntegrationType, Raw
from starter import dispatcher
from starter.api.authentication import KeyCheck
from starter.api.problems import Problem

router = APIRouter(tags=["webhooks"])


async def body(request: Request) -> bytes:
    """Return the raw body."""
    return await request.body()


RAW: dict[str, Any] = {"requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string"}}}}}
"""How OpenAPI documents a raw body."""

Body = Annotated[bytes, Depends(body)]

_POS_KEY = KeyCheck(Scope.POS)


async def find_account(integration: IntegrationType, source: str, name: str) -> Account:
    try:
        return await get_account(integration, source, name)
    except ApplicationError:
        raise Problem(404, "problem.no_account", {"source": source, "account": name}) from None


@router.post(
    "/channels/{source}/{shop}/webhook",
    status_code=202,
    summary="Receive a channel's message",
    openapi_extra=RAW,
)
async def webhook(source: str, shop: str, request: Request) -> Response:
    """Signed by the channel's method; a shop counter sends an API key with scope ``pos`` instead."""
    adapter = channel(await find_account(IntegrationType.CHANNEL, source, shop))
    actor = "" if adapter.signed else (await _POS_KEY(request)).name
    raw = await request.body()
    try:
        receipt = adapter.receive(request.headers, raw)
    except Unauthentic:
        raise Problem(401, "problem.bad_signature") from None
    async with at_once() as connection:
        new = await inbox.accept(
            connection, IntegrationType.CHANNEL, source, shop, receipt, Raw.model_construct(body=raw, headers={}), actor
        )
    dispatcher.wake()
    if isinstance(adapter, WebhookAcknowledger):
        return JSONResponse(dict(adapter.acknowledgement))
    return JSONResponse({"status": "accepted" if new else "duplicate"}, 202)


@router.post("/carriers/{source}/{name}/push/{secret}", summary="Receive tracking from a carrier", openapi_extra=RAW)
async def push(source: str, name: str, secret: str, request: Request) -> Response:
    """Authenticated by the secret in the path and the carrier's signature, if any; answers in the carrier's format."""
    adapter = tracker(await find_account(IntegrationType.CARRIER, source, name))
    headers = {key: value for key, value in request.headers.items() if key == "content-type"}
    raw = await request.body()
    try:
        receipt = adapter.receive(request.headers, raw, secret)
    except Unauthentic:
        raise Problem(401, "problem.bad_signature") from None
    async with at_once() as connection:
        await inbox.accept(
            connection, IntegrationType.CARRIER, source, name, receipt, Raw.model_construct(body=raw, headers=headers)
        )
    dispatcher.wake()
    answer = adapter.answer(request.headers, raw)
    return Response(answer.body, answer.status, media_type=answer.content_type)
