"""The channels' and carriers' doors: verify, commit to the inbox, acknowledge. Understanding comes later."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from temporalio.exceptions import ApplicationError

from activities.accounts.accounts import get_account
from activities.accounts.api_keys import find_principal
from activities.carriers import tracker
from activities.channels import WebhookAcknowledger, channel
from activities.intake import inbox
from activities.kit.database import at_once
from activities.kit.errors import Unauthentic
from models.api_keys import Scope
from models.intake import Account, IntegrationType, Raw
from starter import dispatcher
from starter.api.problems import Problem

MAX_BYTES = 1024 * 1024

router = APIRouter(tags=["webhooks"])


async def body(request: Request) -> bytes:
    """The raw body. Raises 413 beyond a mebibyte."""
    return await at_most(MAX_BYTES, request)


async def at_most(limit: int, request: Request) -> bytes:
    """The raw body. Raises 413 beyond ``limit`` bytes, before it is read whole where the sender says its length."""
    if int(request.headers.get("content-length") or 0) > limit:
        raise Problem(413, "problem.too_large.detail", {"most": limit // 1024**2})
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > limit:
            raise Problem(413, "problem.too_large.detail", {"most": limit // 1024**2})
    return bytes(parts)


RAW: dict[str, Any] = {"requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string"}}}}}
"""How a raw body is documented."""

Body = Annotated[bytes, Depends(body)]


async def known(integration: IntegrationType, source: str, name: str) -> Account:
    try:
        return await get_account(integration, source, name)
    except ApplicationError:
        raise Problem(404, "problem.no_account", {"source": source, "account": name}) from None


@router.post(
    "/channels/{source}/{shop}/webhook", status_code=202, summary="A channel tells of an order", openapi_extra=RAW
)
async def webhook(source: str, shop: str, request: Request, raw: Body) -> Response:
    """Signed as the channel signs; a shop counter shows an API key with scope ``pos`` instead."""
    adapter = channel(await known(IntegrationType.CHANNEL, source, shop))
    actor = "" if adapter.signed else await _till(request)
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


async def _till(request: Request) -> str:
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    found = await find_principal(key) if key else None
    if found is None:
        raise Problem(401, "problem.unauthorized.detail", headers={"WWW-Authenticate": "Bearer"})
    if not found.may(Scope.POS):
        raise Problem(403, "problem.forbidden.detail", {"scope": Scope.POS.value})
    return found.name


@router.post("/carriers/{source}/{name}/push/{secret}", summary="A carrier tells of parcels", openapi_extra=RAW)
async def push(source: str, name: str, secret: str, request: Request, raw: Body) -> Response:
    """Known by the secret in its path, and its signature where the carrier signs; answered as the carrier expects."""
    adapter = tracker(await known(IntegrationType.CARRIER, source, name))
    headers = {key: value for key, value in request.headers.items() if key == "content-type"}
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
