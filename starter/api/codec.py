"""The codec server: decrypts payloads for the Temporal UI and command line.

The command line sends its key with ``--codec-auth``. The UI, set to "include cross-origin credentials", sends the
cookie that ``/codec/login`` sets. Protocol: POST of ``{"payloads": [...]}`` in proto JSON, answered likewise.
"""

from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from temporalio.api.common.v1 import Payloads

from activities.accounts.api_keys import Principal
from models.api_keys import Scope
from models.i18n import t
from models.vault import SealBroken, keyring
from starter.api.authentication import KeyCheck
from starter.api.problems import Problem, lang
from starter.api.webhooks import RAW, Body
from workers.codec import SealingCodec

router = APIRouter(prefix="/codec", tags=["codec"])
log = structlog.get_logger()

COOKIE = "hengdan_codec"


_KEY = KeyCheck(Scope.STAFF, cookie=COOKIE)
Keyholder = Annotated[Principal, Depends(_KEY)]


def _payloads(raw: bytes) -> Payloads:
    try:
        return Parse(raw, Payloads())
    except ParseError:
        raise Problem(400, "problem.bad_payloads") from None


def _answer(payloads: list[object]) -> Response:
    return Response(MessageToJson(Payloads(payloads=payloads)), media_type="application/json")  # type: ignore[arg-type]


@router.post("/decode", summary="Decrypt payloads", openapi_extra=RAW)
async def decode(raw: Body, principal: Keyholder) -> Response:
    try:
        opened = await SealingCodec(keyring()).decode(_payloads(raw).payloads)
    except SealBroken:
        raise Problem(400, "problem.seal_broken") from None
    log.info("codec.decode", actor=principal.name, payloads=len(opened))
    return _answer(list(opened))


@router.post("/encode", summary="Encrypt payloads", openapi_extra=RAW)
async def encode(raw: Body, principal: Keyholder) -> Response:
    return _answer(list(await SealingCodec(keyring()).encode(_payloads(raw).payloads)))


@router.get("/login", response_class=HTMLResponse, summary="Form to log in to the codec with a key")
async def login_page(request: Request, done: bool = False) -> str:
    language = lang(request)
    head = f"<!doctype html><html lang={language}><meta charset=utf-8><title>Hengdan 恒单</title>"
    if done:
        return f"{head}<p>{t('codec.done', language)}</p>"
    return (
        f"{head}<form method=post><label>{t('codec.key', language)} "
        f"<input name=key type=password autocomplete=off required></label> "
        f"<button>{t('codec.open', language)}</button></form>"
    )


@router.post("/login", summary="Log in to the codec")
async def login(request: Request, key: Annotated[str, Form()]) -> Response:
    await _KEY.check(key)
    answer = RedirectResponse("/codec/login?done=1", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, key, httponly=True, secure=secure, samesite="strict", max_age=8 * 3600, path="/codec")
    return answer
